"""What a plan will take: floating-point operations counted on a model without memory, and a rough rate.

The operations are exact (torch's own counter on meta tensors); the rates are of other machines, so seconds are a guess
where none are recorded (`harness.plan.speeds`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from harness.inputs.image_sets import open_images
from harness.inputs.zoo import PARAMETERS, ModelEntry, build_model
from harness.plan.jobs import CellJob, Job, ReferenceJob, SynthesisJob
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS

# Of a core: operations a second, seconds a pass of one image takes however small the model is, and a stage however few
# its passes are. They fit the medians of the committed records of the embedded models and of DeiT-Tiny.
_FLOPS_PER_CORE, _PASS_SECONDS, _STAGE_SECONDS = 5.5e10, 5e-3, 0.4
_FLOPS_PER_GPU = 2e13
_CONTEXT_MB = 500
_EVALUATED = 64
_MICRO_BATCH = 32
_HALF = 0.6


@dataclass(frozen=True)
class Footprint:
    """Of a model: forward FLOPs of one image, MiB of weights, and of one image MiB of all activations (kept for a
    backward pass) and of the largest one."""

    flops: float
    weights: float
    activations: float
    largest: float


@lru_cache
def footprint(entry: ModelEntry) -> Footprint:
    """Count a model's footprint on meta tensors, which hold no memory."""
    import torch
    from accelerate import init_empty_weights
    from accelerate.utils import compute_module_sizes
    from torch.utils.flop_counter import FlopCounterMode

    with init_empty_weights(include_buffers=True):
        model = build_model(entry)
    model = model.to("meta").eval()
    kept: list[float] = []

    def count(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        kept.append(output.numel() * 4 / 2**20 if isinstance(output, torch.Tensor) else 0.0)

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty((1, len(entry.mean), entry.size, entry.size), device="meta"))
    for hook in hooks:
        hook.remove()
    return Footprint(float(counter.get_total_flops()), compute_module_sizes(model)[""] / 2**20, sum(kept), max(kept))


def parameters(entry: ModelEntry) -> int:
    """Return how many parameters a model has: as listed for the zoo's, else from its float32 weights' size."""
    return PARAMETERS.get(entry.name) or int(footprint(entry).weights * 2**18)


def gpu_peak_mb(job: Job) -> float:
    """Estimate the GPU memory of a job in MiB, the context included.

    A reference keeps no activations, a synthesis those of a micro-batch on a GPU, a cell those of its calibration
    images, while the model is there up to three times.
    """
    size = footprint(job.subject.entry)
    if isinstance(job, ReferenceJob):
        return _CONTEXT_MB + size.weights + 4 * _EVALUATED * size.largest
    if isinstance(job, SynthesisJob):
        return _CONTEXT_MB + size.weights + (128 * size.activations if job.passes else 0)
    images = getattr(job.method_config, "images", 32)
    return _CONTEXT_MB + 3 * size.weights + max(images * size.activations, 4 * _EVALUATED * size.largest)


def peak_mb(job: Job) -> float:
    """Estimate the memory of a job's process on the CPU, in MiB."""
    size = footprint(job.subject.entry)
    views = _EVALUATED if isinstance(job, ReferenceJob) else _MICRO_BATCH
    return _CONTEXT_MB + 3 * size.weights + views * size.activations * (image_passes(job) > 0)


def seconds_of(passes: float, entry: ModelEntry, cores: int, gpu: bool) -> float:
    """Estimate a stage of so many forward+backward passes of one image, each as three forward ones, on CPU cores or on
    one GPU; a stage without passes takes no time."""
    work = 3 * passes * footprint(entry).flops
    if gpu:
        return work / _FLOPS_PER_GPU
    return (passes > 0) * _STAGE_SECONDS + passes * _PASS_SECONDS + work / (_FLOPS_PER_CORE * cores)


def image_passes(job: Job) -> float:
    """Return the forward+backward passes of one image that a job takes."""
    if isinstance(job, SynthesisJob | CellJob):
        return job.passes
    return _evaluated_by(job) / 3


def _evaluated_by(job: ReferenceJob | CellJob) -> int:
    """Return how many images a job evaluates on."""
    return len(open_images(job.data))


def stages(job: Job) -> dict[str, float]:
    """Return the forward+backward passes of one image of each stage of a job, in order, by the stage's name.

    A name's first word is what the stage reports itself by.
    """
    if isinstance(job, ReferenceJob):
        return {"fp32": image_passes(job)}
    if isinstance(job, SynthesisJob):
        return {f"synthesize {job.method}": job.passes}
    evaluation = job.cell.data["n"] / 3
    return {f"quantize {job.cell.backend}": job.passes - evaluation, "evaluate": evaluation}


def halving(job: Job, stage: str) -> dict[str, int]:
    """Return the whole numbers among the settings that, each halved, about halve what a stage of a job takes."""
    if isinstance(job, SynthesisJob):
        method = METHODS.get(job.method)
        return _halving(job.method, job.config, method.image_passes)
    if isinstance(job, CellJob) and stage.startswith("quantize"):
        backend, images = BACKENDS.get(job.cell.backend), getattr(job.method_config, "images", 0)
        return _halving(job.cell.backend, job.backend_config, lambda config: backend.image_passes(config, images))
    return {"--limit": max(1, _evaluated_by(job) // 2)}


def _halving(owner: str, config: Any, passes: Callable[[Any], float]) -> dict[str, int]:
    found = {}
    for part in fields(config):
        value = getattr(config, part.name)
        if type(value) is int and value > 1:
            try:
                less = passes(replace(config, **{part.name: value // 2}))
            except UsageError:  # half of it is out of range
                continue
            if less <= _HALF * passes(config):
                found[f"--set {owner}.{part.name}"] = value // 2
    return found
