"""`docs/deploy.md` does what it says: its commands and its Python, in an empty folder."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from harness_kit import ROOT, run_here

from harness.deploy import measure


@pytest.mark.slow
def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    monkeypatch.setattr(measure, "LATENCIES", ((1, 1),))
    found: dict[str, Any] = {}
    for kind, text in re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.S):
        if kind == "python":
            exec(text, found)
            continue
        _, _, module, *words = shlex.split(text)
        outcome = run_here(importlib.import_module(module).main, words)
        assert outcome.code == 0, outcome.err
    assert len(list(Path("images").glob("*.png"))) == 9  # the contact sheet with them
    assert found["logits"].shape == (2, 10)
    assert float(abs(found["logits"][0] - found["logits"][1]).max()) < 1e-3
