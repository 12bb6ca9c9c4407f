"""What a plan will take: floating-point operations counted on a model without memory, and a rough rate.

The operations are exact (torch's own counter on meta tensors); the rate is a guess, so seconds are too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harness.inputs.zoo import PARAMETERS, ModelEntry
from harness.plan.jobs import CellJob, Job, ReferenceJob, SynthesisJob

_FLOPS_PER_CORE = 3e10
_FLOPS_PER_GPU = 2e13
_CONTEXT_MB = 500
_EVALUATED = 64


@dataclass(frozen=True)
class Cost:
    """seconds of one trial and peak memory in MiB, both estimated."""

    seconds: float
    peak_mb: float


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
    import timm
    import torch
    from accelerate import init_empty_weights
    from accelerate.utils import compute_module_sizes
    from torch.utils.flop_counter import FlopCounterMode

    with init_empty_weights(include_buffers=True):
        model = entry.build() if entry.build else timm.create_model(entry.tag, pretrained=False)
    model = model.to("meta").eval()
    kept: list[float] = []

    def count(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        kept.append(output.numel() * 4 / 2**20 if isinstance(output, torch.Tensor) else 0.0)

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty((1, 3, entry.size, entry.size), device="meta"))
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


def cost(job: Job, cores: int, gpu: bool, micro_batch: int = 32) -> Cost:
    """Estimate a job on `cores` CPU cores or one GPU; a forward+backward pass counts as three forward ones."""
    size = footprint(job.subject.entry)
    rate = _FLOPS_PER_GPU if gpu else _FLOPS_PER_CORE * cores
    passes = image_passes(job)
    views = _EVALUATED if isinstance(job, ReferenceJob) else micro_batch
    peak = _CONTEXT_MB + 3 * size.weights + views * size.activations * (passes > 0)
    return Cost(3 * passes * size.flops / rate, peak)


def image_passes(job: Job) -> float:
    """Return the forward+backward passes of one image that a job takes."""
    if isinstance(job, SynthesisJob | CellJob):
        return job.passes
    from harness.inputs.image_sets import open_images

    return len(open_images(job.data)) / 3
