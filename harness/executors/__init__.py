"""Executors run a plan's jobs: `local` in this process, `ray_tune` over CPUs, GPUs or a cluster.

Both follow the same schedule and call the same trial function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.jobs import Job


@dataclass(frozen=True)
class Resources:
    """What one trial is given, and the Ray cluster to join (None: start Ray here)."""

    cpus: int
    gpus: float
    address: str | None = None


class Listener(Protocol):
    """Who wants to know how the work goes on."""

    def started(self, job: Job) -> None:
        """A job begins."""

    def progressed(self, job: Job, stage: str, done: int, total: int) -> None:
        """A stage of a job has got so far."""

    def finished(self, job: Job, error: str | None) -> None:
        """A job has ended; error says why when it failed."""
