"""The plan: which cells a command asks for, which are recorded already, and the jobs the others need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from harness.inputs.image_sets import open_images
from harness.plan.estimate import footprint
from harness.plan.jobs import CellJob, Job, ReferenceJob, Request, Subject, SynthesisJob
from harness.plan.settings import changed_settings, effective_config
from harness.record.cache import Cache
from harness.record.cells import Cell, Identity, cell_key, reference_key, synthesis_key
from harness.record.records import damage, is_recorded
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS
from methods.text import shortened

MOST_CELLS = 100_000


@dataclass(frozen=True)
class Plan:
    """cells: every cell asked for; recorded: the keys of those that need not be run; jobs: the work, in the
    order it should be started: references, then what has the longest way to the end first; damaged: a sentence
    for every record of a cell asked for that does not count, whose cell is therefore measured again; images: the
    syntheses of all cells by their keys, those made before among them."""

    cells: list[CellJob]
    recorded: set[str]
    jobs: list[Job]
    damaged: list[str]
    images: dict[str, SynthesisJob]


def make_plan(requests: list[Request], results: Path) -> Plan:
    """Lay out the work of some requests together.

    Raises UsageError when a method lacks the real images it needs, and for more cells than anybody could wait for.
    """
    asked = sum(len(r.subjects) * len(r.methods) * len(r.seeds) * len(r.backends) * len(r.bits) for r in requests)
    if asked > MOST_CELLS:
        raise UsageError(f"{asked:,} cells are asked for; one command takes {MOST_CELLS:,} at most.")
    synthesized = Cache.of(results, "synthesis")
    references: dict[str, ReferenceJob] = {}
    syntheses: dict[str, SynthesisJob] = {}
    cells: dict[str, CellJob] = {}
    for request, subject, cell, identity in _all_cells(requests):
        synthesis, reference = _prerequisites(request, subject, cell, identity)
        references[reference.key], syntheses[synthesis.key] = reference, synthesis
        job = _cell_job(request, subject, cell, identity, synthesis, synthesis.key in synthesized)
        cells[job.key] = job
    recorded = {key for key in cells if is_recorded(results, key)}
    left = [job for key, job in cells.items() if key not in recorded]
    needed = {job.synthesis for job in left}, {job.reference for job in left}
    first = [job for key, job in references.items() if key in needed[1]]
    rest = _longest_way_first([job for key, job in syntheses.items() if key in needed[0]], left)
    damaged = [problem for job in left if (problem := damage(results, job.key))]
    return Plan(list(cells.values()), recorded, [*first, *rest], damaged, syntheses)


def _longest_way_first(syntheses: list[SynthesisJob], cells: list[CellJob]) -> list[Job]:
    """Order jobs by the work from their start to the end of the run, so that the tail is short: that of a synthesis
    is its own and its largest cell's. Passes of several models are weighed by their operations."""
    entries = {job.subject.entry for job in cells}
    weights = {entry: footprint(entry).flops if len(entries) > 1 else 1.0 for entry in entries}
    ways = {job.key: job.passes * weights[job.subject.entry] for job in cells}
    after: dict[str, float] = {}
    for job in cells:
        after[job.synthesis] = max(after.get(job.synthesis, 0.0), ways[job.key])
    ways |= {job.key: job.passes * weights[job.subject.entry] + after[job.key] for job in syntheses}
    jobs: list[Job] = [*syntheses, *cells]
    return sorted(jobs, key=lambda job: -ways[job.key])


def _all_cells(requests: list[Request]) -> Iterator[tuple[Request, Subject, Cell, Identity]]:
    """Yield every cell of every request."""
    for request in requests:
        for subject, method, seed in product(request.subjects, request.methods, request.seeds):
            for cell, identity in _cells(request, subject, method, seed):
                yield request, subject, cell, identity


def _cells(request: Request, subject: Subject, method: str, seed: int) -> Iterator[tuple[Cell, Identity]]:
    """Yield the cells of one model, method and seed, with what else their results depend on."""
    name, task = subject.entry.name, subject.entry.task
    maker = METHODS.get(method)
    method_config = effective_config(maker, name, request.overrides)
    needy = maker.needs_real_images(method_config)
    if needy and task not in request.calibration:
        raise UsageError(f"The method {method!r} needs real calibration images for {name}: give --calib-data DIR.")
    calibration = open_images(request.calibration[task]).identity() if needy else None
    if calibration and getattr(method_config, "images", 0) > calibration["n"]:
        raise UsageError(
            f"{method}.images={method_config.images}: {calibration['name']} has only {calibration['n']} images."
        )
    for backend, bits in product(request.backends, request.bits):
        quantizer = BACKENDS.get(backend)
        identity = Identity(
            method_version=maker.version,
            backend_version=quantizer.version,
            weights_sha256=subject.weights.sha256,
        )
        changed = changed_settings(maker, name, request.overrides) | changed_settings(
            quantizer, name, request.overrides
        )
        data = open_images(request.data[task]).identity()
        yield Cell(name, method, backend, bits, seed, data, changed, calibration), identity


def _prerequisites(
    request: Request, subject: Subject, cell: Cell, identity: Identity
) -> tuple[SynthesisJob, ReferenceJob]:
    """Return the synthesis and the reference a cell waits for."""
    task, maker = subject.entry.task, METHODS.get(cell.method)
    reference = ReferenceJob(
        key=reference_key(cell.model, identity.weights_sha256, cell.data),
        subject=subject,
        data=request.data[task],
    )
    config = effective_config(maker, cell.model, request.overrides)
    synthesis = SynthesisJob(
        key=synthesis_key(cell, identity),
        subject=subject,
        method=cell.method,
        config=config,
        seed=cell.seed,
        calibration=request.calibration[task] if cell.calibration else None,
        reference=reference.key,
        passes=_checked(cell.method, maker.image_passes(config)),
    )
    return synthesis, reference


def _checked(owner: str, passes: float) -> float:
    """Return what a method or backend says of its passes; a plugin may say anything."""
    if not (isinstance(passes, int | float) and 0 <= passes < math.inf):
        raise UsageError(f"{owner}.image_passes must give a number of 0 or more, not {shortened(repr(passes))}.")
    return passes


def _cell_job(
    request: Request, subject: Subject, cell: Cell, identity: Identity, synthesis: SynthesisJob, cached: bool
) -> CellJob:
    """Return the job of a cell; its passes count an evaluated image as a third (forward only)."""
    quantizer = BACKENDS.get(cell.backend)
    config = effective_config(quantizer, cell.model, request.overrides)
    learned = _checked(cell.backend, quantizer.image_passes(config, getattr(synthesis.config, "images", 0)))
    return CellJob(
        key=cell_key(cell, identity),
        cell=cell,
        identity=identity,
        subject=subject,
        data=request.data[subject.entry.task],
        method_config=synthesis.config,
        backend_config=config,
        synthesis=synthesis.key,
        reference=synthesis.reference,
        cached=cached,
        passes=learned + cell.data["n"] / 3,
    )
