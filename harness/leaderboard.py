"""Turn records into leaderboards: `python -m harness.leaderboard [RESULTS ...]`.

Reads the records under each results folder (default: results and the folders in it) and prints the tables, or
writes them as Markdown, CSV, LaTeX and one HTML page. Needs no torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from harness.cli.command import run_command
from harness.cli.options import command_parser, path
from harness.record.files import check_writable, write_atomically
from harness.record.folders import folders_with_records, load_finished
from methods.errors import UsageError

if TYPE_CHECKING:
    from harness.report.layout import Layout
    from harness.report.tables import Table
    from harness.report.text_table import Grid


_Text: TypeAlias = "Callable[[], str]"
FILES = {"md": "leaderboard.md", "csv": "leaderboard.csv", "latex": "leaderboard.tex", "html": "index.html"}


_EXAMPLES = """examples:
  python -m harness.leaderboard
  python -m harness.leaderboard results/digits results/deit_t
  python -m harness.leaderboard results/digits --format md
  python -m harness.leaderboard results/digits --filter 'model=vit_*' --filter bits=w4a4 --metric retention
  python -m harness.leaderboard results/digits --rows model,method --columns backend,bits
  python -m harness.leaderboard results/deit_t --pairs
  python -m harness.leaderboard results/digits --format all --out results/digits
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; building it imports nothing heavy."""
    result = command_parser("leaderboard", "Turn records into leaderboards.", _EXAMPLES)
    result.add_argument(
        "results", nargs="*", type=path, help="results folders (default: results and all folders in it with records)"
    )
    what = result.add_argument_group("what to show")
    what.add_argument(
        "--rows", default="method,backend,overrides", help="fields that make rows (default: %(default)s)"
    )
    what.add_argument("--columns", default="model,bits", help="fields that make columns (default: %(default)s)")
    what.add_argument(
        "--filter", action="append", default=[], metavar="FIELD=VALUE[,VALUE]", help="only these; values may be globs"
    )
    what.add_argument(
        "--metric", help="top1, top5, retention, agreement, kl, seconds, ... (default: top1 where known)"
    )
    what.add_argument(
        "--pairs",
        action="store_true",
        help="instead compare every pair of rows on the same images: difference in points, images only one of them "
        "got right, exact p, and p corrected for all pairs of the column",
    )
    what.add_argument("--reported", type=path, metavar="FOLDER", help="reported figures (default: results/reported)")
    how = result.add_argument_group("how to show it")
    how.add_argument("--format", choices=("console", *FILES, "all"), default="console")
    how.add_argument(
        "--out", type=path, help="folder to write leaderboard.md, .csv, .tex and index.html (or pairs.*) into"
    )
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a sentence on stderr."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    from harness.report.tables import leaderboards

    _check(arguments)
    folders = arguments.results or folders_with_records(Path("results"))
    records = load_finished(folders)
    tables = leaderboards(records, _layout(arguments))
    texts = _pair_texts(tables) if arguments.pairs else _board_texts(tables, arguments.reported, folders)
    for name in [*texts] if arguments.format == "all" else [arguments.format]:
        if name in FILES and arguments.out is not None:
            file = "pairs." + FILES[name].partition(".")[2] if arguments.pairs else FILES[name]
            write_atomically(arguments.out / file, texts[name]().encode())
        else:
            print(texts[name](), end="")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        check_writable(arguments.out)
    elif arguments.format == "all":
        raise UsageError("--format all writes files; say where with --out.")
    if arguments.pairs and arguments.format == "html":
        raise UsageError("--pairs has no page of its own; the page of --format html holds the pairs.")
    if arguments.reported is not None and not arguments.reported.is_dir():
        raise UsageError(f"There is no folder {arguments.reported} of reported figures.")


def _layout(arguments: argparse.Namespace) -> Layout:
    from harness.report.layout import Layout

    rows, columns = (
        tuple(filter(None, map(str.strip, text.split(",")))) for text in (arguments.rows, arguments.columns)
    )
    return Layout(rows, columns, arguments.metric, tuple(arguments.filter))


def _board_texts(tables: Sequence[Table], reported: Path | None, folders: Sequence[Path]) -> dict[str, _Text]:
    """Return what makes each format of the leaderboards, with what others report for their rows after them."""
    from harness.report.reported import FOLDER, load_reported, reported_grid

    figures = load_reported(reported or FOLDER)
    beside = [grid for table in tables if (grid := reported_grid(table, figures))]

    def html() -> str:
        from harness.report.formats.html import page

        return page(tables, beside, folders)

    def lines() -> str:
        from harness.report.formats.csv import csv

        return csv([line for table in tables for line in table.lines()])

    return {**_grid_texts([*(table.grid() for table in tables), *beside]), "csv": lines, "html": html}


def _pair_texts(tables: Sequence[Table]) -> dict[str, _Text]:
    from harness.report.pairs import pair_grids

    grids = [grid for table in tables for grid in pair_grids(table)]
    if not grids:
        raise UsageError("There are no two rows with per-image correctness under the same seed in one column.")
    return _grid_texts(grids)


def _grid_texts(grids: Sequence[Grid]) -> dict[str, _Text]:
    from harness.report.formats.console import console
    from harness.report.formats.csv import grid_csv
    from harness.report.formats.latex import latex
    from harness.report.formats.markdown import markdown

    return {
        "console": partial(console, grids),
        "md": partial(markdown, grids),
        "csv": partial(grid_csv, grids),
        "latex": partial(latex, grids),
    }


if __name__ == "__main__":
    sys.exit(main())
