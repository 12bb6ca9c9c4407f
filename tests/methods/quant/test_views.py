"""Views of the images: regression and learning see them, ranges do not, and the estimate counts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import WIDE, noise, tiny_vit

from methods.backends import repq
from methods.backends.best import Best, BestConfig
from methods.backends.blockwise import Blockwise, BlockwiseConfig, loosen
from methods.backends.erq import ErqConfig, reduce_errors
from methods.bits import Bits
from methods.contracts import QuantizationContext
from methods.errors import UsageError
from methods.optimisation.views import with_views
from methods.quant.insert import fold_weights
from methods.quant.learning.reconstruct import reconstruct

W4A4 = Bits(4, 4)


def context() -> QuantizationContext:
    return QuantizationContext(torch.Generator().manual_seed(3), WIDE)


def by_hand(model: Any, config: BlockwiseConfig, views: int) -> Any:
    here = context()
    seen = with_views(noise(4), views, here.generator)
    quantized = repq.reparameterized(model, noise(4), W4A4, WIDE, config.grids(repq.RECIPE))
    loosen(reduce_errors(quantized, seen, ErqConfig(), here))
    reconstruct(model, quantized, seen, config, here.generator, here.report)
    fold_weights(quantized)
    return quantized


def test_regression_and_learning_see_the_views() -> None:
    model = tiny_vit()
    config = BlockwiseConfig(init="erq", attention="log_sqrt2", views=2, iterations=3, learning_rate=1e-3, batch=5)
    found: Any = Blockwise().quantize(model, noise(4), W4A4, config, context())
    expected, without = by_hand(model, config, 2), by_hand(model, config, 0)
    assert torch.equal(found(noise(2)), expected(noise(2)))
    assert not found(noise(2)).allclose(without(noise(2)), atol=1e-2)
    kept = {name: value for name, value in without.state_dict().items() if name.endswith("inputs.scale")}
    assert len(kept) == 10
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in kept.items())


def test_estimate_counts_views() -> None:
    assert Best().image_passes(BestConfig(), 8) == 8 + 64 + 50 * 16
    assert Best().image_passes(BestConfig(batch=0), 8) == 8 + 64 + 50 * 64
    assert Blockwise().image_passes(BlockwiseConfig(), 8) == 8 + 100 * 8
    assert Blockwise().image_passes(BlockwiseConfig(init="erq"), 8) == 16 + 100 * 8


def test_fewer_than_no_views_are_refused() -> None:
    with pytest.raises(UsageError, match="views must be at least 0"):
        BlockwiseConfig(views=-1)
