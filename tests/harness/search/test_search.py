"""The search command: what it tries, what it reuses, what it refuses, and what it leaves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness_kit import Outcome, flat_folder, records_of, run_bench, run_here

from harness.search import __main__ as search
from methods.contracts import Backend
from methods.registry import BACKENDS

SPACE = """
[noise]
images = { min = 1, max = 12 }

[blockwise]
iterations = { choices = [0, 1] }
learning_rate = { min = 1e-5, max = 1e-3, scaling = "log" }
"""
TINY = ["--model", "vit_digits", "--method", "noise", "--limit", "20", "--executor", "local", "--device", "cpu"]


def run(results: Path, *words: str) -> Outcome:
    return run_here(search.main, ["--results", str(results), *TINY, *words])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the collection after every job, which walks all of torch's objects and takes longer than the job."""
    monkeypatch.setattr("harness.trial.trial.gc.collect", lambda: 0)


@pytest.fixture
def space(tmp_path: Path) -> str:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return str(path)


class Spy:
    """Counts the quantizations of a backend, and can be told to break at one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str = "blockwise") -> None:
        self.calls, self.broken = 0, -1
        backend = BACKENDS.get(name)
        real = type(backend).quantize

        def quantize(this: Backend, *words: Any) -> Any:
            self.calls += 1
            if self.calls == self.broken:
                raise KeyboardInterrupt
            return real(this, *words)

        monkeypatch.setattr(type(backend), "quantize", quantize)


def folder_of(results: Path) -> Path:
    [folder] = (results / "search").iterdir()
    return folder


def rows_of(results: Path) -> list[list[str]]:
    """Return the rows of the table of samples."""
    lines = (folder_of(results) / "search.md").read_text().split("###")[1].splitlines()
    return [[word.strip(" *") for word in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def points_of(results: Path) -> set[tuple[Any, ...]]:
    """Return the settings of the space that the records hold."""
    return {
        (
            r["config"]["method"]["images"],
            r["config"]["backend"]["iterations"],
            r["config"]["backend"]["learning_rate"],
        )
        for r in records_of(results).values()
    }


def test_the_defaults_come_first_and_seeds_are_averaged(tmp_path: Path, space: str) -> None:
    results = tmp_path / "results"
    words = [
        "--search",
        "random",
        "--samples",
        "3",
        "--seeds",
        "3,5",
        "--space",
        space,
        "--set",
        "blockwise.iterations=0",
    ]
    outcome = run(results, *words)
    assert outcome.code == 0, outcome.err
    lines = [line for line in outcome.out.splitlines() if line.startswith("[")]
    assert [line.partition("]")[0] for line in lines] == ["[1/3", "[2/3", "[3/3"]
    assert "blockwise.learning_rate=4e-05, noise.images=12" in lines[0], "32 images, moved to the end of the range"
    assert not any("iterations" in line for line in lines), "what is set is not searched"
    by_point: dict[float, list[dict[str, Any]]] = {}
    for record in records_of(results).values():
        by_point.setdefault(record["config"]["backend"]["learning_rate"], []).append(record)
    assert {record["config"]["backend"]["iterations"] for record in records_of(results).values()} == {0}
    rows = rows_of(results)
    assert len(rows) == len(by_point) == 3
    for row in rows:
        [found] = [group for rate, group in by_point.items() if f"{rate:.4g}" == row[3]]
        assert {record["cell"]["seed"] for record in found} == {3, 5}
        values = [record["metrics"]["agreement"] for record in found]
        assert row[1] == f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
        assert row[2] == "20"
    means = [float(row[1].split()[0]) for row in rows]
    assert means == sorted(means, reverse=True)
    assert "0 (defaults)" in [row[0] for row in rows]


@pytest.mark.parametrize(("kind", "samples", "seeds"), [("random", 3, "0,1"), ("optuna", 12, "0")])
def test_an_interrupted_search_takes_the_path_of_an_undisturbed_one(
    tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch, kind: str, samples: int, seeds: str
) -> None:
    words = ["--search", kind, "--samples", str(samples), "--seeds", seeds, "--space", space]
    cells = samples * len(seeds.split(","))
    spy = Spy(monkeypatch)
    assert run(tmp_path / "whole", *words).code == 0
    assert spy.calls == cells
    spy.calls, spy.broken = 0, cells - 2  # with two seeds: in the second one of the last sample but one
    assert run(tmp_path / "broken", *words).code == 130
    assert len(records_of(tmp_path / "broken")) == cells - 3
    spy.calls, spy.broken = 0, -1
    assert run(tmp_path / "broken", *words).code == 0
    assert spy.calls == 3, "what was missing, and nothing else"
    whole, broken = records_of(tmp_path / "whole"), records_of(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert all(whole[key]["logits_sha256"] == broken[key]["logits_sha256"] for key in whole)
    spy.calls = 0
    assert run(tmp_path / "broken", *words).code == 0
    assert spy.calls == 0


def test_best_toml_is_a_config_of_bench(tmp_path: Path, space: str) -> None:
    results = tmp_path / "results"
    assert (
        run(results, "--search", "random", "--samples", "4", "--space", space, "--set", "blockwise.iterations=1").code
        == 0
    )
    best = folder_of(results) / "best.toml"
    top = rows_of(results)[0]
    settings = tomllib.loads(best.read_text())
    assert settings["blockwise"]["iterations"] == 1, "what was set for the search is part of what was found"
    assert f"{settings['blockwise']['learning_rate']:.4g}" == top[3]
    assert str(settings["noise"]["images"]) == top[4]
    words = ["--models", "vit_digits", "--methods", "noise", "--bits", "w4a4", "--limit", "20"]
    assert run_bench(tmp_path / "report", *words, "--config", str(best)).code == 0
    [record] = records_of(tmp_path / "report").values()
    assert record["config"]["method"] == settings["noise"]
    defaults = dataclasses.asdict(BACKENDS.get("blockwise").default_config("vit_digits"))
    assert record["config"]["backend"] == defaults | settings["blockwise"]
    assert record["cell"]["data"]["name"] == "digits"


def test_a_grid_is_every_combination_once(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        "[noise]\nimages = { min = 2, max = 8, points = 3 }\n[blockwise]\niterations = { choices = [0, 1] }\n"
        'learning_rate = { min = 1e-5, max = 1e-3, scaling = "log", points = 2 }\n'
    )
    words = ["--search", "grid", "--space", str(file)]
    outcome = run(tmp_path / "results", *words, "--samples", "11")
    assert outcome.code == 2
    assert outcome.err == "The grid has 12 points, more than --samples 11; --space can narrow it.\n"
    assert run(tmp_path / "results", *words, "--samples", "13").code == 0
    grid = set(itertools.product([2, 5, 8], [0, 1], [1e-5, 1e-3]))
    defaults = (8, 0, 4e-5)  # 32 images and 50 steps moved to the nearest end and choice; the rate is no grid point
    assert points_of(tmp_path / "results") <= grid | {defaults, (8, 1, 4e-5)}
    assert grid <= points_of(tmp_path / "results")
    assert len(points_of(tmp_path / "results")) == 13


def test_a_label_free_search_sees_no_real_image(tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(train: bool) -> None:
        raise AssertionError("a digit was looked at")

    monkeypatch.setattr("harness.inputs.image_sets.digits_split", never)
    results = tmp_path / "results"
    outcome = run(results, "--samples", "1", "--search", "random", "--space", space, "--metric", "kl")
    assert outcome.code == 0, outcome.err
    [record] = records_of(results).values()
    assert record["cell"]["data"]["name"] == "dead-leaves-search"
    assert record["metrics"]["top1"] is None
    text = (folder_of(results) / "search.md").read_text()
    assert "No label and no real image was seen" in text
    assert rows_of(results)[0][1] == f"{record['metrics']['kl']:.4f}"


def test_a_search_by_accuracy_looks_at_other_digits_and_says_so(tmp_path: Path, space: str) -> None:
    words = ["--samples", "1", "--search", "random", "--space", space, "--metric", "top1"]
    assert run(tmp_path, *words).code == 0
    [record] = records_of(tmp_path).values()
    assert record["cell"]["data"]["name"] == "digits-train"
    assert (
        "other ones than results are reported on: the tuned method is not data-free"
        in (folder_of(tmp_path) / "best.toml").read_text()
    )


def test_the_reporting_set_is_refused(tmp_path: Path, space: str) -> None:
    words = ["--samples", "1", "--search", "random", "--space", space, "--search-data", "digits"]
    outcome = run(tmp_path, *words)
    assert outcome.code == 2
    assert outcome.err.startswith("The search would look at 20 of the images that results are reported on;")
    assert not (tmp_path / "records").exists()
    assert run(tmp_path, *words, "--allow-test-tuning").code == 0
    assert "not data-free, and figures on them are too good" in (folder_of(tmp_path) / "search.md").read_text()


def test_a_folder_that_shares_an_image_with_the_report_is_refused(tmp_path: Path) -> None:
    data, other = flat_folder(tmp_path / "val", 3), flat_folder(tmp_path / "copy", 3)
    words = ["--model", "deit_t", "--weights", "random", "--metric", "top1", "--search", "random"]
    outcome = run(tmp_path / "results", *words, "--data", str(data), "--search-data", str(other))
    assert outcome.code == 2
    assert "3 of the images that results are reported on" in outcome.err


def test_a_backbone_is_searched_by_its_features(tmp_path: Path) -> None:
    bare = timm.create_model("test_vit", num_classes=0, img_size=32)
    torch.save(bare.state_dict(), tmp_path / "mine.pth")
    (tmp_path / "mine.toml").write_text("size = 32")
    words = ["--model", "test_vit", "--weights", str(tmp_path / "mine.pth"), "--samples", "1", "--backend", "minmax"]
    (tmp_path / "two.toml").write_text("[noise]\nimages = { choices = [2, 3] }\n")
    outcome = run(tmp_path / "results", *words, "--space", str(tmp_path / "two.toml"))
    assert outcome.code == 0, outcome.err
    [record] = records_of(tmp_path / "results").values()
    assert rows_of(tmp_path / "results")[0][1] == f"{record['metrics']['cosine']:.4f}"
    for metric, sentence in [
        ("agreement", "test_vit.mine is a backbone, which has no agreement; search by cosine."),
        ("knn", "A search by knn needs labelled images of its own: give --search-data DIR."),
    ]:
        assert run(tmp_path / metric, *words, "--metric", metric).err == f"{sentence}\n"
        assert not (tmp_path / metric).exists()


def test_asha_measures_growing_parts_and_stops_what_falls_behind(tmp_path: Path, space: str) -> None:
    words = ["--search", "random", "--samples", "5", "--space", space, "--scheduler", "asha", "--limit", "64"]
    assert run(tmp_path, *words).code == 0
    by_point: dict[float, dict[int, float]] = {}
    for record in sorted(records_of(tmp_path).values(), key=lambda record: record["metrics"]["n"]):
        found = by_point.setdefault(record["config"]["backend"]["learning_rate"], {})
        found[record["metrics"]["n"]] = record["metrics"]["agreement"]
    assert all(list(found) == [8, 16, 32, 64][: len(found)] for found in by_point.values())
    rows = rows_of(tmp_path)
    assert [int(row[2]) for row in rows] == sorted((int(row[2]) for row in rows), reverse=True)
    order = sorted(rows, key=lambda row: int(row[0].split()[0]))
    seen: dict[int, list[float]] = {}
    for row in order:
        [found] = [found for rate, found in by_point.items() if f"{rate:.4g}" == row[4]]
        for n, value in found.items():
            stopped = bool(seen.get(n)) and value < statistics.median(seen[n])
            seen.setdefault(n, []).append(value)
            assert stopped == (n == int(row[2]) and n < 64), (row, seen, found)
    assert len({int(row[2]) for row in rows}) > 1, "some sample was stopped early"


def test_a_failed_sample_is_named_and_tried_again(tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BACKENDS.get("blockwise").quantize
    broken = {"now": True}

    def quantize(this: Backend, model: Any, images: Any, bits: Any, config: Any, context: Any) -> Any:
        if broken["now"] and config.iterations == 0:
            raise ArithmeticError("no steps")
        return real(model, images, bits, config, context)

    monkeypatch.setattr(type(BACKENDS.get("blockwise")), "quantize", quantize)
    words = ["--search", "grid", "--samples", "4", "--space", str(tmp_path / "two.toml")]
    (tmp_path / "two.toml").write_text(
        "[blockwise]\niterations = { choices = [1, 0] }\nlearning_rate = { choices = [4e-5] }\n"
    )
    outcome = run(tmp_path / "results", *words)
    assert outcome.code == 1
    assert "failed: ArithmeticError: no steps (blockwise.iterations=0" in outcome.out
    text = (folder_of(tmp_path / "results") / "search.md").read_text()
    assert "Sample 1 failed: ArithmeticError: no steps." in text
    broken["now"] = False
    assert run(tmp_path / "results", *words).code == 0
    assert {record["status"] for record in records_of(tmp_path / "results").values()} == {"ok"}


def test_two_metrics_give_a_pareto_set_and_the_table_comes_from_records(tmp_path: Path, space: str) -> None:
    words = ["--samples", "4", "--space", space, "--metric", "agreement,seconds"]
    assert run(tmp_path, *words).code == 0
    folder = folder_of(tmp_path)
    first = (folder / "search.md").read_text()
    (folder / "search.md").unlink()
    outcome = run(tmp_path, "--table-only")
    assert outcome.code == 0
    assert (folder / "search.md").read_text() == first
    assert "Bold: the Pareto set" in first
    found = []
    for record in records_of(tmp_path).values():
        seconds = sum(record["stages"][stage]["seconds"] for stage in ("synthesize", "quantize"))
        found.append((record["metrics"]["agreement"], -seconds))
    best = [a for a in found if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in found)]
    strong = [line for line in first.splitlines() if line.startswith("| **")]
    assert len(strong) == len(best)
    assert {float(line.split("|")[2].strip(" *")) for line in strong} == {value for value, _ in best}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--metric", "knn"], "vit_digits is a classifier, which has no knn; search by agreement or kl."),
        (["--metric", "agrement"], "Unknown metric 'agrement'. Did you mean 'agreement'?"),
        (["--metric", "top1,kl,seconds"], "--metric takes one name or two"),
        (["--metric", "agreement,seconds", "--scheduler", "asha"], "stops samples by one metric"),
        (["--metric", "top1", "--search-data", "procedural"], "Procedural images have no labels"),
        (["--model", "deit_t", "--metric", "top1"], "give --search-data DIR"),
        (["--model", "deit_t", "--search-data", "digits"], "does not fit deit_t"),
        (["--model", "vit_digitz"], "Did you mean 'vit_digits'?"),
        (
            ["--model", "*_digits"],
            "A search takes one model, one method, one backend and one bit-width, not '*_digits'.",
        ),
        (["--bits", "w4a4,w8a8"], "A search takes one model, one method"),
        (["--method", "nois"], "Did you mean 'noise'?"),
        (["--method", "real"], "needs real calibration images"),
        (["--space", "missing.toml"], "missing.toml cannot be read"),
        (["--backend", "minmax"], "There is nothing to search"),
    ],
)
def test_what_does_not_work_is_one_sentence(tmp_path: Path, words: list[str], text: str) -> None:
    outcome = run(tmp_path, "--search", "random", *words)
    assert outcome.code == 2
    assert text in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_missing_optuna_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = run(tmp_path)
    assert outcome.code == 2
    assert outcome.err == "--search optuna needs optuna: pip install -e '.[search]' (random and grid do not).\n"


def test_a_plan_runs_nothing(tmp_path: Path, space: str) -> None:
    outcome = run(tmp_path / "results", "--plan", "--search", "random", "--space", space, "--seeds", "0,1")
    assert outcome.code == 0
    assert "noise.images" in outcome.out
    assert "40 samples, 0 of them begun." in outcome.out
    assert "2 cells, 0 recorded" in outcome.out
    assert not (tmp_path / "results").exists()


def test_there_are_no_tables_without_searches(tmp_path: Path) -> None:
    outcome = run(tmp_path, "--table-only")
    assert outcome.code == 2
    assert outcome.err == f"There is no search under {tmp_path}.\n"
    (tmp_path / "search" / "x").mkdir(parents=True)
    (tmp_path / "search" / "x" / "search.json").write_text(json.dumps({"space": {}}))
    outcome = run(tmp_path, "--table-only")
    assert outcome.code == 2
    assert "search.json describes no search" in outcome.err
