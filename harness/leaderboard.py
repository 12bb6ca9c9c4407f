"""Turn records into leaderboards: `python -m harness.leaderboard [RESULTS ...]`.

Reads the records under each results folder (default: results and the folders in it) and prints the tables, or
writes them as Markdown, CSV, LaTeX and one HTML page. Needs no torch.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.command import run_command
from harness.cli.options import command_parser, path
from harness.record.files import check_writable, write_atomically
from harness.record.folders import folders_with_records
from harness.report.formats import FORMATS
from methods.errors import UsageError

if TYPE_CHECKING:
    from harness.report.layout import Layout
    from harness.report.report import Report

_ALL = "all"
_EXAMPLES = """examples:
  python -m harness.leaderboard
  python -m harness.leaderboard results/digits results/deit_t_8x100
  python -m harness.leaderboard results/digits --format md
  python -m harness.leaderboard results/digits --filter 'model=vit_*' --filter bits=w4a4 --metric retention
  python -m harness.leaderboard results/digits --rows model,method --columns backend,bits
  python -m harness.leaderboard results/deit_t_8x100 --pairs
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
    what.add_argument(
        "--all",
        action="store_true",
        help="all rows of all studies, kind by kind (default where folders are named); without it a few rows of each "
        "model",
    )
    what.add_argument("--reported", type=path, metavar="FOLDER", help="reported figures (default: results/reported)")
    how = result.add_argument_group("how to show it")
    names = FORMATS.names()
    how.add_argument("--format", choices=(*names, _ALL), default=names[0])
    how.add_argument("--verbose", action="store_true", help="all footnotes")
    how.add_argument("--out", type=path, help="folder to write files into (default: print)")
    return result


def main(words: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a sentence on stderr."""
    arguments = parser().parse_args(words)
    return run_command(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    from harness.record.studies import load_studies
    from harness.report.report import Report
    from harness.report.reported import FOLDER, load_reported

    if arguments.out is not None:
        check_writable(arguments.out)
    if arguments.reported is not None and not arguments.reported.is_dir():
        raise UsageError(f"There is no folder {arguments.reported} of reported figures.")
    report = Report(
        studies=load_studies(arguments.results or folders_with_records(Path("results"))),
        layout=_layout(arguments),
        figures=load_reported(arguments.reported or FOLDER),
        every=bool(arguments.results) or arguments.all,
        pairs=arguments.pairs,
        verbose=arguments.verbose,
    )
    _write(_files(arguments.format, report), arguments.out)
    return 0


def _files(name: str, report: Report) -> dict[str, str | bytes]:
    """Return the files of a format, or of all of them, by path."""
    if name != _ALL:
        return FORMATS.get(name).files(report)
    formats = [FORMATS.get(each) for each in FORMATS.names()]
    return {path: content for each in formats if each.in_all for path, content in each.files(report).items()}


def _write(files: dict[str, str | bytes], out: Path | None) -> None:
    """Write files under a folder, or print the only text where no folder was named."""
    if out is not None:
        for path, content in files.items():
            write_atomically(out / path, content.encode() if isinstance(content, str) else content)
        return
    texts = [content for content in files.values() if isinstance(content, str)]
    if len(files) > 1 or not texts:
        raise UsageError(f"This format writes {', '.join(islice(files, 3))}; say where with --out.")
    print(texts[0], end="")


def _layout(arguments: argparse.Namespace) -> Layout:
    from harness.report.layout import Layout

    rows, columns = (
        tuple(filter(None, map(str.strip, text.split(",")))) for text in (arguments.rows, arguments.columns)
    )
    return Layout(rows, columns, arguments.metric, tuple(arguments.filter))


if __name__ == "__main__":
    sys.exit(main())
