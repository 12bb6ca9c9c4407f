"""Every command line in README, docs and --help texts is one its command takes, with methods and settings that are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from harness_kit import ROOT, run_here

from harness.__main__ import COMMANDS, module
from harness.cli.options import Inputs, taken
from harness.inputs import plugins as catalog
from harness.plan.settings import read_overrides
from methods.bits import Bits
from methods.registry import BACKENDS, METHODS
from methods.text import words

catalog.load()


def written() -> Iterator[tuple[str, str]]:
    """Yield where each command line stands, and the line, joined where it goes on."""
    texts = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    for name in set(COMMANDS) - {"train_digits"}:
        texts[f"{name} --help"] = import_module(module(name)).parser().epilog
    for place, text in texts.items():
        for line in text.replace("\\\n", " ").splitlines():
            code = re.fullmatch(r"(?: {2,}|.*`)?(?:\S+ && )?(python -m harness\.\w+(?: [^`]*)?)(?:`.*)?", line)
            if code and (line.startswith("  ") or line.startswith("python")):
                yield place, re.sub(r"\s{2,}#.*|\s#\s.*", "", code[1]).strip()


LINES = sorted(set(written()))


def test_there_are_command_lines_everywhere() -> None:
    assert {"README.md", "using.md", "bench --help", "leaderboard --help"} <= {place for place, _ in LINES} | {
        "using.md"
    }
    assert len(LINES) > 40


def listed(value: str | list[str] | None) -> list[str]:
    """Return the words of an option, split by its command's parser or not yet."""
    return value if isinstance(value, list) else words(value or "")


@pytest.mark.parametrize(("place", "line"), LINES, ids=[f"{place}: {line[17:70]}" for place, line in LINES])
def test_a_command_line_is_one_that_its_command_takes(place: str, line: str) -> None:
    _, _, name, *given = (word for word in shlex.split(line) if word != "...")
    command = import_module(module(name.removeprefix("harness.")))
    if not hasattr(command, "parser"):
        assert given == []
        return
    if "--help" in given:
        return
    arguments = command.parser().parse_args(given)
    found = vars(arguments)
    plugged = bool(found.get("plugin"))
    for option, registry in (("methods", METHODS), ("method", METHODS), ("backends", BACKENDS), ("backend", BACKENDS)):
        for word in listed(found.get(option)):
            assert plugged or word in registry.names(), (place, line)
    for word in listed(found.get("bits")):
        assert word.endswith(".toml") or Bits.parse(word)
    if found.get("set") and not plugged:
        given_settings = taken(Inputs, arguments).set if "calib_data" in found else found["set"]
        assert read_overrides({}, given_settings)


@pytest.mark.parametrize("line", sorted({line for _, line in LINES if "--table-only" in line}))
def test_tables_from_records_alone_are_printed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, _, name, *given = shlex.split(line)
    results = Path(given[given.index("--results") + 1])
    if not results.is_dir():
        pytest.skip(f"{results} is not here")
    done = run_here(import_module(module(name.removeprefix("harness."))).main, given)
    assert done.code == 0, done.err
    assert done.out
