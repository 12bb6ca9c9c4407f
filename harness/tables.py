"""Leaderboards as data: from records to tables of strings, without torch. `harness.render` prints them.

One table per image set: rows are method x backend, columns model x bits, each value the mean over seeds.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.records import Record


@dataclass(frozen=True)
class Value:
    """One figure: its mean and sd over seeds (sd None for one seed), and whether it leads its column."""

    mean: float
    sd: float | None
    best: bool = False

    def text(self) -> str:
        """Return the figure as printed."""
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True)
class Table:
    """A titled table; a missing value is None. The first row is FP32 where accuracies are known."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[Value | None]]]
    notes: list[str]


def frame(records: list[Record]) -> pd.DataFrame:
    """Return one line per finished cell, with the columns tables and CSV are made from."""
    lines = [_line(record) for record in records if record["status"] == "ok"]
    return pd.DataFrame(lines, columns=list(_COLUMNS))


_COLUMNS = (
    "model", "method", "backend", "bits", "seed", "overrides", "data", "n", "data_sha256",
    "top1", "top5", "stderr", "fp32_top1", "agreement", "kl",
    "synthesize_seconds", "quantize_seconds", "evaluate_seconds",
    "weights_sha256", "meaningless", "images_sha256", "commit", "key",
)  # fmt: skip


def _line(record: Record) -> dict[str, Any]:
    cell, found = record["cell"], record["metrics"]
    stages = record["stages"]
    return {
        **{name: cell[name] for name in ("model", "method", "backend", "bits", "seed")},
        "overrides": ", ".join(f"{key}={value}" for key, value in sorted(cell["overrides"].items())),
        "data": cell["data"]["name"],
        "data_sha256": cell["data"]["sha256"],
        **{name: found.get(name) for name in ("n", "top1", "top5", "stderr", "fp32_top1", "agreement", "kl")},
        **{
            f"{stage}_seconds": stages.get(stage, {}).get("seconds")
            for stage in ("synthesize", "quantize", "evaluate")
        },
        "weights_sha256": record.get("weights", {}).get("sha256", ""),
        "meaningless": record.get("meaningless", False),
        "images_sha256": record.get("images_sha256"),
        "commit": record["provenance"].get("commit"),
        "key": record["key"],
    }


def leaderboards(records: list[Record]) -> list[Table]:
    """Return a table per image set, ordered by its name and size."""
    lines = frame(records)
    groups = lines.groupby(["data", "n", "data_sha256"], sort=True)
    return [_table(group) for _, group in groups]


def _table(lines: pd.DataFrame) -> Table:
    """Lay out one image set's table: accuracy where labels are known, agreement with FP32 elsewhere."""
    name, count = str(lines["data"].iloc[0]), int(lines["n"].iloc[0])
    labelled = bool(lines["top1"].notna().all())
    metric = "top1" if labelled else "agreement"
    columns = lines[["model", "bits", "weights_sha256"]].drop_duplicates()
    keys = sorted(columns.itertuples(index=False, name=None), key=_column_order)
    rows = lines[["method", "backend", "overrides"]].drop_duplicates().itertuples(index=False, name=None)
    body = [(_row_label(*row), [_value(lines, row, key, metric) for key in keys]) for row in rows]
    body = [(label, values) for label, values in _marked(body)]
    body.sort(key=lambda row: (-_mean(row[1]), row[0]))
    if labelled:
        body.insert(0, ("FP32", [_fp32(lines, key) for key in keys]))
    title = f"{'Top-1' if labelled else 'Top-1 agreement with FP32'}, % - {name}, n = {count}"
    return Table(title, _column_labels(keys), body, _notes(lines, labelled, count))


def _column_order(key: tuple[str, str, str]) -> tuple[str, int, int, str]:
    model, bits, weights = key
    w, a = (int(part) for part in bits[1:].split("a"))
    return model, w, a, weights


def _column_labels(keys: list[tuple[str, str, str]]) -> list[str]:
    """Name the columns; the same model with several checkpoints shows which."""
    plain = [f"{model} {bits}" for model, bits, _ in keys]
    return [
        label if plain.count(label) == 1 else f"{label} ({weights[:6]})"
        for label, (_, _, weights) in zip(plain, keys, strict=True)
    ]


def _row_label(method: str, backend: str, overrides: str) -> str:
    return f"{method} + {backend}" + (f" ({overrides})" if overrides else "")


def _value(lines: pd.DataFrame, row: tuple[str, ...], key: tuple[str, ...], metric: str) -> Value | None:
    """Return the mean and sd over the seeds of one row and column."""
    names = ("method", "backend", "overrides", "model", "bits", "weights_sha256")
    chosen = lines
    for name, wanted in zip(names, (*row, *key), strict=True):
        chosen = chosen[chosen[name] == wanted]
    seeds = [float(value) for value in chosen[metric].dropna()]
    if not seeds:
        return None
    return Value(statistics.fmean(seeds), statistics.stdev(seeds) if len(seeds) > 1 else None)


def _fp32(lines: pd.DataFrame, key: tuple[str, str, str]) -> Value:
    model, _, weights = key
    same = lines[(lines["model"] == model) & (lines["weights_sha256"] == weights)]
    return Value(float(same["fp32_top1"].iloc[0]), None)


def _marked(body: list[tuple[str, list[Value | None]]]) -> list[tuple[str, list[Value | None]]]:
    """Mark the best value of every column (all of them on a tie)."""
    columns = list(zip(*(values for _, values in body), strict=True))
    best = [max((v.mean for v in column if v is not None), default=None) for column in columns]
    return [
        (label, [v and Value(v.mean, v.sd, v.mean == top) for v, top in zip(values, best, strict=True)])
        for label, values in body
    ]


def _mean(values: list[Value | None]) -> float:
    known = [value.mean for value in values if value is not None]
    return statistics.fmean(known) if known else 0.0


def _notes(lines: pd.DataFrame, labelled: bool, count: int) -> list[str]:
    """Say what a reader must know to read the figures rightly."""
    seeds = sorted({int(seed) for seed in lines["seed"]})
    notes = [
        f"Simulated quantization. Seeds {', '.join(map(str, seeds))}; mean ± sd over seeds where there are several."
    ]
    if labelled:
        notes.append(
            f"Binomial standard error of one figure: at most {float(lines['stderr'].max()):.2f} points (n = {count})."
        )
    else:
        notes.append("No labels: accuracy needs --data; agreement with FP32 on images no method has seen.")
    if lines["meaningless"].any():
        notes.append("Random weights: these figures say nothing about accuracy.")
    return notes
