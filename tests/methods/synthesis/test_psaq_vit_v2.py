"""PSAQ-ViT V2: discrepancy and gradient by the formula, the student's own steps, and how both alternate."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from test_psaq_vit import SWIN, VIT, context, slow_loss
from tiny_models import Array, double, noise, symmetric_channels
from torch import Tensor, nn

from methods.bits import Bits
from methods.contracts import SyntheticImages
from methods.errors import UsageError
from methods.quant.insert import quantized_layers
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.synthesis.psaq_vit_v2 import PSAQViTV2, PSAQViTV2Config, Student, _Objective

CONFIG = PSAQViTV2Config(images=3, iterations=4, jitter=30)


def synthesize(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return PSAQViTV2().synthesize(model, dataclasses.replace(CONFIG, **changes), context(seed, micro_batch))


class OneLayer(nn.Module):
    """A linear model of the pixels as the teacher, so that a student can be written down."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn((4, 12), generator=torch.Generator().manual_seed(5))
        self.default_cfg = {"input_size": (3, 2, 2)}
        self.head = nn.Linear(12, 4)
        self.head.weight.data.copy_(weight)
        self.head.bias.data.copy_(torch.arange(4.0))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(x.flatten(1))
        return result


def one_layer_student(monkeypatch: pytest.MonkeyPatch, micro_batch: int = 1 << 20) -> tuple[OneLayer, Student]:
    monkeypatch.setattr("methods.models.architecture.attention_modules", lambda model: [])
    teacher = OneLayer()
    return teacher, Student(teacher, Bits.parse("w4a4"), 0.01, context(0, micro_batch))


def slow_step(weight: Array, bias: Array, x: Array, wanted: Array) -> tuple[float, Array, Array]:
    """Return the discrepancy and its straight-through gradients, none where a weight is clipped.

    The images have eight bits over the box -1 to 1; its zero point, half way between two, is just below in float32.
    """
    zero = float(np.round(np.float32(1) / np.float32(2 / 255)))
    inputs = 2 / 255 * np.clip(np.round(x / (2 / 255)), -zero, 255 - zero)
    quantized = symmetric_channels(weight, 4)
    single = weight.astype(np.float32)
    clipped = np.round(single / (2 * np.abs(single).max(axis=1, keepdims=True) / np.float32(15))) > 7
    apart = inputs @ quantized.T + bias - wanted
    slope = np.sign(apart) / apart.size
    return float(np.abs(apart).mean()), np.where(clipped, 0.0, slope.T @ inputs), slope.sum(0)


@pytest.mark.parametrize("micro_batch", [1 << 20, 2])
def test_a_students_step_is_adam_on_the_discrepancy_straight_through(
    micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, student = one_layer_student(monkeypatch, micro_batch)
    images = noise(3, 2)
    student.calibrate(images)
    weight, bias, x = (double(value) for value in (teacher.head.weight, teacher.head.bias, images.flatten(1)))
    expected, *gradients = slow_step(weight, bias, x, double(teacher(images)))
    assert student.learn(images) == pytest.approx(expected, rel=1e-5)
    [(_, layer)] = quantized_layers(student.network)
    assert layer.layer.bias is not None
    learned = double(layer.layer.weight), double(layer.layer.bias)
    for before, after, gradient in zip((weight, bias), learned, gradients, strict=True):
        clear = (np.abs(gradient) > 1e-5) | (gradient == 0)  # Adam makes a whole step of any rounding
        assert clear.mean() > 0.9
        assert after[clear] == pytest.approx((before - 0.01 * np.sign(gradient))[clear], abs=1e-5)
    assert teacher.head.weight.equal(OneLayer().head.weight)


def test_steps_bring_the_student_nearer_to_its_teacher() -> None:
    student, images = Student(VIT, Bits.parse("w4a4"), 1e-3, context(0, 2)), noise(4)
    student.calibrate(images)
    before = copy.deepcopy(student.parameters)
    found = [student.learn(images) for _ in range(15)]
    assert found[-1] < 0.9 * found[0]
    assert all(not torch.equal(old, new) for old, new in zip(before, student.parameters, strict=True))
    assert not any(parameter.requires_grad for parameter in student.parameters)


@pytest.mark.parametrize("micro_batch", [1 << 20, 2])
@pytest.mark.parametrize(("model", "windows"), [(VIT, [1, 1]), (SWIN, [4, 4, 1, 1])])
def test_loss_and_gradient_equal_the_formula(model: Any, windows: list[int], micro_batch: int) -> None:
    changes: dict[str, Any] = {"tv_weight": 0.0, "discrepancy_weight": 2.0}
    objective = _Objective(model, dataclasses.replace(CONFIG, **changes), context(micro_batch=micro_batch))
    images = noise(3).requires_grad_(True)
    terms = {"discrepancy": 0.0, "pse": 0.0}
    for group in objective(images, 0):
        torch.stack(list(group.values())).sum().backward()
        terms = {name: terms[name] + group[name].item() for name in terms}
    exact = images.detach().double().requires_grad_(True)
    plain = copy.deepcopy(model).double()
    shadow = images.detach().clone().requires_grad_(True)  # rounding makes the student's path one of float32
    student = objective.student(shadow)
    teacher = plain(exact)
    apart = teacher - student.double()
    expected = {
        "discrepancy": -2.0 * torch.stack([abs(value) for value in apart.flatten()]).sum() / apart.numel(),
        "pse": slow_loss(model, exact, torch.zeros(3, dtype=torch.long), windows)["pse"],
    }
    torch.stack(list(expected.values())).sum().backward()
    assert terms == {name: pytest.approx(value.item(), abs=1e-4, rel=1e-4) for name, value in expected.items()}
    assert images.grad is not None
    assert exact.grad is not None
    assert shadow.grad is not None
    slope = exact.grad + shadow.grad
    assert shadow.grad.abs().max().item() > 1e-3
    assert (images.grad - slope).abs().max().item() < 2e-3 * slope.abs().max().item()


def test_the_student_has_its_bits_and_the_ranges_of_the_images_as_shown() -> None:
    objective = _Objective(VIT, dataclasses.replace(CONFIG, student_bits="w3a5"), context())
    list(objective(noise(3), 0))
    for _, layer in quantized_layers(objective.student.network):
        assert isinstance(layer.weights, UniformQuantizer)
        assert isinstance(layer.inputs, UniformQuantizer)
        assert (layer.weights.bits, layer.inputs.bits) == (3, 8 if layer.inputs.search.known else 5)
        largest = layer.layer.weight.flatten(1).abs().amax(dim=1)
        assert layer.weights.scale.flatten().tolist() == pytest.approx((2 * largest / 7).tolist())
    network: Any = objective.student.network
    for step, images in enumerate((noise(3), 2 * noise(3))):
        seen: list[Tensor] = []
        hook = network.blocks[0].attn.qkv.register_forward_pre_hook(lambda _, a, seen=seen: seen.append(a[0]))
        list(objective(images, step))
        hook.remove()
        low, high = min(0.0, seen[0].min().item()), max(0.0, seen[0].max().item())
        assert float(network.blocks[0].attn.qkv.inputs.scale) == pytest.approx((high - low) / 31, rel=1e-5)


def test_the_student_answers_every_image_step_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[Tensor] = []
    monkeypatch.setattr(Student, "learn", lambda self, images: answered.append(images.detach().clone()))
    shown: list[Tensor] = []
    monkeypatch.setattr(Student, "calibrate", lambda self, images: shown.append(images.detach().clone()))
    synthesize(student_steps=2, pse_weight=0.0)
    assert len(shown) == 4
    assert len(answered) == 6
    assert all(torch.equal(images, shown[1 + index // 2]) for index, images in enumerate(answered))


ALONE: dict[str, Any] = {"iterations": 20, "pse_weight": 0.0, "tv_weight": 0.0, "jitter": 0, "flip": 0.0}


def test_images_move_apart_from_a_student_that_stands_still() -> None:
    apart = synthesize(student_steps=0, **ALONE).losses["discrepancy"]
    assert apart[-1] < 1.2 * apart[0] < 0


def test_the_student_follows_on_images_that_stand_still() -> None:
    """Where both move, either may be ahead at any one step."""
    apart = synthesize(student_rate=1e-3, learning_rate=1e-9, **ALONE).losses["discrepancy"]
    assert apart[0] < 1.25 * apart[-1]


def test_the_generator_alone_decides_and_the_model_stays_as_it_was() -> None:
    before = {name: value.clone() for name, value in SWIN.state_dict().items()}
    torch.manual_seed(1)
    first = synthesize(SWIN, seed=7)
    torch.manual_seed(2)
    again, other = synthesize(SWIN, seed=7), synthesize(SWIN, seed=8)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert (first.images - other.images).abs().mean().item() > 0.1
    assert all(torch.equal(value, SWIN.state_dict()[name]) for name, value in before.items())
    assert first.targets is None


def test_defaults_are_psaq_vits_and_passes_are_counted() -> None:
    method = PSAQViTV2()
    deit, swin = method.default_config("deit_t"), method.default_config("swin_t")
    assert (deit.images, deit.iterations, deit.learning_rate, swin.learning_rate) == (32, 1000, 0.2, 0.25)
    assert (deit.jitter, deit.loop().rounds, deit.student_bits) == (15, 2, "w4a8")
    assert method.image_passes(deit) == pytest.approx(32000 * 11 / 3)
    assert method.short == {"iterations": 100}


def test_models_that_cannot_be_quantized_are_refused() -> None:
    with pytest.raises(UsageError, match="Identity is not supported"):
        synthesize(nn.Identity(), pse_weight=0.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"images": 0}, "images >= 1"),
        ({"discrepancy_weight": -1.0}, "weights >= 0"),
        ({"beta1": 1.0}, "beta1 and beta2"),
        ({"student_bits": "w32a32"}, "student that is quantized"),
        ({"student_bits": "four"}, "not of the form w4a4"),
        ({"student_rate": 0.0}, "student_rate > 0"),
        ({"rounds": 0}, "rounds <= iterations"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PSAQViTV2Config(**bad)
