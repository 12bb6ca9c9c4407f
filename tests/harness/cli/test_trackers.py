"""`--log`: what a run told a tracker is what its cache and records hold, and a tracker that is away costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harness_kit import TINY, by_cell, run_bench
from PIL import Image

from harness.cli.tracker_writers import PROJECT, WRITERS, Told

WORDS = [*TINY, "--methods", "psaq_vit", "--bits", "w4a4", "--set", "psaq_vit.images=2"]
WORDS += ["--set", "psaq_vit.iterations=3", "--set", "psaq_vit.rounds=1"]


def test_lines_and_events_hold_what_cache_and_records_hold(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = run_bench(tmp_path, *WORDS, "--log", "jsonl,tensorboard")
    assert done.code == 0, done.err
    assert f"Log: {tmp_path / 'logs'}" in done.out.splitlines()
    made, measured = [json.loads(line) for line in (tmp_path / "logs" / "log.jsonl").read_text().splitlines()]
    record = by_cell(tmp_path)["vit_digits", "psaq_vit", "minmax", "w4a4", "0"]
    assert (made["kind"], measured["kind"]) == ("synthesis", "cell")
    assert measured["about"]["bits"] == "w4a4"
    assert measured["figures"]["top1"] == record["metrics"]["top1"]
    assert measured["figures"]["seconds/quantize"] == record["stages"]["quantize"]["seconds"]
    assert {len(values) for values in made["losses"].values()} == {3}
    events = {path.parent.name: EventAccumulator(str(path)).Reload() for path in tmp_path.rglob("events.out.*")}
    assert set(events) == {made["name"], measured["name"]}
    for name, values in made["losses"].items():
        told = [event.value for event in events[made["name"]].Scalars(f"loss/{name}")]
        assert told == pytest.approx(values)
    [shown] = events[made["name"]].Images("images")
    with Image.open(made["picture"]) as sheet:
        assert (shown.width, shown.height) == sheet.size
    [top1] = events[measured["name"]].Scalars("top1")
    assert top1.value == pytest.approx(record["metrics"]["top1"])


def test_a_tracker_that_is_away_is_named_and_costs_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_folder: Path, _run: str, _told: Told) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(WRITERS, "jsonl", ("", away))
    done = run_bench(tmp_path, *WORDS, "--log", "jsonl")
    assert done.code == 0, done.err
    assert "jsonl was told no more after ConnectionError: no route" in done.out
    assert len(by_cell(tmp_path)) == 1


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("tensorbord", "Unknown tracker 'tensorbord'. Did you mean 'tensorboard'?"),
        ("nowhere", "--log nowhere needs the package not_there: pip install 'spdfq-bench[nowhere]'."),
    ],
)
def test_unknown_and_missing_trackers_are_refused(
    log: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITERS, "nowhere", ("not_there", WRITERS["jsonl"][1]))
    done = run_bench(tmp_path / "results", *WORDS, "--log", log)
    assert (done.code, done.out, (tmp_path / "results").exists()) == (2, "", False)
    assert sentence in done.err


@pytest.mark.slow  # an extra of its own, which `dev` leaves out
def test_mlflow_keeps_figures_losses_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="no mlflow here")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    sheet = tmp_path / "sheet.png"
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(sheet)
    losses = {"total": [float(step) for step in range(1010)]}
    told = Told("a job", "synthesis", {"model": "vit"}, losses, {"top1": 90.5}, sheet, "it broke")
    WRITERS["mlflow"][1](tmp_path, "a-run", told)
    client = mlflow.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params) == ("a job", "FAILED", {"model": "vit"})
    assert run.data.metrics == {"top1": 90.5, "loss/total": 1009.0}
    assert [one.value for one in client.get_metric_history(run.info.run_id, "loss/total")] == losses["total"]
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["sheet.png"]
