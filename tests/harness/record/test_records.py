"""Records: what is written, what counts, and what never overwrites what."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_kit import correct, keyed, make_record, put

from harness.record.records import (
    is_recorded,
    load_records,
    pack_bits,
    read_record,
    record_path,
    unpack_bits,
    write_record,
)

KEY = keyed(make_record(""))["key"]


def test_round_trip(tmp_path: Path) -> None:
    record = make_record(KEY)
    write_record(tmp_path, record)
    path = tmp_path / "records" / f"{KEY}.json"
    assert record_path(tmp_path, KEY) == path
    found = json.loads(path.read_text())
    assert read_record(path) == (found, None)
    assert found.pop("sha256")
    assert found == record
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


HITS = correct(100, 50)
COSTS = {"size_bytes": 4000, "macs": 1000, "bitops": 16_000}


def mixed(**changes: Any) -> dict[str, Any]:
    """Return a record whose head has eight bits, called by the digest of what is written here."""
    table = {"default": "w4a4", "patterns": [["head", "w8a8"]], "layers": {"head": "w8a8", "fc1": "w4a4"}}
    digest = hashlib.sha256(json.dumps(["w4a4", [["head", "w8a8"]]]).encode()).hexdigest()[:8]
    record = make_record("", bits=f"w4a4+plan-{digest}")
    return keyed({**record, "layer_bits": table, "costs": COSTS, **changes})


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
    "n of another number": measured(n=99),
    "top1 of half an image": measured(top1=50.5, stderr=math.sqrt(50.5 * 49.5 / 100)),
    "top1 that its bits do not give": {
        **make_record(KEY, hits=HITS),
        "metrics": make_record(KEY, top1=51.0)["metrics"],
    },
    "bits of fewer images": {**make_record(KEY), "correct_bits": pack_bits(correct(80, 50))},
    "bits beyond the last image": {**make_record(KEY), "correct_bits": pack_bits(correct(104, 50))},
    "bits of a list": {**make_record(KEY), "correct_bits": [1, 0]},
    "bits of other text": {**make_record(KEY), "correct_bits": "?" * 16},
    "top5 below top1": measured(top5=49.0),
    "stderr of another top1": measured(stderr=4.9),
    "kl of text": measured(kl="low"),
    "negative seconds": changed(stages={"synthesize": {"seconds": -1.0, "peak_mb": 1.0}}),
    "stage of text": changed(stages={"synthesize": "fast"}),
    "another seed than its key": celled(seed=1),
    "another method version than its key": changed(versions={"method": 2, "backend": 1}),
    "no weights": without("weights"),
    "calibration of text": celled(calibration="train"),
    "top1 of 101": measured(top1=101.0),
    "top1 below zero": measured(top1=-0.1),
    "top1 of text": measured(top1="50"),
    "agreement missing": measured(agreement=None),
    "fp32 of text": measured(fp32_top1="80"),
    "costs of text": changed(costs="cheap"),
    "costs of half a byte": changed(costs={**COSTS, "size_bytes": 0.5}),
    "costs without products": changed(costs={"size_bytes": 4000}),
    "fewer bit operations than products": changed(costs={**COSTS, "bitops": 15_999}),
    "more bit operations than floating point": changed(costs={**COSTS, "bitops": 1_024_001}),
    "smaller than its parameters": changed(weights={"sha256": "w" * 64, "parameters": 8002}, costs=COSTS),
    "bits per layer of uniform bits": changed(layer_bits=mixed()["layer_bits"]),
    "list": [1, 2],
    "text": "record",
    "data of text": celled(data="val"),
    "bits of other form": celled(bits="four"),
    "overrides of text": celled(overrides="none"),
    "stages of text": changed(stages="x"),
    "provenance of text": changed(provenance="here"),
}


REASONS = {
    "costs of text": "has no sound costs",
    "costs of half a byte": "has no sound costs",
    "costs without products": "has no sound costs",
    "fewer bit operations than products": "has bit operations that its products cannot take",
    "more bit operations than floating point": "has bit operations that its products cannot take",
    "smaller than its parameters": "has a size below that of its parameters at their bits",
    "bits per layer of uniform bits": "has bits per layer that its cell does not name",
    "schema 2": "is of schema 2, not 1",
    "n of zero": "counts no images",
    "n of another number": "is no whole number of 99 images",
    "top1 of half an image": "has a top1 that is no whole number of 100 images",
    "top1 that its bits do not give": "has a top1 that its per-image correctness does not give",
    "bits of fewer images": "another number of images than 100",
    "bits beyond the last image": "another number of images than 100",
    "bits of a list": "unreadable per-image correctness",
    "bits of other text": "unreadable per-image correctness",
    "top5 below top1": "has a top5 below its top1",
    "stderr of another top1": "has a stderr that does not follow from its top1",
    "negative seconds": "no sound cost of the stage 'synthesize'",
    "another seed than its key": "has a key that does not follow",
    "another method version than its key": "has a key that does not follow",
    "no weights": "has a key that does not follow",
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_records_are_named_and_not_counted(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, make_record(KEY))
    path.write_text(json.dumps(UNSOUND[name]))
    found, problem = read_record(path)
    assert found == {}
    assert problem is not None
    assert problem.startswith(f"{KEY}.json ")
    assert REASONS.get(name, "") in problem
    assert not is_recorded(tmp_path, KEY)


def test_costs_that_can_be_count(tmp_path: Path) -> None:
    for seed, costs in enumerate((COSTS, {**COSTS, "bitops": 1_024_000})):
        write_record(tmp_path, keyed({**make_record("", seed=seed), "costs": costs}))
    write_record(tmp_path, mixed())
    found = load_records([tmp_path])
    assert found.problems == []
    assert sorted(record["costs"]["bitops"] for record in found.sound) == [16_000, 16_000, 1_024_000]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer_bits": None}, "lacks the bits per layer that its cell names"),
        ({"layer_bits": {"default": "w4a4", "patterns": "head"}}, "lacks the bits per layer that its cell names"),
        ({"layer_bits": {"default": "w4a8", "patterns": [["head", "w8a8"]]}}, "lacks the bits per layer"),
        (
            {"layer_bits": {"default": "w4a4", "patterns": [["head", "w8a4"]]}},
            "other bits per layer than its cell names",
        ),
        ({"layer_bits": {"default": "w4a4", "patterns": [["head"]]}}, "lacks the bits per layer that its cell names"),
        ({"costs": {**COSTS, "bitops": 3999}}, "has bit operations that its products cannot take"),
    ],
)
def test_mixed_bits_are_those_their_cell_names(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    problem = read_record(put(tmp_path, mixed(**changes)))[1]
    assert problem is not None
    assert reason in problem


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


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_what_is_no_number_in_a_file_does_not_count(tmp_path: Path, value: str) -> None:
    path = put(tmp_path, make_record(KEY))
    path.write_text(path.read_text().replace('"top1": 50.0', f'"top1": {value}'))
    assert value in path.read_text()
    problem = read_record(path)[1]
    assert problem is not None
    assert "not readable JSON" in problem or "no sound top1" in problem


def test_a_record_under_another_name_does_not_count(tmp_path: Path) -> None:
    path = put(tmp_path, make_record(KEY))
    path = path.rename(path.with_name("copy.json"))
    problem = read_record(path)[1]
    assert problem is not None
    assert "copy.json" in problem
    assert "key" in problem


def seeded(seed: int, status: str = "ok", **fields: Any) -> dict[str, Any]:
    return keyed(make_record("", seed=seed, status=status, **fields))


def test_loading_counts_each_key_once_and_prefers_success(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for seed, status in ((1, "ok"), (2, "failed"), (3, "ok")):
        write_record(first, seeded(seed, status))
    for seed, status in ((1, "failed"), (2, "ok"), (4, "failed")):
        write_record(second, seeded(seed, status))
    put(second, changed(schema=9))
    (second / "records" / ".a.json.x.tmp").write_text("{")
    found = load_records([first, second, tmp_path / "absent"])
    assert {record["cell"]["seed"]: record["status"] for record in found.sound} == {
        1: "ok",
        2: "ok",
        3: "ok",
        4: "failed",
    }
    assert [record["key"] for record in found.sound] == sorted(record["key"] for record in found.sound)
    assert len(found.problems) == 1
    assert KEY in found.problems[0]


def test_two_successes_of_one_key_that_differ_are_named(tmp_path: Path) -> None:
    for folder, top1 in (("one", 50.0), ("two", 50.0), ("three", 51.0)):
        write_record(tmp_path / folder, seeded(1, top1=top1))
    assert load_records([tmp_path / "one", tmp_path / "two"]).problems == []
    found = load_records([tmp_path / "one", tmp_path / "three"])
    assert [record["metrics"]["top1"] for record in found.sound] == [50.0]
    assert len(found.problems) == 1
    assert f"{seeded(1)['key']}.json is there twice" in found.problems[0]


def test_quantized_operations_are_kept_only_for_details(tmp_path: Path) -> None:
    operation = {"operation": "head weight", "quantizer": "uniform", "bits": 4}
    write_record(tmp_path, {**make_record(KEY), "quantized_ops": [operation]})
    [plain] = load_records([tmp_path]).sound
    [full] = load_records([tmp_path], details=True).sound
    assert "quantized_ops" not in plain
    assert full["quantized_ops"] == [operation]


def test_the_seal_is_the_sha256_of_the_text_before_it(tmp_path: Path) -> None:
    write_record(tmp_path, make_record(KEY))
    text = record_path(tmp_path, KEY).read_text()
    head, mark, tail = text.partition(',\n "sha256": "')
    assert mark
    assert tail == f'{hashlib.sha256(head.encode()).hexdigest()}"\n}}\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"kl": 0.25', '"kl": 0.26'),  # nothing else in a record tells what this was
        ('"commit": "c0ffee"', '"commit": "c0ffef"'),
        ('"schema": 1', '"schema":  1'),
        ('"\n}\n', '"\n}'),
    ],
)
def test_a_sealed_record_that_was_changed_does_not_count(tmp_path: Path, old: str, new: str) -> None:
    write_record(tmp_path, make_record(KEY))
    path = record_path(tmp_path, KEY)
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    assert read_record(path) == ({}, f"{KEY}.json was changed since it was written: its sha256 does not fit")


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
