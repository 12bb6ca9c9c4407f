"""The export command: files of every format, run where they were written; records that say what they did. And
`docs/deploy.md` does what it says."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness_kit import ROOT, TINY, Outcome, make_fields, put, run_bench, run_here

import harness as dfq
from harness import export
from harness.deploy import measure
from harness.record.record import Finished
from harness.record.records import load_records, pack_folder

HERE = ["--executor", "local", "--device", "cpu"]
CELL = [*HERE, "--method", "noise", "--limit", "20", "--set", "noise.images=4"]


def run_export(folder: Path, *words: str) -> Outcome:
    return run_here(export.main, [*CELL, "--results", str(folder), "--out", str(folder / "out"), *words])


def deployed(folder: Path, key: str = "*") -> Any:
    [path] = (folder / "records").glob(f"{key}.json")
    return json.loads(path.read_bytes())["deployed"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    monkeypatch.setattr(measure, "LATENCIES", ((2, 1),))


@pytest.mark.parametrize("model", ["vit_digits", pytest.param("swin_digits", marks=pytest.mark.slow)])
def test_an_onnx_file_is_run_and_timed(tmp_path: Path, quick: None, model: str) -> None:
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    assert run_export(tmp_path, "--model", model).code == 0
    [path] = (tmp_path / "out").glob(f"{model}-*-minmax-w8a8-seed0-*.onnx")
    found = deployed(tmp_path)["onnx"]
    assert found["bytes"] == path.stat().st_size < 0.5 * found["fp32_bytes"]
    ran = found["runtimes"]["onnxruntime"]
    assert abs(ran["top1"] - found["simulated_top1"]) <= 5  # one image of twenty
    [latency] = ran["latencies"]
    assert (latency["batch"], latency["threads"]) == (2, 1)
    assert latency["ms"] > 0 and latency["fp32_ms"] > 0
    told = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert told["cell"]["model"] == model
    assert told["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_a_safetensors_file_answers_bit_for_bit(tmp_path: Path) -> None:
    assert run_export(tmp_path, "--format", "safetensors", "--bits", "w4a4", "--backend", "repq").code == 0
    ran = deployed(tmp_path)["safetensors"]["runtimes"]["torch"]
    assert (ran["agreement"], ran["largest_difference"]) == (100.0, 0.0)
    [path] = (tmp_path / "out").glob("vit_digits-*-repq-w4a4-seed0-*.safetensors")
    loaded: Any = dfq.load(path)
    assert loaded.num_classes == 10


def test_another_format_joins_the_record(tmp_path: Path) -> None:
    for kind in ("safetensors", "torch"):
        assert run_export(tmp_path, "--format", kind).code == 0
    found = deployed(tmp_path)
    assert set(found) == {"safetensors", "torch"}
    assert found["torch"]["runtimes"]["torch"]["agreement"] >= 95


def test_what_no_graph_can_say_is_refused_and_nothing_written(tmp_path: Path) -> None:
    outcome = run_export(tmp_path, "--backend", "repq", "--format", "torch")
    assert outcome.code == 2
    assert outcome.err.startswith("6 quantizers of this model are not uniform")
    assert not (tmp_path / "out").exists()
    assert run_export(tmp_path, "--backend", "repq", "--format", "torch", "--uniform").code == 0
    assert deployed(tmp_path)["torch"]["uniform"]


def test_a_record_is_exported_by_the_start_of_its_key(tmp_path: Path) -> None:
    made = ["--methods", "noise", "--set", "noise.images=4", *TINY, "--bits"]
    run_bench(tmp_path, *made, f"w4a4,{mixed(tmp_path)}")
    pack_folder(tmp_path)
    shutil.rmtree(tmp_path / "cache")
    for record in load_records([tmp_path]).sound:
        words = ["--key", record.key[:9], "--format", "safetensors"]
        outcome = run_here(export.main, [*HERE, *words, "--results", str(tmp_path), "--out", str(tmp_path / "out")])
        assert outcome.code == 0, outcome.err
        found = deployed(tmp_path, record.key)["safetensors"]
        assert isinstance(record, Finished)
        assert found["simulated_top1"] == record.metrics.top1
        assert len(list((tmp_path / "out").glob(f"*-noise-minmax-*-seed0-{record.key[:12]}.safetensors"))) == 1


def mixed(folder: Path) -> Path:
    (folder / "mixed.toml").write_text('default = "w4a4"\n[layers]\nhead = "w8a8"\n')
    return folder / "mixed.toml"


def test_a_key_that_names_no_cell_of_today_is_a_sentence(tmp_path: Path) -> None:
    key = put(tmp_path, make_fields("", model="vit_digits")).stem
    for words, said in (
        (["--key", "x"], "No records of"),
        (["--key", key, "--bits", "w4a4"], "--bits has no effect: --key names a whole cell."),
        (["--key", key], f"{key[:12]} was measured with other images to evaluate on, weights"),
    ):
        outcome = run_here(export.main, [*HERE, *words, "--results", str(tmp_path), "--out", str(tmp_path / "out")])
        assert outcome.code == 2
        assert said in outcome.err
        assert not (tmp_path / "out").exists()


def test_an_export_is_of_one_cell(tmp_path: Path) -> None:
    for words in (["--model", "vit_digits,swin_digits"], ["--seeds", "0,1"]):
        outcome = run_export(tmp_path, *words)
        assert outcome.code == 2
        assert outcome.err.startswith("An export")


@pytest.mark.slow
def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    monkeypatch.setattr(measure, "LATENCIES", ((1, 1),))
    found: dict[str, Any] = {}
    for kind, text in re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.S):
        if kind == "python":
            exec(text, found)
            continue
        _, _, module, *words = shlex.split(text)
        outcome = run_here(importlib.import_module(module).main, words)
        assert outcome.code == 0, outcome.err
    assert len(list(Path("images").glob("*.png"))) == 9  # the contact sheet with them
    assert found["logits"].shape == (2, 10)
    assert float(abs(found["logits"][0] - found["logits"][1]).max()) < 1e-3
