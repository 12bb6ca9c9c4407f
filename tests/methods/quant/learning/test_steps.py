"""Images kept back, targets between unit and network, and what is restored in the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_vit
from torch import Tensor, nn

from methods.backends import blockwise
from methods.bits import Bits
from methods.contracts import silent
from methods.errors import UsageError
from methods.quant.calibrate import calibrate
from methods.quant.insert import insert_quantizers
from methods.quant.learning import steps
from methods.quant.learning.objectives import LocalObjective
from methods.quant.learning.reconstruct import Targets, kept_back, reconstruct, unit_outputs
from methods.quant.learning.settings import Learning
from methods.quant.learning.steps import Best, batch_of


def test_an_image_is_kept_back_with_all_its_crops() -> None:
    kept = kept_back(12, 4, 0.25, torch.device("cpu"))
    assert kept.nonzero().flatten().tolist() == [3, 7, 11]
    assert not kept_back(12, 4, 0.0, torch.device("cpu")).any()


def test_batches_take_none_of_the_images_kept_back() -> None:
    generator, seen = torch.Generator().manual_seed(0), torch.tensor([0, 2, 3, 5])
    for _ in range(20):
        drawn: Any = batch_of(6, 2, generator, torch.device("cpu"), seen)
        assert len(set(drawn.tolist())) == 2
        assert set(drawn.tolist()) <= set(seen.tolist())
    assert batch_of(6, 0, generator, torch.device("cpu"), seen) is seen


def test_the_state_that_did_best_on_images_kept_back_is_restored() -> None:
    """A unit that adds a number: of 3, 1 and 2 the second is nearest to the target 0."""

    class Plus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.number = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.number

    unit, x = Plus(), torch.zeros((2, 1))
    best = Best(unit, x, LocalObjective(x), torch.tensor([False, True]), [unit.number])
    for number in (3.0, 1.0, 2.0):
        unit.number.data.fill_(number)
        best.look()
    best.restore()
    assert unit.number.item() == 1.0


def prepared(images: Tensor) -> tuple[Any, Any]:
    model = tiny_vit()
    quantized = insert_quantizers(model, Bits(4, 4), blockwise.RECIPE, WIDE)
    calibrate(quantized, images)
    return model, quantized


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_no_unit_ends_farther_off_on_images_kept_back_than_it_began(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On other images, and by the whole network, a rate far too large may do harm all the same."""
    losses: list[tuple[float, float]] = []

    def spy(unit: Any, inputs: Tensor, objective: Any, kept: Tensor, *rest: Any) -> None:
        rows = kept.nonzero().flatten()
        before = float(objective(unit.forward(inputs[rows]), rows))
        steps.learn(unit, inputs, objective, kept, *rest)
        losses.append((before, float(objective(unit.forward(inputs[rows]), rows))))

    monkeypatch.setattr("methods.quant.learning.reconstruct.learn", spy)
    images = noise(8)
    model, quantized = prepared(images)
    learning = Learning(iterations=10, learning_rate=rate, held_out=0.25)
    reconstruct(model, quantized, images, learning, torch.Generator().manual_seed(0), silent)
    assert len(losses) == 4
    assert all(after <= before for before, after in losses), losses


@pytest.mark.parametrize(("target", "share"), [("unit", 0.0), ("network", 1.0), ("damped", 0.25)])
def test_targets_mix_unit_and_network(target: str, share: float) -> None:
    model, images = tiny_vit(), noise(3)
    outputs = unit_outputs(model, images)
    inputs = 0.8 * outputs["blocks.0"]
    found = Targets(model, images, Learning(target=target)).of("blocks.1", inputs)
    expected = (1 - share) * model.blocks[1](inputs) + share * outputs["blocks.1"]
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"objective": "far"}, {"damping": 1.5}, {"held_out": 1.0}, {"local_weight": -1.0}, {"target": "both"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Learning(**wrong)
