"""The settings of SPDFQ: the paper's where it states them, per model, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.inputs.zoo import ENTRIES
from methods.errors import UsageError
from spdfq.config import SPDFQConfig
from spdfq.defaults import BY_NAME, defaults_for
from spdfq.method import SPDFQ, SPDFQPaper


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
    assert (given.alpha1, given.learning_rate, given.iterations) == (alpha1, rate, iterations)
    found = SPDFQ().default_config(model)
    assert (found.learning_rate, found.iterations, found.region_schedule) == (rate, iterations, "turns")
    config = SPDFQPaper().default_config(model)
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
