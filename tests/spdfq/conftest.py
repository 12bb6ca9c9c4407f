"""What tests of a whole synthesis see of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from methods.optimisation import loop


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record the images a synthesis starts from, its objective, and the regions of every step."""
    seen: dict[str, Any] = {"regions": []}
    original = loop.optimize_images

    def spy(start: Tensor, objective: Any, *rest: Any) -> Any:
        seen["start"], seen["objective"] = start.clone(), objective

        def watched(images: Tensor, step: int) -> Iterator[dict[str, Tensor]]:
            yield from objective(images, step)
            seen["regions"].append(list(objective.regions))

        return original(start, watched, *rest)

    monkeypatch.setattr("spdfq.method.optimize_images", spy)
    return seen
