"""What a GPU must make of the same model and seed as a processor: `pytest -m gpu`, left out where there is none.

Without a GPU they compare the processor with itself, which shows that they run.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import Tensor
from torch.nn import functional

import spdfq  # noqa: F401 - registers its methods
from methods.bits import Bits
from methods.contracts import QuantizationContext, SynthesisContext, SyntheticImages
from methods.quant.quantizers.ranges import KnownRange
from methods.quant.quantizers.uniform import UniformQuantizer
from methods.registry import BACKENDS, METHODS

torch.backends.cudnn.allow_tf32 = False  # as in a run
pytestmark = pytest.mark.gpu
CPU, DEVICE = torch.device("cpu"), torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 3  # few enough that other sums of a matrix product have not grown apart


def synthesized(name: str, model: Any, device: torch.device, **changes: Any) -> SyntheticImages:
    """Return three images made on a device, where the model is taken."""
    method = METHODS.get(name)
    config = replace(method.default_config("vit_digits"), images=3, iterations=STEPS, **changes)
    context = SynthesisContext(WIDE, 10, torch.Generator().manual_seed(0), device)
    return method.synthesize(copy.deepcopy(model).to(device), config, context)


@pytest.mark.parametrize("make", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("name", ["spdfq", "psaq_vit", "dmi", "mimiq"])
def test_images_are_those_of_the_processor(name: str, make: Any) -> None:
    here, there = (synthesized(name, make(), device) for device in (CPU, DEVICE))
    assert there.images.device == CPU
    for term, values in here.losses.items():
        assert there.losses[term] == pytest.approx(values, rel=1e-3, abs=1e-4)
    moved = (here.images - there.images).abs()
    assert moved.median() < 1e-4  # Adam's first steps are of the gradient's sign, so single pixels may go astray
    if here.targets is not None and there.targets is not None:
        assert torch.equal(here.targets, there.targets)


def quantized_logits(name: str, model: Any, images: Tensor, device: torch.device) -> Tensor:
    """Return logits [n, classes] of the model quantized at W8A8 on a device."""
    backend = BACKENDS.get(name)
    context = QuantizationContext(torch.Generator().manual_seed(0), WIDE)
    made = backend.quantize(
        copy.deepcopy(model).to(device),
        images.to(device),
        Bits.parse("w8a8"),
        replace(backend.default_config("vit_digits"), **backend.short),
        context,
    )
    with torch.no_grad():
        logits: Tensor = made(images.to(device)).cpu()
    return logits


@pytest.mark.parametrize("make", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("name", ["minmax", "repq", "erq", "best"])
def test_quantized_logits_are_those_of_the_processor(name: str, make: Any) -> None:
    images = noise(8)
    here, there = (quantized_logits(name, make(), images, device) for device in (CPU, DEVICE))
    assert functional.cosine_similarity(here, there).min() > 0.99


def test_every_code_of_a_grid_is_the_processors() -> None:
    quantizer = UniformQuantizer(4, KnownRange(-1.0, 2.0))
    values = torch.linspace(-1.5, 2.5, 4001)
    quantizer.fit(values)
    here = quantizer(values)
    assert torch.equal(quantizer.to(DEVICE)(values.to(DEVICE)).cpu(), here)
    assert len(here.unique()) == 16
