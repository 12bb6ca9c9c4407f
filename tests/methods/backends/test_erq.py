"""`erq` end to end: what it is fitted on, what comes out, and that it beats the quantizers it starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_models import WIDE, double, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends import erq
from methods.backends.erq import Erq, ErqConfig
from methods.backends.repq import reparameterized
from methods.bits import Bits
from methods.contracts import QuantizationContext, silent
from methods.errors import UsageError
from methods.quant.insert import quantized_layers
from methods.quant.layers import QuantizedLayer

W4A4 = Bits(4, 4)
CONFIG = ErqConfig(coefficient=50.0)


def quantize(model: Any, bits: Bits = W4A4, images: int = 16, report: Any = silent) -> Any:
    return Erq().quantize(model, noise(images), bits, CONFIG, QuantizationContext(torch.Generator(), WIDE, report))


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_layers_are_nearer_to_their_own_output_than_with_weights_rounded_to_nearest(build: Callable[[], Any]) -> None:
    model, images = build(), noise(16)
    fitted, plain = quantize(model), reparameterized(model, images, W4A4, WIDE)
    inputs: dict[str, Tensor] = {}
    for name, layer in quantized_layers(fitted):
        layer.register_forward_pre_hook(lambda _, a, name=name: inputs.update({name: a[0]}))
    fitted(images)

    def error(quantized: Any, name: str) -> float:
        layer: Any = quantized.get_submodule(name)
        unquantized: Any = plain.get_submodule(name)
        target = unquantized.layer(inputs[name])
        layer.outputs = nn.ModuleList()
        return float((layer(inputs[name]) - target).square().mean())

    ratios = [error(fitted, name) / error(plain, name) for name in inputs]
    assert sum(ratios) / len(ratios) < 0.9
    assert max(ratios) < 1.1


def test_the_patch_embedding_is_the_closed_form_on_quantized_patches() -> None:
    """Activations alone are quantized: the first layer is plain ridge regression on patches cut out by hand."""
    model, images = tiny_vit(), noise(8)
    found = quantize(model, Bits(32, 4), images=8).patch_embed.proj
    x = double(found.inputs(images))
    rows = np.array(
        [x[n, :, i : i + 4, j : j + 4].ravel() for n in range(8) for i in range(0, 16, 4) for j in range(0, 16, 4)]
    )
    weight = double(model.patch_embed.proj.weight).reshape(16, 48)
    target = double(model.patch_embed.proj(images)).transpose(0, 2, 3, 1).reshape(-1, 16)
    left = np.block([[rows, np.ones((len(rows), 1))], [np.sqrt(5.0) * np.eye(48), np.zeros((48, 1))]])
    solution = np.linalg.lstsq(left, np.vstack([target - rows @ weight.T, np.zeros((48, 16))]), rcond=None)[0]
    assert double(found.layer.weight).reshape(16, 48) == pytest.approx(weight + solution[:-1].T, abs=1e-5)
    assert double(found.layer.bias) == pytest.approx(solution[-1], abs=1e-5)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_every_layer_is_fitted_in_the_network_quantized_so_far_to_its_own_floating_point_output(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    rows = erq._rows

    def recording(layer: nn.Linear | nn.Conv2d, inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(rows(layer, inputs, outputs))
        return seen[-1]

    monkeypatch.setattr(erq, "_rows", recording)
    model, images = build(), noise(4)
    quantized = quantize(model, images=4)
    later: dict[str, Tensor] = {}
    for name, layer in quantized_layers(quantized):
        layer.register_forward_pre_hook(lambda _, a, name=name: later.update({name: a[0]}))
    quantized(images)
    start = reparameterized(model, images, W4A4, WIDE)
    assert len(seen) == len(later)
    for (inputs, targets), (name, exact) in zip(seen, later.items(), strict=True):
        if name == "patch_embed.proj":
            continue
        unfitted, fitted = (cast(QuantizedLayer, m.get_submodule(name)) for m in (start, quantized))
        assert fitted.inputs is not None
        assert torch.equal(inputs, fitted.inputs(exact).flatten(0, -2)), name
        assert torch.equal(targets, unfitted.layer(exact).flatten(0, -2)), name


def test_weights_end_on_their_grid() -> None:
    for name, layer in quantized_layers(quantize(tiny_vit())):
        assert layer.folded
        assert layer.weights is not None
        codes = layer.weights.quantize(layer.layer.weight)
        assert torch.allclose(layer.weights.dequantize(codes), layer.layer.weight, atol=1e-6), name
        assert len(codes.unique()) > 8


def test_only_layers_change_and_the_original_does_not() -> None:
    model, images = tiny_vit(), noise(16)
    state = copy.deepcopy(model.state_dict())
    quantized, start = quantize(model), reparameterized(model, images, W4A4, WIDE)
    for name, value in start.state_dict().items():
        if ".weights." not in name:
            assert torch.equal(value, quantized.state_dict()[name]) == (".layer." not in name), name
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), *quantized.modules()])
    assert not any(p.requires_grad for p in quantized.parameters())


def test_every_layer_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    quantize(tiny_vit(), images=2, report=lambda *step: seen.append(step))
    assert seen == [(step, 10) for step in range(1, 11)]


def test_one_image_and_weights_alone() -> None:
    model, images = tiny_swin(), noise(2)
    assert quantize(model, images=1)(images).isfinite().all()
    error = (quantize(model, Bits(8, 32))(images) - model(images)).square().mean().sqrt() / model(images).std()
    assert error.item() < 0.05
    assert torch.equal(quantize(model, Bits(32, 32))(images), model(images))


def test_settings_and_estimate() -> None:
    assert (ErqConfig().coefficient, ErqConfig().flips, Erq().image_passes(ErqConfig(), 32)) == (1e4, 100, 32.0)
    for bad in ({"coefficient": 0.0}, {"flips": -1}):
        with pytest.raises(UsageError, match="coefficient > 0"):
            ErqConfig(**bad)
