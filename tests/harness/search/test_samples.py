"""Samples found among records, their order, the Pareto set, and which settings mattered."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_kit import SHA, make_record, python
from msgspec.structs import replace

from harness.record.record import Config, Record
from harness.search.importance import Importance, importances
from harness.search.report import best_toml, draw_search, samples_grid
from harness.search.search import Sample, Search, find_samples, pareto, ranked, read_searches, write_search
from harness.search.space import Dimension

SEARCH = Search(
    model="vit_x",
    method="noise",
    backend="minmax",
    bits="w4a4",
    seeds=[0, 1],
    metrics=["agreement"],
    space={"noise.a": Dimension((), 0.0, 1.0), "noise.b": Dimension((1, 2, 3))},
    base={"minmax.c": "x"},
    start={"noise.a": 0.5, "noise.b": 2},
    images=[{"name": "val", "n": 50, "sha256": "5" * 64}, {"name": "val", "n": 100, "sha256": SHA}],
    weights_sha256="w" * 64,
    versions=[1, 1],
    data_free=True,
    tuned_on_test=False,
)


def record(a: float, b: int, seed: int, agreement: float, time: str = "1", **changes: Any) -> Record:
    """Return a record of a sample of SEARCH; `overrides` holds what differs from the defaults a = 0, b = 1."""
    overrides = {"minmax.c": "x", **({"noise.a": a} if a else {}), **({"noise.b": b} if b != 1 else {})}
    words: dict[str, Any] = {"overrides": overrides, "agreement": agreement, "top1": None, "fp32": None} | changes
    made = make_record(f"{a} {b} {seed} {words}", seed=seed, **words)
    config = Config({"a": a, "b": b, "z": 0}, {"c": "x"})
    return replace(made, config=config, provenance=replace(made.provenance, time=time))


def test_samples_are_found_by_what_they_are() -> None:
    strangers = [
        record(0.1, 1, 2, 90),  # another seed
        record(0.1, 1, 0, 90, model="vit_y"),
        record(0.1, 1, 0, 90, bits="w8a8"),
        record(0.1, 1, 0, 90, method_version=2),
        record(0.1, 1, 0, 90, weights="v" * 64),
        record(0.1, 1, 0, 90, data_sha256="0" * 64),
        record(1.1, 1, 0, 90),  # outside the space
        record(0.1, 4, 0, 90),
        record(0.1, 1, 0, 90, overrides={"noise.a": 0.1}),  # without the settings of all samples
        record(0.1, 1, 0, 90, overrides={"noise.a": 0.1, "minmax.c": "x", "noise.z": 1}),
    ]
    own = [
        record(0.5, 2, 0, 60, "3"),
        record(0.5, 2, 1, 70, "4"),
        record(0.0, 1, 0, 80, "1"),
        record(0.0, 1, 1, 81, "9"),
        record(0.0, 1, 0, 84, "1", n=50, data_sha256="5" * 64),
        record(0.2, 3, 0, 99, "5", n=50, data_sha256="5" * 64),
        record(0.2, 3, 1, 98, "5", n=50, data_sha256="5" * 64),
        record(0.2, 3, 0, 99, "6"),  # the second seed is missing on all images
        record(0.3, 3, 0, 50, "7"),
        record(0.4, 3, 0, 50, "8", status="failed"),
    ]
    found = find_samples(SEARCH, [*strangers, *own])
    assert [(s.settings["noise.a"], s.settings["noise.b"]) for s in found] == [
        (0.0, 1),
        (0.5, 2),
        (0.2, 3),
        (0.3, 3),
        (0.4, 3),
    ]
    assert [s.values and s.values["agreement"] for s in found] == [80.5, 65.0, 98.5, None, None]
    assert [s.n for s in found] == [100, 100, 50, 0, 0]
    assert (found[0].sds or {})["agreement"] == pytest.approx(0.5**0.5)
    assert [s.error for s in found] == [None, None, None, None, "RuntimeError: boom"]
    assert [s.number for s in ranked(SEARCH, found)] == [0, 1, 2], "what was stopped early comes last"
    grid = samples_grid(SEARCH, found)
    assert [row[0].text for row in grid.body] == ["0", "1 (defaults)", "2", "4"]
    assert [row[0].strong for row in grid.body] == [True, False, False, False]


def test_a_metric_that_is_not_finite_makes_a_failed_sample() -> None:
    by_kl = dataclasses.replace(SEARCH, metrics=["kl"], seeds=[0])
    broken = record(0.1, 1, 0, 90, kl=None)
    fine = record(0.2, 1, 0, 10, kl=0.5)
    worse = record(0.3, 1, 0, 90, kl=0.7)
    found = find_samples(by_kl, [broken, fine, worse])
    assert [s.settings["noise.a"] for s in ranked(by_kl, found)] == [0.2, 0.3], "less divergence is better"
    [failed] = [s for s in found if s.error]
    assert failed.error == "there is no finite kl"


def test_the_best_settings_are_written_with_those_of_all_samples() -> None:
    words = dataclasses.replace(SEARCH, base={"minmax.c": 'a "b"', "noise.on": True, "noise.rate": 1e-5})
    text = best_toml(words, [Sample(0, {"noise.a": 0.25, "noise.b": 3}, 100, {"agreement": 80.0})])
    assert text.split("\n\n", 1)[1] == (
        '[minmax]\nc = "a \\"b\\""\n\n[noise]\na = 0.25\nb = 3\non = true\nrate = 1e-05\n'
    )
    assert all(line.startswith("#") for line in text.splitlines()[:2])


def samples_of(pairs: list[tuple[float, float]]) -> list[Sample]:
    return [Sample(i, {}, 100, {"agreement": a, "seconds": s}) for i, (a, s) in enumerate(pairs)]


def test_the_pareto_set_is_what_no_other_sample_beats() -> None:
    both = dataclasses.replace(SEARCH, metrics=["agreement", "seconds"])
    rng = np.random.default_rng(0)
    for _ in range(50):
        pairs = [(float(a), float(s)) for a, s in rng.integers(0, 8, (12, 2))]
        expected = {
            i for i, (a, s) in enumerate(pairs) if not any(x >= a and y <= s and (x, y) != (a, s) for x, y in pairs)
        }
        found = pareto(both, samples_of(pairs))
        assert {sample.number for sample in found} == expected
        values = [pairs[sample.number][0] for sample in found]
        assert values == sorted(values, reverse=True)


def test_what_mattered_is_told_from_what_did_not() -> None:
    wide = dataclasses.replace(
        SEARCH,
        space={"m.a": Dimension((), 0.0, 1.0), "m.b": Dimension((), 0.0, 1.0), "m.word": Dimension(("x", "y"))},
    )
    rng = np.random.default_rng(0)
    samples = []
    for number in range(60):
        point: dict[str, Any] = {
            "m.a": float(rng.random()),
            "m.b": float(rng.random()),
            "m.word": str(rng.choice(["x", "y"])),
        }
        value = 50 - 20 * point["m.a"] + (10 if point["m.word"] == "y" else 0)
        samples.append(Sample(number, point, 100, {"agreement": value}))
    early = Sample(60, {"m.a": 1.0, "m.b": 0.0, "m.word": "y"}, 50, {"agreement": 1000.0})
    found = importances(wide, [*samples, early])
    shares = {name: share or 0.0 for name, (share, _) in found.items()}
    assert sum(shares.values()) == pytest.approx(1)
    # Shuffling a column that adds variance v costs 2 v: 400 / 12 of a, 100 / 4 of the word, in shares 0.57 and 0.43.
    assert shares["m.a"] == pytest.approx(0.57, abs=0.12)
    assert shares["m.word"] == pytest.approx(0.43, abs=0.12)
    assert shares["m.b"] < 0.03
    ranks = np.argsort(np.argsort([s.settings["m.a"] for s in samples]))
    gains = np.argsort(np.argsort([(s.values or {})["agreement"] for s in samples]))
    assert found["m.a"][1] == pytest.approx(np.corrcoef(ranks, gains)[0, 1])
    assert found["m.word"][1] is None, "words have no order"
    assert importances(wide, samples[:3]) == dict.fromkeys(wide.space, (None, None))


def test_the_picture_is_the_same_for_the_same_records() -> None:
    samples = [*samples_of([(50.0 + i, 1.0) for i in range(5)]), Sample(5, {}, 50, {"agreement": 1.0, "seconds": 1.0})]
    found: dict[str, Importance] = {"noise.a": (0.75, 0.1), "noise.b": (0.25, None)}
    first, second = (draw_search(SEARCH, samples, found).decode() for _ in range(2))
    assert first == second
    assert {"noise.a", "noise.b", "importance for agreement", "stopped early", "best so far"} <= {
        line.partition(">")[2].partition("<")[0] for line in first.splitlines() if "<text" in line
    }


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = write_search(tmp_path, SEARCH)
    assert read_searches(tmp_path) == {folder: SEARCH}
    assert folder.name.startswith("vit_x_w4a4_noise_minmax_agreement_")
    assert dataclasses.replace(SEARCH, seeds=[0]).label() != SEARCH.label()


def test_tables_need_no_torch(tmp_path: Path) -> None:
    write_search(tmp_path, SEARCH)
    script = (
        "import sys; from harness.search import __main__ as search\n"
        f"code = search.main(['--results', {str(tmp_path)!r}, '--table-only']); print(code, 'torch' in sys.modules)"
    )
    done = python("-c", script)
    sentence, end = done.out.splitlines()
    assert sentence == f"No sample of {SEARCH.label()} has finished."
    assert end == "0 False"
