"""Runs that go wrong: a method or cell that fails, weights and labels that the FP32 gate stops."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness_kit import (
    TINY,
    by_cell,
    flat_folder,
    records_of,
    run_bench,
    snapshot,
)
from safetensors.torch import save_file
from torch import nn

from harness.inputs import image_sets as data
from harness.inputs.digits import digits_split
from harness.inputs.zoo import ENTRIES
from methods.contracts import SynthesisContext, SyntheticImages
from methods.registry import METHODS
from methods.synthesis.noise import Noise


class Broken(Noise):
    """Fails while `whole` is false."""

    name = "broken"
    whole = False

    def synthesize(self, model: nn.Module, config: Any, context: SynthesisContext) -> SyntheticImages:
        if not self.whole:
            raise RuntimeError("boom: no images today")
        return super().synthesize(model, config, context)


@pytest.mark.parametrize("end", [SystemExit(0), GeneratorExit("no more")])
def test_a_method_cannot_end_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException) -> None:
    def leave(*_words: object) -> SyntheticImages:
        raise end

    monkeypatch.setattr(Broken, "synthesize", leave)
    monkeypatch.setitem(METHODS._targets, "broken", Broken)
    done = run_bench(tmp_path, *TINY, "--methods", "broken", "--bits", "w8a8")
    assert done.code == 1
    [record] = records_of(tmp_path).values()
    assert f"{type(end).__name__}: {end}" in record["error"]


def test_a_failing_method_is_recorded_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS._targets, "broken", Broken)
    words = [*TINY, "--methods", "broken,noise", "--bits", "w4a4,w8a8", "--set", "broken.images=3"]
    done = run_bench(tmp_path, *words)
    assert done.code == 1
    assert done.out.count("Failed:") >= 1
    assert "boom: no images today" in done.out
    found = by_cell(tmp_path)
    assert {(cell[1], cell[3]): record["status"] for cell, record in found.items()} == {
        ("broken", "w4a4"): "failed",
        ("broken", "w8a8"): "failed",
        ("noise", "w4a4"): "ok",
        ("noise", "w8a8"): "ok",
    }
    for cell, record in found.items():
        if cell[1] == "broken":
            assert "RuntimeError: boom: no images today" in record["error"]
            assert "metrics" not in record
            assert record["cell"]["overrides"] == {"broken.images": 3}
    before = snapshot(tmp_path / "records")
    monkeypatch.setattr(Broken, "whole", True)
    assert run_bench(tmp_path, *words).code == 0
    after = snapshot(tmp_path / "records")
    rewritten = {name.removesuffix(".json") for name in after if after[name] != before[name]}
    assert rewritten == {record["key"] for cell, record in found.items() if cell[1] == "broken"}
    assert {record["status"] for record in records_of(tmp_path).values()} == {"ok"}


def test_a_failing_cell_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from methods.backends.minmax import MinMax

    def fail(*_arguments: Any, **_more: Any) -> nn.Module:
        raise ZeroDivisionError("scale is zero")

    monkeypatch.setattr(MinMax, "quantize", fail)
    done = run_bench(tmp_path, *TINY, "--methods", "noise", "--bits", "w4a4")
    assert done.code == 1
    [record] = records_of(tmp_path).values()
    assert record["status"] == "failed"
    assert record["error"] == "ZeroDivisionError: scale is zero"
    assert "in fail" in record["traceback"]


@pytest.mark.parametrize(("points", "stops"), [(14.5, False), (15.5, True)])
def test_the_gate_stands_fifteen_points_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: float, stops: bool
) -> None:
    expected = 98.0 + points  # the 50 images give 98 %
    monkeypatch.setitem(ENTRIES, "vit_digits", dataclasses.replace(ENTRIES["vit_digits"], expected_top1=expected))
    done = run_bench(tmp_path, *TINY, "--methods", "noise", "--bits", "w8a8")
    assert done.code == (2 if stops else 0)
    assert len(records_of(tmp_path)) == (0 if stops else 1)
    if stops:
        assert "98.0 %" in done.err
        assert f"{expected:.1f} %" in done.err
        assert "--no-fp32-gate" in done.err
        assert done.err.count("\n") == 1


@pytest.fixture
def wrong_labels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Digits whose validation labels are one too high."""

    def shifted(train: bool) -> Any:
        images, labels = digits_split(train)
        return images, labels if train else (labels + 1) % 10

    data.open_images.cache_clear()
    monkeypatch.setattr(data, "digits_split", shifted)
    yield
    data.open_images.cache_clear()


@pytest.mark.usefixtures("wrong_labels")
def test_wrong_labels_stop_the_run_unless_told_otherwise(tmp_path: Path) -> None:
    words = [*TINY, "--methods", "noise,real", "--bits", "w8a8"]
    for _ in range(2):  # the second time the FP32 logits are cached
        done = run_bench(tmp_path, *words)
        assert done.code == 2
        assert "vit_digits reaches" in done.err
        assert "wrong labels" in done.err
        assert "Traceback" not in done.err + done.out
        assert records_of(tmp_path) == {}
    done = run_bench(tmp_path, *words, "--no-fp32-gate")
    assert done.code == 0
    assert {record["metrics"]["fp32_top1"] < 20 for record in records_of(tmp_path).values()} == {True}
    assert len(records_of(tmp_path)) == 2


def random_deit(folder: Path) -> Path:
    """Write a checkpoint of deit_t that knows nothing."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = timm.create_model("deit_tiny_patch16_224", pretrained=False).state_dict()
    save_file(state, folder / "deit_tiny_patch16_224.fb_in1k.safetensors")
    return folder


def test_weights_that_know_nothing_are_stopped(tmp_path: Path) -> None:
    words = ["--models", "deit_t", "--methods", "noise", "--backends", "minmax", "--bits", "w4a4"]
    words += ["--weights", str(random_deit(tmp_path / "weights")), "--data", str(flat_folder(tmp_path / "data", 4))]
    done = run_bench(tmp_path / "results", *words)
    assert done.code == 2
    assert "deit_t reaches" in done.err
    assert "72.2 %" in done.err
    assert records_of(tmp_path / "results") == {}
