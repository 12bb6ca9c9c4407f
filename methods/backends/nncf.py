"""`nncf`: OpenVINO's NNCF, post-training quantization of transformers to eight bits, a peer from deployment.

Its own calibration, as its documentation has it for transformers, without accuracy control: every image counts once;
what it leaves is an ONNX file with Q/DQ pairs, of which ONNX Runtime computes the answers, in integers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from methods.bits import Bits
from methods.contracts import Backend, QuantizationContext
from methods.quant.runtimes import INPUT, OnnxModel, plain_file, require


@dataclass(frozen=True)
class NncfConfig:
    """What can be set of it."""

    smooth_quant: bool = True
    """Whether SmoothQuant moves what stands out from activations into weights first, as it does unless told not to."""


class Nncf(Backend):
    """NNCF's transformer PTQ."""

    name = "nncf"
    version = 1
    paper = "NNCF (OpenVINO), PTQ of transformers"
    config_class = NncfConfig
    only_bits: ClassVar = ("w8a8",)

    def check(self, model: nn.Module, config: Any) -> None:
        """Refuse where NNCF, onnx or ONNX Runtime is missing."""
        for package in ("nncf", "onnx", "onnxscript", "onnxruntime"):
            require(package)

    def image_passes(self, config: Any, images: int) -> float:
        """Count a forward pass of every image, a third of a forward+backward, for each of its three passes."""
        return float(images)

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        """Hand the model's ONNX file and the images to NNCF."""
        os.environ.setdefault("NNCF_CI", "1")  # it would send what it is used for over the network
        import nncf
        import onnx
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
        )

        self.check(model, config)
        off = AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
        advanced = None if config.smooth_quant else AdvancedQuantizationParameters(smooth_quant_alphas=off)
        batches = [{INPUT: image.cpu().numpy()} for image in images.split(1)]
        plain = onnx.load_from_string(plain_file(model.cpu(), images[:1].cpu()))
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            quantized = nncf.quantize(
                plain,
                nncf.Dataset(batches),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(batches),
                advanced_parameters=advanced,
            )
        context.report(1, 1)
        return OnnxModel(quantized.SerializeToString())
