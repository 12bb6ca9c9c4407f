"""Times the steps of a synthesis and, after each, the bare forward and backward passes of the same batches."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.inputs.zoo import ModelEntry


WARM_UP = 1


@dataclass(frozen=True)
class Timing:
    """What to time on, and how long, as typed."""

    models: list[str]
    """Short names, globs, full timm names."""
    images: int
    """How many are made, or quantized with."""
    steps: int
    """Steps or passes timed, after one to warm up."""
    set: list[str]
    """Assignments `name.key=value`."""
    micro_batch: int
    """Most views of a synthesis at once."""
    weights: str
    """Folder of weights, or `random`."""
    device: str
    """`cpu` or `cuda`."""


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


COLUMNS = ["model method precision", "views", "step, s", "floor, s", "ratio", "peak, MiB", "full, min"]

NOTES = [
    "views: whole images and regions passed through the model in the last step; full: minutes of a synthesis with all "
    "the method's settings, extrapolated from the seconds per view seen.",
]


def measure(entry: ModelEntry, method: str, precision: str, timing: Timing) -> tuple[str, ...]:
    """Run a few steps of a method on a model and return a line of the table."""
    import torch

    from harness.inputs.seeds import generator
    from harness.inputs.weights import find_weights, image_space, load_model
    from harness.trial.meter import metered
    from methods.contracts import SynthesisContext
    from methods.registry import METHODS

    maker, full = METHODS.get(method), _config(entry, method, precision, timing)
    device, space = torch.device(timing.device), image_space(entry)
    model = load_model(entry, find_weights(entry, timing.weights)).to(device)
    timer = StepTimer(model, space.shape, device, precision)
    context = SynthesisContext(
        space, entry.classes, generator(0, "perf"), device, timer.report, micro_batch=timing.micro_batch
    )
    config = replace(full, images=timing.images, iterations=timing.steps + WARM_UP)
    with metered(device) as meter:
        maker.synthesize(model, config, context)
    timer.close()
    step, floor, ratio = timer.medians()
    minutes = step / timer.views * maker.image_passes(full) / 60
    figures = [f"{step:.3f}", f"{floor:.3f}", f"{ratio:.2f}", f"{meter.peak_mb:.0f}", f"{minutes:.1f}"]
    return (f"{entry.name} {method} {precision}", str(timer.views), *figures)


def _config(entry: ModelEntry, method: str, precision: str, timing: Timing) -> Any:
    """Return the method's config for the model; raises UsageError for one that does not optimise pixels."""
    from harness.plan.settings import effective_config, read_overrides, with_precision
    from methods.errors import UsageError
    from methods.registry import METHODS

    overrides = with_precision(read_overrides({}, timing.set), [method], precision)
    config = effective_config(METHODS.get(method), entry.name, overrides)
    if not hasattr(config, "iterations"):
        raise UsageError(f"The method {method!r} takes no steps, there is nothing to time.")
    return config


def step_lines(timing: Timing, methods: list[str], precisions: list[str]) -> list[tuple[str, ...]]:
    """Measure every synthesis asked for."""
    from harness.inputs.named_models import select_models

    return [
        measure(entry, method, precision, timing)
        for entry in select_models(timing.models, timing.weights)
        for method in methods
        for precision in precisions
    ]
