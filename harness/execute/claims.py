"""Claims: commands that share a results folder agree on who computes what, through files alone.

A claim on a job is a file made with O_EXCL under `RESULTS/cache/claims`, so one command alone can make it. Its
holder touches it every second. Whoever finds a claim watches its modification time: one that has not *changed* for
`STALE_SECONDS`, counted by the watcher's own monotonic clock, is stale. No two clocks are compared, so clocks that
differ or jump do no harm. A claim that says which process of this machine it stands and falls with is stale when, and
only when, that process is gone. A stale claim `KEY.0` is taken over by making `KEY.1`, which again one command alone
can.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from methods.errors import UsageError

BEAT_SECONDS = 1.0
STALE_SECONDS = 15.0
_LOOK_SECONDS = 0.5


class Claims:
    """The claims of one command, a context manager that gives them all back at the end.

    folder: where the claims of all commands lie; alone: whether all work ends with this process, so that its death
    frees its claims at once (workers elsewhere may outlive it for a moment).
    """

    def __init__(self, folder: Path, alone: bool) -> None:
        self.folder = folder
        self._owner = _this_process() if alone else ""
        self._held: dict[str, Path] = {}
        self._watched: dict[Path, tuple[int, float]] = {}
        self._look_again: dict[str, float] = {}
        self._closed = threading.Event()

    def __enter__(self) -> Claims:
        self._sweep()
        threading.Thread(target=self._beat, daemon=True, name="claims").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        for key in list(self._held):
            self.release(key)

    def take(self, key: str) -> bool:
        """Claim a job; returns False when another command holds it (the folder is looked at twice a second at most).

        Raises UsageError when the claim cannot be written.
        """
        if time.monotonic() < self._look_again.get(key, 0.0):
            return False
        there = self._latest(key)
        touched = self._stale(there) if there else None
        if there and touched is None:
            self._look_again[key] = time.monotonic() + _LOOK_SECONDS
            return False
        mine = self.folder / f"{key}.{_generation(there) + 1 if there else 0}"
        if not self._make(mine):
            return False
        if there and _touched(there) != touched:  # it was alive or has ended after all
            mine.unlink()
            return False
        self._held[key] = mine
        return True

    def release(self, key: str) -> None:
        """Give a claim back, with the stale ones it took over."""
        mine = self._held.pop(key)
        for path in self.folder.glob(f"{key}.*"):
            if _generation(path) <= _generation(mine):
                path.unlink(missing_ok=True)

    def _make(self, path: Path) -> bool:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stream = path.open("x")
            except FileExistsError:
                return False
            with stream:
                stream.write(self._owner)
        except OSError as error:
            raise UsageError(f"Nothing can be written to {self.folder} any more: {error.strerror}.") from error
        return True

    def _latest(self, key: str) -> Path | None:
        """Return the claim that counts, the one of the highest generation."""
        return max(self.folder.glob(f"{key}.*"), key=_generation, default=None)

    def _stale(self, path: Path) -> int | None:
        """Return a stale claim's modification time, None while it may be alive."""
        try:
            owner, touched = path.read_text(), _touched(path)
        except FileNotFoundError:
            return None
        seen = self._watched.get(path)
        if seen is None or seen[0] != touched:
            seen = self._watched[path] = (touched or 0, time.monotonic())
        ended = _ended(owner)
        stale = time.monotonic() - seen[1] > STALE_SECONDS if ended is None else ended
        return touched if stale else None

    def _sweep(self) -> None:
        """Remove the claims that ended processes of this machine have left on jobs that nobody may want any more."""
        for path in self.folder.glob("*.*"):
            with suppress(FileNotFoundError):  # another command swept it
                if _ended(path.read_text()):
                    path.unlink()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            for path in list(self._held.values()):
                with suppress(OSError):  # just released; or a hiccup, which the next beat makes good
                    os.utime(path)


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def _touched(path: Path) -> int | None:
    """Return the modification time in ns, None when the file is gone; opened first, so that NFS asks its server."""
    try:
        with path.open() as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


@lru_cache
def _machine() -> str | None:
    """Return what names this table of processes: this boot of the system and this process namespace (Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _this_process() -> str:
    """Return a text that names this process among all of all machines, empty where the system does not tell."""
    machine, pid = _machine(), os.getpid()
    return f"{machine} {pid} {_born(pid)}" if machine else ""


def _born(pid: int) -> str | None:
    """Return when a process of this machine started, in clock ticks since boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _ended(owner: str) -> bool | None:
    """Whether a claim's process has ended; None when it is not one of this machine, or not told."""
    words = owner.split()
    if len(words) != 3 or words[0] != _machine():
        return None
    return _born(int(words[1])) != words[2]
