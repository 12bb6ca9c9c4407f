"""Faults of runs on Ray: commands, workers and nodes killed, Ctrl-C, hanging trials; one cluster serves them all.

The cluster is `ray.cluster_utils.Cluster`: a head without CPUs and three nodes with a CPU and a fake GPU each, all on
this machine. A trial asks for a CPU and half a GPU.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from fault_kit import CELLS, CONTROL, MATRIX, ROOT, Outcome, finish, recorded
from local_faults import TIMEOUT, check_hang, stop

_NODES = 3
_WAIT_SECONDS = 300.0


class Nodes:
    """The cluster, which makes up for the nodes it loses."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes: list[Any] = []
        self.address: str = self.cluster.address
        self.complete()

    def complete(self) -> None:
        """Add nodes until there are three."""
        while len(self.nodes) < _NODES:
            self.nodes.append(self.cluster.add_node(num_cpus=1, num_gpus=1))
        self.cluster.wait_for_nodes()

    def kill(self, node: Any) -> None:
        """Kill a node's processes."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that run trials."""
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in self.nodes]
        below = [child for raylet in raylets for child in raylet.children(recursive=True)]
        return [child for child in below if "ImplicitFunc" in _title(child)]

    @contextmanager
    def driver(self, results: Path, *words: str) -> Iterator[_Started]:
        """Run the matrix on this cluster in a fresh process: Ray's client does not survive a fork."""
        command = [sys.executable, "-m", "harness.bench", "--results", str(results), *MATRIX, *words]
        command += ["--address", self.address, "--gpus-per-trial", "0.5"]
        with results.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, preexec_fn=_heed_interrupts
            )
            try:
                yield _Started(process)
            finally:
                process.kill()
                process.wait()


@dataclass
class _Started:
    """A process started anew, with the interface of a forked one."""

    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    def exitcode(self) -> int | None:
        return self.process.poll()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)


def _heed_interrupts() -> None:
    """Undo what a shell does to what it starts in the background, whose children would ignore Ctrl-C too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _wait(condition: Callable[[], bool], process: _Started) -> None:
    """Wait until a condition holds or the command has ended."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition() and process.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.02)


def _count(results: Path, least: int) -> Callable[[], bool]:
    """Return whether so many records are there; a moment that does not depend on how fast Ray starts."""
    return lambda: len(list((results / "records").glob("*.json"))) >= least


def driver_killed(folder: Path, times: int, moments: random.Random, nodes: Nodes) -> Outcome:
    """SIGKILL of the command after a random number of records; the rerun waits until its claims are stale."""
    outcome = Outcome("SIGKILL of the driver (Ray)")
    for number in range(times):
        results = folder / str(number)
        with nodes.driver(results) as process:
            _wait(_count(results, moments.randrange(CELLS)), process)
            process.join(moments.uniform(0, 0.3))
        finish(outcome, results)
    return outcome


def worker_killed(folder: Path, times: int, moments: random.Random, nodes: Nodes) -> Outcome:
    """SIGKILL of workers, three in each run, after random numbers of records: their jobs are given to others."""
    outcome = Outcome("SIGKILL of a worker")
    left = times
    while left:
        results = folder / str(left)
        with nodes.driver(results) as process:
            for least in sorted(moments.sample(range(CELLS - 2), k=min(left, 3))):
                _wait(_count(results, least), process)
                _wait(lambda: len(nodes.workers()) > 0, process)
                process.join(moments.uniform(0, 0.3))
                for victim in moments.sample(nodes.workers(), k=min(1, len(nodes.workers()))):
                    victim.kill()
                    left -= 1
                if process.exitcode is not None:
                    break
            process.join(_WAIT_SECONDS)
            if process.exitcode not in (0, 1):  # 1: a job was hit twice
                outcome.problems.append(f"exit code {process.exitcode} with workers killed")
        finish(outcome, results)
    outcome.times = times
    return outcome


def node_killed(folder: Path, times: int, moments: random.Random, nodes: Nodes) -> Outcome:
    """SIGKILL of a node in the middle of the matrix: the run itself completes the table on the nodes left."""
    outcome = Outcome("SIGKILL of a node")
    for number in range(times):
        results = folder / str(number)
        with nodes.driver(results) as process:
            _wait(_count(results, moments.randrange(1, CELLS - 2)), process)
            early = recorded(results)
            nodes.kill(moments.choice(nodes.nodes))
            process.join(_WAIT_SECONDS)
            if process.exitcode != 0 or len(recorded(results)) != CELLS:
                outcome.problems.append(f"exit code {process.exitcode}, {len(recorded(results))} cells recorded")
        late = recorded(results)
        outcome.again += sum(late[key][0] != touched for key, (touched, _) in early.items())
        nodes.complete()
        finish(outcome, results)
    return outcome


def interrupted(folder: Path, times: int, moments: random.Random, nodes: Nodes) -> Outcome:
    """Ctrl-C: the command ends soon with code 130, and no worker of its is left."""
    outcome = Outcome("Ctrl-C (Ray)", seconds=0.0)
    for number in range(times):
        results = folder / str(number)
        with nodes.driver(results) as process:
            _wait(_count(results, moments.randrange(1, CELLS - 2)), process)
            stop(process.pid, outcome, process.join, lambda: process.exitcode)
            deadline = time.monotonic() + 5
            while nodes.workers() and time.monotonic() < deadline:
                time.sleep(0.05)
            if nodes.workers():
                outcome.problems.append("workers are left after Ctrl-C")
        finish(outcome, results)
    return outcome


def hanging(folder: Path, times: int, moments: random.Random, nodes: Nodes) -> Outcome:
    """A quantization that never ends: its worker is killed, its cell fails alone, with a sentence."""
    outcome = Outcome("hanging trial, --timeout (Ray)")
    for number in range(times):
        results = folder / str(number)
        (Path(os.environ[CONTROL]) / "hang").touch()
        with nodes.driver(results, "--timeout", str(TIMEOUT)) as process:
            process.join(_WAIT_SECONDS)
            check_hang(outcome, results, process.exitcode or 0)
        finish(outcome, results)
    return outcome


def hungry(folder: Path, times: int, moments: random.Random, nodes: Nodes) -> Outcome:
    """A quantization runs out of memory on half a GPU and is given a whole one; another takes its worker with it."""
    outcome = Outcome("out of memory on half a GPU")
    for number in range(times):
        results, control = folder / str(number), Path(os.environ[CONTROL])
        (control / "hungry").touch()
        (control / "die").touch()
        with nodes.driver(results) as process:
            process.join(_WAIT_SECONDS)
            if process.exitcode != 0 or len(recorded(results)) != CELLS:
                outcome.problems.append(f"exit code {process.exitcode}, {len(recorded(results))} cells recorded")
            if any(control.iterdir()):
                outcome.problems.append("an order was not carried out")
        finish(outcome, results)
    return outcome


SCENARIOS: dict[str, Callable[[Path, int, random.Random, Nodes], Outcome]] = {
    "driver_killed": driver_killed,
    "worker_killed": worker_killed,
    "node_killed": node_killed,
    "interrupted": interrupted,
    "hanging": hanging,
    "hungry": hungry,
}
