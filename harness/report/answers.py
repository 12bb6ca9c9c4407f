"""Answers: of each width, the best row without data, how far it is from real images and from the next method, and
whether chance would do it.

Best means the highest mean among the rows of comparisons, all budgets together: who takes the best of many takes some
luck with it, so each answer says of how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.comparisons import Budget, Comparison
from harness.report.layout import natural
from harness.report.runs import Run
from harness.report.statistics import LEVEL, Paired, p_text, paired
from harness.report.tables import hits_by_seed


@dataclass(frozen=True)
class Gap:
    """One run against another on the same images; `test` is None where no seed is common."""

    other: Run
    points: float
    test: Paired | None
    # The other run's images and steps where they differ from this run's.
    budget: Budget | None

    @property
    def sure(self) -> str:
        """Whether chance would do it, with p, and whether it is at equal cost."""
        unequal = f", not at equal cost: it had {self.budget}" if self.budget else ""
        if self.test is None:
            return f"not tested: no seed in common{unequal}"
        sure = "beyond chance" if self.test.p <= LEVEL else "within chance"
        return f"{sure} (p {'' if p_text(self.test.p)[0] == '<' else '= '}{p_text(self.test.p)}){unequal}"


@dataclass(frozen=True)
class Answer:
    """What to take at one width, without data."""

    bits: str
    best: Run
    # How many rows without data it is the best of.
    among: int
    # The best with real images, and the best of another method without data, where there are such.
    real: Gap | None
    second: Gap | None


def answers(place: Sequence[Comparison]) -> list[Answer]:
    """Return an answer per width of a model and image set, from its comparisons; none without labels."""
    found = [
        Run("comparison", value.lines)
        for comparison in place
        for _, values in comparison.table.rows
        for value in values
        if value is not None and value.lines and value.lines[0].top1 is not None
    ]
    widths = sorted({run.first.bits for run in found}, key=lambda bits: natural((bits,)))
    told = [_answer(bits, [run for run in found if run.first.bits == bits]) for bits in widths]
    return [answer for answer in told if answer is not None]


def _answer(bits: str, found: Sequence[Run]) -> Answer | None:
    ranked = sorted(found, key=lambda run: -(run.mean("top1") or 0.0))
    free, real = ([run for run in ranked if run.real is wanted] for wanted in (False, True))
    if not free:
        return None
    best = free[0]
    others = [run for run in free if run.first.method != best.first.method]
    return Answer(bits, best, len(free), _gap(best, real), _gap(best, others))


def _gap(best: Run, others: Sequence[Run]) -> Gap | None:
    if not others:
        return None
    points = (best.mean("top1") or 0.0) - (others[0].mean("top1") or 0.0)
    budget = others[0].budget
    unequal = None if best.budget.equals(budget) else budget
    return Gap(others[0], points, paired(hits_by_seed(best.lines), hits_by_seed(others[0].lines)), unequal)
