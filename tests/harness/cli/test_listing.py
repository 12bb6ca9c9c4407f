"""`--list`: every checkpoint it names can be chosen, others are refused, none is forgotten; what each setting means is
read where it is written."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import timm
from harness_kit import run_bench, run_here
from timm.models import get_pretrained_cfg

from harness import bench
from harness.cli.listing import list_all_models
from harness.cli.settings_list import meanings_of
from harness.inputs import plugins as catalog
from harness.inputs.named_models import select_models
from methods.contracts import Backend, Method
from methods.errors import UsageError
from methods.models.family import families
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


def test_every_classifier_of_timm_is_named_or_counted() -> None:
    grid = list_all_models()
    named = {row[0].text for row in grid.body}
    all_of_timm = {name for name in timm.list_pretrained() if get_pretrained_cfg(name).num_classes == 1000}
    assert named < all_of_timm
    assert f"{len(named)} checkpoints" in grid.notes[0]
    assert f"{len(all_of_timm) - len(named)} are of no known family" in grid.notes[1]
    assert {row[1].text for row in grid.body} == {family.name for family in families().values()}
    assert "resnet " in grid.notes[1]


def test_one_checkpoint_of_every_family_can_be_chosen_and_what_is_not_named_is_refused() -> None:
    first = {row[1].text: row[0].text for row in list_all_models().body}
    assert [entry.name for entry in select_models(list(first.values()))] == list(first.values())
    with pytest.raises(UsageError, match="of a family that is not supported"):
        select_models(["resnet50.a1_in1k"])


def test_all_goes_with_models_alone() -> None:
    assert "cait_xxs24_224.fb_dist_in1k" in run_here(bench.main, ["--list", "models", "--all"]).out
    for words in (["--all"], ["--list", "methods", "--all"]):
        refused = run_here(bench.main, words)
        assert (refused.code, refused.out) == (2, "")
        assert "--all goes with --list models." in refused.err
