"""Turn records into leaderboards: `python -m harness.leaderboard [RESULTS ...]`.

Reads the records under each results folder (default: results and the folders in it) and prints the tables, or
writes them as Markdown, CSV, LaTeX and one HTML page. Needs no torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.command import run_command
from harness.files import check_writable, write_atomically
from harness.revisions import folders_with_records
from methods.errors import UsageError

if TYPE_CHECKING:
    from harness.grid import Grid
    from harness.records import Record
    from harness.tables import Layout, Table

FORMATS = {"md": "md", "csv": "csv", "latex": "tex"}
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
    result = argparse.ArgumentParser(
        prog="python -m harness.leaderboard",
        description="Turn records into leaderboards.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "results", nargs="*", type=Path, help="results folders (default: results and all folders in it with records)"
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
    what.add_argument("--reported", type=Path, metavar="FOLDER", help="reported figures (default: results/reported)")
    how = result.add_argument_group("how to show it")
    how.add_argument("--format", choices=("console", *FORMATS, "all"), default="console")
    how.add_argument("--out", type=Path, help="folder to write leaderboard.* (or pairs.*) into")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a sentence on stderr."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    from harness.tables import leaderboards

    if arguments.out is not None:
        check_writable(arguments.out)
    records = load_finished(arguments.results or folders_with_records(Path("results")))
    tables = leaderboards(records, _layout(arguments))
    grids = _pair_grids(tables) if arguments.pairs else _board_grids(tables, arguments.reported)
    if arguments.format in ("console", "all"):
        _print(grids)
    for name, ending in FORMATS.items():
        if arguments.format not in (name, "all"):
            continue
        if arguments.out is not None:
            file = arguments.out / f"{'pairs' if arguments.pairs else 'leaderboard'}.{ending}"
            write_atomically(file, _text(name, tables, grids, arguments.pairs).encode())
        elif arguments.format == name:
            print(_text(name, tables, grids, arguments.pairs), end="")
    return 0


def load_finished(folders: list[Path], details: bool = False, name: str | None = None) -> list[Record]:
    """Return the records under results folders, naming what is not counted on stderr.

    name: what to call the folders; raises UsageError when no cell has finished.
    """
    from harness.records import load_records

    records = load_records(folders, details)
    for problem in records.problems:
        print(f"Not counted: {problem}.", file=sys.stderr)
    failed = sum(record["status"] == "failed" for record in records.sound)
    if failed:
        print(f"{failed} failed cells are not in the tables.", file=sys.stderr)
    if len(records.sound) == failed:
        raise UsageError(f"There are no records of finished cells under {name or ', '.join(map(str, folders))}.")
    return records.sound


def _layout(arguments: argparse.Namespace) -> Layout:
    from harness.tables import Layout

    rows, columns = (
        tuple(filter(None, map(str.strip, text.split(",")))) for text in (arguments.rows, arguments.columns)
    )
    return Layout(rows, columns, arguments.metric, tuple(arguments.filter))


def _board_grids(tables: Sequence[Table], folder: Path | None) -> list[Grid]:
    """Return the leaderboards, and after them what others report for their rows."""
    from harness.reported import FOLDER, load_reported, reported_grid

    if folder is not None and not folder.is_dir():
        raise UsageError(f"There is no folder {folder} of reported figures.")
    figures = load_reported(folder or FOLDER)
    beside = [reported_grid(table, figures) for table in tables]
    return [table.grid() for table in tables] + [grid for grid in beside if grid]


def _pair_grids(tables: Sequence[Table]) -> list[Grid]:
    from harness.pairs import pair_grids

    grids = [grid for table in tables for grid in pair_grids(table)]
    if not grids:
        raise UsageError("There are no two rows with per-image correctness under the same seed in one column.")
    return grids


def _print(grids: Sequence[Grid]) -> None:
    from rich.console import Console

    from harness.render import print_table

    for grid in grids:
        print_table(grid, Console())


def _text(name: str, tables: Sequence[Table], grids: Sequence[Grid], pairs: bool) -> str:
    """Return the text of one format."""
    from harness.latex import latex
    from harness.render import csv, grid_csv, markdown

    if name != "csv":
        return {"md": markdown, "latex": latex}[name](grids)
    return grid_csv(grids) if pairs else csv([line for table in tables for line in table.lines()])


if __name__ == "__main__":
    sys.exit(main())
