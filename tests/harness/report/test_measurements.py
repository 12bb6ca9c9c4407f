"""Measurements as a DataFrame: pandas' own means are those of the records, missing values stay missing."""

from __future__ import annotations

import pandas as pd
from harness_kit import make_record
from msgspec.structs import replace

from harness.record.record import UsedWeights
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
