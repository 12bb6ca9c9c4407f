"""Parsing of bit-widths."""

from __future__ import annotations

import pytest

from methods.bits import Bits, widths
from methods.errors import UsageError


@pytest.mark.parametrize(
    ("text", "weights", "activations"),
    [("w4a4", 4, 4), ("w2a8", 2, 8), ("w8a2", 8, 2), (" W4A8\n", 4, 8), ("w32a8", 32, 8), ("w32a32", 32, 32)],
)
def test_parse_reads_weights_then_activations(text: str, weights: int, activations: int) -> None:
    bits = Bits.parse(text)
    assert (bits.weights, bits.activations) == (weights, activations)
    assert str(bits) == f"w{weights}a{activations}"


@pytest.mark.parametrize("text", ["", "4a4", "w4", "w4a", "wa", "a4w4", "w4a4x", "xw4a4", "w-4a4", "w4.5a4", "w4 a4"])
def test_parse_refuses_other_forms(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form w4a4"):
        Bits.parse(text)


@pytest.mark.parametrize(
    ("text", "side", "width"),
    [
        ("w1a4", "Weight", 1),
        ("w4a1", "Activation", 1),
        ("w9a4", "Weight", 9),
        ("w4a9", "Activation", 9),
        ("w0a4", "Weight", 0),
        ("w4a16", "Activation", 16),
        ("w31a4", "Weight", 31),
        ("w4a33", "Activation", 33),
    ],
)
def test_parse_refuses_widths_out_of_range(text: str, side: str, width: int) -> None:
    with pytest.raises(UsageError, match=f"^{side} bits {width} "):
        Bits.parse(text)


@pytest.mark.parametrize(("text", "float_"), [("w32a32", True), ("w32a8", False), ("w8a32", False), ("w8a8", False)])
def test_float_means_both_sides(text: str, float_: bool) -> None:
    assert Bits.parse(text).float is float_


def test_text_begins_with_its_widths() -> None:
    assert [widths(text) for text in ("w4a8", "w3a32+mixed-01234567", "mxfp6", "nvfp4+x-0")] == [
        (4, 8),
        (3, 32),
        (6, 6),
        (4, 4),
    ]
