"""What all tests share: one thread, and nothing of the environment but the folders a test of ImageNet asks for."""

from __future__ import annotations

import gc

import pytest
import torch


def pytest_collection_finish() -> None:
    """Take what is loaded by now out of the collector's sight: every trial of a test collects, for half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def plain_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own data, weights and terminal out of tests, and sums independent of the core count."""
    torch.set_num_threads(1)
    monkeypatch.delenv("COLUMNS", raising=False)
    if request.node.get_closest_marker("imagenet") is None:
        monkeypatch.delenv("DFQ_DATA", raising=False)
        monkeypatch.delenv("DFQ_WEIGHTS", raising=False)
