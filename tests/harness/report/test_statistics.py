"""Paired tests against statsmodels, scipy, enumeration and simulated tables where the truth is known; and charts."""

from __future__ import annotations

import itertools
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from harness.report.formats.plots import BOTTOM, HEIGHT, TOP, Point, Series, by_cost, curve
from harness.report.statistics import LEVEL, Hits, front, holm, leaders, paired, sign_flip_p


@pytest.mark.parametrize("seed", range(5))
def test_one_seed_is_mcnemars_exact_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for only_a, only_b in rng.integers(0, 300, (40, 2)).tolist():
        gaps = np.array([1] * only_a + [-1] * only_b + [0] * 20)
        expected = mcnemar([[5, only_a], [only_b, 5]], exact=True).pvalue
        assert sign_flip_p(rng.permutation(gaps)) == pytest.approx(expected, abs=1e-12)


def test_a_difference_far_beyond_doubt_is_not_below_zero() -> None:
    p = sign_flip_p(np.array([1] * 900 + [-1] * 300))
    assert 0 <= p < 1e-12
    assert binomtest(300, 1200).pvalue < 1e-60


@pytest.mark.parametrize(
    "gaps", [[2, 1, -1, 3], [3, 3, 3], [1, -1], [0, 0], [], [5, -2, 0, 1, 1, -1, 2, 4], [2, 2, 2, 2, -2, 2, 2]]
)
def test_several_seeds_are_all_signs_counted(gaps: list[int]) -> None:
    sums = [
        sum(sign * gap for sign, gap in zip(signs, gaps, strict=True))
        for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    expected = sum(abs(total) >= abs(sum(gaps)) for total in sums) / len(sums)
    assert sign_flip_p(np.array(gaps, dtype=np.int64)) == pytest.approx(expected, abs=1e-12)


def bits(text: str) -> Hits:
    return np.array([int(sign) for sign in text], dtype=np.int8)


def test_a_comparison_by_hand() -> None:
    a = {0: bits("11110"), 1: bits("11000"), 7: bits("00000")}
    b = {0: bits("10000"), 1: bits("10001"), 3: bits("11111")}
    found = paired(a, b)
    assert found is not None
    assert (found.only_a, found.only_b) == (4, 1)
    assert found.difference == pytest.approx(30.0)  # (3 - 0 + 1 - 1) of 10
    assert found.by_seed == pytest.approx({0: 60.0, 1: 0.0})
    # Per image 0, 2, 1, 1, -1, so of 16 choices of signs 5 comes once, 3 three times, and both as often negative.
    assert found.p == pytest.approx(8 / 16)


def test_no_seed_in_common_is_no_comparison() -> None:
    assert paired({0: bits("10")}, {1: bits("10")}) is None
    assert paired({}, {0: bits("10")}) is None


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_statsmodels(seed: int) -> None:
    values = (np.random.default_rng(seed).random(12) ** 3).tolist()
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist())


def test_holm_of_a_part_of_a_family_takes_the_others_to_rank_last() -> None:
    assert holm([0.01, 0.001, 0.2], comparisons=6) == pytest.approx([0.05, 0.006, 0.8])
    padded = multipletests([0.01, 0.001, 0.2, 1.0, 1.0, 1.0], method="holm")[1][:3]
    assert holm([0.01, 0.001, 0.2], comparisons=6) == pytest.approx(padded.tolist())
    assert holm([]) == []


def simulated(rng: np.random.Generator, ease: list[float], images: int, seeds: int) -> list[dict[int, Hits]]:
    """Return rows of mean ease `ease` on common images, each of its own difficulty, alike under all seeds of a row."""
    difficulty = rng.normal(0, 1, images)
    rows = []
    for row in ease:
        taste = rng.normal(0, 1, images)  # what this row finds easy, the same under all its seeds
        hits = {seed: difficulty + taste + rng.normal(0, 0.5, images) < row for seed in range(seeds)}
        rows.append({seed: right.astype(np.int8) for seed, right in hits.items()})
    return rows


def adjusted(rows: list[dict[int, Hits]]) -> list[float | None]:
    return leaders(rows, [float(np.mean([right.mean() for right in row.values()])) for row in rows])


def test_of_1000_tables_without_a_difference_at_most_5_percent_show_one() -> None:
    rng = np.random.default_rng(0)
    tables = [simulated(rng, [0.5] * (2 + turn % 5), images=100, seeds=1 + turn % 3) for turn in range(1000)]
    wrong = sum(any(p is not None and p <= LEVEL for p in adjusted(rows)) for rows in tables)
    assert wrong <= 50
    assert wrong >= 5  # a test that never speaks would pass the line above


def test_pooling_seeds_into_one_mcnemar_table_would_invent_differences() -> None:
    rng = np.random.default_rng(1)
    ours = naive = 0
    for _ in range(300):
        first, second = simulated(rng, [0.5, 0.5], images=200, seeds=5)
        found = paired(first, second)
        assert found is not None
        ours += found.p <= LEVEL
        naive += mcnemar([[0, found.only_a], [found.only_b, 0]], exact=True).pvalue <= LEVEL
    assert ours <= 21  # 15 expected at most; 21 is its 95 % bound
    assert naive > 60


def test_known_differences_are_found() -> None:
    rng = np.random.default_rng(2)
    found = missed = 0
    for _ in range(100):
        rows = simulated(rng, [1.2, 1.2, 0.3, -0.5], images=400, seeds=2)
        worse = [p is not None and p <= LEVEL for p in adjusted(rows)]
        found += worse[2] and worse[3]
        missed += worse[0] or worse[1]
    assert found >= 98
    assert missed <= 5


def test_the_leader_is_not_worse_than_itself_and_rows_without_common_seeds_are_not_tested() -> None:
    rows = [{0: bits("1100")}, {0: bits("1111")}, {5: bits("1000")}, {}]
    assert leaders(rows, [50.0, 100.0, 25.0, 10.0]) == [1.0, 1.0, None, None]


def test_the_family_is_all_pairs() -> None:
    rng = np.random.default_rng(3)
    rows = simulated(rng, [0.9, 0.6, 0.0], images=300, seeds=1)
    raw = [paired(rows[0], row) for row in rows[1:]]
    expected = multipletests([*(found.p for found in raw if found), 1.0], method="holm")[1][:2]
    assert leaders(rows, [3.0, 2.0, 1.0])[1:] == pytest.approx(expected.tolist())


def test_pareto_front_by_hand() -> None:
    points = ((1, 5), (2, 4), (2, 7), (3, 7), (4, 9), (1, 3))
    assert front(points) == [(1, 5), (2, 7), (4, 9)]
    drawn = [Point(1, 5, "a"), Point(2, 4, "b"), Point(3, 7, "c")]
    plot = by_cost("t", "s", [Series("x", drawn, joined=False)], [Series("", drawn)])
    [(series, path)] = plot.lines
    assert series is None
    assert path.split() == [f"{mark.x},{mark.y}" for mark in plot.marks if mark.label != "b"]


@pytest.mark.parametrize("values", [(88.2, 99.8), (0.1, 40.0), (99.9, 100.0), (0.0, 0.0), (101.6, 43.0)])
def test_a_scale_of_percentages_stays_between_0_and_100(values: tuple[float, float]) -> None:
    plot = by_cost("t", "s", [Series("x", [Point(1, value, "", error=9.0) for value in values])])
    ticks = [float(text) for _, text in plot.y_ticks]
    assert 0 <= ticks[0] < ticks[-1] <= 100
    assert 2 <= len(ticks) <= 8
    for mark in plot.marks:
        assert TOP <= mark.y <= HEIGHT - BOTTOM
        assert mark.low is None or TOP <= mark.low <= HEIGHT - BOTTOM


def test_labels_are_kept_apart_and_inside_the_chart() -> None:
    series = [Series(f"m{number}", [Point(1, 50.0 + number / 10, "")]) for number in range(10)]
    plot = by_cost("t", "s", [*series, Series("", [Point(2, 3, "grey", run=7)])])
    places = [label.y for label in plot.labels]
    assert [label.text for label in plot.labels] == [f"m{number}" for number in reversed(range(8))]  # eight in colour
    assert min(b - a for a, b in pairwise(places)) >= 15
    assert places[-1] <= HEIGHT - BOTTOM
    assert {mark.run for mark in plot.marks if mark.series is None} == {None, 7}
    assert plot.marks[0].series is None  # grey lies below
    assert plot.marks[-1].series is not None


def test_a_curve_spans_its_box() -> None:
    assert curve([4.0, 2.0, 0.0], 220, 60) == "0.0,0.0 110.0,30.0 220.0,60.0"
    assert curve([1.0, 1.0], 220, 60) == "0.0,60.0 220.0,60.0"
    assert len(curve([float(n) for n in range(1000)]).split()) == 220
