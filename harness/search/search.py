"""What a search is, and its samples found again among records.

A search is written down once, as `RESULTS/search/<label>/search.json`: model, method, backend, bits, seeds, the space,
the settings outside it, the images looked at. Its samples are ordinary cells and are not listed anywhere: a record
belongs to every search whose description its cell fits. So a killed search goes on from its records, one with a
changed space takes over what fits, and tables need records and descriptions alone, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.record.cells import ImageIdentity
from harness.record.files import hash_key, write_atomically
from harness.report.metrics import METRICS
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
