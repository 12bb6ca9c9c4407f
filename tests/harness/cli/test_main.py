"""`spdfq-bench`: one command for all, and what a shell is told that asks how its line may go on.

How commands end: every kind of error is one printable sentence and an exit code, our own leave a log.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import pytest
from harness_kit import ROOT, python

from harness import __version__
from harness.__main__ import COMMANDS
from harness.cli.command import ended
from harness.cli.completion import listed, setting_names, settings
from harness.inputs import plugins as catalog
from methods.errors import UsageError
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
    assert python("-m", "harness", *words).out == f"spdfq-bench {__version__}\n"


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


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> NoReturn:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UsageError("No such thing."), 2, "No such thing."),
        (UsageError("two\nlines \x1b[31m \u202e"), 2, "two\\nlines \\x1b[31m \\u202e"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "The system says: No space left on device."),
        (OSError(errno.EACCES, "Permission denied", "/a/b"), 2, "/a/b: Permission denied."),
        (OSError(errno.EACCES, "Permission denied", b"/a/\xff"), 2, "/a/\\udcff: Permission denied."),
        (OSError(errno.EIO, "Input/output error", 3), 2, "The system says: Input/output error."),
        (OSError(), 2, "The system says: OSError."),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 2, "The system says: Connection refused."),
        (MemoryError(), 2, "There is not enough memory on this machine."),
        (KeyboardInterrupt(), 130, "Interrupted. What is finished is recorded; the same command goes on from there."),
    ],
    ids=repr,
)
def test_errors_are_sentences(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(raising(error)) == code
    assert capsys.readouterr().err == sentence + "\n"


def test_the_notes_of_an_error_stand_below_it_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    error = UsageError("No weights.")
    error.add_note("one way")
    error.add_note("another\nway")
    assert ended(raising(error)) == 2
    assert capsys.readouterr().err == "No weights.\n  one way\n  another\\nway\n"


def test_the_interpreters_end_collects_nothing() -> None:
    script = (
        "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "import harness.cli.command"  # registered later, so called before
    )
    assert python("-c", script).out == "True\n"


def test_an_output_that_is_closed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)  # as Python has it after >&-
    assert ended(lambda: 0) == 0


def test_an_endless_sentence_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(raising(UsageError("x" * 10**6))) == 2
    assert len(capsys.readouterr().err) < 2000


def test_an_error_of_our_own_leaves_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(raising(KeyError("x"))) == 3
    [log] = tmp_path.iterdir()
    assert f"(KeyError: 'x'); its traceback is in {log}." in capsys.readouterr().err
    assert "Traceback (most recent call last)" in log.read_text()
    assert "KeyError: 'x'" in log.read_text()


def test_where_no_log_can_be_written_the_traceback_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    assert ended(raising(KeyError("x"))) == 3
    assert "its traceback stands above" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_streams_that_cannot_hold_a_sign_take_it_in_ascii(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    kept = io.BytesIO()
    stream = io.TextIOWrapper(kept, encoding=encoding)

    def action() -> int:
        print("1.0 ± 0.5 † \u65e5", end="")
        return 0

    monkeypatch.setattr(sys, "stdout", stream)
    assert ended(action) == 0
    plusminus = b"+-" if encoding == "ascii" else "±".encode(encoding)
    assert kept.getvalue() == b"1.0 " + plusminus + b" 0.5 + \\u65e5"


def test_a_reader_that_closes_the_pipe_ends_the_command_quietly() -> None:
    script = """
import os, sys
from harness.cli.command import ended
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
sys.exit(ended(lambda: print("x") or 0))
"""
    done = python("-c", script)
    assert (done.code, done.err) == (141, "")
