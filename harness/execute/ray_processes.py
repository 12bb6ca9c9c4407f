"""The processes of a Ray that was started here: watched while the run lasts, and gone when it is, however it ends.

A raylet that dies would leave the driver waiting for ever: a thread looks every second and interrupts it, by a signal
of its own, as commands in the background of a script ignore SIGINT. A driver that is killed leaves its Ray behind: a
guardian, a process of its own session that runs this file, reads from a pipe that only the driver holds, and kills Ray
when the pipe closes. It is there before Ray is, as Ray takes its time to start.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import psutil

_LOOK_SECONDS = 1.0
_LIST_SECONDS = 2.0
_START_SECONDS = 0.5  # as long as Ray starts, its processes are new
_LONGEST = 2**16


class RayProcesses:
    """The children that this process gets until `watch`: guarded from the first, watched from then, until `close`."""

    def __init__(self) -> None:
        self.died = False
        self._closed = threading.Event()
        self._before = children()
        self._guardian = _guardian(os.getpid(), self._before)

    def watch(self) -> None:
        """Take the children there are for Ray's, and look after its raylet."""
        others = self._before | {self._guardian.pid}
        mine = [child for child in psutil.Process().children() if child.pid not in others]
        if self._guardian.stdin is not None:
            self._guardian.stdin.write(" ".join(str(child.pid) for child in mine).encode() + b"\n")
            self._guardian.stdin.flush()
        if threading.current_thread() is not threading.main_thread():
            return  # no signal would reach it
        for number in (signal.SIGUSR1, signal.SIGTERM):  # at the latter Ray would print its own stack and abort
            signal.signal(number, _interrupt)
        for raylet in (child for child in mine if child.name() == "raylet"):
            threading.Thread(target=self._watch, args=(raylet,), daemon=True, name="raylet").start()

    def close(self) -> None:
        """Stop watching; whatever is left of Ray is killed by the guardian."""
        self._closed.set()
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()
        self._guardian.wait()

    def _watch(self, raylet: psutil.Process) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            if not _alive(raylet):
                self.died = True
                os.kill(os.getpid(), signal.SIGUSR1)
                return


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def children() -> set[int]:
    """Return the process ids of this process' children."""
    return {child.pid for child in psutil.Process().children()}


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _guardian(driver: int, before: set[int]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-I", __file__, str(driver), *map(str, before)]
    nothing = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True)


def _guard(driver: int, before: set[int]) -> None:
    """Wait for the end of the driver, then kill the processes it has named, or all it has started since it had those
    of `before`, and all that these have started.

    What they have started is noted again and again: a raylet may be gone before its agents can be asked for.
    """
    named: list[psutil.Process] | None = None
    family: set[psutil.Process] = set()
    while True:
        parents = _since(driver, before) if named is None else named
        family = {*parents, *(child for child in family if _alive(child)), *_below(parents)}
        if not select.select([sys.stdin], [], [], _START_SECONDS if named is None else _LIST_SECONDS)[0]:
            continue
        told = os.read(sys.stdin.fileno(), _LONGEST)
        if not told:
            break
        named = [psutil.Process(pid) for pid in map(int, told.split()) if psutil.pid_exists(pid)]
        family = set()
    for process in _still(family):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _still(family: set[psutil.Process]) -> set[psutil.Process]:
    """Stop processes and all they have started, so that none starts another while they are killed; returns them."""
    found: set[psutil.Process] = set()
    while new := family - found:
        for process in new:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        found |= new
        family = family | _below(new)
    return found


def _since(driver: int, before: set[int]) -> list[psutil.Process]:
    """Return the children of the driver but for those of before, and this process."""
    others = before | {os.getpid()}
    try:
        return [child for child in psutil.Process(driver).children() if child.pid not in others]
    except psutil.NoSuchProcess:
        return []


def _below(parents: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Return all that processes have started, and what these have: by one look at the machine's processes, of which
    there may be thousands, not by one for each parent."""
    children: dict[int, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        children[process.info["ppid"]].append(process)
    found: set[psutil.Process] = set()
    left = [parent for parent in parents if parent.is_running()]  # no other process has its number by now
    while left:
        new = set(children[left.pop().pid]) - found
        found |= new
        left += new
    return found


if __name__ == "__main__":
    _guard(int(sys.argv[1]), {int(word) for word in sys.argv[2:]})
