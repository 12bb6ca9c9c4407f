"""Which views a synthesis looks at, which classes they are to show; the settings: the paper's where it states them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
from spdfq_kit import VIT, spied, synthesize, tiny_vit, views_of  # noqa: F401
from torch.nn import functional

from harness.inputs.zoo import ENTRIES
from harness.plan.settings import defaults
from methods.errors import UsageError
from spdfq.config import SPDFQConfig
from spdfq.defaults import BY_NAME, defaults_for
from spdfq.method import SPDFQ, SPDFQPaper


def test_without_msr_there_are_no_regions(spied: dict[str, Any]) -> None:  # noqa: F811
    made = synthesize(msr=False)
    assert made.extras["regions"].shape == (0, 4)
    assert len(spied["objective"].targets) == 4
    assert [len(chosen) for chosen in spied["objective"].relevant] == [1] * 4


def test_targets_are_one_hot_without_soft_labels() -> None:
    hard, soft = synthesize(soft_labels=False), synthesize()
    assert hard.targets is not None
    assert soft.targets is not None
    assert hard.targets.tolist() == functional.one_hot(hard.extras["labels"][:4], 10).float().tolist()
    assert soft.targets.double().sum(1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert soft.targets.min().item() > 0
    assert soft.targets.max().item() < 1


def test_labels_of_an_image_and_of_its_regions_all_differ(spied: dict[str, Any]) -> None:  # noqa: F811
    made = synthesize(images=12, iterations=1)
    relevant, regions = spied["objective"].relevant, made.extras["regions"]
    counts = set()
    for image in range(12):
        own = [index for index, region in enumerate(regions.tolist()) if region[0] == image]
        labels = [relevant[12 + index][0] for index in own]
        assert relevant[image][1:] == labels
        assert len(set(relevant[image])) == 1 + len(own)
        counts.add(len(own))
    assert counts == {1, 2, 3, 4}
    assert made.extras["labels"].tolist() == [chosen[0] for chosen in relevant]
    assert len({chosen[0] for chosen in relevant[:12]}) > 3


def test_relevant_classes_of_a_whole_image_hold_most_of_its_target(spied: dict[str, Any]) -> None:  # noqa: F811
    made = synthesize(iterations=1)
    assert made.targets is not None
    for target, chosen in zip(made.targets, spied["objective"].relevant[:4], strict=True):
        rest = [c for c in range(10) if c not in chosen]
        assert target[chosen].min().item() >= math.exp(4) * target[rest].max().item() * (1 - 1e-4)


def test_two_classes_leave_one_label_for_one_region() -> None:
    model = tiny_vit(num_classes=2)
    made = synthesize(model, classes=2, images=6, iterations=1)
    assert made.extras["regions"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (made.extras["labels"][:6] + made.extras["labels"][6:]).tolist() == [1] * 6


def test_regions_stay_or_are_redrawn(spied: dict[str, Any]) -> None:  # noqa: F811
    synthesize(iterations=4)
    assert all(regions == spied["regions"][0] for regions in spied["regions"])
    spied["regions"].clear()
    made = synthesize(iterations=4, redraw_regions=True)
    images = [[region.image for region in regions] for regions in spied["regions"]]
    assert all(step == images[0] for step in images)
    assert len({str(regions) for regions in spied["regions"]}) == 4
    last = [[r.image, r.top, r.left, r.side] for r in spied["regions"][-1]]
    assert made.extras["regions"].tolist() == last


@pytest.mark.parametrize("micro_batch", [1 << 20, 3])
def test_schedule_of_one_region_visits_one_of_each_image_with_its_own_target(
    micro_batch: int,
    spied: dict[str, Any],  # noqa: F811
) -> None:
    made = synthesize(region_schedule="one", iterations=1, apa=False, tv_weight=0.0, micro_batch=micro_batch)
    objective = spied["objective"]
    seen = views_of(spied["start"], made.extras["regions"])
    plain = copy.deepcopy(VIT).double()
    entropies = [
        -(target.double() * plain(view).log_softmax(1)[0]).sum().item()
        for view, target in zip(seen, objective.targets, strict=True)
    ]
    own = [[4 + i for i, r in enumerate(made.extras["regions"].tolist()) if r[0] == image] for image in range(4)]
    assert max(map(len, own)) > 1
    possible = [sum(entropies[:4]) + sum(entropies[i] for i in picked) for picked in itertools.product(*own)]
    assert min(abs(made.losses["sl"][0] - total / 8) for total in possible) < 1e-5


def test_schedule_of_one_region_comes_to_all_of_them(spied: dict[str, Any]) -> None:  # noqa: F811
    synthesize(region_schedule="one", iterations=1)
    objective = spied["objective"]
    wholes, visits = zip(*(objective._visited() for _ in range(60)), strict=True)
    assert all(seen == [0, 1, 2, 3] for seen in wholes)
    for visit in visits:
        assert visit == sorted(visit)
        assert [objective.regions[i].image for i in visit] == [0, 1, 2, 3]
    assert set(itertools.chain(*visits)) == set(range(len(objective.regions)))


def test_defaults_are_the_papers_where_it_states_them() -> None:
    config = SPDFQConfig()
    assert (config.images, config.iterations, config.tv_weight) == (32, 1000, 0.05)
    assert (config.components, config.regions, config.first_layer) == (5, 4, 0.5)
    assert (config.eps1, config.eps2, config.depth_weight) == (5.0, 10.0, True)
    settings = config.loop()
    assert (settings.learning_rate, settings.betas) == (0.2, (0.5, 0.9))


@pytest.mark.parametrize(
    ("model", "alpha1", "rate", "iterations"),
    [
        ("deit_t", 1e4, 0.2, 1000),
        ("vit_b", 1e4, 0.2, 1000),
        ("swin_t", 10.0, 0.25, 1000),
        ("swin_base_patch4_window7_224.ms_in1k", 10.0, 0.25, 1000),
        ("vit_digits", 100.0, 0.2, 100),
        ("swin_digits", 10.0, 0.25, 100),
    ],
)
def test_defaults_per_model(model: str, alpha1: float, rate: float, iterations: int) -> None:
    given = defaults_for(model)
    assert (given.alpha1, given.learning_rate) == (alpha1, rate)
    found = defaults(SPDFQ(), model)
    assert (found.learning_rate, found.iterations, found.region_schedule) == (rate, iterations, "turns")
    config = defaults(SPDFQPaper(), model)
    assert config == dataclasses.replace(SPDFQConfig(), alpha1=alpha1, learning_rate=rate, iterations=iterations)


def test_every_short_name_has_defaults_of_its_own_with_a_source() -> None:
    assert set(BY_NAME) == set(ENTRIES)
    assert all(given.source for given in BY_NAME.values())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images >= 1"),
        ({"alpha1": -1.0}, "alpha1 >= 0"),
        ({"tv_weight": -0.1}, "tv_weight >= 0"),
        ({"first_layer": 1.5}, "share of the depth"),
        ({"interpolation": "bilinaer"}, "Did you mean 'bilinear'"),
        ({"region_schedule": "ones"}, "Did you mean 'one'"),
        ({"precision": "bf61"}, "Did you mean 'bf16'"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"jitter": -1}, "jitter >= 0"),
        ({"flip": 1.5}, "flip <= 1"),
        ({"prior_law": "gaus"}, "Unknown prior law"),
        ({"regions": 0}, "most >= 1"),
        ({"eps1": 20.0}, "eps1 <= eps2"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SPDFQConfig(**bad)
