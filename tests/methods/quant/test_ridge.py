"""Ridge regression and rounding with compensation against least squares, brute force and slow loops, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from tiny_models import Array
from torch import Tensor

from methods.quant.quantizers.ranges import MinMaxRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.quant.ridge import Moments, refined, round_by_halves, solve

PENALTY = 3.0


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(rows: int, width: int, seed: int) -> Tensor:
    """Rows whose columns share much of what they say, with a mean."""
    return drawn(rows, 3, seed=seed) @ drawn(3, width, seed=seed + 1) + 0.5 * drawn(rows, width, seed=seed + 2) + 1.0


def least_squares(x: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Minimize |X (W + D)^T + b - Y|^2 + penalty |D|^2 over D and b, as one least-squares problem."""
    n, width = x.shape
    left = np.block([[x, np.ones((n, 1))], [np.sqrt(PENALTY) * np.eye(width), np.zeros((width, 1))]])
    right = np.vstack([y - x @ weight.T, np.zeros((width, len(weight)))])
    solution = np.linalg.lstsq(left, right, rcond=None)[0]
    return weight + solution[:-1].T, solution[-1]


def test_ridge_is_the_closed_form() -> None:
    x, weight = correlated(40, 7, seed=1), drawn(4, 7, seed=5)
    y = x @ weight.T + drawn(40, 4, seed=6)
    expected, bias = least_squares(x.numpy(), y.numpy(), weight.numpy())
    moments = Moments.of(x, y)
    found = moments.ridge(weight, PENALTY)
    assert found.numpy() == pytest.approx(expected, abs=1e-10)
    assert moments.bias(found).numpy() == pytest.approx(bias, abs=1e-10)
    assert np.abs(expected - weight.numpy()).max() > 0.1


def test_solve_is_the_inverse_and_survives_a_singular_gram() -> None:
    x, right = drawn(3, 6, seed=2), drawn(4, 6, seed=3)
    gram = x.T @ x
    expected = right.numpy() @ np.linalg.inv(gram.numpy() + PENALTY * np.eye(6))
    assert solve(right, gram, PENALTY).numpy() == pytest.approx(expected, abs=1e-10)


def quantizer_for(weight: Tensor, bits: int) -> UniformQuantizer:
    quantizer = UniformQuantizer(bits, MinMaxRange(), axis=0)
    quantizer.fit(weight)
    return quantizer


def test_without_flips_halves_are_rounded_and_the_rest_makes_up_for_them() -> None:
    """Step by step as ERQ writes it, every compensation solved as a least-squares problem."""
    weight, x = drawn(4, 7, seed=7), correlated(50, 7, seed=8)
    x = x - x.mean(0)
    quantizer = quantizer_for(weight, 3)
    scale, zero = quantizer.scale.double().numpy(), quantizer.zero_point.double().numpy()
    w, a = weight.numpy().copy(), x.numpy()
    for start, half in ((0, 4), (4, 6), (6, 7)):
        exact = w[:, start:half].copy()
        w[:, start:half] = np.clip(np.round(exact / scale), -zero, 7 - zero) * scale
        rest = a[:, half:]
        error = a[:, start:half] @ (w[:, start:half] - exact).T
        left = np.vstack([rest, np.sqrt(PENALTY) * np.eye(rest.shape[1])])
        right = np.vstack([-error, np.zeros((rest.shape[1], len(w)))])
        if rest.shape[1]:
            w[:, half:] += np.linalg.lstsq(left, right, rcond=None)[0].T
    found = round_by_halves(weight, quantizer, x.T @ x, PENALTY, flips=0)
    assert found.numpy() == pytest.approx(w, abs=1e-9)
    assert (found != quantizer(weight.float()).double()).any()


def flipped(exact: Array, low: float, high: float, gram: Array, flips: int) -> Array:
    """Refine the rounding of one row of steps by trying every single flip, computing the error anew each time."""
    nearest = np.clip(np.round(exact), low, high)
    other = np.clip(nearest + np.sign(exact - nearest), low, high)
    chosen = nearest.copy()
    for _ in range(flips):
        error = (chosen - exact) @ gram @ (chosen - exact)
        trials = []
        for i in range(len(exact)):
            trial = chosen.copy()
            trial[i] = other[i] if chosen[i] == nearest[i] else nearest[i]
            trials.append(((trial - exact) @ gram @ (trial - exact), i, trial))
        best = min(trials, key=lambda t: t[0])
        if best[0] >= error:
            break
        chosen = best[2]
    return chosen


@pytest.mark.parametrize("flips", [0, 1, 2, 100])
def test_refined_rounding_equals_trying_every_flip(flips: int) -> None:
    exact, x = 4 * drawn(5, 9, seed=11), correlated(30, 9, seed=12)
    gram, scale = x.T @ x, torch.full((5, 1), 0.3, dtype=torch.float64)
    low, high = torch.full((5, 1), -6.0, dtype=torch.float64), torch.full((5, 1), 7.0, dtype=torch.float64)
    found = refined(exact, low, high, scale, gram, flips)
    expected = [flipped(row, -6, 7, gram.numpy(), flips) for row in exact.numpy()]
    assert found.numpy() == pytest.approx(np.array(expected))
    moved = (found != exact.round().clamp(-6, 7)).sum(1)
    assert moved.max().item() <= flips
    assert moved.max().item() >= min(flips, 2)


def test_refined_rounding_comes_near_the_best_of_all_roundings() -> None:
    """Half of what can be gained over rounding to the nearest, at least, over fifty outputs together."""
    exact, x = 3 * drawn(50, 8, seed=21), correlated(30, 8, seed=22)
    gram, one = x.T @ x, torch.ones((50, 1), dtype=torch.float64)
    up = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)

    def errors(steps: Tensor) -> Tensor:
        return torch.einsum("...i,ij,...j->...", steps - exact, gram, steps - exact)

    best = errors(exact.floor() + up[:, None]).amin(dim=0).sum().item()
    nearest, found = errors(exact.round()), errors(refined(exact, -20 * one, 20 * one, one, gram, 100))
    assert (found <= nearest).all()
    assert found.sum().item() - best < 0.5 * (nearest.sum().item() - best)
