"""Other people's toolkits as backends: what an ONNX file answers and says of itself, and refusals in one sentence."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import WIDE, noise, tiny_swin, tiny_vit
from torch import nn

from harness.deploy.formats import FORMATS
from methods import BACKENDS
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.quant import runtimes
from methods.quant.operations import describe
from methods.quant.runtimes import OnnxModel

onnx: Any = pytest.importorskip("onnx")
TOOLKITS = [name for name in BACKENDS.names() if BACKENDS.get(name).only_bits]


@pytest.fixture(scope="module")
def model() -> OnnxModel:
    """Images of one pixel, three channels: u8 with scale 0.5 and zero point 128, times one column of s8 with 0.25."""
    pytest.importorskip("onnxruntime")
    helper, kinds = onnx.helper, onnx.TensorProto
    constants = {
        "scale": np.float32(0.5),
        "zero": np.uint8(128),
        "codes": np.array([[1], [-2], [3]], np.int8),
        "steps": np.array([0.25], np.float32),
        "zeros": np.array([0], np.int8),
    }
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "steps", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["x", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", kinds.FLOAT, ["n", 3, 1, 1])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return OnnxModel(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


def test_a_file_answers_by_its_integers(model: OnnxModel) -> None:
    images = torch.tensor([[1.1, 0.4, -0.6], [-70.0, 70.0, 0.0]])[..., None, None]
    # codes 130, 129, 127 and 0, 255, 128: their values 1, 0.5, -0.5 and -64, 63.5, 0, times 0.25, -0.5, 0.75
    expected = torch.tensor([[0.25 - 0.25 - 0.375], [-16 - 31.75]])
    assert torch.equal(model(images), expected)
    assert torch.equal(copy.deepcopy(model)(images), expected)


def test_its_tensors_are_what_the_record_lists(model: OnnxModel) -> None:
    assert describe(model) == [
        {"operation": "flat", "quantizer": "uniform, per tensor", "bits": 8},
        {"operation": "codes", "quantizer": "uniform, per channel", "bits": 8},
    ]


def test_it_is_written_as_it_is_with_what_is_to_be_known(model: OnnxModel) -> None:
    image = torch.zeros(1, 3, 1, 1)
    written = onnx.load_from_string(FORMATS["onnx"].encode(model, image, {"cell": "{}"}))
    assert {entry.key: entry.value for entry in written.metadata_props} == {"cell": "{}"}
    assert written.graph == onnx.load_from_string(model.content).graph
    for name in ("safetensors", "torch"):
        with pytest.raises(UsageError, match="give --format onnx"):
            FORMATS[name].encode(model, image, {})


@pytest.mark.parametrize("name", TOOLKITS)
def test_what_is_not_installed_is_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = BACKENDS.get(name)
    monkeypatch.setattr(runtimes, "find_spec", lambda package: None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[export\]'"):
        backend.check(nn.Identity(), backend.default_config(""))


@pytest.mark.slow
@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize(("name", "settings"), [("nncf", {}), ("nncf", {"smooth_quant": False}), ("ort", {})])
def test_toolkits_quantize(name: str, settings: dict[str, bool], build: Any) -> None:
    pytest.importorskip(name.replace("ort", "onnxruntime"))
    plain, backend, context = build(), BACKENDS.get(name), QuantizationContext(torch.Generator(), WIDE)
    quantized = backend.quantize(plain, noise(4), Bits(8, 8), backend.config_class(**settings), context)
    logits, exact = quantized(noise(4)), plain(noise(4))
    assert float((logits - exact).square().mean().sqrt() / exact.std()) < 0.3
    assert len(describe(quantized)) > 20
