"""Fill the registries: this project's own packages, by importing them. Harness code names no method."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

PACKAGES = ("methods", "spdfq")


@lru_cache
def load() -> None:
    """Import the packages that register methods and backends; cheap, no torch."""
    for package in PACKAGES:
        import_module(package)
