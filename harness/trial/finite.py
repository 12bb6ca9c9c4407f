"""Logits that are no numbers make a failed job that says where they first appear, never a metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.inputs.image_sets import DataSource, load_pixels
from harness.inputs.weights import image_space
from harness.inputs.zoo import ModelEntry

if TYPE_CHECKING:
    from torch import Tensor, nn


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
