"""The nearest known name is the one a person meant."""

from __future__ import annotations

import pytest

from methods.errors import unknown_name

SETTINGS = ["jitter", "iterations", "images", "learning_rate", "alpha1", "regions", "region_schedule"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("iters", "iterations"),
        ("iteration", "iterations"),
        ("imgs", "images"),
        ("lerning_rate", "learning_rate"),
        ("jiter", "jitter"),
        ("alpha", "alpha1"),
        ("regionschedule", "region_schedule"),
    ],
)
def test_the_nearest_name_is_suggested(given: str, meant: str) -> None:
    assert f"Did you mean {meant!r}?" in str(unknown_name("setting", given, SETTINGS))


@pytest.mark.parametrize("given", ["qqqq", "xyz", ""])
def test_nothing_near_suggests_nothing(given: str) -> None:
    assert "Did you mean" not in str(unknown_name("setting", given, SETTINGS))


def test_all_known_names_are_listed() -> None:
    assert str(unknown_name("thing", "c", ["b", "a"])).endswith("Known: a, b.")
    assert str(unknown_name("thing", "c", [])).endswith("Known: none.")
