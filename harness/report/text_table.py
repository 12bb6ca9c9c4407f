"""The one table object that every text format is printed from: words in rows and columns, some of them strong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from methods.text import printable, shortened

_LONGEST = 2000


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

    def printable(self) -> Grid:
        """Return the grid with all its text fit to be shown: names in it may come from anyone's record or plugin."""
        body = [[replace(word, text=_shown(word.text)) for word in row] for row in self.body]
        header, notes = [_shown(text) for text in self.header], [_shown(text) for text in self.notes]
        return replace(self, title=_shown(self.title), header=header, body=body, notes=notes)


def _shown(text: str) -> str:
    """Return a text that can be seen and laid out: a name of a million letters takes a terminal half a minute."""
    return shortened(printable(text), _LONGEST)
