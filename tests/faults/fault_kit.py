"""What the fault scenarios share: a small matrix, commands in processes that may be killed, and the comparison.

A scenario disturbs a run, lets a plain rerun finish it, and compares the records with those of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol, TypeAlias

from harness import bench
from harness.search import __main__ as search

ROOT = Path(__file__).parents[2]
PLUGIN = Path(__file__).with_name("fault_plugin.py")
CONTROL = "FAULTS_CONTROL"  # as the plugin has it, which is not imported here: that would register its names
CELLS = 12
MATRIX = [
    *["--models", "vit_digits", "--methods", "dots", "--backends", "rounding", "--bits", "w4a4,w8a8"],
    *["--seeds", "0,1,2,3,4,5", "--limit", "20", "--device", "cpu", "--plugin", str(PLUGIN)],
]
LOCAL = ("--executor", "local")
SAMPLES = [
    *["--model", "vit_digits", "--method", "dots", "--backend", "rounding", "--bits", "w4a4", "--seeds", "0"],
    *["--search", "random", "--samples", str(CELLS), "--limit", "20", "--device", "cpu", "--plugin", str(PLUGIN)],
]
Command: TypeAlias = Callable[..., tuple[int, str]]
"""Takes a folder of results and words; returns the exit code and what was printed."""


@dataclass
class Outcome:
    """What a scenario came to. times: disturbed runs; finished: cells recorded when the disturbance was over;
    again: of those, cells the rerun executed again; wrong: cells missing, failed or different after the rerun;
    seconds: what else was asked for, such as the longest stop; problems: sentences."""

    fault: str
    times: int = 0
    finished: int = 0
    again: int = 0
    wrong: int = 0
    seconds: float | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, nothing done twice and nothing changed."""
        return self.times > 0 and self.again == self.wrong == 0 and not self.problems


def run(results: Path, *words: str) -> tuple[int, str]:
    """Run the matrix in this process; returns the exit code and what was printed on both streams."""
    return _told(bench.main, ["--results", str(results), *MATRIX, *words])


def run_search(results: Path, *words: str) -> tuple[int, str]:
    """Run a search of as many samples in this process; returns as `run` does."""
    return _told(search.main, ["--results", str(results), *SAMPLES, *words])


def _told(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(words)
    return code, out.getvalue()


class Driver(Protocol):
    """A command in a process of its own, as multiprocessing has it."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, so many seconds at most."""


@contextlib.contextmanager
def driver(
    results: Path, *words: str, prepare: Callable[[], None] = lambda: None, command: Command = run
) -> Iterator[Driver]:
    """Run the matrix or a search in a process that leads a session, as a terminal's foreground job does.

    The process is forked from this one, so that it need not import everything again; it is gone at the end.
    """

    def main() -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, whose own job it is, ignores it
        prepare()
        os._exit(command(results, *words)[0])

    process = multiprocessing.get_context("fork").Process(target=main)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def recorded(results: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """Return the successful records by key, each with its file's modification time."""
    found = {}
    for path in sorted((results / "records").glob("*.json")):
        with contextlib.suppress(ValueError):  # a record that was truncated on purpose
            record = json.loads(path.read_text())
            if record["status"] == "ok":
                found[path.stem] = (path.stat().st_mtime_ns, record)
    return found


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what may differ between runs: provenance, seal, seconds, memory, and whether the
    synthesis was made in this run."""
    stages = {
        name: {part: value for part, value in stage.items() if part not in ("seconds", "peak_mb", "cached")}
        for name, stage in record["stages"].items()
    }
    return {**{n: v for n, v in record.items() if n not in ("provenance", "sha256")}, "stages": stages}


@lru_cache
def undisturbed(command: Command = run) -> tuple[dict[str, dict[str, Any]], float]:
    """Return the records of an undisturbed run by key, and the seconds it took (the second time, all being warm)."""
    results = Path(mkdtemp(prefix="undisturbed-")) / "results"
    command(results.with_name("warm"), *LOCAL)
    start = time.monotonic()
    code, text = command(results, *LOCAL)
    assert code == 0, text
    records = {key: measured(record) for key, (_, record) in recorded(results).items()}
    assert len(records) == CELLS
    return records, time.monotonic() - start


def finish(outcome: Outcome, results: Path, *words: str, command: Command = run) -> None:
    """Let a plain rerun complete a disturbed matrix, and add what came of it to the outcome."""
    before = recorded(results)
    code, text = command(results, *(words or LOCAL))
    after, expected = recorded(results), undisturbed(command)[0]
    outcome.times += 1
    outcome.finished += len(before)
    outcome.again += sum(after.get(key, (0, {}))[0] != touched for key, (touched, _) in before.items())
    outcome.wrong += sum(key not in after or measured(after[key][1]) != expected[key] for key in expected)
    outcome.wrong += len(set(after) - set(expected))
    if code != 0:
        outcome.problems.append(f"the rerun ended with {code}: {text.splitlines()[-1]}")
