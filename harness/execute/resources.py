"""Demand: the CPUs and the share of a GPU that a job is given, from its model's size and its stage.

Asked-for amounts (`--cpus-per-trial`, `--gpus-per-trial`) are given to every job. The rule for CPU threads is the
same under both executors: sums depend on the number of threads in their last bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.inputs.zoo import ModelEntry
from harness.plan.estimate import gpu_peak_mb, parameters
from harness.plan.jobs import Job, SynthesisJob
from methods.errors import UsageError
from methods.text import shortened

_SMALL = 2_000_000
_MOST_THREADS = 8
_SHARES = (0.25, 0.34, 0.5)
_PORT_DIGITS = 5


@dataclass(frozen=True)
class Demand:
    """CPUs, each a thread, and GPUs, which may be a fraction."""

    cpus: int
    gpus: float


def demand(job: Job, resources: Resources) -> Demand:
    """Return what a job is given."""
    gpus = resources.gpus
    if resources.cuda and not resources.fixed_gpus:
        gpus = _share(job, resources.gpu_mb)
    return Demand(resources.cpus if resources.fixed_cpus else _threads(job, resources, gpus), gpus)


def threads_for(entry: ModelEntry, cores: int) -> int:
    """Return 1 for a small model, so that trials run side by side; else all cores, 8 at most."""
    return 1 if parameters(entry) < _SMALL else min(cores, _MOST_THREADS)


def _threads(job: Job, resources: Resources, gpus: float) -> int:
    """Return 1 for a synthesis without passes; on a GPU no more than the cores that go with the share."""
    if isinstance(job, SynthesisJob) and not job.passes:
        return 1
    part = min(1.0, gpus / resources.cuda) if resources.cuda else 1.0
    return threads_for(job.subject.entry, max(1, int(resources.cores * part)))


def _share(job: Job, gpu_mb: float) -> float:
    """Return the smallest share of a GPU whose memory is estimated to hold the job."""
    peak = gpu_peak_mb(job)
    return next((share for share in _SHARES if peak <= share * gpu_mb), 1.0)


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


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of a cluster's address, HOST:PORT or ray://HOST:PORT; raises UsageError when it is none."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and len(port) <= _PORT_DIGITS):
        raise UsageError(f"{shortened(address)!r} is no address of a Ray (HOST:PORT, ray://HOST:PORT or auto).")
    return host.strip("[]"), int(port)
