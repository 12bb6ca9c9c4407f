"""Soft and hard labels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_spdfq import seeded

from methods.errors import UsageError
from spdfq.soft_labels import SoftLabelLaw, hard_labels

RELEVANT = [[3], [0, 7], [9, 1, 4], [5, 2, 8, 6, 0]] * 50


@pytest.mark.parametrize("other", [0.0, 1.0])
def test_labels_are_distributions(other: float) -> None:
    targets = SoftLabelLaw(other=other).draw(RELEVANT, 10, seeded(0)).double()
    assert targets.shape == (200, 10)
    assert (targets > 0).all()
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 200, abs=1e-5)


def test_relevant_logits_are_uniform_between_eps1_and_eps2() -> None:
    """With Z = 0 elsewhere, a ratio of probabilities gives Z at the relevant classes back."""
    targets = SoftLabelLaw(other=0.0).draw(RELEVANT, 10, seeded(0)).double()
    logits = []
    for target, chosen in zip(targets, RELEVANT, strict=True):
        rest = [c for c in range(10) if c not in chosen]
        assert (target[rest] / target[rest[0]]).tolist() == pytest.approx([1.0] * len(rest), rel=1e-6)
        logits += [math.log(target[c] / target[rest[0]]) for c in chosen]
    assert 5 - 1e-4 <= min(logits) < 5.1
    assert 9.9 < max(logits) <= 10 + 1e-4
    assert sum(logits) / len(logits) == pytest.approx(7.5, abs=0.2)
    assert sum(value < 6.25 for value in logits) / len(logits) == pytest.approx(0.25, abs=0.06)


def test_other_logits_are_uniform_between_zero_and_other() -> None:
    targets = SoftLabelLaw(eps1=6.0, eps2=6.0, other=2.0).draw([[3]] * 300, 10, seeded(1)).double()
    rest = [c for c in range(10) if c != 3]
    logits = 6 + (targets[:, rest] / targets[:, [3]]).log()
    assert -1e-4 <= logits.min().item() < 0.02
    assert 1.98 < logits.max().item() <= 2 + 1e-4
    assert logits.mean().item() == pytest.approx(1.0, abs=0.05)


def test_closed_form_without_randomness() -> None:
    target = SoftLabelLaw(eps1=5.0, eps2=5.0, other=0.0).draw([[1, 2]], 4, seeded(0))[0]
    big = math.exp(5) / (2 * math.exp(5) + 2)
    assert target.tolist() == pytest.approx([0.5 - big, big, big, 0.5 - big], rel=1e-4)


def test_labels_come_from_the_generator_alone() -> None:
    law = SoftLabelLaw()
    assert torch.equal(law.draw(RELEVANT, 10, seeded(4)), law.draw(RELEVANT, 10, seeded(4)))
    assert not torch.equal(law.draw(RELEVANT, 10, seeded(4)), law.draw(RELEVANT, 10, seeded(5)))


def test_hard_labels_are_one_hot_at_the_first_class() -> None:
    targets = hard_labels([[2], [0, 3], [3, 1, 0]], 4)
    assert targets.tolist() == [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert targets.dtype == torch.float32


@pytest.mark.parametrize("bad", [{"eps1": 11.0}, {"eps2": 4.0}, {"other": -1.0}])
def test_laws_that_cannot_be_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="eps1 <= eps2"):
        SoftLabelLaw(**bad)
