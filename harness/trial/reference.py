"""The FP32 reference: a model's logits on an image set, cached, and the gate that stops a run on wrong weights.

Logits that are no numbers make a failed job that says where they first appear, never a metric.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from harness.inputs.image_sets import DataSource, load_pixels, open_images
from harness.inputs.images.sets import ImageSet
from harness.inputs.weights import image_space, shared_model
from harness.inputs.zoo import ModelEntry
from harness.plan.jobs import ReferenceJob, RunSettings, Subject
from harness.record.cache import Cache
from harness.trial.evaluate import Progress, logits_of, metrics
from methods.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class StageReport(Protocol):
    """Who hears how far a job is."""

    def __call__(self, stage: str, done: int, total: int, seen: str = "") -> None:
        """Hear that a stage has got so far; seen: the result so far in words, such as "71.2 ± 1.5 %"."""


GATE_POINTS = 15.0
_GATE_SHARE = 0.2
_LEAST_SPREAD = 0.01


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
    if settings.gate and job.subject.weights.path is not None:
        problem = gate_problem(logits, open_images(job.data), job.subject.entry)
        if problem:
            raise UsageError(f"{problem} (--no-fp32-gate goes on all the same).")


def gate_problem(logits: Tensor, images: ImageSet, entry: ModelEntry) -> str | None:
    """Say what is wrong with the FP32 logits [n, classes] of a model with loaded weights, or None.

    They have to depend on the image. With labels, top-1 has to be at most 15 points below the model's expected one;
    where that is not known, at least a fifth of the way from chance to 100 %, which wrong labels do not reach.
    """
    if not _depend_on_the_image(logits):
        return f"{entry.name} answers the same in FP32 whatever the image: wrong weights or a wrong transform"
    if images.labels is None or not entry.classes:
        return None
    top1, chance = metrics(logits, logits, images.labels)[0]["top1"], 100 / logits.shape[1]
    expected = entry.expected_top1
    least = expected - GATE_POINTS if expected is not None else chance + _GATE_SHARE * (100 - chance)
    if top1 >= least:
        return None
    wanted = (
        f"{expected:.1f} % expected" if expected is not None else f"{least:.1f} % that any classifier should reach"
    )
    return (
        f"{entry.name} reaches {top1:.1f} % in FP32 on {images.name}, far below the {wanted}: "
        "wrong weights, wrong labels or a wrong transform"
    )


def _depend_on_the_image(logits: Tensor) -> bool:
    """Whether logits differ between images by more than a hundredth of how they differ between classes."""
    if len(logits) == 1:
        return True
    between, within = logits.std(0).mean(), logits.std(1).mean()
    return bool(between > _LEAST_SPREAD * within)


def reference_logits(subject: Subject, data: DataSource, key: str, settings: RunSettings, report: Progress) -> Tensor:
    """Return the FP32 logits, from the cache or computed and cached; raises NonFinite unless all are numbers."""
    cache = Cache.of(settings.results, "reference")
    entry = cache.load(key)
    if entry is None:
        report(0, 1, "")
        logits = logits_of(model_of(subject, settings), data, subject.entry, device_of(settings), report)
    else:
        logits = entry.tensors["logits"]
    require_finite(logits, lambda: model_of(subject, settings), data, subject.entry)
    if entry is None:
        cache.store(key, {"logits": logits}, {})
    return logits


class NonFinite(ArithmeticError):
    """A model's logits hold NaN or infinity."""


def require_finite(logits: Tensor, model: Callable[[], nn.Module], source: DataSource, entry: ModelEntry) -> None:
    """Raise NonFinite, naming the first layer that makes them, when logits [n, classes] are not finite.

    model: returns the model that made them; asked only then.
    """
    finite = logits.amin(1).isfinite() & logits.amax(1).isfinite()  # neither passes over NaN, and both need no copy
    bad = (~finite).nonzero().flatten().tolist()
    if bad:
        network = model()
        device = next(network.parameters()).device
        pixels = image_space(entry).normalize(load_pixels(source, entry, bad[:1]).to(device))
        raise NonFinite(
            f"the logits of {len(bad)} of {len(logits)} images are not finite; "
            f"{first_non_finite(network, pixels) or 'run again, no layer'} is where they first appear"
        )


def first_non_finite(model: nn.Module, pixels: Tensor) -> str | None:
    """Return the name of the first layer, in the order layers end, whose output holds NaN or infinity."""
    import torch

    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(_layer: nn.Module, _given: Any, output: Any) -> None:
            if not found and isinstance(output, torch.Tensor) and not output.isfinite().all():
                found.append(name)

        return look

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in model.named_modules() if name]
    try:
        with torch.inference_mode():
            model(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
