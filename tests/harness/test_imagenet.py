"""Real images and real weights: DeiT-T in FP32."""

from __future__ import annotations

import os

import pytest
import torch

from harness.data import DataSource, checked, open_images
from harness.evaluate import logits_of, metrics
from harness.weights import find_weights, load_model
from harness.zoo import ENTRIES

DATA, WEIGHTS = os.environ.get("DFQ_DATA"), os.environ.get("DFQ_WEIGHTS")
pytestmark = [
    pytest.mark.imagenet,
    pytest.mark.skipif(not (DATA and WEIGHTS), reason="DFQ_DATA and DFQ_WEIGHTS are not set"),
]


def fp32_top1(limit: int | None) -> tuple[float, int]:
    entry = ENTRIES["deit_t"]
    source = checked(DataSource(str(DATA), limit), skip_bad=False)
    model = load_model(entry, find_weights(entry, WEIGHTS))
    logits = logits_of(model, source, entry, torch.device("cpu"), lambda done, total: None)
    found, _ = metrics(logits, logits, open_images(source).labels)
    return found["top1"], found["n"]


def test_a_subset_is_recognised() -> None:
    top1, count = fp32_top1(100)
    assert count == 100
    assert top1 >= 65.0


@pytest.mark.slow
@pytest.mark.skipif(not str(DATA).rstrip("/").endswith("imagenet-val-891"), reason="the figure is of that set")
def test_the_whole_set_has_timms_accuracy() -> None:
    top1, count = fp32_top1(None)
    assert count == 891
    assert top1 == pytest.approx(78.90, abs=0.05)
