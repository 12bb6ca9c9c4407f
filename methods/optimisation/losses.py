"""Loss terms that several synthesis methods share, total variation and soft cross-entropy, and their targets."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from methods.contracts import SynthesisContext

_PSAQ_PIXELS = 32 * 224 * 224


def total_variation(images: Tensor, diagonal: float = 1.0) -> Tensor:
    """Return V of PSAQ-ViT's code for images [n, C, H, W]: the sum over four shifts (right, down, both
    diagonals) of the Frobenius norm, over the whole batch, of the differences; `diagonal` weights the last two."""
    right = images[..., :, 1:] - images[..., :, :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., :-1, 1:] - images[..., 1:, :-1]
    weighted = ((right, 1.0), (down, 1.0), (falling, diagonal), (rising, diagonal))
    return torch.stack([weight * torch.linalg.vector_norm(d) for d, weight in weighted]).sum()


def variation_target(images: Tensor, generator: torch.Generator) -> float:
    """Draw the target v0 ~ U(2500, 3000) of PSAQ-ViT's code, scaled to the batch.

    The published range is for 32 images of 224x224; a Frobenius norm grows with the root of the number of
    pixels, so other sizes are scaled by that root (inferred).
    """
    pixels = images.shape[0] * images.shape[-2] * images.shape[-1]
    draw = torch.rand((), generator=generator).item()
    return (2500 + 500 * draw) * math.sqrt(pixels / _PSAQ_PIXELS)


def random_classes(count: int, context: SynthesisContext) -> Tensor:
    """Draw one class per image, uniformly; return one-hot targets [count, classes] on the run's device."""
    labels = torch.randint(context.classes, (count,), generator=context.generator)
    return functional.one_hot(labels, context.classes).float().to(context.device)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -sum_i T[i] log softmax(logits)[i] for every row; logits and targets [n, classes] -> [n]."""
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1)
