"""Evaluation: a model's logits (a backbone's features) on an image set, and the metrics of a quantized model against
its FP32 self."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.inputs.image_sets import DataSource, open_images, pixel_batches
from harness.inputs.images.labels import Label, are_right, truths
from harness.inputs.zoo import ModelEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Progress: TypeAlias = Callable[[int, int, str], None]
"""Hears how many images of how many are done, and the accuracy so far in words ("" without labels)."""

# On CPUs, activations of more images leave the cache and cost a third more; results are the same bit for bit.
BATCH = {"cpu": 16, "cuda": 64}
_COMPARED = 1024  # images compared at once: what is worked out on the way is several times as large as the logits


def logits_of(
    model: nn.Module,
    source: DataSource,
    entry: ModelEntry,
    device: torch.device,
    report: Progress,
) -> Tensor:
    """Return the logits [n, classes], float32 on the CPU, of a model on every image of a set.

    Batches have a fixed size, so that results do not depend on free memory; only when memory runs out are
    they made smaller.
    """
    from accelerate.utils import find_executable_batch_size

    attempt = find_executable_batch_size(_logits, starting_batch_size=BATCH[device.type])
    result: Tensor = attempt(model, source, entry, device, report)
    return result


def _logits(
    batch_size: int,
    model: nn.Module,
    source: DataSource,
    entry: ModelEntry,
    device: torch.device,
    report: Progress,
) -> Tensor:
    import torch

    from harness.inputs.weights import image_space

    images = open_images(source)
    space, count, running = image_space(entry), len(images), Running(images.labels if entry.classes else None)
    logits: Tensor | None = None
    with torch.inference_mode():
        for pixels in pixel_batches(source, entry, batch_size):
            part = model(space.normalize(pixels.to(device))).float().cpu()
            logits = part.new_empty(count, *part.shape[1:]) if logits is None else logits
            logits[running.done : running.done + len(part)] = part
            running.add(part)
            report(running.done, count, str(running))
    assert logits is not None, "no set is empty"
    return logits


class Running:
    """Top-1 of the images so far, in their order: what can be seen of an evaluation before it ends."""

    def __init__(self, labels: Sequence[Label] | None) -> None:
        self.labels, self.done, self.hits = labels, 0, 0

    def add(self, logits: Tensor) -> None:
        """Count the right ones of the next images' logits [n, classes]."""
        if self.labels is not None:
            labels = self.labels[self.done : self.done + len(logits)]
            self.hits += int(are_right(predictions(logits), labels).sum())
        self.done += len(logits)

    def __str__(self) -> str:
        """Return such as "71.2 ± 1.5 %": top-1 and its binomial standard error."""
        if self.labels is None or not self.done:
            return ""
        share = self.hits / self.done
        return f"{100 * share:.1f} ± {100 * math.sqrt(share * (1 - share) / self.done):.1f} %"


def metrics(
    logits: Tensor, reference: Tensor, labels: Sequence[Label] | None
) -> tuple[dict[str, Any], list[bool] | None]:
    """Compare logits [n, classes] with FP32 logits and labels.

    Returns the metrics of a record (accuracies in percent; stderr: binomial standard error of top-1; kl: mean
    KL divergence of the FP32 distribution from the quantized one, in nats) and per-image correctness.
    Accuracies are None without labels. Ties count as wrong: an image whose largest logit several classes share has no
    prediction, and a label is among the top 5 only if at most 4 other classes have a logit at least as large. Of
    several right classes any one is enough.
    """
    import torch

    count = len(logits)
    parts = [slice(start, start + _COMPARED) for start in range(0, count, _COMPARED)]
    predicted, original = predictions(logits), predictions(reference)
    divergence = sum(_divergence(logits[part], reference[part]) for part in parts) / count
    found: dict[str, Any] = {
        "top1": None,
        "top5": None,
        "stderr": None,
        "n": count,
        "fp32_top1": None,
        "agreement": _percent((predicted == original) & (predicted >= 0)),
        "kl": divergence if math.isfinite(divergence) else None,
    }
    if labels is None:
        return found, None
    correct = are_right(predicted, labels)
    share = float(correct.double().mean())
    found["top1"] = 100 * share
    found["top5"] = _percent(torch.cat([_rivals(logits[part], truths(labels[part])) for part in parts]) < 5)
    found["stderr"] = 100 * math.sqrt(share * (1 - share) / count)
    found["fp32_top1"] = _percent(are_right(original, labels))
    return found, correct.tolist()


def _divergence(logits: Tensor, reference: Tensor) -> float:
    """Return the sum over images of the KL divergence of the reference's distribution from the logits'."""
    from torch.nn import functional

    mean = functional.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="batchmean", log_target=True)
    return float(mean) * len(logits)


def _rivals(logits: Tensor, right: Tensor) -> Tensor:
    """Return how many others are not below the largest logit of the right classes [n, k]."""
    best = logits.gather(1, right).amax(1, keepdim=True)
    return (~(logits < best)).sum(1) - 1


def predictions(logits: Tensor) -> Tensor:
    """Return the class of the one largest logit of each row of [n, classes], -1 where several share it, or NaN."""
    largest = (logits == logits.amax(1, keepdim=True)).sum(1)  # none is equal to NaN
    return logits.argmax(1).masked_fill(largest != 1, -1)


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())


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
    for start in range(0, len(directions), _COMPARED):
        near = directions[start : start + _COMPARED] @ directions.T
        rows = torch.arange(len(near))
        near[rows, start + rows] = -torch.inf
        for row, neighbour in enumerate(near.argmax(1).tolist(), start=start):
            hits += not truth[row].isdisjoint(truth[neighbour])
    return 100 * hits / len(labels)
