"""Records: what is written, what counts, and what never overwrites what."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_kit import make_record, put

from harness.records import (
    is_recorded,
    load_records,
    pack_bits,
    read_record,
    record_path,
    unpack_bits,
    write_record,
)

KEY = "k" * 64


def test_round_trip(tmp_path: Path) -> None:
    record = make_record(KEY)
    write_record(tmp_path, record)
    path = tmp_path / "records" / f"{KEY}.json"
    assert record_path(tmp_path, KEY) == path
    assert json.loads(path.read_text()) == record
    assert read_record(path) == (record, None)
    assert is_recorded(tmp_path, KEY)


def test_a_failure_is_kept_but_does_not_count_as_done(tmp_path: Path) -> None:
    write_record(tmp_path, make_record(KEY, status="failed"))
    found, problem = read_record(record_path(tmp_path, KEY))
    assert problem is None
    assert found["error"] == "RuntimeError: boom"
    assert not is_recorded(tmp_path, KEY)
    assert not is_recorded(tmp_path, "x" * 64)


def test_a_failure_never_overwrites_a_success_but_the_other_way(tmp_path: Path) -> None:
    write_record(tmp_path, make_record(KEY, status="failed"))
    write_record(tmp_path, make_record(KEY, top1=51.0))
    write_record(tmp_path, make_record(KEY, status="failed"))
    assert read_record(record_path(tmp_path, KEY))[0]["metrics"]["top1"] == 51.0


def test_a_failure_may_overwrite_a_damaged_success(tmp_path: Path) -> None:
    put(tmp_path, make_record(KEY)).write_text('{"schema": 1')
    write_record(tmp_path, make_record(KEY, status="failed"))
    assert read_record(record_path(tmp_path, KEY))[0]["status"] == "failed"


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, make_record(KEY, top1=float("nan")))
    assert not record_path(tmp_path, KEY).exists()


def changed(**changes: Any) -> dict[str, Any]:
    return {**make_record(KEY), **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in make_record(KEY).items() if key != name}


def measured(**changes: Any) -> dict[str, Any]:
    return changed(metrics={**make_record(KEY)["metrics"], **changes})


def celled(**changes: Any) -> dict[str, Any]:
    return changed(cell={**make_record(KEY)["cell"], **changes})


UNSOUND = {
    "schema 2": changed(schema=2),
    "no schema": without("schema"),
    "no provenance": without("provenance"),
    "no cell": changed(cell=None),
    "short cell": changed(cell={"model": "m"}),
    "status": changed(status="fine"),
    "no metrics": changed(metrics={}),
    "n of zero": measured(n=0),
    "n of text": measured(n="100"),
    "top1 of 101": measured(top1=101.0),
    "top1 below zero": measured(top1=-0.1),
    "top1 of text": measured(top1="50"),
    "agreement missing": measured(agreement=None),
    "fp32 of text": measured(fp32_top1="80"),
    "list": [1, 2],
    "text": "record",
    "data of text": celled(data="val"),
    "bits of other form": celled(bits="four"),
    "overrides of text": celled(overrides="none"),
    "stages of text": changed(stages="x"),
    "provenance of text": changed(provenance="here"),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_records_are_named_and_not_counted(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, make_record(KEY))
    path.write_text(json.dumps(UNSOUND[name]))
    found, problem = read_record(path)
    assert found == {}
    assert problem is not None
    assert problem.startswith(f"{KEY}.json ")
    assert not is_recorded(tmp_path, KEY)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, json.dumps(make_record(KEY)).encode()[:-40]]
)
def test_damaged_files_are_named_and_not_counted(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path, make_record(KEY))
    path.write_bytes(content)
    problem = read_record(path)[1]
    assert problem is not None
    assert f"{KEY}.json" in problem
    assert not is_recorded(tmp_path, KEY)


def test_nan_in_a_file_does_not_count(tmp_path: Path) -> None:
    path = put(tmp_path, make_record(KEY))
    path.write_text(path.read_text().replace('"top1": 50.0', '"top1": NaN'))
    assert "NaN" in path.read_text()
    problem = read_record(path)[1]
    assert problem is not None
    assert "top1" in problem


def test_a_record_under_another_name_does_not_count(tmp_path: Path) -> None:
    path = put(tmp_path, make_record(KEY))
    path = path.rename(path.with_name("copy.json"))
    problem = read_record(path)[1]
    assert problem is not None
    assert "copy.json" in problem
    assert "key" in problem


def test_loading_counts_each_key_once_and_prefers_success(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for key, status in (("a", "ok"), ("b", "failed"), ("c", "ok")):
        write_record(first, make_record(key, status=status))
    for key, status in (("a", "failed"), ("b", "ok"), ("d", "failed")):
        write_record(second, make_record(key, status=status))
    put(second, changed(schema=9))
    (second / "records" / ".a.json.x.tmp").write_text("{")
    found = load_records([first, second, tmp_path / "absent"])
    assert [(record["key"], record["status"]) for record in found.sound] == [
        ("a", "ok"),
        ("b", "ok"),
        ("c", "ok"),
        ("d", "failed"),
    ]
    assert len(found.problems) == 1
    assert KEY in found.problems[0]


def test_packed_bits_by_hand() -> None:
    assert (
        pack_bits([True, False, False, False, False, False, False, True, True])
        == base64.b64encode(bytes([0b10000001, 0b10000000])).decode()
    )
    assert unpack_bits(base64.b64encode(bytes([0b01100000])).decode(), 4) == [False, True, True, False]
    assert pack_bits([]) == ""


@pytest.mark.parametrize("count", [1, 7, 8, 9, 500])
def test_packed_bits_are_numpys_and_come_back(count: int) -> None:
    hits = np.random.default_rng(count).random(count) < 0.5
    text = pack_bits(hits.tolist())
    assert base64.b64decode(text) == np.packbits(hits).tobytes()
    assert unpack_bits(text, count) == hits.tolist()
