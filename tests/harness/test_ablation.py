"""The ablation command: the method's rows as ordinary cells, beside the paper's figures."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from harness_kit import Outcome, correct, make_record, records_of, run_here
from msgspec.structs import replace

from harness import ablation
from harness.record.record import Config, Record
from harness.report.ablations import ablation_grid, ablations
from spdfq.ablation import ROWS
from spdfq.config import SPDFQConfig
from spdfq.method import SPDFQ

TINY = ["--set", "spdfq.iterations=1", "--set", "spdfq.images=2", "--backend", "minmax", "--limit", "20"]
FULL = "APA + MSR + SL"


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
    outcome = run(tmp_path, "--model", "vit_digits", "--bits", "w4a4", "--out", str(tmp_path / "first.md"))
    assert outcome.code == 0, outcome.err
    again = run(tmp_path, "--table-only", "--out", str(tmp_path / "second.md"))
    assert again.code == 0, again.err
    assert (tmp_path / "first.md").read_text() == (tmp_path / "second.md").read_text()
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


def row_records(images: int, hits: dict[str, dict[int, list[bool]]]) -> list[Record]:
    """Return the records of rows of an ablation with so many images, given their correctness by row and seed."""
    return [
        replace(
            make_record(f"{images} {row.name} {seed}", method="spdfq", seed=seed, hits=found, overrides={"a": images}),
            config=Config(asdict(SPDFQConfig(images=images, **row.settings)), {}),
        )
        for row in ROWS
        for seed, found in hits.get(row.name, {}).items()
    ]


def test_rows_are_compared_with_the_full_method_image_by_image() -> None:
    shares = {row.name: 40 - 2 * place for place, row in enumerate(ROWS)}
    shares[FULL] = 42
    hits = {name: {seed: correct(60, count, seed) for seed in (0, 1)} for name, count in shares.items()}
    [found] = ablations(SPDFQ(), row_records(8, hits))
    grid = ablation_grid(found)
    raw = {}
    for row, words in zip(ROWS, grid.body, strict=True):
        gaps = [
            sum(pair) for pair in zip(*(_gaps(hits[row.name][seed], hits[FULL][seed]) for seed in (0, 1)), strict=True)
        ]
        raw[row.name] = _sign_flip_slow(gaps)
        values = [100 * sum(hits[row.name][seed]) / 60 for seed in (0, 1)]
        texts = [word.text for word in words]
        assert texts[:3] == [row.name, "2", f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"]
        assert texts[3] == ("-" if row.full else f"{100 * sum(gaps) / 120:+.2f}")
    del raw[FULL]
    floor, strong = 0.0, {FULL: False}
    for rank, name in enumerate(sorted(raw, key=raw.__getitem__)):
        floor = max(floor, min(1.0, (len(raw) - rank) * raw[name]))
        [words] = [words for words in grid.body if words[0].text == name]
        assert float(words[4].text.lstrip("<")) == pytest.approx(floor, abs=1e-4)
        strong[name] = floor <= 0.05
    assert {words[0].text: words[3].strong for words in grid.body} == strong
    assert len(set(strong.values())) == 2


def _gaps(a: list[bool], b: list[bool]) -> list[int]:
    return [int(x) - int(y) for x, y in zip(a, b, strict=True)]


def _sign_flip_slow(gaps: list[int]) -> float:
    """Count, over all choices of signs, how often the sum is at least as far from 0 as the one seen."""
    ways = Counter({0: 1})
    for size in (abs(gap) for gap in gaps if gap):
        ways = Counter(
            {total: ways[total - size] + ways[total + size] for old in ways for total in (old - size, old + size)}
        )
    return sum(count for total, count in ways.items() if abs(total) >= abs(sum(gaps))) / sum(ways.values())


def test_every_setting_of_the_full_method_with_further_rows_is_a_table_of_its_own() -> None:
    some = {name: {0: correct(10, 5)} for name in (FULL, "APA", "Laplace priors")}
    records = row_records(8, some) + row_records(16, some) + row_records(32, {FULL: some[FULL]})
    found = ablations(SPDFQ(), records)
    assert [[len(cells) for cells in one.cells] for one in found] == [[0, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]] * 2
    assert [ablation_grid(one).notes[-1] for one in found] == [f"Settings of all rows: a={n}." for n in (8, 16)]


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    outcome = run_here(ablation.main, ["--results", str(tmp_path), "--table-only"])
    assert outcome.code == 2
    assert "no two rows of the ablation of spdfq" in outcome.err


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
        assert "one model, one method" in outcome.err or "declares no ablation rows" in outcome.err
    assert not (tmp_path / "r").exists()
