"""A search on Ray: one trial per sample, ordinary records, and nothing measured twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from harness_kit import Outcome, python, records_of, snapshot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not installed"),
]

SPACE = """
[noise]
images = { min = 1, max = 12 }
[blockwise]
iterations = { choices = [0, 1] }
learning_rate = { min = 1e-5, max = 1e-3, scaling = "log" }
"""


def run(folder: Path, results: str, *words: str) -> Outcome:
    (folder / "space.toml").write_text(SPACE)
    shared = ["--method", "noise", "--space", str(folder / "space.toml"), "--limit", "32", "--device", "cpu"]
    return python("-m", "harness.search", "--results", str(folder / results), *shared, *words)


def figures(results: Path) -> dict[str, Any]:
    return {key: (record["metrics"], record["logits_sha256"]) for key, record in records_of(results).items()}


def test_a_search_by_optuna_goes_on_from_its_records(tmp_path: Path) -> None:
    words = ("--cpus-per-trial", "1", "--metric", "agreement,seconds", "--seeds", "0,1")
    done = run(tmp_path, "results", "--samples", "2", *words)
    assert done.code == 0, done.err
    assert done.err == ""
    lines = done.out.splitlines()
    assert [line.partition("]")[0] for line in lines[:2]] == ["[1/2", "[2/2"]
    assert any("blockwise.learning_rate=4e-05, noise.images=12" in line for line in lines[:2]), "the defaults"
    first = records_of(tmp_path / "results")
    assert len(first) == 4
    assert {record["provenance"]["executor"] for record in first.values()} == {"ray"}
    kept = snapshot(tmp_path / "results" / "records")
    done = run(tmp_path, "results", "--samples", "4", *words)
    assert done.code == 0, done.err
    after = snapshot(tmp_path / "results" / "records")
    assert {name: after[name] for name in kept} == kept
    assert len(after) == 8
    assert sorted(child.name for child in (tmp_path / "results").iterdir()) == ["cache", "records", "search"]


def test_a_random_search_leaves_what_the_local_one_leaves(tmp_path: Path) -> None:
    words = ("--search", "random", "--samples", "3", "--cpus-per-trial", "1")
    another = tmp_path / "ray" / "ray" / "of-another-command"
    another.mkdir(parents=True)
    assert run(tmp_path, "ray", *words).code == 0
    assert run(tmp_path, "local", *words, "--executor", "local").code == 0
    assert figures(tmp_path / "ray") == figures(tmp_path / "local")
    assert len(figures(tmp_path / "ray")) == 3
    assert list(another.parent.iterdir()) == [another]


def test_asha_and_failures_on_ray(tmp_path: Path) -> None:
    plugin = tmp_path / "fussy.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "from methods.backends.minmax import MinMax, MinMaxConfig\n"
        "from methods.registry import BACKENDS\n"
        "@dataclass(frozen=True)\n"
        "class FussyConfig(MinMaxConfig):\n"
        "    moods: int = 0\n"
        "class Fussy(MinMax):\n"
        "    name, config_class = 'fussy', FussyConfig\n"
        "    space = {'moods': {'choices': [0, 1, 2, 3]}}\n"
        "    def quantize(self, model, images, bits, config, context):\n"
        "        if config.moods == 2:\n"
        "            raise ArithmeticError('not today')\n"
        "        return super().quantize(model, images, bits, config, context)\n"
        "BACKENDS.register('fussy', Fussy)\n"
    )
    words = ["--method", "noise", "--backend", "fussy", "--plugin", str(plugin), "--scheduler", "asha"]
    words += ["--limit", "64", "--samples", "6", "--device", "cpu", "--cpus-per-trial", "1"]
    done = python("-m", "harness.search", "--results", str(tmp_path / "results"), *words)
    found = records_of(tmp_path / "results")
    failed = [record for record in found.values() if record["status"] == "failed"]
    assert done.code == 1, done.err
    assert [record["config"]["backend"]["moods"] for record in failed] == [2]
    assert "failed: ArithmeticError: not today (fussy.moods=2)" in done.out
    sizes: dict[int, list[int]] = {}
    for record in found.values():
        if record["status"] == "ok":
            sizes.setdefault(record["config"]["backend"]["moods"], []).append(record["metrics"]["n"])
    assert all(sorted(seen) == [8, 16, 32, 64][: len(seen)] for seen in sizes.values())
    assert any(len(seen) == 4 for seen in sizes.values())
