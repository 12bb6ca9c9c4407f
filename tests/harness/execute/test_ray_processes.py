"""Ray's processes without Ray: a guardian that ends them when the driver is gone, a watch that interrupts a wait."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from harness_kit import ROOT

from harness.execute.resources import host_and_port
from methods.errors import UsageError

DRIVER = """
import psutil, signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from harness.execute.ray_processes import RayProcesses
mine = RayProcesses()
time.sleep(1)  # the guardian starts
# a child that is called as Ray's is, and has a child of its own
raylet = subprocess.Popen(["bash", "-c", f"sleep 20 & exec -a raylet {sys.argv[1]} 600"], start_new_session=True)
while psutil.Process(raylet.pid).name() != "raylet":  # Ray too returns when its raylet is there
    time.sleep(0.01)
if "starts" not in sys.argv:
    mine.watch()
print(raylet.pid, flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", mine.died, flush=True)
finally:
    mine.close()
"""


@contextmanager
def started(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """Start a driver in the background of a script, where SIGINT is ignored; yields it and its raylet.

    SIGHUP is not, whatever the tests themselves were started by (nohup ignores it).
    """
    raylet = folder / "raylet"
    raylet.symlink_to("/bin/sleep")
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(raylet), *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as driver:
        assert driver.stdout is not None
        yield driver, psutil.Process(int(driver.stdout.readline()))


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(processes, seconds)[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_ray_does_not_outlive_a_driver_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as (driver, raylet):
        family = [raylet, *raylet.children(recursive=True)]
        assert len(family) == 2
        time.sleep(1)  # the guardian starts
        driver.send_signal(number)
        ended = driver.wait(5)
        assert gone(family, 5)
        assert ended == (0 if number is signal.SIGTERM else -number), "SIGTERM interrupts, as Ctrl-C does"


def test_ray_does_not_outlive_a_driver_that_is_killed_while_ray_starts(tmp_path: Path) -> None:
    with started(tmp_path, "starts") as (driver, raylet):
        time.sleep(2)  # the guardian looks
        family = [raylet, *raylet.children(recursive=True)]
        driver.kill()
        driver.wait(5)
        assert len(family) == 2
        assert gone(family, 5)


def test_a_raylet_that_dies_interrupts_the_driver(tmp_path: Path) -> None:
    with started(tmp_path) as (driver, raylet):
        below = raylet.children(recursive=True)
        time.sleep(3)  # the guardian starts, and sees them
        begun = time.monotonic()
        os.kill(raylet.pid, signal.SIGKILL)
        assert driver.wait(10) == 0
        assert time.monotonic() - begun < 5
        assert driver.stdout is not None
        assert driver.stdout.readline() == "interrupted True\n"
        assert below
        assert gone(below, 5), "though nobody can ask the raylet for its agents any more"


def test_ray_is_started_here_alone_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("harness.execute.ray_session")
    seen: dict[str, object] = {}
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # of a cluster that is gone, as a stale ray_current_cluster is
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    monkeypatch.setattr(session.ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr(session.ray, "init", lambda **words: seen.update(words))
    session._begin(None, {"num_cpus": 2})
    assert (seen["address"], seen["num_cpus"]) == ("local", 2)
    assert session.ray_constants.ENABLE_RAY_CLUSTER is False, "Ray binds to the loopback then"
    assert session.QUIET["RAY_worker_niceness"] == "0"


def test_a_ray_that_cannot_start_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("harness.execute.ray_session")
    monkeypatch.setattr(session.ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    monkeypatch.setattr(session.ray, "init", lambda **_words: sys.exit("no room"))
    with pytest.raises(UsageError, match=r"^Ray cannot be started here: no room\.$"):
        session._begin(None, {})


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://localhost:{}", "[::1]:{}", "no.such.host.invalid:{}"])
def test_an_address_that_nobody_answers_at_is_refused_at_once(address: str) -> None:
    session = pytest.importorskip("harness.execute.ray_session")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = address.format(closed.getsockname()[1])
    start = time.monotonic()
    with pytest.raises(UsageError, match="Ray cannot be reached at"):
        session.answering(address)
    assert time.monotonic() - start < 10


WORDS = [
    "local",
    "127.0.0.1",
    ":6379",
    "http://there",
    "there:port",
    "",
    "ray://",
    "x:" + "9" * 5000,
    "x" * 300,
]


@pytest.mark.parametrize("address", WORDS)
def test_what_is_no_address_is_a_sentence(address: str) -> None:
    with pytest.raises(UsageError, match=r"^'.{0,120}' is no address of a Ray"):
        host_and_port(address)


@contextmanager
def listening(says: bytes | None) -> Iterator[str]:
    """Yield the address of a socket that accepts, and says so much to whoever comes; None: nothing, ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        if says is not None:
            threading.Thread(target=_say, args=(server, says), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _say(server: socket.socket, says: bytes) -> None:
    with server.accept()[0] as there:
        there.recv(100)
        there.sendall(says)


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        (None, "timed out"),
        (b"", "no Ray"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no Ray"),
        (b"SSH-2.0-OpenSSH\r\n", "no Ray"),
        (bytes([0, 0, 0, 7]), "no Ray"),  # a GOAWAY frame: it would serve nobody
    ],
)
def test_what_accepts_but_is_no_ray_is_refused(
    says: bytes | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = pytest.importorskip("harness.execute.ray_session")
    monkeypatch.setattr(session, "_ANSWER_SECONDS", 0.2)
    with listening(says) as address, pytest.raises(UsageError, match=rf"^Ray cannot be reached at .*{sentence}\.$"):
        session.answering(address)


def test_a_grpc_server_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    session = pytest.importorskip("harness.execute.ray_session")
    with listening(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert session.answering("auto") == address
