"""What methods and backends ask of a model: attention sites and reconstruction units, whatever its family."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from methods.errors import UsageError
from methods.models import functions
from methods.models.family import Family, family_of
from methods.models.functions import Product, Trace
from methods.models.residual import ResidualStream, turnable
from methods.models.sites import AttentionSite, between_patches
from methods.models.trace import trace

_MOST_PREFIX = 2


def check_supported(model: nn.Module) -> None:
    """Raise UsageError unless `model` is of a family this project understands."""
    family_of(model)


def attention_modules(model: nn.Module) -> list[Any]:
    """Return the attention modules, in order, whose operands are reached at their projection (`Family.projected`)."""
    names = family_of(model).projected
    return [module for module in model.modules() if type(module).__name__ in names]


def check_runs(model: nn.Module) -> None:
    """Raise UsageError unless a dry run of a model goes through, and computes products that can be quantized."""
    try:
        trace(model)
    except UsageError:
        raise
    except Exception as error:  # stock code raises whatever its first wrong shape leads to
        raise UsageError(f"{type(model).__name__} fails in a dry run ({type(error).__name__}: {error}).") from error


def patch_sites(model: nn.Module) -> list[AttentionSite]:
    """Return the sites at which patches attend to each other (`between_patches`); raises UsageError for none."""
    found = between_patches(attention_sites(model))
    if not found:
        raise UsageError(f"In no attention map of {type(model).__name__} do all patches attend to each other.")
    return found


def attention_sites(model: nn.Module) -> list[AttentionSite]:
    """Return every attention site of a model, in order of depth.

    Raises UsageError for a model without attention over a grid of tokens.
    """
    family = family_of(model)
    found = family.sites(model) if family.sites is not None else None
    found = _traced_sites(model, family) if found is None else found
    if not found:
        why = family.without_maps or "no attention of it lies over a grid of tokens"
        raise UsageError(f"{type(model).__name__} ({family.name}) has no attention maps: {why}.")
    return found


def _traced_sites(model: nn.Module, family: Family) -> list[AttentionSite]:
    """Return the sites of the attention classes a family names, as a dry run finds them."""
    seen, modules = trace(model), dict(model.named_modules())
    mapped = [p for p in seen.products if p.maps and p.layer is None and _named(modules[p.owner], family)]
    owners = list(dict.fromkeys(product.owner for product in mapped))
    found = []
    for product in mapped:
        before = [p for p in seen.products if p.owner == product.owner and p.layer is None and p.index < product.index]
        scores = product if product.kind == functions.ATTENTION else (before[0] if before else product)
        place = owners.index(product.owner) + 1, len(owners)
        site = _traced_site(model, modules[product.owner], product, scores.index, place)
        found += [site] if site is not None else []
    return found


def _named(module: nn.Module, family: Family) -> bool:
    return type(module).__name__ in family.maps


def _traced_site(
    model: Any, module: Any, product: Product, scores: int, place: tuple[int, int]
) -> AttentionSite | None:
    """Return the site of a product A V, None where its keys do not fill a square grid behind a prefix."""
    shape = product.maps if product.softmax == "left" else (*product.maps[:-2], *product.maps[:-3:-1])
    leading, queries, keys = list(shape[:-2]), shape[-2], shape[-1]
    side = math.isqrt(keys)
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None or side * side != keys - prefix:
        prefix = keys - side * side
    if side * side + prefix != keys or (prefix > _MOST_PREFIX and prefix != getattr(model, "num_prefix_tokens", 0)):
        side = math.isqrt(keys - prefix)
        if side * side + prefix != keys:
            return None
    return AttentionSite(
        module=module,
        depth=place[0],
        depths=place[1],
        heads=_heads(leading, module),
        grid=(side, side),
        windows=math.prod(leading) // _heads(leading, module),
        prefix=prefix,
        class_token=prefix > 0 and getattr(model, "cls_token", True) is not None,
        scores=scores,
        mixed=product.index,
        side=product.softmax,
        heads_first=len(leading) == 3 and leading[1] == _heads(leading, module),
        scale=product.scale,
        queries=queries,
    )


def _heads(leading: list[int], module: Any) -> int:
    """Return how many heads a map has, whose dimensions before queries and keys are given, for one image."""
    told = getattr(module, "num_heads", None) or getattr(module, "heads", None)
    return told if told in leading[1:] else (leading[-1] if len(leading) > 1 else 1)


def reconstruction_units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the units of block-wise reconstruction, named, in the order they stand in the model.

    Patch embedding, every block of the family's, and each layer outside of them, the classifier among these (as in the
    authors' I&S-ViT code, after which SPDFQ's missing parts are modelled). A unit makes one tensor of one; what else
    it takes, such as rotary positions, is the same for all images (`completed`). A layer that stands at several places
    of a model is quantized at each, but is no unit.
    """
    family, seen = family_of(model), trace(model)
    multiplied = {product.layer for product in seen.products if not product.left}
    units: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{unit}.") for unit in units)
        whole = type(module).__name__ in family.blocks or name == "patch_embed"
        if not inside and (whole or name in multiplied) and _learnable(name, seen):
            units.append(name)
    return [(name, model.get_submodule(name)) for name in units]


@contextmanager
def completed(unit: nn.Module, beside: tuple[Any, ...], options: dict[str, Any]) -> Iterator[None]:
    """Let `unit.forward` take its first argument alone for a while, the others being these."""
    if not beside and not options:
        yield
        return
    whole = unit.forward
    unit.forward = lambda x: whole(x, *beside, **options)
    try:
        yield
    finally:
        del unit.forward


def _learnable(name: str, seen: Trace) -> bool:
    """Whether a module runs once a pass, on one tensor that depends on the images, and gives one."""
    given, made = seen.shapes.get(name, (None, None))
    return seen.calls[name] == 1 and name not in seen.several and given is not None and made is not None


def product_layers(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """Return the linear and convolution layers of a model with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def named_attentions(model: nn.Module) -> list[tuple[str, Any]]:
    """Return the modules of a model, with their names, whose attention is quantized at the layers beside it."""
    found = {id(module) for module in attention_modules(model)}
    return [(name, module) for name, module in model.named_modules() if id(module) in found]


def layer_names(model: nn.Module) -> list[str]:
    """Return the names bits can be given to: layers, and modules that multiply by themselves."""
    known = {product.layer or product.owner for product in trace(model).products if not product.left}
    return [name for name, _ in model.named_modules() if name in known]


def residual_streams(model: nn.Module) -> list[ResidualStream]:
    """Return the streams of a supported model that can be turned; none where its family knows of none."""
    return [stream for stream in family_of(model).streams(model) if turnable(model, stream)]
