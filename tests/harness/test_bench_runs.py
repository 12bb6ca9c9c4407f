"""The main job end to end, in this process with the local executor."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness_kit import (
    ROOT,
    TINY,
    Outcome,
    by_cell,
    flat_folder,
    flip_last_byte,
    images_checksum,
    records_of,
    run_bench,
    run_here,
    snapshot,
    stream,
    synthesis_files,
)

from harness import check
from harness.inputs.digits import digits_split
from harness.inputs.image_sets import limited
from harness.inputs.weights import find_weights, load_model
from harness.inputs.zoo import ENTRIES, PARAMETERS
from harness.record import correctness
from harness.record.files import hash_file

RUN = [
    *TINY,
    *["--methods", "noise,real,spdfq", "--bits", "w4a4,w32a32"],
    *["--set", "spdfq.iterations=2", "--set", "spdfq.images=4"],
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """One run of six cells; tests read it and leave it as it is."""
    results = tmp_path_factory.mktemp("run") / "results"
    return results, run_bench(results, *RUN)


@pytest.fixture
def copied(run: tuple[Path, Outcome], tmp_path: Path) -> Path:
    """A copy of that run which a test may spoil."""
    return Path(shutil.copytree(run[0], tmp_path / "results"))


def measured(record: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same however a cell was run."""
    kept = ("key", "cell", "config", "metrics", "quantized_ops", "images_sha256", "logits_sha256", "correct_bits")
    return {name: record[name] for name in kept}


def test_all_cells_are_recorded_and_printed(run: tuple[Path, Outcome]) -> None:
    results, done = run
    assert done.code == 0, done.err
    assert done.err == ""
    found = by_cell(results)
    assert set(found) == {
        ("vit_digits", method, "minmax", bits, "0")
        for method in ("noise", "real", "spdfq")
        for bits in ("w4a4", "w32a32")
    }
    assert {path.suffix for path in results.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".png"}
    assert len(synthesis_files(results)) == 3
    for method in ("noise", "real", "spdfq"):
        top1 = [found["vit_digits", method, "minmax", bits, "0"]["metrics"]["top1"] for bits in ("w4a4", "w32a32")]
        [row] = [line for line in done.out.splitlines() if f" {method} + minmax" in line]
        assert re.findall(r"\d+\.\d\d", row)[:2] == [f"{figure:.2f}" for figure in top1]
    assert "n = 50" in done.out


def test_records_have_the_documented_shape(run: tuple[Path, Outcome]) -> None:
    assert run_here(check.main, [str(run[0])]).code == 0
    for stem, record in records_of(run[0]).items():
        assert (record["schema"], record["key"], record["status"], record["error"]) == (1, stem, "ok", None)
        assert {"model", "method", "backend", "bits", "seed", "data", "overrides"} <= set(record["cell"])
        assert {"top1", "top5", "stderr", "n", "fp32_top1", "agreement"} <= set(record["metrics"])
        assert set(record["stages"]) == {"synthesize", "quantize", "evaluate"}
        for stage in record["stages"].values():
            assert stage["seconds"] >= 0
            assert 50 < stage["peak_mb"] < 50_000
            assert stage["cached"] is False
        assert record["weights"]["sha256"] == hash_file(
            ROOT / "harness" / "inputs" / "embedded" / "vit_digits.safetensors"
        )
        assert record["weights"]["parameters"] == PARAMETERS["vit_digits"]
        assert record["meaningless"] is False
        assert record["versions"]["libraries"]["torch"] == torch.__version__.partition("+")[0] or torch.__version__
        assert {"commit", "command", "time", "device", "threads", "executor"} <= set(record["provenance"])
        assert (record["provenance"]["executor"], record["provenance"]["device"]) == ("local", "cpu")
        changed = {"spdfq.iterations": 2, "spdfq.images": 4} if record["cell"]["method"] == "spdfq" else {}
        assert record["cell"]["overrides"] == changed


def test_metrics_follow_from_the_images_that_were_right(run: tuple[Path, Outcome]) -> None:
    for record in records_of(run[0]).values():
        found, hits = record["metrics"], correctness.unpack(record["correct_bits"], 50)
        share = sum(hits) / 50
        assert found["n"] == record["cell"]["data"]["n"] == 50
        assert found["top1"] == pytest.approx(100 * share)
        assert found["stderr"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 50))
        assert found["top1"] <= found["top5"] <= 100


def test_fp32_cells_are_the_model_itself(run: tuple[Path, Outcome]) -> None:
    images, labels = digits_split(train=False)
    chosen = limited(labels.tolist(), 50)
    entry = ENTRIES["vit_digits"]
    model = load_model(entry, find_weights(entry, None))
    with torch.no_grad():
        predicted = model(torch.from_numpy(images[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1).argmax(1).numpy()
    hits = predicted == labels[chosen]
    for cell, record in by_cell(run[0]).items():
        assert record["metrics"]["fp32_top1"] == pytest.approx(100 * float(np.mean(hits)))
        if cell[3] == "w32a32":
            assert record["metrics"]["agreement"] == 100.0
            assert record["metrics"]["kl"] == pytest.approx(0.0, abs=1e-6)
            assert correctness.unpack(record["correct_bits"], 50).tolist() == hits.tolist()
            assert record["quantized_ops"] == []
        else:
            assert record["metrics"]["kl"] > 1e-6
            assert len(record["quantized_ops"]) > 40
            bits = int(cell[3][1])
            assert {operation["bits"] for operation in record["quantized_ops"]} == {bits, 8}  # 8: the image


def test_images_come_from_the_named_stream_and_are_shared(run: tuple[Path, Outcome]) -> None:
    found: dict[str, set[str]] = {}
    for cell, record in by_cell(run[0]).items():
        found.setdefault(cell[1], set()).add(record["images_sha256"])
    assert {len(sums) for sums in found.values()} == {1}
    assert len(set.union(*found.values())) == 3
    noise = torch.randn((32, 3, 32, 32), generator=stream("0/synthesis"))
    assert found["noise"] == {images_checksum(noise)}
    order = torch.randperm(1297, generator=stream("0/real images"))[:32]
    real = torch.from_numpy(digits_split(train=True)[0])[order].permute(0, 3, 1, 2).contiguous().float()
    assert found["real"] == {images_checksum((real / 255 - 0.5) / 0.5)}


def test_a_rerun_does_nothing_again(run: tuple[Path, Outcome]) -> None:
    before = snapshot(run[0])
    start = time.monotonic()
    done = run_bench(run[0], *RUN)
    assert done.code == 0
    assert snapshot(run[0]) == before
    assert "noise + minmax" in done.out
    assert ": done" not in done.out
    assert time.monotonic() - start < 20


def test_another_folder_gets_the_same_figures(run: tuple[Path, Outcome], tmp_path: Path) -> None:
    done = run_bench(tmp_path / "other", *RUN)
    assert done.code == 0
    one, two = records_of(run[0]), records_of(tmp_path / "other")
    assert {key: measured(record) for key, record in one.items()} == {
        key: measured(record) for key, record in two.items()
    }


def test_only_missing_cells_are_run_from_the_cache(copied: Path) -> None:
    before = snapshot(copied)
    lost = by_cell(copied)["vit_digits", "spdfq", "minmax", "w4a4", "0"]
    (copied / "records" / f"{lost['key']}.json").unlink()
    assert run_bench(copied, *RUN).code == 0
    again = records_of(copied)[lost["key"]]
    assert measured(again) == measured(lost)
    assert again["stages"]["synthesize"]["cached"] is True
    assert again["stages"]["synthesize"]["seconds"] == lost["stages"]["synthesize"]["seconds"]
    after = snapshot(copied)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {f"records/{lost['key']}.json"}


@pytest.mark.parametrize("kind", ["synthesis", "reference"])
def test_a_damaged_cache_entry_is_made_again(copied: Path, kind: str) -> None:
    before = by_cell(copied)
    for path in (copied / "cache" / kind).iterdir():
        flip_last_byte(path)
    damaged = snapshot(copied / "cache" / kind)
    shutil.rmtree(copied / "records")
    done = run_bench(copied, *RUN)
    assert done.code == 0, done.out
    after = by_cell(copied)
    assert {cell: measured(record) for cell, record in after.items()} == {
        cell: measured(record) for cell, record in before.items()
    }
    repaired = snapshot(copied / "cache" / kind)
    assert set(repaired) == set(damaged)
    assert all(repaired[name][1] != damaged[name][1] for name in damaged)
    cached = {record["stages"]["synthesize"]["cached"] for record in after.values()}
    assert cached == {kind != "synthesis"}, "a synthesis that was made again was not taken from the cache"


def test_damaged_records_are_measured_again(copied: Path) -> None:
    before = records_of(copied)
    key = min(before)
    path = copied / "records" / f"{key}.json"
    path.write_text(path.read_text()[:100])
    outcome = run_bench(copied, *RUN)
    assert outcome.code == 0
    assert f"Not counted, measured again: {key}.json is not readable JSON." in outcome.out
    assert measured(records_of(copied)[key]) == measured(before[key])


LABEL_FREE = ["--models", "test_vit.r160_in1k", "--backends", "minmax", "--methods", "noise", "--weights", "random"]


def test_without_data_agreement_is_measured(tmp_path: Path) -> None:
    words = [*LABEL_FREE, "--bits", "w8a8,w32a32", "--limit", "6", "--set", "noise.images=4"]
    done = run_bench(tmp_path, *words)
    assert done.code == 0, done.err
    found = {cell[3]: record for cell, record in by_cell(tmp_path).items()}
    for record in found.values():
        unknown = [record["metrics"][name] for name in ("top1", "top5", "stderr", "fp32_top1")]
        assert unknown == [None] * 4
        assert record["correct_bits"] is None
        assert record["meaningless"] is True
        assert record["weights"]["sha256"] == "random"
        assert (record["cell"]["data"]["name"], record["metrics"]["n"]) == ("dead-leaves", 6)
    assert found["w32a32"]["metrics"]["agreement"] == 100.0
    assert found["w8a8"]["metrics"]["kl"] > 0
    text = " ".join(done.out.split())
    assert "Top-1 agreement with FP32, % - dead-leaves, n = 6" in text
    assert "--data" in text
    assert "Random weights" in text


def test_a_folder_of_images_is_measured_with_its_labels(tmp_path: Path) -> None:
    folder = flat_folder(tmp_path / "mine", 5)
    words = [*LABEL_FREE, "--bits", "w32a32", "--data", str(folder), "--set", "noise.images=2"]
    assert run_bench(tmp_path / "results", *words).code == 0
    [record] = records_of(tmp_path / "results").values()
    assert record["cell"]["data"]["name"] == "mine"
    hits = correctness.unpack(record["correct_bits"], 5)
    assert record["metrics"]["top1"] == record["metrics"]["fp32_top1"] == pytest.approx(20.0 * sum(hits))
    (folder / "2.jpg").write_bytes(b"broken")
    assert run_bench(tmp_path / "results", *words).code == 2
    done = run_bench(tmp_path / "results", *words, "--skip-bad-images")
    assert "Images of mine left out: 1 (no image: 1)." in " ".join(done.out.split())
    found = {record["metrics"]["n"]: record.get("left_out") for record in records_of(tmp_path / "results").values()}
    assert found == {5: None, 4: {"no image": 1}}


def test_swin_runs_through_the_blockwise_backend(tmp_path: Path) -> None:
    words = ["--models", "swin_digits", "--methods", "noise", "--bits", "w8a8", "--limit", "50"]
    words += ["--set", "blockwise.iterations=2", "--set", "noise.images=4"]
    assert run_bench(tmp_path, *words).code == 0
    [record] = records_of(tmp_path).values()
    assert record["metrics"]["top1"] >= 80
    assert record["config"]["backend"]["iterations"] == 2
    assert any("log2" in operation["quantizer"] for operation in record["quantized_ops"])


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = [*TINY, "--methods", "noise", "--bits", "w4a4,w8a8", "--seeds", "0,1,2,3,4,5"]
    command = [sys.executable, "-m", "harness.bench", "--executor", "local", "--results", str(results), *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DFQ_")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as driver:
        deadline = time.monotonic() + 120
        while len(list((results / "records").glob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        driver.send_signal(signal.SIGKILL)
    finished = {name: kept for name, kept in snapshot(results / "records").items() if name.endswith(".json")}
    assert 2 <= len(finished) < 12, "killed in the middle"
    done = run_bench(results, *words)
    assert done.code == 0, done.err
    after = snapshot(results / "records")
    assert {name: after[name] for name in finished} == finished
    assert len(by_cell(results)) == 12
    assert {record["status"] for record in records_of(results).values()} == {"ok"}
    assert len(re.findall(r"w[48]a[48] noise minmax seed \d: top-1 ", done.out)) == 12 - len(finished)
    assert "±" in done.out
