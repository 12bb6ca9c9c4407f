"""A model that is an ONNX file: what other toolkits' quantization leaves, computed in integers by ONNX Runtime."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import UsageError
from methods.quant.runtimes import Run, onnx_runtime

INPUT, OUTPUT = "images", "logits"
_OPSET = 20


class OnnxModel(nn.Module):
    """content: the file, which takes images [n, C, H, W] of any number n and gives logits [n, classes]."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content
        self._run: Run | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, on the device of x; ONNX Runtime computes them on the CPU, with torch's number of threads."""
        if self._run is None:
            self._run = onnx_runtime(self.content, torch.get_num_threads())
        return torch.from_numpy(self._run(x.detach().cpu().numpy())).to(x.device)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the session, which no copy can share."""
        return {**self.__dict__, "_run": None}

    def describe(self) -> list[dict[str, str | int]]:
        """List the tensors the file holds or computes as integers, as the record has them."""
        import onnx

        graph = onnx.load_from_string(self.content).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        rows: list[dict[str, str | int]] = []
        for node in graph.node:
            if node.op_type == "QuantizeLinear":
                rows.append({"operation": node.input[0], "quantizer": "uniform, per tensor", "bits": 8})
            elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
                slices = "channel" if stored[node.input[1]].dims else "tensor"
                rows.append({"operation": node.input[0], "quantizer": f"uniform, per {slices}", "bits": 8})
        return rows


def require(package: str) -> None:
    """Raise UsageError when an optional package is not installed."""
    if find_spec(package) is None:
        raise UsageError(f"It needs the package {package!r}: pip install -e '.[export]'.")


def plain_file(model: nn.Module, image: Tensor) -> bytes:
    """Return a model in FP32 as the ONNX file that torch writes of it; image: one it takes, [1, C, H, W]."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about its own parts
        program = torch.onnx.export(
            model,
            (image.repeat(2, 1, 1, 1),),  # one image would be taken for the only number there is
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content
