"""Every command line in README, docs and --help texts is one its command takes, with methods and settings that are."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from harness_kit import ROOT, run_here, save_image

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


def planned() -> list[str]:
    """Return the lines that can be planned anywhere, their models replaced by the embedded one, each once.

    Of searches the one that needs neither Optuna nor Ray, whose imports take longer than all of this.
    """
    found = set()
    for _, line in LINES:
        words = shlex.split(line)
        if words[2].removeprefix("harness.") in ("bench", "ablation", "search", "export") and not LOOKING & set(words):
            if words[2] == "harness.search" and "grid" not in words:
                continue
            given = [word for word in words if word not in ("...", "--plan", "--gpus-per-trial", "0.5")]
            for option in {"--models", "--model"} & set(given):
                given[given.index(option) + 1] = "vit_digits"
            found.add(shlex.join(given[2:]))
    return sorted(found)


LOOKING = {"--help", "--list", "--table-only", "--key", "--address", "--search-data", "top_heavy.py", "blobs.py"}
STUDY = (ROOT / "docs" / "using.md").read_text().partition("```toml\n")[2].partition("```")[0]
MINE = 'from methods.registry import METHODS\nMETHODS.register("mine", "methods.synthesis.noise:Noise")\n'
FILES = {
    "study.toml": STUDY,
    "mine.py": MINE,
    "results/search/LABEL/best.toml": "[spdfq]\niterations = 50\n",
}


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name, but for the weights."""
    folder = tmp_path_factory.mktemp("reader")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    save_image(folder / "imagenet" / "val" / "n01440764" / "a.png", 0)
    return folder


@pytest.mark.parametrize("line", planned())
def test_a_command_line_can_be_planned(line: str, readers_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *given = shlex.split(line)
    monkeypatch.chdir(readers_folder)
    monkeypatch.setattr(METHODS, "_targets", dict(METHODS._targets))
    done = run_here(import_module(module(name.removeprefix("harness."))).main, [*given, "--results", "new", "--plan"])
    assert done.code == 0, done.err
    assert "cells" in done.out
    assert not Path("new").exists()


def read_only() -> list[str]:
    """Return the lines that read committed records and are not run by a test of their own."""
    named = [line for _, line in LINES if " results/" in line or "--list" in line]
    left_out = (
        "--pack",
        "--key",
        "--config",
        "new_results",
        "--pairs",
        "v1.0:",
        "--format all",
        "harness.bench --plan",
    )
    every_model = "--all"  # a dry run of each takes minutes: `test_listing` runs a sample of them
    return sorted(
        {line for line in named if not line.endswith(every_model) and not any(word in line for word in left_out)}
    )


@pytest.mark.parametrize("line", read_only())
def test_a_command_line_that_reads_records_is_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, _, name, *given = shlex.split(line)
    folders = [word for word in given if word.startswith("results/")]
    if not all(map(os.path.isdir, folders)):
        pytest.skip(f"{folders} is not here")
    done = run_here(import_module(module(name.removeprefix("harness."))).main, given)
    assert done.code == 0, done.err
    assert done.out
