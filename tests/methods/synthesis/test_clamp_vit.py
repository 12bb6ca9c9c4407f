"""CLAMP-ViT's generation: its contrast of patches against a loop over anchors, its loss on unfused attention."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from test_mimiq import context
from tiny_models import noise, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn
from torch.nn import functional

from methods.contracts import SyntheticImages
from methods.errors import UsageError
from methods.models.architecture import attention_modules
from methods.synthesis.clamp_vit import ClampViT, ClampViTConfig, Neighbourhood, _Objective

CONFIG = ClampViTConfig(images=3, iterations=3, rounds=1)
VIT, SWIN = tiny_vit(), tiny_swin()


def synthesize(model: Any = VIT, seed: int = 0, micro_batch: int = 1 << 20, **changes: Any) -> SyntheticImages:
    return ClampViT().synthesize(model, dataclasses.replace(CONFIG, **changes), context(seed, micro_batch))


def slow_contrast(tokens: Tensor, law: Neighbourhood) -> Tensor:
    """L_PC of one map's tokens [patches, d]: anchor by anchor, positive by positive, negative by negative."""
    _, columns = law.grid
    places = [divmod(i, columns) for i in range(len(tokens))]
    units = [token / token.norm() for token in tokens]
    anchors = []
    for i, (row, column) in enumerate(places):
        scores = [unit @ units[i] / law.temperature for unit in units]
        near = [j for j, (r, c) in enumerate(places) if j != i and max(abs(r - row), abs(c - column)) <= law.radius]
        positives = sorted(near, key=lambda j: -scores[j].item())[: law.positives]
        negatives = sum(scores[j].exp() for j in range(len(tokens)) if j != i and j not in positives)
        terms = [-(scores[p].exp() / (scores[p].exp() + negatives)).log() for p in positives]
        anchors.append(torch.stack(terms).mean())
    return torch.stack(anchors).mean()


@pytest.mark.parametrize(
    ("grid", "radius", "positives"),
    [((3, 4), 1, 2), ((4, 4), 1, 4), ((4, 4), 1, 8), ((2, 7), 2, 3)],
)
def test_contrast_and_gradient_equal_a_loop_over_anchors(grid: tuple[int, int], radius: int, positives: int) -> None:
    law = Neighbourhood(grid, radius, positives, 0.3)
    tokens = torch.randn((2, 3, math.prod(grid), 6), generator=torch.Generator().manual_seed(positives))
    tokens.requires_grad_()
    exact = tokens.detach().double().requires_grad_()
    weights = torch.tensor([1.0, -2.0])
    found = law.contrast(tokens)
    (found * weights).sum().backward()
    expected = torch.stack([torch.stack([slow_contrast(m, law) for m in image]).mean() for image in exact])
    (expected * weights).sum().backward()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert tokens.grad is not None
    assert exact.grad is not None
    assert (tokens.grad.double() - exact.grad).abs().max().item() < 1e-4 * exact.grad.abs().max().item()


def test_contrast_by_hand() -> None:
    """Three patches in a row, the ends orthogonal to the middle and equal: every positive is orthogonal."""
    tokens = torch.tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])
    ends = math.log(1 + math.exp(1 / 0.5))  # the positive at 0, the negative at 1
    middle = math.log(2)  # one of two equal neighbours is the positive, the other negative
    assert Neighbourhood((1, 3), 1, 1, 0.5).contrast(tokens).item() == pytest.approx((2 * ends + middle) / 3)


def slow_outputs(model: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return logits and A.V [maps, tokens, channels] of every layer through timm's own unfused attention."""
    plain, found = copy.deepcopy(model).double(), list[Tensor]()
    for attention in attention_modules(plain):
        attention.fused_attn = False
        attention.proj.register_forward_pre_hook(lambda module, arguments: found.append(arguments[0]))
    return plain(images), found


@pytest.mark.parametrize("micro_batch", [1 << 20, 2])
@pytest.mark.parametrize(("model", "prefix"), [(VIT, 1), (SWIN, 0), (tiny_distilled(), 2)])
def test_loss_and_gradient_equal_the_formula_on_unfused_attention(model: Any, prefix: int, micro_batch: int) -> None:
    config = dataclasses.replace(CONFIG, images=2, contrast_weight=0.7, tv_weight=0.0)
    objective = _Objective(model, config, context(micro_batch=micro_batch if micro_batch > 2 else 1))
    images, terms = noise(2).requires_grad_(), {"oh": 0.0, "contrast": 0.0}
    for group in objective(images, 0):
        torch.stack(list(group.values())).sum().backward()
        terms = {name: terms[name] + group[name].item() for name in terms}
    exact = images.detach().double().requires_grad_()
    logits, outputs = slow_outputs(model, exact)
    law = Neighbourhood((4, 4), 1, 4, 0.1)
    layers = [torch.stack([slow_contrast(tokens[prefix:], law) for tokens in output]).mean() for output in outputs]
    expected = {
        "oh": functional.cross_entropy(logits, objective.targets.argmax(1)),
        "contrast": 0.7 * torch.stack(layers).mean(),
    }
    torch.stack(list(expected.values())).sum().backward()
    assert terms == {name: pytest.approx(value.item(), rel=1e-4) for name, value in expected.items()}
    assert images.grad is not None
    assert exact.grad is not None
    assert (images.grad.double() - exact.grad).abs().max().item() < 1e-3 * exact.grad.abs().max().item()


def test_variation_is_that_of_the_images_as_shown() -> None:
    objective = _Objective(VIT, dataclasses.replace(CONFIG, contrast_weight=0.0, tv_weight=0.1), context())
    x = noise(3).double()
    first, last = list(objective(noise(3), 0))
    assert set(first) == {"oh"}
    shifts = (
        x[..., 1:] - x[..., :-1],
        x[..., 1:, :] - x[..., :-1, :],
        x[..., 1:, 1:] - x[..., :-1, :-1],
        x[..., 1:, :-1] - x[..., :-1, 1:],
    )
    variation = sum(shift.square().sum().sqrt().item() for shift in shifts)
    assert last["tv"].item() == pytest.approx(0.1 * abs(variation - objective.variation_target), rel=1e-5)


@pytest.mark.parametrize("model", [VIT, SWIN])
def test_the_generator_alone_decides_and_micro_batches_change_nothing(model: Any) -> None:
    torch.manual_seed(1)
    first = synthesize(model, seed=7, learning_rate=0.01)
    torch.manual_seed(2)
    again, parts = synthesize(model, seed=7, learning_rate=0.01), synthesize(model, 7, 2, learning_rate=0.01)
    assert torch.equal(first.images, again.images)
    assert first.losses == again.losses
    assert parts.losses["contrast"] == pytest.approx(first.losses["contrast"], rel=1e-2)
    assert (synthesize(model, seed=8).images - first.images).abs().mean().item() > 0.1
    assert first.targets is not None
    assert torch.equal(first.targets.argmax(1), first.extras["labels"])


def test_defaults() -> None:
    method = ClampViT()
    deit, swin = method.default_config("deit_t"), method.default_config("swin_t")
    assert (deit.images, deit.iterations, deit.learning_rate, swin.learning_rate) == (32, 1000, 0.2, 0.25)
    assert (deit.loop().betas, deit.loop().rounds, deit.loop().warmup) == ((0.5, 0.9), 2, 0.2)
    assert method.image_passes(deit) == 32000
    assert method.short == {"iterations": 100}


def test_what_it_cannot_handle_is_refused() -> None:
    with pytest.raises(UsageError, match="Identity is not supported"):
        synthesize(nn.Identity())
    with pytest.raises(UsageError, match="no attention map of this model has enough"):
        synthesize(tiny_vit(patch_size=8))
    bad: dict[str, Any]
    for bad, message in (
        ({"images": 0}, "images >= 1"),
        ({"contrast_weight": -1.0}, "contrast_weight >= 0"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"positives": 0}, "positives >= 1"),
        ({"radius": 0}, "radius >= 1"),
        ({"jitter": -1}, "limits >= 0"),
        ({"rounds": 0}, "rounds <= iterations"),
    ):
        with pytest.raises(UsageError, match=message):
            ClampViTConfig(**bad)
