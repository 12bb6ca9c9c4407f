"""`python -m harness.check`, and a fuzz of damaged records that neither it nor the leaderboard may count."""

from __future__ import annotations

import contextlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from harness_kit import ROOT, correct, keyed, make_fields, put, run_here, run_leaderboard, typed

from harness import check
from harness.record.records import load_records, write_record
from harness.report.tables import leaderboards

GOOD = keyed(
    {**make_fields("", hits=correct(100, 60)), "quantized_ops": [{"operation": "o", "quantizer": "q", "bits": 4}]}
)


def run_check(*words: str) -> Any:
    return run_here(check.main, list(words))


def test_the_committed_records_fit() -> None:
    folders = [str(path.parent) for path in sorted((ROOT / "results").glob("*/records.jsonl"))]
    done = run_check(*folders)
    assert done.code == 0, done.out
    assert "0 with problems" in done.out


def test_sound_and_failed_records_pass(tmp_path: Path) -> None:
    write_record(tmp_path, typed(GOOD))
    failed = keyed(make_fields("", seed=1, status="failed"))
    write_record(tmp_path, typed(failed))
    done = run_check(str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert done.out == "2 records checked, 0 with problems, 1 of failed cells.\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "is no record: Invalid enum value 2 - at `$.schema`"),
        ({"meaningless": "no"}, "Expected `bool`, got `str` - at `$.meaningless`"),
        ({"quantized_ops": [{"operation": "x"}]}, "Object missing required field `quantizer` - at `$[0]`"),
        ({"images_sha256": "short"}, "$.images_sha256"),
        ({"error": "but ok"}, "$.error"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    put(tmp_path, {**GOOD, **change})
    done = run_check(str(tmp_path))
    assert done.code == 1
    assert words in done.out
    assert "1 records checked, 1 with problems" in done.out


def test_a_key_twice_with_other_figures_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a", GOOD)
    put(tmp_path / "b", {**GOOD, "metrics": {**GOOD["metrics"], "agreement": 61.0}})
    done = run_check(str(tmp_path / "a"), str(tmp_path / "b"))
    assert done.code == 1
    assert "is there twice with different figures" in done.out


def test_no_records_is_one_sentence(tmp_path: Path) -> None:
    done = run_check(str(tmp_path))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Return a record's file after one of the things that happen to files."""
    kind = rng.randrange(6)
    if kind == 0:  # half-written
        return content[: rng.randrange(len(content) - 1)]
    if kind == 1:  # a flipped bit
        place = rng.randrange(len(content))
        return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    if kind == 2:  # a block of zeros
        place = rng.randrange(len(content) - 64)
        return content[:place] + bytes(64) + content[place + 64 :]
    record = json.loads(content)
    part = record
    while isinstance(part, dict) and part:  # some value, however deep, replaced or gone
        name = rng.choice(sorted(part))
        if not isinstance(part[name], dict) or not part[name] or rng.random() < 0.3:
            break
        part = part[name]
    if part is record and name == "sha256":
        name = "key"  # a record that lost nothing but its seal is an older record, and its figures are sound
    if kind == 3:
        del part[name]
    else:
        others: list[Any] = [
            None,
            True,
            -1,
            10**30,
            0.5,
            "x",
            "",
            [],
            [[]],
            {},
            {"a": 1},
            float("nan"),
            "\x1b[31m<script>",
        ]
        part[name] = rng.choice([value for value in others if value != part[name]])
    return json.dumps(record, indent=1).encode()


def test_two_thousand_damaged_records_are_all_named_and_none_is_counted(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = keyed(make_fields("", method="good", hits=correct(100, 60)))
    write_record(tmp_path, typed(good))
    names = {f"{good['key']}.json"}
    for number in range(2000):
        record = keyed({**GOOD, "cell": {**GOOD["cell"], "seed": number}})
        write_unsynced(tmp_path, record, rng)
        names.add(f"{record['key']}.json")
    found = load_records([tmp_path])
    assert [record.key for record in found.sound] == [good["key"]]
    assert len(found.problems) == 2000
    [table] = leaderboards(found.sound)
    assert [label for label, _ in table.rows] == ["FP32", "good + minmax"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert check.main([str(tmp_path)]) == 1
    assert "2001 records checked, 2000 with problems, 0 of failed cells." in out.getvalue()
    done = run_leaderboard(str(tmp_path), "--format", "md")
    assert done.code == 0
    assert "| good + minmax | **60.00** |" in done.out
    assert "and 1980" in done.err or "1980 more records" in done.err


def write_unsynced(results: Path, record: dict[str, Any], rng: random.Random) -> None:
    """Write a record, sealed as `write_record` does, and damage it."""
    from harness.record.seal import sealed

    content = sealed(record)
    broken = damaged(rng, content)
    assert broken != content
    (results / "records" / f"{record['key']}.json").write_bytes(broken)


def test_older_records_without_a_seal_are_held_to_their_own_figures(tmp_path: Path) -> None:
    """Every figure of a table changed by hand is noticed, seal or none."""
    for name, value in (
        ("top1", 61.0),
        ("top5", 59.0),
        ("fp32_top1", 80.5),
        ("agreement", 60.7),
        ("stderr", 1.0),
        ("n", 99),
    ):
        put(tmp_path, {**GOOD, "metrics": {**GOOD["metrics"], name: value}})
        assert load_records([tmp_path]).sound == [], name
    put(tmp_path, GOOD)
    assert len(load_records([tmp_path]).sound) == 1
