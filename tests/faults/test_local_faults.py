"""Whatever happens to a run without Ray, a plain rerun completes it: nothing lost, nothing twice, nothing changed.

FAULT_TIMES says how often each fault strikes; `tests/faults/table.py` runs them all and writes a table.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from fault_kit import CONTROL
from local_faults import SCENARIOS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_plain_rerun_completes_the_matrix(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTROL, str(tmp_path))
    outcome = SCENARIOS[name](tmp_path, int(os.environ.get("FAULT_TIMES", "2")), random.Random(name))
    assert outcome.sound, outcome
