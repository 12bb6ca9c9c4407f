"""The typed record: one validation for every reader, its schema file, and edits that no reader counts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness_kit import ROOT, correct, keyed, make_fields, make_record, run_here, typed

from harness import check, leaderboard
from harness.record import schema
from harness.record.parse import UnsoundRecord, parse
from harness.record.records import load_records, record_path
from harness.record.seal import sealed

FINISHED = keyed(
    {
        **make_fields("", hits=correct(100, 60), overrides={"noise.images": 4}, libraries={"torch": "2.0"}),
        "quantized_ops": [{"operation": "head weight", "quantizer": "uniform", "bits": 4}],
        "costs": {"size_bytes": 4000, "macs": 1000, "bitops": 16_000},
        "logits_sha256": "c" * 64,
    }
)
FAILED = keyed(make_fields("", status="failed", seed=7))
# What records may lack: older than the field, or of cells that have no such thing.
OPTIONAL = {
    "costs", "provenance.started", "provenance.plugins", "weights.parameters", "cell.overrides.noise.images",
    "versions.libraries.torch", "cell.overrides", "cell.calibration", "traceback",
}  # fmt: skip
OTHERS: list[Any] = [None, True, -1, 0.5, 10**30, "x", "\x1b[31m<script>\u202e", [], [[]], {}, {"a": 1}]


def places(part: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to every field, however deep."""
    for name, value in part.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from places(value, (*above, name))


def edited(fields: dict[str, Any], place: tuple[str, ...], change: Any) -> dict[str, Any]:
    """Return a copy with the dictionary that holds the field of a place changed by `change(holder, name)`."""
    found = copy.deepcopy(fields)
    holder = found
    for name in place[:-1]:
        holder = holder[name]
    change(holder, place[-1])
    return found


def write(results: Path, fields: dict[str, Any], key: str) -> None:
    """Write fields, sealed anew, as the record of a key."""
    path = record_path(results, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sealed(fields))


def counted(results: Path, sound: dict[str, Any], edits: list[tuple[tuple[str, ...], Any]]) -> list[dict[str, Any]]:
    """Write a record per edit; return those that count, after seeing that every reader says the same of each."""
    written = {}
    for number, (place, change) in enumerate(edits):
        fields = keyed({**sound, "cell": {**sound["cell"], "seed": number}})
        written[fields["key"]] = edited(fields, place, change)
        write(results, written[fields["key"]], fields["key"])
    kept = {record.key for record in load_records([results]).sound}
    done = run_here(check.main, [str(results)])
    assert (done.code == 0) == (kept == written.keys())
    assert {key for key in written if f"{key}.json" in done.out} == written.keys() - kept
    return [written[key] for key in kept]


def lacks(fields: dict[str, Any], place: tuple[str, ...]) -> bool:
    """Whether a field is not there."""
    return place not in set(places(fields))


@pytest.mark.parametrize("sound", [FINISHED, FAILED], ids=["finished", "failed"])
def test_a_record_that_lacks_a_field_is_counted_by_no_reader(tmp_path: Path, sound: dict[str, Any]) -> None:
    edits = [(place, lambda holder, field: holder.pop(field)) for place in places(sound)]
    optional = [place for place in places(sound) if ".".join(place) in OPTIONAL]
    for fields in counted(tmp_path, sound, edits):
        assert any(lacks(fields, place) for place in optional)


@pytest.mark.parametrize("sound", [FINISHED, FAILED], ids=["finished", "failed"])
def test_a_record_with_a_field_of_another_type_is_counted_by_no_reader(tmp_path: Path, sound: dict[str, Any]) -> None:
    edits = [
        (place, lambda holder, field, other=other: holder.update({field: other}))
        for place in places(sound)
        for other in OTHERS
    ]
    says = schema.schema()
    validator = jsonschema.validators.validator_for(says)(says)
    for fields in counted(tmp_path, sound, edits):
        validator.validate(fields)  # another value, but one the field may have


def test_the_schema_file_is_made_from_the_record() -> None:
    assert schema.SCHEMA_FILE.read_text() == schema.text(), "run python -m harness.record.schema"


def test_every_field_of_the_schema_says_what_it_means() -> None:
    for name, part in schema.schema()["$defs"].items():
        for field, about in part["properties"].items():
            assert field == "status" or about["description"].endswith((".", "class")), f"{name}.{field}"


def test_the_schema_agrees_with_the_readers_on_sound_records() -> None:
    for fields in (FINISHED, FAILED):
        jsonschema.validate(fields, schema.schema())
        assert typed(fields).key == fields["key"]
    assert make_record("k").key == "k"


@pytest.mark.parametrize("place", [p for p in places(FINISHED) if p[0] in ("cell", "error", "weights", "provenance")])
def test_a_lone_surrogate_is_named_and_its_neighbours_are_counted(tmp_path: Path, place: tuple[str, ...]) -> None:
    neighbours = [keyed({**FINISHED, "cell": {**FINISHED["cell"], "seed": seed}}) for seed in (1, 2, 3)]
    for fields in neighbours:
        write(tmp_path, fields, fields["key"])
    write(tmp_path, edited(FINISHED, place, lambda holder, name: holder.update({name: "\ud800"})), FINISHED["key"])
    found = load_records([tmp_path])
    assert {record.key for record in found.sound} == {fields["key"] for fields in neighbours}
    assert len(found.problems) == 1
    assert found.problems[0].startswith(FINISHED["key"])


def test_the_committed_records_are_sound() -> None:
    folders = [path.parent for path in sorted((ROOT / "results").glob("*/records.jsonl"))]
    assert load_records(folders).problems == []


COSTS = {"size_bytes": 4000, "macs": 1000, "bitops": 16_000}


def whole(seed: int) -> dict[str, Any]:
    """Return a record in which every field there is has a value."""
    latency = {"batch": 1, "threads": 1, "ms": 1.0, "fp32_ms": 2.0}
    ran = {"top1": 50.0, "agreement": 60.0, "largest_difference": 0.1, "version": "1", "latencies": [latency]}
    return {
        **make_fields("", seed=seed, hits=correct(100, 50), overrides={"noise.images": 2}, libraries={"torch": "2.9"}),
        "costs": COSTS,
        "quantized_ops": [{"operation": "head weight", "quantizer": "uniform", "bits": 4}],
        "deployed": {
            "onnx": {"bytes": 10, "uniform": True, "simulated_top1": 50.0, "runtimes": {"x": ran}, "fp32_bytes": 20}
        },
    }


def ways(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every field and element of a record."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside:
        yield (*path, name)
        yield from ways(part, (*path, name))


def edits(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a record without each of its fields, and with a value of each other type in its place."""
    for path in ways(whole(seed)):
        for other in ("gone", *OTHERS):
            fields = copy.deepcopy(whole(seed))
            holder: Any = fields
            for name in path[:-1]:
                holder = holder[name]
            if other == "gone":
                del holder[path[-1]]
            else:
                holder[path[-1]] = other
            yield f"{'.'.join(map(str, path))}: {other!r}", fields


def sealed_anew(fields: dict[str, Any]) -> bytes:
    try:
        return sealed(keyed(fields) if fields.get("key") == "" else fields)
    except (KeyError, TypeError, ValueError):  # no key follows from what is left
        return sealed({**fields, "key": "a" * 64})


def put_edits(results: Path) -> tuple[int, int]:
    """Write every edit to a file of its key, a seed each, so that none hides another; returns how many, and how many
    of them are sound all the same."""
    (results / "records").mkdir(parents=True)
    count = sound = 0
    for seed, (_, fields) in enumerate(edits(0)):
        if isinstance(fields.get("cell"), dict) and fields["cell"].get("seed") == 0:
            fields["cell"]["seed"] = seed
        content = sealed_anew(fields)
        name, count = f"{seed:064x}", count + 1
        with suppress(UnsoundRecord):
            name, sound = parse(content).key, sound + 1
        (results / "records" / f"{name}.json").write_bytes(content)
    return count, sound


@pytest.fixture(scope="module")
def edit_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    results = tmp_path_factory.mktemp("edits")
    return results, *put_edits(results)


def test_what_check_refuses_is_what_no_reader_counts(edit_folder: tuple[Path, int, int]) -> None:
    results, count, sound = edit_folder
    assert count > 700
    found = load_records([results])
    assert len(found.sound) == sound < count / 4
    assert len(found.problems) == count - sound
    done = run_here(check.main, [str(results)])
    assert done.out.splitlines()[-1].startswith(f"{count} records checked, {count - sound} with problems")
    assert done.code == 1


def test_whatever_counts_comes_out_in_every_format(edit_folder: tuple[Path, int, int], tmp_path: Path) -> None:
    done = run_here(leaderboard.main, [str(edit_folder[0]), "--out", str(tmp_path), "--format", "all"])
    assert done.code == 0, done.err[-500:]
    assert not any(sign in path.read_text() for path in tmp_path.iterdir() for sign in "\x1b\x00")
