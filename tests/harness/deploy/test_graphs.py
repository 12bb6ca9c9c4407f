"""Quantized models as torch.export programs and ONNX files: the simulation's values, pairs at the products alone."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_swin, tiny_vit
from torch import Tensor, nn

from harness.deploy import onnx_file
from harness.deploy.graph import DEQUANTIZE, QUANTIZE
from harness.deploy.program import encoded, quantized_program, traced
from methods import BACKENDS
from methods.bits import Bits
from methods.contracts import ImageSpace, QuantizationContext
from methods.errors import UsageError
from methods.quant.lower import Lowered, lowered, with_uniform_grids
from methods.quant.quantizers.base import IntegerGrid

STEP = 1.1
"""A tie that rounds the other way moves a value by one step; a logit of these models by at most this share of its
distance from floating point."""

QDQ = [(tiny_vit, "w8a8"), (tiny_vit, "w4a8"), (tiny_vit, "w3a6"), (tiny_swin, "w4a4")]
SPACE = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, backend: str = "minmax", bits: str = "w8a8") -> nn.Module:
    quantizer = BACKENDS.get(backend)
    context = QuantizationContext(torch.Generator().manual_seed(0), SPACE)
    return quantizer.quantize(model, images(), Bits.parse(bits), quantizer.config_class(), context)


@functools.cache
def made(build: Callable[[], nn.Module], bits: str) -> tuple[nn.Module, nn.Module, Any]:
    """Return a model, its simulation and that one's program; all tests read them, none changes them."""
    model = build()
    simulated = quantized(model, bits=bits)
    return model, simulated, quantized_program(simulated, images()[:1])


def calls(program: Any, target: Any) -> list[Any]:
    return [node for node in program.graph.nodes if node.target is target]


def test_a_lowered_quantizer_rounds_by_hand() -> None:
    grid = IntegerGrid(torch.tensor(0.5), torch.tensor(2.0), None, 0, 15)
    x = torch.tensor([-5.0, -1.0, -0.3, 0.0, 0.3, 1.6, 9.0])
    assert Lowered(grid)(x).tolist() == [-1.0, -1.0, -0.5, 0.0, 0.5, 1.5, 6.5]
    assert Lowered(grid).quantized(x).tolist() == [0, 0, 1, 2, 3, 5, 15]


def test_a_lowered_quantizer_has_a_scale_per_slice() -> None:
    grid = IntegerGrid(torch.tensor([[1.0], [0.25]]), torch.zeros(2, 1), 0, -8, 7)
    x = torch.tensor([[2.6, -9.0], [0.3, -9.0]])
    assert Lowered(grid)(x).tolist() == [[3.0, -8.0], [0.25, -2.0]]


@pytest.mark.parametrize(("build", "bits"), [*QDQ, (tiny_vit, "w8a32"), (tiny_vit, "w32a8")])
def test_the_program_computes_what_the_simulation_does(build: Any, bits: str) -> None:
    model, simulated, exported = made(build, bits)
    program = exported.module()
    for count in (1, 3, 4):
        wanted = simulated(images()[:count])
        loss = (wanted - model(images()[:count])).abs().max()
        assert (program(images()[:count]) - wanted).abs().max() < STEP * loss


@pytest.mark.parametrize(("build", "bits"), QDQ)
def test_pairs_stand_at_the_products_and_nowhere_else(build: Any, bits: str) -> None:
    model, _, program = made(build, bits)
    matmuls = calls(program, torch.ops.aten.matmul.default)
    assert matmuls
    assert all(operand.target is DEQUANTIZE for node in matmuls for operand in node.args)
    layers = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in model.modules())
    assert len(calls(program, QUANTIZE)) == layers + 2 * len(matmuls)
    taken = {user.target for node in calls(program, DEQUANTIZE) for user in node.users}
    assert taken == {torch.ops.aten.matmul.default, torch.ops.aten.linear.default, torch.ops.aten.conv2d.default}


def test_weights_are_stored_as_integers_alone() -> None:
    _, _, program = made(tiny_vit, "w8a8")
    large = {name: tensor.dtype for name, tensor in program.state_dict.items() if tensor.dim() > 1}
    assert {dtype for name, dtype in large.items() if "codes" in name} == {torch.int8}
    assert not [name for name in large if name.endswith("layer.weight")]


def test_other_grids_are_refused_or_replaced() -> None:
    model = tiny_vit()
    simulated = quantized(model, "repq")
    with pytest.raises(UsageError, match=r"2 quantizers .*attn_drop: log-sqrt2 .*--uniform"):
        lowered(simulated)
    uniform = with_uniform_grids(simulated, images())
    program = quantized_program(uniform, images()[:1]).module()
    loss = (uniform(images()) - model(images())).abs().max()
    assert (program(images()) - uniform(images())).abs().max() < STEP * loss
    assert torch.equal(simulated(images()), quantized(model, "repq")(images()))


def test_the_file_runs_without_this_package(tmp_path: Path) -> None:
    _, _, program = made(tiny_vit, "w8a8")
    (tmp_path / "model.pt2").write_bytes(encoded(program, {"note": "kept"}))
    torch.save(images(), tmp_path / "images.pt")
    script = """
import sys, torch
from torch.ao.quantization.fx import _decomposed
extra = {"note.json": ""}
program = torch.export.load("model.pt2", extra_files=extra).module()
torch.save(program(torch.load("images.pt")), "logits.pt")
assert extra["note.json"] == "kept"
assert not [name for name in sys.modules if name.partition(".")[0] in ("harness", "methods", "timm")]
"""
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), program.module()(images()))


onnx = pytest.importorskip("onnx")


@functools.cache
def exported(build: Callable[[], nn.Module], bits: str) -> Any:
    found = onnx.load_from_string(onnx_file.encoded(made(build, bits)[2], {"preprocessing": "{}"}))
    onnx.checker.check_model(found, full_check=True)
    return found


def logits(model: Any, count: int) -> torch.Tensor:
    """Compute with the format's own reference, in floating point, node by node."""
    from onnx.reference import ReferenceEvaluator

    [found] = ReferenceEvaluator(model).run(None, {"images": images()[:count].numpy()})
    return torch.from_numpy(np.asarray(found))


def ran(model: Any, count: int) -> torch.Tensor:
    """Compute on the runtime of most users."""
    session = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString())
    return torch.from_numpy(np.asarray(session.run(None, {"images": images()[:count].numpy()})[0]))


@pytest.mark.parametrize("compute", [logits, ran])
@pytest.mark.parametrize(("build", "bits"), QDQ)
def test_the_file_computes_what_the_simulation_does(build: Any, bits: str, compute: Any) -> None:
    model, simulated, _ = made(build, bits)
    for count in (1, 3):
        wanted = simulated(images()[:count])
        loss = (wanted - model(images()[:count])).abs().max()
        assert (compute(exported(build, bits), count) - wanted).abs().max() < STEP * loss


def test_weights_and_scales_are_the_quantizers_own() -> None:
    simulated: Any = made(tiny_vit, "w4a8")[1]
    found = exported(tiny_vit, "w4a8")
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
    found = exported(tiny_vit, "w8a8")
    makers = {value: node for node in found.graph.node for value in node.output}
    for node in found.graph.node:
        dequantized = [makers[name].op_type == "DequantizeLinear" for name in node.input if name in makers]
        if node.op_type in ("MatMul", "Gemm", "Conv"):
            assert dequantized == [True, True]
        else:
            assert not any(dequantized)


def test_the_file_tells_what_it_is() -> None:
    found = exported(tiny_vit, "w8a8")
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


class Remembering(nn.Module):
    """Keeps what it computes first, as timm's LeViT and TinyViT keep their attention biases, and forgets at `eval`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(4.0))
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Remembering:
        self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if "cpu" not in self.kept:
            self.kept["cpu"] = self.table[[3, 2, 1, 0]]
        return x + self.kept["cpu"]


def test_what_a_model_keeps_is_there_before_it_is_traced() -> None:
    """Else torch warns of tensors assigned during export, and warnings are errors here."""
    found = traced(Remembering().eval(), torch.zeros(2, 4)).module()(torch.ones(3, 4))
    assert found.tolist() == [[4.0, 3.0, 2.0, 1.0]] * 3
