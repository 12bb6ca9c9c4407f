"""The state of the shared loop as tensors, so that a synthesis that was killed goes on to the same images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from methods.contracts import Snapshots, SynthesisContext

_LOSS, _OWN = "loss.", "objective."


@runtime_checkable
class Stateful(Protocol):
    """An objective that changes from step to step beyond what the generator draws."""

    def state(self) -> dict[str, Tensor]:
        """Return what has changed since the objective was made."""

    def resume(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""


@dataclass
class Progress:
    """How far a minimisation is.

    images: the leaf [n, C, H, W] that Adam moves in place; history: the values of every term so far; first: the sum of
    the terms at the first step; step: steps done.
    """

    images: Tensor
    optimizer: torch.optim.Optimizer
    objective: object
    history: dict[str, list[float]]
    first: float = 0.0
    step: int = 0


@dataclass(frozen=True)
class Resumption:
    """Where states are kept, and the generator whose state belongs to them."""

    snapshots: Snapshots
    generator: torch.Generator

    @classmethod
    def of(cls, context: SynthesisContext) -> Resumption | None:
        """Return how a synthesis goes on, None where the harness keeps no snapshots of it."""
        return cls(context.snapshots, context.generator) if context.snapshots else None

    def save(self, now: Progress) -> None:
        """Keep the state, if it is time to."""
        if not self.snapshots.due():
            return
        state = {"images": now.images.detach(), "generator": self.generator.get_state()}
        state |= {"step": torch.tensor(now.step), "first": torch.tensor(now.first, dtype=torch.float64)}
        state |= {f"adam.{name}": value for name, value in now.optimizer.state[now.images].items()}
        for place, (name, values) in enumerate(now.history.items()):  # a file of tensors keeps no order
            state[f"{_LOSS}{place:03d}.{name}"] = torch.tensor(values, dtype=torch.float64)
        if isinstance(now.objective, Stateful):
            state |= {_OWN + name: value for name, value in now.objective.state().items()}
        self.snapshots.store(state)

    def restore(self, now: Progress) -> None:
        """Go on from the last state that was kept, if there is one."""
        state = self.snapshots.load()
        if state is None:
            return
        with torch.no_grad():
            now.images.copy_(state["images"])
        self.generator.set_state(state["generator"])
        now.step, now.first = int(state["step"]), float(state["first"])
        now.optimizer.state[now.images] = {
            name: value if name == "step" else value.to(now.images.device)
            for name, value in _of(state, "adam.").items()
        }
        now.history.update(
            {name.partition(".")[2]: values.tolist() for name, values in sorted(_of(state, _LOSS).items())}
        )
        if isinstance(now.objective, Stateful):
            now.objective.resume(_of(state, _OWN))


def _of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
