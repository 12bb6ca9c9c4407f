"""Steps of learning: images kept back, views seen, targets, what is restored; affine compensation by least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, double, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends import blockwise, repq
from methods.backends.best import Best, BestConfig
from methods.backends.blockwise import Blockwise, BlockwiseConfig, loosen
from methods.backends.erq import ErqConfig, reduce_errors
from methods.bits import Bits
from methods.contracts import QuantizationContext, silent
from methods.errors import UsageError
from methods.optimisation.views import with_views
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers
from methods.quant.learning import steps
from methods.quant.learning.compensate import affine_fit, compensate, scale_outputs
from methods.quant.learning.objectives import LocalObjective
from methods.quant.learning.reconstruct import Targets, kept_back, reconstruct, unit_outputs
from methods.quant.learning.settings import Learning
from methods.quant.learning.steps import Best as BestStep
from methods.quant.learning.steps import batch_of


def test_an_image_is_kept_back_with_all_its_crops() -> None:
    kept = kept_back(12, 4, 0.25, torch.device("cpu"))
    assert kept.nonzero().flatten().tolist() == [3, 7, 11]
    assert not kept_back(12, 4, 0.0, torch.device("cpu")).any()


def test_batches_take_none_of_the_images_kept_back() -> None:
    generator, seen = torch.Generator().manual_seed(0), torch.tensor([0, 2, 3, 5])
    for _ in range(20):
        drawn: Any = batch_of(6, 2, generator, torch.device("cpu"), seen)
        assert len(set(drawn.tolist())) == 2
        assert set(drawn.tolist()) <= set(seen.tolist())
    assert batch_of(6, 0, generator, torch.device("cpu"), seen) is seen


def test_the_state_that_did_best_on_images_kept_back_is_restored() -> None:
    """A unit that adds a number: of 3, 1 and 2 the second is nearest to the target 0."""

    class Plus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.number = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.number

    unit, x = Plus(), torch.zeros((2, 1))
    best = BestStep(unit, x, LocalObjective(x), torch.tensor([False, True]), [unit.number])
    for number in (3.0, 1.0, 2.0):
        unit.number.data.fill_(number)
        best.look()
    best.restore()
    assert unit.number.item() == 1.0


def prepared(images: Tensor) -> tuple[Any, Any]:
    model = tiny_vit()
    quantized = insert_quantizers(model, Bits(4, 4), blockwise.RECIPE, WIDE)
    calibrate(quantized, images)
    return model, quantized


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_no_unit_ends_farther_off_on_images_kept_back_than_it_began(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other images, and by the whole network, a rate far too large may do harm all the same."""
    losses: list[tuple[float, float]] = []

    def spy(unit: Any, inputs: Tensor, objective: Any, kept: Tensor, *rest: Any) -> None:
        rows = kept.nonzero().flatten()
        before = float(objective(unit.forward(inputs[rows]), rows))
        steps.learn(unit, inputs, objective, kept, *rest)
        losses.append((before, float(objective(unit.forward(inputs[rows]), rows))))

    monkeypatch.setattr("methods.quant.learning.reconstruct.learn", spy)
    images = noise(8)
    model, quantized = prepared(images)
    learning = Learning(iterations=10, learning_rate=rate, held_out=0.25)
    reconstruct(model, quantized, images, learning, torch.Generator().manual_seed(0), silent)
    assert len(losses) == 4
    assert all(after <= before for before, after in losses), losses


@pytest.mark.parametrize(("target", "share"), [("unit", 0.0), ("network", 1.0), ("damped", 0.25)])
def test_targets_mix_unit_and_network(target: str, share: float) -> None:
    model, images = tiny_vit(), noise(3)
    outputs = unit_outputs(model, images)
    inputs = 0.8 * outputs["blocks.0"]
    found = Targets(model, images, Learning(target=target)).of("blocks.1", inputs)
    expected = (1 - share) * model.blocks[1](inputs) + share * outputs["blocks.1"]
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"objective": "far"}, {"damping": 1.5}, {"held_out": 1.0}, {"local_weight": -1.0}, {"target": "both"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Learning(**wrong)


def test_gain_and_shift_are_those_of_least_squares() -> None:
    random = np.random.default_rng(0)
    found = random.normal(size=(50, 4))
    wanted = found * [1.3, 0.4, 2.0, 1.0] + [0.1, -3, 0, 2] + 0.2 * random.normal(size=(50, 4))
    gain, shift = affine_fit(torch.from_numpy(found), torch.from_numpy(wanted))
    for channel in range(4):
        rows = np.stack([found[:, channel], np.ones(50)], 1)
        expected = np.linalg.lstsq(rows, wanted[:, channel], rcond=None)[0]
        assert [gain[channel].item(), shift[channel].item()] == pytest.approx(expected, rel=1e-9)


def test_a_constant_channel_or_a_turned_one_is_only_shifted() -> None:
    found = torch.stack([torch.ones(8), torch.arange(8.0)], 1)
    gain, shift = affine_fit(found, torch.stack([torch.full((8,), 3.0), -torch.arange(8.0)], 1))
    assert gain.tolist() == [1, 1]
    assert shift.tolist() == [2, -7]


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_a_block_comes_nearer_and_no_rounding_changes(build: Any) -> None:
    model, images = build(), noise(4)
    quantized = insert_quantizers(model, Bits(3, 3), blockwise.RECIPE, WIDE)
    calibrate(quantized, images)
    [first, second] = [name for name in unit_outputs(model, images) if "blocks" in name][:2]
    x = unit_outputs(model, images)[first]
    plain: Any = model.get_submodule(second)
    unit: Any = quantized.get_submodule(second)
    codes = {
        name: unit.get_submodule(name).weights.quantize(unit.get_submodule(name).layer.weight)
        for name in ("attn.proj", "mlp.fc2")
    }
    before = (unit(x) - plain(x)).square().mean().item()
    compensate(plain, unit, x)
    error = unit(x) - plain(x)
    assert error.square().mean().item() < 0.98 * before
    for name, kept in codes.items():
        layer: Any = unit.get_submodule(name)
        assert (layer.weights.quantize(layer.layer.weight) != kept).float().mean().item() < 0.01  # ties may turn


def test_a_layer_without_bias_gets_one() -> None:
    whole: Any = insert_quantizers(tiny_vit(), Bits(4, 32), blockwise.RECIPE, WIDE)
    quantized = whole.blocks[0].mlp.fc2
    x, gain, shift = (
        noise(2).flatten(1)[:, :128].reshape(4, 64),
        torch.rand(16).double() + 0.5,
        torch.rand(16).double(),
    )
    quantized.layer.bias = None
    before = double(quantized(x))
    scale_outputs(quantized, gain, shift)
    assert double(quantized(x)) == pytest.approx(before * gain.numpy() + shift.numpy(), abs=1e-5)


W4A4 = Bits(4, 4)


def context() -> QuantizationContext:
    return QuantizationContext(torch.Generator().manual_seed(3), WIDE)


def by_hand(model: Any, config: BlockwiseConfig, views: int) -> Any:
    here = context()
    seen = with_views(noise(4), views, here.generator)
    quantized = repq.reparameterized(model, noise(4), W4A4, WIDE, config.grids(repq.RECIPE))
    loosen(reduce_errors(quantized, seen, ErqConfig(), here))
    reconstruct(model, quantized, seen, config, here.generator, here.report)
    fold_weights(quantized)
    return quantized


def test_regression_and_learning_see_the_views() -> None:
    model = tiny_vit()
    config = BlockwiseConfig(init="erq", attention="log_sqrt2", views=2, iterations=3, learning_rate=1e-3, batch=5)
    found: Any = Blockwise().quantize(model, noise(4), W4A4, config, context())
    expected, without = by_hand(model, config, 2), by_hand(model, config, 0)
    assert torch.equal(found(noise(2)), expected(noise(2)))
    assert not found(noise(2)).allclose(without(noise(2)), atol=1e-2)
    kept = {name: value for name, value in without.state_dict().items() if name.endswith("inputs.scale")}
    assert len(kept) == 10
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in kept.items())


def test_estimate_counts_views() -> None:
    assert Best().image_passes(BestConfig(), 8) == 8 + 64 + 7 * 100 * 16
    assert Best().image_passes(BestConfig(batch=0), 8) == 8 + 64 + 7 * 100 * 64
    assert Blockwise().image_passes(BlockwiseConfig(), 8) == 8 + 100 * 8
    assert Blockwise().image_passes(BlockwiseConfig(init="erq"), 8) == 16 + 100 * 8


def test_fewer_than_no_views_are_refused() -> None:
    with pytest.raises(UsageError, match="views must be at least 0"):
        BlockwiseConfig(views=-1)
