"""The ablation command: the method's rows as ordinary cells, beside the paper's figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from harness_kit import Outcome, records_of, run_here

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
        assert cells[1] == f"{by_row[row.name]['metrics']['top1']:.2f}"
        assert cells[3] == f"{row.reported:.2f}"


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
