"""`python -m harness.compare`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness_kit import correct, make_fields, put, run_here

from harness import compare


def write(folder: Path, hits: dict[str, int], **fields: Any) -> str:
    for method, count in hits.items():
        put(folder, make_fields("", method=method, hits=correct(200, count), **fields))
    return str(folder)


def test_improved_regressed_and_unchanged_rows(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"better": 100, "worse": 150, "same": 120, "gone": 100})
    b = write(tmp_path / "b", {"better": 130, "worse": 130, "same": 122, "new": 100}, method_version=2)
    done = run_here(compare.main, [a, b])
    assert done.code == 1
    last = " ".join(done.out.split())
    assert "1 improved, 1 regressed, 0 worse within --fail-under, 1 unchanged" in last
    assert "1 only in" in last
    assert "+15.00" in done.out
    assert "-10.00" in done.out


@pytest.mark.parametrize(("points", "code"), [("9.9", 1), ("10.0", 0), ("0", 1)])
def test_losses_up_to_fail_under_pass(tmp_path: Path, points: str, code: int) -> None:
    a, b = write(tmp_path / "a", {"m": 150}), write(tmp_path / "b", {"m": 130})
    assert run_here(compare.main, [a, b, "--fail-under", points]).code == code


def test_a_loss_within_chance_is_no_regression(tmp_path: Path) -> None:
    # Five discordant images, all lost: p = 2/32.
    assert run_here(compare.main, [write(tmp_path / "a", {"m": 150}), write(tmp_path / "b", {"m": 145})]).code == 0
    # Six: p = 2/64.
    assert run_here(compare.main, [write(tmp_path / "a", {"m": 150}), write(tmp_path / "c", {"m": 144})]).code == 1


def test_the_newest_version_of_a_row_counts(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"m": 150})
    b = write(tmp_path / "b", {"m": 100}, method_version=1)
    write(tmp_path / "b", {"m": 150}, method_version=2)
    assert run_here(compare.main, [a, b]).code == 0


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_git_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def git(*words: str) -> None:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *names, *words], check=True, capture_output=True)

    git("init", "-q")
    write(Path("results") / "x", {"m": 150})
    git("add", ".")
    git("commit", "-q", "-m", "before")
    shutil.rmtree("results")
    write(Path("results") / "x", {"m": 100})
    git("add", ".")
    git("commit", "-q", "-m", "after")
    assert run_here(compare.main, ["HEAD~1", "HEAD"]).code == 1
    assert run_here(compare.main, ["HEAD", "HEAD~1:results/x"]).code == 0
    assert run_here(compare.main, ["HEAD", "results"]).code == 0
    for bad in ("HEAD:nowhere", "no-such-revision", "HEAD:../.."):
        done = run_here(compare.main, ["HEAD", bad])
        assert (done.code, done.err.count("\n")) == (2, 1)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    a = write(tmp_path / "a", {"m": 150})
    put(tmp_path / "b", make_fields("", method="m", data_sha256="f" * 64))
    for words in ([a, str(tmp_path / "b")], [a, str(tmp_path / "empty")], [a, "--fail-under=-1", a]):
        (tmp_path / "empty").mkdir(exist_ok=True)
        done = run_here(compare.main, words)
        assert done.code == 2
        assert "Traceback" not in done.err
        assert done.err.strip()
