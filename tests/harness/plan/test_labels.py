"""Labels of jobs tell apart what runs beside one another."""

from __future__ import annotations

from harness.plan.jobs import differing, setting_text


def test_only_what_differs_is_told() -> None:
    tables: list[dict[str, object]] = [{"a": 1, "b": True}, {"a": 1, "b": False}, {"a": 1, "c": 0.5}]
    assert differing(tables) == ["b=true", "b=false", "c=0.5"]
    assert differing([{"a": 1}, {"a": 1}]) == ["", ""]
    assert differing([]) == []


def test_equal_values_of_other_types_are_others() -> None:
    assert differing([{"a": 1}, {"a": True}]) == ["a=1", "a=true"]


def test_values_are_written_as_they_are_typed() -> None:
    assert [setting_text(value) for value in (True, 1e-5, 3, "one")] == ["true", "1e-05", "3", "one"]
