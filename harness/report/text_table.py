"""The one table object that every text format is printed from: words in rows and columns, some of them strong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """One entry of a grid; `strong` is printed bold, `mark` is a footnote's sign behind it."""

    text: str
    strong: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Grid:
    """A titled table. The first `labels` columns are labels, the others figures; all rows have the header's length."""

    title: str
    header: list[str]
    body: list[list[Word]]
    notes: list[str]
    labels: int = 1
