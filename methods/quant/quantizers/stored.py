"""Quantizers as names, numbers and tensors, so that a file can hold them and nothing has to be unpickled."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from methods.quant.quantizers.base import Quantizer
from methods.quant.quantizers.logarithmic import Log2Quantizer, LogSqrt2Quantizer
from methods.quant.quantizers.ranges import AnyGrid, FakeQuantize, RangeSearch
from methods.quant.quantizers.shift_uniform_log2 import ShiftUniformLog2Quantizer
from methods.quant.quantizers.shifted_log import ShiftedLogQuantizer
from methods.quant.quantizers.tail_log import AdaptiveLogQuantizer, TailLogQuantizer
from methods.quant.quantizers.uniform import OffsetQuantizer, UniformQuantizer

KINDS: dict[str, type[Quantizer]] = {
    "uniform": UniformQuantizer,
    "offset": OffsetQuantizer,
    "log2": Log2Quantizer,
    "log_sqrt2": LogSqrt2Quantizer,
    "shift_uniform_log2": ShiftUniformLog2Quantizer,
    "shifted_log": ShiftedLogQuantizer,
    "adaptive_log": AdaptiveLogQuantizer,
    "tail_log": TailLogQuantizer,
}


class StoredRange(RangeSearch):
    """The search that found a stored range, by its description; it cannot search again."""

    def __init__(self, description: str) -> None:
        self.description = description

    def _range(self, rows: Tensor, grid: AnyGrid) -> tuple[Tensor, Tensor]:
        raise RuntimeError(f"The ranges of a loaded model ({self.description}) cannot be fitted again.")

    def _upper(self, values: Tensor, fake: FakeQuantize) -> Tensor:
        raise RuntimeError(f"The range of a loaded model ({self.description}) cannot be fitted again.")

    def describe(self) -> str:
        """Return the description of the search."""
        return self.description


def settings(quantizer: Quantizer) -> dict[str, Any]:
    """Return the kind of a quantizer and what it is made with, JSON-able; raises ValueError for another kind."""
    names = [name for name, kind in KINDS.items() if type(quantizer) is kind]
    if not names:
        raise ValueError(f"A {type(quantizer).__name__} cannot be stored.")
    given = {name: getattr(quantizer, name) for name in _parameters(KINDS[names[0]])}
    return {"kind": names[0]} | {k: v.describe() if isinstance(v, RangeSearch) else v for k, v in given.items()}


def restored(stored: dict[str, Any], tensors: dict[str, Tensor]) -> Quantizer:
    """Return the quantizer of some settings and buffers; raises ValueError for what is not one."""
    kind = KINDS.get(stored.get("kind", ""))
    if kind is None or {"kind", *_parameters(kind)} != set(stored):
        raise ValueError(f"{stored} is not a quantizer.")
    given: dict[str, Any] = {k: StoredRange(v) if k == "search" else v for k, v in stored.items() if k != "kind"}
    quantizer = kind(**given)
    if {name for name, _ in quantizer.named_buffers()} != set(tensors):
        raise ValueError(f"{stored} lacks its numbers.")
    for name, tensor in tensors.items():
        setattr(quantizer, name, tensor)
    return quantizer


def _parameters(kind: type[Quantizer]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
