"""Claims: one command alone gets a job, a dead one's jobs are taken over, and no clock is trusted."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from harness_kit import ROOT

from harness.execute import claims
from harness.execute.claims import Claims
from methods.errors import UsageError

DAY = 86_400


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(claims, "_LOOK_SECONDS", 0.0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def taken_within(other: Claims, key: str, seconds: float) -> float | None:
    """Return after how many seconds a claim is granted, None when it is not."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        if other.take(key):
            return time.monotonic() - start
        time.sleep(0.01)
    return None


def test_one_of_many_gets_the_claim(tmp_path: Path) -> None:
    others = [Claims(tmp_path, alone=False) for _ in range(16)]
    start = threading.Barrier(16)

    def race(mine: Claims) -> bool:
        start.wait()
        return mine.take("job")

    with ThreadPoolExecutor(16) as pool:
        for _ in range(10):
            won = [one for one, got in zip(others, pool.map(race, others), strict=True) if got]
            assert len(won) == 1
            won[0].release("job")
            assert names(tmp_path) == []


def test_a_claim_is_given_back_and_taken_again(tmp_path: Path) -> None:
    with Claims(tmp_path, alone=True) as one, Claims(tmp_path, alone=True) as two:
        assert one.take("a")
        assert not two.take("a")
        assert two.take("b")
        one.release("a")
        assert two.take("a")
        assert names(tmp_path) == ["a.0", "b.0"]
    assert names(tmp_path) == []


def test_a_holder_that_lives_keeps_its_claim(tmp_path: Path) -> None:
    with Claims(tmp_path, alone=False) as one, Claims(tmp_path, alone=False) as two:
        assert one.take("a")
        assert taken_within(two, "a", 0.9) is None, "three times what makes a claim stale"


def test_a_claim_that_is_not_touched_is_taken_over_once(tmp_path: Path) -> None:
    assert Claims(tmp_path, alone=False).take("a")  # no beat: its command was killed
    with Claims(tmp_path, alone=False) as two, Claims(tmp_path, alone=False) as three:
        assert not three.take("a")
        waited = taken_within(two, "a", 5)
        assert waited is not None
        assert waited >= 0.3
        assert names(tmp_path) == ["a.0", "a.1"]
        assert taken_within(three, "a", 0.9) is None
        two.release("a")
        assert names(tmp_path) == []
        assert three.take("a")


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_clocks_that_jump_neither_free_a_claim_nor_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    with Claims(tmp_path, alone=False) as one, Claims(tmp_path, alone=False) as two:
        assert one.take("a")
        monkeypatch.setattr(time, "time", lambda: 1e9 + jump)
        now = time.clock_gettime(time.CLOCK_REALTIME)
        os.utime(tmp_path / "a.0", (now + jump, now + jump))
        assert taken_within(two, "a", 0.9) is None, "the holder is alive"
    assert Claims(tmp_path, alone=False).take("b")
    os.utime(tmp_path / "b.0", (now + jump, now + jump))
    with Claims(tmp_path, alone=False) as three:
        assert taken_within(three, "b", 5) is not None, "the holder is dead"


def test_a_process_that_is_gone_frees_its_claims_at_once(tmp_path: Path) -> None:
    script = "import sys, os, pathlib; from harness.execute.claims import Claims\n"
    script += f"assert Claims(pathlib.Path({str(tmp_path)!r}), alone=True).take('a'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert names(tmp_path) == ["a.0"]
    with Claims(tmp_path, alone=True) as mine:
        assert mine.take("a")
        assert names(tmp_path) == ["a.0"], "what was left is swept"


def test_a_number_used_again_by_another_process_is_not_its_owner(tmp_path: Path) -> None:
    machine, pid, born = claims.this_process().split()
    assert claims.has_ended(f"{machine} {pid} {born}") is False
    assert claims.has_ended(f"{machine} {pid} {int(born) + 1}") is True
    assert claims.has_ended(f"elsewhere {pid} {int(born) + 1}") is None, "another machine's are not seen from here"
    assert claims.has_ended("") is None, "a claim whose text is not written yet"
    assert claims.has_ended(f"{machine} {'9' * 5000} {born}") is None, "no number of a process"


def test_what_a_dead_command_left_is_swept_and_a_living_one_is_never_stale(tmp_path: Path) -> None:
    machine, pid, born = claims.this_process().split()
    (tmp_path / "done.0").write_text(f"{machine} {pid} {int(born) + 1}")
    (tmp_path / "far.0").write_text("")
    (tmp_path / "mine.0").write_text(f"{machine} {pid} {born}")
    with Claims(tmp_path, alone=True) as other:
        assert names(tmp_path) == ["far.0", "mine.0"]
        assert taken_within(other, "mine", 0.9) is None, "not touched, but its process is there"


def _fifo(path: Path) -> None:
    os.mkfifo(path)


NO_CLAIMS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(b"\xff\xfe" * 40),
    "a process of no number": lambda path: path.write_text(f"{claims._machine()} ../../x 5"),
    "a process of many digits": lambda path: path.write_text(f"{claims._machine()} {'9' * 1000} 5"),
    "large": lambda path: path.write_bytes(b"a" * 10**7),
    "a pipe": _fifo,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to(path / "gone"),
}


@pytest.mark.parametrize("name", NO_CLAIMS)
def test_whatever_lies_where_a_claim_should_is_taken_over(tmp_path: Path, name: str) -> None:
    NO_CLAIMS[name](tmp_path / "a.0")
    for stranger in ("a.", "a.zzz", "a.-1", "a." + "9" * 100, ".a.0.tmp"):
        (tmp_path / stranger).write_text("x")
    with Claims(tmp_path, alone=True) as mine:
        waited = taken_within(mine, "a", 5)
        assert waited is not None
        assert waited < 2
        assert (tmp_path / "a.1").is_file()
        mine.release("a")
        assert not (tmp_path / "a.1").exists()
    assert ("a.0" in names(tmp_path)) == (name == "a folder")


def test_a_folder_that_takes_no_file_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Nothing can be written to"):
        Claims(tmp_path / "file" / "claims", alone=True).take("a")


ELSEWHERE = """
import sys, time
from pathlib import Path
from harness.execute import claims
claims.BEAT_SECONDS, claims.STALE_SECONDS, claims._LOOK_SECONDS = 0.02, 0.3, 0.0
with claims.Claims(Path(sys.argv[1]), alone=True) as mine:
    start = time.monotonic()
    while not mine.take("job"):
        time.sleep(0.01)
    print(claims.this_process().split()[1], time.monotonic() - start, flush=True)
    time.sleep(60)
"""


def contained(folder: Path) -> subprocess.Popen[str]:
    """Start what claims a job, as process 1 of a container of its own."""
    words = ["unshare", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", ELSEWHERE]
    return subprocess.Popen([*words, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root makes namespaces")
def test_a_command_of_another_container_with_the_same_number_is_not_mistaken(tmp_path: Path) -> None:
    with contained(tmp_path) as first, contained(tmp_path) as second:
        outputs = {process: process.stdout for process in (first, second) if process.stdout}
        ready, _, _ = select.select(list(outputs.values()), [], [], 30)
        holder, waiting = (first, second) if outputs[first] in ready else (second, first)
        assert outputs[holder].readline().split()[0] == "1"
        time.sleep(0.7)
        assert not select.select([outputs[waiting]], [], [], 0)[0], "it lives, and touches its claim"
        holder.kill()
        killed = time.monotonic()
        assert outputs[waiting].readline().split()[0] == "1"
        assert 0.2 < time.monotonic() - killed < 10
        waiting.kill()
