"""SL, Soft-label Learning: targets that leave room for several classes at once.

T_s = softmax(Z), the entries of Z at the relevant classes drawn from U(eps1, eps2). The law of the other
entries is not published; U(0, other) is inferred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import UsageError


@dataclass(frozen=True)
class SoftLabelLaw:
    """The law of Z."""

    eps1: float = 5.0
    """Range at relevant classes (paper: 5, 10)."""
    eps2: float = 10.0
    """Range at relevant classes (paper: 5, 10)."""
    other: float = 1.0
    """Elsewhere it is U(0, other)."""
    dominant: bool = False
    """Whether a view's first class, its own, gets the largest of its entries."""

    def __post_init__(self) -> None:
        if self.eps1 > self.eps2 or self.other < 0:
            raise UsageError("Soft labels need eps1 <= eps2 and other >= 0.")

    def draw(self, relevant: Sequence[Sequence[int]], classes: int, generator: torch.Generator) -> Tensor:
        """Return targets [len(relevant), classes]; relevant[i] holds the relevant classes of view i."""
        logits = self.other * torch.rand((len(relevant), classes), generator=generator)
        for row, chosen in zip(logits, relevant, strict=True):
            draw = torch.rand(len(chosen), generator=generator)
            if self.dominant:
                draw = draw.sort(descending=True).values
            row[list(chosen)] = self.eps1 + (self.eps2 - self.eps1) * draw
        return logits.softmax(dim=1)


def hard_labels(relevant: Sequence[Sequence[int]], classes: int) -> Tensor:
    """Return one-hot targets [len(relevant), classes] of each view's first class."""
    first = torch.tensor([chosen[0] for chosen in relevant])
    return functional.one_hot(first, classes).float()
