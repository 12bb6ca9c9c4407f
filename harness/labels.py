"""Names of rows and columns: the fields asked for, and of the others only what is needed to tell two apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

_SPACED, _JOINED = ("model", "bits"), ("method", "backend")
_EXTRA = {
    "weights_sha256": lambda value: str(value)[:6],
    "method_version": lambda value: f"method v{value}",
    "backend_version": lambda value: f"backend v{value}",
    "calibration": lambda value: f"calibrated on {value or 'nothing'}",
    "overrides": lambda value: str(value) or "default settings",
}


def labels(keys: Sequence[tuple[Any, ...]], names: Sequence[str], shown: Sequence[str]) -> list[str]:
    """Return a label for every key; `names` are the keys' fields, `shown` those that labels always give."""
    plain = [_label(dict(zip(names, key, strict=True)), shown, ()) for key in keys]
    alike = defaultdict(list)
    for label, key in zip(plain, keys, strict=True):
        alike[label].append(key)
    found = []
    for label, key in zip(plain, keys, strict=True):
        varied = [name for place, name in enumerate(names) if len({other[place] for other in alike[label]}) > 1]
        found.append(_label(dict(zip(names, key, strict=True)), shown, varied) if varied else label)
    return found


def _label(values: dict[str, Any], shown: Sequence[str], varied: Sequence[str]) -> str:
    told = [name for name in values if name in shown or name in varied]
    spaced = " ".join(str(values[name]) for name in _SPACED if name in told)
    joined = " + ".join(str(values[name]) for name in _JOINED if name in told)
    # Settings asked for by the layout are silent where they are the defaults; where they tell apart they speak.
    extra = [_EXTRA[name](values[name]) for name in told if name in _EXTRA and (values[name] or name in varied)]
    if values.get("overrides") == "" and "overrides" in shown:
        extra = [text for text in extra if text != "default settings"]
    return " ".join(part for part in (spaced, joined, f"({'; '.join(extra)})" if extra else "") if part)


def header(shown: Sequence[str]) -> str:
    """Return the title of the column of row labels."""
    return " + ".join(name for name in shown if name != "overrides") or "row"
