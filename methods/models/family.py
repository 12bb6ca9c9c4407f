"""What is known of a family of stock timm models, and how a model finds its family.

Products, layers, norms and what feeds them are read off a dry run (`methods.models.trace`), for every family alike. A
family says what no run can tell: which modules are the units of block-wise learning, over what an attention map lies,
which residual streams can be turned, and the learning rate its papers use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from methods.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from methods.models.residual import ResidualStream
    from methods.models.sites import AttentionSite


def _no_streams(model: nn.Module) -> list[ResidualStream]:
    return []


@dataclass(frozen=True)
class Family:
    """A family of models.

    name: as it is listed; modules: of `timm.models`, by name, whose classes belong to it; blocks: names of the classes
    that are units of reconstruction (what is in none of them is learned layer by layer); maps: names of the attention
    classes whose softmax output lies over a grid of tokens; without_maps: why there are none, half a sentence;
    sites: gives the attention sites, where the family knows them better than a dry run, or None for a model of which
    it does not;
    projected: names of attention classes whose query, key and value are slices of what a layer `qkv` puts out and
    whose softmax output passes `attn_drop`; streams: gives the residual streams that can be turned; learning_rate: of
    synthesis, PSAQ-ViT's (0.20, and 0.25 for windows); alike: the model of the zoo whose settings a model of this
    family takes where it has none of its own; short: how short names of its models begin.
    """

    name: str
    modules: tuple[str, ...]
    blocks: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    without_maps: str = ""
    projected: tuple[str, ...] = ()
    sites: Callable[[Any], list[AttentionSite] | None] | None = None
    streams: Callable[[Any], list[ResidualStream]] = _no_streams
    learning_rate: float = 0.2
    alike: str = "vit_b"
    short: tuple[str, ...] = ()


FAMILIES: dict[str, str] = {
    "vit": "methods.models.vit:FAMILY",
    "swin": "methods.models.swin:FAMILY",
    "others": "methods.models.others:FAMILIES",
}
"""Family -> where it is described; a new one is one file and one line here."""


@cache
def families() -> dict[str, Family]:
    """Return the families by the module of `timm.models` their classes stand in."""
    found: dict[str, Family] = {}
    for place in FAMILIES.values():
        module, _, attribute = place.partition(":")
        described = getattr(import_module(module), attribute)
        for family in described if isinstance(described, tuple) else (described,):
            found |= dict.fromkeys(family.modules, family)
    return found


def family_of(model: nn.Module) -> Family:
    """Return the family of a built model; raises UsageError for a model of none."""
    for module in _modules_of(model):
        if module in families():
            return families()[module]
    raise UsageError(
        f"{type(model).__name__} is not supported: it belongs to no family that this project knows; see "
        "docs/models.md."
    )


def family_named(name: str) -> Family:
    """Return the family of a model by its short name or its name in timm; raises UsageError where there is none."""
    from timm.models import is_model, model_entrypoint

    for family in families().values():
        if name.startswith(family.short):
            return family
    architecture = name.partition(".")[0]
    module = model_entrypoint(architecture).__module__.rpartition(".")[2] if is_model(architecture) else ""
    if module not in families():
        raise UsageError(
            f"{name} is a model of timm, but of a family that is not supported ({module or 'unknown'}); "
            "docs/models.md names all that are."
        )
    return families()[module]


def _modules_of(model: Any) -> Iterator[str]:
    """Yield the modules of `timm.models` a model may come from: its architecture's, then its classes'."""
    from timm.models import is_model, model_entrypoint

    described = getattr(model, "pretrained_cfg", None) or {}
    architecture = described.get("architecture") or ""
    if architecture and is_model(architecture):
        yield model_entrypoint(architecture).__module__.rpartition(".")[2]
    for kind in type(model).__mro__:
        package, _, module = kind.__module__.rpartition(".")
        if package == "timm.models":
            yield module
