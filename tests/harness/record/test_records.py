"""Records: what is written, what counts, and what never overwrites what."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness_kit import correct, keyed, make_fields, put, typed
from msgspec.structs import replace

from harness.record import correctness
from harness.record.parse import UnsoundRecord, parse
from harness.record.record import Failed, Finished, Operation
from harness.record.records import (
    damage,
    is_recorded,
    load_records,
    read_record,
    record_path,
    write_record,
)
from harness.record.seal import sealed

KEY = keyed(make_fields(""))["key"]


def write(results: Path, fields: dict[str, Any]) -> None:
    write_record(results, typed(fields))


def problem_of(path: Path) -> str:
    """Return why a record's file does not count, and see that no reader counts it."""
    with pytest.raises(UnsoundRecord) as found:
        read_record(path)
    assert load_records([path.parents[1]]).sound == []
    assert not is_recorded(path.parents[1], path.stem)
    assert damage(path.parents[1], path.stem) == f"{path.name} {found.value}"
    return str(found.value)


def test_round_trip(tmp_path: Path) -> None:
    record = make_fields(KEY)
    write(tmp_path, record)
    path = tmp_path / "records" / f"{KEY}.json"
    assert record_path(tmp_path, KEY) == path
    found = json.loads(path.read_text())
    assert read_record(path).sha256 == found["sha256"]
    assert replace(read_record(path), sha256=None) == typed(record)
    assert found.pop("sha256")
    assert found == record
    assert is_recorded(tmp_path, KEY)


def test_a_failure_is_kept_but_does_not_count_as_done(tmp_path: Path) -> None:
    write(tmp_path, make_fields(KEY, status="failed"))
    found = read_record(record_path(tmp_path, KEY))
    assert isinstance(found, Failed)
    assert found.error == "RuntimeError: boom"
    assert not is_recorded(tmp_path, KEY)
    assert not is_recorded(tmp_path, "x" * 64)


def test_a_failure_never_overwrites_a_success_but_the_other_way(tmp_path: Path) -> None:
    write(tmp_path, make_fields(KEY, status="failed"))
    write(tmp_path, make_fields(KEY, top1=51.0))
    write(tmp_path, make_fields(KEY, status="failed"))
    found = read_record(record_path(tmp_path, KEY))
    assert isinstance(found, Finished)
    assert found.metrics.top1 == 51.0


def test_a_failure_may_overwrite_a_damaged_success(tmp_path: Path) -> None:
    put(tmp_path, make_fields(KEY)).write_text('{"schema": 1')
    write(tmp_path, make_fields(KEY, status="failed"))
    assert isinstance(read_record(record_path(tmp_path, KEY)), Failed)


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        record = typed(make_fields(KEY))
        assert isinstance(record, Finished)
        write_record(tmp_path, replace(record, metrics=replace(record.metrics, kl=float("nan"))))
    assert not record_path(tmp_path, KEY).exists()


def changed(**changes: Any) -> dict[str, Any]:
    return {**make_fields(KEY), **changes}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in make_fields(KEY).items() if key != name}


def measured(**changes: Any) -> dict[str, Any]:
    return changed(metrics={**make_fields(KEY)["metrics"], **changes})


def celled(**changes: Any) -> dict[str, Any]:
    return changed(cell={**make_fields(KEY)["cell"], **changes})


HITS = correct(100, 50)
COSTS = {"size_bytes": 4000, "macs": 1000, "bitops": 16_000}


def mixed(**changes: Any) -> dict[str, Any]:
    """Return a record whose head has eight bits, called by the digest of what is written here."""
    table = {"default": "w4a4", "patterns": [["head", "w8a8"]], "layers": {"head": "w8a8", "fc1": "w4a4"}}
    digest = hashlib.sha256(json.dumps(["w4a4", [["head", "w8a8"]]]).encode()).hexdigest()[:8]
    record = make_fields("", bits=f"w4a4+plan-{digest}")
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
        **make_fields(KEY, hits=HITS),
        "metrics": make_fields(KEY, top1=51.0)["metrics"],
    },
    "bits of fewer images": {**make_fields(KEY), "correct_bits": correctness.pack(correct(80, 50))},
    "bits beyond the last image": {**make_fields(KEY), "correct_bits": correctness.pack(correct(104, 50))},
    "bits of a list": {**make_fields(KEY), "correct_bits": [1, 0]},
    "bits of other text": {**make_fields(KEY), "correct_bits": "?" * 16},
    "top5 below top1": measured(top5=49.0),
    "stderr of another top1": measured(stderr=4.9),
    "kl of text": measured(kl="low"),
    "negative seconds": changed(stages={"synthesize": {"seconds": -1.0, "peak_mb": 1.0}}),
    "stage of text": changed(stages={"synthesize": "fast"}),
    "another seed than its key": celled(seed=1),
    "another method version than its key": changed(versions={"method": 2, "backend": 1, "libraries": {}}),
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
    "smaller than its parameters": changed(weights={"tag": "t", "sha256": "w" * 64, "parameters": 8002}, costs=COSTS),
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
    "agreement missing": "measures neither a classifier nor a backbone",
    "smaller than its parameters": "has a size below that of its parameters at their bits",
    "another method version than its key": "has a key that does not follow",
    "fewer bit operations than products": "has bit operations that its products cannot take",
    "more bit operations than floating point": "has bit operations that its products cannot take",
    "bits per layer of uniform bits": "has bits per layer that its cell does not name",
    "n of another number": "is no whole number of 99 images",
    "top1 of half an image": "has a top1 that is no whole number of 100 images",
    "top1 that its bits do not give": "has a top1 that its per-image correctness does not give",
    "bits of fewer images": "another number of images than 100",
    "bits beyond the last image": "another number of images than 100",
    "bits of other text": "unreadable per-image correctness",
    "top5 below top1": "has a top5 below its top1",
    "stderr of another top1": "has a stderr that does not follow from its top1",
    "another seed than its key": "has a key that does not follow",
}


@pytest.mark.parametrize("name", UNSOUND)
def test_unsound_records_are_named_and_not_counted(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, make_fields(KEY))
    path.write_text(json.dumps(UNSOUND[name]))
    assert REASONS.get(name, "is no record") in problem_of(path)


def test_costs_that_can_be_count(tmp_path: Path) -> None:
    for seed, costs in enumerate((COSTS, {**COSTS, "bitops": 1_024_000})):
        write(tmp_path, keyed({**make_fields("", seed=seed), "costs": costs}))
    write(tmp_path, mixed())
    found = load_records([tmp_path])
    assert found.problems == []
    assert sorted(one.costs.bitops for one in found.sound if isinstance(one, Finished) and one.costs) == [
        16_000,
        16_000,
        1_024_000,
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer_bits": None}, "lacks the bits per layer that its cell names"),
        (
            {"layer_bits": {"default": "w4a8", "patterns": [["head", "w8a8"]], "layers": {}}},
            "lacks the bits per layer",
        ),
        (
            {"layer_bits": {"default": "w4a4", "patterns": [["head", "w8a4"]], "layers": {}}},
            "other bits per layer than its cell names",
        ),
        ({"layer_bits": {"default": "w4a4", "patterns": [["head"]], "layers": {}}}, "Expected `array` of length 2"),
        ({"costs": {**COSTS, "bitops": 3999}}, "has bit operations that its products cannot take"),
    ],
)
def test_mixed_bits_are_those_their_cell_names(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    assert reason in problem_of(put(tmp_path, mixed(**changes)))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, json.dumps(make_fields(KEY)).encode()[:-40]]
)
def test_damaged_files_are_named_and_not_counted(tmp_path: Path, content: bytes) -> None:
    path = put(tmp_path, make_fields(KEY))
    path.write_bytes(content)
    assert problem_of(path) in ("is not readable JSON", "is no record: Expected `object`, got `array`")


def test_a_record_that_is_none_by_its_size_is_not_read(tmp_path: Path) -> None:
    path = put(tmp_path, make_fields(KEY))
    os.truncate(path, 50 * 2**30)  # more than there is memory; on the disk it takes nothing
    assert problem_of(path) == "is larger than 16 MiB"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_what_is_no_number_in_a_file_does_not_count(tmp_path: Path, value: str) -> None:
    path = put(tmp_path, make_fields(KEY))
    path.write_text(path.read_text().replace('"top1": 50.0', f'"top1": {value}'))
    assert value in path.read_text()
    assert problem_of(path) in ("is not readable JSON", "is no record: Number out of range - at `$.metrics.top1`")


def test_a_record_under_another_name_does_not_count(tmp_path: Path) -> None:
    path = put(tmp_path, make_fields(KEY))
    path = path.rename(path.with_name("copy.json"))
    assert problem_of(path) == "does not hold the key it is named by"


def seeded(seed: int, status: str = "ok", **fields: Any) -> dict[str, Any]:
    return keyed(make_fields("", seed=seed, status=status, **fields))


def test_loading_counts_each_key_once_and_prefers_success(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for seed, status in ((1, "ok"), (2, "failed"), (3, "ok")):
        write(first, seeded(seed, status))
    for seed, status in ((1, "failed"), (2, "ok"), (4, "failed")):
        write(second, seeded(seed, status))
    put(second, changed(schema=9))
    (second / "records" / ".a.json.x.tmp").write_text("{")
    found = load_records([first, second, tmp_path / "absent"])
    assert {record.cell.seed: "ok" if isinstance(record, Finished) else "failed" for record in found.sound} == {
        1: "ok",
        2: "ok",
        3: "ok",
        4: "failed",
    }
    assert [record.key for record in found.sound] == sorted(record.key for record in found.sound)
    assert len(found.problems) == 1
    assert KEY in found.problems[0]


def test_two_successes_of_one_key_that_differ_are_named(tmp_path: Path) -> None:
    for folder, top1 in (("one", 50.0), ("two", 50.0), ("three", 51.0)):
        write(tmp_path / folder, seeded(1, top1=top1))
    assert load_records([tmp_path / "one", tmp_path / "two"]).problems == []
    found = load_records([tmp_path / "one", tmp_path / "three"])
    assert [record.metrics.top1 for record in found.sound if isinstance(record, Finished)] == [50.0]
    assert len(found.problems) == 1
    assert f"{seeded(1)['key']}.json is there twice" in found.problems[0]


def test_records_share_what_they_say_of_the_same_operations(tmp_path: Path) -> None:
    operation = {"operation": "head weight", "quantizer": "uniform", "bits": 4}
    for seed in (0, 1):
        write(tmp_path, {**seeded(seed), "quantized_ops": [operation]})
    [first, second] = [one for one in load_records([tmp_path]).sound if isinstance(one, Finished)]
    assert first.quantized_ops == (Operation("head weight", "uniform", 4),)
    assert first.quantized_ops is second.quantized_ops


def test_the_seal_is_the_sha256_of_the_text_before_it(tmp_path: Path) -> None:
    write(tmp_path, make_fields(KEY))
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
    write(tmp_path, make_fields(KEY))
    path = record_path(tmp_path, KEY)
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    assert problem_of(path) == "was changed since it was written: its sha256 does not fit"


def test_no_flipped_bit_of_the_seal_makes_an_older_record_of_it() -> None:
    content = sealed(make_fields(KEY))
    parse(content)
    for place in range(len(content) - 90, len(content)):
        for bit in range(8):
            with pytest.raises(UnsoundRecord):
                parse(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])


def test_a_checkout_with_carriage_returns_leaves_records_sound(tmp_path: Path) -> None:
    write(tmp_path, make_fields(KEY))
    path = record_path(tmp_path, KEY)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_record(path).key == KEY
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.26"))
    assert problem_of(path) == "was changed since it was written: its sha256 does not fit"


@pytest.mark.parametrize("seed", [2**63, 2**64, 10**30])
def test_a_seed_of_any_size_comes_back(tmp_path: Path, seed: int) -> None:
    write(tmp_path, seeded(seed))
    [record] = load_records([tmp_path]).sound
    assert record.cell.seed == seed


def test_what_no_file_can_hold_is_refused_before_it_is_written(tmp_path: Path) -> None:
    for fields in (seeded(0, method="\udcff"), seeded(0, status="failed", method="\ud800x")):
        with pytest.raises(UnsoundRecord):
            write(tmp_path, fields)
    assert list(tmp_path.iterdir()) == []


def test_packed_bits_by_hand() -> None:
    nine = [True, False, False, False, False, False, False, True, True]
    assert correctness.pack(nine) == base64.b64encode(bytes([0b10000001, 0b10000000])).decode()
    assert correctness.unpack(base64.b64encode(bytes([0b01100000])).decode(), 4).tolist() == [0, 1, 1, 0]
    assert correctness.pack([]) == ""


@pytest.mark.parametrize("count", [1, 7, 8, 9, 500])
def test_packed_bits_come_back(count: int) -> None:
    hits = np.random.default_rng(count).random(count) < 0.5
    assert correctness.unpack(correctness.pack(hits), count).tolist() == hits.tolist()
