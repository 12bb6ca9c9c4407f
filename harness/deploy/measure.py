"""What an exported file does where it runs: its logits beside the simulated model's, and its speed beside FP32's."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from msgspec.structs import replace

from harness.inputs.images.labels import Label, are_right
from harness.record.record import Deployed, Latency, Ran
from methods.quant.runtimes import RUNTIMES, Images, Run, installed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harness.deploy.formats import Format
    from harness.plan.jobs import CellJob

Evaluated: TypeAlias = "Callable[[Run], Tensor]"
"""Gives the logits [n, classes] of a run on all images."""
LATENCIES = ((1, 1), (1, 2), (8, 1), (8, 2))
"""Batch and threads of the latencies that are measured."""
_SECONDS, _FEWEST = 2.0, 5


def checked(job: CellJob, kind: Format, content: bytes, model: nn.Module, image: Tensor) -> Deployed:
    """Run what was written, on the cell's evaluation images, beside the simulated model.

    image: one of those it was quantized on, [1, C, H, W]."""
    import torch

    from harness.deploy.onnx_file import encoded
    from harness.deploy.program import traced
    from harness.inputs.image_sets import open_images
    from harness.inputs.weights import shared_model
    from harness.trial.evaluate import logits_of

    labels = open_images(job.data).labels

    def logits(run: nn.Module) -> Tensor:
        return logits_of(run, job.data, job.subject.entry, torch.device("cpu"), lambda *_: None)

    def evaluated(run: Run) -> Tensor:
        return logits(_Module(run))

    class _Module(torch.nn.Module):
        def __init__(self, run: Run) -> None:
            super().__init__()
            self.run = run

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(self.run(x.numpy()))

    simulated = logits(model)
    own = compared(simulated, simulated, labels).top1
    if kind.decode is not None:
        runs = {"torch": compared(logits(kind.decode(content)), simulated, labels)}
        return Deployed(bytes=len(content), uniform=False, simulated_top1=own, runtimes=runs)
    plain = encoded(traced(shared_model(job.subject.entry, job.subject.weights), image.repeat(2, 1, 1, 1)), {})
    runtimes = measured(content, plain, evaluated, simulated, labels, image.numpy())
    return Deployed(bytes=len(content), uniform=False, simulated_top1=own, runtimes=runtimes, fp32_bytes=len(plain))


def compared(logits: Tensor, simulated: Tensor, labels: Sequence[Label] | None) -> Ran:
    """Compare logits [n, classes] with the simulated model's.

    Returns top-1 (None without labels) and the share of equal answers in percent, and the largest difference of a
    logit.
    """

    answers = logits.argmax(1)
    return Ran(
        top1=None if labels is None else 100 * float(are_right(answers, labels).double().mean()),
        agreement=100 * float((answers == simulated.argmax(1)).double().mean()),
        largest_difference=float((logits - simulated).abs().max()),
    )


def measured(
    content: bytes,
    plain: bytes,
    evaluated: Evaluated,
    simulated: Tensor,
    labels: Sequence[Label] | None,
    image: Images,
) -> dict[str, Ran]:
    """Run an ONNX file on every runtime that is installed, and time it beside the FP32 file `plain`.

    simulated, labels: logits [n, classes] and classes of the images `evaluated` runs on; image: one of them.
    """
    results = {}
    for name, release in installed().items():
        logits = evaluated(RUNTIMES[name](content, os.cpu_count() or 1, None))
        times = latencies((content, plain), image, RUNTIMES[name])
        results[name] = replace(compared(logits, simulated, labels), version=release, latencies=times)
    return results


def latencies(
    files: tuple[bytes, bytes], image: Images, opened: Callable[[bytes, int, int | None], Run]
) -> tuple[Latency, ...]:
    """Return the median milliseconds of a quantized and an FP32 file, taking turns, for every batch and threads."""
    rows = []
    for batch, threads in LATENCIES:
        runs = [opened(file, threads, batch) for file in files]
        quantized, plain = medians(runs, np.repeat(image, batch, axis=0))
        rows.append(Latency(batch, threads, quantized, plain))
    return tuple(rows)


def medians(runs: Sequence[Run], images: Images) -> list[float]:
    """Return the median time of every run in milliseconds; they take turns, so that all see the same machine."""
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run(images)
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end or len(taken[0]) < _FEWEST:
        for run, times in zip(runs, taken, strict=True):
            start = time.perf_counter()
            run(images)
            times.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(times) for times in taken]
