"""Measurements as a DataFrame: pandas' own means are those of the records, missing values stay missing."""

from __future__ import annotations

import pandas as pd
from harness_kit import make_record
from msgspec.structs import replace

from harness.record.record import Deployed, Finished, Latency, Ran, UsedWeights
from harness.report.exports import exports_grid
from harness.report.measurements import COLUMNS, frame, measurements


def test_groups_of_a_frame_are_the_means_of_the_records() -> None:
    made = [("noise", 0, 50.0), ("noise", 1, 53.0), ("real", 0, 70.0), ("real", 1, None)]
    records = [make_record(f"{m}{s}", method=m, seed=s, top1=value) for m, s, value in made]
    found = frame(measurements(records))
    assert list(found.columns) == list(COLUMNS)
    assert found.groupby("method").top1.mean().to_dict() == {"noise": 51.5, "real": 70.0}
    assert pd.isna(found.top1.iloc[3])
    assert found.seed.tolist() == [0, 1, 0, 1]


def test_whole_numbers_stay_whole_beside_missing_ones() -> None:
    records = [make_record("a"), make_record("b")]
    records[0] = replace(records[0], weights=UsedWeights("tag", "w" * 64, 5_717_416))
    values = frame(measurements(records)).parameters
    assert values.iloc[0] == 5_717_416
    assert values.dtype == pd.Int64Dtype()
    assert pd.isna(values.iloc[1])


def test_exported_files_stand_beside_the_simulated_model() -> None:
    ran = Ran(70.0, 99.0, 0.1, "1.2", (Latency(1, 1, 16.0, 20.0), Latency(8, 2, 50.0, 200.0)))
    whole, unmeasured = (make_record(key) for key in "ab")
    assert isinstance(whole, Finished)
    files = {"onnx": Deployed(6_000_000, False, 70.5, {"some": ran}, 22_800_000)}
    files["torch"] = Deployed(7_000_000, False, None, {"torch": Ran(None, 98.0, 0.1)})
    grid = exports_grid(measurements([unmeasured, replace(whole, deployed=files)]))
    assert grid is not None
    assert grid.header[2:] == [
        "top-1", "simulated", "alike", "MB", "MB, FP32", "1 image, 1 thread", "8 images, 2 threads"
    ]  # fmt: skip
    assert [[word.text for word in row[1:]] for row in grid.body] == [
        ["onnx some 1.2", "70.00", "70.50", "99.00", "6.00", "22.80", "16.0 (1.25x)", "50.0 (4.00x)"],
        ["torch torch", "-", "-", "98.00", "7.00", "-", "-", "-"],
    ]
    assert {row[0].text for row in grid.body} == {"vit_x w4a4 noise + minmax"}
    assert exports_grid(measurements([unmeasured])) is None


def test_speed_is_that_of_the_fastest_runtime_where_it_was_measured() -> None:
    slow, fast = Latency(1, 1, 20.0, 30.0), Latency(1, 1, 16.0, 20.0)
    others = (Latency(8, 1, 1.0, 9.0), Latency(1, 2, 2.0, 9.0))
    runs = {"one": Ran(70.0, 99.0, 0.1, "1", (slow, *others)), "two": Ran(70.0, 99.0, 0.1, "1", (fast, *others))}
    files = {
        "a": Deployed(6_200_000, False, 70.0, runs),
        "b": Deployed(6_000_000, False, 70.0, {"torch": Ran(70.0, 99.0, 0.1)}),
    }
    whole, unmeasured = (make_record(key) for key in "ab")
    assert isinstance(whole, Finished)
    first, second = measurements([replace(whole, deployed=files), unmeasured])
    assert (first.file_mb, first.latency_ms, first.speed_up) == (6.0, 16.0, 1.25)
    assert (second.file_mb, second.latency_ms, second.speed_up) == (None, None, None)
