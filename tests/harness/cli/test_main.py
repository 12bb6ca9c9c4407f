"""`spdfq-bench`: one command for all, and what a shell is told that asks how its line may go on."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from harness_kit import ROOT, python

from harness.__main__ import COMMANDS
from harness.cli.completion import listed, setting_names, settings
from harness.inputs import plugins as catalog
from harness.record.version import VERSION
from methods.registry import BACKENDS, METHODS

catalog.load()


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


def test_a_shell_is_told_how_a_line_may_go_on_and_torch_is_not_loaded(tmp_path: Path) -> None:
    line, out = "spdfq-bench bench --methods noise,sp", tmp_path / "offered"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    script = """
import os, sys
leave = os._exit
os._exit = lambda code: leave(9 if "torch" in sys.modules else code)
from harness.__main__ import main
main()
"""
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0
    assert out.read_text().split() == ["noise,spdfq", "noise,spdfq_paper"]


def test_lists_go_on_without_repeats_and_settings_by_their_owner() -> None:
    assert listed(lambda: ["a", "b", "c"], "b,") == ["b,a", "b,c"]
    assert {"spdfq.", "blockwise."} <= set(settings("sp"))
    assert settings("noise.") == ["noise.images="]
    assert settings("nobody.") == settings("")


@pytest.mark.parametrize("name", METHODS.names())
def test_settings_of_a_method_are_read_from_its_source_as_they_are(name: str) -> None:
    assert setting_names(METHODS.target(name)) == [part.name for part in fields(METHODS.get(name).config_class)]


@pytest.mark.parametrize("name", BACKENDS.names())
def test_settings_of_a_backend_are_read_from_its_source_as_they_are(name: str) -> None:
    assert setting_names(BACKENDS.target(name)) == [part.name for part in fields(BACKENDS.get(name).config_class)]
