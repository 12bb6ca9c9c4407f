"""`spdfq-bench`: one command for all."""

from __future__ import annotations

import pytest
from harness_kit import ROOT, python

from harness.__main__ import COMMANDS
from harness.record.version import VERSION


def test_without_words_it_lists_what_there_is() -> None:
    done = python("-m", "harness")
    assert (done.code, done.err) == (0, "")
    assert all(f"  {name} " in done.out for name in COMMANDS)


def test_every_command_of_the_package_is_named() -> None:
    files = {path.stem for path in (ROOT / "harness").glob("*.py")} - {"__init__", "__main__", "api"}
    folders = {path.parent.name for path in (ROOT / "harness").glob("*/__main__.py")}
    assert set(COMMANDS) == files | folders


def test_a_command_gets_the_rest_of_the_line_and_gives_its_code() -> None:
    done = python("-m", "harness", "bench", "--models", "vit_digits", "--bits", "w4", "--plan")
    assert (done.code, done.out) == (2, "")
    assert "'w4'" in done.err


@pytest.mark.parametrize("words", [["--version"], ["bench", "--version"], ["check", "--version"]])
def test_the_version_is_told(words: list[str]) -> None:
    assert python("-m", "harness", *words).out == f"spdfq-bench {VERSION}\n"


def test_an_unknown_command_is_one_sentence() -> None:
    done = python("-m", "harness", "benhc")
    assert (done.code, done.out) == (2, "")
    assert "Did you mean 'bench'?" in done.err
