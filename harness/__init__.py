"""The harness: what to run, where, and what came out. For Python, `import harness as dfq`; see `harness.api`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.api import evaluate, frame, load, load_model, quantize, save, synthesize

__version__ = "0.1.0"
__all__ = ["evaluate", "frame", "load", "load_model", "quantize", "save", "synthesize"]


def __getattr__(name: str) -> object:
    """Load the public functions when one is first asked for: commands start without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness import api

    return getattr(api, name)
