"""Ray's plumbing: starting or joining it quietly, what its workers inherit, and how an experiment is stopped.

Imported before anything else of Ray: the environment it reads is set here.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from harness.execute.ray_processes import RayProcesses
from harness.execute.resources import Resources, host_and_port
from harness.inputs.plugins import plugin_modules
from harness.plan.jobs import RunSettings
from methods.errors import UsageError
from methods.text import shortened

# Read when Ray is imported: no usage report, no output of Tune's own, no logs and no state that nobody reads, Ctrl-C
# left to us; up to four workers start at the same time. Workers run at the niceness of the command itself, not at
# Ray's 15, at which they come to nothing on a machine that others share; `RAY_worker_niceness=15` chooses otherwise.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",
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
from ray._private import ray_constants, services  # noqa: E402
from ray.tune.progress_reporter import TrialProgressCallback  # noqa: E402

Trainable: TypeAlias = Callable[[dict[str, Any]], None]

_ANSWER_SECONDS = 5.0
# What a gRPC client says first: HTTP/2's preface and an empty SETTINGS frame. The server's first frame is of type 4.
_PREFACE, _SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), b"\x04"
# Trials run in a thread of the worker; there glibc would return every large block to the system and fault it in
# again at the next step. One arena that keeps what it has saves those faults.
_WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}


@contextmanager
def session(resources: Resources, **pretended: int) -> Iterator[None]:
    """Start Ray, with pretended num_cpus and num_gpus if given, or join it, and end or leave it afterwards. Inside
    another session it does nothing.

    Raises UsageError when it cannot be started or reached, has less than one trial needs, or dies meanwhile.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that dies is tried again, or told of by us
    if ray.is_initialized():
        yield
        return
    processes = RayProcesses()
    try:
        _begin(resources.address, pretended)
        processes.watch()
        _require_room(resources)
        with _unless_ended(processes):
            yield
    finally:
        ray.shutdown()
        processes.close()


@contextmanager
def _unless_ended(processes: RayProcesses) -> Iterator[None]:
    """Raise UsageError when the raylet died inside, whether Ray passed its interruption on or not."""
    ended = (
        "Ray's raylet on this machine has ended (killed, or memory ran out). What is finished is recorded; the same "
        "command goes on from there."
    )
    try:
        yield
    except KeyboardInterrupt:
        if not processes.died:
            raise
        raise UsageError(ended) from None
    if processes.died:
        raise UsageError(ended)


def _begin(address: str | None, pretended: dict[str, int]) -> None:
    """Join the Ray at an address; without one, start a Ray of our own that only this machine can reach."""
    if address is not None:
        address = answering(address)
        ray_constants.NUM_REDIS_GET_RETRIES = 1  # each takes 41 s; the environment was read when Ray was imported
    else:  # as Ray itself does on Windows and macOS: its processes then listen on the loopback alone
        os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
        ray_constants.ENABLE_RAY_CLUSTER = False
    here = {"address": "local", "include_dashboard": False, **pretended}
    try:
        ray.init(
            **(here if address is None else {"address": address}),
            log_to_driver=False,
            runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            logging_level=logging.ERROR,
        )
    except (Exception, SystemExit) as error:  # Ray raises whatever its parts do: sockets, folders, processes
        ray.shutdown()
        what = "Ray cannot be started here" if address is None else f"Ray cannot be reached at {address!r}"
        raise UsageError(f"{what}: {shortened(str(error) or type(error).__name__, 300)}.") from error


def answering(address: str) -> str:
    """Return an address, that of `auto` as Ray finds it, once a gRPC server has answered there.

    Raises UsageError when it is none, or when nothing answers within 5 s: Ray's own attempts take minutes.
    """
    try:
        found: str = services.get_ray_address_from_environment(address, None) if address == "auto" else address
        host, port = host_and_port(found)
        with socket.create_connection((host, port), timeout=_ANSWER_SECONDS) as connection:
            _require_grpc(connection)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UsageError(f"Ray cannot be reached at {shortened(address)!r}: {error}.") from error
    return found


def _require_grpc(connection: socket.socket) -> None:
    """Raise OSError unless the other end greets as a gRPC server does, or, under TLS, says or does anything."""
    connection.sendall(_PREFACE)
    with connection.makefile("rb") as answer:
        greeting = answer.read(4)
    secured = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
    if greeting[3:] != _SETTINGS and not secured:
        raise OSError("what answers there is no Ray")


def _require_room(resources: Resources) -> None:
    there = ray.cluster_resources()
    for name, wanted in (("CPU", resources.cpus), ("GPU", resources.gpus)):
        if wanted > there.get(name, 0):
            raise UsageError(f"A trial asks for {wanted:g} {name}s, Ray has {there.get(name, 0):g}.")


@contextmanager
def storage(results: Path, name: str) -> Iterator[Path]:
    """Give an experiment a folder RESULTS/ray/`name`, which goes when it has ended: records hold what is done."""
    folder = results.resolve() / "ray" / name
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another command's folder is still in it
            folder.parent.rmdir()


def fit(
    trainable: Trainable,
    tuned: tune.TuneConfig,
    folder: Path,
    plugins: tuple[str, ...],
    watch: TrialProgressCallback,
    fatal: Fatal,
    points: dict[str, Any] | None = None,
    tries: int = 1,
) -> None:
    """Run a Tune experiment inside a session and a folder of `storage`.

    watch: hears of trials; fatal: what stops them all; tries: how often a trial is started whose worker dies.
    """
    for module in plugin_modules(plugins):
        ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import it by its name
    run = tune.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent),
        failure_config=tune.FailureConfig(max_failures=tries - 1),
        callbacks=[watch],
        stop=_StopOnFatal(fatal),
        verbose=0,
    )
    tune.Tuner(trainable, param_space=points, tune_config=tuned, run_config=run).fit()


def assigned_device(settings: RunSettings) -> str:
    """Return the device of a trial, asked inside it: that of the run where it was given a GPU, else the processor."""
    import torch

    return settings.device if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"


class Unsaved:
    """Pickles as nothing: Tune saves its experiment's parts, but records and the cache hold what is done."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, as a searcher."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, as a searcher."""


class Fatal(Protocol):
    """Something that learns that the run must stop, and why."""

    fatal: str | None


class _StopOnFatal(Unsaved, tune.Stopper):  # type: ignore[misc]
    """Stops all trials once one has found that the run must stop."""

    def __init__(self, watched: Fatal) -> None:
        self.watched = watched

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Stop everything after a fatal report."""
        return self.watched.fatal is not None
