"""Syntheses: snapshots of killed ones; contact sheets show pixels, regions and maps to scale."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.inputs.weights import find_weights
from harness.inputs.zoo import ENTRIES
from harness.plan.jobs import RunSettings, Subject, SynthesisJob
from harness.record.cache import Cache
from harness.trial import synthesis
from harness.trial.contact_sheet import class_names, contact_sheet, denormalized
from harness.trial.synthesis import run_synthesis
from methods.synthesis.psaq_vit import PSAQViTConfig

ENTRY = ENTRIES["vit_digits"]
JOB = SynthesisJob(
    key="k",
    subject=Subject(ENTRY, find_weights(ENTRY, None)),
    method="psaq_vit",
    config=PSAQViTConfig(images=2, iterations=6),
    seed=0,
    calibration=None,
    reference="r",
    passes=12.0,
)


class Killed(BaseException):
    pass


def made(folder: Path, key: str = "k") -> torch.Tensor:
    entry = Cache.of(folder, "synthesis").load(key)
    assert entry is not None
    return entry.tensors["images"]


def settings_of(folder: Path) -> RunSettings:
    return RunSettings(folder, "cpu", 1, True, "local", "", None, "run")


def test_killed_synthesis_goes_on_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = settings_of(tmp_path / "whole"), settings_of(tmp_path / "cut")
    run_synthesis(JOB, whole, lambda *_: None)
    monkeypatch.setattr(synthesis, "_SNAPSHOT_SECONDS", 0.0)

    def killed(stage: str, done: int, total: int, seen: str = "") -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        run_synthesis(JOB, cut, killed)
    snapshots = Cache.of(cut.results, "snapshot")
    kept = snapshots.load("k")
    assert kept is not None and int(kept.tensors["step"]) == 4
    snapshots.store("k", kept.tensors, kept.about | {"seconds": 1000.0})
    steps: list[int] = []
    run_synthesis(JOB, cut, lambda stage, done, total, seen="": steps.append(done))
    assert steps == [0, 5, 6]
    assert torch.equal(made(cut.results), made(whole.results))
    assert "k" not in snapshots
    entry = Cache.of(cut.results, "synthesis").load("k")
    assert entry is not None and 1000.0 < entry.about["stage"]["seconds"] < 1060.0


def test_damaged_snapshot_and_one_of_other_micro_batches_are_not_gone_on_from(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    snapshots = Cache.of(tmp_path, "snapshot")
    snapshots.store("k", {"images": torch.zeros(2, 1, 28, 28)}, {"micro_batch": 1, "seconds": 5.0})
    steps: list[int] = []
    run_synthesis(JOB, settings, lambda stage, done, total, seen="": steps.append(done))
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    first = made(tmp_path)
    Cache.of(tmp_path, "synthesis").path("k").unlink()
    snapshots.path("k").write_bytes(b"damaged")
    run_synthesis(JOB, settings, lambda *_: None)
    assert torch.equal(made(tmp_path), first)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_denormalized_inverts_the_models_own_mean_and_std() -> None:
    for name in ("vit_b", "deit_t"):
        entry = ENTRIES[name]
        pixels = torch.tensor([[[0, 128]], [[255, 3]], [[64, 200]]], dtype=torch.float64)
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (entry.mean, entry.std))
        shown = denormalized(entry, (pixels / 255 - mean) / std)
        assert shown.tolist() == pixels.permute(1, 2, 0).int().tolist()


def test_values_outside_the_pixel_range_are_clipped_and_nan_is_black() -> None:
    image = torch.tensor([-9.0, 9.0, torch.nan]).reshape(1, 1, 3).expand(3, 1, 3)
    assert denormalized(ENTRIES["vit_digits"], image).tolist() == [[[0, 0, 0], [255, 255, 255], [0, 0, 0]]]


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
