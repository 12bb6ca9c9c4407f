"""Pictures to commit: `python -m harness.leaderboard RESULTS --format pictures --out RESULTS` after a run.

Of every model whose syntheses are still there, the contact sheets of all methods side by side as one small WebP,
and the losses beside it as JSON: what the page shows where a cache is long gone. Real images are nobody's to hand on
and are left out.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report.formats import Format
from harness.report.layout import natural
from harness.report.report import Report
from harness.report.runs import Run, runs
from harness.report.syntheses import LARGEST, PREFIX, find_sheet, find_synthesis
from methods.errors import UsageError
from methods.text import file_stem

if TYPE_CHECKING:
    from PIL import Image

# Of a sheet the two first rows of four images are shown, at a size that 45 kB allow.
_SHOWN, _SCALE = 364, 0.6
_LINE, _GAP = 18, 8
_QUALITIES = range(80, 10, -5)


class PicturesFormat(Format):
    """Contact sheets side by side, and the losses of what is on them."""

    in_all = False

    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return two files per model; raises UsageError where there are no contact sheets."""
        found: dict[str, dict[str, Run]] = defaultdict(dict)
        for run in sorted(runs(report.studies, [line.key for line in report.lines]), key=lambda run: run.first.seed):
            if not run.real and find_sheet(run.first.record, report.folders) is not None:
                found[run.first.model].setdefault(run.first.method, run)
        if not found:
            raise UsageError("No results folder holds contact sheets: they are there after a run.")
        return {
            path: content
            for model, methods in sorted(found.items())
            for path, content in _files(model, methods, report.folders).items()
        }


def _files(model: str, found: dict[str, Run], folders: list[Path]) -> dict[str, str | bytes]:
    sheets = {name: find_sheet(run.first.record, folders) for name, run in found.items()}
    shown = {name: _small(sheet) for name, sheet in sheets.items() if sheet is not None}
    order = sorted(shown, key=lambda name: (-shown[name].width, natural((name,))))
    stem = f"{PREFIX}{file_stem(model)}"
    about = {"model": model, "methods": {name: _about(found[name], folders) for name in order}}
    return {
        f"{stem}.webp": compressed(side_by_side({name: shown[name] for name in order})),
        f"{stem}.json": json.dumps(about) + "\n",
    }


def _about(run: Run, folders: list[Path]) -> dict[str, Any]:
    synthesis = find_synthesis(run.first.record, folders)
    losses = {} if synthesis is None else synthesis.losses
    rounded = {name: [float(f"{value:.4g}") for value in values] for name, values in losses.items()}
    mine = [text for text in run.settings.split(", ") if text.startswith(f"{run.first.method}.")]
    return {"seed": run.first.seed, "settings": ", ".join(mine), "losses": rounded}


def _small(sheet: Image.Image) -> Image.Image:
    top = sheet.crop((0, 0, sheet.width, min(_SHOWN, sheet.height)))
    return top.resize((round(top.width * _SCALE), round(top.height * _SCALE)))


def side_by_side(sheets: dict[str, Image.Image]) -> Image.Image:
    """Return sheets under their names, in lines no wider than the widest sheet."""
    from PIL import Image, ImageDraw

    widest = max(sheet.width for sheet in sheets.values())
    places: dict[str, tuple[int, int]] = {}
    left = top = below = 0
    for name, sheet in sheets.items():
        if left and left + sheet.width > widest:
            left, top = 0, below
        places[name] = (left, top)
        left += sheet.width
        below = max(below, top + _LINE + sheet.height + _GAP)
    result = Image.new("RGB", (widest, below - _GAP), "white")
    draw = ImageDraw.Draw(result)
    for name, (x, y) in places.items():
        draw.text((x + 2, y), name, fill="black", font_size=14)
        result.paste(sheets[name], (x, y + _LINE))
    return result


def compressed(image: Image.Image, most: int = LARGEST) -> bytes:
    """Return a WebP of at most so many bytes: of the highest quality that allows it, smaller where none does."""
    for quality in _QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=quality, method=6)
        if len(stream.getvalue()) <= most:
            return stream.getvalue()
    return compressed(image.resize((image.width * 3 // 4, image.height * 3 // 4)), most)
