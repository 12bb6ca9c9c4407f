"""Thousands of damaged files: `PYTHONPATH=. python tests/faults/damage.py [FILES]`.

Records, caches, claims and weights files are truncated, flipped in a bit, swapped with another of their kind, or
spliced of two. None may be counted as what it was, none may end a command otherwise than in a sentence, and a plain
rerun makes all of them good. Exits with 1 when one does not hold.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from fault_kit import CELLS, CONTROL, LOCAL, measured, recorded, run, undisturbed

from harness.execute.claims import STALE_SECONDS, Claims, this_process
from harness.inputs.checkpoints import load_strictly
from harness.inputs.named_models import select_models
from harness.inputs.zoo import build_model
from harness.record.cache import Cache
from harness.record.files import hash_file
from harness.record.records import load_records
from methods.errors import UsageError

FILES_A_RUN = CELLS + CELLS // 2 + 1  # records, syntheses, the FP32 reference


@dataclass
class Damage:
    """files: how many were damaged; counted: of those, taken for sound; broken: not made good by a rerun; problems:
    sentences."""

    kind: str
    files: int = 0
    counted: int = 0
    broken: int = 0
    problems: list[str] = field(default_factory=list)


def damaged(content: bytes, other: bytes, moments: random.Random) -> bytes:
    """Return a content truncated, with one bit flipped, replaced by another, or spliced of both; never as it was."""
    cut = moments.randrange(len(content))
    flipped = bytes([content[cut] ^ 1 << moments.randrange(8)])
    ways = [
        content[:cut],
        content[:cut] + flipped + content[cut + 1 :],
        other,
        content[:cut] + other[moments.randrange(len(other)) :],
    ]
    return moments.choice([way for way in ways if way != content])


def _damage(paths: list[Path], moments: random.Random) -> None:
    """Damage all of some files, each with the help of another."""
    contents = {path: path.read_bytes() for path in paths}
    for path, content in contents.items():
        path.write_bytes(damaged(content, contents[moments.choice(paths)], moments))


def records_and_caches(folder: Path, files: int, moments: random.Random) -> Damage:
    """Damage every record and cache file of a finished run; none counts, and a rerun makes the same again."""
    outcome, results = Damage("records and caches"), folder / "results"
    run(results, *LOCAL)
    while outcome.files < files:
        caches = sorted((results / "cache").glob("*/*.safetensors"))
        _damage(sorted((results / "records").iterdir()), moments)
        _damage(caches, moments)
        outcome.files += FILES_A_RUN
        outcome.counted += len(load_records([results]).sound)
        with TemporaryDirectory() as place:
            shutil.copytree(results / "cache", Path(place) / "cache")
            outcome.counted += sum(
                Cache.of(Path(place), path.parent.name).load(path.stem) is not None for path in caches
            )
        code, text = run(results, *LOCAL)
        after = {key: measured(record) for key, (_, record) in recorded(results).items()}
        outcome.broken += sum(after.get(key) != record for key, record in undisturbed()[0].items())
        if code != 0:
            outcome.problems.append(f"the rerun ended with {code}: {text.splitlines()[-1]}")
    return outcome


def claims(folder: Path, files: int, moments: random.Random) -> Damage:
    """Damage claims of ended processes, of here and elsewhere; each is taken over, once it is stale at the latest."""
    outcome, now = Damage("claims", files), 0.0
    owners = [f"{this_process().rpartition(' ')[0]} 1".encode(), b"another-boot/1 17 4711"]
    with mock.patch("harness.execute.claims.time.monotonic", lambda: now), Claims(folder, alone=True) as mine:
        keys = [f"{number:064x}" for number in range(files)]
        for key in keys:
            owner, other = moments.sample(owners, 2)
            (folder / f"{key}.0").write_bytes(damaged(owner, other, moments))
        waited_for = [key for key in keys if not mine.take(key)]
        now += STALE_SECONDS + 1
        outcome.broken = sum(not mine.take(key) for key in waited_for)
    return outcome


def weights(folder: Path, files: int, moments: random.Random) -> Damage:
    """Damage a checkpoint; it is refused in a sentence, or counts as other weights, whose cells have keys of their
    own."""
    outcome = Damage("weights files", files)
    [entry] = select_models(["vit_digits"])
    sound = Path("harness/inputs/embedded/vit_digits.safetensors")
    content = sound.read_bytes()
    other = sound.with_name("swin_digits.safetensors").read_bytes()
    path, model, known = folder / "vit_digits.safetensors", build_model(entry), hash_file(sound)
    for _ in range(files):
        path.write_bytes(damaged(content, other, moments))
        try:
            load_strictly(model, entry.name, path)
        except UsageError:
            continue
        outcome.counted += hash_file(path) == known
    path.write_bytes(content)
    load_strictly(model, entry.name, path)
    return outcome


SCENARIOS: dict[str, Callable[[Path, int, random.Random], Damage]] = {
    "records_and_caches": records_and_caches,
    "claims": claims,
    "weights": weights,
}


def outcomes(files: int) -> Iterator[Damage]:
    """Damage so many files: half of them records and caches, a quarter claims, a quarter weights."""
    with TemporaryDirectory() as place:
        os.environ[CONTROL] = place
        for (name, scenario), share in zip(SCENARIOS.items(), (2, 4, 4), strict=True):
            (Path(place) / name).mkdir()
            yield scenario(Path(place) / name, files // share, random.Random(name))


if __name__ == "__main__":
    found = []
    for outcome in outcomes(int(sys.argv[1]) if len(sys.argv) > 1 else 5000):
        print(outcome, flush=True)
        found.append(outcome)
    sys.exit(any(outcome.counted or outcome.broken or outcome.problems for outcome in found))
