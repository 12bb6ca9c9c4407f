"""Run files: what a run tells of itself while it lasts, for whoever asks from another terminal or machine.

`RESULTS/cache/runs/<run>.json` is written anew every second and removed at the run's end. Whether a run whose file is
there still lives is told by its process on the machine it runs on, and by whether its file changes anywhere else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from harness.execute.claims import has_ended, this_process
from harness.record.files import read_regular, write_atomically

if TYPE_CHECKING:
    from harness.plan.jobs import RunSettings

_BEAT_SECONDS = 1.0
_PATIENCE_SECONDS = 4.0
_MOST_BYTES = 1 << 20


class Row(Struct, frozen=True):
    """A job that runs: its name, the stage it is in, steps done and in all (0: not known), seconds left."""

    label: str
    stage: str
    step: int
    steps: int
    left: float


class Snapshot(Struct, frozen=True):
    """How a run stands: jobs in all, ended (those that failed too) and failed; seconds passed and left; the jobs that
    run; what the newest cells gave, newest last."""

    total: int
    ended: int
    failed: int
    passed: float
    left: float
    running: list[Row]
    newest: list[str]


class RunFile(Struct, frozen=True):
    """A run: the command, when it was started (ISO 8601), how often the file was written, and how it stands; owner
    names its process among all of all machines."""

    command: str
    started: str
    beat: int
    owner: str
    now: Snapshot


@contextmanager
def told_to_others(settings: RunSettings, snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    """Keep a run's file while something runs, and remove those that dead runs of this machine have left.

    Folders that were made for it and hold nothing at the end go with it: a run that is refused leaves nothing.
    """
    folder, over = _folder(settings.results), threading.Event()
    path = folder / f"{settings.run}.json"
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    for other, run in _read(settings.results):
        if has_ended(run.owner):
            other.unlink(missing_ok=True)

    def beat() -> None:
        owner, number = this_process(), 0
        while not over.is_set():
            about = RunFile(settings.command, settings.started, number, owner, snapshot())
            with suppress(OSError):  # a disk that is full for now must not stop the run
                write_atomically(path, msgspec.json.encode(about))
            number += 1
            over.wait(_BEAT_SECONDS)

    thread = threading.Thread(target=beat, daemon=True, name="run file")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)
        with suppress(OSError):  # something lies in it
            for place in made:
                place.rmdir()


def find_runs(results: Path, patience: float = _PATIENCE_SECONDS) -> tuple[list[RunFile], list[RunFile]]:
    """Return the runs of a results folder that live, and those that ended without removing their files.

    patience: seconds to wait for the file of a run on another machine to change.
    """
    found = _read(results)
    ended = {path: has_ended(run.owner) for path, run in found}
    end = time.monotonic() + patience
    while None in ended.values() and time.monotonic() < end:
        time.sleep(_BEAT_SECONDS / 4)
        newer = dict(_read(results))
        for path, run in found:
            if ended[path] is None and (path not in newer or newer[path].beat != run.beat):
                ended[path] = path not in newer
    found = [(path, run) for path, run in found if path.exists()]
    return [run for path, run in found if ended[path] is False], [
        run for path, run in found if ended[path] is not False
    ]


def _folder(results: Path) -> Path:
    return results / "cache" / "runs"


def _read(results: Path) -> list[tuple[Path, RunFile]]:
    """Return the run files that can be read; one may vanish meanwhile, or be another version's."""
    found = []
    for path in sorted(_folder(results).glob("*.json")):
        with suppress(OSError, msgspec.MsgspecError, RecursionError, ValueError):
            found.append((path, msgspec.json.decode(read_regular(path, _MOST_BYTES), type=RunFile)))
    return found
