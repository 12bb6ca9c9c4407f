"""Measurements as a DataFrame: pandas' own means are those of the records; a thousand records reach the table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from harness_kit import make_fields, make_record, many_records, put, python
from msgspec.structs import replace

import harness
from harness.inputs.zoo import PARAMETERS
from harness.record.record import Deployed, Finished, Latency, Operation, Ran, Record, UsedWeights
from harness.report.exports import exports_grid
from harness.report.measurements import COLUMNS, frame, measurements, protocol
from harness.report.runs import megabytes
from harness.report.tables import leaderboards
from methods.bits import Bits


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


def test_the_public_frame_reads_folders_and_says_what_each_column_means(tmp_path: Path) -> None:
    for folder, method in (("one", "noise"), ("two", "real")):
        put(tmp_path / folder, make_fields("", method=method))
    found = harness.frame(tmp_path)
    assert sorted(found.method) == ["noise", "real"]
    assert harness.frame(tmp_path / "one", tmp_path / "two").equals(found)
    told = found.attrs["columns"]
    assert list(told) == list(found.columns)
    assert all(meaning.endswith(".") for meaning in told.values())
    assert told["kl"] == "Mean KL divergence from the FP32 model, in nats."
    found.to_parquet(tmp_path / "cells.parquet")
    assert pd.read_parquet(tmp_path / "cells.parquet").attrs == found.attrs


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


def operations(image: int, grain: str) -> tuple[Operation, ...]:
    return (
        Operation("embed weight", "uniform symmetric per channel, min-max", 4),
        Operation("embed input", "uniform asymmetric per tensor, known range -1 to 1", image),
        Operation("blocks.0.attn.qkv weight", "uniform symmetric per channel, min-max", 4),
        Operation("blocks.0.attn query", f"uniform asymmetric {grain}, min-max", 4),
        Operation("blocks.0.attn softmax", f"log2 {grain}", 4),
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (operations(8, "per tensor"), "per tensor, first layer w4a8"),
        (operations(4, "per head"), "per head, first layer w4a4"),
        (operations(4, "in blocks of 32"), "blocks of 32, first layer w4a4"),
        (operations(4, "by magic"), "first layer w4a4"),
        ((), ""),
    ],
)
def test_protocols_by_hand(found: tuple[Operation, ...], told: str) -> None:
    assert protocol(found) == told


def test_a_table_across_protocols_says_so() -> None:
    plain, heads, other = (make_record(key, backend=key) for key in "abc")
    assert isinstance(plain, Finished)
    records: list[Record] = [
        replace(plain, quantized_ops=operations(8, "per tensor")),
        replace(heads, quantized_ops=operations(8, "per head")),
        replace(other, quantized_ops=operations(4, "per tensor")),
    ]
    [table] = leaderboards(records)
    assert "Protocols differ, as --verbose says by backend: activations per head or per tensor." in table.notes
    assert (
        "Protocols at w4a4: per head, first layer w4a8 (b); per tensor, first layer w4a4 (c); "
        "per tensor, first layer w4a8 (a)." in table.details
    )
    [alike] = leaderboards([records[0], records[2]])
    assert not any("Protocols" in note for note in alike.notes)


def test_a_thousand_records_all_reach_the_table(tmp_path: Path) -> None:
    many_records(tmp_path, 1000)
    done = python("-m", "harness.leaderboard", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert done.out.count("± ") == 200 + 1  # 5 methods, 10 models and 4 widths, each the mean of 5 seeds; and the note
    assert "m4 + minmax" in done.out


def test_sizes_are_parameters_times_width() -> None:
    assert megabytes("deit_t", Bits(4, 8)) == pytest.approx(5_717_416 / 2 / 1e6)
    assert megabytes("other", Bits(8, 8)) is None
    assert megabytes("other", Bits(8, 8), parameters=10**6) == 1.0


_QUICK = ("vit_digits", "swin_digits", "deit_t")


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PARAMETERS]
)
def test_parameters_are_the_models(name: str) -> None:
    import timm

    from harness.inputs.zoo import ENTRIES

    entry = ENTRIES[name]
    with torch.device("meta"):
        model = timm.create_model(entry.tag.partition(".")[0]) if entry.build is None else None
    model = model or entry.build()  # type: ignore[misc]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
