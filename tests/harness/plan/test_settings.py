"""Settings: defaults < TOML < --set, in the right type, under known names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.inputs import plugins as catalog
from harness.plan.settings import changed_settings, defaults, effective_config, read_overrides, with_precision
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS

catalog.load()


def test_set_goes_before_toml_before_defaults() -> None:
    tables: dict[str, dict[str, Any]] = {
        "blockwise": {"iterations": 7, "learning_rate": 1e-3},
        "spdfq": {"apa": False},
    }
    overrides = read_overrides(tables, ["blockwise.iterations=9", "spdfq.images=4"])
    assert overrides == {
        "blockwise": {"iterations": 9, "learning_rate": 1e-3},
        "spdfq": {"apa": False, "images": 4},
    }
    backend = effective_config(BACKENDS.get("blockwise"), "vit_digits", overrides)
    assert (backend.iterations, backend.learning_rate) == (9, 1e-3)
    untouched = effective_config(BACKENDS.get("blockwise"), "deit_t", {})
    assert (untouched.iterations, untouched.learning_rate) == (100, 4e-5)
    method = effective_config(METHODS.get("spdfq"), "deit_t", overrides)
    assert (method.apa, method.msr, method.images, method.iterations) == (False, True, 4, 1000)


def test_the_last_set_wins() -> None:
    assert read_overrides({}, ["noise.images=4", "noise.images=5"]) == {"noise": {"images": 5}}


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("spdfq.alpha1=100", 100.0),
        ("spdfq.alpha1=1e2", 100.0),
        ("spdfq.apa=false", False),
        ("spdfq.prior_law=laplace", "laplace"),
        ("spdfq.prior_law='laplace'", "laplace"),
        (" spdfq.images = 8 ", 8),
    ],
)
def test_values_take_the_type_of_the_setting(assignment: str, value: object) -> None:
    [found] = read_overrides({}, [assignment])["spdfq"].values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("spdfq.images=4.0", ["spdfq.images", "a whole number", "4.0"]),
        ("spdfq.images=many", ["spdfq.images", "a whole number", "'many'"]),
        ("spdfq.images=true", ["spdfq.images", "a whole number", "True"]),
        ("spdfq.alpha1=true", ["spdfq.alpha1", "a number", "True"]),
        ("spdfq.alpha1=high", ["spdfq.alpha1", "a number", "'high'"]),
        ("spdfq.apa=1", ["spdfq.apa", "true or false", "1"]),
        ("spdfq.apa=True", ["spdfq.apa", "true or false"]),
        ("spdfq.prior_law=3", ["spdfq.prior_law", "a word"]),
        ("spdfq.iteration=5", ["'iteration'", "'iterations'"]),
        ("spdfq.lerning_rate=5", ["'learning_rate'"]),
        ("spdfk.images=5", ["'spdfk'", "'spdfq'"]),
        ("blockwize.iterations=5", ["'blockwize'", "'blockwise'"]),
        ("minmax.anything=5", ["'anything'", "minmax"]),
        ("spdfq=5", ["method.key=value"]),
        ("spdfq.images", ["method.key=value"]),
        ("spdfq.=5", ["method.key=value"]),
        ("blockwise.learning_rate=nan", ["blockwise.learning_rate"]),
        ("spdfq.alpha1=inf", ["spdfq.alpha1"]),
        ("spdfq.images=4\nspdfq.apa=false", ["spdfq.images=4\\nspdfq.apa=false", "more than one line"]),
        ("spdfq\r.images=4", ["more than one line"]),
    ],
)
def test_bad_assignments_are_named(assignment: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        read_overrides({}, [assignment])
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"spdfq": {"images": "x"}}, ["spdfq.images", "a whole number"]),
        ({"spdfq": {"imagse": 4}}, ["'imagse'", "'images'"]),
        ({"nose": {"images": 4}}, ["'nose'", "'noise'"]),
    ],
)
def test_bad_tables_are_named(tables: dict[str, dict[str, object]], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        read_overrides(tables, [])
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("noise", {"images": 0}), ("real", {"images": -1}), ("spdfq", {"images": 0}), ("spdfq", {"alpha1": -1.0})],
)
def test_values_out_of_range_are_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=name):
        effective_config(METHODS.get(name), "vit_digits", {name: settings})


def test_only_settings_that_differ_from_the_models_defaults_are_changes() -> None:
    spdfq = METHODS.get("spdfq")
    given = {"spdfq": {"iterations": 1000, "images": 32, "apa": False}, "noise": {"images": 3}}
    assert changed_settings(spdfq, "deit_t", given) == {"spdfq.apa": False}
    assert changed_settings(spdfq, "vit_digits", given) == {"spdfq.apa": False, "spdfq.iterations": 1000}


def test_precision_is_set_for_every_method_that_has_one() -> None:
    given = {"spdfq": {"images": 4}, "blockwise": {"iterations": 7}}
    found = with_precision(given, ["noise", "spdfq"], "bf16")
    assert found == {"spdfq": {"images": 4, "precision": "bf16"}, "blockwise": {"iterations": 7}}
    assert given == {"spdfq": {"images": 4}, "blockwise": {"iterations": 7}}
    assert with_precision(given, ["noise"], None) == given
    with pytest.raises(UsageError, match="--precision bf16 has no effect"):
        with_precision(given, ["noise", "real"], "bf16")


def test_models_that_ask_for_it_get_a_short_run() -> None:
    full, short = (defaults(METHODS.get("maskaq"), model) for model in ("swin_t", "swin_digits"))
    assert (full.iterations, full.rounds, full.refresh) == (2000, 4, 500)
    assert short == dataclasses.replace(full, iterations=50, rounds=2, refresh=25)
    best, little = (defaults(BACKENDS.get("best"), model) for model in ("vit_b", "vit_digits"))
    assert (best.iterations, best.weights) == (100, "measured")
    assert little == dataclasses.replace(best, iterations=50, weights="own")
