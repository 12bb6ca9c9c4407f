"""Ray's plumbing: starting or joining it quietly, what its workers inherit, and how an experiment is stopped.

Imported before anything else of Ray: the environment it reads is set here.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Protocol

from harness.execute.resources import Resources
from methods.errors import UsageError

# Read when Ray is imported: no usage report, no output of Tune's own, no logs and no state that nobody reads, Ctrl-C
# left to us; up to four workers start at the same time.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "4",
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402 - after the environment it reads
from ray import tune  # noqa: E402

# Trials run in a thread of the worker; there glibc would return every large block to the system and fault it in
# again at the next step. One arena that keeps what it has saves those faults.
_WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


def connect(resources: Resources, **pretended: int) -> None:
    """Start Ray, with pretended num_cpus and num_gpus if given, or join it; raises UsageError when it cannot be
    reached or has less than one trial needs."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that dies is tried again, or told of by us
    if not ray.is_initialized():
        try:
            ray.init(
                address=resources.address,
                include_dashboard=None if resources.address else False,
                log_to_driver=False,
                runtime_env={"env_vars": _WORKER_ENVIRONMENT},
                logging_level=logging.ERROR,
                **pretended,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"Ray cannot be reached at {resources.address!r}: {error}.") from error
    there = ray.cluster_resources()
    for name, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if wanted > there.get(name, 0):
            ray.shutdown()
            raise UsageError(f"A trial asks for {wanted:g} {name}s, Ray has {there.get(name, 0):g}.")


class Unsaved:
    """Pickles as nothing: Tune saves its experiment's parts, but records and the cache hold what is done."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Fatal(Protocol):
    """Something that learns that the run must stop, and why."""

    fatal: str | None


class StopOnFatal(Unsaved, tune.Stopper):  # type: ignore[misc]
    """Stops all trials once one has found that the run must stop."""

    def __init__(self, watched: Fatal) -> None:
        self.watched = watched

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Stop everything after a fatal report."""
        return self.watched.fatal is not None
