"""The runtimes that read ONNX files: ONNX Runtime and OpenVINO, on the CPU, each as a function of images; and a model
that is such a file.

A runtime is asked for by name; one that is not installed is left out, and whatever would show its figures shows none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from methods.errors import UsageError

INPUT, OUTPUT = "images", "logits"
_OPSET = 20

Images: TypeAlias = NDArray[np.float32]
Run: TypeAlias = Callable[[Images], Images]
"""Maps normalized images [n, C, H, W] to logits [n, classes]."""


def onnx_runtime(content: bytes, threads: int, batch: int | None = None) -> Run:
    """Open a file with ONNX Runtime; batch is not asked for, it takes any.

    Where a processor has no products of u8 and s8 that cannot overflow (no VNNI), ONNX Runtime saturates them in
    16 bits; the option `session.x64quantprecision` has it compute with u8 weights instead, exactly. Version 1.32 makes
    those twice of a weight that two operations share, and refuses the model (LowFormer): it is then opened without.
    """
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    def opened(exact: str) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what fails is raised as well
        options.add_session_config_entry("session.x64quantprecision", exact)
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    try:
        session = opened("1")
    except Fail:
        session = opened("0")
    name = session.get_inputs()[0].name

    def run(images: Images) -> Images:
        logits: Images = session.run(None, {name: images})[0]
        return logits

    return run


def openvino(content: bytes, threads: int, batch: int | None = None) -> Run:
    """Open a file with OpenVINO, for a fixed number of images if `batch` says so (then it may compile for it)."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(content, b"")
    return compiled(model, threads, batch)


def compiled(model: object, threads: int, batch: int | None = None) -> Run:
    """Compile an OpenVINO model for the CPU."""
    import openvino as ov

    assert isinstance(model, ov.Model)
    if batch is not None:
        shape = model.inputs[0].partial_shape
        shape[0] = batch
        model.reshape(shape)
    request = (
        ov.Core()
        .compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"})
        .create_infer_request()
    )

    def run(images: Images) -> Images:
        logits: Images = request.infer([images])[0]
        return logits.copy()

    return run


RUNTIMES: dict[str, Callable[[bytes, int, int | None], Run]] = {"onnxruntime": onnx_runtime, "openvino": openvino}


def installed() -> dict[str, str]:
    """Return the versions of the runtimes that are installed."""
    found = {}
    for name in RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class OnnxModel(nn.Module):
    """What other toolkits' quantization leaves, computed in integers by ONNX Runtime.

    content: the file, which takes images [n, C, H, W] of any number n and gives logits [n, classes].
    """

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
