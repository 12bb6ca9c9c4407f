"""Records edited by hand, their seals made anew: whatever `check` refuses no reader counts, and none stumbles."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness_kit import correct, keyed, make_fields, run_here

from harness import check, leaderboard
from harness.record.parse import UnsoundRecord, parse
from harness.record.records import load_records
from harness.record.seal import sealed

COSTS = {"size_bytes": 4000, "macs": 1000, "bitops": 16_000}
OTHERS: list[Any] = [None, True, -1, 2.5, "\x1b=x", [], {}, [None], {"x": None}, 10**30]


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


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every field and element of a record."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside:
        yield (*path, name)
        yield from places(part, (*path, name))


def edits(seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a record without each of its fields, and with a value of each other type in its place."""
    for path in places(whole(seed)):
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
def edited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    results = tmp_path_factory.mktemp("edits")
    return results, *put_edits(results)


def test_what_check_refuses_is_what_no_reader_counts(edited: tuple[Path, int, int]) -> None:
    results, count, sound = edited
    assert count > 700
    found = load_records([results])
    assert len(found.sound) == sound < count / 4
    assert len(found.problems) == count - sound
    done = run_here(check.main, [str(results)])
    assert done.out.splitlines()[-1].startswith(f"{count} records checked, {count - sound} with problems")
    assert done.code == 1


def test_whatever_counts_comes_out_in_every_format(edited: tuple[Path, int, int], tmp_path: Path) -> None:
    done = run_here(leaderboard.main, [str(edited[0]), "--out", str(tmp_path), "--format", "all"])
    assert done.code == 0, done.err[-500:]
    assert not any(sign in path.read_text() for path in tmp_path.iterdir() for sign in "\x1b\x00")
