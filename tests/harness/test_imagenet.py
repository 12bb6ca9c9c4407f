"""Real images and real weights: DeiT-T in FP32."""

from __future__ import annotations

import dataclasses
import os

import pytest
import torch

from harness.inputs.image_sets import DataSource, checked, load_pixels, open_images
from harness.inputs.weights import find_weights, image_space, load_model
from harness.inputs.zoo import ENTRIES
from harness.trial.evaluate import logits_of, metrics
from methods import BACKENDS
from methods.bits import Bits
from methods.contracts import QuantizationContext

DATA, WEIGHTS = os.environ.get("DFQ_DATA"), os.environ.get("DFQ_WEIGHTS")
pytestmark = [
    pytest.mark.imagenet,
    pytest.mark.skipif(not (DATA and WEIGHTS), reason="DFQ_DATA and DFQ_WEIGHTS are not set"),
]


def fp32_top1(limit: int | None) -> tuple[float, int]:
    entry = ENTRIES["deit_t"]
    source = checked(DataSource(str(DATA), limit), skip_bad=False)
    model = load_model(entry, find_weights(entry, WEIGHTS))
    logits = logits_of(model, source, entry, torch.device("cpu"), lambda *_: None)
    found, _ = metrics(logits, logits, open_images(source).labels)
    return found["top1"], found["n"]


def test_a_subset_is_recognised() -> None:
    top1, count = fp32_top1(100)
    assert count == 100
    assert top1 >= 65.0


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS.names())
def test_two_constant_channels_do_no_harm(name: str) -> None:
    """Two LayerNorm weights of DeiT-T are exactly 0: a channel that never changes has no range to divide by."""
    entry = ENTRIES["deit_t"]
    model = load_model(entry, find_weights(entry, WEIGHTS))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert sum(int((norm.weight == 0).sum()) for norm in norms) == 2
    source = checked(DataSource(str(DATA), 8), skip_bad=False)
    images = image_space(entry).normalize(load_pixels(source, entry, range(8)))
    backend = BACKENDS.get(name)
    config = backend.default_config("deit_t")
    counts = [field.name for field in dataclasses.fields(config) if field.name.endswith(("iterations", "epochs"))]
    config = dataclasses.replace(config, **dict.fromkeys(counts, 2))
    context = QuantizationContext(torch.Generator().manual_seed(0), image_space(entry))
    quantized = backend.quantize(model, images, Bits(8, 8), config, context)
    with torch.inference_mode():
        logits, exact = quantized(images), model(images)
    assert logits.isfinite().all()
    assert float((logits - exact).square().mean().sqrt() / exact.std()) < 0.2
    assert int((logits.argmax(1) == exact.argmax(1)).sum()) >= 7


@pytest.mark.slow
@pytest.mark.skipif(not str(DATA).rstrip("/").endswith("imagenet-val-891"), reason="the figure is of that set")
def test_the_whole_set_has_timms_accuracy() -> None:
    top1, count = fp32_top1(None)
    assert count == 891
    assert top1 == pytest.approx(78.90, abs=0.05)
