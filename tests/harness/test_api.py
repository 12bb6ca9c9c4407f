"""The five lines of the README, and what the public functions promise: models left alone, sentences for bad input."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import python
from torch import Tensor

import harness as dfq
from harness.inputs.image_sets import DataSource, load_pixels, open_images
from harness.inputs.weights import image_space
from harness.inputs.zoo import ENTRIES
from methods.errors import UsageError


def digits(count: int) -> tuple[Tensor, Tensor]:
    entry, source = ENTRIES["vit_digits"], DataSource("digits", count)
    images = open_images(source)
    pixels = load_pixels(source, entry, range(count))
    return image_space(entry).normalize(pixels), torch.tensor(images.labels)


def test_the_five_lines() -> None:
    images, labels = digits(100)
    loader = [(images[:60], labels[:60]), (images[60:], labels[60:])]
    model = dfq.load_model("vit_digits")
    made = dfq.synthesize(model, "noise", images=8, seed=0, progress=False)
    quantized = dfq.quantize(model, made, bits="w8a8", backend="minmax", progress=False)
    found = dfq.evaluate(quantized, loader)
    correct = int((quantized(images).argmax(1) == labels).sum())
    assert found["n"] == 100
    assert found["top1"] == pytest.approx(correct)
    assert found["top1"] > 90


def test_images_depend_on_the_seed_alone() -> None:
    model = dfq.load_model("vit_digits")
    first, again, other = (dfq.synthesize(model, "noise", images=2, seed=seed, progress=False) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_models_stay_as_they_were() -> None:
    model = dfq.load_model("vit_digits").train()
    model.head.weight.requires_grad_(True)  # type: ignore[union-attr]
    before = copy.deepcopy(model.state_dict())
    images, labels = digits(4)
    quantized = dfq.quantize(model, images, bits="w4a4", backend="minmax", progress=False)
    dfq.evaluate(model, [(images, labels)])
    assert model.training
    assert model.head.weight.requires_grad  # type: ignore[union-attr]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not quantized.training


def test_a_loader_and_a_tensor_calibrate_alike() -> None:
    model, (images, labels) = dfq.load_model("vit_digits"), digits(6)
    loader = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    one, two = (dfq.quantize(model, given, "w8a8", "minmax", progress=False) for given in (images, loader))
    assert torch.equal(one(images), two(images))


def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, (images, _) = dfq.load_model("vit_digits"), digits(6)
    quantized = dfq.quantize(model, images, "w4a4", "minmax", progress=False)
    dfq.save(quantized, tmp_path / "model.safetensors")
    assert torch.equal(dfq.load(tmp_path / "model.safetensors")(images), quantized(images))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: dfq.synthesize(model, "nois"), "Did you mean 'noise'"),
        (lambda model: dfq.synthesize(model, "noise", image=3), "image"),
        (lambda model: dfq.synthesize(model, "real"), "give yours to quantize"),
        (lambda model: dfq.quantize(model, torch.zeros(3, 32, 32)), "tensor [n, C, H, W]"),
        (lambda model: dfq.quantize(model, digits(2)[0], bits="w4"), "w4a4"),
        (lambda model: dfq.evaluate(model, []), "no images"),
        (lambda model: dfq.load("missing.safetensors"), "missing.safetensors cannot be read"),
    ],
)
def test_mistakes_are_sentences(call: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(dfq.load_model("vit_digits"))
    assert said in str(caught.value)


def test_importing_the_face_loads_no_torch() -> None:
    assert python("-c", "import sys, harness; print('torch' in sys.modules)").out.strip() == "False"
    with pytest.raises(AttributeError):
        _ = dfq.nothing
