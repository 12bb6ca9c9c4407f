"""Times the steps of a synthesis and, after each, the bare forward and backward passes of the same batches."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

WARM_UP = 1


class StepTimer:
    """Times a method's steps and, after each, the bare passes of the same batches."""

    def __init__(
        self, model: nn.Module, shape: tuple[int, int, int], device: torch.device, precision: str = "fp32"
    ) -> None:
        self.model, self.shape, self.device, self.precision = model, shape, device, precision
        self.batches: list[int] = []
        self.steps: list[tuple[float, float]] = []
        self.views = 0
        self._hook = model.register_forward_pre_hook(self._count)
        self._start = time.perf_counter()

    def _count(self, _module: nn.Module, arguments: tuple[torch.Tensor]) -> None:
        self.batches.append(len(arguments[0]))

    def report(self, done: int, total: int) -> None:
        """Close a step, time its floor and open the next."""
        self._wait()
        step = time.perf_counter() - self._start
        batches, self.batches = self.batches, []
        self.views = sum(batches)
        start = time.perf_counter()
        for count in batches:
            self._bare(count)
        self._wait()
        self.steps.append((step, time.perf_counter() - start))
        self.batches = []
        self._start = time.perf_counter()

    def _bare(self, count: int) -> None:
        """Run one bare forward and backward pass to the pixels."""
        import torch

        images = torch.randn((count, *self.shape), device=self.device, requires_grad=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            result = self.model(images).sum()
        result.backward()

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def medians(self) -> tuple[float, float, float]:
        """Return the medians of step seconds, floor seconds and their ratio, warm-up steps left out."""
        steps = self.steps[WARM_UP:]
        return (
            statistics.median(step for step, _ in steps),
            statistics.median(floor for _, floor in steps),
            statistics.median(step / floor for step, floor in steps),
        )

    def close(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()
