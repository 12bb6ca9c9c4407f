"""Every pretrained ImageNet-1k classifier of timm whose family is known: accepted, or why not, as a dry run tells.

`python -m harness.bench --list models --all` prints a row for each; `docs/models.md` is filled with them by family.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.inputs.model_info import configuration
from harness.inputs.named_models import select_models
from harness.inputs.zoo import IMAGENET_CLASSES, build_model
from harness.report.text_table import Grid, Word
from methods.errors import UsageError

if TYPE_CHECKING:
    from methods.models.family import Family


@dataclass(frozen=True)
class Verdict:
    """What a dry run says. refused: why, one sentence, empty if accepted; products: how many products of two
    activations a pass computes, as attention does; left: share of its multiply-accumulates left in floating point."""

    refused: str = ""
    products: int = 0
    left: float = 0.0

    @property
    def word(self) -> str:
        """How tables say it."""
        return self.refused or "yes"


NOT_RUN = Verdict("not run")
Verdicts: TypeAlias = dict[tuple[str, int], Verdict]
"""By architecture and size of images."""
_ROW = re.compile(r"^\| (\w+) \| (\d+) \| [^|]+ \| ([^|]+) \| (\d+) \| ([\d.]+)% \|$", re.M)


def classifiers() -> tuple[list[str], Counter[str]]:
    """Return the pretrained ImageNet-1k classifiers of known families, and how many others there are by module."""
    from timm import list_pretrained
    from timm.models import get_pretrained_cfg

    from methods.models.family import families

    named: list[str] = []
    others: Counter[str] = Counter()
    for name in list_pretrained():
        if get_pretrained_cfg(name).num_classes != IMAGENET_CLASSES:
            continue
        if _module(name) in families():
            named.append(name)
        else:
            others[_module(name)] += 1
    return named, others


def _module(name: str) -> str:
    from timm.models import model_entrypoint

    module: str = model_entrypoint(name.partition(".")[0]).__module__
    return module.rpartition(".")[2]


def family_of(name: str) -> Family:
    """Return the family of a checkpoint of a known one."""
    from methods.models.family import families

    return families()[_module(name)]


def structure(name: str) -> tuple[str, int]:
    """Return what a verdict depends on: a checkpoint's architecture and the size of its images."""
    from timm.models import get_pretrained_cfg

    return name.partition(".")[0], get_pretrained_cfg(name).input_size[-1]


def verdict(name: str) -> Verdict:
    """Choose, build and run dry a checkpoint's model, on tensors without memory; its weights are not looked for."""
    try:
        return _dry_run(name)
    except UsageError as error:
        return Verdict(str(error))


def _dry_run(name: str) -> Verdict:
    import torch

    from methods.models.architecture import check_runs, check_supported
    from methods.models.trace import trace

    [entry] = select_models([name])
    with torch.device("meta"):
        model = build_model(entry)
    vars(model)["pretrained_cfg"] = configuration(entry)
    check_supported(model)
    check_runs(model)
    products = trace(model).products
    total = sum(sum(product.macs) for product in products)
    left = sum(sum(product.macs) for product in products if product.left)
    return Verdict("", sum(product.layer is None and product.varies for product in products), left / total)


def verdicts(names: list[str], known: Verdicts) -> Verdicts:
    """Return the known verdicts and those of all other structures among checkpoints, about a second each."""
    from rich.console import Console
    from rich.progress import track

    first = {structure(name): name for name in reversed(names) if structure(name) not in known}
    shown = track(first.items(), f"Dry runs of {len(first)} models", console=Console(stderr=True), transient=True)
    return known | {key: verdict(name) for key, name in shown}


def written(document: str) -> Verdicts:
    """Return the verdicts that stand in a document of `all_models_by_family`."""
    return {
        (name, int(pixels)): Verdict("" if word == "yes" else word, int(products), round(float(left) / 100, 4))
        for name, pixels, word, products, left in _ROW.findall(document)
        if word != NOT_RUN.word
    }


def list_all_models(pattern: str = "*") -> Grid:
    """Return every checkpoint whose name matches, with its verdict; raises UsageError where none does."""
    named, others = classifiers()
    chosen = fnmatch.filter(named, pattern)
    if not chosen:
        raise UsageError(f"No ImageNet-1k classifier of a known family is called {pattern}.")
    found = verdicts(chosen, {})
    accepted = sum(not found[structure(name)].refused for name in chosen)
    left = ", ".join(f"{module} {count}" for module, count in sorted(others.items()))
    notes = [
        f"{accepted} of {len(chosen)} checkpoints are accepted. "
        "No maps: why methods that need attention maps refuse them.",
        f"{others.total()} are of no known family, most of them without attention (by module of timm): {left}.",
    ]
    rows = [[name, family_of(name).name, found[structure(name)].word, _maps(name)] for name in chosen]
    body = [[Word(word) for word in row] for row in rows]
    return Grid("All models", ["model", "family", "accepted", "no maps"], body, notes, labels=4)


def _maps(name: str) -> str:
    return family_of(name).without_maps or "-"


def all_models_by_family(document: Path) -> str:
    """Return Markdown: a table of families with the counts, then each family's models, folded.

    document: one made before, whose verdicts stand; what it lacks is run dry.
    """
    named, _ = classifiers()
    return by_family(named, verdicts(named, written(document.read_text())))


def by_family(named: list[str], found: Verdicts) -> str:
    """Return `all_models_by_family`'s text for verdicts that are known; what has none is said to be not run."""
    own = {name: found.get(structure(name), NOT_RUN) for name in named}
    good = {name for name, verdict in own.items() if not verdict.refused}
    attending = [name for name, verdict in own.items() if verdict.products]
    groups: dict[str, list[str]] = {}
    for name in sorted(named, key=lambda name: family_of(name).name.lower()):
        groups.setdefault(family_of(name).name, []).append(name)
    return "\n".join(
        [
            f"**{len(good)} of {len(named)}** checkpoints are accepted, {[*own.values()].count(NOT_RUN)} are not run; "
            f"of the accepted, **{len(attending)}** multiply activations with each other, as attention does.",
            "",
            "| family | checkpoints | accepted | no attention maps, because |",
            "|---|---|---|---|",
            *(
                f"| {family} | {len(names)} | {len(good & set(names))} | {_maps(names[0])} |"
                for family, names in groups.items()
            ),
            *(line for family, names in groups.items() for line in _folded(family, names, own)),
        ]
    )


def _folded(family: str, names: list[str], own: dict[str, Verdict]) -> list[str]:
    """Return a family's table, folded: an architecture and a size a row."""
    tags: dict[tuple[str, int], list[str]] = {}
    for name in names:
        tags.setdefault(structure(name), []).append(name)
    rows = []
    for (architecture, size), group in tags.items():
        verdict, weights = own[group[0]], ", ".join(name.partition(".")[2] for name in group)
        rows.append(
            f"| {architecture} | {size} | {weights} | {verdict.word} | {verdict.products} | {verdict.left:.2%} |"
        )
    return [
        "",
        f"<details><summary>{family}: {len(names)}</summary>",
        "",
        "| architecture | pixels | weights | accepted | products of activations | left in floating point |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        "</details>",
    ]
