"""A synthesis in the cache: one that was killed goes on from its last snapshot, and its seconds are all counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.inputs.weights import find_weights
from harness.inputs.zoo import ENTRIES
from harness.plan.jobs import RunSettings, Subject, SynthesisJob
from harness.record.cache import Cache
from harness.trial import synthesis
from harness.trial.synthesis import run_synthesis
from methods.synthesis.psaq_vit import PSAQViTConfig

ENTRY = ENTRIES["vit_digits"]
JOB = SynthesisJob(
    key="k",
    subject=Subject(ENTRY, find_weights(ENTRY, None)),
    method="psaq_vit",
    config=PSAQViTConfig(images=2, iterations=6),
    seed=0,
    calibration=None,
    reference="r",
    passes=12.0,
)


class Killed(BaseException):
    pass


def made(folder: Path, key: str = "k") -> torch.Tensor:
    entry = Cache.of(folder, "synthesis").load(key)
    assert entry is not None
    return entry.tensors["images"]


def settings_of(folder: Path) -> RunSettings:
    return RunSettings(folder, "cpu", 1, True, "local", "", None, "run")


def test_killed_synthesis_goes_on_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = settings_of(tmp_path / "whole"), settings_of(tmp_path / "cut")
    run_synthesis(JOB, whole, lambda *_: None)
    monkeypatch.setattr(synthesis, "_SNAPSHOT_SECONDS", 0.0)

    def killed(stage: str, done: int, total: int, seen: str = "") -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        run_synthesis(JOB, cut, killed)
    snapshots = Cache.of(cut.results, "snapshot")
    kept = snapshots.load("k")
    assert kept is not None and int(kept.tensors["step"]) == 4
    snapshots.store("k", kept.tensors, kept.about | {"seconds": 1000.0})
    steps: list[int] = []
    run_synthesis(JOB, cut, lambda stage, done, total, seen="": steps.append(done))
    assert steps == [0, 5, 6]
    assert torch.equal(made(cut.results), made(whole.results))
    assert "k" not in snapshots
    entry = Cache.of(cut.results, "synthesis").load("k")
    assert entry is not None and 1000.0 < entry.about["stage"]["seconds"] < 1060.0


def test_damaged_snapshot_and_one_of_other_micro_batches_are_not_gone_on_from(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    snapshots = Cache.of(tmp_path, "snapshot")
    snapshots.store("k", {"images": torch.zeros(2, 1, 28, 28)}, {"micro_batch": 1, "seconds": 5.0})
    steps: list[int] = []
    run_synthesis(JOB, settings, lambda stage, done, total, seen="": steps.append(done))
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    first = made(tmp_path)
    Cache.of(tmp_path, "synthesis").path("k").unlink()
    snapshots.path("k").write_bytes(b"damaged")
    run_synthesis(JOB, settings, lambda *_: None)
    assert torch.equal(made(tmp_path), first)
