"""The processes of a Ray that was started here: watched while the run lasts, and gone when it is, however it ends.

A raylet that dies would leave the driver waiting for ever: a thread looks every second and interrupts it, by a signal
of its own, as commands in the background of a script ignore SIGINT. A driver that is killed leaves its Ray behind: a
guardian, a process of its own session that runs this file, reads from a pipe that only the driver holds, and kills Ray
when the pipe closes.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import chain
from types import FrameType
from typing import NoReturn

import psutil

_LOOK_SECONDS = 1.0
_LIST_SECONDS = 2.0


class RayProcesses:
    """The children that this process has got since `before`, guarded and watched until `close`."""

    def __init__(self, before: set[int]) -> None:
        mine = [child for child in psutil.Process().children() if child.pid not in before]
        self.died = False
        self._closed = threading.Event()
        self._guardian = _guardian([child.pid for child in mine])
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


def _guardian(pids: list[int]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-I", __file__, *map(str, pids)]
    nothing = subprocess.DEVNULL
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, start_new_session=True)


def _guard(pids: list[int]) -> None:
    """Wait for the end of the driver, then kill the processes and all they have started.

    What they have started is noted again and again: a raylet may be gone before its agents can be asked for.
    """
    parents = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    family: set[psutil.Process] = set()
    driver_ended = False
    while not driver_ended:
        family = {*parents, *(child for child in family if _alive(child)), *chain(*map(_below, parents))}
        driver_ended = bool(select.select([sys.stdin], [], [], _LIST_SECONDS)[0])
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
        family = family.union(*map(_below, new))
    return found


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


if __name__ == "__main__":
    _guard([int(word) for word in sys.argv[1:]])
