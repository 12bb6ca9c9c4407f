"""`harness.status`: what a run tells while it lasts, what is left of one that died, and that asking writes nothing."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest
from harness_kit import make_fields, put, run_here, snapshot
from rich.console import Console

from harness import status
from harness.cli import run_files
from harness.cli.run_files import Row, RunFile, Snapshot, find_runs, told_to_others
from harness.execute.claims import this_process
from harness.plan.jobs import RunSettings

ROW = Row("vit_digits spdfq seed 0", "synthesize", 30, 100, 42.0)
NOW = Snapshot(20, 5, 1, 30.0, 75.0, [ROW], ["vit_digits w4a4 noise minmax seed 0: top-1 90.00 ± 1.00 %"])


def settings(results: Path) -> RunSettings:
    words = "python -m harness.bench --models vit_digits"
    return RunSettings(results, "cpu", 1, False, "local", words, None, "a-run", started="2026-11-27T05:00:00+00:00")


def left_behind(results: Path, owner: str) -> Path:
    path = results / "cache" / "runs" / "other.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(RunFile("python -m harness.bench", "2026-11-27T04:00", 3, owner, NOW)))
    return path


def wait_for(path: Path) -> None:
    for _ in range(100):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


def test_a_run_tells_of_itself_while_it_lasts(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "runs" / "a-run.json"
    with told_to_others(settings(tmp_path), lambda: NOW):
        wait_for(path)
        before = {name: content for name, content in snapshot(tmp_path).items() if name != "cache/runs/a-run.json"}
        told = run_here(status.main, [str(tmp_path)])
        assert {n: c for n, c in snapshot(tmp_path).items() if n != "cache/runs/a-run.json"} == before
    assert told.code == 0, told.err
    for text in ("harness.bench --models vit_digits", "5 of 20 jobs done, 1 failed, 1 running, 14 left", "30/100"):
        assert text in told.out
    for text in ("synthesize", "about 1 min 15 s left", "42 s", "top-1 90.00 ± 1.00 %", "Records: 0 cells finished"):
        assert text in told.out
    assert not path.exists()


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    results = tmp_path / "new" / "results"
    with told_to_others(settings(results), lambda: NOW):
        wait_for(results / "cache" / "runs" / "a-run.json")
    assert list(tmp_path.iterdir()) == []
    results.mkdir(parents=True)
    with told_to_others(settings(results), lambda: NOW):
        wait_for(results / "cache" / "runs" / "a-run.json")
        (results / "cache" / "mine").touch()
    assert [path.name for path in (results / "cache").iterdir()] == ["mine"]


def test_a_run_that_died_is_told_of_and_swept_by_the_next(tmp_path: Path) -> None:
    machine, pid, born = this_process().split()
    left = left_behind(tmp_path, f"{machine} {pid} {int(born) + 1}")
    put(tmp_path, make_fields("", status="failed"))
    told = run_here(status.main, [str(tmp_path), "--follow"])
    assert "Ended before it was done, 5 of 20 jobs done" in told.out
    assert "Nothing runs here." in told.out
    assert "0 cells finished, 1 failed" in told.out
    assert "Failed: vit_x w4a4 noise minmax seed 0: RuntimeError: boom" in told.out
    with told_to_others(settings(tmp_path), lambda: NOW):
        assert not left.exists()


@pytest.mark.parametrize("beats", [True, False])
def test_a_run_on_another_machine_lives_while_its_file_changes(
    beats: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path, "elsewhere 1 2")
    monkeypatch.setattr(run_files, "_BEAT_SECONDS", 0.04)
    run = msgspec.json.decode(path.read_bytes(), type=RunFile)
    newer = msgspec.json.encode(msgspec.structs.replace(run, beat=4))
    timer = threading.Timer(0.05, lambda: path.write_bytes(newer) if beats else None)
    timer.start()
    living, dead = find_runs(tmp_path, patience=0.5)
    timer.join()
    assert (len(living), len(dead)) == (int(beats), int(not beats))


def test_what_is_no_run_file_is_passed_over_at_once(tmp_path: Path) -> None:
    sound = left_behind(tmp_path, "elsewhere 1 2")
    os.mkfifo(sound.with_name("pipe.json"))
    sound.with_name("deep.json").write_bytes(b'{"a":' + b"[" * 100_000)
    sound.with_name("endless.json").write_bytes(b" " * (1 << 21))
    sound.with_name("loop.json").symlink_to("loop.json")
    living, dead = find_runs(tmp_path, patience=0)
    assert len(living) + len(dead) == 1


def test_following_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_LOOK_SECONDS", 0.05)
    with told_to_others(settings(tmp_path), lambda: NOW):
        wait_for(tmp_path / "cache" / "runs" / "a-run.json")
        out = io.StringIO()
        follower = threading.Thread(target=status._follow, args=(tmp_path, Console(file=out, width=100)))
        follower.start()
        time.sleep(0.2)
    follower.join(timeout=10)
    assert not follower.is_alive()
    assert out.getvalue().count("5 of 20 jobs done") == 1


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    told = run_here(status.main, [str(tmp_path / "nowhere")])
    assert (told.code, "no results folder" in told.err) == (2, True)
