"""`ort`: ONNX Runtime's static quantization to eight bits, a peer from deployment.

Its QDQ format as its documentation advises for CPUs: activations u8, weights s8 per channel, ranges from min to max,
after its own preprocessing of the graph; answers are computed by ONNX Runtime, in integers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.bits import Bits
from methods.contracts import Backend, QuantizationContext
from methods.quant.runtimes import INPUT, OnnxModel, plain_file, require


@dataclass(frozen=True)
class OrtConfig:
    """Nothing to set."""


class Ort(Backend):
    """ONNX Runtime's static quantization."""

    name = "ort"
    version = 1
    paper = "ONNX Runtime, static quantization"
    config_class = OrtConfig
    only_bits: ClassVar = ("w8a8",)

    def check(self, model: nn.Module, config: Any) -> None:
        """Refuse where onnx or ONNX Runtime is missing."""
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package)

    def image_passes(self, config: Any, images: int) -> float:
        """Count one forward pass per image, a third of a forward+backward."""
        return images / 3

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Hand the model's ONNX file and the images to ONNX Runtime's quantizer, which works on files."""
        self.check(model, config)
        with TemporaryDirectory() as folder:
            content = _quantized(Path(folder), plain_file(model.cpu(), images[:1].cpu()), images.cpu())
        context.report(1, 1)
        return OnnxModel(content)


def _quantized(folder: Path, plain: bytes, images: Tensor) -> bytes:
    """Return the quantized file of a plain one."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands over one image after the other."""

        def __init__(self) -> None:
            self.left = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            """Return the next image, None behind the last."""
            image = next(self.left, None)
            return None if image is None else {INPUT: image.numpy()}

    given, ready, made = (folder / f"{name}.onnx" for name in ("given", "ready", "made"))
    given.write_bytes(plain)
    logging.getLogger("onnxruntime").setLevel(logging.ERROR)
    quant_pre_process(str(given), str(ready), skip_symbolic_shape=True)
    quantize_static(
        str(ready),
        str(made),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return made.read_bytes()
