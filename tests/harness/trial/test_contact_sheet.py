"""Contact sheets show pixels in the model's own colours, regions where they are, and maps to scale."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from harness.inputs.zoo import ENTRIES
from harness.trial.contact_sheet import class_names, contact_sheet, denormalized


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_denormalized_inverts_the_models_own_mean_and_std() -> None:
    for name in ("vit_b", "deit_t"):
        entry = ENTRIES[name]
        pixels = torch.tensor([[[0, 128]], [[255, 3]], [[64, 200]]], dtype=torch.float64)
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (entry.mean, entry.std))
        shown = denormalized(entry, (pixels / 255 - mean) / std)
        assert shown.tolist() == pixels.permute(1, 2, 0).int().tolist()


def test_values_outside_the_pixel_range_are_clipped() -> None:
    image = torch.tensor([-9.0, 9.0]).reshape(1, 1, 2).expand(3, 1, 2)
    assert denormalized(ENTRIES["vit_digits"], image).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_regions_are_outlined_in_their_own_image_only() -> None:
    tensors = {
        "images": torch.full((2, 3, 32, 32), -1.0),
        "regions": torch.tensor([[1, 8, 16, 8]]),
    }
    sheet = opened(contact_sheet(ENTRIES["vit_digits"], tensors))
    red = np.argwhere((sheet == (255, 64, 64)).all(axis=2))
    tile = 166  # 160 px and a gap; 160/32 = 5 px per pixel
    assert red.min(axis=0).tolist() == [8 * 5, tile + 16 * 5]
    assert red.max(axis=0).tolist() == [16 * 5 - 1, tile + 24 * 5 - 1]


def test_maps_stand_beside_the_image_scaled_to_their_largest_value() -> None:
    prior = torch.tensor([[[0.0, 0.1], [0.2, 0.4]]])
    tensors = {"images": torch.zeros((1, 3, 32, 32)), "attention_prior": prior}
    sheet = opened(contact_sheet(ENTRIES["vit_digits"], tensors))
    left = 166
    centres = [sheet[y, left + x, 0] for y in (40, 120) for x in (40, 120)]
    assert centres == [0, 64, 128, 255]


def test_class_names_follow_the_sorted_wordnet_ids() -> None:
    names = class_names(ENTRIES["deit_t"])
    assert len(names) == 1000
    assert "tench" in names[0]
    assert "toilet tissue" in names[999]
    assert list(class_names(ENTRIES["vit_digits"])) == [str(digit) for digit in range(10)]
