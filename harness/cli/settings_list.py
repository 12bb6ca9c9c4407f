"""`--list settings`: every setting of every method and backend, with its defaults, its kind and what it means.

The meaning is read where it is written: the text below a field of the config class, or "name: meaning" in the class's
own text.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, get_type_hints

from harness.inputs.zoo import ENTRIES
from harness.plan.jobs import setting_text
from harness.plan.settings import TYPE_NAMES, defaults
from methods.contracts import Backend, Method

HEADER = ["setting", "default", "takes", "meaning and source"]


def setting_rows(owners: Iterable[Method | Backend]) -> list[list[str]]:
    """Return a row of words per setting: name, default and for which models it is another, kind, meaning."""
    return [row for owner in owners for row in _rows(owner)]


def _rows(owner: Method | Backend) -> list[list[str]]:
    kinds, meanings = get_type_hints(owner.config_class), meanings_of(owner.config_class)
    configs = {model: defaults(owner, model) for model in ENTRIES}
    return [
        [
            f"{owner.name}.{part.name}",
            _defaults({model: getattr(config, part.name) for model, config in configs.items()}),
            TYPE_NAMES.get(kinds[part.name], "a value"),
            meanings.get(part.name, "-"),
        ]
        for part in fields(owner.config_class)
    ]


def _defaults(values: dict[str, Any]) -> str:
    """Return the value most models share, then each other one with its models."""
    texts = {model: setting_text(value) for model, value in values.items()}
    common = max(dict.fromkeys(texts.values()), key=list(texts.values()).count)
    others: dict[str, list[str]] = {}
    for model, text in texts.items():
        if text != common:
            others.setdefault(text, []).append(model)
    return "; ".join([common, *(f"{text} for {', '.join(models)}" for text, models in others.items())])


@lru_cache
def meanings_of(config: type) -> dict[str, str]:
    """Return what each field of a config class means, as far as its text or that of a class it inherits from says."""
    found: dict[str, str] = {}
    for kind in filter(is_dataclass, reversed(config.__mro__)):
        names = [part.name for part in fields(kind)]
        found |= _above_fields(kind) | _in_paragraph(inspect.getdoc(kind) or "", names) | _below_fields(kind)
    return found


def _above_fields(kind: type) -> dict[str, str]:
    """Return the comments that stand above the fields of a class, each said of all fields up to the next."""
    try:
        lines = inspect.getsource(kind).splitlines()
    except (OSError, TypeError):
        return {}
    found: dict[str, str] = {}
    comment, ended = "", True
    for line in map(str.strip, lines):
        if line.startswith("# "):
            comment, ended = (line[2:] if ended else f"{comment} {line[2:]}"), False
        elif field := re.match(r"(\w+): ", line):
            ended = True
            found |= {field[1]: comment} if comment else {}
        else:
            comment, ended = "", True
    return found


def _below_fields(kind: type) -> dict[str, str]:
    """Return the texts that stand below the fields of a class; none where its source is not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):
        return {}
    [body] = [node.body for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        before.target.id: " ".join(after.value.value.split())
        for before, after in pairwise(body)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    }


def _in_paragraph(text: str, names: list[str]) -> dict[str, str]:
    """Return what "a, b: meaning; c: meaning; d (meaning)" says of each of the names."""
    name = rf"(?:{'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?: \([^)]*\))?"
    heads = list(re.finditer(rf"(?<![\w.]){name}(?:,\s+{name})*:\s", text)) if names else []
    ends = [*(head.start() for head in heads[1:]), len(text)][: len(heads)]
    noted = re.findall(r"(?<![\w.])(\w+) \(([^)]*)\)[;.]", text)
    return {word: " ".join(note.split()) for word, note in noted if word in names} | {
        word: " ".join(text[head.end() : end].split()).rstrip(" ;.,")
        for head, end in zip(heads, ends, strict=True)
        for word in re.findall(r"\w+", re.sub(r"\([^)]*\)", "", head[0]))
    }
