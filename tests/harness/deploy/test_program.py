"""Quantized models as torch.export programs: the same values, pairs at the products, runnable without this package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_swin, tiny_vit
from torch import Tensor, nn

from harness.deploy.graph import DEQUANTIZE, QUANTIZE
from harness.deploy.program import encoded, quantized_program
from methods import BACKENDS
from methods.bits import Bits
from methods.contracts import ImageSpace, QuantizationContext
from methods.errors import UsageError
from methods.quant.lower import Lowered, lowered, with_uniform_grids
from methods.quant.quantizers.base import IntegerGrid

STEP = 1.1
"""A tie that rounds the other way moves a value by one step; a logit of these models by at most this share of its
distance from floating point."""

SPACE = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, backend: str = "minmax", bits: str = "w8a8") -> nn.Module:
    quantizer = BACKENDS.get(backend)
    context = QuantizationContext(torch.Generator().manual_seed(0), SPACE)
    return quantizer.quantize(model, images(), Bits.parse(bits), quantizer.config_class(), context)


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


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
@pytest.mark.parametrize("bits", ["w8a8", "w4a4", "w8a32", "w32a8"])
def test_the_program_computes_what_the_simulation_does(build: Any, bits: str) -> None:
    model = build()
    simulated = quantized(model, bits=bits)
    program = quantized_program(simulated, images()[:1]).module()
    for count in (1, 3, 4):
        wanted = simulated(images()[:count])
        loss = (wanted - model(images()[:count])).abs().max()
        assert (program(images()[:count]) - wanted).abs().max() < STEP * loss


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_pairs_stand_at_the_products_and_nowhere_else(build: Any) -> None:
    model = build()
    program = quantized_program(quantized(model), images()[:1])
    matmuls = calls(program, torch.ops.aten.matmul.default)
    assert matmuls
    assert all(operand.target is DEQUANTIZE for node in matmuls for operand in node.args)
    layers = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in model.modules())
    assert len(calls(program, QUANTIZE)) == layers + 2 * len(matmuls)
    taken = {user.target for node in calls(program, DEQUANTIZE) for user in node.users}
    assert taken == {torch.ops.aten.matmul.default, torch.ops.aten.linear.default, torch.ops.aten.conv2d.default}


def test_weights_are_stored_as_integers_alone() -> None:
    program = quantized_program(quantized(tiny_vit()), images()[:1])
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
    simulated = quantized(tiny_vit())
    program = quantized_program(simulated, images()[:1])
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
