"""Read a command line into a checked request: names, settings, weights and data, before anything is written."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from uuid import uuid4

from harness.cli.options import Inputs, Matrix, Running
from harness.cli.trackers import check_trackers
from harness.execute.resources import Resources, host_and_port, threads_for
from harness.inputs import plugins as catalog
from harness.inputs.image_sets import DEAD_LEAVES, DIGITS, DIGITS_TRAIN, DataSource, checked, folder_of
from harness.inputs.images.label_files import REAL
from harness.inputs.named_models import select_models
from harness.inputs.weights import find_weights, shared_model
from harness.inputs.zoo import ModelEntry
from harness.plan.jobs import Request, RunSettings, Subject
from harness.plan.mixed_bits import check_layers, read_bits
from harness.plan.settings import Overrides, effective_config, read_overrides, with_precision
from harness.record.files import check_writable, user_path
from harness.trial.provenance import command_line, git_commit
from methods.bits import Bits
from methods.contracts import Backend, Method
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS
from methods.text import shortened, words


def read_requests(asked: list[tuple[Matrix, Inputs]]) -> list[Request]:
    """Check the runs of a command; raises UsageError for the first thing that does not work in one of them."""
    requests = [read_request(matrix, inputs) for matrix, inputs in asked]
    names = [name for request in requests for name in (*request.methods, *request.backends)]
    for _, inputs in asked:
        refuse_unused(inputs.set, names)
    shared_model.cache_clear()  # what drives Ray's workers need hold no model
    return requests


def read_request(
    matrix: Matrix, inputs: Inputs, images: dict[str, DataSource] | None = None, real: bool = True
) -> Request:
    """Check everything a run names; raises UsageError for the first thing that does not work.

    images: what to evaluate on, by task, in place of what --data names; real: whether there are real images to
    calibrate on: without, no real image is opened unless `images` names some.
    """
    catalog.load(absolute(inputs.plugin), inputs.timeout)
    bits = [read_bits(word) for word in matrix.bits]  # before models and methods, whose imports take seconds
    seeds = [_seed(word) for word in matrix.seeds]
    entries = select_models(matrix.models, inputs.weights)
    methods = [METHODS.get(name) for name in matrix.methods]
    owners: list[Method | Backend] = [*methods, *(BACKENDS.get(name) for name in matrix.backends)]
    overrides = with_precision(read_overrides(inputs.tables, inputs.set), matrix.methods, inputs.precision)
    for entry, owner in product(entries, owners):
        effective_config(owner, entry.name, overrides)
    for entry, name, widths in product(entries, matrix.backends, bits):
        _check_formats(widths, BACKENDS.get(name), effective_config(BACKENDS.get(name), entry.name, overrides))
    data = _checked(images or _data(inputs, entries), entries, inputs.skip_bad_images)
    calibration = _checked(_calibration(inputs, entries) if real else {}, entries, inputs.skip_bad_images)
    subjects = [_subject(entry, inputs.weights) for entry in entries]
    for subject, widths in product(subjects, [widths for widths in bits if widths.layers]):
        check_layers(widths, subject.entry.name, shared_model(subject.entry, subject.weights))
    able = matrix.methods if matrix.chosen else _able(methods, entries, overrides, calibration)
    for subject in subjects:
        for name in able:
            METHODS.get(name).check_classes(subject.entry.classes)
        _check_owners(subject, [METHODS.get(name) for name in able], overrides)
        _check_owners(subject, [BACKENDS.get(name) for name in matrix.backends], overrides)
    return Request(subjects, able, matrix.backends, bits, seeds, overrides, data, calibration)


def _able(
    methods: list[Method], entries: list[ModelEntry], overrides: Overrides, calibration: dict[str, DataSource]
) -> list[str]:
    """Return the methods, named by no one, that have what they need, with a line on stderr for each of the others."""
    able = []
    for method in methods:
        needy = [
            entry for entry in entries if method.needs_real_images(effective_config(method, entry.name, overrides))
        ]
        lacking = next((entry.name for entry in needy if entry.task not in calibration), None)
        if lacking is None:
            able.append(method.name)
        else:
            print(
                f"Left out: {method.name}, which needs real images for {lacking} (--calib-data DIR).", file=sys.stderr
            )
    return able


def _check_owners(subject: Subject, owners: Sequence[Method | Backend], overrides: Overrides) -> None:
    """Ask methods or backends whether they can work on a model; raises UsageError that names one that cannot."""
    model = shared_model(subject.entry, subject.weights)
    for owner in owners:
        try:
            owner.check(model, effective_config(owner, subject.entry.name, overrides))
        except UsageError as error:
            raise UsageError(f"{owner.name} cannot work on {subject.entry.name}: {error}") from error


def _check_formats(bits: Bits, backend: Backend, config: object) -> None:
    """Raise UsageError for bits or a number format that a backend, as it is set, cannot quantize to."""
    if backend.only_bits and str(bits) not in backend.only_bits:
        raise UsageError(f"{backend.name} quantizes to {', '.join(backend.only_bits)} alone, not to {bits}.")
    if bits.formats and not backend.takes_formats(config):
        raise UsageError(f"{backend.name} quantizes to integers alone as it is set, not to {bits.formats[0]}.")


def _seed(word: str) -> int:
    if not (word.isascii() and word.isdecimal()) or len(word) > 19 or int(word) >= 2**63:  # records hold no larger one
        raise UsageError(f"The seed {shortened(word)!r} is not a whole number from 0 to 2^63 - 1.")
    return int(word)


def refuse_unused(assignments: list[str], names: list[str]) -> None:
    """Refuse settings of methods and backends that take no part: they would do nothing."""
    for assignment in assignments:
        name = assignment.partition(".")[0].strip()
        if name not in names:
            raise UsageError(
                f"--set {assignment} has no effect: {name!r} is not among the methods and backends of this run."
            )


def _data(inputs: Inputs, entries: list[ModelEntry]) -> dict[str, DataSource]:
    """Return where each task's evaluation images come from."""
    where = inputs.data or os.environ.get("DFQ_DATA")
    if where == DIGITS:
        strangers = [entry.name for entry in entries if entry.task != DIGITS]
        if strangers:
            raise UsageError(f"{strangers[0]} knows other classes; --data digits has no labels for it.")
    if inputs.labels and (where in {None, DIGITS} or all(entry.task == DIGITS for entry in entries)):
        raise UsageError(f"--labels {inputs.labels} has no effect: there are no images of --data to label.")
    return {entry.task: _source(where, entry, inputs) for entry in entries}


def _source(where: str | None, entry: ModelEntry, inputs: Inputs) -> DataSource:
    if entry.task == DIGITS:
        return DataSource(DIGITS, inputs.limit)
    if not where:
        return DataSource(DEAD_LEAVES, inputs.limit)
    named = inputs.labels if inputs.labels in {None, REAL} else _absolute(inputs.labels)
    return folder_of(entry, _absolute(where), inputs.limit, named)


def _calibration(inputs: Inputs, entries: list[ModelEntry]) -> dict[str, DataSource]:
    """Return where each task's real calibration images come from."""
    found = {DIGITS: DataSource(DIGITS_TRAIN)}
    if inputs.calib_data:
        others = [entry for entry in entries if entry.task != DIGITS]
        found |= {entry.task: folder_of(entry, _absolute(inputs.calib_data)) for entry in others}
    return found


def _absolute(path: str) -> str:
    return str(user_path(path).absolute())


def absolute(paths: list[str]) -> tuple[str, ...]:
    """Return absolute paths: workers may start elsewhere."""
    return tuple(_absolute(path) for path in paths)


def _checked(sources: dict[str, DataSource], entries: list[ModelEntry], skip_bad: bool) -> dict[str, DataSource]:
    """Check the image sets of the tasks that take part; raises UsageError when one cannot be used."""
    tasks = {entry.task for entry in entries}
    return {task: checked(source, skip_bad) for task, source in sources.items() if task in tasks}


def _subject(entry: ModelEntry, source: str | None) -> Subject:
    """Find the weights and load them once, so that a checkpoint that does not fit is refused at once."""
    weights = find_weights(entry, source)
    shared_model(entry, weights)
    return Subject(entry, weights)


def run_settings(running: Running, plugins: list[str], requests: list[Request]) -> tuple[RunSettings, Resources]:
    """Choose device and threads; raises UsageError when more is asked for than there is."""
    import torch

    check_trackers(words(running.log))
    check_writable(running.results)
    if running.address not in (None, "auto"):
        host_and_port(running.address)
    cuda = torch.cuda.device_count()
    if running.device == "cuda" and not cuda and not running.address:
        raise UsageError("--device cuda: this machine has no CUDA device.")
    device = "cuda" if running.device == "cuda" or (running.device == "auto" and cuda) else "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus, gpus = running.cpus_per_trial, running.gpus_per_trial
    if cpus is not None and not running.address and cpus > cores:
        raise UsageError(f"--cpus-per-trial {cpus}: this machine has {cores} CPUs.")
    if gpus is not None and (not (math.isfinite(gpus) and gpus >= 0) or (not running.address and gpus > cuda)):
        raise UsageError(f"--gpus-per-trial {gpus:g}: this machine has {cuda} GPUs.")
    threads = cpus or max(threads_for(subject.entry, cores) for request in requests for subject in request.subjects)
    settings = RunSettings(
        results=running.results.absolute(),
        device=device,
        threads=threads,
        gate=not running.no_fp32_gate,
        executor=running.executor,
        command=command_line(),
        commit=git_commit(),
        run=uuid4().hex,
        plugins=absolute(plugins),
        timeout=running.timeout,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    most = float(device == "cuda") if gpus is None else gpus
    there = Resources(threads, most, running.address, cpus is not None, gpus is not None, cores)
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**20 if cuda else Resources.gpu_mb
        there = replace(there, cuda=max(1, cuda), gpu_mb=memory)
    return settings, there
