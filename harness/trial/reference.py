"""The FP32 reference: a model's logits on an image set, cached, and the gate that stops a run on wrong weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from harness.inputs.image_sets import DataSource, open_images
from harness.inputs.weights import shared_model
from harness.plan.jobs import ReferenceJob, RunSettings, Subject
from harness.record.cache import Cache
from harness.trial.evaluate import logits_of, metrics
from methods.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


StageReport: TypeAlias = Callable[[str, int, int], None]
GATE_POINTS = 15.0


def device_of(settings: RunSettings) -> torch.device:
    """Return the device the run's jobs compute on."""
    import torch

    return torch.device(settings.device)


def model_of(subject: Subject, settings: RunSettings) -> nn.Module:
    """Return the subject's model with its weights, on that device."""
    return shared_model(subject.entry, subject.weights).to(device_of(settings))


def run_reference(job: ReferenceJob, settings: RunSettings, report: StageReport) -> None:
    """Compute and cache the FP32 logits; raises UsageError when they are far worse than they should be."""
    logits = reference_logits(job.subject, job.data, job.key, settings, partial(report, "fp32"))
    labels, expected = open_images(job.data).labels, job.subject.entry.expected_top1
    if not settings.gate or labels is None or expected is None or job.subject.weights.path is None:
        return
    top1 = metrics(logits, logits, labels)[0]["top1"]
    if top1 < expected - GATE_POINTS:
        raise UsageError(
            f"{job.subject.entry.name} reaches {top1:.1f} % in FP32 on {open_images(job.data).name}, far below the "
            f"{expected:.1f} % expected: wrong weights, wrong labels or a wrong transform "
            "(--no-fp32-gate goes on all the same)."
        )


def reference_logits(
    subject: Subject, data: DataSource, key: str, settings: RunSettings, report: Callable[[int, int], None]
) -> Tensor:
    """Return the FP32 logits, from the cache or computed and cached."""
    cache = Cache.of(settings.results, "reference")
    entry = cache.load(key)
    if entry is None:
        report(0, 1)
        logits = logits_of(model_of(subject, settings), data, subject.entry, device_of(settings), report)
        cache.store(key, {"logits": logits}, {})
        return logits
    return entry.tensors["logits"]
