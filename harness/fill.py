"""Fill the tables of Markdown files from records: `python -m harness.fill README.md docs/*.md results/*/README.md`.

A file says where a table goes and which: the lines between the two comments are made anew.

    <!-- table: results/digits --filter bits=w4a4 -->      the first table of `leaderboard results/digits ...`
    <!-- end -->

`tables:` takes all of them, `output:` prints the first as a terminal does, `ablation: results/X` is that study's
ablation, `list: methods` the table of `bench --list methods`, and `models: FILE` the verdicts of `bench --list
models --all` by family, those that stand in FILE as they are. So no figure of such a file is typed by hand.
"""

from __future__ import annotations

import argparse
import difflib
import io
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from harness.cli.command import run_command
from harness.cli.options import command_parser
from harness.cli.options import path as path_option
from harness.leaderboard import main as leaderboard
from harness.record.files import write_atomically
from methods.errors import UsageError, unknown_name

_MARKED = re.compile(
    r"(?P<open><!-- (?P<kind>[a-z]+): (?P<words>.*?) -->\n)(?P<body>.*?)(?P<close><!-- end -->)", re.S
)
_EXAMPLES = """examples:
  python -m harness.fill README.md docs/methods.md
  python -m harness.fill --check README.md      # exit code 1 where a table is not what its records give
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser("fill", "Fill the tables of Markdown files from records.", _EXAMPLES)
    result.add_argument("files", nargs="+", type=path_option, help="Markdown files")
    result.add_argument("--check", action="store_true", help="change nothing; print what would change")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 when --check finds a table that is not up to date, 2 for bad input."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _fill(arguments.files, arguments.check))


def _fill(files: list[Path], check: bool) -> int:
    changed = 0
    for path in files:
        old = path.read_text()
        new = filled(old)
        changed += new != old
        if check:
            sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), str(path), "now"))
        elif new != old:
            write_atomically(path, new.encode())
    return int(check and changed > 0)


def filled(text: str) -> str:
    """Return a text with every marked table made anew; raises UsageError for a marker that names none."""
    return _MARKED.sub(lambda match: f"{match['open']}{_made(match['kind'], match['words'])}{match['close']}", text)


def _made(kind: str, words: str) -> str:
    if kind not in KINDS:
        raise unknown_name("kind of table", kind, KINDS)
    return f"{KINDS[kind](shlex.split(words)).strip()}\n"


def _tables(words: list[str]) -> str:
    return _printed([*words, "--format", "md"])


def _first(words: list[str]) -> str:
    return f"### {_tables(words).split('### ')[1]}"


def _output(words: list[str]) -> str:
    return _block(_printed(words).split("\n\n")[0])


def _block(text: str) -> str:
    return "\n".join(["```", *(line.rstrip() for line in text.strip().splitlines()), "```"])


def _ablation(words: list[str]) -> str:
    from harness.ablation import main as ablation

    return _block(_printed(["--table-only", "--results", *words], ablation))


def _list(words: list[str]) -> str:
    from harness.cli.listing import LISTS
    from harness.inputs import plugins
    from harness.report.formats.markdown import markdown

    plugins.load()
    return markdown([LISTS[" ".join(words)]()])


def _models(words: list[str]) -> str:
    from harness.cli.model_list import all_models_by_family

    return all_models_by_family(Path(*words))


KINDS: dict[str, Callable[[list[str]], str]] = {
    "table": _first,
    "tables": _tables,
    "output": _output,
    "list": _list,
    "ablation": _ablation,
    "models": _models,
}


def _printed(words: list[str], command: Callable[[list[str]], int] = leaderboard) -> str:
    """Return what a command prints; raises UsageError where it fails."""
    with redirect_stdout(io.StringIO()) as out:
        if command(words):
            raise UsageError(f"There is no table {shlex.join(words)}.")
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
