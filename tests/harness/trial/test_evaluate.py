"""Metrics against cases worked out by hand, logits against a plain pass, and backbones without a classifier."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness_kit import run_bench, run_leaderboard, save_image

from harness.inputs import image_sets
from harness.inputs.digits import digits_split
from harness.inputs.image_sets import DataSource
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ENTRIES
from harness.record.record import Finished
from harness.record.records import load_records
from harness.trial.evaluate import Running, feature_metrics, logits_of, metrics, nearest_neighbours, predictions
from methods.errors import UsageError
from methods.registry import METHODS


def test_accuracies_by_hand() -> None:
    order = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])  # class 0 first, class 5 last
    logits = torch.stack([order, order, order, order.flip(0)])
    reference = torch.stack([order, order.flip(0), order, order.flip(0)])
    found, correct = metrics(logits, reference, [0, 4, 5, 5])
    assert correct == [True, False, False, True]
    assert found["top1"] == 50.0
    assert found["top5"] == 75.0  # only image 2 has its class in the sixth place
    assert found["fp32_top1"] == 50.0  # images 0 and 3
    assert found["agreement"] == 75.0  # all but image 1
    assert found["n"] == 4
    assert found["stderr"] == pytest.approx(100 * math.sqrt(0.5 * 0.5 / 4))


def test_stderr_is_binomial() -> None:
    logits = torch.eye(2)[[0] * 9 + [1]]
    found, _ = metrics(logits, logits, [0] * 10)
    assert found["top1"] == pytest.approx(90.0)
    assert found["stderr"] == pytest.approx(9.486832980505138)  # 100 sqrt(0.9 0.1 / 10)


def test_kl_by_hand() -> None:
    reference = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    logits = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log() + 3.0  # a constant changes nothing
    found, _ = metrics(logits, reference, None)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found["kl"] == pytest.approx(first / 2, abs=1e-6)
    turned, _ = metrics(reference, logits, None)
    other = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert turned["kl"] == pytest.approx(other / 2, abs=1e-6), "the direction matters"


def test_without_labels_only_agreement_is_known() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found, correct = metrics(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), None)
    assert correct is None
    assert [found[name] for name in ("top1", "top5", "stderr", "fp32_top1")] == [None] * 4
    assert (found["agreement"], found["n"]) == (50.0, 2)


def test_ties_have_no_prediction_and_count_as_wrong() -> None:
    tied, first, last = [1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]
    logits = torch.tensor([tied, tied, first, last])
    assert predictions(logits).tolist() == [-1, -1, 0, 2]
    found, correct = metrics(logits, torch.tensor([tied, first, first, last]), [0, 0, 0, 2])
    assert correct == [False, False, True, True]
    assert (found["top1"], found["fp32_top1"], found["agreement"]) == (50.0, 75.0, 50.0)


def test_constant_logits_agree_with_nothing_and_are_never_right() -> None:
    found, _ = metrics(torch.zeros(4, 10), torch.zeros(4, 10), [0, 0, 3, 9])
    assert [found[name] for name in ("top1", "top5", "fp32_top1", "agreement")] == [0.0] * 4


def test_a_label_is_among_the_top_five_only_if_four_others_at_most_are_not_below_it() -> None:
    five_share, six_share = [3.0] * 5 + [0.0], [3.0] * 6
    found, _ = metrics(torch.tensor([five_share, six_share, five_share]), torch.zeros(3, 6), [0, 0, 5])
    assert found["top5"] == pytest.approx(100 / 3)


def test_what_is_no_number_is_never_right() -> None:
    nothing = torch.full((2, 10), float("nan"))
    found, correct = metrics(nothing, nothing, [0, 0])
    assert correct == [False, False]
    assert [found[name] for name in ("top1", "top5", "fp32_top1", "agreement", "kl")] == [0.0, 0.0, 0.0, 0.0, None]


def test_logits_are_those_of_a_plain_pass_in_order() -> None:
    entry, source = ENTRIES["vit_digits"], DataSource("digits", limit=150)
    model = load_model(entry, find_weights(entry, None))
    steps: list[tuple[int, int, str]] = []
    found = logits_of(model, source, entry, torch.device("cpu"), lambda *step: steps.append(step))
    images, labels = digits_split(train=False)
    from harness.inputs.image_sets import limited

    chosen = limited(labels.tolist(), 150)
    with torch.no_grad():
        expected = model(torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found.dtype, found.shape) == (torch.float32, (150, 10))
    assert [step[:2] for step in steps] == [(done, 150) for done in (*range(16, 145, 16), 150)]
    for done, _, seen in steps:
        part, _ = metrics(found[:done], found[:done], labels[chosen][:done].tolist())
        assert seen == f"{part['top1']:.1f} ± {part['stderr']:.1f} %"


def test_images_decoded_ahead_have_the_same_logits_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, source = ENTRIES["vit_digits"], DataSource("digits", limit=50)
    model, seen = load_model(entry, find_weights(entry, None)), []
    for kept in (1 << 27, 0):
        monkeypatch.setattr(image_sets, "_KEPT_BYTES", kept)
        seen.append((logits_of(model, source, entry, torch.device("cpu"), lambda *_: None)).clone())
    assert torch.equal(*seen)


def test_without_labels_nothing_can_be_seen_before_the_end() -> None:
    running = Running(None)
    running.add(torch.eye(3))
    assert str(running) == ""


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
