"""Parsing of bit-widths."""

from __future__ import annotations

import copy
import pickle

import pytest

from methods.bits import Bits
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


@pytest.mark.parametrize("text", ["w4a8", "w32a3", "mxfp4", "nvfp4+x-0123abcd", "w3a32+First_Last-01234567"])
def test_parse_reads_what_bits_write(text: str) -> None:
    bits = Bits.parse(text)
    assert (str(bits), Bits.parse(str(bits)), copy.deepcopy(bits)) == (text, bits, bits)
    again = pickle.loads(pickle.dumps(bits))
    parts = ("weights", "activations", "number_format", "layers", "name")
    assert [getattr(again, part) for part in parts] == [getattr(bits, part) for part in parts]


def test_mixed_bits_are_those_of_their_word_and_know_their_layers() -> None:
    bits = Bits(4, 4, (("head", Bits(8, 8)),), "first last")
    read = Bits.parse(bits)
    assert (read, read.name, str(read.default), read.layers) == (bits, "first_last", "w4a4", ())
    assert read.fits("w4a4", [("head", "w8a8")]) and not read.fits("w4a4", [("head", "w8a4")])
    assert not Bits.parse("w4a4").fits("w4a4", [])
    assert pickle.loads(pickle.dumps(bits)).layers == bits.layers


@pytest.mark.parametrize("text", ["w4a4+", "w4a4+a-0123", "w4a4+a b-01234567", "w4a4+-01234567", "w4a4+a-0123456G"])
def test_parse_refuses_other_names_of_mixed_bits(text: str) -> None:
    with pytest.raises(UsageError, match="not of the form w4a4"):
        Bits.parse(text)
