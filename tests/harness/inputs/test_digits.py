"""The embedded default: the fixed split, and models that can read it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from harness.inputs.digits import EMBEDDED, digits_split
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ENTRIES


def test_sizes_and_labels() -> None:
    train, train_labels = digits_split(train=True)
    validation, validation_labels = digits_split(train=False)
    assert (train.shape, validation.shape) == ((1297, 32, 32, 3), (500, 32, 32, 3))
    together = np.concatenate([train_labels, validation_labels])
    assert np.bincount(together).tolist() == np.bincount(load_digits().target).tolist()


def test_the_split_is_fixed() -> None:
    labels = digits_split(train=False)[1], digits_split(train=True)[1]
    assert [hashlib.sha256(side.tobytes()).hexdigest() for side in labels] == [
        "142f964e2e8842d7acf0e5ae03381373fffb7635473a990f517c1d82c970319c",
        "6025ff6f9cf11eefe7bf147469fe2fcc36d5cb5fb9b31410eb67796e16a4540f",
    ]


def test_the_sides_are_disjoint_and_together_all_of_the_digits() -> None:
    sides = [digits_split(train=side)[0] for side in (True, False)]
    train, validation = ({image.tobytes() for image in side} for side in sides)
    assert not train & validation
    everything = load_digits().images
    grey = np.round(everything * (255.0 / 16.0)).astype(np.uint8)
    large = (np.asarray(Image.fromarray(digit).resize((32, 32), Image.Resampling.BICUBIC)) for digit in grey)
    assert {np.repeat(image[..., None], 3, axis=2).tobytes() for image in large} == train | validation


@pytest.mark.parametrize("name", ["vit_digits", "swin_digits"])
def test_embedded_models_read_digits(name: str) -> None:
    entry = ENTRIES[name]
    model = load_model(entry, find_weights(entry, None))
    images, labels = digits_split(train=False)
    normalized = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in normalized.split(100)])
    top1 = 100 * float((predicted == torch.from_numpy(labels)).double().mean())
    assert top1 >= 97.0
    assert entry.expected_top1 is not None
    assert abs(top1 - entry.expected_top1) < 2.0


@pytest.mark.parametrize("name", ["vit_digits", "swin_digits"])
def test_embedded_files_are_small(name: str) -> None:
    assert 100_000 < (EMBEDDED / f"{name}.safetensors").stat().st_size <= 3_000_000
