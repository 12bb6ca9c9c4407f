"""What a backbone without a classifier is measured by: its features against those of its FP32 self."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.inputs.images.labels import Label

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 1024


def feature_metrics(features: Tensor, reference: Tensor, labels: Sequence[Label] | None) -> dict[str, Any]:
    """Compare pooled features [n, width] with the FP32 ones.

    Returns the metrics of a record: cosine (mean over images, between a feature and its FP32 self) and, with labels of
    at least two images, knn and fp32_knn (percent; `nearest_neighbours`). What only a classifier has is None.
    """
    from torch.nn import functional

    classified = dict.fromkeys(("top1", "top5", "stderr", "fp32_top1", "agreement", "kl"))
    found: dict[str, Any] = {**classified, "n": len(features)}
    found["cosine"] = float(functional.cosine_similarity(features.double(), reference.double()).mean().clamp(-1, 1))
    if labels is not None and len(labels) > 1:
        found |= {
            "knn": nearest_neighbours(features, labels),
            "fp32_knn": nearest_neighbours(reference, labels),
        }
    return found


def nearest_neighbours(features: Tensor, labels: Sequence[Label]) -> float:
    """Return the share in percent of images whose nearest other image is of their class.

    features: [n, width], n at least 2; nearest by cosine, of equally near ones the first; of several right classes
    any one in common is enough. Each image is classified by
    all others of the same set (leave one out, one neighbour), so no other images are needed.
    """
    import torch
    from torch.nn import functional

    directions = functional.normalize(features.float(), dim=1)
    truth = [{label} if isinstance(label, int) else set(label) for label in labels]
    hits = 0
    for start in range(0, len(directions), _ROWS):
        near = directions[start : start + _ROWS] @ directions.T
        rows = torch.arange(len(near))
        near[rows, start + rows] = -torch.inf
        for row, neighbour in enumerate(near.argmax(1).tolist(), start=start):
            hits += not truth[row].isdisjoint(truth[neighbour])
    return 100 * hits / len(labels)
