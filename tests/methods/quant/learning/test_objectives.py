"""Losses of a unit's output against slow float64 references and finite differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from tiny_models import Array, double, noise, tiny_distilled, tiny_swin, tiny_vit
from torch import Tensor, nn

from methods.models.architecture import reconstruction_units
from methods.models.rest import Rest
from methods.quant.learning.curvature import (
    FisherObjective,
    PerturbationObjective,
    SensitivityObjective,
    divergence_gradient,
    importance,
    perturbed,
    sensitivity,
    signs_like,
)
from methods.quant.learning.objectives import FeatureObjective, LocalObjective, Objective
from methods.quant.learning.reconstruct import unit_outputs

UNIT = "blocks.0"


def average_vit() -> Any:
    return tiny_vit(global_pool="avg", class_token=False)


@pytest.mark.parametrize("build", [tiny_vit, average_vit, tiny_distilled, tiny_swin])
def test_the_rest_leads_every_unit_to_the_features_and_logits_of_the_network(build: Callable[[], Any]) -> None:
    model, images = build(), noise(3)
    rest, outputs = Rest(model, images[:1]), unit_outputs(model, images)
    features, logits = model.forward_head(model.forward_features(images), pre_logits=True), model(images)
    heads = [name for name, _ in reconstruction_units(model) if name.startswith("head")]
    assert len(heads) == (2 if build is tiny_distilled else 1)
    for name in outputs:
        assert rest.move_behind(name) == (name not in heads)
        if name in heads:
            continue
        assert torch.allclose(rest.features(outputs[name]), features, atol=1e-5), name
        assert torch.allclose(rest.logits(outputs[name]), logits, atol=1e-5), name
        assert not torch.allclose(rest.features(outputs[name].flip(0)), features, atol=1e-2), name


class InPlace(nn.Module):
    """A block that changes what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_()


def test_what_follows_a_unit_may_change_its_output_in_place() -> None:
    model, images = tiny_vit(), noise(2)
    model.blocks[1] = InPlace()
    output = unit_outputs(model, images)[UNIT].clone()
    rest = Rest(model, images[:1])
    assert rest.move_behind("patch_embed")
    assert rest.move_behind(UNIT)
    before = output.clone()
    found = rest.features(output)
    assert torch.equal(output, before)
    assert torch.allclose(found, model.norm(before.relu())[:, 0], atol=1e-6)


def precise() -> tuple[Any, Tensor, Tensor]:
    """Return a float64 ViT, and target and output [3, 17, 16] of its first block."""
    model = tiny_vit().double()
    target = unit_outputs(model, noise(3).double())[UNIT]
    return model, target, target + 0.3 * torch.randn(target.shape, generator=torch.Generator().manual_seed(4)).double()


def behind(model: Any, target: Tensor) -> Rest:
    rest = Rest(model, target.new_zeros((1, 3, 16, 16)))
    rest.move_behind("patch_embed")
    rest.move_behind(UNIT)
    return rest


def features_by_hand(model: Any, hidden: Tensor) -> Array:
    """The second block, the last norm, the class token."""
    return double(model.norm(model.blocks[1](hidden))[:, 0])


def softmax_by_hand(logits: Array) -> Array:
    shares = np.array([[math.exp(value / 20) for value in row] for row in logits])
    result: Array = shares / shares.sum(1, keepdims=True)
    return result


def divergence_by_hand(model: Any, target: Tensor, output: Tensor) -> float:
    """Sum over images of KL(p || q), temperature 20."""
    wanted, found = (
        softmax_by_hand(features_by_hand(model, hidden) @ double(model.head.weight).T + double(model.head.bias))
        for hidden in (target, output)
    )
    return float(
        sum(p * math.log(p / q) for ps, qs in zip(wanted, found, strict=True) for p, q in zip(ps, qs, strict=True))
    )


def slopes(
    loss: Callable[[Tensor], float], output: Tensor, places: list[tuple[int, int, int]], step: float = 1e-5
) -> Array:
    """Central differences of a loss at some places of the output."""
    found = []
    for place in places:
        moved = torch.zeros_like(output)
        moved[place] = step
        found.append((loss(output + moved) - loss(output - moved)) / (2 * step))
    return np.array(found)


PLACES = [(0, 0, 0), (0, 5, 3), (1, 2, 7), (2, 16, 15), (2, 0, 9)]


def gradient(objective: Objective, output: Tensor) -> Array:
    leaf = output.clone().requires_grad_(True)
    [found] = torch.autograd.grad(objective(leaf, slice(None)), leaf)
    return np.array([found[place].item() for place in PLACES])


def local_by_hand(output: Tensor, target: Tensor) -> float:
    total = 0.0
    for image in range(len(output)):
        for token in range(output.shape[1]):
            total += sum(
                (a - b) ** 2 for a, b in zip(output[image, token].tolist(), target[image, token].tolist(), strict=True)
            )
    return total / (len(output) * output.shape[1])


def test_the_local_loss() -> None:
    _, target, output = precise()
    objective = LocalObjective(target)
    assert objective(output, slice(None)).item() == pytest.approx(local_by_hand(output, target), rel=1e-12)
    assert objective(output[[2]], torch.tensor([2])).item() == pytest.approx(local_by_hand(output[[2]], target[[2]]))
    found = slopes(lambda y: objective(y, slice(None)).item(), output, PLACES)
    assert gradient(objective, output) == pytest.approx(found, rel=1e-6)


def test_the_feature_loss_is_glf_qs_in_units_of_the_first_local_distance() -> None:
    model, target, output = precise()
    objective = FeatureObjective(target, behind(model, target), local_weight=2.0)
    nearer = target + 0.4 * (output - target)

    def terms(y: Tensor) -> tuple[float, float]:
        error = features_by_hand(model, y) - features_by_hand(model, target)
        return float(sum(e * e for row in error for e in row)) / (3 * 16), local_by_hand(y, target) / 16

    first, local = terms(output), local_by_hand(output, target)
    assert objective(output, slice(None)).item() == pytest.approx(3 * local, rel=1e-9)
    later = terms(nearer)
    glf = later[0] / first[0] + 2 * later[1] / first[1]
    assert objective(nearer, slice(None)).item() == pytest.approx(local * glf, rel=1e-9)

    def by_hand(y: Tensor) -> float:
        far, near = terms(y)
        return local * (far / first[0] + 2 * near / first[1])

    assert gradient(objective, nearer) == pytest.approx(slopes(by_hand, nearer, PLACES), rel=1e-5)


def test_the_gradient_of_the_divergence() -> None:
    model, target, output = precise()
    found = divergence_gradient(behind(model, target), output, target)
    expected = slopes(lambda y: divergence_by_hand(model, target, y), output, PLACES, 1e-4)
    assert [found[place].item() for place in PLACES] == pytest.approx(expected, rel=1e-5, abs=1e-10)
    assert np.abs(expected).max() > 1e-5


def sensitivity_by_hand(error: Array, gradients: Array) -> tuple[Array, Array]:
    """H and u of LS-ViT, place by place."""
    along = [max(0.0, float((e * g).sum())) for e, g in zip(error, gradients, strict=True)]
    diagonal, direction = np.zeros(error.shape[1:]), np.zeros(error.shape[1:])
    for place in np.ndindex(*error.shape[1:]):
        products = sum(g[place] * e[place] for g, e in zip(gradients, error, strict=True))
        diagonal[place] = max(0.0, products / sum(e[place] ** 2 for e in error))
        direction[place] = sum(g[place] * math.sqrt(a) for g, a in zip(gradients, along, strict=True)) / sum(along)
    return diagonal, direction


def test_the_sensitivity_loss_is_ls_vits_beside_the_local_distance() -> None:
    model, target, output = precise()
    rest = behind(model, target)
    gradients = divergence_gradient(rest, output, target)
    diagonal, direction = sensitivity_by_hand(double(output - target), double(gradients))
    found = sensitivity(output - target, gradients)
    assert double(found[0]) == pytest.approx(diagonal, rel=1e-9)
    assert double(found[1]) == pytest.approx(direction, rel=1e-9)
    assert 0.05 < (diagonal == 0).mean() < 0.95
    objective = SensitivityObjective(target, rest, 0.0, output)

    def far(y: Tensor) -> float:
        errors = double(y - target)
        return float(np.mean([((e**2 * diagonal).sum() + (direction * e).sum() ** 2) / 2 for e in errors]))

    first, nearer = far(output), target + 0.4 * (output - target) ** 2
    local = local_by_hand(output, target)
    assert objective(output, slice(None)).item() == pytest.approx(local, rel=1e-9)
    assert objective(nearer, slice(None)).item() == pytest.approx(local * far(nearer) / first, rel=1e-9)
    expected = slopes(lambda y: local * far(y) / first, nearer, PLACES)
    assert gradient(objective, nearer) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def fisher_by_hand(error: Array, gradients: list[Array], errors: list[Array]) -> tuple[float, float]:
    """FIMA-Q's low-rank and diagonal terms of absolute errors [n, ...], image by image."""
    inverse = np.linalg.inv([[float((a * b).sum()) for b in errors] for a in errors])
    low_rank, diagonal = [], []
    for image in error:
        along = [float((image * g).sum()) for g in gradients]
        low_rank.append(sum(inverse[i, j] * a * b for i, a in enumerate(along) for j, b in enumerate(along)))
        diagonal.append(float((image**2 * sum(gradients)).mean()) / len(gradients))
    return float(np.mean(low_rank)), float(np.mean(diagonal))


def test_the_fisher_loss_is_fima_qs_and_grows_by_a_column_at_every_look() -> None:
    model, target, output = precise()
    rest, nearer = behind(model, target), target + 0.4 * (output - target).roll(1, 1)
    objective = FisherObjective(target, rest, rank=2)
    gradients: list[Array] = []
    errors: list[Array] = []
    local = local_by_hand(output, target)

    def loss(y: Tensor) -> float:
        low_rank, diagonal = fisher_by_hand(np.abs(double(y - target)), gradients, errors)
        return local * (low_rank / first[0] + diagonal / first[1]) / 2

    for progress, seen in ((0.0, output), (0.5, nearer)):
        objective.look(progress, seen.clone)
        gradients.append(np.abs(double(divergence_gradient(rest, seen, target))).mean(0))
        errors.append(np.abs(double(seen - target)).mean(0))
        first = fisher_by_hand(np.abs(double(seen - target)), gradients, errors)
        assert objective(seen, slice(None)).item() == pytest.approx(local, rel=1e-9)
        between = target + 0.7 * (seen - target)
        assert objective(between, slice(None)).item() == pytest.approx(loss(between), rel=1e-7)
        assert gradient(objective, between) == pytest.approx(slopes(loss, between, PLACES), rel=1e-5, abs=1e-9)
        chosen = torch.tensor([2, 0])
        expected = fisher_by_hand(np.abs(double(between - target))[[2, 0]], gradients, errors)
        assert objective(between[chosen], chosen).item() == pytest.approx(
            local * (expected[0] / first[0] + expected[1] / first[1]) / 2, rel=1e-7
        )


def test_the_fisher_loss_looks_as_often_as_its_rank() -> None:
    model, target, output = precise()
    for rank, steps, expected in ((3, 10, [0, 4, 7]), (5, 2, [0, 1]), (1, 4, [0])):
        objective, looks = FisherObjective(target, behind(model, target), rank), []
        for step in range(steps):
            look = Mock(return_value=output + 0.01 * step)
            objective.look(step / steps, look)
            looks += [step] * look.call_count
        assert looks == expected


def test_looks_that_saw_the_same_leave_the_loss_what_it_was() -> None:
    model, target, output = precise()
    objective, nearer = FisherObjective(target, behind(model, target), rank=3), target + 0.5 * (output - target)
    found = []
    for progress in (0.0, 0.4, 0.7):
        objective.look(progress, lambda: output)
        found += [objective(y, slice(None)).item() for y in (output, nearer)]
    local = local_by_hand(output, target)
    assert found == pytest.approx([local, local / 4] * 3, rel=1e-6)


def test_logits_do_not_mind_what_is_added_to_all_channels_alike() -> None:
    """Why the perturbation has random signs: every LayerNorm behind takes away what all channels have in common."""
    model, target, _ = precise()
    rest = behind(model, target)
    assert torch.allclose(rest.logits(target + 0.5), rest.logits(target), atol=1e-12)
    signs = signs_like(target)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert (signs == signs[:1]).all()
    assert abs(signs.mean().item()) < 0.2
    assert (rest.logits(target + 0.5 * signs) - rest.logits(target)).abs().max() > 0.01


def test_the_perturbation_loss_is_aphq_vits() -> None:
    model, target, output = precise()
    rest = behind(model, target)
    step = signs_like(target) * 0.01 * math.sqrt(sum(v * v for v in target.flatten().tolist()) / target.numel())
    found = perturbed(rest, target)

    def slope(image: int, side: float, places: list[tuple[int, int, int]]) -> Array:
        alone = target[[image]]
        return slopes(lambda y: divergence_by_hand(model, alone, y), alone + side * step[[image]], places)

    for image, places in ((0, [(0, 0, 0), (0, 5, 3)]), (2, [(0, 16, 15)])):
        expected = np.abs(slope(image, 1, places) - slope(image, -1, places))
        assert [found[image, at[1], at[2]].item() for at in places] == pytest.approx(expected, rel=1e-3)
    mean = double(found).mean(0)
    weights = mean / (mean.sum() / mean.size)
    assert double(importance(found)) == pytest.approx(weights, rel=1e-9)
    assert weights.max() > 5
    objective = PerturbationObjective(target, rest)

    def loss(y: Tensor) -> float:
        return float(sum((e**2 * weights).sum() for e in double(y - target))) / (len(y) * y.shape[1])

    assert objective(output, slice(None)).item() == pytest.approx(loss(output), rel=1e-9)
    assert gradient(objective, output) == pytest.approx(slopes(loss, output, PLACES), rel=1e-6)
    one = (output - target)[1].square() * torch.from_numpy(weights)
    assert objective(output[[1]], torch.tensor([1])).item() == pytest.approx(one.sum(-1).mean().item(), rel=1e-9)
    assert torch.equal(importance(torch.zeros(2, 3)), torch.ones(3))


def test_for_one_image_the_direction_gives_the_gradient_back() -> None:
    """With one image u (u^T dz) = g, whatever dz is: the matrix of the loss turns the error into its gradient."""
    error = torch.randn((1, 5, 4), generator=torch.Generator().manual_seed(1)).double()
    slope = error * torch.rand((1, 5, 4), generator=torch.Generator().manual_seed(2)).double()
    _, direction = sensitivity(error, slope)
    assert torch.allclose(direction * (direction * error[0]).sum(), slope[0])


def test_the_network_a_rest_is_made_from_stays_as_it_is() -> None:
    model, images = tiny_vit(), noise(2)
    before, logits = copy.deepcopy(model.state_dict()), model(images)
    rest = Rest(model, images[:1])
    rest.move_behind("patch_embed")
    rest.logits(unit_outputs(model, images)["patch_embed"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(images), logits)
