"""Faults of the disk under a run without Ray: full file systems, damaged files, a results folder that is removed."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fault_kit import LOCAL, Outcome, driver, finish, recorded, run, undisturbed

from harness.record.records import load_records

_DISKS = (16, 32, 64, 96, 128, 200, 320, 560)
"""KiB."""


def removed(folder: Path, times: int, moments: random.Random) -> Outcome:
    """The results folder is removed in the middle of a run: the command ends, and a rerun completes."""
    outcome = Outcome("results folder removed in the middle")
    for number in range(times):
        results = folder / str(number)
        with driver(results, *LOCAL) as process:
            process.join(moments.uniform(0.2, 0.8) * undisturbed()[1])
            shutil.rmtree(results, ignore_errors=True)
            process.join(120)
            if process.exitcode not in (0, 1, 2):
                outcome.problems.append(f"exit code {process.exitcode} without a results folder")
        finish(outcome, results)
    return outcome


def disk_full(folder: Path, times: int, moments: random.Random, records: bool) -> Outcome:
    """No file can grow beyond a size that images, or records, have: writing fails in the middle."""
    outcome = Outcome(f"disk full while writing {'a record' if records else 'images'}")
    for number in range(times):
        results = folder / str(number)
        if records:
            assert run(results, *LOCAL)[0] == 0
            for path in sorted((results / "records").iterdir())[::2]:
                path.unlink()
        size = moments.randrange(1_000, 2_000) if records else moments.randrange(5_000, 24_000)
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
        kept = len(recorded(results))
        with driver(results, *LOCAL, prepare=limit) as process:
            process.join(120)
            if process.exitcode != 1:
                outcome.problems.append(f"exit code {process.exitcode} with a full disk, 1 was expected")
        if len(recorded(results)) != kept:
            outcome.problems.append("something was recorded on a full disk")
        finish(outcome, results)
    return outcome


def small_disk(folder: Path, times: int, moments: random.Random) -> Outcome:
    """A file system of 16 to 560 KiB: exit code 1 or 2, no half record; given more room, a rerun completes."""
    outcome = Outcome("file system full, of 8 sizes")
    for number in range(times):
        size = _DISKS[number % len(_DISKS)]
        with _mounted(folder / str(number), size) as (results, grow):
            with driver(results, *LOCAL) as process:
                process.join(120)
            if process.exitcode not in (1, 2):
                outcome.problems.append(f"exit code {process.exitcode} on {size} KiB")
            outcome.problems += load_records([results]).problems
            outcome.problems += [
                f"{path.name} is empty" for path in results.rglob("*.json") if not path.stat().st_size
            ]
            grow()
            finish(outcome, results)
    return outcome


@contextmanager
def _mounted(place: Path, size: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Yield a folder on a file system of so many KiB, and what makes it large; only root can have one."""
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}k", "none", str(place))
    try:
        yield place / "results", lambda: _mount("-o", "remount,size=64m", str(place))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def truncated(folder: Path, times: int, moments: random.Random, kind: str) -> Outcome:
    """A file of the cache, or a record, is cut at a random place; a third of the records is missing besides."""
    outcome = Outcome(f"truncated {kind}")
    for number in range(times):
        results = folder / str(number)
        assert run(results, *LOCAL)[0] == 0
        place = results / "records" if kind == "record" else results / "cache" / kind
        victim = moments.choice(sorted(path for path in place.iterdir() if path.suffix != ".png"))
        for path in sorted((results / "records").iterdir()):
            if path != victim and moments.random() < 1 / 3:
                path.unlink()
        content = victim.read_bytes()
        victim.write_bytes(content[: moments.randrange(len(content))])
        finish(outcome, results)
    return outcome


SCENARIOS: dict[str, Callable[[Path, int, random.Random], Outcome]] = {
    "removed": removed,
    "disk_full_images": partial(disk_full, records=False),
    "disk_full_record": partial(disk_full, records=True),
    "small_disk": small_disk,
    "truncated_synthesis": partial(truncated, kind="synthesis"),
    "truncated_reference": partial(truncated, kind="reference"),
    "truncated_record": partial(truncated, kind="record"),
}
