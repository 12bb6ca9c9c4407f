"""What a search is, and its samples found again among records, reduced and ranked.

A search is written down once, as `RESULTS/search/<label>/search.json`: model, method, backend, bits, seeds, the space,
the settings outside it, the images looked at. Its samples are ordinary cells and are not listed anywhere: a record
belongs to every search whose description its cell fits. So a killed search goes on from its records, one with a
changed space takes over what fits, and tables need records and descriptions alone, without torch.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.record.cells import ImageIdentity
from harness.record.files import canonical_json, hash_key, write_atomically
from harness.record.record import Failed, Record
from harness.report.layout import METRICS
from harness.report.measurements import Measurement, measurements
from harness.report.statistics import front
from harness.search.space import Dimension, Settings, Space
from methods.errors import UsageError

FILE = "search.json"


@dataclass(frozen=True)
class Search:
    """A search. metrics: one or two, the first decides what is best; base: {"name.key": value} of settings outside the
    space that differ from the defaults; start: the first point; images: identities (name, n, sha256) of the image sets
    samples are measured on, each a part of the next (one, or ASHA's rungs); data_free: whether neither a label nor a
    real image is seen; tuned_on_test: whether these are images that results are reported on."""

    model: str
    method: str
    backend: str
    bits: str
    seeds: list[int]
    metrics: list[str]
    space: Space
    base: Settings
    start: Settings
    images: list[ImageIdentity]
    weights_sha256: str
    versions: list[int]
    data_free: bool
    tuned_on_test: bool

    def label(self) -> str:
        """Return the name of its folder: what it is about, and the start of a checksum of all of it."""
        words = [self.model, self.bits, self.method, self.backend, *self.metrics, hash_key(asdict(self))[:8]]
        return "_".join(words)

    def signed(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values of its metrics so that more is better."""
        return tuple(v if METRICS[name].higher else -v for name, v in zip(self.metrics, values, strict=True))


def write_search(results: Path, search: Search) -> Path:
    """Write a search down; returns its folder."""
    folder = results / "search" / search.label()
    write_atomically(folder / FILE, (json.dumps(asdict(search), indent=1) + "\n").encode())
    return folder


def read_searches(results: Path) -> dict[Path, Search]:
    """Return the searches written down in a results folder; raises UsageError for a file that holds none."""
    found = {}
    for path in sorted((results / "search").glob(f"*/{FILE}")):
        try:
            fields = json.loads(path.read_text())
            space = {
                name: Dimension(**{**spec, "choices": tuple(spec["choices"])})
                for name, spec in fields["space"].items()
            }
            found[path.parent] = Search(**{**fields, "space": space})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{path} describes no search: {error}.") from error
    return found


@dataclass(frozen=True)
class Sample:
    """One point of a search. values: {metric: mean over the seeds}, with sds where there are several seeds, on the
    largest set of `n` images it was measured on under every seed; none when it failed or is not finished."""

    number: int
    settings: Settings
    n: int = 0
    values: dict[str, float] | None = None
    sds: dict[str, float] | None = None
    error: str | None = None


def find_samples(search: Search, records: Iterable[Record]) -> list[Sample]:
    """Return the samples that records hold, finished or not, in the order they were begun."""
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.provenance.time, record.key)):
        settings = _settings(search, record)
        if settings is not None:
            found.setdefault(canonical_json(settings), []).append(record)
    return [_sample(search, number, json.loads(text), group) for number, (text, group) in enumerate(found.items())]


def _settings(search: Search, record: Record) -> Settings | None:
    """Return the point of the space a record was measured at, None when it does not belong to the search."""
    cell, versions = record.cell, record.versions
    wanted = (search.model, search.method, search.backend, search.bits, search.weights_sha256, *search.versions)
    names = (cell.model, cell.method, cell.backend, cell.bits, record.weights.sha256)
    if (*names, versions.method, versions.backend) != wanted or cell.seed not in search.seeds:
        return None
    if cell.data["sha256"] not in {images["sha256"] for images in search.images}:
        return None
    if {name: value for name, value in cell.overrides.items() if name not in search.space} != search.base:
        return None
    configs = {search.method: record.config.method, search.backend: record.config.backend}
    settings = {name: configs[name.partition(".")[0]][name.partition(".")[2]] for name in search.space}
    return settings if all(value in search.space[name] for name, value in settings.items()) else None


def _sample(search: Search, number: int, settings: Settings, records: list[Record]) -> Sample:
    """Reduce the records of one point."""
    for images in reversed(search.images):
        lines = measurements(r for r in records if r.cell.data["sha256"] == images["sha256"])
        if {line.seed for line in lines} == set(search.seeds):
            return _measured(search, Sample(number, settings, images["n"]), lines)
    errors = [record.error for record in records if isinstance(record, Failed)]
    return Sample(number, settings, error=errors[-1] if errors else None)


def _measured(search: Search, sample: Sample, lines: list[Measurement]) -> Sample:
    """Average the seeds; a metric without a value (a divergence that is infinite) makes the sample a failed one."""
    found = {name: [getattr(line, name) for line in lines] for name in search.metrics}
    missing = [name for name, values in found.items() if None in values]
    if missing:
        return replace(sample, n=0, error=f"there is no finite {missing[0]}")
    means = {name: statistics.fmean(values) for name, values in found.items()}
    sds = {name: statistics.stdev(values) for name, values in found.items() if len(values) > 1}
    return replace(sample, values=means, sds=sds)


def ranked(search: Search, samples: Iterable[Sample]) -> list[Sample]:
    """Return the finished samples, best first: those measured on the most images before those stopped early."""

    def rank(sample: Sample) -> tuple[int, tuple[float, ...]]:
        return sample.n, search.signed(figures(search, sample))

    return sorted((sample for sample in samples if sample.values), key=rank, reverse=True)


def figures(search: Search, sample: Sample) -> list[float]:
    """Return a finished sample's values in the order of the search's metrics."""
    assert sample.values is not None
    return [sample.values[name] for name in search.metrics]


def pareto(search: Search, samples: Sequence[Sample]) -> list[Sample]:
    """Return, of a search of two metrics, the finished samples that no other one beats in one without losing in the
    other, the best in the first metric first; samples level in both are all kept."""
    signed = {sample.number: search.signed(figures(search, sample)) for sample in samples if sample.values}
    best = {(gain, -cost) for cost, gain in front((-cost, gain) for gain, cost in signed.values())}
    chosen = [sample for sample in samples if signed.get(sample.number) in best]
    return sorted(chosen, key=lambda sample: signed[sample.number], reverse=True)
