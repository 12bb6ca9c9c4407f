"""Bits per layer from a TOML file: what is read, what is refused, and what a run with them leaves."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import zlib
from pathlib import Path

import pytest
from harness_kit import TINY, Outcome, records_of, run_bench, run_here, run_leaderboard

from harness import check
from harness.plan.mixed_bits import read_bits
from methods.bits import Bits
from methods.errors import UsageError

PLAN = """default = "w4a4"
[layers]
"blocks.0.*" = "w8a8"
head = "w3a8"
"""


def toml(folder: Path, text: str, name: str = "plan.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    bits = read_bits(toml(tmp_path, PLAN, "first-last 2.toml"))
    assert bits == Bits(4, 4, (("blocks.0.*", Bits(8, 8)), ("head", Bits(3, 8))), "first_last_2")
    assert read_bits("w4a8") == Bits(4, 8)
    assert str(read_bits(toml(tmp_path, 'default = "w4a4"'))) == "w4a4"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default = ", "cannot be read"),
        ('[layers]\nhead = "w8a8"', 'needs default = "w4a4"'),
        ("default = 4", 'needs default = "w4a4"'),
        ('default = "w4a4"\nlayers = 3', "a table [layers]"),
        ('default = "w4a4"\n[layer]\nhead = "w8a8"', "'layer'. Did you mean 'layers'?"),
        ('default = "w4a4"\n[layers]\nblocks.0 = "w8a8"', "names with dots in quotes"),
        ('default = "w4a4"\n[layers]\nhead = 8', "names with dots in quotes"),
        ('default = "w4a4"\n[layers]\nhead = "8"', "not of the form w4a4"),
        ('default = "w4a9"', "out of range"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_bits(toml(tmp_path, text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value).strip()
    with pytest.raises(UsageError, match=r"absent\.toml cannot be read"):
        read_bits("absent.toml")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ('"block.0.mlp.fc1" = "w8a8"', ["'block.0.mlp.fc1'", "vit_digits", "plan.toml", "'blocks.0.mlp.fc1'"]),
        ('haed = "w8a8"', ["'haed'", "'head'"]),
        ('"blocks.0.norm1" = "w8a8"', ["'blocks.0.norm1'"]),
        ('"blocks.*" = "w8a8"\n"*" = "w2a2"', ["'blocks.*'", "decides nothing"]),
    ],
)
def test_patterns_that_do_nothing_are_refused(tmp_path: Path, layers: str, expected: list[str]) -> None:
    plan = toml(tmp_path, f'default = "w4a4"\n[layers]\n{layers}\n')
    done = run_bench(tmp_path / "results", *TINY, "--methods", "noise", "--bits", plan)
    assert (done.code, done.out) == (2, "")
    assert all(word in done.err for word in expected), done.err
    assert not (tmp_path / "results").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """Measure uniform, floating-point and mixed bits."""
    folder = tmp_path_factory.mktemp("mixed")
    words = [*TINY, "--methods", "noise", "--bits", f"w4a4,w32a32,{toml(folder, PLAN)}"]
    return run_bench(folder / "results", *words), folder / "results"


def test_a_run_leaves_the_table_of_every_layer(run: tuple[Outcome, Path]) -> None:
    done, results = run
    assert done.code == 0, done
    cells = {record["cell"]["bits"]: record for record in records_of(results).values()}
    [label] = [bits for bits in cells if "+" in bits]
    assert label == str(Bits(4, 4, (("blocks.0.*", Bits(8, 8)), ("head", Bits(3, 8))), "plan"))
    assert label in done.out
    table = cells[label]["layer_bits"]
    assert table["patterns"] == [["blocks.0.*", "w8a8"], ["head", "w3a8"]]
    depth = sum(name.endswith(".attn") for name in table["layers"])
    assert len(table["layers"]) == 2 + 5 * depth
    for name, bits in table["layers"].items():
        assert bits == ("w3a8" if name == "head" else "w8a8" if name.startswith("blocks.0.") else "w4a4"), name
    listed = {row["operation"]: row["bits"] for row in cells[label]["quantized_ops"]}
    names = ("head weight", "head input", "blocks.0.attn softmax", "blocks.1.attn key")
    assert [listed[name] for name in names] == [3, 8, 8, 4]
    assert all("layer_bits" not in record for bits, record in cells.items() if bits != label)


def test_costs_stand_in_records_and_tables(run: tuple[Outcome, Path], tmp_path: Path) -> None:
    _, results = run
    costs = {record["cell"]["bits"]: record["costs"] for record in records_of(results).values()}
    [label] = [bits for bits in costs if "+" in bits]
    assert costs["w32a32"]["size_bytes"] == 4 * 308_042
    assert costs["w32a32"]["bitops"] == 1024 * costs["w4a4"]["macs"]
    assert costs["w4a4"]["bitops"] == 16 * costs["w4a4"]["macs"] + 16 * 64 * 48 * 64  # the image at 8 bits
    assert costs["w4a4"]["bitops"] < costs[label]["bitops"] < 64 * costs["w4a4"]["macs"]
    assert costs["w4a4"]["size_bytes"] < costs[label]["size_bytes"] < 308_042
    assert run_here(check.main, [str(results)]).code == 0
    written = run_leaderboard(str(results), "--format", "all", "--out", str(tmp_path))
    assert written.code == 0, written
    lines = list(csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text())))
    assert {line["bits"]: (int(line["size_bytes"]), int(line["bitops"])) for line in lines} == {
        bits: (cost["size_bytes"], cost["bitops"]) for bits, cost in costs.items()
    }
    packed = re.search(r'id="data-records">([^<]+)<', (tmp_path / "index.html").read_text())
    assert packed is not None
    told = zlib.decompress(base64.b64decode(packed[1])).decode()
    assert f"{costs[label]['size_bytes'] / 1e6:.3f} MB" in told
    assert "blocks.0.* w8a8" in told


def test_the_same_file_again_is_recorded_already_and_another_is_not(run: tuple[Outcome, Path], tmp_path: Path) -> None:
    _, results = run
    again = run_bench(results, *TINY, "--methods", "noise", "--bits", toml(tmp_path, PLAN), "--plan")
    other = run_bench(
        results, *TINY, "--methods", "noise", "--bits", toml(tmp_path, PLAN.replace("w3a8", "w2a8")), "--plan"
    )
    assert "1 cells, 1 recorded" in again.out
    assert "1 cells, 0 recorded" in other.out


def test_a_table_that_was_changed_does_not_count(run: tuple[Outcome, Path], tmp_path: Path) -> None:
    _, results = run
    [record] = [record for record in records_of(results).values() if "layer_bits" in record]
    record["layer_bits"]["patterns"][0][1] = "w2a2"
    del record["sha256"]
    path = tmp_path / "records" / f"{record['key']}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(record))
    done = run_here(check.main, [str(tmp_path)])
    assert done.code == 1
    assert "has other bits per layer than its cell names" in done.out


def test_a_plan_for_two_models_must_fit_both(tmp_path: Path) -> None:
    words = ["--models", "vit_digits,swin_digits", "--methods", "noise", "--bits", toml(tmp_path, PLAN)]
    done = run_bench(tmp_path / "results", *words)
    assert done.code == 2
    assert "swin_digits" in done.err
