"""The snapshot: how a run stands at one moment, for whoever shows it."""

from __future__ import annotations

from msgspec import Struct


class Row(Struct, frozen=True):
    """A job that runs: its name, the stage it is in, steps done and in all (0: not known), seconds left."""

    label: str
    stage: str
    step: int
    steps: int
    left: float


class Snapshot(Struct, frozen=True):
    """How a run stands: jobs in all, ended (those that failed too) and failed; seconds passed and left; the jobs that
    run; what the newest cells gave, newest last."""

    total: int
    ended: int
    failed: int
    passed: float
    left: float
    running: list[Row]
    newest: list[str]
