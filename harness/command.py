"""How every command ends: exit codes, and errors as sentences instead of tracebacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from methods.errors import UsageError


def run_command(action: Callable[[], int]) -> int:
    """Run a command's work; returns its exit code, 2 for a mistake of the user, 130 for Ctrl-C."""
    for library in ("timm", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        return action()
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. What is finished is recorded; the same command goes on from there.", file=sys.stderr)
        return 130
