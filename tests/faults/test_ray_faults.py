"""Whatever happens to a run on Ray, nothing is lost, done twice or changed; see `test_local_faults.py`."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_kit import CONTROL

pytest.importorskip("ray")

from ray_faults import SCENARIOS, Nodes

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of orders, known to all workers because it is there before the cluster starts."""
    folder = tmp_path_factory.mktemp("control")
    os.environ[CONTROL] = str(folder)
    return folder


@pytest.fixture(scope="module")
def nodes(control: Path) -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.cluster.shutdown()


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost(name: str, tmp_path: Path, nodes: Nodes) -> None:
    outcome = SCENARIOS[name](tmp_path, int(os.environ.get("FAULT_TIMES", "1")), random.Random(name), nodes)
    assert outcome.sound, outcome
