"""The formats a quantized model can be written in: how to write one, and what runs what was written."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Format:
    """suffix: of its files; integers: whether it can say uniform grids alone; encode: maps a quantized model, one of
    its images [1, C, H, W] and what is to be known of it to a file; decode: back to a module, None where a runtime of
    its own reads it."""

    suffix: str
    integers: bool
    encode: Callable[[nn.Module, Tensor, dict[str, str]], bytes]
    decode: Callable[[bytes], nn.Module] | None = None


def _safetensors(model: nn.Module, image: Tensor, about: dict[str, str]) -> bytes:
    from harness.deploy.safetensors_file import encoded

    return encoded(_of_torch(model), about)


def _from_safetensors(content: bytes) -> nn.Module:
    from harness.deploy.safetensors_file import decoded

    return decoded(content, "The file written")


def _torch(model: nn.Module, image: Tensor, about: dict[str, str]) -> bytes:
    from harness.deploy.program import encoded, quantized_program

    return encoded(quantized_program(_of_torch(model), image), about)


def _from_torch(content: bytes) -> nn.Module:
    from torch.export import load

    return load(io.BytesIO(content)).module()


def _onnx(model: nn.Module, image: Tensor, about: dict[str, str]) -> bytes:
    from harness.deploy.onnx_file import encoded, told
    from harness.deploy.program import quantized_program
    from methods.quant.runtimes import OnnxModel

    if isinstance(model, OnnxModel):
        return told(model.content, about)
    return encoded(quantized_program(model, image), about)


def _of_torch(model: nn.Module) -> nn.Module:
    """Return the model; raises UsageError where it is another toolkit's file."""
    from methods.errors import UsageError
    from methods.quant.runtimes import OnnxModel

    if isinstance(model, OnnxModel):
        raise UsageError(
            "What this backend makes is an ONNX file, which no other format can hold; give --format onnx."
        )
    return model


FORMATS = {
    "safetensors": Format("safetensors", False, _safetensors, _from_safetensors),
    "onnx": Format("onnx", True, _onnx),
    "torch": Format("pt2", True, _torch, _from_torch),
}
