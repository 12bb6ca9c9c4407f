"""The ablation command: the method's rows as ordinary cells, beside the paper's figures."""

from __future__ import annotations

import base64
import dataclasses
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from harness_kit import Outcome, records_of, run_here
from numpy.typing import NDArray

from harness import ablation
from spdfq.ablation import ROWS
from spdfq.method import SPDFQConfig

TINY = ["--set", "spdfq.iterations=1", "--set", "spdfq.images=2", "--backend", "minmax", "--limit", "20"]


def run(results: Path, *words: str) -> Outcome:
    return run_here(ablation.main, ["--executor", "local", "--results", str(results), *TINY, *words])


def test_the_rows_are_the_papers_and_only_name_settings_that_exist() -> None:
    settings = {field.name for field in dataclasses.fields(SPDFQConfig)}
    assert all(set(row.settings) <= settings for row in ROWS)
    parts = {tuple(row.settings.values()) for row in ROWS if set(row.settings) == {"apa", "msr", "soft_labels"}}
    assert len(parts) == 8
    assert [row.name for row in ROWS if row.full] == ["APA + MSR + SL"]


def test_every_row_is_a_cell_and_prints_beside_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    outcome = run(tmp_path, "--model", "vit_digits", "--bits", "w4a4")
    assert outcome.code == 0, outcome.err
    records = records_of(tmp_path)
    changed = {frozenset(record["cell"]["overrides"].items()) for record in records.values()}
    assert len(records) == len(changed) == len(ROWS)
    by_row = {
        row.name: next(r for r in records.values() if _made_by(r["config"]["method"], row.settings)) for row in ROWS
    }
    for row in ROWS:
        line = next(line for line in outcome.out.splitlines() if line.strip("│ ").startswith(f"{row.name} "))
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[1:3] == ["1", f"{by_row[row.name]['metrics']['top1']:.2f}"]
        assert cells[5] == f"{row.reported:.2f}"


def test_rows_are_compared_with_the_full_method_image_by_image(tmp_path: Path) -> None:
    out = tmp_path / "ablation.md"
    outcome = run(tmp_path, "--model", "vit_digits", "--bits", "w2a2", "--seeds", "0,1", "--out", str(out))
    assert outcome.code == 0, outcome.err
    correct: dict[str, dict[int, NDArray[np.int64]]] = {}
    for record in records_of(tmp_path).values():
        name = next(row.name for row in ROWS if _made_by(record["config"]["method"], row.settings))
        bits = np.unpackbits(np.frombuffer(base64.b64decode(record["correct_bits"]), np.uint8), count=20)
        correct.setdefault(name, {})[record["cell"]["seed"]] = bits.astype(np.int64)
    full = correct["APA + MSR + SL"]
    lines = [
        [word.strip(" *") for word in line.split("|")[1:-1]] for line in out.read_text().splitlines() if "|" in line
    ]
    raw = {}
    for name, seeds in correct.items():
        summed = seeds[0] - full[0] + seeds[1] - full[1]
        raw[name] = _sign_flip_slow(summed)
        [line] = [line for line in lines if line[0] == name]
        values = [100 * float(seeds[seed].mean()) for seed in (0, 1)]
        assert line[1:3] == ["2", f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"]
        assert line[3] == ("-" if name == "APA + MSR + SL" else f"{100 * summed.sum() / 40:+.2f}")
    del raw["APA + MSR + SL"]
    floor = 0.0
    for rank, name in enumerate(sorted(raw, key=raw.__getitem__)):
        floor = max(floor, min(1.0, (len(raw) - rank) * raw[name]))
        [line] = [line for line in lines if line[0] == name]
        assert float(line[4].lstrip("<")) == pytest.approx(floor, abs=6e-5)
    assert len(set(raw.values())) > 1
    assert "Settings: minmax" not in out.read_text()
    assert "spdfq.images=2, spdfq.iterations=1" in out.read_text()


def _sign_flip_slow(differences: NDArray[np.int64]) -> float:
    """Count, over all choices of signs, how often the sum is at least as far from 0 as the one seen."""
    sizes = [abs(int(value)) for value in differences if value]
    sums = [
        sum(s * size for s, size in zip(signs, sizes, strict=True)) for signs in product((1, -1), repeat=len(sizes))
    ]
    return sum(abs(value) >= abs(int(differences.sum())) for value in sums) / len(sums)


def _made_by(config: dict[str, object], settings: dict[str, object]) -> bool:
    """Whether a config is the defaults with just these settings changed."""
    default = dataclasses.asdict(SPDFQConfig())
    wanted = {name: settings.get(name, default[name]) for name in ("apa", "msr", "soft_labels", "prior_law")}
    wanted |= {name: settings.get(name, default[name]) for name in ("depth_weight", "first_layer")}
    return all(config[name] == value for name, value in wanted.items())


def test_more_than_one_model_or_a_method_without_rows_is_refused(tmp_path: Path) -> None:
    for words in (["--model", "*_digits"], ["--method", "noise"], ["--bits", "w4a4,w8a8"]):
        outcome = run_here(ablation.main, ["--executor", "local", "--results", str(tmp_path / "r"), *words])
        assert outcome.code == 2
        assert "one model, one bit-width and one method" in outcome.err
    assert not (tmp_path / "r").exists()
