"""Executors run a plan's jobs: `local` in this process, `ray_tune` over CPUs, GPUs or a cluster.

Both follow the same schedule and call the same trial function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.plan.jobs import Job


@dataclass(frozen=True)
class Resources:
    """What one trial is given at most, and the Ray cluster to join (address; None: start Ray here).

    fixed_cpus, fixed_gpus: whether every trial is given just that (as asked for), or less by its model's size and its
    stage. cores, cuda, gpu_mb: CPU cores and CUDA devices here, and the memory of one in MiB; cuda is 0 when trials
    run on the CPU.
    """

    cpus: int
    gpus: float
    address: str | None = None
    fixed_cpus: bool = True
    fixed_gpus: bool = True
    cores: int = 1
    cuda: int = 0
    gpu_mb: float = 16384.0


class Listener(Protocol):
    """Who wants to know how the work goes on."""

    def started(self, job: Job) -> None:
        """A job begins."""

    def progressed(self, job: Job, stage: str, done: int, total: int) -> None:
        """A stage of a job has got so far."""

    def finished(self, job: Job, error: str | None) -> None:
        """A job has ended; error says why when it failed."""
