"""Text from elsewhere, by hand."""

from __future__ import annotations

import unicodedata

import pytest

from methods.text import printable, shortened


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
