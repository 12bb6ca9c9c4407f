"""`--list models --all`: every checkpoint it names can be chosen, others are refused, none is forgotten."""

from __future__ import annotations

import pytest
import timm
from harness_kit import run_here
from timm.models import get_pretrained_cfg

from harness import bench
from harness.cli.listing import list_all_models
from harness.inputs.named_models import select_models
from methods.errors import UsageError
from methods.models.family import families


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
