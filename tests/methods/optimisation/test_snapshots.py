"""A synthesis that is cut off goes on from its last state to the same images, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import tiny_vit
from torch import Tensor

import spdfq  # noqa: F401 - registers its methods
from methods.contracts import ImageSpace, SynthesisContext
from methods.registry import METHODS

SPACE = ImageSpace(16, 16, (0.5,) * 3, (0.5,) * 3)
RESUMABLE = [name for name in METHODS.names() if METHODS.get(name).resumable]
CHANGES: dict[str, dict[str, Any]] = {
    "spdfq": {"redraw_regions": True, "apa_share": 0.5, "apa": True},
    "clamp_vit": {"positives": 2},
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Kept:
    """The state after three steps, and how many came after it was loaded."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] | None = None
        self.asked = 0

    def due(self) -> bool:
        self.asked += 1
        return self.asked == 3

    def store(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.clone() for name, value in state.items()}

    def load(self) -> dict[str, Tensor] | None:
        return self.state


class Killed(Exception):
    pass


def killed(done: int, total: int) -> None:
    if done == 5:
        raise Killed


@pytest.mark.parametrize("name", RESUMABLE)
def test_killed_synthesis_goes_on_to_the_same_images(name: str) -> None:
    method, model, kept = METHODS.get(name), tiny_vit(), Kept()
    config = replace(method.default_config("vit_digits"), images=3, iterations=7, **CHANGES.get(name, {}))
    context = SynthesisContext(SPACE, 10, seeded(0))
    whole = method.synthesize(model, config, context)
    with pytest.raises(Killed):
        method.synthesize(model, config, replace(context, generator=seeded(0), snapshots=kept, report=killed))
    steps: list[int] = []
    again = method.synthesize(
        model,
        config,
        replace(context, generator=seeded(0), snapshots=kept, report=lambda done, _: steps.append(done)),
    )
    assert steps == [4, 5, 6, 7]
    assert torch.equal(again.images, whole.images)
    assert list(again.losses.items()) == list(whole.losses.items())
    assert again.extras.keys() == whole.extras.keys()
    assert all(torch.equal(again.extras[key], whole.extras[key]) for key in whole.extras)


def test_methods_whose_students_learn_are_not_resumed() -> None:
    assert {"spdfq", "spdfq_paper", "psaq_vit", "smi"} <= set(RESUMABLE)
    assert not {"maskaq", "psaq_vit_v2"} & set(RESUMABLE)
