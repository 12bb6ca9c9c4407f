"""All faults, as often as the issue asks for, in one table: `PYTHONPATH=. python tests/faults/table.py [TIMES] [OUT]`.

20 times each by default, a fifth of it where every time is like the first; results/faults.md. Exits with 1 when a
fault was not survived.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import local_faults
import ray_faults
from fault_kit import CELLS, CONTROL, Outcome

from harness.record.files import write_atomically
from harness.report.formats.markdown import markdown
from harness.report.text_table import Grid, Word
from harness.trial.provenance import library_versions, processor

_ALIKE = ("hanging", "hungry")  # no moment is chosen in them, and each waits for a timeout
_COLUMNS = ["fault", "times", "finished before", "executed again", "missing or different", "longest stop, s"]
_NOTES = [
    f"Each time a matrix of {CELLS} cells is disturbed and completed by a plain rerun. Finished before: cells "
    "recorded when the disturbance was over, all times together; executed again: of those, cells whose record the "
    "rerun wrote anew; missing or different: cells that after the rerun are not there or differ from an undisturbed "
    "run's in more than provenance, seconds, memory and where their images came from.",
]


def outcomes(times: int) -> Iterator[Outcome]:
    """Strike with every fault so many times."""
    with TemporaryDirectory() as folder:
        control = Path(folder) / "control"
        control.mkdir()
        os.environ[CONTROL] = str(control)
        for name, scenario in local_faults.SCENARIOS.items():
            yield scenario(_fresh(folder, f"local_{name}"), _times(name, times), random.Random(name))
        nodes = ray_faults.Nodes()
        try:
            for name, on_ray in ray_faults.SCENARIOS.items():
                yield on_ray(_fresh(folder, f"ray_{name}"), _times(name, times), random.Random(name), nodes)
        finally:
            nodes.cluster.shutdown()


def _times(name: str, times: int) -> int:
    return max(1, times // 5) if name in _ALIKE else times


def _fresh(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def main(times: int = 20, out: Path = Path("results/faults.md")) -> int:
    """Run everything, tell of each as it ends, and write the table."""
    found = []
    for outcome in outcomes(times):
        print(outcome, flush=True)
        found.append(outcome)
    rows = [[Word(word) for word in _row(outcome)] for outcome in found]
    problems = [f"{outcome.fault}: {problem}" for outcome in found for problem in outcome.problems]
    where = f"{processor()}, {os.cpu_count()} cores, Ray {library_versions().get('ray', 'not installed')}"
    write_atomically(out, markdown([Grid("Faults", _COLUMNS, rows, [*_NOTES, *problems, where])]).encode())
    return 0 if all(outcome.sound for outcome in found) else 1


def _row(outcome: Outcome) -> list[str]:
    longest = "-" if outcome.seconds is None else f"{outcome.seconds:.1f}"
    counts = (outcome.times, outcome.finished, outcome.again, outcome.wrong)
    return [outcome.fault, *map(str, counts), longest]


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(int(words[0]) if words else 20, Path(words[1] if len(words) > 1 else "results/faults.md")))
