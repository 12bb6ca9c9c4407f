"""The ONNX format: QDQ, opset 21, with the method's own scales; exported by torch, its Q/DQ pairs written here.

Weights are per-channel constants of 8 or 4 bits behind a DequantizeLinear, without zero points where these are 0 and
already transposed, so that runtimes find integer products; activations are u8 or s8, clipped first where they have
fewer bits, since integer products of less than eight bits are what no CPU runtime has. Nodes and values are named by
the module they come from.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset21 as op

from harness.deploy.graph import DEQUANTIZE, QUANTIZE
from methods.quant.lower import OPERATIONS

if TYPE_CHECKING:
    from torch.export import ExportedProgram

OPSET = 21
INPUT, OUTPUT = "images", "logits"
_DEQUANTIZE_SLICES: Any = OPERATIONS.dequantize_per_channel.default
_SCOPES = "pkg.torch.onnx.name_scopes"


def encoded(program: ExportedProgram, about: dict[str, str]) -> bytes:
    """Return the file of a program; about: goes into the model's metadata, which inference tools show and return."""
    table: dict[Any, Callable[..., Any]] = {
        QUANTIZE: _quantize,
        DEQUANTIZE: _dequantize,
        _DEQUANTIZE_SLICES: _dequantize_slices,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_translation_table=table,
            verbose=False,
        )
    assert exported is not None
    model = exported.model
    for weight in [node for node in model.graph if node.op_type == "DequantizeLinear"]:
        _store(model.graph, weight)
    _name(model.graph)
    model.metadata_props.clear()
    model.metadata_props.update(about)
    model.producer_name = "spdfq-bench"
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def told(content: bytes, about: dict[str, str]) -> bytes:
    """Return the file of another toolkit with what is to be known of it."""
    import onnx

    model = onnx.load_from_string(content)
    for name, text in about.items():
        model.metadata_props.add(key=name, value=text)
    changed: bytes = model.SerializeToString()
    return changed


def _constant(value: float | int, kind: ir.DataType) -> Any:
    tensor: Any = ir.Tensor(np.array(value, dtype=kind.numpy()), dtype=kind)  # taken, though not declared
    return op.Constant(value=tensor)


def _quantize(x: Any, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: int) -> Any:
    """Write a QuantizeLinear, clipped first where the grid is smaller than its type."""
    kind = ir.DataType.INT8 if quant_min < 0 else ir.DataType.UINT8
    if quant_max - quant_min < 255:
        ends = ((end - zero_point) * scale for end in (quant_min, quant_max))
        x = op.Clip(x, *(_constant(end, ir.DataType.FLOAT) for end in ends))
    return op.QuantizeLinear(x, _constant(scale, ir.DataType.FLOAT), _constant(zero_point, kind))


def _dequantize(
    codes: Any, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: int, out_dtype: int = -1
) -> Any:
    """Write a DequantizeLinear."""
    kind = ir.DataType.INT8 if quant_min < 0 else ir.DataType.UINT8
    return op.DequantizeLinear(codes, _constant(scale, ir.DataType.FLOAT), _constant(zero_point, kind))


def _dequantize_slices(
    codes: Any,
    scales: Any,
    zero_points: Any,
    axis: int,
    quant_min: int,
    quant_max: int,
    dtype: int,
    out_dtype: int = -1,
) -> Any:
    """Write a DequantizeLinear of a weight."""
    return op.DequantizeLinear(codes, scales, op.Cast(zero_points, to=dtype), axis=axis)


def _store(graph: ir.Graph, node: ir.Node) -> None:
    """Store a dequantized constant as runtimes want it: transposed, in four bits where they do, zero points if any."""
    codes, scales, zeros = (None if value is None else value.const_value for value in node.inputs)
    if codes is None or scales is None or zeros is None:
        return
    values, axis = codes.numpy(), node.attributes["axis"].as_int()
    turned = _only_user(node.outputs[0], "Transpose")
    if turned is not None:
        order = list(turned.attributes["perm"].as_ints())
        values, axis = np.ascontiguousarray(values.transpose(order)), order.index(axis)
        ir.convenience.replace_all_uses_with(turned.outputs[0], node.outputs[0])
        node.outputs[0].shape = turned.outputs[0].shape
        graph.remove(turned, safe=True)
    kind = _smallest(values, zeros.numpy(), codes.dtype)
    name = node.inputs[0].name.removesuffix(".codes")  # type: ignore[union-attr]
    fresh = [
        (name, values, kind),
        (f"{name}.scale", scales.numpy(), ir.DataType.FLOAT),
        (f"{name}.zero_point", zeros.numpy(), kind),
    ]
    for index, (title, array, dtype) in enumerate(fresh):
        node.replace_input_with(index, _initializer(graph, _readable(title), array, dtype))
    node.attributes["axis"] = ir.AttrInt64("axis", axis)


def _only_user(value: ir.Value, kind: str) -> ir.Node | None:
    users = [node for node, _ in value.uses()]
    return users[0] if len(users) == 1 and users[0].op_type == kind else None


def _smallest(codes: Any, zeros: Any, stored: ir.DataType) -> ir.DataType:
    """Return the four-bit type if codes and zero points fit it, else the one they have."""
    low, high = min(codes.min(), zeros.min()), max(codes.max(), zeros.max())
    if stored == ir.DataType.INT8 and low >= -8 and high <= 7:
        return ir.DataType.INT4
    return ir.DataType.UINT4 if stored == ir.DataType.UINT8 and high <= 15 else stored


def _initializer(graph: ir.Graph, name: str, values: Any, dtype: ir.DataType) -> ir.Value:
    tensor = ir.Tensor(values.astype(dtype.numpy()), dtype=dtype, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(values.shape), type=ir.TensorType(dtype))
    graph.initializers[name] = value
    return value


def _readable(name: str) -> str:
    """Return the name of a module or parameter without the wrapping of quantized layers."""
    return name.replace(".layer.", ".").replace(".weights", ".weight")


def _name(graph: ir.Graph) -> None:
    """Name nodes and their values by module and operation, constants by what they are; drop constants nobody takes."""
    taken: Counter[str] = Counter()
    outputs = set(graph.outputs)
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = _readable(scopes[-2]) if len(scopes) > 1 and not scopes[-2].startswith("_") else ""
        name = f"{module}/{node.op_type}".removeprefix("/")
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        node.metadata_props.clear()
        for index, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = node.name if index == 0 else f"{node.name}:{index}"
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
        else:
            _rename(graph, value, _readable(name))


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    """Give a constant a name of its own."""
    del graph.initializers[str(value.name)]
    value.name = name
    graph.initializers[name] = value
