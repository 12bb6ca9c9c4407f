"""`--list settings`: what each setting means is read where it is written."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from harness_kit import run_bench

from harness.cli.settings_list import meanings_of
from harness.inputs import plugins as catalog
from methods.contracts import Backend, Method
from methods.registry import BACKENDS, METHODS

catalog.load()
OWNERS: list[Method | Backend] = [*map(METHODS.get, METHODS.names()), *map(BACKENDS.get, BACKENDS.names())]


@dataclass(frozen=True)
class Below:
    """Settings."""

    steps: int = 3
    """Adam's steps
    (paper: 3)."""
    rate: float = 0.1


@dataclass(frozen=True)
class Paragraph(Below):
    """Settings. rate, warmup: peak rate (paper: 0.1), and the share it
    rises over; flip: see `a: b`."""

    warmup: float = 0.0
    flip: bool = False


def test_texts_below_fields_and_in_paragraphs_are_read() -> None:
    assert meanings_of(Below) == {"steps": "Adam's steps (paper: 3)."}
    shared = "peak rate (paper: 0.1), and the share it rises over"
    assert meanings_of(Paragraph) == {
        "steps": "Adam's steps (paper: 3).",
        "rate": shared,
        "warmup": shared,
        "flip": "see `a: b`",
    }


def test_every_setting_is_listed_with_its_defaults(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--list", "settings")
    assert done.code == 0, done.err
    rows = [[word.strip() for word in line.strip("│").split("│")] for line in done.out.splitlines() if line[:1] == "│"]
    assert [row[0] for row in rows] == [f"{o.name}.{part.name}" for o in OWNERS for part in fields(o.config_class)]
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["spdfq.iterations"][:2] == ["1000; 100 for vit_digits, swin_digits", "a whole number"]
    assert by_name["spdfq.apa"][:2] == ["true", "true or false"]
    assert "paper: 0.05" in by_name["spdfq.tv_weight"][2]


def test_every_setting_of_this_project_has_a_meaning() -> None:
    lacking = [
        f"{owner.name}.{part.name}"
        for owner in OWNERS
        for part in fields(owner.config_class)
        if not meanings_of(owner.config_class).get(part.name)
    ]
    assert lacking == []


def test_the_verbose_list_of_methods_has_their_settings_and_what_they_mean(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--list", "methods", "--verbose")
    assert done.code == 0, done.err
    assert "spdfq.alpha1" in done.out and "blockwise.iterations" not in done.out
    assert meanings_of(METHODS.get("smi").config_class)["prune_ratio"] in done.out
