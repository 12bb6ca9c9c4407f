"""The runtimes that read ONNX files: ONNX Runtime and OpenVINO, on the CPU, each as a function of images.

A runtime is asked for by name; one that is not installed is left out, and whatever would show its figures shows none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Images: TypeAlias = NDArray[np.float32]
Run: TypeAlias = Callable[[Images], Images]
"""Maps normalized images [n, C, H, W] to logits [n, classes]."""


def onnx_runtime(content: bytes, threads: int, batch: int | None = None) -> Run:
    """Open a file with ONNX Runtime; batch is not asked for, it takes any.

    Where a processor has no products of u8 and s8 that cannot overflow (no VNNI), ONNX Runtime saturates them in
    16 bits; the option `session.x64quantprecision` has it compute with u8 weights instead, exactly.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
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
