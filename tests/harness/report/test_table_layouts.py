"""Layouts, filters, metrics and pairs: tables other than the plain one."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from harness_kit import best, correct, make_record, many_records, run_leaderboard, texts
from rich.console import Console

from harness.report.formats.console import print_table
from harness.report.formats.markdown import markdown
from harness.report.layout import Layout
from harness.report.report import pair_grids, pairs
from harness.report.tables import leaderboards
from methods.errors import UsageError


def test_kept_is_the_mean_share_of_fp32_accuracy() -> None:
    records = [
        make_record("a", bits="w4a4", top1=40.0),
        make_record("b", bits="w4a4", seed=1, top1=60.0),
        make_record("c", bits="w8a8", top1=80.0),
        make_record("d", method="real", bits="w8a8", top1=80.0),
    ]
    [table] = leaderboards(records)
    assert [row[0] for row in table.rows] == ["FP32", "noise + minmax", "real + minmax"]
    assert table.kept == [None, pytest.approx((62.5 + 100) / 2), None]


def test_layout_makes_rows_and_columns_and_adds_what_tells_apart() -> None:
    records = [
        make_record("a", model="vit_a", method="noise", top1=10.0),
        make_record("b", model="vit_b", method="noise", top1=20.0),
        make_record("c", model="vit_a", method="real", top1=30.0),
        make_record("d", model="vit_a", method="real", backend="other", top1=40.0),
    ]
    [table] = leaderboards(records, Layout(rows=("model",), columns=("method",)))
    assert table.columns == ["noise", "real"]
    assert texts(table) == {
        "vit_a minmax": ["10.00", "30.00"],
        "vit_a other": [None, "40.00"],
        "vit_b": ["20.00", None],
    }


def test_filters_take_lists_and_globs() -> None:
    records = [
        make_record(f"{m}{s}", method=m, seed=s, top1=10.0 * s) for m in ("noise", "real", "none") for s in (1, 2, 3)
    ]
    [table] = leaderboards(records, Layout(filters=("method=no*", "seed=1,3")))
    assert texts(table)["noise + minmax"] == ["20.00 ± 14.14"]
    assert sorted(texts(table)) == ["FP32", "noise + minmax", "none + minmax"]


def test_another_metric_is_shown_with_its_own_best() -> None:
    records = [make_record("a"), make_record("b", method="real", kl=0.125)]
    [table] = leaderboards(records, Layout(metric="kl"))
    assert table.title == "KL divergence from FP32, nats - val, n = 100"
    assert texts(table) == {"real + minmax": ["0.1250"], "noise + minmax": ["0.2500"]}
    assert best(table) == {"real + minmax": [True], "noise + minmax": [False]}


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (Layout(rows=("metod",)), "Unknown field 'metod'. Did you mean 'method'?"),
        (Layout(columns=("top1",)), "top1 is none of them"),
        (Layout(rows=("model",)), "model cannot make both rows and columns."),
        (Layout(metric="kll"), "Unknown metric 'kll'. Did you mean 'kl'?"),
        (Layout(filters=("bits",)), "is not of the form field=value"),
        (Layout(filters=("bit=w4a4",)), "Unknown field 'bit'. Did you mean 'bits'?"),
        (Layout(filters=("bits=w5a5",)), "No measurement is left by --filter 'bits=w5a5'."),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(layout: Layout, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        leaderboards([make_record("a")], layout)
    assert sentence in str(caught.value)


def test_a_metric_nobody_has_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="No measurement has a value of top1"):
        leaderboards([make_record("a", top1=None, fp32=None)], Layout(metric="top1"))


def test_markdown_escapes_markup_in_names() -> None:
    [table] = leaderboards([make_record("a", method="<b>*x*|`y`\n")])
    assert "| &lt;b>\\*x\\*\\|\\`y\\`\\\\n + minmax | **50.00** |" in markdown([table.grid()])


def test_pairs_are_all_pairs_of_a_column_with_holm_over_them() -> None:
    records = [
        make_record(f"{method}{seed}", method=method, seed=seed, hits=correct(100, hits + seed))
        for method, hits in (("a", 80), ("b", 74), ("c", 60))
        for seed in (0, 1)
    ]
    [table] = leaderboards(records)
    found = {(pair.a[0], pair.b[0]): pair for pair in pairs(table)}
    assert sorted(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    pair = found["a", "b"]
    assert pair.result.difference == pytest.approx(6.0)
    assert (pair.result.only_a, pair.result.only_b) == (12, 0)
    assert pair.result.by_seed == pytest.approx({0: 6.0, 1: 6.0})
    # Nested hits of both seeds: 5 images differ under both, 2 under one; all signs alike in 2 of 2^7.
    assert pair.result.p == pytest.approx(2 / 2**7)
    assert pair.p_holm == pytest.approx(2 / 2**7)  # the largest of the three
    [grid] = pair_grids(table)
    row = next(row for row in grid.body if row[0].text.startswith("a") and row[1].text.startswith("b"))
    assert [word.text for word in row[2:]] == ["+6.00", "12", "0", "0.0156", "0.0156", "+6.00, +6.00"]
    assert row[2].strong


def test_agreement_asked_for_where_labels_are_known_does_not_say_there_are_none() -> None:
    for top1, said in ((50.0, False), (None, True)):
        [table] = leaderboards([make_record("a", top1=top1)], Layout(metric="agreement"))
        assert any("No labels" in note for note in table.notes) is said


@pytest.mark.parametrize(("terminal", "star"), [("xterm", False), ("dumb", True)])
def test_a_star_stands_for_bold_on_a_terminal_without_it(terminal: str, star: bool) -> None:
    out = StringIO()
    [table] = leaderboards([make_record("a")])
    print_table(table, Console(file=out, force_terminal=True, width=80, _environ={"TERM": terminal}))
    assert ("*50.00" in out.getvalue()) is star
    assert ("Bold: " in out.getvalue()) is not star


def test_a_thousand_records_all_reach_the_table(tmp_path: Path) -> None:
    many_records(tmp_path, 1000)
    done = run_leaderboard(str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert done.out.count("± ") == 200 + 1  # 5 methods, 10 models and 4 widths, each the mean of 5 seeds; and the note
    assert "m4 + minmax" in done.out
