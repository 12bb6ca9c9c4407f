"""Claims: commands that share a results folder agree on who computes what, through files alone.

A claim on a job is a file made with O_EXCL under `RESULTS/cache/claims`, so one command alone can make it. Its
holder touches it every second. Whoever finds a claim watches its modification time: one that has not *changed* for
`STALE_SECONDS`, counted by the watcher's own monotonic clock, is stale. No two clocks are compared, so clocks that
differ or jump do no harm. A claim that says which process of this machine it stands and falls with is stale when, and
only when, that process is gone. A stale claim `KEY.0` is taken over by making `KEY.1`, which again one command alone
can. What else lies there by such a name, damaged, or no file at all, is a claim of nobody known: stale once it has not
changed for as long.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from harness.record.files import without_waiting
from methods.errors import UsageError

BEAT_SECONDS = 1.0
STALE_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_NAME = re.compile(r"(.+)\.([0-9]{1,9})")
_LONGEST = 200


class Claims:
    """The claims of one command, a context manager that gives them all back at the end.

    folder: where the claims of all commands lie; alone: whether all work ends with this process, so that its death
    frees its claims at once (workers elsewhere may outlive it for a moment).
    """

    def __init__(self, folder: Path, alone: bool) -> None:
        self.folder = folder
        self._owner = this_process() if alone else ""
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
        there = max(self._claims(key), key=_generation, default=None)
        touched = self._stale(there) if there else None
        if there and touched is None:
            self._look_again[key] = time.monotonic() + _LOOK_SECONDS
            return False
        mine = self.folder / f"{key}.{_generation(there) + 1 if there else 0}"
        if not self._make(mine):
            return False
        if there and _seen(there)[1] != touched:  # it was alive or has ended after all
            mine.unlink()
            return False
        self._held[key] = mine
        return True

    def release(self, key: str) -> None:
        """Give a claim back, with the stale ones it took over."""
        mine = self._held.pop(key)
        for path in self._claims(key):
            if _generation(path) <= _generation(mine):
                with suppress(OSError):  # gone already; or a folder, which nobody's claim is
                    path.unlink()

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

    def _claims(self, key: str = "*") -> list[Path]:
        """Return the claims on a job, or all there are."""
        return [path for path in self.folder.glob(f"{key}.*") if _NAME.fullmatch(path.name)]

    def _stale(self, path: Path) -> int | None:
        """Return a stale claim's modification time, None while it may be alive."""
        owner, touched = _seen(path)
        if touched is None:
            return None
        known = self._watched.get(path)
        if known is None or known[0] != touched:
            known = self._watched[path] = (touched, time.monotonic())
        ended = has_ended(owner)
        stale = time.monotonic() - known[1] > STALE_SECONDS if ended is None else ended
        return touched if stale else None

    def _sweep(self) -> None:
        """Remove the claims that ended processes of this machine have left on jobs that nobody may want any more."""
        for path in self._claims():
            if has_ended(_seen(path)[0]):
                path.unlink(missing_ok=True)  # another command may have swept it

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            for path in list(self._held.values()):
                with suppress(OSError):  # just released; or a hiccup, which the next beat makes good
                    os.utime(path)


def _generation(path: Path) -> int:
    return int(path.suffix[1:])


def _seen(path: Path) -> tuple[str, int | None]:
    """Return whose a claim is and its modification time in ns, None when it is gone; opened first, so that NFS asks
    its server. What is no regular file, or cannot be read, is nobody's."""
    # Of a folder, a link that leads nowhere, another user's file or one that is gone, the name alone tells.
    with suppress(OSError), open(path, "rb", opener=without_waiting) as stream:
        status = os.fstat(stream.fileno())
        owner = stream.read(_LONGEST) if stat.S_ISREG(status.st_mode) else b""
        return owner.decode("ascii", "replace"), status.st_mtime_ns
    try:
        return "", path.lstat().st_mtime_ns
    except FileNotFoundError:
        return "", None


@lru_cache
def _machine() -> str | None:
    """Return what names this table of processes: this boot of the system and this process namespace (Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def this_process() -> str:
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


def has_ended(owner: str) -> bool | None:
    """Whether a claim's process has ended; None when it is not one of this machine, or not told."""
    words = owner.split()
    if len(words) != 3 or words[0] != _machine() or not re.fullmatch(r"[0-9]{1,9}", words[1]):
        return None
    return _born(int(words[1])) != words[2]
