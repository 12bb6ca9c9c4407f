"""A method and a backend that take hardly any work, and misbehave when told to by a file in the folder FAULTS_CONTROL.

`hang`: the next quantization sleeps for good; `die`: the next one takes its process with it; `hungry`: the next one
runs out of memory if it has less than a whole GPU.
"""

from __future__ import annotations

import copy
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.bits import Bits
from methods.contracts import Backend, Method, QuantizationContext, SynthesisContext, SyntheticImages
from methods.registry import BACKENDS, METHODS

CONTROL = "FAULTS_CONTROL"
_STEPS = 3


@dataclass(frozen=True)
class DotsConfig:
    """images: how many; pause: seconds a step takes."""

    images: int = 2
    pause: float = 0.02


class Dots(Method):
    """Gaussian noise, slowly."""

    name = "dots"
    version = 1
    paper = "none"
    config_class = DotsConfig
    space: ClassVar = {"images": {"min": 1, "max": 100}}

    def image_passes(self, config: Any) -> float:
        return 2.0

    def synthesize(self, model: nn.Module, config: Any, context: SynthesisContext) -> SyntheticImages:
        _log("synthesis")
        for step in range(_STEPS):
            time.sleep(config.pause)
            context.report(step + 1, _STEPS)
        return SyntheticImages(torch.randn((config.images, *context.space.shape), generator=context.generator))


@dataclass(frozen=True)
class RoundingConfig:
    """pause: seconds a step takes."""

    pause: float = 0.02


class Rounding(Backend):
    """Weights rounded to the bits' grid over their range; nothing is learned from the images."""

    name = "rounding"
    version = 1
    paper = "none"
    config_class = RoundingConfig

    def image_passes(self, config: Any, images: int) -> float:
        return 1.0

    def quantize(
        self, model: nn.Module, images: Tensor, bits: Bits, config: Any, context: QuantizationContext
    ) -> nn.Module:
        _log("quantization")
        _misbehave()
        for step in range(_STEPS):
            time.sleep(config.pause)
            context.report(step + 1, _STEPS)
        quantized = copy.deepcopy(model)
        with torch.no_grad():
            for weight in quantized.parameters():
                step_size = weight.abs().max().clamp_min(1e-8) / (2 ** (bits.weights - 1) - 1)
                weight.copy_((weight / step_size).round() * step_size)
        return quantized


def _log(what: str) -> None:
    """Add a line to the file `log`, if there is one, so that a scenario can count what was done."""
    log = Path(os.environ.get(CONTROL, os.devnull)) / "log"
    if log.exists():
        with log.open("a") as stream:
            stream.write(f"{what}\n")


def _misbehave() -> None:
    control = Path(os.environ.get(CONTROL, os.devnull))
    if _taken(control / "hang"):
        time.sleep(3600)
    if _taken(control / "die"):
        os._exit(1)
    if _gpus() < 1 and _taken(control / "hungry"):
        raise torch.OutOfMemoryError("CUDA out of memory.")


def _taken(order: Path) -> bool:
    """Carry out an order once."""
    try:
        order.unlink()
    except OSError:
        return False
    return True


def _gpus() -> float:
    import ray

    if not ray.is_initialized():
        return 0.0
    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0))


METHODS.register("dots", Dots)
BACKENDS.register("rounding", Rounding)
