"""Total variation and soft cross-entropy against slow loops."""

from __future__ import annotations

import math

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch

from methods.optimisation.losses import soft_cross_entropy, total_variation, variation_target


def test_total_variation_equals_a_slow_loop() -> None:
    images = torch.randn((2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        squares = 0.0
        for image in images.double():
            for channel in image.tolist():
                for i in range(4):
                    for j in range(5):
                        if i + down < 4 and 0 <= j + right < 5:
                            squares += (channel[i + down][j + right] - channel[i][j]) ** 2
        expected += math.sqrt(squares)
    assert total_variation(images).item() == pytest.approx(expected, rel=1e-6)


def test_total_variation_of_one_bright_pixel() -> None:
    images = torch.zeros(1, 1, 3, 3)
    images[0, 0, 1, 1] = 2.0
    assert total_variation(images).item() == pytest.approx(4 * math.sqrt(2 * 2.0**2), rel=1e-6)


def test_variation_target_is_uniform_for_the_published_batch() -> None:
    images = torch.empty((32, 3, 224, 224), device="meta")
    generator = torch.Generator().manual_seed(0)
    draws = [variation_target(images, generator) for _ in range(2000)]
    assert 2500 <= min(draws) < 2510
    assert 2990 < max(draws) <= 3000
    assert sum(draws) / len(draws) == pytest.approx(2750, abs=15)


@pytest.mark.parametrize(
    ("shape", "factor"), [((8, 3, 224, 224), 0.5), ((32, 3, 112, 112), 0.5), ((32, 1, 32, 32), 1 / 7)]
)
def test_variation_target_scales_with_the_root_of_the_pixels(shape: tuple[int, ...], factor: float) -> None:
    published = variation_target(torch.empty((32, 3, 224, 224), device="meta"), torch.Generator().manual_seed(4))
    scaled = variation_target(torch.empty(shape, device="meta"), torch.Generator().manual_seed(4))
    assert scaled == pytest.approx(factor * published)


def test_soft_cross_entropy_equals_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn((4, 6), generator=generator)
    targets = torch.randn((4, 6), generator=generator).softmax(1)
    expected = []
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        expected.append(-sum(t * math.log(math.exp(v) / total) for t, v in zip(target, row, strict=True)))
    assert soft_cross_entropy(logits, targets).tolist() == pytest.approx(expected, rel=1e-5)
