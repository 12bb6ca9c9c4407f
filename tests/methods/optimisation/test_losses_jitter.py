"""Total variation and soft cross-entropy against slow loops; random views, each against its own definition."""

from __future__ import annotations

import math

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from torch import Tensor

from methods.optimisation import views as augmentation
from methods.optimisation.losses import soft_cross_entropy, total_variation, variation_target
from methods.optimisation.views import random_views, with_views


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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ramps(count: int, size: int = 32) -> Tensor:
    """Images whose channels are the column, the row and their sum, from -1 to 1."""
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([columns, rows, columns + rows]).expand(count, -1, -1, -1).contiguous()


def test_crops_are_boxes_of_the_image_some_of_them_flipped() -> None:
    views = augmentation._cropped(ramps(400), seeded(), 0.08)
    inner = views[:, :, 1:-1, 1:-1]  # the border repeats the outermost pixels
    columns, rows = inner[:, 0, 0], inner[:, 1, :, 0]
    slopes = [(line[:, 1:] - line[:, :-1]).mean(dim=1) * 16 for line in (columns, rows)]
    assert (views[:, 2] - views[:, 0] - views[:, 1]).abs().max().item() < 1e-5
    assert (slopes[1] > 0).all()
    assert (slopes[0] < 0).double().mean().item() == pytest.approx(0.5, abs=0.08)
    width, height = slopes[0].abs(), slopes[1]
    area = width * height
    assert 0.07 < area.min().item() < 0.12
    assert 0.8 < area.max().item() <= 1.001
    assert area.mean().item() == pytest.approx(0.53, abs=0.05)
    free = (width < 0.95) & (height < 0.95)
    ratio = (width / height)[free].log()
    assert ratio.abs().max().item() == pytest.approx(torch.tensor(4 / 3).log().item(), abs=0.05)
    assert views.abs().max().item() <= 2.0


def test_colours_keep_within_their_strengths_and_a_fifth_is_grey() -> None:
    images = torch.randn((500, 3, 4, 4), generator=seeded(1))
    views = augmentation._recoloured(images, seeded())
    grey = (views.std(dim=1) < 1e-5).flatten(1).all(dim=1)
    assert grey.double().mean().item() == pytest.approx(0.2, abs=0.05)
    same = (views - images).abs().flatten(1).amax(dim=1) < 1e-5
    assert same.double().mean().item() == pytest.approx(0.2 * 0.8, abs=0.05)
    moved = views.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))  # contrast and saturation keep the mean
    assert 0.35 < moved.abs().max().item() <= 0.4 + 1e-5
    plain, shown = images.mean(dim=1), views.mean(dim=1)  # saturation keeps the grey image
    contrast = shown.flatten(1).std(dim=1) / plain.flatten(1).std(dim=1)
    assert 0.6 - 1e-4 <= contrast.min().item() < 0.65
    assert 1.35 < contrast.max().item() <= 1.4 + 1e-4


def test_half_of_the_images_is_blurred_by_a_normalized_kernel() -> None:
    images = torch.zeros((300, 3, 33, 33))
    images[:, :, 16, 16] = 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "_WIDEST_BLUR", 2.0 * 224 / 33)
        views = augmentation._blurred(images, seeded())
    assert views.sum(dim=(2, 3)).flatten().tolist() == pytest.approx([1.0] * 900, abs=1e-4)
    blurred = views[:, 0, 16, 16] < 0.999
    assert 0.4 < blurred.double().mean().item() < 0.55
    place = torch.arange(33.0) - 16
    variances = (views[:, 0].sum(dim=1) * place.square()).sum(dim=1)
    assert 1.6 < variances.max().item() ** 0.5 <= 2.0
    assert (views - views.transpose(2, 3)).abs().max().item() < 1e-6
    assert torch.allclose(views[~blurred], images[~blurred], atol=1e-3)


def test_views_differ_between_images_and_depend_on_the_generator_alone() -> None:
    images = ramps(4)
    first = random_views(images, seeded(5))
    assert torch.equal(first, random_views(images, seeded(5)))
    assert not torch.equal(first, random_views(images, seeded(6)))
    assert not torch.equal(first[0], first[1])


def test_mild_views_stand_behind_the_images() -> None:
    images = ramps(100)
    seen = with_views(images, 3, seeded())
    assert torch.equal(seen[:100], images)
    views = seen[100:, :, 1:-1, 1:-1]
    columns, rows = views[:, 0, 0], views[:, 1, :, 0]
    slopes = [(line[:, 1:] - line[:, :-1]).mean(dim=1) * 16 for line in (columns, rows)]
    area = (slopes[0] * slopes[1]).abs()
    assert area.shape == (300,)
    assert 0.69 < area.min().item() < 0.75
    assert area.max().item() <= 1.001
    assert (slopes[0] < 0).double().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(seen[100:200], seen[200:])
    assert with_views(images, 0, seeded()).shape == images.shape
