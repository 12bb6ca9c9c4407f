"""The layer report against layers quantized by hand, and suggested bits against every choice there is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import WIDE, double, noise, tiny_swin, tiny_vit

from harness.plan.mixed_bits import read_bits
from harness.report.formats.charts import strips
from harness.report.syntheses import LayerPart, LayerReport, layer_reports
from harness.sensitivity.__main__ import main
from harness.sensitivity.measure import (
    INPUT,
    OPERANDS,
    WEIGHT,
    Part,
    Sensitivity,
    as_toml,
    mean_width,
    parts,
    quantizer,
    sensitivities,
    suggested,
)
from methods.backends.minmax import MinMax, MinMaxConfig
from methods.contracts import silent
from methods.errors import UsageError


def test_a_part_alone_is_what_it_is_with_its_layer_quantized_by_hand() -> None:
    model, images = tiny_vit(), noise(4)
    weight = model.head.weight
    largest = weight.gather(1, weight.abs().argmax(1, keepdim=True))
    weight.mul_(largest.sign())  # -3.5 steps would be -3 or -4 by a processor's rounding, 3.5 are 3 by any
    found = sensitivities(model, images, [3, 5], quantizer(MinMax(), model, images, MinMaxConfig(), WIDE), silent)
    assert len(found) == 2 * (2 * 10 + 2)  # ten layers, two attentions, two widths
    [row] = [r for r in found if r.part == Part("head", WEIGHT, 160) and r.width == 3]
    features = double(model.forward_head(model.forward_features(images), pre_logits=True))
    weight = double(model.head.weight)
    scale = 2 * np.abs(weight).max(1, keepdims=True) / 7
    rounded = np.clip(np.round((weight / scale).astype(np.float32)), -4, 3) * scale
    exact, other = (features @ w.T + double(model.head.bias) for w in (weight, rounded))
    assert row.error == pytest.approx(((other - exact) ** 2).sum() / (exact**2).sum(), rel=1e-4)
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (exact, other))
    assert row.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-3)
    wide, narrow = (sum(r.kl for r in found if r.width == width) for width in (5, 3))
    assert 0 < wide < narrow


def test_parts_count_numbers_by_hand() -> None:
    found = {(part.layer, part.side): part.values for part in parts(tiny_vit(), noise(1))}
    assert found["blocks.0.mlp.fc1", WEIGHT] == 16 * 64
    assert found["blocks.0.mlp.fc2", INPUT] == 17 * 64
    assert found["blocks.1.attn", OPERANDS] == 3 * 17 * 16 + 2 * 17 * 17
    windows = {(part.layer, part.side): part.values for part in parts(tiny_swin(), noise(1))}
    assert windows["layers.0.blocks.0.attn", OPERANDS] == 3 * 64 * 8 + 2 * 64 * 16


def random_rows(seed: int) -> list[Sensitivity]:
    random = np.random.default_rng(seed)
    some = [Part(f"layer{i}", side, int(random.integers(1, 50))) for i in range(4) for side in (WEIGHT, INPUT)]
    return [
        Sensitivity(part, width, 0.0, float(random.random() * 4.0**-width)) for part in some for width in (2, 4, 8)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_is_the_best_of_every_choice(seed: int) -> None:
    rows, mean = random_rows(seed), 4.5
    found = suggested(rows, mean)
    cost = {(row.part, row.width): row.kl for row in rows}
    for weights in (True, False):
        some = [part for part in found if (part.side == WEIGHT) == weights]
        every = [dict(zip(some, widths, strict=True)) for widths in itertools.product((2, 4, 8), repeat=len(some))]
        allowed = [c for c in every if sum(p.values * w for p, w in c.items()) <= mean * sum(p.values for p in some)]
        least = min(sum(cost[pair] for pair in choice.items()) for choice in allowed)
        assert sum(cost[part, found[part]] for part in some) == pytest.approx(least, rel=1e-6)
        assert mean_width(found, weights) <= mean


def test_a_mean_below_all_widths_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mean of 1\.5 bits"):
        suggested(random_rows(0), 1.5)


def test_the_file_is_one_that_bits_take(tmp_path: Path) -> None:
    widths = {Part("a.qkv", WEIGHT, 1): 3, Part("a.qkv", INPUT, 1): 5, Part("a", OPERANDS, 1): 4}
    path = tmp_path / "mixed.toml"
    path.write_text(as_toml(widths, "a comment"))
    bits = read_bits(str(path))
    assert (bits.of("a.qkv").weights, bits.of("a.qkv").activations, bits.of("a").activations) == (3, 5, 4)
    assert bits.of("other") == "w8a8"


def test_the_command_prints_every_part_and_writes_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mixed.toml"
    words = [
        "--model",
        "vit_digits",
        "--images",
        "digits-train",
        "--count",
        "2",
        "--widths",
        "2,4",
        "--backend",
        "minmax",
    ]
    assert main([*words, "--suggest", "3", "--bits-out", str(target), "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "blocks.5.mlp.fc2 input" in printed.replace("\n", " ")
    assert read_bits(str(target)).layers
    [report] = layer_reports([tmp_path])
    assert (report.model, report.backend, report.images, report.count) == ("vit_digits", "minmax", "digits-train", 2)
    assert (report.widths, len(report.parts)) == ([2, 4], 58)
    [part] = [each for each in report.parts if each.layer == "blocks.5.mlp.fc2" and each.side == "input"]
    assert part.values == 16640
    assert f"{part.errors[1]:.2g}" in printed
    assert main([*words, "--images", str(tmp_path / "none.safetensors")]) == 2
    assert torch.is_grad_enabled()


def test_what_is_no_layer_report_is_named_and_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = {"layer": "head", "side": "weight", "values": 8, "errors": [0.1, None], "kl": [0.0, 0.2]}
    sound = {"model": "m", "backend": "repq", "images": "i", "count": 1, "widths": [3, 4], "parts": [part]}
    for name, content in (("a", sound), ("b", {**sound, "widths": [4]}), ("c", {**sound, "more": 1}), ("d", 7)):
        (tmp_path / f"layers_{name}.json").write_text(json.dumps(content))
    [report] = layer_reports([tmp_path])
    assert report.parts[0].errors == [0.1, None]
    assert [line.split(" is no ")[0][-13:] for line in capsys.readouterr().err.splitlines()] == [
        f"layers_{name}.json" for name in "bcd"
    ]


def test_a_heat_strip_by_hand() -> None:
    figures: dict[str, list[float | None]] = {"a.0.x": [1e-5, 1e-3], "a.0.y": [None, 1e-1], "head": [1e-4, 0.0]}
    parts_ = [LayerPart(layer, WEIGHT, 1, two, two) for layer, two in figures.items()]
    parts_.append(LayerPart("head", INPUT, 1, [1e-5, 1e-2], [1e-5, 1e-2]))
    error, kl = strips(LayerReport("m", "repq", "i", 1, [8, 5], parts_))
    assert (error.title, kl.rows) == ("Error of the layer's output, 5 bits", error.rows)
    assert error.rows == [
        (WEIGHT, [(0, "a.0.x weight: 0.001"), (8, "a.0.y weight: 0.1"), (0, "head weight: 0")]),
        (INPUT, [None, None, (4, "head input: 0.01")]),
    ]
    assert error.ends == (1e-3, 1e-1)
    assert error.names == [(0, "a.0")]  # "head" has no room over one cell
