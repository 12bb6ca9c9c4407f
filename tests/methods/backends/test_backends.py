"""`minmax` and `blockwise` end to end, against hand-written references."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, Array, block_reference, double, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.backends import blockwise, repq
from methods.backends.best import BestConfig
from methods.backends.blockwise import Blockwise, BlockwiseConfig
from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import QuantizationContext, silent
from methods.errors import UsageError
from methods.models.architecture import reconstruction_units
from methods.quant.calibrate import calibrate
from methods.quant.insert import fold_weights, insert_quantizers
from methods.quant.layers import QuantizedLayer
from methods.quant.learning import reconstruct, steps
from methods.quant.learning.objectives import Objective
from methods.quant.quantizers.ranges import ACTIVATION_PERCENTILES

W4A4 = Bits(4, 4)
LEARNING = BlockwiseConfig(iterations=20, learning_rate=2e-3)


def context(report: Callable[[int, int], None] = silent) -> QuantizationContext:
    return QuantizationContext(torch.Generator(), WIDE, report)


def learn(model: Any, config: BlockwiseConfig = LEARNING, bits: Bits = W4A4, images: int = 4) -> Any:
    return Blockwise().quantize(model, noise(images), bits, config, context())


@pytest.mark.parametrize("which", ["minmax", "blockwise"])
@pytest.mark.parametrize("depth", [0, 1])
def test_quantized_block_equals_a_hand_written_forward(which: str, depth: int) -> None:
    model = tiny_vit()
    if which == "minmax":
        quantized: Any = MinMax().quantize(model, noise(4), W4A4, MinMaxConfig(), context())
    else:
        quantized = learn(model, BlockwiseConfig(iterations=0))
    x = torch.randn((2, 17, 16), generator=torch.Generator().manual_seed(9))
    expected = block_reference(double(x), quantized.blocks[depth], model.blocks[depth], heads=2)
    assert double(quantized.blocks[depth](x)) == pytest.approx(expected, abs=1e-4)
    assert np.abs(double(model.blocks[depth](x)) - expected).max() > 0.1


def error_over(row: Array, share: float, bits: int) -> float:
    """Mean squared error of the grid of `bits` over [quantile(1 - share), quantile(share)], zero on it."""
    low, high = (np.quantile(row, part, method="nearest") for part in (1 - share, share))
    step, top = (high - low) / (2**bits - 1), 2**bits - 1
    zero = np.clip(np.round(-low / step), 0, top)
    return float(np.mean(((np.clip(np.round(row / step) + zero, 0, top) - zero) * step - row) ** 2))


@pytest.mark.parametrize(("bits", "least"), [(3, 0.98), (4, 0.995), (8, 1.0)])
def test_clipped_weights_have_the_range_of_least_error(bits: int, least: float) -> None:
    """What `ranges.CLIPPING_PERCENTILES` says of normal values; by default weights keep the range of the start."""
    row = torch.randn((1, 4000), generator=torch.Generator().manual_seed(0))
    errors = {share: error_over(double(row)[0], share, bits) for share in (0.94, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)}
    assert min(errors, key=lambda share: errors[share]) == least
    found = {}
    for name, config in (("clipped", BestConfig()), ("own", BlockwiseConfig())):
        quantizer: Any = config.grids(repq.RECIPE).weights(bits)
        quantizer.fit(row)
        found[name] = float((quantizer(row) - row).square().mean())
    assert found["clipped"] == pytest.approx(errors[least], rel=1e-4)
    own = min(error_over(double(row)[0], share, bits) for share in ACTIVATION_PERCENTILES)
    assert found["own"] == pytest.approx(own, rel=1e-4)


def test_minmax_weights_by_closed_form() -> None:
    model = tiny_vit()
    quantized: Any = MinMax().quantize(model, noise(2), W4A4, MinMaxConfig(), context())
    original, folded = double(model.head.weight), double(quantized.head.layer.weight)
    for before, after in zip(original, folded, strict=True):
        scale = 2 * np.abs(before).max() / 15
        inner = np.abs(before) < np.abs(before).max()
        assert after[inner] == pytest.approx(scale * np.round(before[inner] / scale), abs=1e-6)
        peak = before[~inner].item() / scale  # 7.5 or -7.5, a tie
        assert after[~inner].item() / scale == pytest.approx(7 if peak > 0 else -7.5, abs=1e-5 if peak > 0 else 0.51)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_no_iterations_is_calibration_alone(build: Callable[[], Any]) -> None:
    model, images = build(), noise(4)
    expected = insert_quantizers(model, W4A4, blockwise.RECIPE, WIDE)
    calibrate(expected, images)
    fold_weights(expected)
    assert torch.equal(learn(model, BlockwiseConfig(iterations=0))(images), expected(images))
    assert not torch.equal(learn(model)(images), expected(images))


def test_nothing_to_quantize_is_the_plain_model() -> None:
    model, images = tiny_vit(), noise(2)
    assert torch.equal(learn(model, bits=Bits(32, 32))(images), model(images))


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Record what every unit learns on, its target, and its output before and after learning."""
    recorded: list[dict[str, Tensor]] = []
    original = steps.learn

    def recording(unit: nn.Module, inputs: Tensor, objective: Objective, *rest: Any) -> None:
        before = unit.forward(inputs)
        original(unit, inputs, objective, *rest)
        after = unit.forward(inputs)
        recorded.append({"input": inputs.clone(), "target": objective.target, "before": before, "after": after})

    monkeypatch.setattr(reconstruct, "learn", recording)
    return recorded


def squared(lesson: dict[str, Tensor], key: str) -> float:
    return (lesson[key] - lesson["target"]).double().square().sum(-1).mean().item()


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_learning_reduces_the_reconstruction_error_of_every_unit(
    build: Callable[[], Any], lessons: list[dict[str, Tensor]]
) -> None:
    learn(build())
    ratios = [squared(lesson, "after") / squared(lesson, "before") for lesson in lessons]
    assert len(ratios) == len(reconstruction_units(build()))
    assert max(ratios[1:]) < 0.97, ratios  # images of eight bits leave the patch embedding little to learn


OPTIONS: dict[str, dict[str, Any]] = {
    "batches": {"batch": 2, "iterations": 30},
    "drop": {"drop": 0.25, "iterations": 30},
    "adaround": {"rounding": "adaround", "rounding_rate": 0.1, "iterations": 40},
    "scales": {"scales": "learned", "scale_rate": 1e-3},
    "repq": {"init": "repq", "attention": "log_sqrt2", "learning_rate": 5e-4},
    "erq": {"init": "erq", "attention": "shift_uniform_log2", "learning_rate": 1e-3},
    "feature": {"objective": "feature", "batch": 3, "iterations": 30},
    "sensitivity": {"objective": "sensitivity", "local_weight": 1.0},
    "damped": {"target": "damped"},
    "affine, half a head": {"affine": True, "per_head": True, "rotate_heads": "all"},
    "views of a turned model, own targets": {"rotate": True, "views": 2, "batch": 6, "target": "unit"},
}


@pytest.mark.parametrize(("build", "name"), [(tiny_vit, name) for name in OPTIONS] + [(tiny_swin, "erq")])
def test_learning_reduces_the_error_with_every_option(
    build: Callable[[], Any], name: str, lessons: list[dict[str, Tensor]]
) -> None:
    """Regression leaves less to learn, of the patch embedding next to nothing."""
    learn(build(), replace(LEARNING, **OPTIONS[name]))
    ratios = [squared(lesson, "after") / squared(lesson, "before") for lesson in lessons]
    assert max(ratios[1:]) < 1, ratios
    assert sum(ratios) / len(ratios) < 0.95, ratios


@pytest.mark.parametrize(("build", "pair"), [(tiny_vit, (1, 2)), (tiny_swin, (1, 2))])
def test_a_unit_learns_on_what_the_learned_unit_before_it_puts_out(
    build: Callable[[], Any], pair: tuple[int, int], lessons: list[dict[str, Tensor]]
) -> None:
    learn(build())
    first, second = lessons[pair[0]], lessons[pair[1]]
    assert torch.equal(second["input"], first["after"])
    assert not torch.equal(second["input"], first["before"])


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_targets_are_the_outputs_of_the_floating_point_units(
    build: Callable[[], Any], lessons: list[dict[str, Tensor]]
) -> None:
    model, outputs = build(), list[Tensor]()
    hooks = [unit.register_forward_hook(lambda *a: outputs.append(a[2])) for _, unit in reconstruction_units(model)]
    model(noise(4))
    for hook in hooks:
        hook.remove()
    learn(model)
    assert len(lessons) == len(outputs)
    for lesson, output in zip(lessons, outputs, strict=True):
        assert torch.equal(lesson["target"], output)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_only_weights_and_biases_of_layers_are_learned(build: Callable[[], Any]) -> None:
    before = learn(build(), BlockwiseConfig(iterations=0)).state_dict()
    after = learn(build()).state_dict()
    assert before.keys() == after.keys()
    learned = {name for name in before if ".layer." in name}
    scales = {name for name in before if name.endswith(("scale", "zero_point"))}
    norms = {name for name in before if "norm" in name}
    assert len(scales) > 20
    assert len(norms) >= 8
    for name in before:
        if name.endswith(".layer.bias"):
            assert not torch.equal(before[name], after[name]), name
        elif name not in learned:
            assert torch.equal(before[name], after[name]), name


def test_learned_weights_are_folded_onto_their_grid() -> None:
    quantized = learn(tiny_vit())
    for module in quantized.modules():
        if isinstance(module, QuantizedLayer):
            scale: Any = module.weights.scale if module.weights else None
            steps = module.layer.weight / scale
            assert (steps - steps.round()).abs().max().item() < 1e-4
            assert module.folded


def test_first_adam_step_moves_every_head_bias_by_the_learning_rate_against_its_gradient() -> None:
    model, images, rate = tiny_vit(), noise(4), 1e-3
    start = learn(model, BlockwiseConfig(iterations=0))
    after = learn(model, BlockwiseConfig(iterations=1, learning_rate=rate))
    assert double((after.head.layer.bias - model.head.bias).abs()) == pytest.approx(np.full(10, rate), rel=1e-3)
    # The patch embedding comes first, so its input is the image in both: its gradient is known in closed form.
    error = (start.patch_embed(images) - model.patch_embed(images)).double().mean((0, 1))
    moved = (after.patch_embed.proj.layer.bias - model.patch_embed.proj.bias).double()
    assert double(moved) == pytest.approx(-rate * np.sign(double(error)), rel=1e-3)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_blockwise_leaves_the_original_untouched_and_nothing_to_train(build: Callable[[], Any]) -> None:
    model, images = build(), noise(4)
    state, logits = copy.deepcopy(model.state_dict()), model(images)
    quantized = learn(model)
    assert torch.equal(model(images), logits)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for owner in (model, quantized):
        assert not any(p.requires_grad for p in owner.parameters())
        assert all(p.grad is None for p in owner.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in owner.modules())


def test_every_learning_step_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    config = BlockwiseConfig(iterations=3, learning_rate=1e-4)
    Blockwise().quantize(tiny_vit(), noise(2), W4A4, config, context(lambda *step: seen.append(step)))
    assert seen == [(step, 12) for step in range(1, 13)]


def test_estimates_and_settings() -> None:
    assert Blockwise().image_passes(BlockwiseConfig(iterations=100), 32) == 32 * 101
    assert MinMax().image_passes(MinMaxConfig(), 33) == 11
    assert (BlockwiseConfig().iterations, BlockwiseConfig().learning_rate) == (100, 4e-5)
    regressed = BlockwiseConfig(iterations=100, init="erq", batch=8)
    assert Blockwise().image_passes(regressed, 32) == 2 * 32 + 100 * 8
    for bad in ({"iterations": -1}, {"learning_rate": 0.0}, {"rounding_rate": 0.0}, {"scale_rate": -1.0}):
        with pytest.raises(UsageError, match="iterations >= 0"):
            BlockwiseConfig(**bad)
    for bad in ({"batch": -1}, {"drop": 1.5}, {"rounding_weight": -0.1}):
        with pytest.raises(UsageError, match="drop from 0 to 1"):
            BlockwiseConfig(**bad)
    keys = ("init", "attention", "gelu", "rounding", "scales", "target")
    words: list[dict[str, Any]] = [{key: "odd"} for key in keys]
    for word in words:
        with pytest.raises(UsageError, match=f"{next(iter(word))} must be one of .*, not 'odd'"):
            BlockwiseConfig(**word)
