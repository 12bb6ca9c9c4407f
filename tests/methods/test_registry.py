"""The registries, the contracts, names that are nearly known, and text from elsewhere."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch

import spdfq  # noqa: F401  (registers its method)
from methods.contracts import ImageSpace
from methods.errors import UsageError, unknown_name
from methods.registry import BACKENDS, METHODS, Registry
from methods.text import printable, shortened

ROOT = Path(__file__).parents[2]


def test_unknown_name_suggests_the_nearest() -> None:
    registry: Registry[Any] = Registry("backend")
    registry.register("minmax", OrderedDict)
    registry.register("blockwise", Counter)
    with pytest.raises(UsageError) as error:
        registry.get("minmx")
    assert str(error.value) == "Unknown backend 'minmx'. Did you mean 'minmax'? Known: blockwise, minmax."


def test_unknown_name_far_from_all_gets_no_suggestion() -> None:
    assert str(unknown_name("method", "qqq", ["real"])) == "Unknown method 'qqq'. Known: real."
    assert str(unknown_name("method", "qqq", [])) == "Unknown method 'qqq'. Known: none."


def test_second_target_for_a_name_is_refused_and_the_first_stays() -> None:
    registry: Registry[Any] = Registry("method")
    registry.register("a", OrderedDict)
    registry.register("a", OrderedDict)
    with pytest.raises(UsageError, match="'a' is registered twice"):
        registry.register("a", Counter)
    assert type(registry.get("a")) is OrderedDict


def test_lazy_target_is_imported_only_when_asked_for() -> None:
    registry: Registry[Any] = Registry("method")
    registry.register("good", "collections:Counter")
    registry.register("bad", "no_such_module_anywhere:Thing")
    assert registry.names() == ["good", "bad"]
    assert type(registry.get("good")) is Counter
    with pytest.raises(UsageError, match="'bad' cannot be loaded from no_such_module_anywhere"):
        registry.get("bad")


def test_built_in_entries_lead_to_what_they_say() -> None:
    assert set(METHODS.names()) >= {"noise", "real", "spdfq"}
    assert set(BACKENDS.names()) >= {"minmax", "blockwise"}
    assert {name: METHODS.get(name).name for name in ("noise", "real", "spdfq")} == {
        name: name for name in ("noise", "real", "spdfq")
    }
    assert {name: BACKENDS.get(name).name for name in ("minmax", "blockwise")} == {
        name: name for name in ("minmax", "blockwise")
    }


def test_registering_loads_no_torch() -> None:
    code = "import sys, methods, spdfq; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


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


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_bounds_are_black_and_white() -> None:
    space = ImageSpace(2, 3, MEAN, STD)
    low, high = space.bounds()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        assert low[channel].item() == pytest.approx((0 - mean) / std, rel=1e-6)
        assert high[channel].item() == pytest.approx((1 - mean) / std, rel=1e-6)
    assert space.shape == (3, 2, 3)


def test_normalize_maps_every_byte() -> None:
    space = ImageSpace(16, 16, MEAN, STD)
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
    normalized = space.normalize(pixels)
    assert normalized.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        expected = [(byte / 255 - mean) / std for byte in range(256)]
        assert normalized[1, channel].flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words, ±, ü, 日本", "plain words, ±, ü, 日本"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2066\u2069\u200f\ufeff\u2028", "\\u2066\\u2069\\u200f\\ufeff\\u2028"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_cannot_be_seen_is_written_as_an_escape(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_no_control_format_or_surrogate_is_left_of_all_of_unicode() -> None:
    every = "".join(map(chr, range(0x110000)))
    left = printable(every)
    assert {unicodedata.category(sign) for sign in left} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} == set()


def test_long_texts_lose_their_middle() -> None:
    assert shortened("short") == "short"
    assert shortened("a" * 100 + "b" * 100, 40) == "a" * 20 + " ... " + "b" * 10 + " (200 characters)"
