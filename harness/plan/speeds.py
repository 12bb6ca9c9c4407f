"""Speeds: what stages took on this machine, read from records, so that estimates of minutes come from experience."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from statistics import median

from harness.inputs.zoo import ENTRIES, ModelEntry
from harness.plan.estimate import footprint, parameters, seconds_of, stages
from harness.plan.jobs import Job
from harness.record.record import Finished, Provenance, Record
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS


@dataclass(frozen=True)
class Took:
    """Seconds that one stage of one record took, and the forward+backward passes of one image in it."""

    seconds: float
    passes: float


class Speeds:
    """What stages took, by (model, stage)."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._took: dict[tuple[str, str], set[Took]] = defaultdict(set)
        for record in records:
            if isinstance(record, Finished):
                for stage, took in _stages(record):
                    self._took[record.cell.model, stage].add(took)

    def of(self, job: Job, cores: int, gpu: bool) -> tuple[dict[str, float], bool]:
        """Return the seconds of each stage of a job, and whether all are of recorded speeds.

        The others are a rough estimate (`seconds_of`).
        """
        entry, found, measured = job.subject.entry, {}, True
        for stage, passes in stages(job).items():
            seconds = self.recorded(entry, stage if stage != "fp32" else "evaluate", passes)
            measured = measured and seconds is not None
            found[stage] = seconds_of(passes, entry, cores, gpu) if seconds is None else seconds
        return found, measured

    def recorded(self, entry: ModelEntry, stage: str, passes: float) -> float | None:
        """Return what a stage of so many passes takes: of the recorded ones that are nearest in passes, the median,
        in proportion; where the model has none, of the model nearest in size that has, by operations of a pass too.

        None when nothing like it is recorded.
        """
        found = self._took.get((entry.name, stage))
        if found:
            return _in_proportion(found, passes)
        others = [ENTRIES[model] for model, name in self._took if name == stage and model in ENTRIES]
        if not others:
            return None
        like = min(others, key=lambda other: abs(log(parameters(other) / parameters(entry))))
        ratio = footprint(entry).flops / footprint(like).flops
        return ratio * _in_proportion(self._took[like.name, stage], passes)


def speeds_here(records: Iterable[Record], processor: str, threads: int, device: str) -> Speeds:
    """Return what records hold of one machine, told by its processor's name and number of cores, and so many threads
    of a trial."""
    wanted = (processor, os.cpu_count(), threads, device)
    return Speeds(record for record in records if _where(record.provenance) == wanted)


def _where(made: Provenance) -> tuple[str, int | None, int, str]:
    return made.processor, made.cores, made.threads, made.device


def _stages(record: Finished) -> list[tuple[str, Took]]:
    """Return what the stages of a record took that were not cached; none where its settings are no longer known."""
    cell, stages = record.cell, record.stages
    try:
        method, backend = METHODS.get(cell.method), BACKENDS.get(cell.backend)
        made = method.image_passes(method.config_class(**record.config.method))
        images = record.config.method.get("images", 0)
        learned = backend.image_passes(backend.config_class(**record.config.backend), images)
    except (UsageError, TypeError):
        return []
    found = [
        (f"quantize {cell.backend}", Took(stages.quantize.seconds, learned)),
        ("evaluate", Took(stages.evaluate.seconds, cell.data["n"] / 3)),
    ]
    if not stages.synthesize.cached:
        found.append((f"synthesize {cell.method}", Took(stages.synthesize.seconds, made)))
    return found


def _in_proportion(found: set[Took], passes: float) -> float:
    """Return the seconds of so many passes by those that are nearest in passes."""

    def far(took: Took) -> float:
        return abs(log((took.passes + 1) / (passes + 1)))

    nearest = min(map(far, found))
    return median(
        took.seconds * (passes / took.passes if took.passes else 1.0) for took in found if far(took) == nearest
    )
