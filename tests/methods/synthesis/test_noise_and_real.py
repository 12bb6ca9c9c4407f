"""The two baselines: Gaussian noise and real images."""

from __future__ import annotations

import pytest
import tiny_models  # noqa: F401  (one thread)
import torch
from torch import Tensor, nn

from methods.contracts import ImageSpace, SynthesisContext
from methods.errors import UsageError
from methods.synthesis.noise import Noise, NoiseConfig
from methods.synthesis.real import Real, RealConfig

SPACE = ImageSpace(32, 24, (0.5,) * 3, (0.5,) * 3)


def make_noise(seed: int, images: int = 32) -> Tensor:
    context = SynthesisContext(SPACE, 10, torch.Generator().manual_seed(seed))
    return Noise().synthesize(nn.Identity(), NoiseConfig(images), context).images


def test_noise_is_standard_normal_and_not_clamped() -> None:
    images = make_noise(0)
    assert images.shape == (32, 3, 32, 24)
    assert images.mean().item() == pytest.approx(0.0, abs=0.015)
    assert images.std().item() == pytest.approx(1.0, abs=0.015)
    assert (images.abs() > 1).double().mean().item() == pytest.approx(0.3173, abs=0.01)
    assert images.max().item() > 3


def test_noise_depends_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    first = make_noise(7)
    torch.manual_seed(2)
    assert torch.equal(first, make_noise(7))
    assert not torch.equal(first, make_noise(8))


def test_real_passes_on_what_was_drawn() -> None:
    asked = []
    drawn = torch.randn((5, 3, 4, 4), generator=torch.Generator().manual_seed(0))

    def draw(count: int) -> Tensor:
        asked.append(count)
        return drawn

    context = SynthesisContext(SPACE, 10, torch.Generator(), real_images=draw)
    assert torch.equal(Real().synthesize(nn.Identity(), RealConfig(5), context).images, drawn)
    assert asked == [5]


def test_real_refuses_without_a_source() -> None:
    with pytest.raises(UsageError, match="needs real calibration images"):
        Real().synthesize(nn.Identity(), RealConfig(), SynthesisContext(SPACE, 10, torch.Generator()))


def test_neither_passes_through_the_model_and_both_need_an_image() -> None:
    assert Noise().image_passes(NoiseConfig(7)) == 0.0
    assert Real().image_passes(RealConfig(7)) == 0.0
    assert Real().needs_real_images(RealConfig()) is True
    assert Noise().needs_real_images(NoiseConfig()) is False
    for config in (NoiseConfig, RealConfig):
        with pytest.raises(UsageError, match="images >= 1"):
            config(images=0)
