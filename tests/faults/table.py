"""All faults, as often as the issue asks for: `PYTHONPATH=. python tests/faults/table.py [TIMES] [OUT] [FAULT ...]`.

20 times each by default, a fifth of it where every time is like the first; results/faults.md. Where faults are named
(local_sigterm, ray_hungry; a scenario's name behind where it is), they alone are struck, and take the place of their
rows in the table. Exits with 1 when a fault was not survived.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import local_faults
import ray_faults
from fault_kit import CELLS, CONTROL, Outcome

from harness.record.files import write_atomically
from harness.report.formats.markdown import markdown
from harness.report.text_table import Grid, Word
from harness.trial.provenance import library_versions, processor

NAMES = [*(f"local_{name}" for name in local_faults.SCENARIOS), *(f"ray_{name}" for name in ray_faults.SCENARIOS)]
_ALIKE = ("hanging", "hungry")  # no moment is chosen in them, and each waits for a timeout
_COLUMNS = ["fault", "times", "finished before", "executed again", "missing or different", "longest stop, s"]
_NOTES = [
    f"Each time a matrix of {CELLS} cells is disturbed and completed by a plain rerun. Finished before: cells "
    "recorded when the disturbance was over, all times together; executed again: of those, cells whose record the "
    "rerun wrote anew; missing or different: cells that after the rerun are not there or differ from an undisturbed "
    "run's in more than provenance, seconds, memory and where their images came from.",
    "A row whose fault was not named to the newest run of this command is an earlier run's.",
]


def outcomes(times: int, names: Collection[str]) -> Iterator[Outcome]:
    """Strike with the named faults so many times each."""
    with TemporaryDirectory() as folder:
        control = Path(folder) / "control"
        control.mkdir()
        os.environ[CONTROL] = str(control)
        for name, scenario in local_faults.SCENARIOS.items():
            if f"local_{name}" in names:
                yield scenario(_fresh(folder, f"local_{name}"), _times(name, times), random.Random(name))
        on_ray = {name: strike for name, strike in ray_faults.SCENARIOS.items() if f"ray_{name}" in names}
        if on_ray:
            nodes = ray_faults.Nodes()
            try:
                for name, strike in on_ray.items():
                    yield strike(_fresh(folder, f"ray_{name}"), _times(name, times), random.Random(name), nodes)
            finally:
                nodes.cluster.shutdown()


def _times(name: str, times: int) -> int:
    return max(1, times // 5) if name in _ALIKE else times


def _fresh(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def main(times: int, out: Path, names: Collection[str] = NAMES) -> int:
    """Strike, tell of each as it ends, and write the table."""
    if unknown := set(names) - set(NAMES):
        sys.exit(f"No fault is named {', '.join(sorted(unknown))}; known are {', '.join(NAMES)}.")
    rows, found = (_rows(out) if set(names) < set(NAMES) else {}), []
    for outcome in outcomes(times, names):
        print(outcome, flush=True)
        found.append(outcome)
        rows[outcome.fault] = _row(outcome)
    problems = [f"{outcome.fault}: {problem}" for outcome in found for problem in outcome.problems]
    where = f"{processor()}, {os.cpu_count()} cores, Ray {library_versions().get('ray', 'not installed')}"
    body = [[Word(word) for word in row] for row in rows.values()]
    write_atomically(out, markdown([Grid("Faults", _COLUMNS, body, [*_NOTES, *problems, where])]).encode())
    return 0 if all(outcome.sound for outcome in found) else 1


def _rows(out: Path) -> dict[str, list[str]]:
    """Return the rows of the table that is there, by fault."""
    lines = out.read_text().splitlines() if out.exists() else []
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: row for row in rows[2:]}


def _row(outcome: Outcome) -> list[str]:
    longest = "-" if outcome.seconds is None else f"{outcome.seconds:.1f}"
    counts = (outcome.times, outcome.finished, outcome.again, outcome.wrong)
    return [outcome.fault, *map(str, counts), longest]


if __name__ == "__main__":
    words = [*sys.argv[1:], *["20", "results/faults.md"][len(sys.argv) - 1 :]]
    sys.exit(main(int(words[0]), Path(words[1]), words[2:] or NAMES))
