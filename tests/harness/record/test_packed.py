"""Packed records: the same records in fewer bytes, which every reader takes beside files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from harness_kit import correct, keyed, make_fields, put, run_here, run_leaderboard, typed
from msgspec.structs import replace

from harness import check
from harness.record.packed import OPERATIONS, RECORDS
from harness.record.record import Record
from harness.record.records import find_record, is_recorded, load_records, pack_folder, record_path, write_record
from methods.errors import UsageError

OPERATION = {"operation": "head weight", "quantizer": "uniform", "bits": 4}


def filled(folder: Path, count: int = 5) -> list[Record]:
    """Write records of one list of operations, one of them failed; returns what is read again."""
    for seed in range(count):
        fields = keyed({**make_fields("", seed=seed, hits=correct(100, 50 + seed)), "quantized_ops": [OPERATION]})
        write_record(folder, typed(fields))
    write_record(folder, typed(keyed(make_fields("", status="failed", seed=count))))
    return unsealed(folder)


def unsealed(folder: Path) -> list[Record]:
    found = load_records([folder])
    assert found.problems == []
    return [replace(record, sha256=None) for record in found.sound]


def test_packing_keeps_every_record_and_leaves_a_line_each_sorted_by_key(tmp_path: Path) -> None:
    before = filled(tmp_path)
    table = run_leaderboard(str(tmp_path), "--format", "md").out
    done = run_here(check.main, ["--pack", str(tmp_path)])
    assert (done.code, done.out) == (0, f"{tmp_path}: 6 records packed.\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORDS]
    assert unsealed(tmp_path) == before
    stands_once, *lines = [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()]
    assert [line["key"] for line in lines] == [record.key for record in before]
    assert stands_once["quantized_ops"] == [OPERATION]
    assert run_leaderboard(str(tmp_path), "--format", "md").out == table
    assert "6 records checked, 0 with problems, 1 of failed cells" in run_here(check.main, [str(tmp_path)]).out


def test_packed_cells_are_not_measured_again_and_new_ones_are_packed_with_them(tmp_path: Path) -> None:
    before = filled(tmp_path)
    pack_folder(tmp_path)
    assert [is_recorded(tmp_path, record.key) for record in before].count(True) == 5
    failed = typed(keyed(make_fields("", status="failed", seed=0)))
    write_record(tmp_path, failed)
    assert not record_path(tmp_path, failed.key).exists(), "the cell has succeeded already"
    new = typed(keyed(make_fields("", seed=77)))
    write_record(tmp_path, new)
    assert find_record(tmp_path, new.key) is not None
    assert pack_folder(tmp_path) == 7
    assert {record.key for record in unsealed(tmp_path)} == {new.key, *(record.key for record in before)}


def test_line_ends_do_not_matter_but_every_other_byte_does(tmp_path: Path) -> None:
    filled(tmp_path)
    pack_folder(tmp_path)
    path = tmp_path / RECORDS
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(unsealed(tmp_path)) == 6
    path.write_bytes(path.read_bytes().replace(b'"kl":0.25', b'"kl":0.26', 1))
    found = load_records([tmp_path])
    assert len(found.sound) == 5
    [problem] = found.problems
    assert problem.startswith(f"{RECORDS}, line ")
    assert "was changed since it was written" in problem


def test_a_folder_packed_in_two_files_is_read_and_packed_in_one(tmp_path: Path) -> None:
    before = filled(tmp_path)
    pack_folder(tmp_path)
    operations, _, records = (tmp_path / RECORDS).read_bytes().partition(b"\n")
    (tmp_path / OPERATIONS).write_bytes(operations)
    (tmp_path / RECORDS).write_bytes(records)
    assert unsealed(tmp_path) == before
    assert pack_folder(tmp_path) == 6
    assert not (tmp_path / OPERATIONS).exists()
    assert unsealed(tmp_path) == before


@pytest.mark.parametrize("content", ["", '{"sha256":', '{"sha256":"a","quantized_ops":[]}'])
def test_records_without_their_operations_do_not_count(tmp_path: Path, content: str) -> None:
    before = filled(tmp_path)
    pack_folder(tmp_path)
    _, _, records = (tmp_path / RECORDS).read_text().partition("\n")
    (tmp_path / RECORDS).write_text(f"{content}\n{records}")
    found = load_records([tmp_path])
    assert len(found.sound) == 1, "the failed one has none"
    assert "its list of operations is not beside it" in found.problems[0]
    assert not is_recorded(tmp_path, before[0].key)


def test_a_packed_file_that_is_none_by_its_size_is_not_read(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / RECORDS).touch()
    os.truncate(tmp_path / RECORDS, 50 * 2**30)
    with pytest.raises(UsageError, match=r"records\.jsonl is larger than 1 GiB\.$"):
        load_records([tmp_path])


def test_a_folder_with_an_unsound_record_is_not_packed(tmp_path: Path) -> None:
    filled(tmp_path)
    put(tmp_path, make_fields("", seed=50)).write_text("{")
    with pytest.raises(UsageError, match="is not packed"):
        pack_folder(tmp_path)
    assert not (tmp_path / RECORDS).exists()
    assert len(list((tmp_path / "records").iterdir())) == 7
