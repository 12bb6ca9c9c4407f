"""Leaderboards from made-up records with known figures."""

from __future__ import annotations

import csv as csv_module
import dataclasses
import io
from typing import Any

import pytest
from harness_kit import best, correct, make_record, seeds, texts
from msgspec.structs import replace

from harness.report.formats.csv import csv
from harness.report.formats.markdown import markdown
from harness.report.measurements import measurements
from harness.report.tables import leaderboards


def test_mean_and_sd_over_seeds_by_hand() -> None:
    [table] = leaderboards(seeds("noise", [50.0, 52.0, 57.0]))
    value = dict(table.rows)["noise + minmax"][0]
    assert value is not None
    assert value.mean == pytest.approx(53.0)
    assert value.sd == pytest.approx(13.0**0.5)  # (9 + 1 + 16) / 2
    assert value.text() == "53.00 ± 3.61"


def test_one_seed_has_no_sd() -> None:
    [table] = leaderboards(seeds("noise", [50.0]))
    [value] = dict(table.rows)["noise + minmax"]
    assert value is not None
    assert (value.mean, value.sd, value.best, value.text()) == (50.0, None, True, "50.00")
    assert "; seed 0;" in table.notes[0]


def test_fp32_is_on_top_and_the_best_of_each_column_is_marked() -> None:
    records = [
        make_record("a", method="noise", bits="w4a4", top1=40.0),
        make_record("b", method="noise", bits="w8a8", top1=79.0),
        make_record("c", method="real", bits="w4a4", top1=60.0),
        make_record("d", method="real", bits="w8a8", top1=78.0),
        make_record("e", method="spdfq", bits="w8a8", top1=79.0),
    ]
    [table] = leaderboards(records)
    assert table.columns == ["vit_x w4a4", "vit_x w8a8"]
    assert [label for label, _ in table.rows] == ["FP32", "spdfq + minmax", "real + minmax", "noise + minmax"]
    assert texts(table) == {
        "FP32": ["80.00", "80.00"],
        "noise + minmax": ["40.00", "79.00"],
        "real + minmax": ["60.00", "78.00"],
        "spdfq + minmax": [None, "79.00"],
    }
    assert best(table) == {
        "FP32": [False, False],
        "noise + minmax": [False, True],
        "real + minmax": [True, False],
        "spdfq + minmax": [None, True],
    }


def test_columns_are_sorted_by_model_and_width() -> None:
    widths = ["w8a8", "w32a32", "w4a8", "w4a4", "w3a3"]
    records = [make_record(f"{m}{b}", model=m, bits=b) for m in ("vit_b", "deit_t") for b in widths]
    [table] = leaderboards(records)
    order = ["w3a3", "w4a4", "w4a8", "w8a8", "w32a32"]
    assert table.columns == [f"{model} {bits}" for model in ("deit_t", "vit_b") for bits in order]


def test_every_image_set_has_its_own_table() -> None:
    records = [
        make_record("a", data="val", n=100, top1=10.0),
        make_record("b", data="digits", n=500, top1=20.0),
        make_record("c", data="val", n=50, top1=30.0, data_sha256="c" * 64),
        make_record("d", data="val", n=100, top1=40.0, data_sha256="d" * 64),
    ]
    tables = leaderboards(records)
    assert [table.title for table in tables] == [
        "Top-1, % - digits, n = 500",
        "Top-1, % - val, n = 50",
        "Top-1, % - val, n = 100",
        "Top-1, % - val, n = 100",
    ]
    assert [texts(table)["noise + minmax"] for table in tables] == [["20.00"], ["30.00"], ["10.00"], ["40.00"]]


def test_other_settings_and_backends_are_rows_of_their_own() -> None:
    records = [
        make_record("a", top1=10.0),
        make_record("b", top1=20.0, overrides={"noise.images": 4, "minmax.x": True}),
        make_record("c", top1=30.0, backend="blockwise"),
    ]
    [table] = leaderboards(records)
    assert texts(table) == {
        "FP32": ["80.00"],
        "noise + blockwise": ["30.00"],
        "noise + minmax (minmax.x=True, noise.images=4)": ["20.00"],
        "noise + minmax": ["10.00"],
    }


def test_other_checkpoints_are_columns_of_their_own() -> None:
    records = [
        make_record("a", top1=10.0, weights="aaaaaaaa", fp32=70.0),
        make_record("b", top1=20.0, weights="bbbbbbbb", fp32=75.0),
    ]
    [table] = leaderboards(records)
    assert table.columns == ["vit_x w4a4 (aaaaaa)", "vit_x w4a4 (bbbbbb)"]
    assert texts(table) == {"FP32": ["70.00", "75.00"], "noise + minmax": ["10.00", "20.00"]}


def test_without_labels_agreement_is_shown_and_said() -> None:
    records = [
        make_record("a", top1=None, fp32=None, agreement=61.5, data="leaves"),
        make_record("b", method="real", top1=None, fp32=None, agreement=70.0, data="leaves"),
    ]
    [table] = leaderboards(records)
    assert table.title == "Top-1 agreement with FP32, % - leaves, n = 100"
    assert texts(table) == {"real + minmax": ["70.00"], "noise + minmax": ["61.50"]}
    assert any("accuracy needs --data" in note for note in table.notes)
    assert not any("standard error" in note for note in table.notes)


def test_notes_give_seeds_and_the_largest_standard_error() -> None:
    [table] = leaderboards(seeds("noise", [50.0, 90.0]))
    assert "sd over seeds 0, 1;" in table.notes[0]
    assert "at most 5.00 points" in table.notes[0]  # 100 sqrt(0.5 0.5 / 100)
    assert not any("andom weights" in note for note in table.notes)


def test_notes_say_where_a_figure_has_fewer_seeds() -> None:
    [table] = leaderboards(seeds("noise", [50.0, 60.0, 70.0]) + seeds("real", [80.0, 90.0]))
    assert "sd over seeds 0, 1, 2 (of some figures fewer, at least 2);" in table.notes[0]


def test_random_weights_are_said_to_mean_nothing() -> None:
    [table] = leaderboards([make_record("a"), make_record("b", method="real", meaningless=True)])
    assert any("Random weights" in note and "nothing about accuracy" in note for note in table.notes)


def test_failed_cells_are_in_no_table() -> None:
    [table] = leaderboards([make_record("a"), make_record("b", method="real", status="failed")])
    assert list(texts(table)) == ["FP32", "noise + minmax"]


def test_markdown_is_this_text() -> None:
    records = [
        make_record("a", top1=50.0, bits="w4a4"),
        make_record("b", top1=50.0, bits="w8a8"),
        make_record("c", method="real", top1=60.0, bits="w4a4", overrides={"real.x": "a|b"}),
    ]
    assert markdown([table.grid() for table in leaderboards(records)]) == (
        "### Top-1, % - val, n = 100\n"
        "\n"
        "| method + backend | vit_x w4a4 | vit_x w8a8 | kept, % |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| FP32 | 80.00 | 80.00 | - |\n"
        "| real + minmax (real.x=a\\|b) | **60.00** | - | - |\n"
        "| noise + minmax | 50.00 | **50.00** | 62.5 |\n"
        "\n"
        "- Simulated quantization; seed 0; standard error of one figure at most 5.00 points.\n"
        "- Bold: the best mean of a column; nothing was tested.\n"
    )


def test_csv_has_a_line_per_finished_cell() -> None:
    records = [make_record("a", top1=40.0, seed=3, libraries={"torch": "2.0"}), make_record("b", status="failed")]
    [line] = csv_module.DictReader(io.StringIO(csv(measurements(records))))
    expected = {
        "model": "vit_x", "method": "noise", "backend": "minmax", "bits": "w4a4", "seed": "3", "overrides": "",
        "data": "val", "n": "100", "data_sha256": "a" * 64, "top1": "40.0", "top5": "90.0", "fp32_top1": "80.0",
        "agreement": "60.0", "kl": "0.25", "cosine": "", "knn": "", "fp32_knn": "",
        "synthesize_seconds": "1.5", "quantize_seconds": "1.5",
        "evaluate_seconds": "1.5", "weights_sha256": "w" * 64, "meaningless": "False", "images_sha256": "b" * 64,
        "commit": "c0ffee", "key": "a", "retention": "50.0", "seconds": "3.0", "peak_mb": "10.0", "calibration": "",
        "method_version": "1", "backend_version": "1", "libraries": "torch 2.0", "protocol": "",
        "parameters": "",
        "size_bytes": "", "bitops": "", "file_mb": "", "latency_ms": "", "speed_up": "",
    }  # fmt: skip
    assert float(line.pop("stderr")) == pytest.approx((40 * 60 / 100) ** 0.5)
    assert line == expected


def test_bold_is_the_leader_and_what_the_paired_test_does_not_find_worse() -> None:
    # `correct` nests hits, so that discordant images are all on one side: 5 give p = 2/2^5, 20 give 2/2^20.
    records = [
        make_record("a", method="first", hits=correct(100, 80)),
        make_record("b", method="near", hits=correct(100, 75)),
        make_record("c", method="far", hits=correct(100, 60)),
    ]
    [table] = leaderboards(records)
    assert best(table) == {"FP32": [False], "first + minmax": [True], "near + minmax": [True], "far + minmax": [False]}
    values = {label: values[0] for label, values in table.rows}
    assert [values[f"{name} + minmax"].p for name in ("first", "near", "far")] == pytest.approx(  # type: ignore[union-attr]
        [1.0, 2 * 0.0625, 3 * 2 / 2**20]
    )
    assert len(table.notes) == 2
    assert "not significantly worse" in table.notes[1]
    assert "McNemar" in table.grid(verbose=True).notes[3]
    assert "level 5 %, Holm" in table.grid(verbose=True).notes[3]


def test_a_row_that_cannot_be_tested_is_marked_and_not_bold() -> None:
    records = [
        make_record("a", method="first", hits=correct(100, 80)),
        make_record("b", method="other_seed", seed=1, hits=correct(100, 79)),
    ]
    [table] = leaderboards(records)
    assert best(table)["other_seed + minmax"] == [False]
    assert "| other_seed + minmax | 79.00‡ |" in markdown([table.grid()])
    assert any(note.startswith("‡ not tested") for note in table.notes)


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"method_version": 2}, ["noise + minmax (method v1)", "noise + minmax (method v2)"]),
        ({"overrides": {"noise.images": 4}}, ["noise + minmax", "noise + minmax (noise.images=4)"]),
        ({"calibration": {"name": "train", "n": 5, "sha256": "d" * 64}},
         ["noise + minmax (calibrated on nothing)", "noise + minmax (calibrated on train dddddddd)"]),
    ],
)  # fmt: skip
def test_what_differs_is_never_averaged(changes: dict[str, Any], labels: list[str]) -> None:
    calibration = changes.pop("calibration", None)
    other = make_record("b", seed=1, top1=60.0, **changes)
    other = replace(other, cell=dataclasses.replace(other.cell, calibration=calibration))
    [table] = leaderboards([make_record("a", top1=50.0), other])
    assert sorted(label for label, _ in table.rows[1:]) == labels
    assert {value.text() for _, values in table.rows[1:] for value in values if value} == {"50.00", "60.00"}


def test_mixed_library_versions_are_flagged() -> None:
    records = [
        make_record("a", seed=0, libraries={"torch": "2.0", "timm": "1.0"}),
        make_record("b", seed=1, libraries={"torch": "2.1", "timm": "1.0"}),
        make_record("c", method="real", seed=0, libraries={"torch": "2.0", "timm": "1.0"}),
    ]
    [table] = leaderboards(records)
    assert "| noise + minmax | **50.00 ± 0.00**† |" in markdown([table.grid()])
    assert "| real + minmax | **50.00** |" in markdown([table.grid()])
    assert any("2 sets of library versions: torch 2.0 / 2.1." in note for note in table.details)
    assert any(note.startswith("† averages over several") for note in table.notes)


def test_differing_fp32_accuracies_are_said() -> None:
    [table] = leaderboards([make_record("a", fp32=80.0), make_record("b", method="real", fp32=82.0)])
    assert texts(table)["FP32"] == ["81.00"]
    assert any("FP32 accuracy differs between records of vit_x" in note for note in table.notes)
