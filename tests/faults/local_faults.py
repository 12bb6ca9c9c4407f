"""Faults of runs without Ray: commands killed, stopped or interrupted, clocks, hanging stages; and the disk's."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import disk_faults
from fault_kit import CELLS, CONTROL, LOCAL, Command, Outcome, driver, finish, recorded, run, run_search, undisturbed

from harness.execute.claims import BEAT_SECONDS

STOP_SECONDS = 5.0
TIMEOUT = 5
_DAY = 86_400


def killed(folder: Path, times: int, moments: random.Random, name: str, command: Command) -> Outcome:
    """SIGKILL of a command at random moments of its run."""
    outcome = Outcome(name)
    for number in range(times):
        results = folder / str(number)
        with driver(results, *LOCAL, command=command) as process:
            process.join(moments.uniform(0, undisturbed(command)[1]))
        finish(outcome, results, command=command)
    return outcome


def interrupted(folder: Path, times: int, moments: random.Random) -> Outcome:
    """Ctrl-C: the command ends by itself, with code 130, soon; what it recorded is kept."""
    outcome = Outcome("Ctrl-C (local)", seconds=0.0)
    for number in range(times):
        results = folder / str(number)
        with driver(results, *LOCAL) as process:
            process.join(moments.uniform(0.2, 0.8) * undisturbed()[1])
            stop(process.pid, outcome, process.join, lambda: process.exitcode)
        finish(outcome, results)
    return outcome


def signalled(folder: Path, times: int, moments: random.Random, number: signal.Signals) -> Outcome:
    """A signal that ends the command at once, or a scheduler's before its SIGKILL: soon gone, nothing lost."""
    outcome = Outcome(f"{number.name} (local)", seconds=0.0)
    for strike in range(times):
        results = folder / str(strike)
        with driver(results, *LOCAL) as process:
            process.join(moments.uniform(0.2, 0.8) * undisturbed()[1])
            assert process.pid is not None
            start = time.monotonic()
            if process.exitcode is None:
                os.kill(process.pid, number)
            process.join(60)
            _note_stop(outcome, time.monotonic() - start)
        finish(outcome, results)
    return outcome


def interrupted_twice(folder: Path, times: int, moments: random.Random) -> Outcome:
    """Ctrl-C, and again before the command has ended."""
    outcome = Outcome("double Ctrl-C (local)", seconds=0.0)
    for number in range(times):
        results = folder / str(number)
        with driver(results, *LOCAL) as process:
            process.join(moments.uniform(0.2, 0.8) * undisturbed()[1])
            assert process.pid is not None
            start = time.monotonic()
            for _ in range(2):
                if process.exitcode is None:
                    os.killpg(process.pid, signal.SIGINT)
                process.join(moments.uniform(0, 0.02))
            process.join(60)
            _note_stop(outcome, time.monotonic() - start)
        finish(outcome, results)
    return outcome


def stopped(folder: Path, times: int, moments: random.Random) -> Outcome:
    """SIGSTOP for longer than a heartbeat, while another command works on the same folder: both end well, and no job
    is done twice."""
    outcome = Outcome("SIGSTOP longer than the heartbeat, beside another command")
    seconds = undisturbed()[1]  # before anything is counted
    log = Path(os.environ[CONTROL]) / "log"
    for number in range(times):
        results = folder / str(number)
        log.write_text("")
        with driver(results, *LOCAL) as first, driver(results, *LOCAL) as second:
            first.join(moments.uniform(0.1, 0.6) * seconds)
            assert first.pid is not None
            if first.exitcode is None:
                os.kill(first.pid, signal.SIGSTOP)
            second.join(3 * BEAT_SECONDS)
            if first.exitcode is None:
                os.kill(first.pid, signal.SIGCONT)
            for process in (first, second):
                process.join(120)
            if (first.exitcode, second.exitcode) != (0, 0) or len(recorded(results)) != CELLS:
                outcome.problems.append(f"exit codes {first.exitcode}, {second.exitcode}")
        done = log.read_text().split()
        if len(done) != CELLS + CELLS // 2:
            outcome.problems.append(f"{len(done)} jobs were executed for {CELLS} cells and {CELLS // 2} syntheses")
        log.unlink()
        finish(outcome, results)
    return outcome


def _note_stop(outcome: Outcome, seconds: float) -> None:
    outcome.seconds = max(outcome.seconds or 0.0, seconds)
    if seconds > STOP_SECONDS:
        outcome.problems.append(f"it took {seconds:.1f} s to stop")


def stop(group: int | None, outcome: Outcome, join: Callable[[float], object], code: Callable[[], int | None]) -> None:
    """Send Ctrl-C to a session's processes and note how long the command takes to end."""
    assert group is not None
    start = time.monotonic()
    if code() is None:
        os.killpg(group, signal.SIGINT)
    join(60)
    outcome.seconds = max(outcome.seconds or 0.0, time.monotonic() - start)
    if code() not in (0, 130):
        outcome.problems.append(f"exit code {code()} after Ctrl-C")
    if outcome.seconds > STOP_SECONDS:
        outcome.problems.append(f"it took {outcome.seconds:.1f} s to stop")


def clock_backwards(folder: Path, times: int, moments: random.Random) -> Outcome:
    """After a kill the clock goes back by a day: all files, claims too, are from the future; it runs back further."""
    outcome = Outcome("clock going backwards")
    start = time.time()
    for number in range(times):
        results = folder / str(number)
        with driver(results, *LOCAL) as process:
            process.join(moments.uniform(0.2, 0.8) * undisturbed()[1])
        for path in results.rglob("*"):
            os.utime(path, (start + _DAY, start + _DAY))
        with mock.patch("time.time", lambda: start - 10 * (time.monotonic() - start)):
            finish(outcome, results)
    return outcome


def two_commands(folder: Path, times: int, moments: random.Random) -> Outcome:
    """The same command twice on one folder, one a moment later, one of them killed: the other completes the matrix,
    and does nothing twice but what the killed one was at."""
    outcome = Outcome("two commands on one folder, one killed")
    seconds = undisturbed()[1]  # before anything is counted
    for number in range(times):
        results, log = folder / str(number), Path(os.environ[CONTROL]) / "log"
        log.write_text("")
        with driver(results, *LOCAL) as first, driver(results, *LOCAL) as second:
            first.join(moments.uniform(0, seconds))
            assert first.pid is not None
            if first.exitcode is None:
                os.kill(first.pid, signal.SIGKILL)
            second.join(120)
            if second.exitcode != 0 or len(recorded(results)) != CELLS:
                outcome.problems.append(f"exit code {second.exitcode}, {len(recorded(results))} cells recorded")
        done = log.read_text().split()
        if not CELLS + CELLS // 2 <= len(done) <= CELLS + CELLS // 2 + 1:
            outcome.problems.append(f"{len(done)} jobs were executed for {CELLS} cells and {CELLS // 2} syntheses")
        log.unlink()
        finish(outcome, results)
    return outcome


def hanging(folder: Path, times: int, moments: random.Random) -> Outcome:
    """A quantization that never ends: its cell fails alone, with a sentence."""
    outcome = Outcome("hanging trial, --timeout (local)")
    for number in range(times):
        results, order = folder / str(number), Path(os.environ[CONTROL]) / "hang"
        order.touch()
        check_hang(outcome, results, run(results, *LOCAL, "--timeout", str(TIMEOUT))[0])
        finish(outcome, results)
    return outcome


def check_hang(outcome: Outcome, results: Path, code: int) -> None:
    """Note what is wrong with a run in which one quantization hung."""
    records = [json.loads(path.read_text()) for path in (results / "records").iterdir()]
    errors = [record["error"] for record in records if record["status"] == "failed"]
    sentence = f"The stage 'quantize' was stopped after {TIMEOUT} s (--timeout)."
    if code != 1 or errors != [sentence] or len(records) != CELLS:
        outcome.problems.append(f"code {code}, {len(records)} cells recorded, errors {errors}")


SCENARIOS: dict[str, Callable[[Path, int, random.Random], Outcome]] = {
    **disk_faults.SCENARIOS,
    "driver_killed": partial(killed, name="SIGKILL of the driver (local)", command=run),
    "search_killed": partial(killed, name="SIGKILL of a search (local)", command=run_search),
    "interrupted": interrupted,
    "sigterm": partial(signalled, number=signal.SIGTERM),
    "sighup": partial(signalled, number=signal.SIGHUP),
    "sigstop": stopped,
    "interrupted_twice": interrupted_twice,
    "clock_backwards": clock_backwards,
    "two_commands": two_commands,
    "hanging": hanging,
}
