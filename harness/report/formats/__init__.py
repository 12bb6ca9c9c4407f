"""The output formats of `python -m harness.leaderboard`: each is one file of this folder and one line below."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from methods.registry import Registry

if TYPE_CHECKING:
    from harness.report.report import Report


class Format(ABC):
    """A way to write a report."""

    # Whether `--format all` writes it too.
    in_all: ClassVar[bool] = True

    @abstractmethod
    def files(self, report: Report) -> dict[str, str | bytes]:
        """Return what to write, by path below --out; a single text is printed where there is no --out.

        Raises UsageError when the report has nothing of the kind, or a library is missing.
        """


FORMATS: Registry[Format] = Registry("format")
FORMATS.register("console", "harness.report.formats.console:ConsoleFormat")  # the first is the default
FORMATS.register("md", "harness.report.formats.markdown:MarkdownFormat")
FORMATS.register("csv", "harness.report.formats.csv:CsvFormat")
FORMATS.register("latex", "harness.report.formats.latex:LatexFormat")
FORMATS.register("html", "harness.report.formats.html:HtmlFormat")
FORMATS.register("site", "harness.report.formats.site:SiteFormat")
FORMATS.register("pictures", "harness.report.formats.pictures:PicturesFormat")
FORMATS.register("parquet", "harness.report.formats.parquet:ParquetFormat")
