"""What a table shows: which fields make its rows and columns, which metric, which measurements."""

from __future__ import annotations

from dataclasses import dataclass

from harness.measurements import IDENTITY, known_field
from harness.metrics import find_metric
from methods.errors import UsageError


@dataclass(frozen=True)
class Layout:
    """What a table shows: fields of rows and columns, the metric (None: accuracy where known), conditions."""

    rows: tuple[str, ...] = ("method", "backend", "overrides")
    columns: tuple[str, ...] = ("model", "bits")
    metric: str | None = None
    filters: tuple[str, ...] = ()

    def column_key(self) -> tuple[str, ...]:
        """Return the fields that tell columns apart: those asked for, and a model's weights with the model."""
        return (*self.columns, *(("weights_sha256",) if "model" in self.columns else ()))

    def row_key(self) -> tuple[str, ...]:
        """Return the fields that tell rows apart: those asked for, then everything columns do not tell apart."""
        columns = self.column_key()
        return (*self.rows, *(name for name in IDENTITY if name not in (*columns, *self.rows)))

    def check(self) -> None:
        """Raise UsageError for fields and metrics that are not there or cannot be used so."""
        for name in (*self.rows, *self.columns):
            if known_field(name) not in IDENTITY:
                raise UsageError(f"Rows and columns are made of {', '.join(IDENTITY)}; {name} is none of them.")
        both = set(self.rows) & set(self.columns)
        if both:
            raise UsageError(f"{both.pop()} cannot make both rows and columns.")
        if self.metric:
            find_metric(self.metric)
