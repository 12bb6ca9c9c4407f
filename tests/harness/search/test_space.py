"""Spaces from declarations and files, and what searchers propose in them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.inputs import plugins as catalog
from harness.search.proposals import Halving, grid_points, propose
from harness.search.space import Dimension, Space, read_space, start_point
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS

catalog.load()
OWNERS = METHODS.get("spdfq"), BACKENDS.get("blockwise")


def written(folder: Path, text: str) -> Path:
    path = folder / "space.toml"
    path.write_text(text)
    return path


def test_a_space_is_what_method_and_backend_declare() -> None:
    space = read_space(OWNERS, {}, None)
    assert list(space) == sorted(f"{owner.name}.{key}" for owner in OWNERS for key in owner.space)
    assert space["spdfq.alpha1"] == Dimension((), 1.0, 1e5, log=True)
    assert space["spdfq.regions"] == Dimension((1, 2, 4, 6))
    assert space["blockwise.iterations"] == Dimension((), 0, 400, whole=True)


def test_a_file_replaces_and_adds_and_what_is_set_is_left_out(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "[spdfq]\nalpha1 = { min = 10, max = 1e3 }\nimages = { choices = [8, 16, 8] }\napa = { choices = [true] }\n",
    )
    space = read_space(OWNERS, {"blockwise": {"iterations": 3}, "spdfq": {"eps1": 5.0}}, file)
    assert space["spdfq.alpha1"] == Dimension((), 10.0, 1e3)
    assert type(space["spdfq.alpha1"].low) is float, "in the type of the setting"
    assert space["spdfq.images"] == Dimension((8, 16))
    assert space["spdfq.apa"] == Dimension((True,))
    assert {"blockwise.iterations", "spdfq.eps1"} & set(space) == set()
    assert "blockwise.learning_rate" in space


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[spdqf]\nalpha1 = { min = 1, max = 2 }", "Unknown method or backend of this search 'spdqf'. Did you mean"),
        ("[spdfq]\nalpha2 = { min = 1, max = 2 }", "Unknown setting of spdfq 'alpha2'. Did you mean 'alpha1'?"),
        ("[spdfq]\nalpha1 = 3", "The space of spdfq.alpha1 is not of the form"),
        ("[spdfq]\nalpha1 = { min = 1, maximum = 2 }", "Unknown word in the space of spdfq.alpha1 'maximum'."),
        ("[spdfq]\nalpha1 = { min = 1 }", "The space of spdfq.alpha1 lacks its min or its max."),
        ("[spdfq]\nalpha1 = { min = 2, max = 2 }", "needs min < max"),
        ('[spdfq]\nalpha1 = { min = 0, max = 2, scaling = "log" }', "min > 0 on a log scale"),
        ('[spdfq]\nalpha1 = { min = 0, max = 2, scaling = "lag" }', "Unknown scaling of spdfq.alpha1 'lag'."),
        ("[spdfq]\nalpha1 = { min = 1, max = 2, points = 1 }", "a whole number of 2 or more"),
        ("[spdfq]\nimages = { min = 1.5, max = 2 }", "spdfq.images must be a whole number, not 1.5."),
        ("[spdfq]\nimages = { choices = [] }", "has choices, which are a list and stand alone"),
        ("[spdfq]\nimages = { choices = [4], min = 1 }", "has choices, which are a list and stand alone"),
        ("[spdfq]\nimages = { choices = ['a'] }", "spdfq.images must be a whole number, not 'a'."),
        ("[spdfq]\napa = { min = 1, max = 2 }", "The space of spdfq.apa needs choices"),
        ("alpha1 = 3", "outside a table"),
    ],
)
def test_what_is_no_space_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_space(OWNERS, {}, written(tmp_path, text))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_first_point_is_the_defaults_or_their_nearest_neighbours() -> None:
    configs = {owner.name: owner.default_config("vit_digits") for owner in OWNERS}
    space = read_space(OWNERS, {}, None)
    point = start_point(space, configs)
    assert point == {name: getattr(configs[name.split(".")[0]], name.split(".")[1]) for name in space}
    narrow = {
        "spdfq.alpha1": Dimension((), 200.0, 300.0),
        "spdfq.images": Dimension((4, 24, 64)),
        "spdfq.precision": Dimension(("bf16",)),
        "spdfq.regions": Dimension((), 1, 3, whole=True),
    }
    assert start_point(narrow, configs) == {
        "spdfq.alpha1": 200.0,
        "spdfq.images": 24,
        "spdfq.precision": "bf16",
        "spdfq.regions": 3,
    }


SPACE: Space = {
    "a.choice": Dimension(("x", "y")),
    "a.log": Dimension((), 1e-4, 1.0, log=True),
    "a.whole": Dimension((), 0, 10, whole=True, points=5),
}
START: dict[str, Any] = {"a.choice": "y", "a.log": 1e-2, "a.whole": 3}


def test_random_draws_are_spread_evenly_and_do_not_depend_on_what_was_found() -> None:
    drawn = [propose("random", SPACE, START, [(START, (1.0,))] * n, 0, 1) for n in range(1, 401)]
    assert drawn[:5] == [propose("random", SPACE, START, [({}, None)] * n, 0, 1) for n in range(1, 6)]
    assert drawn[:5] != [propose("random", SPACE, START, [({}, None)] * n, 1, 1) for n in range(1, 6)]
    points = [point for point in drawn if point]
    powers = np.log10([point["a.log"] for point in points])
    assert np.histogram(powers, 4, (-4, 0))[0].min() > 75, "100 of 400 in every decade, sd 8.7"
    assert np.bincount([point["a.whole"] for point in points]).min() > 15, "36 of each, sd 5.8"
    assert len(np.bincount([point["a.whole"] for point in points])) == 11
    assert 150 < sum(point["a.choice"] == "x" for point in points) < 250


def test_grids_run_from_end_to_end() -> None:
    assert SPACE["a.whole"].grid() == [0, 2, 5, 8, 10]
    assert SPACE["a.log"].grid() == pytest.approx([1e-4, 1e-2, 1.0])
    assert [SPACE["a.log"].grid()[0], SPACE["a.log"].grid()[-1]] == [1e-4, 1.0]
    assert Dimension((), 1, 2, whole=True).grid() == [1, 2]


def test_a_grid_search_goes_through_all_points_once() -> None:
    history: list[tuple[dict[str, Any], tuple[float, ...] | None]] = []
    while (point := propose("grid", SPACE, START, history, 0, 1)) is not None:
        history.append((point, None))
    tried = [tuple(point.values()) for point, _ in history]
    expected = set(itertools.product(["x", "y"], SPACE["a.log"].grid(), [0, 2, 5, 8, 10]))
    assert tried[0] == ("y", 1e-2, 3)
    assert len(tried) == len(set(tried)) == 31
    assert set(tried[1:]) == expected
    assert grid_points(SPACE, history[4][0])[0] == history[4][0]
    assert len(grid_points(SPACE, history[4][0])) == 30, "a first point on the grid is not tried twice"


def test_optuna_learns_from_what_was_found_and_stays_inside() -> None:
    pytest.importorskip("optuna")
    history: list[tuple[dict[str, Any], tuple[float, ...] | None]] = []
    for _ in range(40):
        point = propose("optuna", SPACE, START, history, 0, 1)
        assert point is not None
        assert all(value in SPACE[name] for name, value in point.items())
        history.append((point, (-abs(np.log10(point["a.log"]) + 3.0),) if point["a.whole"] != 7 else None))
    assert history[0][0] == START
    assert propose("optuna", SPACE, START, history, 0, 1) == propose("optuna", SPACE, START, history, 0, 1)
    late = [abs(np.log10(point["a.log"]) + 3.0) for point, _ in history[-15:]]
    assert np.median(late) < 0.5, "the optimum is at 1e-3; a random draw is 1.25 powers off"


def test_halving_stops_below_the_median_of_those_before() -> None:
    halving = Halving()
    values = [5.0, 4.0, 4.5, 4.4, 9.0, 4.6]
    assert [halving.keep(8, value) for value in values] == [True, False, True, False, True, True]
    assert halving.keep(16, -1.0), "the first on another rung"
