"""`--config FILE`: a whole run or a study of several, what is typed over it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness_kit import ROOT, by_cell, run_bench

from harness.bench import parser
from harness.cli.config import parse
from harness.cli.options import Inputs, Matrix, Running, taken
from methods.errors import UsageError

STUDY = """
models = ["vit_digits"]
bits = ["w4a4", "w8a8"]
backends = "minmax"
seeds = [0, 1]
limit = 20
no-fp32-gate = true
cpus_per_trial = 1

[noise]
images = 4

[[run]]
methods = ["noise"]

[[run]]
methods = ["noise", "real"]
bits = "w3a3"
[run.noise]
images = 8
[run.real]
images = 2
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def test_a_file_sets_options_and_tables_and_what_is_typed_goes_before_it(tmp_path: Path) -> None:
    path = written(tmp_path, "models = ['deit_t']\nseeds = [0, 3]\nlimit = 9\ntimeout = 2.5\n[noise]\nimages = 4\n")
    [run] = parse(parser(), ["--config", str(path), "--limit", "7"])
    matrix = Matrix.of(vars(run))
    assert matrix == Matrix(
        ["deit_t"], ["noise", "real", "spdfq"], ["blockwise"], ["w4a4", "w8a8"], ["0", "3"], chosen=False
    )
    inputs, running = taken(Inputs, run), taken(Running, run)
    assert (inputs.limit, inputs.tables, running.timeout) == (7, {"noise": {"images": 4}}, 2.5)


def test_runs_of_a_study_lie_over_what_they_share_and_under_what_is_typed(tmp_path: Path) -> None:
    runs = parse(parser(), ["--config", str(written(tmp_path, STUDY)), "--seeds", "5"], study=True)
    assert [Matrix.of(vars(run)) for run in runs] == [
        Matrix(["vit_digits"], ["noise"], ["minmax"], ["w4a4", "w8a8"], ["5"]),
        Matrix(["vit_digits"], ["noise", "real"], ["minmax"], ["w3a3"], ["5"]),
    ]
    assert [taken(Inputs, run).tables for run in runs] == [
        {"noise": {"images": 4}},
        {"noise": {"images": 8}, "real": {"images": 2}},
    ]
    assert all(taken(Running, run).no_fp32_gate and taken(Running, run).cpus_per_trial == 1 for run in runs)


def test_a_study_runs_whole_and_its_plan_writes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, STUDY.replace("[0, 1]", "[0]"))
    planned = run_bench(tmp_path / "results", "--config", str(path), "--plan")
    assert planned.code == 0, planned.err
    assert "4 cells, 0 recorded; 3 syntheses and 4 cells to run." in planned.out
    assert not (tmp_path / "results").exists()
    done = run_bench(tmp_path / "results", "--config", str(path))
    assert done.code == 0, done.err
    cells = {key: record["cell"]["overrides"] for key, record in by_cell(tmp_path / "results").items()}
    assert cells == {
        ("vit_digits", "noise", "minmax", "w4a4", "0"): {"noise.images": 4},
        ("vit_digits", "noise", "minmax", "w8a8", "0"): {"noise.images": 4},
        ("vit_digits", "noise", "minmax", "w3a3", "0"): {"noise.images": 8},
        ("vit_digits", "real", "minmax", "w3a3", "0"): {"real.images": 2},
    }


def test_a_setting_typed_may_be_of_one_run_alone_and_not_of_none(tmp_path: Path) -> None:
    path = written(tmp_path, STUDY)
    done = run_bench(tmp_path / "results", "--config", str(path), "--set", "real.images=3", "--plan")
    assert done.code == 0, done.err
    done = run_bench(tmp_path / "results", "--config", str(path), "--set", "spdfq.images=3", "--plan")
    assert done.code == 2
    assert "spdfq.images=3 has no effect" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modles = ['deit_t']\n", ["'modles'", "'models'"]),
        ("images = 4\n", ["'images'", "study.toml"]),
        ("config = 'other.toml'\n", ["'config'"]),
        ("plan = true\n", ["'plan'"]),
        ("[nose]\nimages = 4\n", ["'nose'", "'noise'"]),
        ("[noise]\nimagse = 4\n", ["'imagse'", "'images'"]),
        ("limit = true\n", ["limit", "true and false"]),
        ("no_fp32_gate = 1\n", ["no_fp32_gate", "true and false"]),
        ("models = [['deit_t']]\n", ["models", "list"]),
        ("models = []\n", ["--models"]),
        ("run = 3\n", ["[[run]]"]),
        ("run = []\n", ["[[run]]"]),
        ("[run]\nmethods = 'noise'\n", ["[[run]]"]),
        ("[[run]]\nresults = 'elsewhere'\n", ["results", "above the runs"]),
        ("[[run]]\nmehtods = 'noise'\n", ["'mehtods'", "'methods'"]),
    ],
)
def test_what_a_file_may_not_hold_is_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    done = run_bench(tmp_path / "results", "--plan", "--config", str(written(tmp_path, text)))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    assert all(word in done.err for word in words), done.err
    assert not (tmp_path / "results").exists()


def test_a_command_of_one_run_refuses_a_study(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds 2 runs"):
        parse(parser(), ["--config", str(written(tmp_path, STUDY))])


def test_the_file_of_the_docs_is_a_plan(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "using.md").read_text().partition("```toml\n")[2].partition("```")[0]
    done = run_bench(tmp_path / "results", "--config", str(written(tmp_path, text)), "--plan")
    assert done.code == 0, done.err
    assert "30 cells, 0 recorded" in done.out


def test_a_preset_lies_under_a_file_and_what_is_typed(tmp_path: Path) -> None:
    path = written(tmp_path, "[spdfq]\niterations = 7\n")
    [run] = parse(parser(), ["--preset", "quick", "--config", str(path), "--backends", "minmax"])
    assert Matrix.of(vars(run)).backends == ["minmax"]
    assert taken(Inputs, run).tables["spdfq"] == {"images": 8, "iterations": 7}
    assert taken(Inputs, run).tables["noise"] == {"images": 8}


@pytest.mark.parametrize("words", [[], ["--seeds", "0,1"], ["--executor", "local"]])
def test_the_demo_is_what_runs_where_nothing_is_named(words: list[str]) -> None:
    [run] = parse(parser(), words)
    [named] = parse(parser(), ["--preset", "demo", *words])
    assert (Matrix.of(vars(run)), run.tables) == (Matrix.of(vars(named)), named.tables)
    assert run.tables["spdfq"] == {"images": 8}
    assert not Matrix.of(vars(run)).chosen


@pytest.mark.parametrize("words", [["--models", "vit_digits"], ["--bits", "w4a4"], ["--preset", "paper"]])
def test_the_demo_steps_back_where_something_is_named(words: list[str]) -> None:
    [run] = parse(parser(), words)
    assert run.tables == {}


@pytest.mark.parametrize("preset", ["quick", "paper", "best"])
def test_every_preset_is_a_plan(tmp_path: Path, preset: str) -> None:
    done = run_bench(tmp_path / "results", "--preset", preset, "--models", "vit_digits", "--bits", "w4a4", "--plan")
    assert done.code == 0, done.err
    assert f"{3 if preset == 'quick' else 1} cells, 0 recorded" in done.out


def test_default_methods_without_what_they_need_are_left_out_with_a_line(tmp_path: Path) -> None:
    words = ["--models", "test_vit.r160_in1k", "--weights", "random", "--limit", "2", "--bits", "w4a4", "--plan"]
    done = run_bench(tmp_path / "results", *words)
    assert done.code == 0, done.err
    assert done.err == "Left out: real, which needs real images for test_vit.r160_in1k (--calib-data DIR).\n"
    assert "2 cells, 0 recorded" in done.out
    named = run_bench(tmp_path / "results", *words, "--methods", "noise,real")
    assert named.code == 2
    assert "--calib-data DIR" in named.err
