"""The shared optimisation loop: schedule, Adam, clamping, micro-batches, divergence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import Array, double, noise
from torch import Tensor

from methods.contracts import ImageSpace, silent
from methods.errors import UsageError
from methods.optimisation.loop import DivergenceError, LoopSettings, optimize_images
from methods.optimisation.views import Jitter, View

HALF = ImageSpace(4, 4, (0.5,) * 3, (0.5,) * 3)
IMAGENET = ImageSpace(4, 4, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WIDE = ImageSpace(4, 4, (0.5,) * 3, (0.01,) * 3)


def test_schedule_by_hand() -> None:
    settings = LoopSettings(10, 0.2, warmup=0.2)
    cosine = [0.5 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert [settings.rate(step) for step in range(10)] == pytest.approx([0.5, 1.0, *cosine])
    assert LoopSettings(10, 0.2, warmup=0.0).rate(0) == 1.0
    assert LoopSettings(1000, 0.2).rate(99) == 1.0
    assert LoopSettings(1000, 0.2).rate(0) == pytest.approx(0.01)
    assert LoopSettings(1000, 0.2).rate(550) == pytest.approx(0.5)
    assert LoopSettings(1000, 0.2).rate(1000) == pytest.approx(0.0)


def test_schedule_of_two_rounds_by_hand() -> None:
    settings = LoopSettings(11, 0.2, warmup=1 / 3, rounds=2)  # rounds of 6 and 5 steps, both rising over 2
    first = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    second = [0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3)]
    assert [settings.rate(step) for step in range(11)] == pytest.approx([0.5, 1.0, *first, 0.5, 1.0, *second])
    assert [settings.round_of(step) for step in range(12)] == [0] * 6 + [1] * 6
    for rounds in (0, 12):
        with pytest.raises(UsageError, match="rounds <= iterations"):
            LoopSettings(11, 0.2, rounds=rounds)


def test_a_constant_rate_stays_at_its_peak_after_the_warm_up() -> None:
    settings = LoopSettings(10, 0.2, warmup=0.2, floor=1.0)
    assert [settings.rate(step) for step in range(10)] == [0.5] + [1.0] * 9
    assert {LoopSettings(4, 0.2, warmup=0.0, floor=1.0).rate(step) for step in range(4)} == {1.0}


def shown_by_hand(images: Tensor, offset: int, flipped: bool) -> Tensor:
    """Roll and flip pixel by pixel."""
    rows, columns = images.shape[2:]
    result = torch.empty_like(images)
    for i in range(rows):
        for j in range(columns):
            column = (j + offset) % columns
            result[:, :, (i + offset) % rows, columns - 1 - column if flipped else column] = images[:, :, i, j]
    return result


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_jitter_rolls_both_axes_alike_and_the_gradient_comes_back(flip: float) -> None:
    jitter, offsets = Jitter((1, 3), flip, torch.Generator().manual_seed(0)), set[int]()
    weights = noise(1, 7, seed=3)
    for _ in range(30):
        images = noise(1, 7).requires_grad_(True)
        shown = jitter.show(images, 1)
        (offset,) = (o for o in range(-3, 4) if torch.equal(shown, shown_by_hand(images.detach(), o, flip == 1.0)))
        offsets.add(offset)
        (shown * weights).sum().backward()
        assert images.grad is not None
        for i, j in ((0, 0), (1, 6)):
            mark = torch.zeros(1, 3, 7, 7)
            mark[:, :, i, j] = 1
            expected = (shown_by_hand(mark, offset, flip == 1.0) * weights).sum((2, 3))
            assert torch.equal(images.grad[:, :, i, j], expected)
    assert offsets == {-3, -2, -1, 0, 1, 2, 3}


def test_independent_axes_take_an_offset_each_rows_first() -> None:
    jitter, draws = Jitter((3,), 0.5, torch.Generator().manual_seed(0), independent=True), torch.Generator()
    draws.manual_seed(0)
    views = [jitter.draw(0) for _ in range(50)]
    for view in views:
        down, right = (int(torch.randint(-3, 4, (), generator=draws)) for _ in range(2))
        assert view == View(down, right, torch.rand((), generator=draws).item() < 0.5)
    assert {view.down for view in views} == {view.right for view in views} == set(range(-3, 4))
    marked = torch.zeros(1, 1, 7, 7)
    marked[0, 0, 1, 2] = 1
    assert View(down=2, right=-1).show(marked).nonzero().tolist() == [[0, 0, 3, 1]]
    assert View(down=-2, right=6, flipped=True).show(marked).nonzero().tolist() == [[0, 0, 6, 5]]


@pytest.mark.parametrize(
    "bad", [{"iterations": 0}, {"learning_rate": 0.0}, {"learning_rate": -1.0}, {"warmup": 1.0}, {"warmup": -0.1}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="iterations >= 1"):
        LoopSettings(**({"iterations": 5, "learning_rate": 0.1} | bad))  # type: ignore[arg-type]


def adam(start: Array, goal: Array, settings: LoopSettings, low: float, high: float) -> tuple[Array, list[float]]:
    """Minimise sum((x - goal)^4) by Adam with betas (0.5, 0.9), clamping after every step."""
    x, mean, square, losses = start.copy(), np.zeros_like(start), np.zeros_like(start), []
    for step in range(settings.iterations):
        losses.append(float(((x - goal) ** 4).sum()))
        gradient = 4 * (x - goal) ** 3
        mean, square = 0.5 * mean + 0.5 * gradient, 0.9 * square + 0.1 * gradient**2
        update = (mean / (1 - 0.5 ** (step + 1))) / (np.sqrt(square / (1 - 0.9 ** (step + 1))) + 1e-8)
        x = np.clip(x - settings.learning_rate * settings.rate(step) * update, low, high)
    return x, losses


@pytest.mark.parametrize("group", [1, 2, 5])
def test_loop_is_clamped_adam_and_micro_batches_change_nothing(group: int) -> None:
    start, goal = noise(5, 4, seed=1), noise(5, 4, seed=2)
    settings = LoopSettings(12, 0.2, warmup=0.25)
    before = start.clone()

    def objective(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        for first in range(0, 5, group):
            error = (images - goal)[first : first + group].pow(4).sum()
            yield {"most": 0.75 * error, "rest": 0.25 * error}

    images, losses = optimize_images(start, objective, settings, HALF, silent)
    expected, expected_losses = adam(double(start), double(goal), settings, -1.0, 1.0)
    assert double(images) == pytest.approx(expected, abs=2e-5)
    assert losses["most"] == pytest.approx([0.75 * loss for loss in expected_losses], rel=1e-4)
    assert losses["rest"] == pytest.approx([0.25 * loss for loss in expected_losses], rel=1e-4)
    assert not images.requires_grad
    assert start.equal(before)


def test_applied_rate_follows_the_schedule() -> None:
    settings = LoopSettings(20, 0.3, warmup=0.2)
    start = noise(1, 4)
    moved, _ = optimize_images(start, lambda x, _: iter([{"sum": x.sum()}]), settings, WIDE, silent)
    total = 0.3 * sum(settings.rate(step) for step in range(20))
    assert double(start - moved) == pytest.approx(np.full((1, 3, 4, 4), total), rel=1e-4)


@pytest.mark.parametrize("space", [HALF, IMAGENET])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_images_are_clamped_to_the_box_of_valid_pixels(space: ImageSpace, sign: float) -> None:
    settings = LoopSettings(30, 0.5)
    images, _ = optimize_images(noise(2, 4), lambda x, _: iter([{"sum": sign * x.sum()}]), settings, space, silent)
    for channel, (mean, std) in enumerate(zip(space.mean, space.std, strict=True)):
        edge = (0 - mean) / std if sign > 0 else (1 - mean) / std
        assert double(images[:, channel]) == pytest.approx(np.full((2, 4, 4), edge), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_names_step_and_term(value: float) -> None:
    def objective(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        yield {"good": images.sum()}
        yield {"bad": images.sum() * (value if step == 3 else 1.0)}

    with pytest.raises(DivergenceError, match="step 3: the term 'bad' is"):
        optimize_images(noise(1, 4).abs(), objective, LoopSettings(6, 1e-3), HALF, silent)


@pytest.mark.parametrize(("iterations", "message"), [(1, "images hold values"), (2, "step 1: the term 'root'")])
def test_gradients_that_are_not_finite_are_noticed(iterations: int, message: str) -> None:
    def objective(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        yield {"root": (0 * images.sum()).sqrt()}

    with pytest.raises(DivergenceError, match=message):
        optimize_images(noise(1, 4), objective, LoopSettings(iterations, 0.1), HALF, silent)


@pytest.mark.parametrize("group", [1, 3])
def test_objective_sees_the_images_jittered_by_the_limits_of_the_round(group: int) -> None:
    start, goal = noise(3, 9, seed=1).clamp(-1, 1), noise(3, 9, seed=2)
    space = ImageSpace(9, 9, (0.5,) * 3, (0.5,) * 3)
    settings, steps = LoopSettings(4, 0.1, warmup=0.0, rounds=2), list[Tensor]()

    def objective(shown: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        steps.append(shown.detach().clone())
        for first in range(0, 3, group):
            yield {"error": (shown - goal)[first : first + group].pow(4).sum()}

    made, _ = optimize_images(start, objective, settings, space, silent, Jitter((0, 4), 0.5, torch.Generator()))
    draws, x, seen = torch.Generator(), start.clone(), set[tuple[int, bool]]()
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step, limit in enumerate((0, 0, 4, 4)):
        offset = int(torch.randint(-limit, limit + 1, (), generator=draws))
        flipped = torch.rand((), generator=draws).item() < 0.5
        seen.add((offset, flipped))
        assert torch.allclose(steps[step], shown_by_hand(x, offset, flipped), atol=1e-5)
        slope = 4 * (shown_by_hand(x, offset, flipped) - goal) ** 3
        back = slope.flip(3) if flipped else slope
        slope = shown_by_hand(back, -offset, False)
        mean, square = 0.5 * mean + 0.5 * slope, 0.9 * square + 0.1 * slope**2
        update = (mean / (1 - 0.5 ** (step + 1))) / ((square / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
        x = (x - 0.1 * settings.rate(step) * update).clamp(-1, 1)
    assert torch.allclose(made, x, atol=1e-5)
    assert any(offset for offset, _ in seen)
    assert {flipped for _, flipped in seen} == {True, False}


@pytest.mark.parametrize("bad", [{"limits": (1, -1)}, {"flip": -0.1}, {"flip": 1.1}])
def test_jitter_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="limits >= 0"):
        Jitter(bad.get("limits", (1,)), bad.get("flip", 0.5), torch.Generator())


@pytest.mark.parametrize(("first", "most"), [(5.0, 500.0), (-5.0, 500.0), (0.2, 100.0)])
def test_a_loss_far_above_the_first_is_divergence(first: float, most: float) -> None:
    def run(last: float) -> None:
        def objective(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
            yield {"small": 0 * images.sum() - 1}
            yield {"large": 0 * images.sum() + (last if step == 2 else first) + 1}

        optimize_images(noise(1, 4), objective, LoopSettings(4, 0.1), HALF, silent)

    run(0.999 * most)
    with pytest.raises(DivergenceError, match=rf"step 2: .* to {1.001 * most:.4g}, most of it the term 'large'"):
        run(1.001 * most)


def test_weight_decay_is_that_of_adamw_on_a_schedule_with_a_floor() -> None:
    settings = LoopSettings(20, 0.1, warmup=0.0, weight_decay=0.5, floor=0.25)
    start = noise(1, 4)
    images, _ = optimize_images(start, lambda x, _: iter([{"sum": x.sum()}]), settings, WIDE, silent)
    x = double(start)
    for step in range(20):
        rate = 0.1 * (0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * step / 20)))
        x = x * (1 - 0.5 * rate) - rate  # a constant gradient moves Adam by the rate
    assert double(images) == pytest.approx(x, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("bad", [{"weight_decay": -1e-6}, {"floor": -0.1}, {"floor": 1.1}])
def test_decay_and_floor_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="weight_decay >= 0 and 0 <= floor <= 1"):
        LoopSettings(5, 0.1, **bad)  # type: ignore[arg-type]


def test_every_step_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    steps: list[int] = []

    def objective(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
        steps.append(step)
        yield {"sum": images.sum()}

    optimize_images(noise(1, 4), objective, LoopSettings(3, 0.1), HALF, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert steps == [0, 1, 2]
