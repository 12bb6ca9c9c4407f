"""Lists in text: settings and options that take several words have them parted by commas."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """Return the words of a comma-separated list in their order, without repeats and empty ones."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
