"""The one exception for mistakes a user can mend: printed as a sentence, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import takewhile

from methods.text import shortened

_NEAR = 0.4
_START, _WEIGHT = 4, 0.1


class UsageError(ValueError):
    """Something the user gave does not work; the message is one sentence that says what and why. Where there are
    ways to choose from, each is a note (`add_note`)."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name, with the nearest known one and the list of all."""
    names, name = sorted(known), shortened(name)
    near = max(names, key=lambda known: _nearness(name, known), default="")
    hint = f" Did you mean {near!r}?" if near and _nearness(name, near) >= _NEAR else ""
    return UsageError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


def _nearness(given: str, known: str) -> float:
    """Return how near two names are, 0 to 1: the share of letters in common, and more for a common start, as people
    shorten words from the end (Winkler's weight on difflib's ratio)."""
    ratio = difflib.SequenceMatcher(None, given, known).ratio()
    pairs = zip(given[:_START], known[:_START], strict=False)
    start = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return ratio + start * _WEIGHT * (1 - ratio)
