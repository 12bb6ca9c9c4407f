"""Faults of runs without Ray: killed and interrupted commands, full disks, damaged files, clocks, hanging stages."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

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
    log = Path(os.environ[CONTROL]) / "log"
    for number in range(times):
        results = folder / str(number)
        log.write_text("")
        with driver(results, *LOCAL) as first, driver(results, *LOCAL) as second:
            first.join(moments.uniform(0.1, 0.6) * undisturbed()[1])
            assert first.pid is not None
            if first.exitcode is None:
                os.kill(first.pid, signal.SIGSTOP)
            second.join(3 * BEAT_SECONDS)
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


def removed(folder: Path, times: int, moments: random.Random) -> Outcome:
    """The results folder is removed in the middle of a run: the command ends, and a rerun completes."""
    outcome = Outcome("results folder removed in the middle", seconds=0.0)
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
    for number in range(times):
        results, log = folder / str(number), Path(os.environ[CONTROL]) / "log"
        log.write_text("")
        with driver(results, *LOCAL) as first, driver(results, *LOCAL) as second:
            first.join(moments.uniform(0, undisturbed()[1]))
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
    "driver_killed": partial(killed, name="SIGKILL of the driver (local)", command=run),
    "search_killed": partial(killed, name="SIGKILL of a search (local)", command=run_search),
    "interrupted": interrupted,
    "sigterm": partial(signalled, number=signal.SIGTERM),
    "sighup": partial(signalled, number=signal.SIGHUP),
    "sigstop": stopped,
    "interrupted_twice": interrupted_twice,
    "removed": removed,
    "disk_full_images": partial(disk_full, records=False),
    "disk_full_record": partial(disk_full, records=True),
    "truncated_synthesis": partial(truncated, kind="synthesis"),
    "truncated_reference": partial(truncated, kind="reference"),
    "truncated_record": partial(truncated, kind="record"),
    "clock_backwards": clock_backwards,
    "two_commands": two_commands,
    "hanging": hanging,
}
