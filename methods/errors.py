"""The one exception for mistakes a user can mend: printed as a sentence, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from methods.text import shortened


class UsageError(ValueError):
    """Something the user gave does not work; the message is one sentence that says what and why."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name, with the nearest known one and the list of all."""
    names, name = sorted(known), shortened(name)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
