"""Whatever happens to a run, a plain rerun completes it: nothing lost, nothing twice, nothing changed.

FAULT_TIMES says how often each fault strikes; `tests/faults/table.py` runs them all and writes a table.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import damage
import local_faults
import pytest
import ray_faults
from fault_kit import CONTROL

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
_OF_ROOT = ("small_disk",)


@pytest.mark.parametrize("name", local_faults.SCENARIOS)
def test_without_ray(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in _OF_ROOT and os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    monkeypatch.setenv(CONTROL, str(tmp_path))
    outcome = local_faults.SCENARIOS[name](tmp_path, int(os.environ.get("FAULT_TIMES", "2")), random.Random(name))
    assert outcome.sound, outcome


@pytest.mark.parametrize("name", damage.SCENARIOS)
def test_damaged_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTROL, str(tmp_path))
    outcome = damage.SCENARIOS[name](tmp_path, 40, random.Random(name))
    assert outcome.counted == outcome.broken == 0, outcome
    assert outcome.problems == []


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray_faults.Nodes]:
    """A cluster whose workers all know the folder of orders, because it is there before the cluster starts."""
    pytest.importorskip("ray")
    os.environ[CONTROL] = str(tmp_path_factory.mktemp("control"))
    found = ray_faults.Nodes()
    yield found
    found.cluster.shutdown()


@pytest.mark.parametrize("name", ray_faults.SCENARIOS)
def test_on_ray(name: str, tmp_path: Path, nodes: ray_faults.Nodes) -> None:
    times = int(os.environ.get("FAULT_TIMES", "1"))
    outcome = ray_faults.SCENARIOS[name](tmp_path, times, random.Random(name), nodes)
    assert outcome.sound, outcome
