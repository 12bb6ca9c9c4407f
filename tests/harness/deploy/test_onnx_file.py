"""The ONNX file: sound for the checker, its integers and scales the quantizers' own, its logits the simulation's."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from test_program import STEP, images, quantized
from tiny_models import tiny_swin, tiny_vit

from harness.deploy import onnx_file
from harness.deploy.program import quantized_program, traced

onnx = pytest.importorskip("onnx")


def exported(model: Any, about: dict[str, str] | None = None) -> Any:
    content = onnx_file.encoded(quantized_program(model, images()[:1]), about or {})
    found = onnx.load_from_string(content)
    onnx.checker.check_model(found, full_check=True)
    return found


def logits(model: Any, count: int) -> torch.Tensor:
    """Compute with the format's own reference, in floating point, node by node."""
    from onnx.reference import ReferenceEvaluator

    [found] = ReferenceEvaluator(model).run(None, {"images": images()[:count].numpy()})
    return torch.from_numpy(np.asarray(found))


@pytest.mark.parametrize(("build", "bits"), [(tiny_vit, "w8a8"), (tiny_vit, "w3a6"), (tiny_swin, "w4a4")])
def test_the_file_computes_what_the_simulation_does(build: Any, bits: str) -> None:
    model = build()
    simulated = quantized(model, bits=bits)
    found = exported(simulated)
    for count in (1, 3):
        wanted = simulated(images()[:count])
        loss = (wanted - model(images()[:count])).abs().max()
        assert (logits(found, count) - wanted).abs().max() < STEP * loss


def test_weights_and_scales_are_the_quantizers_own() -> None:
    simulated: Any = quantized(tiny_vit(), bits="w4a8")
    found = exported(simulated)
    constants = {tensor.name: tensor for tensor in found.graph.initializer}
    layer = simulated.blocks[0].attn.qkv
    stored = constants["blocks.0.attn.qkv.weight"]
    assert stored.data_type == onnx.TensorProto.INT4
    codes = onnx.numpy_helper.to_array(stored).astype(np.int32)
    assert np.array_equal(codes, layer.weights.quantize(layer.layer.weight).numpy().T)
    scale = onnx.numpy_helper.to_array(constants["blocks.0.attn.qkv.weight.scale"])
    assert np.array_equal(scale, layer.weights.scale.flatten().numpy())
    [node] = [node for node in found.graph.node if node.name == "blocks.0.attn.qkv.inputs/QuantizeLinear"]
    assert onnx.numpy_helper.to_array(constants[node.input[1]]) == layer.inputs.scale.numpy()
    assert onnx.numpy_helper.to_array(constants[node.input[2]]) == layer.inputs.zero_point.numpy()


def test_only_products_are_quantized() -> None:
    found = exported(quantized(tiny_vit()))
    makers = {value: node for node in found.graph.node for value in node.output}
    for node in found.graph.node:
        dequantized = [makers[name].op_type == "DequantizeLinear" for name in node.input if name in makers]
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            assert dequantized == [True, True]
        else:
            assert not any(dequantized)


def test_the_file_tells_what_it_is() -> None:
    found = exported(quantized(tiny_vit()), {"preprocessing": "{}"})
    assert [entry.version for entry in found.opset_import if entry.domain == ""] == [21]
    assert {entry.key: entry.value for entry in found.metadata_props} == {"preprocessing": "{}"}
    [shape] = [value.type.tensor_type.shape for value in found.graph.input]
    assert shape.dim[0].dim_param and [dim.dim_value for dim in shape.dim[1:]] == [3, 16, 16]
    assert [value.name for value in found.graph.output] == ["logits"]
    names = Counter(node.name for node in found.graph.node)
    assert max(names.values()) == 1
    assert all("/" in name or name in ("Shape", "Concat", "Expand", "Concat_2", "Add", "Gather") for name in names)


def test_a_plain_model_stays_in_floating_point() -> None:
    model = tiny_vit()
    found = onnx.load_from_string(onnx_file.encoded(traced(model, images()), {}))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in found.graph.node}
    assert torch.allclose(logits(found, 3), model(images()[:3]), atol=1e-4)
