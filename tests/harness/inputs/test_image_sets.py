"""Image sets: the eval transform against Pillow's own arithmetic, and fixed balanced subsets."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from harness_kit import save_image
from numpy.typing import NDArray
from PIL import Image

from harness.inputs.digits import digits_split
from harness.inputs.image_sets import ArrayImages, DataSource, limited, load_pixels, open_images
from harness.inputs.weights import image_space
from harness.inputs.zoo import ENTRIES


def reference_crop(path: Path, size: int, crop: float) -> NDArray[np.uint8]:
    """Shorter side to floor(size / crop), bicubic; then the centre: torchvision's rule, written out."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = math.floor(size / crop)
    resized = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


@pytest.mark.parametrize(("name", "short"), [("deit_t", 256), ("vit_t", 248), ("swin_t", 248)])
def test_the_eval_transform_is_the_papers(tmp_path: Path, name: str, short: int) -> None:
    entry = ENTRIES[name]
    assert math.floor(entry.size / entry.crop) == short
    sizes = [(401, 300), (333, 500), (120, 90)]
    for number, (width, height) in enumerate(sizes):
        save_image(tmp_path / "n01440764" / f"{number}.png", number, width, height)
    pixels = load_pixels(DataSource(str(tmp_path)), entry, [0, 1, 2])
    assert pixels.dtype == torch.uint8
    for number in range(3):
        expected = reference_crop(tmp_path / "n01440764" / f"{number}.png", 224, entry.crop)
        assert np.array_equal(pixels[number].numpy(), expected)
    normalized = image_space(entry).normalize(pixels).double().numpy()
    mean, std = (np.array(values)[:, None, None] for values in (entry.mean, entry.std))
    assert np.abs(normalized - (pixels.numpy() / 255 - mean) / std).max() < 1e-5


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    folder = tmp_path / "n01440764"
    folder.mkdir()
    Image.new("L", (256, 256), 77).save(folder / "grey.png")
    Image.new("CMYK", (256, 256), (0, 0, 0, 0)).save(folder / "print.jpg")
    pixels = load_pixels(DataSource(str(tmp_path)), ENTRIES["deit_t"], [0, 1])
    assert pixels[0].unique().tolist() == [77]
    assert pixels[1].unique().tolist() == [255]
    assert pixels.shape == (2, 3, 224, 224)


def test_pixels_come_in_the_order_asked_for(tmp_path: Path) -> None:
    for number in range(4):
        save_image(tmp_path / "n01440764" / f"{number}.png", number)
    source, entry = DataSource(str(tmp_path)), ENTRIES["deit_t"]
    every = load_pixels(source, entry, [0, 1, 2, 3])
    assert torch.equal(load_pixels(source, entry, [3, 1]), every[[3, 1]])
    assert len({image.numpy().tobytes() for image in every}) == 4


def test_digits_are_not_cut() -> None:
    images, labels = digits_split(train=False)
    opened = open_images(DataSource("digits"))
    assert opened.labels == labels.tolist()
    assert opened.identity()["n"] == 500
    pixels = load_pixels(DataSource("digits"), ENTRIES["vit_digits"], range(500))
    assert np.array_equal(pixels.numpy(), images.transpose(0, 3, 1, 2))
    train = open_images(DataSource("digits-train"))
    assert len(train) == 1297
    assert train.sha256 != opened.sha256


def test_the_identity_of_arrays_follows_pixels_and_labels() -> None:
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    same, brighter = images.copy(), images.copy()
    brighter[1, 0, 0, 0] = 1
    key = ArrayImages("a", images, [0, 1]).sha256
    assert key == ArrayImages("a", same, [0, 1]).sha256
    assert key != ArrayImages("a", brighter, [0, 1]).sha256
    assert key != ArrayImages("a", images, [1, 1]).sha256


@pytest.mark.parametrize("limit", [1, 7, 10, 20, 45])
def test_subsets_are_balanced(limit: int) -> None:
    labels = [index % 10 for index in range(100)] + [3] * 50
    chosen = limited(labels, limit)
    assert len(chosen) == len(set(chosen)) == limit
    assert chosen == sorted(chosen)
    counts = Counter(labels[index] for index in chosen)
    present = [counts[label] for label in range(10)]
    assert max(present) - min(present) <= 1


def test_small_classes_give_all_they_have() -> None:
    labels = [0] * 50 + [1] * 2
    chosen = limited(labels, 10)
    assert Counter(labels[index] for index in chosen) == {0: 8, 1: 2}


def test_subsets_are_fixed_and_nested() -> None:
    labels = [index % 4 for index in range(40)]
    assert limited(labels, 10) == limited(list(labels), 10)
    for smaller, larger in ((4, 5), (5, 20), (20, 39)):
        assert set(limited(labels, smaller)) < set(limited(labels, larger))
    assert limited(labels, 4) != [0, 1, 2, 3], "drawn, not the first of each class"


@pytest.mark.parametrize("limit", [None, 40, 41])
def test_no_limit_is_everything(limit: int | None) -> None:
    assert limited([index % 4 for index in range(40)], limit) == list(range(40))


def test_a_limited_set_is_part_of_the_whole() -> None:
    images, labels = digits_split(train=False)
    part = open_images(DataSource("digits", limit=30))
    chosen = limited(labels.tolist(), 30)
    assert part.labels == labels[chosen].tolist()
    assert isinstance(part, ArrayImages)
    assert np.array_equal(part.images, images[chosen])
    assert Counter(part.labels or []) == dict.fromkeys(range(10), 3)
