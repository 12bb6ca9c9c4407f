"""The public face for Python: `import harness as dfq`. The commands are built on the same functions.

Every function takes any model the harness accepts, on its device, and leaves it as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.view import progress_bar
from harness.inputs import plugins
from harness.inputs.seeds import generator
from harness.plan.settings import checked_value, defaults
from methods.bits import Bits
from methods.contracts import Backend, Method, QuantizationContext, SynthesisContext, SyntheticImages
from methods.errors import UsageError
from methods.registry import BACKENDS, METHODS

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn


METHOD = "spdfq"
BACKEND = "best"
BITS = "w4a4"
"""What is taken where nothing is said."""


def load_model(name: str, weights: str | None = None) -> nn.Module:
    """Return a model of the zoo by its short name, in eval mode, frozen, on the CPU; embedded ones need no network.

    weights: a folder with `<arch.tag>.safetensors` or `.pth` (default: DFQ_WEIGHTS, then timm's hub).
    """
    from harness.inputs.named_models import select_models
    from harness.inputs.weights import find_weights
    from harness.inputs.weights import load_model as loaded

    entry = select_models([name], weights)[0]
    return loaded(entry, find_weights(entry, weights))


def synthesize(
    model: nn.Module, method: str = METHOD, *, seed: int = 0, progress: bool = True, **settings: Any
) -> SyntheticImages:
    """Make calibration images out of a model by a method.

    settings: of the method, by name (`python -m harness.bench --list methods`), such as images=32, iterations=500.
    Returns images [n, C, H, W] (normalized, float32, on the CPU) with targets and losses. Raises UsageError for
    unknown names, and for methods that need real images.
    """
    from harness.inputs.model_info import classes_of, space_of
    from harness.trial.synthesis import synthesized

    plugins.load()
    maker = METHODS.get(method)
    config = _configured(maker, model, settings)
    if maker.needs_real_images(config):
        raise UsageError(f"{method!r} only hands on images that it is given: give yours to quantize")
    maker.check_classes(classes_of(model))
    frozen = _frozen(model)
    device = next(frozen.parameters()).device
    with progress_bar(method, progress) as report:
        context = SynthesisContext(space_of(model), classes_of(model), generator(seed, "synthesis"), device, report)
        return synthesized(maker, config, frozen, context)


def quantize(
    model: nn.Module,
    images: SyntheticImages | Tensor | Iterable[Any],
    bits: str = BITS,
    backend: str = BACKEND,
    *,
    seed: int = 0,
    progress: bool = True,
    **settings: Any,
) -> nn.Module:
    """Return a quantized copy of a model: the same inputs and outputs, its values on integer grids.

    images: what `synthesize` made, a normalized tensor [n, C, H, W], or a loader of such batches (or of pairs with
    labels); bits: `w4a4` and the like; settings: of the backend, by name. Raises UsageError for what does not work.
    """
    from harness.inputs.model_info import space_of

    plugins.load()
    quantizer = BACKENDS.get(backend)
    config = _configured(quantizer, model, settings)
    frozen = _frozen(model)
    calibration = _as_tensor(images).to(next(frozen.parameters()).device)
    with progress_bar(backend, progress) as report:
        context = QuantizationContext(generator(seed, "quantization"), space_of(model), report)
        return quantizer.quantize(frozen, calibration, Bits.parse(bits), config, context)


def evaluate(model: nn.Module, loader: Iterable[Any]) -> dict[str, float]:
    """Return top1, top5 and stderr (percent) and n of a model on batches of (normalized images, labels)."""
    import torch

    from harness.trial.evaluate import metrics

    device = next(iter([*model.parameters(), *model.buffers(), torch.empty(0)])).device
    logits, labels = [], []
    with _in_eval_mode(model), torch.inference_mode():
        for images, truth in loader:
            logits.append(model(images.to(device)).float().cpu())
            labels.extend(torch.as_tensor(truth).tolist())
    if not logits:
        raise UsageError("The loader yields no images.")
    together = torch.cat(logits)
    found, _ = metrics(together, together, labels)
    return {name: found[name] for name in ("top1", "top5", "stderr", "n")}


def frame(*results: str | Path) -> pd.DataFrame:
    """Return the records of results folders as a table, a row per finished cell, typed columns.

    results: folders, or ones whose folders hold records (default: `results`). What each column means, with its unit,
    is under `.attrs["columns"]`. Raises UsageError when no cell has finished.
    """
    from harness.record.folders import folders_with_records
    from harness.record.studies import load_studies, merged
    from harness.report.measurements import frame as made
    from harness.report.measurements import measurements

    folders = [path for folder in results or ("results",) for path in folders_with_records(Path(folder))]
    return made(measurements(merged(load_studies(folders))))


def save(model: nn.Module, path: str | Path) -> None:
    """Write a quantized model as safetensors: packed integers, scales, and all that `load` needs.

    Raises UsageError for a model that would not come back bit for bit.
    """
    from harness.deploy.safetensors_file import encoded
    from harness.record.files import write_atomically

    write_atomically(Path(path), encoded(model, {}))


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Return the quantized model of a file that `save` or `python -m harness.export` wrote, on the CPU.

    model: the plain model, its weights of no matter, where the architecture has no name. Raises UsageError for files
    that are missing, damaged, foreign or of a newer version.
    """
    from harness.deploy.safetensors_file import decoded

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from error
    return decoded(content, str(path), model)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model and its parts in eval mode, and each back to where it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _frozen(model: nn.Module) -> nn.Module:
    """Return a copy that may be read and hooked: in eval mode, without gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def _configured(owner: Method | Backend, model: nn.Module, settings: dict[str, Any]) -> Any:
    """Return the config of a method or backend for a model, with these settings."""
    from harness.inputs.model_info import name_of

    checked = {key: checked_value(owner.name, key, value) for key, value in settings.items()}
    return replace(defaults(owner, name_of(model)), **checked)


def _as_tensor(images: SyntheticImages | Tensor | Iterable[Any]) -> Tensor:
    """Return images as one tensor [n, C, H, W]; raises UsageError when they are none."""
    import torch

    if isinstance(images, SyntheticImages):
        return images.images
    if not isinstance(images, torch.Tensor):
        batches = [batch[0] if isinstance(batch, list | tuple) else batch for batch in images]
        images = torch.cat(batches) if batches else torch.empty(0)
    if images.dim() != 4 or not len(images):
        raise UsageError(f"Calibration images must be a tensor [n, C, H, W], not {list(images.shape)}.")
    return images.float()
