"""What a plan will take: floating-point operations counted on a model without memory, and a rough rate.

The operations are exact (torch's own counter on meta tensors); the rate is a guess, so seconds are too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from harness.jobs import CellJob, Job, ReferenceJob, SynthesisJob
from harness.zoo import ModelEntry

_FLOPS_PER_CORE = 3e10
_FLOPS_PER_GPU = 2e13


@dataclass(frozen=True)
class Cost:
    """seconds of one trial and peak memory in MiB, both estimated."""

    seconds: float
    peak_mb: float


@lru_cache
def _footprint(entry: ModelEntry) -> tuple[float, float, float]:
    """Return (forward FLOPs of one image, MiB of weights, MiB of activations kept for one image)."""
    import timm
    import torch
    from accelerate import init_empty_weights
    from accelerate.utils import compute_module_sizes
    from torch.utils.flop_counter import FlopCounterMode

    with init_empty_weights(include_buffers=True):
        model = entry.build() if entry.build else timm.create_model(entry.tag, pretrained=False)
    model = model.to("meta").eval()
    kept = 0

    def count(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        nonlocal kept
        kept += output.numel() * 4 if isinstance(output, torch.Tensor) else 0

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty((1, 3, entry.size, entry.size), device="meta"))
    for hook in hooks:
        hook.remove()
    return float(counter.get_total_flops()), compute_module_sizes(model)[""] / 2**20, kept / 2**20


def cost(job: Job, cores: int, gpu: bool, micro_batch: int = 32) -> Cost:
    """Estimate a job on `cores` CPU cores or one GPU; a forward+backward pass counts as three forward ones."""
    flops, weights, activations = _footprint(job.subject.entry)
    rate = _FLOPS_PER_GPU if gpu else _FLOPS_PER_CORE * cores
    passes = _passes(job)
    views = 64 if isinstance(job, ReferenceJob) else micro_batch
    return Cost(3 * passes * flops / rate, 500 + 3 * weights + views * activations * (passes > 0))


def _passes(job: Job) -> float:
    if isinstance(job, SynthesisJob | CellJob):
        return job.passes
    from harness.data import open_images

    return len(open_images(job.data)) / 3
