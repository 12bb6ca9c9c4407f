"""Image sets: the eval transform against Pillow's own arithmetic, fixed balanced subsets, and the built-in sets."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from harness_kit import save_image
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from harness.inputs import image_sets
from harness.inputs.digits import EMBEDDED, digits_split
from harness.inputs.image_sets import DataSource, limited, load_pixels, open_images, pixel_batches
from harness.inputs.images.sets import ArrayImages, dead_leaves
from harness.inputs.weights import find_weights, image_space, load_model
from harness.inputs.zoo import ENTRIES, ModelEntry


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


def test_batches_decoded_ahead_are_those_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        save_image(tmp_path / "n01440764" / f"{number}.png", number)
    source, entry = DataSource(str(tmp_path)), ENTRIES["deit_t"]
    kept = list(pixel_batches(source, entry, 3))
    assert [len(batch) for batch in kept] == [3, 3, 1]
    assert torch.equal(torch.cat(kept), load_pixels(source, entry, range(7)))
    monkeypatch.setattr(image_sets, "_KEPT_BYTES", 0)
    for size in (1, 3, 7, 8):
        ahead = list(pixel_batches(source, entry, size))
        assert [len(batch) for batch in ahead] == [len(batch) for batch in torch.cat(kept).split(size)]
        assert torch.equal(torch.cat(ahead), torch.cat(kept))


def test_no_more_than_three_batches_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sets, "_KEPT_BYTES", 0)
    decoded: list[int] = []
    plain = ArrayImages.pixels

    def seen(images: ArrayImages, index: int, entry: ModelEntry) -> Tensor:
        decoded.append(index)
        return plain(images, index, entry)

    monkeypatch.setattr(ArrayImages, "pixels", seen)
    for number, _ in enumerate(pixel_batches(DataSource("digits", limit=100), ENTRIES["vit_digits"], 5)):
        assert len(decoded) <= 5 * (number + 3)
    assert sorted(decoded) == list(range(100))


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


def test_the_digits_split_has_every_digit_once() -> None:
    train, train_labels = digits_split(train=True)
    validation, validation_labels = digits_split(train=False)
    assert (train.shape, validation.shape) == ((1297, 32, 32, 3), (500, 32, 32, 3))
    together = np.concatenate([train_labels, validation_labels])
    assert np.bincount(together).tolist() == np.bincount(load_digits().target).tolist()


def test_the_digits_split_is_fixed() -> None:
    labels = digits_split(train=False)[1], digits_split(train=True)[1]
    assert [hashlib.sha256(side.tobytes()).hexdigest() for side in labels] == [
        "142f964e2e8842d7acf0e5ae03381373fffb7635473a990f517c1d82c970319c",
        "6025ff6f9cf11eefe7bf147469fe2fcc36d5cb5fb9b31410eb67796e16a4540f",
    ]


def test_its_sides_are_disjoint_and_together_all_of_the_digits() -> None:
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


def test_dead_leaves_are_fixed_and_differ() -> None:
    first, second = dead_leaves(4, 64), dead_leaves(6, 64)
    assert first.shape == (4, 64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, second[:4]), "image i does not depend on how many there are"
    assert len({image.tobytes() for image in second}) == 6


def test_dead_leaves_are_flat_and_of_many_colours() -> None:
    for image in dead_leaves(3, 128):
        colours = len(np.unique(image.reshape(-1, 3), axis=0))
        assert 30 <= colours <= 401, "at most one colour per disc and one for the ground"
        flat = (image[:, 1:] == image[:, :-1]).all(-1).mean()
        assert 0.7 < flat < 0.99, "neighbours are mostly of one leaf, with edges between leaves"


def test_dead_leaves_have_no_labels() -> None:
    images = open_images(DataSource("dead-leaves", limit=3))
    assert images.labels is None
    assert (images.name, len(images)) == ("dead-leaves", 3)
