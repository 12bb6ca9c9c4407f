"""How every command ends: exit codes, and errors as sentences instead of tracebacks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from harness.cli.ending import ended


def run_command(action: Callable[[], int]) -> int:
    """Run a command's work, libraries kept quiet; returns its exit code, see `harness.cli.ending`."""
    for library in ("timm", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    return ended(action)
