"""What every backend has to bear: constant channels, empty images, one image, few bits, infinities, low contrast.

Settings are the backend's own for an embedded model, with two learning iterations where it learns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import Tensor, nn

import spdfq  # noqa: F401
from harness.inputs.digits import build_swin_digits, build_vit_digits
from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import Backend, ImageSpace, QuantizationContext
from methods.quant.recipe import image_maker
from methods.registry import BACKENDS

Build = Callable[[], Any]
FEW = {"iterations": 2, "epochs": 2, "warmup": 1, "generations": 2, "population": 4}
OWN = [name for name in BACKENDS.names() if not BACKENDS.get(name).only_bits]  # other toolkits bear what they bear
CASES = [(name, None) for name in OWN] + [("minmax", MinMaxConfig(protocol="psaq_vit"))]
every_backend = pytest.mark.parametrize(
    ("name", "config"), CASES, ids=[f"{n}{'-psaq' if c else ''}" for n, c in CASES]
)
every_family = pytest.mark.parametrize("build", [tiny_vit, tiny_swin])


def quantized(name: str, config: Any, model: nn.Module, images: Tensor, bits: str = "w8a8") -> nn.Module:
    backend = BACKENDS.get(name)
    return backend.quantize(
        model,
        images,
        Bits.parse(bits),
        config or quick(backend),
        QuantizationContext(torch.Generator().manual_seed(0), WIDE),
    )


def quick(backend: Any) -> Any:
    """Return a backend's settings for an embedded model, every number of iterations cut to a few."""
    config = backend.default_config("vit_digits")
    most = {field.name: FEW.get(field.name) for field in dataclasses.fields(config)}
    few = {name: min(count, getattr(config, name)) for name, count in most.items() if count is not None}
    return dataclasses.replace(config, **few)


def distance(name: str, config: Any, model: nn.Module, images: Tensor, others: Tensor, bits: str = "w8a8") -> float:
    """Return how far logits of `others` move, root mean square over their spread (two unrelated sets: about 1.4)."""
    logits = quantized(name, config, model, images, bits)(others)
    assert logits.isfinite().all()
    exact = model(others)
    return float((logits - exact).square().mean().sqrt() / exact.std())


def room(name: str) -> float:
    """Return how much wider a backend's bounds are: `ias` has a coarser grid for the softmax output; the fitness of
    `clamp_search`, of cosines, is blind to how large outputs are, so that it may clip far."""
    return {"ias": 1.2, "clamp_search": 3.2}.get(name, 1.0)


def with_constant_channels(model: Any) -> Any:
    """Take the variation out of channels of a LayerNorm, one at zero and one elsewhere, as DeiT-T's weights have it;
    and out of rows of weights and of a whole layer."""
    block = model.blocks[0] if hasattr(model, "blocks") else model.layers[0].blocks[0]
    for norm in (block.norm1, block.norm2):
        norm.weight[3], norm.bias[3] = 0.0, 1.7
        norm.weight[5], norm.bias[5] = 0.0, 0.0
    block.attn.qkv.weight[2] = 0.0
    block.mlp.fc1.weight[:2], block.mlp.fc1.bias[:2] = 0.0, 0.0
    block.mlp.fc2.weight.zero_()
    return model


@every_backend
@every_family
def test_constant_channels_and_rows(build: Build, name: str, config: Any) -> None:
    assert distance(name, config, with_constant_channels(build()), noise(4), noise(4)) < 0.1 * room(name)


@every_backend
@every_family
def test_images_that_are_all_zero(build: Build, name: str, config: Any) -> None:
    """Calibrated on them, the model keeps its logits of them; of other images it need only say something finite."""
    model, zeros = build(), torch.zeros(2, 3, 16, 16)
    logits = quantized(name, config, model, zeros)(torch.cat([zeros, noise(2)]))
    assert logits.isfinite().all()
    error = (logits[:2] - model(zeros)).square().mean().sqrt() / model(zeros)[0].std()
    assert error.item() < 0.1 * room(name)


@every_backend
@every_family
@pytest.mark.parametrize(("bits", "most"), [("w8a8", 0.4), ("w4a4", 1.4), ("w2a2", 2.5)])
def test_one_image_and_few_bits(build: Build, name: str, config: Any, bits: str, most: float) -> None:
    assert 0 < distance(name, config, build(), noise(1), noise(3), bits) < most * room(name)


@every_backend
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("bits", ["w4a4", "w32a32"])
def test_images_that_are_not_finite_are_refused(name: str, config: Any, value: float, bits: str) -> None:
    images = noise(3)
    images[1, 2, 5, 7] = value
    with pytest.raises(ValueError, match="1 of 3 calibration images hold values that are not finite"):
        quantized(name, config, tiny_vit(), images, bits)


@every_backend
@pytest.mark.parametrize("build", [tiny_vit, tiny_swin, build_vit_digits, build_swin_digits])
def test_floating_point_is_bit_identical(build: Build, name: str, config: Any) -> None:
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False)
    images = noise(2, 16 if build in (tiny_vit, tiny_swin) else 32)
    copy = quantized(name, config, model, images, "w32a32")
    assert copy is not model
    assert torch.equal(copy(images), model(images))


@every_backend
@pytest.mark.parametrize("bits", ["w4a32", "w32a4"])
def test_one_side_in_floating_point(name: str, config: Any, bits: str) -> None:
    assert 0 < distance(name, config, tiny_vit(), noise(4), noise(4), bits) < 1.0


IMAGENET = ImageSpace(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LEAST, MOST = -0.485 / 0.229, (1 - 0.406) / 0.225


def real_images() -> Tensor:
    """Bytes of every value from 0 to 255, each in every channel."""
    return IMAGENET.normalize(torch.arange(4 * 3 * 256).reshape(4, 3, 16, 16).to(torch.uint8))


def low_contrast(backend: Backend, config: Any, model: Any) -> Any:
    images = 0.1 * noise(4).clamp(-1.8, 2.2)
    context = QuantizationContext(torch.Generator().manual_seed(0), IMAGENET)
    return backend.quantize(model, images, Bits(4, 4), config, context)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("name", [name for name in BACKENDS.names() if not BACKENDS.get(name).only_bits])
def test_no_backend_clips_real_images_after_dull_ones(name: str, build: Callable[[], Any]) -> None:
    backend = BACKENDS.get(name)
    quantizer = low_contrast(backend, quick(backend), build()).patch_embed.proj.inputs
    assert quantizer.bits == 8
    assert bool(quantizer.inside(real_images()).all())
    error = (quantizer(real_images()) - real_images()).abs().max()
    assert float(error) <= (MOST - LEAST) / 255 * 0.501


def test_learned_scales_leave_the_known_range_alone() -> None:
    backend = BACKENDS.get("blockwise")
    config = dataclasses.replace(backend.default_config("vit_digits"), iterations=3, scales="learned", scale_rate=0.1)
    found = low_contrast(backend, config, tiny_vit())
    assert float(found.patch_embed.proj.inputs.scale) == pytest.approx((MOST - LEAST) / 255)


def test_psaq_vits_protocol_keeps_the_range_it_saw() -> None:
    quantizer = low_contrast(MinMax(), MinMaxConfig(protocol="psaq_vit"), tiny_vit()).patch_embed.proj.inputs
    assert quantizer.bits == 4
    assert float(quantizer.inside(real_images()).float().mean()) < 0.2


def test_the_image_has_its_own_range_whatever_is_fitted() -> None:
    quantizer = image_maker(IMAGENET)(4)
    for images in (noise(2), 100 * noise(2)):
        quantizer.fit(images)
        ends = quantizer.dequantize(torch.tensor([0, 255])).flatten()
        assert ends.tolist() == pytest.approx([LEAST, MOST], abs=(MOST - LEAST) / 255 / 2)
