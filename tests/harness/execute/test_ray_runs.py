"""The Ray executor: the same records as the local one, a quiet terminal, and how a run is stopped."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness_kit import ROOT, Outcome, flat_folder, python, records_of, run_bench, snapshot
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

PARITY = [
    *["--models", "vit_digits,swin_digits", "--methods", "noise,spdfq", "--backends", "blockwise"],
    *["--bits", "w4a4", "--limit", "40", "--device", "cpu"],
    *["--set", "spdfq.iterations=2", "--set", "spdfq.images=4", "--set", "noise.images=4"],
    *["--set", "blockwise.iterations=2"],
]


def run_ray(results: Path, *words: str) -> Outcome:
    return python("-m", "harness.bench", "--results", str(results), *words)


@pytest.fixture(scope="module")
def ray_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    results = tmp_path_factory.mktemp("ray") / "results"
    return results, run_ray(results, *PARITY)


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in record.items() if name not in ("provenance", "sha256")}
    stages = {
        stage: {name: value for name, value in found.items() if name not in ("seconds", "peak_mb")}
        for stage, found in record["stages"].items()
    }
    return {**kept, "stages": stages}


def test_both_executors_leave_the_same_records(ray_run: tuple[Path, Outcome], tmp_path: Path) -> None:
    results, done = ray_run
    assert done.code == 0, done.err
    assert run_bench(tmp_path, *PARITY).code == 0
    by_ray, by_local = records_of(results), records_of(tmp_path)
    assert len(by_ray) == 4
    assert {key: without_times(record) for key, record in by_ray.items()} == {
        key: without_times(record) for key, record in by_local.items()
    }
    assert {record["provenance"]["executor"] for record in by_ray.values()} == {"ray"}
    assert {record["provenance"]["executor"] for record in by_local.values()} == {"local"}


def test_the_terminal_shows_jobs_and_nothing_of_rays_own(ray_run: tuple[Path, Outcome]) -> None:
    _, done = ray_run
    lines = done.out.splitlines()
    steps = [line for line in lines if line.startswith("[")]
    assert [line.partition("]")[0] for line in steps] == [f"[{number}/10" for number in range(1, 11)]
    assert all(re.search(r"left: .*: (done|top-1 \d.*%)$", line) for line in steps)
    before_table = lines[: next(number for number, line in enumerate(lines) if line.startswith("Top-1"))]
    others = [line for line in before_table if line not in steps]
    assert all(re.match(r"\d+ of \d+ (cells are recorded|jobs done)|\d+ jobs, about", line) for line in others), (
        "nothing of Ray's"
    )
    assert done.err == ""


def test_nothing_of_rays_is_left_in_results(ray_run: tuple[Path, Outcome]) -> None:
    results, _ = ray_run
    assert sorted(child.name for child in results.iterdir()) == ["cache", "images", "records"]


def test_a_finished_run_starts_no_ray(ray_run: tuple[Path, Outcome]) -> None:
    results, _ = ray_run
    before = snapshot(results)
    script = (
        "import sys; from harness.bench import main\n"
        f"code = main(['--results', {str(results)!r}, *{PARITY!r}])\n"
        "print(code, 'ray' in sys.modules)"
    )
    assert python("-c", script).out.splitlines()[-1] == "0 False"
    assert snapshot(results) == before


def test_the_gate_stops_a_run_on_ray(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.manual_seed(0)
    state = timm.create_model("deit_tiny_patch16_224", pretrained=False).state_dict()
    save_file(state, weights / "deit_tiny_patch16_224.fb_in1k.safetensors")
    data = flat_folder(tmp_path / "data", 4)
    words = ["--models", "deit_t", "--methods", "noise", "--backends", "minmax", "--bits", "w4a4", "--device", "cpu"]
    done = run_ray(tmp_path / "results", *words, "--weights", str(weights), "--data", str(data))
    assert done.code == 2, done
    assert done.err.startswith("deit_t reaches")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.out
    assert records_of(tmp_path / "results") == {}


@pytest.mark.slow
def test_a_killed_run_on_ray_goes_on_where_it_was(tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["--models", "vit_digits", "--methods", "noise", "--backends", "minmax", "--limit", "50"]
    words += ["--bits", "w4a4,w8a8", "--seeds", "0,1,2,3", "--device", "cpu"]
    command = [sys.executable, "-m", "harness.bench", "--results", str(results), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DFQ_")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 180
        while len(list((results / "records").glob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        driver.send_signal(signal.SIGKILL)
    time.sleep(5)  # Ray's workers notice and end; one may still finish its cell
    finished = {name: kept for name, kept in snapshot(results / "records").items() if name.endswith(".json")}
    assert 2 <= len(finished) < 8, "killed in the middle"
    assert run_ray(results, *words).code == 0
    after = snapshot(results / "records")
    assert {name: after[name] for name in finished} == finished
    assert len(records_of(results)) == 8
    assert {record["status"] for record in records_of(results).values()} == {"ok"}
