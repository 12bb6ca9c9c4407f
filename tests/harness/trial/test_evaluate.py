"""Metrics against cases worked out by hand, and logits against a plain forward pass."""

from __future__ import annotations

import math

import pytest
import torch

from harness.inputs.digits import digits_split
from harness.inputs.image_sets import DataSource
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ENTRIES
from harness.trial.evaluate import Running, logits_of, metrics, predictions


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


def test_without_labels_nothing_can_be_seen_before_the_end() -> None:
    running = Running(None)
    running.add(torch.eye(3))
    assert str(running) == ""
