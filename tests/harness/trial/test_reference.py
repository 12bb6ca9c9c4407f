"""What FP32 logits must be before anything is measured against them: numbers, of the image, and far above chance."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import pytest
import torch
from harness_kit import records_of, run_bench
from safetensors.torch import load_file, save_file
from torch import nn

from harness.inputs.digits import EMBEDDED
from harness.inputs.image_sets import DataSource, checked, load_pixels, open_images
from harness.inputs.images.sets import ArrayImages
from harness.inputs.named_models import select_models
from harness.inputs.weights import Weights, find_weights, image_space, load_model
from harness.inputs.zoo import ENTRIES
from harness.trial.evaluate import logits_of, metrics
from harness.trial.reference import NonFinite, first_non_finite, gate_problem, require_finite
from methods.backends.minmax import MinMax
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.registry import BACKENDS

DIGITS = ENTRIES["vit_digits"]
P = ParamSpec("P")
DATA, WEIGHTS = os.environ.get("DFQ_DATA"), os.environ.get("DFQ_WEIGHTS")


class Divides(nn.Module):
    """Makes infinity of zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 / x


def test_the_first_layer_without_numbers_is_named() -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(nn.ReLU(), Divides()), nn.Flatten())
    assert first_non_finite(model, -torch.ones(1, 2)) == "1.1"  # ReLU's zeros are numbers, what divides is the first
    assert first_non_finite(model, torch.ones(1, 2)) is None


def test_logits_without_numbers_are_counted_and_traced_to_a_layer() -> None:
    model = load_model(DIGITS, find_weights(DIGITS, None))
    with torch.no_grad():
        model.get_parameter("blocks.1.mlp.fc1.weight")[0, 0] = float("inf")
    logits = torch.zeros(20, 10)
    require_finite(logits, lambda: pytest.fail("asked for"), DataSource("digits", 20), DIGITS)
    logits[3, 5] = float("nan")
    with pytest.raises(NonFinite, match=r"1 of 20 images are not finite; blocks\.1\.mlp\.fc1 is where"):
        require_finite(logits, lambda: model, DataSource("digits", 20), DIGITS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_without_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    tensors = load_file(EMBEDDED / "vit_digits.safetensors")
    tensors["blocks.1.mlp.fc1.bias"][2] = value
    save_file(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(UsageError, match=r"holds NaN or infinity in blocks\.1\.mlp\.fc1\.bias"):
        load_model(DIGITS, Weights(tmp_path / "broken.safetensors", "a" * 64))


KEY = "blocks.1.mlp.fc1.bias"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda bias: bias.to(torch.complex64), "no plain tensors of real numbers in"),
        (lambda bias: bias.to(torch.int8), "no plain tensors of real numbers in"),
        (lambda bias: bias > 0, "no plain tensors of real numbers in"),
        (lambda bias: bias.to_sparse(), "no plain tensors of real numbers in"),
        (lambda bias: bias.to("meta"), "no plain tensors of real numbers in"),
        (lambda bias: bias.double() + 1e300, "NaN or infinity in"),  # in the model's precision
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_weights_that_loading_would_change_are_refused_by_name(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], sentence: str
) -> None:
    tensors = load_file(EMBEDDED / "vit_digits.safetensors")
    torch.save(tensors | {KEY: change(tensors[KEY])}, tmp_path / "odd.pth")
    with pytest.raises(UsageError, match=rf"holds {sentence} blocks\.1\.mlp\.fc1\.bias\.$"):
        load_model(DIGITS, Weights(tmp_path / "odd.pth", "a" * 64))


def test_weights_of_eight_bits_with_a_point_are_those_they_stand_for(tmp_path: Path) -> None:
    tensors = load_file(EMBEDDED / "vit_digits.safetensors")
    short = tensors[KEY].to(torch.float8_e4m3fn)
    torch.save(tensors | {KEY: short}, tmp_path / "short.pth")
    model = load_model(DIGITS, Weights(tmp_path / "short.pth", "a" * 64))
    assert torch.equal(model.get_parameter(KEY), short.float())


class NoNumbers(MinMax):
    """Leaves a network whose last normalization multiplies by NaN."""

    name = "no_numbers"

    def quantize(self, *given: Any) -> nn.Module:
        network = super().quantize(*given)
        norm = network.get_submodule("norm")
        norm.weight = nn.Parameter(torch.full((64,), float("nan")))
        return network


def test_a_quantized_model_without_numbers_is_a_failed_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS._targets, "no_numbers", NoNumbers)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default
    words = ["--models", "vit_digits", "--methods", "noise", "--backends", "no_numbers,minmax", "--bits", "w8a8"]
    done = run_bench(tmp_path, *words, "--limit", "20", "--set", "noise.images=2")
    assert done.code == 1
    sentence = "the logits of 20 of 20 images are not finite; norm is where they first appear"
    assert sentence in " ".join(done.out.split())
    records = {record["cell"]["backend"]: record for record in records_of(tmp_path).values()}
    assert records["minmax"]["status"] == "ok"
    assert records["no_numbers"]["status"] == "failed"
    assert "metrics" not in records["no_numbers"]
    assert records["no_numbers"]["error"] == f"NonFinite: {sentence}"
    assert not torch.backends.cudnn.allow_tf32  # what is called FP32 is, in convolutions on GPUs too


def labelled(labels: list[int]) -> ArrayImages:
    return ArrayImages("some", np.zeros((len(labels), 16, 16, 3), dtype=np.uint8), labels)


def one_hot(classes: list[int], count: int = 10) -> torch.Tensor:
    return torch.eye(count)[classes]


def test_the_gate_of_a_model_of_unknown_accuracy_stands_above_chance() -> None:
    unknown = replace(DIGITS, expected_top1=None)  # ten classes: chance 10 %, the gate at 10 + 0.2 * 90 = 28 %
    logits = one_hot([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert gate_problem(logits, labelled([0, 1, 2, 9, 9, 9, 9, 9, 9, 8]), unknown) is None  # 30 %
    problem = gate_problem(logits, labelled([0, 1, 9, 9, 9, 9, 9, 9, 9, 8]), unknown)  # 20 %
    assert problem is not None
    assert "reaches 20.0 % in FP32 on some, far below the 28.0 %" in problem


def test_a_full_name_is_expected_what_its_short_name_is() -> None:
    [short], [full] = select_models(["deit_t"]), select_models(["deit_tiny_patch16_224.fb_in1k"])
    assert short.expected_top1 == full.expected_top1 == 72.21
    logits = torch.eye(1000)[[0, 1, 2, 3]]
    assert gate_problem(logits, labelled([0, 1, 2, 3]), full) is None
    assert "far below the 72.2 % expected" in str(gate_problem(logits, labelled([0, 1, 500, 501]), full))


def test_logits_that_do_not_depend_on_the_image_are_refused_without_labels() -> None:
    constant = torch.arange(10.0).expand(5, 10)
    unlabelled = ArrayImages("some", np.zeros((5, 16, 16, 3), dtype=np.uint8), None)
    assert "whatever the image" in str(gate_problem(constant, unlabelled, DIGITS))
    assert "whatever the image" in str(gate_problem(torch.zeros(5, 10), unlabelled, DIGITS))
    assert gate_problem(constant + one_hot([0, 1, 2, 3, 4]), unlabelled, DIGITS) is None
    assert gate_problem(constant[:1], unlabelled, DIGITS) is None  # one image differs from none


def imagenet(test: Callable[P, None]) -> Callable[P, None]:
    """Mark a test of DeiT-T with real weights on real images."""
    missing = pytest.mark.skipif(not (DATA and WEIGHTS), reason="DFQ_DATA and DFQ_WEIGHTS are not set")
    return pytest.mark.imagenet(missing(test))


def fp32_top1(limit: int | None) -> tuple[float, int]:
    entry = ENTRIES["deit_t"]
    source = checked(DataSource(str(DATA), limit), skip_bad=False)
    model = load_model(entry, find_weights(entry, WEIGHTS))
    logits = logits_of(model, source, entry, torch.device("cpu"), lambda *_: None)
    found, _ = metrics(logits, logits, open_images(source).labels)
    return found["top1"], found["n"]


@imagenet
def test_a_subset_of_imagenet_is_recognised() -> None:
    top1, count = fp32_top1(100)
    assert count == 100
    assert top1 >= 65.0


@imagenet
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
    counts = [field.name for field in fields(config) if field.name.endswith(("iterations", "epochs"))]
    config = replace(config, **dict.fromkeys(counts, 2))
    context = QuantizationContext(torch.Generator().manual_seed(0), image_space(entry))
    quantized = backend.quantize(model, images, Bits(8, 8), config, context)
    with torch.inference_mode():
        logits, exact = quantized(images), model(images)
    assert logits.isfinite().all()
    assert float((logits - exact).square().mean().sqrt() / exact.std()) < 0.2
    assert int((logits.argmax(1) == exact.argmax(1)).sum()) >= 7


@imagenet
@pytest.mark.slow
@pytest.mark.skipif(not str(DATA).rstrip("/").endswith("imagenet-val-891"), reason="the figure is of that set")
def test_all_891_images_have_timms_accuracy() -> None:
    top1, count = fp32_top1(None)
    assert count == 891
    assert top1 == pytest.approx(78.90, abs=0.05)
