"""Seconds and peak memory of a stage."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.record.record import Stage

if TYPE_CHECKING:
    import torch


@dataclass
class Meter:
    """What a stage took: wall-clock seconds, and peak memory in MiB (of the process, or of the GPU)."""

    seconds: float = 0.0
    peak_mb: float = 0.0

    def stage(self) -> Stage:
        """Return the stage's entry in a record."""
        return Stage(round(self.seconds, 3), round(self.peak_mb, 1), cached=False)


@contextmanager
def metered(device: torch.device) -> Iterator[Meter]:
    """Measure what happens inside the `with`."""
    import torch

    meter, start = Meter(), time.perf_counter()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _reset_peak()
    yield meter
    if cuda:
        torch.cuda.synchronize(device)
    meter.seconds = time.perf_counter() - start
    meter.peak_mb = torch.cuda.max_memory_allocated(device) / 2**20 if cuda else _peak_mb()


def _reset_peak() -> None:
    """Ask Linux to start the process' peak anew; elsewhere the peak is that since the process started."""
    control = Path("/proc/self/clear_refs")
    if control.exists():
        control.write_text("5")


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
