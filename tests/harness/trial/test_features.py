"""Backbones without a classifier: cosine and nearest neighbour by hand, and one from its checkpoint to its tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness_kit import run_bench, run_leaderboard, save_image

from harness.record.record import Finished
from harness.record.records import load_records
from harness.trial.features import feature_metrics, nearest_neighbours
from methods.errors import UsageError
from methods.registry import METHODS


def test_cosine_is_the_mean_over_images() -> None:
    reference = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    features = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    found = feature_metrics(features, reference, None)
    assert found["cosine"] == pytest.approx((1 + math.sqrt(0.5) - 1) / 3, abs=1e-7)
    assert found["n"] == 3
    assert {found[name] for name in ("top1", "top5", "stderr", "fp32_top1", "agreement", "kl")} == {None}
    assert "knn" not in found


def test_the_nearest_other_image_names_the_class() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 5.0], [0.3, 1.0], [-1.0, 0.0]])
    # nearest: 0-1, 1-0, 2-3, 3-2; 4 is at right angles to 2, and all others are behind it
    assert nearest_neighbours(features, [0, 0, 1, 1, 1]) == 100.0
    assert nearest_neighbours(features, [0, 1, 1, 1, 0]) == 40.0
    assert nearest_neighbours(features, [(0, 2), 2, 1, (0, 1), (0, 3)]) == 80.0  # one class in common is enough
    found = feature_metrics(features, features.flip(0), [0, 1, 1, 1, 0])
    assert (found["knn"], found["fp32_knn"]) == (40.0, 40.0)  # the labels read the same from either end


def test_nearest_neighbours_agree_with_a_slow_search() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1500, 6, generator=generator)  # more than are compared at once
    labels = torch.randint(3, (1500,), generator=generator)
    double = torch.nn.functional.normalize(features.double(), dim=1)
    distances = torch.cdist(double, double).fill_diagonal_(math.inf)
    expected = 100 * (labels[distances.argmin(1)] == labels).double().mean().item()
    assert nearest_neighbours(features, labels.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "needs"), [("noise", False), ("psaq_vit", True), ("psaq_vit_v2", False)])
def test_methods_that_aim_at_classes_say_so(name: str, needs: bool) -> None:
    METHODS.get(name).check_classes(10)
    if needs:
        with pytest.raises(UsageError, match=f"{name} aims its images at classes, and the model has none"):
            METHODS.get(name).check_classes(0)
    else:
        METHODS.get(name).check_classes(0)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of a small backbone and images of two classes."""
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit", num_classes=0, img_size=32, patch_size=8)
    torch.save(model.state_dict(), folder / "mine.pth")
    (folder / "mine.toml").write_text("size = 32\narguments = {patch_size = 8}\n")
    for index in range(6):
        save_image(folder / "val" / ("cats" if index % 2 else "dogs") / f"{index}.png", index)
    return folder


def test_a_backbone_has_tables_of_its_own(backbone: Path, tmp_path: Path) -> None:
    where = ["--weights", str(backbone / "mine.pth"), "--data", str(backbone / "val")]
    what = ["--models", "test_vit", "--backends", "minmax", "--bits", "w8a8"]
    refused = run_bench(tmp_path / "none", *what, *where, "--methods", "psaq_vit")
    assert (refused.code, (tmp_path / "none").exists()) == (2, False)
    assert "psaq_vit aims its images at classes, and the model has none." in refused.err
    done = run_bench(tmp_path, *what, *where, "--methods", "noise")
    assert done.code == 0, done.err
    assert "Cosine of features with FP32 - val, n = 6" in done.out
    [record] = load_records([tmp_path]).sound
    assert isinstance(record, Finished)
    found = record.metrics
    assert found.cosine is not None
    assert 0.98 < found.cosine <= 1
    assert (found.top1, found.agreement, record.correct_bits) == (None, None, None)
    both = run_bench(tmp_path, "--models", "vit_digits", "--backends", "minmax", "--methods", "noise", "--limit", "20")
    assert both.code == 0, both.err
    shown = run_leaderboard(str(tmp_path), "--metric", "knn")
    assert "Top-1 of the nearest neighbour, % - val" in shown.out
    assert f"{found.knn:.2f}" in shown.out
    assert f"{found.fp32_knn:.2f}" in shown.out
    usual = run_leaderboard(str(tmp_path)).out
    assert "Top-1, % - digits" in usual
    assert "Cosine of features with FP32 - val" in usual
