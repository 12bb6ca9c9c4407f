"""Plugins: the documented example runs, broken ones are named and skipped, entry points register by name."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import ROOT, images_checksum, python, records_of, run_bench, run_here, stream
from torch.nn import functional

from harness import bench
from harness.__main__ import main
from harness.inputs import plugins as catalog
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS
from methods.synthesis.noise import Noise

TINY = ["--models", "vit_digits", "--backends", "minmax", "--limit", "20", "--bits", "w8a8"]


@pytest.fixture(autouse=True)
def registries_as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    catalog.load()
    for registry in (METHODS, BACKENDS):
        monkeypatch.setattr(registry, "_targets", dict(registry._targets))
    modules = set(sys.modules)
    yield
    catalog._load_file.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith("plugin_"):
            del sys.modules[name]


def example(folder: Path) -> Path:
    """Write the first example of docs/adding.md as its reader would."""
    text = (ROOT / "docs" / "adding.md").read_text()
    path = folder / "blobs.py"
    path.write_text(text.partition("```python\n")[2].partition("```")[0])
    return path


def test_the_documented_example_runs_and_its_settings_count(tmp_path: Path) -> None:
    plugin = example(tmp_path)
    words = ["--methods", "blobs", "--set", "blobs.images=3", "--set", "blobs.cells=8", "--plugin", str(plugin)]
    outcome = run_bench(tmp_path / "results", *TINY, *words)
    assert outcome.code == 0, outcome.err
    assert "blobs + minmax (blobs.cells=8, blobs.images=3)" in " ".join(outcome.out.split())
    [record] = records_of(tmp_path / "results").values()
    coarse = torch.randn((3, 3, 8, 8), generator=stream("0/synthesis"))
    expected = functional.interpolate(coarse, (32, 32), mode="bilinear").clamp(-1, 1)
    assert record["images_sha256"] == images_checksum(expected)
    assert record["provenance"]["plugins"] == {"blobs.py": hashlib.sha256(plugin.read_bytes()).hexdigest()}


@pytest.mark.slow
def test_the_documented_example_runs_in_rays_workers(tmp_path: Path) -> None:
    words = ["--methods", "blobs", "--set", "blobs.images=3", "--plugin", str(example(tmp_path))]
    done = python("-m", "harness.bench", *TINY, *words, "--results", str(tmp_path / "results"))
    assert done.code == 0, done.err
    [record] = records_of(tmp_path / "results").values()
    assert record["status"] == "ok"
    assert record["provenance"]["executor"] == "ray"


BROKEN = [
    ("import nowhere_to_be_found", "ModuleNotFoundError"),
    ("def broken(:", "SyntaxError"),
    ("from methods.registry import METHODS\nMETHODS.register('noise', int)", "registered twice"),
    ("import sys\nsys.exit('bye')", "SystemExit: bye"),
    ("import asyncio\nraise asyncio.CancelledError('gone')", "CancelledError: gone"),
    ("raise ValueError('two\\nlines \\x1b[31m')", "ValueError: two\\nlines \\x1b[31m"),
]


def test_broken_plugins_are_named_and_skipped(tmp_path: Path) -> None:
    words = ["--methods", "blobs,noise"]
    for number, (text, _) in enumerate(BROKEN):
        (tmp_path / f"broken{number}.py").write_text(text)
        words += ["--plugin", str(tmp_path / f"broken{number}.py")]
    outcome = run_bench(tmp_path / "results", *TINY, *words, "--plugin", str(example(tmp_path)))
    assert outcome.code == 0, outcome.err
    for number, (_, reason) in enumerate(BROKEN):
        [line] = [line for line in outcome.err.splitlines() if f"broken{number}.py was skipped" in line]
        assert reason in line
    assert {r["cell"]["method"] for r in records_of(tmp_path / "results").values()} == {"blobs", "noise"}


def test_a_plugin_that_fails_half_way_brings_nothing(tmp_path: Path) -> None:
    path = tmp_path / "half.py"
    path.write_text("from methods.registry import METHODS\nMETHODS.register('half', int)\nimport nowhere_to_be_found")
    outcome = run_bench(tmp_path / "results", *TINY, "--methods", "half", "--plugin", str(path), "--plan")
    assert outcome.code == 2
    assert "half.py was skipped" in outcome.err
    assert "Unknown method 'half'" in outcome.err


@pytest.mark.parametrize("text", ["def made():\n    raise OSError('no key')", "import sys\nsys.exit()"])
def test_a_method_that_cannot_be_made_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (tmp_path / "cannot_be_made.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    METHODS.register("unmade", "cannot_be_made:made")
    outcome = run_bench(tmp_path / "results", *TINY, "--methods", "unmade", "--plan")
    assert outcome.code == 2
    assert "The method 'unmade' cannot be loaded from cannot_be_made:made" in outcome.err


class Odd(Noise):
    """Says of its passes and of its version what nobody can count with."""

    passes: object = 1

    def image_passes(self, config: Any) -> Any:
        return self.passes


@pytest.mark.parametrize("passes", [math.nan, math.inf, -1, "many", None])
def test_passes_that_are_no_number_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: object
) -> None:
    monkeypatch.setattr(Odd, "passes", passes)
    monkeypatch.setitem(METHODS._targets, "odd", Odd)
    outcome = run_bench(tmp_path / "results", *TINY, "--methods", "odd", "--plan")
    assert outcome.code == 2
    assert f"odd.image_passes must give a number of 0 or more, not {passes!r}." in outcome.err


def test_what_is_no_method_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "version", "one")
    for target in (dict, Odd):
        monkeypatch.setitem(METHODS._targets, "odd", target)
        outcome = run_bench(tmp_path / "results", *TINY, "--methods", "odd", "--plan")
        assert outcome.code == 2
        assert "it must be a methods.contracts:Method with a whole number as its version" in outcome.err


def test_a_plugin_that_is_not_there_is_refused(tmp_path: Path) -> None:
    outcome = run_bench(tmp_path / "results", *TINY, "--plugin", str(tmp_path / "absent.py"))
    assert outcome.code == 2
    assert "absent.py: there is no such file" in outcome.err
    assert not (tmp_path / "results").exists()


def test_entry_points_register_by_name_and_broken_ones_harm_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = EntryPoints(
        [
            EntryPoint("mine", "methods.synthesis.noise:Noise", "spdfq_bench.methods"),
            EntryPoint("gone", "nowhere_to_be_found:Thing", "spdfq_bench.methods"),
            EntryPoint("real", "methods.synthesis.noise:Noise", "spdfq_bench.methods"),
            EntryPoint("quick", "methods.backends.minmax:MinMax", "spdfq_bench.backends"),
        ]
    )
    monkeypatch.setattr(catalog, "entry_points", lambda group: installed.select(group=group))
    catalog._load_installed.__wrapped__()
    assert type(METHODS.get("mine")).__name__ == "Noise"
    assert type(METHODS.get("real")).__name__ == "Real"
    assert type(BACKENDS.get("quick")).__name__ == "MinMax"
    assert "The plugin real = methods.synthesis.noise:Noise was skipped" in capsys.readouterr().err
    with pytest.raises(UsageError, match="'gone' cannot be loaded from nowhere_to_be_found:Thing"):
        METHODS.get("gone")


def test_list_shows_every_name_and_what_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    METHODS.register("gone", "nowhere_to_be_found:Thing")
    outcome = run_here(bench.main, ["--list", "methods"])
    assert outcome.code == 0, outcome.err
    lines = {line.split("│")[1].strip(): line for line in outcome.out.splitlines() if line.startswith("│")}
    assert set(lines) == set(METHODS.names())
    assert "cannot be loaded" in lines["gone"]
    assert "32,000" in lines["spdfq"]  # 1000 steps x 32 images x (1 + 2.5 regions)
    assert "real images" in lines["real"]
    models = run_here(bench.main, ["--list", "models"]).out
    assert "deit_tiny_patch16_224.fb_in1k" in models
    backends = run_here(bench.main, ["--list", "backends"]).out
    assert "3,232" in next(line for line in backends.splitlines() if "blockwise" in line)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_in_a_record_is_the_one_that_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "--methods", "noise", "--executor", "local", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["spdfq-bench", "bench", *words])
    assert run_here(lambda _: main(), []).code == 0
    [record] = records_of(tmp_path).values()
    assert record["provenance"]["command"].startswith("python -m harness.bench --models vit_digits")
    assert json.dumps(record).count(str(tmp_path)) == 0
