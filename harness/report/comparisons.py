"""Comparisons: the rows of a study that spent alike, so that a ranking of them is one of methods and not of budgets.

A budget is a number of synthetic (or real) images and of optimisation steps. A study of kind "comparison" sets its
methods to equal budgets; what it holds beside them (variants, ablations, other budgets) is told apart here, from
records alone: of every method and backend the one setting with most measurements at the budget most rows have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from harness.inputs.zoo import ENTRIES
from harness.record.studies import Study, merged
from harness.report.layout import Layout, natural
from harness.report.measurements import Measurement, measurements
from harness.report.tables import Table, table_of

MOST_ROWS = 12
_LAYOUT = Layout(columns=("bits",))
_BUDGET = ("images", "iterations")
_Pair: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Budget:
    """What a row may spend; None where its method knows no such thing."""

    images: int | None
    steps: int | None

    def __str__(self) -> str:
        """As people say it."""
        told = ((self.images, "image"), (self.steps, "step"))
        return ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in told if count is not None)

    def equals(self, other: Budget) -> bool:
        """Whether neither spends more than the other, as far as both know: real images take no steps."""
        pairs = ((self.images, other.images), (self.steps, other.steps))
        return all(mine == theirs for mine, theirs in pairs if mine is not None and theirs is not None)


@dataclass(frozen=True, eq=False)
class Comparison:
    """One model on one image set at one budget, from one study."""

    study: Study
    model: str
    budget: Budget
    # Rows are method and backend with the settings that the budget does not tell; columns are bits.
    table: Table
    # Whether a method or backend in it has a newer version elsewhere among the records.
    stale: bool

    @property
    def data(self) -> str:
        """What the image set is called."""
        return self._first.data

    @property
    def place(self) -> tuple[str, str]:
        """The image set's checksum and the model: comparisons of one place answer one question."""
        return self._first.data_sha256, self.model

    @property
    def values(self) -> int:
        """How many figures it holds."""
        return sum(value is not None for _, row in self.table.rows for value in row)

    @property
    def _first(self) -> Measurement:
        return self.table.lines()[0]


def comparisons(
    studies: Sequence[Study], metric: str | None = None, filters: tuple[str, ...] = ()
) -> list[Comparison]:
    """Return the comparisons of studies of that kind: ImageNet first, and of a place the most current and fullest.

    Raises UsageError for a metric or filter that leaves nothing.
    """
    layout = replace(_LAYOUT, metric=metric, filters=filters)
    mine = [study for study in studies if study.kind == "comparison"]
    lines = named(layout.chosen(measurements(merged(mine))))
    newest, known = _newest(lines), {line.key: line for line in lines}
    found: list[Comparison] = []
    for study in mine:
        every = [known[record.key] for record in study.records if record.key in known]
        for group in _by(lambda line: (line.data_sha256, line.model, line.weights_sha256), every).values():
            found += _of_one_model(study, group, layout, newest)
    return sorted(found, key=_order)


def _order(comparison: Comparison) -> tuple[Any, ...]:
    entry = ENTRIES.get(comparison.model)
    toy = entry is not None and entry.task != "imagenet"
    return toy, natural((comparison.model,)), comparison.data, comparison.stale, -comparison.values


def places(found: Iterable[Comparison]) -> list[list[Comparison]]:
    """Return the comparisons of every image set and model, in their order."""
    grouped: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for comparison in found:
        grouped[comparison.place].append(comparison)
    return list(grouped.values())


def _of_one_model(
    study: Study, lines: list[Measurement], layout: Layout, newest: dict[str, int]
) -> Iterable[Comparison]:
    """Yield the comparisons of one study and model, the budget of most rows first."""
    seen: set[int | None] = set()
    for budget in _budgets(lines):
        alike = [line for line in lines if budget_of(line).images in (budget.images, None)]
        rows = _rows(alike, budget, exactly=budget.images in seen)
        if not seen or sum(budget_of(row[0]).steps is not None for row in rows) > 1:
            shown = [replace(line, overrides=settings_text(line, budget)) for row in rows for line in row]
            table = table_of(shown, layout)
            title = f"{table.metric.title} - {lines[0].model}, {lines[0].data}, n = {lines[0].n}; {budget}"
            yield Comparison(study, lines[0].model, budget, replace(table, title=title), _stale(shown, newest))
        seen.add(budget.images)


def _budgets(lines: Sequence[Measurement]) -> list[Budget]:
    """Return the budgets, by how many pairs of method and backend have their images, then by how many have both."""
    pairs: dict[Budget, set[_Pair]] = defaultdict(set)
    for line in lines:
        pairs[budget_of(line)].add((line.method, line.backend))
    images: dict[int | None, set[_Pair]] = defaultdict(set)
    for budget, found in pairs.items():
        images[budget.images] |= found
    stepped = [budget for budget in pairs if budget.steps is not None]
    told = {budget.images for budget in stepped}
    every = [*stepped, *(budget for budget in pairs if budget.images not in told)]
    return sorted(every, key=lambda budget: (-len(images[budget.images]), -(budget.images or 0), -len(pairs[budget])))


def _rows(lines: Sequence[Measurement], budget: Budget, exactly: bool) -> list[list[Measurement]]:
    """Return the lines that stand for each method and backend at a budget.

    Unless `exactly`, one that was not measured at its steps stands with others: where methods need different numbers
    of passes a step, equal passes are different numbers of steps, and the study sets them.
    """
    found = []
    for mine in _by(lambda line: (line.method, line.backend), lines).values():
        exact = [line for line in mine if budget_of(line).steps in (budget.steps, None)]
        if exact or not exactly:
            found.append(_standing(exact or mine))
    return found


def _standing(lines: Sequence[Measurement]) -> list[Measurement]:
    """Return the measurements of one setting: of the newest versions, the most measured, the least changed."""
    settings = _by(lambda line: (line.method_version, line.backend_version, line.overrides, line.calibration), lines)
    return settings[
        max(settings, key=lambda key: (int(key[0]), int(key[1]), len(settings[key]), -len(key[2]), key[3]))
    ]


def budget_of(line: Measurement) -> Budget:
    """Return what a measurement spent, as its record says."""
    images, steps = (line.record.config.method.get(name) for name in _BUDGET)
    return Budget(*(count if isinstance(count, int) else None for count in (images, steps)))


def settings_text(line: Measurement, budget: Budget | None = None) -> str:
    """Return the settings that differ from the defaults and from a budget, floats with three significant digits."""
    told = {} if budget is None else {"images": budget.images, "iterations": budget.steps}
    return ", ".join(
        f"{name}={short(value)}"
        for name, value in sorted(line.record.cell.overrides.items())
        if not (name.startswith(f"{line.method}.") and told.get(name.rpartition(".")[2], ...) == value)
    )


def short(value: object) -> str:
    """Return a setting's value, a float with three significant digits."""
    return f"{value:.3g}" if type(value) is float else str(value)


def named(lines: Sequence[Measurement]) -> list[Measurement]:
    """Return measurements whose image sets of one checksum have one name, the longest any record gives it."""
    names: dict[str, str] = {}
    for line in lines:
        names[line.data_sha256] = max(names.get(line.data_sha256, ""), line.data, key=len)
    return [replace(line, data=names[line.data_sha256]) for line in lines]


def _newest(lines: Iterable[Measurement]) -> dict[str, int]:
    """Return the newest version of every method and backend."""
    found: dict[str, int] = {}
    for line in lines:
        for name, version in ((line.method, line.method_version), (line.backend, line.backend_version)):
            found[name] = max(found.get(name, 0), int(version))
    return found


def _stale(lines: Iterable[Measurement], newest: dict[str, int]) -> bool:
    return any(
        int(line.method_version) < newest[line.method] or int(line.backend_version) < newest[line.backend]
        for line in lines
    )


def _by(key: Callable[[Measurement], Any], lines: Iterable[Measurement]) -> dict[Any, list[Measurement]]:
    found: dict[Any, list[Measurement]] = defaultdict(list)
    for line in lines:
        found[key(line)].append(line)
    return found
