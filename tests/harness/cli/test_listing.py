"""What `--list` prints: settings with the meanings that stand at them, and models with what a dry run says."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import timm
from harness_kit import run_bench, run_here
from timm.models import get_pretrained_cfg

from harness import bench
from harness.cli.listing import meanings_of
from harness.cli.model_list import (
    NOT_RUN,
    Verdict,
    by_family,
    classifiers,
    family_of,
    list_all_models,
    structure,
    verdict,
    written,
)
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
class Inherits(Below):
    """Settings with another default and one of its own."""

    steps: int = 9
    flip: bool = False
    """Whether images are flipped."""


def test_the_text_below_a_field_is_its_meaning_in_a_class_and_those_that_inherit_it() -> None:
    assert meanings_of(Below) == {"steps": "Adam's steps (paper: 3)."}
    assert meanings_of(Inherits) == {"steps": "Adam's steps (paper: 3).", "flip": "Whether images are flipped."}


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


DOCUMENT = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
ROW = re.compile(r"\| (\w+) \| (\d+) \| (.+?) \| (.+?) \| (\d+) \| ([\d.]+)% \|")


def test_every_classifier_of_timm_is_named_or_counted() -> None:
    named, others = classifiers()
    all_of_timm = {name for name in timm.list_pretrained() if get_pretrained_cfg(name).num_classes == 1000}
    assert set(named) < all_of_timm
    assert others.total() == len(all_of_timm) - len(named)
    assert {family_of(name).name for name in named} == {family.name for family in families().values()}
    assert "resnet" in others and "vision_transformer" not in others


def test_one_checkpoint_of_every_family_can_be_chosen_and_what_is_not_named_is_refused() -> None:
    first = {family_of(name).name: name for name in classifiers()[0]}
    assert [entry.name for entry in select_models(list(first.values()))] == list(first.values())
    with pytest.raises(UsageError, match="of a family that is not supported"):
        select_models(["resnet50.a1_in1k"])


def test_a_pattern_asks_for_verdicts_and_all_goes_with_models_alone() -> None:
    done = run_here(bench.main, ["--list", "models", "--all", "levit_128s.*"])
    assert "levit_128s.fb_dist_in1k" in done.out and "1 of 1 checkpoints are accepted" in done.out
    assert [word.text for word in list_all_models("levit_128s.*").body[0]][1:] == ["LeViT", "yes", "-"]
    for words in (["--all"], ["--list", "methods", "--all"], ["--list", "models", "--all", "nothing*"]):
        refused = run_here(bench.main, words)
        assert (refused.code, refused.out) == (2, "")


def test_the_document_names_every_checkpoint_once_and_counts_them() -> None:
    rows = [row.groups() for row in ROW.finditer(DOCUMENT)]
    listed = [f"{name}.{tag}" for name, _, tags, *_ in rows for tag in tags.split(", ")]
    named = classifiers()[0]
    assert sorted(listed) == sorted(named)
    text = by_family(named, written(DOCUMENT))
    assert text in DOCUMENT
    accepted = sum(len(row[2].split(", ")) for row in rows if row[3] == "yes")
    assert text.startswith(f"**{accepted} of {len(named)}** checkpoints are accepted")


def test_a_sample_of_the_document_is_what_a_dry_run_says_now() -> None:
    known = [(row[1], row[3]) for row in ROW.finditer(DOCUMENT) if row[4] != NOT_RUN.word]
    small = [(name, tags) for name, tags in known if re.search("tiny|_xxs|nano|128s|_s0|_m0|_b0|_s1", name)]
    for name, tags in random.Random(0).sample(small, min(2, len(small))):
        checkpoint = f"{name}.{tags.split(', ')[0]}"
        found = verdict(checkpoint)
        assert written(DOCUMENT)[structure(checkpoint)] == replace(found, left=round(found.left, 4))


def test_a_document_counts_by_family_and_folds_names() -> None:
    named = ["levit_128.fb_dist_in1k", "levit_128s.fb_dist_in1k", "pit_ti_224.in1k", "pit_s_224.in1k"]
    found = {
        ("levit_128", 224): Verdict("", 24, 0.5),
        ("levit_128s", 224): Verdict("Not so."),
        ("pit_ti_224", 224): Verdict("", 0),
    }
    text = by_family(named, found)
    assert text.startswith("**2 of 4** checkpoints are accepted, 1 are not run; of the accepted, **1** multiply")
    assert "| LeViT | 2 | 1 | - |\n| PiT | 2 | 1 | - |" in text
    assert "| levit_128 | 224 | fb_dist_in1k | yes | 24 | 50.00% |" in text
    assert "| levit_128s | 224 | fb_dist_in1k | Not so. | 0 | 0.00% |" in text
    assert written(text) == found
