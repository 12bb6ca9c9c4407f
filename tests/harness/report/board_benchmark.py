"""How long a console table of many records takes: `python tests/harness/report/board_benchmark.py [COUNT ...]`.

Prints, for 1,000 and 20,000 records (or the counts given), the median of three runs of
`python -m harness.leaderboard` in a process of its own: wall-clock and processor seconds, start to table.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from harness_kit import many_records, python

_RUNS = 3


def timed(folder: Path) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one run; raises RuntimeError when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = python("-m", "harness.leaderboard", str(folder))
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.code != 0:
        raise RuntimeError(done.err)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(words: list[str]) -> None:
    """Print a line per count of records."""
    for count in [int(word) for word in words] or [1000, 20_000]:
        with tempfile.TemporaryDirectory() as place:
            many_records(Path(place) / "results", count)
            runs = [timed(Path(place) / "results") for _ in range(_RUNS)]
        wall, processor = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{count:6d} records: {wall:.2f} s wall, {processor:.2f} s processor (median of {_RUNS})")


if __name__ == "__main__":
    main(sys.argv[1:])
