"""The range of images is the box of all pixels: calibration images of low contrast clip no others at the input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import noise, tiny_swin, tiny_vit
from torch import Tensor

from methods.backends.minmax import MinMax, MinMaxConfig
from methods.bits import Bits
from methods.contracts import Backend, ImageSpace, QuantizationContext
from methods.quant.recipe import image_maker
from methods.registry import BACKENDS

IMAGENET = ImageSpace(16, 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LEAST, MOST = -0.485 / 0.229, (1 - 0.406) / 0.225
FEW = {"iterations": 2, "epochs": 2, "warmup": 1, "generations": 2, "population": 4}


def real_images() -> Tensor:
    """Bytes of every value from 0 to 255, each in every channel."""
    return IMAGENET.normalize(torch.arange(4 * 3 * 256).reshape(4, 3, 16, 16).to(torch.uint8))


def quantized(backend: Backend, config: Any, model: Any) -> Any:
    images = 0.1 * noise(4).clamp(-1.8, 2.2)
    context = QuantizationContext(torch.Generator().manual_seed(0), IMAGENET)
    return backend.quantize(model, images, Bits(4, 4), config, context)


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("name", [name for name in BACKENDS.names() if not BACKENDS.get(name).only_bits])
def test_no_backend_clips_real_images_after_dull_ones(name: str, build: Callable[[], Any]) -> None:
    backend = BACKENDS.get(name)
    config = backend.default_config("vit_digits")
    few = {field.name: FEW[field.name] for field in dataclasses.fields(config) if field.name in FEW}
    quantizer = quantized(backend, dataclasses.replace(config, **few), build()).patch_embed.proj.inputs
    assert quantizer.bits == 8
    assert bool(quantizer.inside(real_images()).all())
    error = (quantizer(real_images()) - real_images()).abs().max()
    assert float(error) <= (MOST - LEAST) / 255 * 0.501


def test_learned_scales_leave_the_known_range_alone() -> None:
    backend = BACKENDS.get("blockwise")
    config = dataclasses.replace(backend.default_config("vit_digits"), iterations=3, scales="learned", scale_rate=0.1)
    found = quantized(backend, config, tiny_vit())
    assert float(found.patch_embed.proj.inputs.scale) == pytest.approx((MOST - LEAST) / 255)


def test_psaq_vits_protocol_keeps_the_range_it_saw() -> None:
    quantizer = quantized(MinMax(), MinMaxConfig(protocol="psaq_vit"), tiny_vit()).patch_embed.proj.inputs
    assert quantizer.bits == 4
    assert float(quantizer.inside(real_images()).float().mean()) < 0.2


def test_the_image_has_its_own_range_whatever_is_fitted() -> None:
    quantizer = image_maker(IMAGENET)(4)
    for images in (noise(2), 100 * noise(2)):
        quantizer.fit(images)
        ends = quantizer.dequantize(torch.tensor([0, 255])).flatten()
        assert ends.tolist() == pytest.approx([LEAST, MOST], abs=(MOST - LEAST) / 255 / 2)
