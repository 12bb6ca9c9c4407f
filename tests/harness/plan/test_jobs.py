"""The schedule: order, dependencies, what a failure blocks, labels; speeds from records of this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from harness_kit import PROVENANCE, make_fields, typed

from harness.execute.schedule import Schedule, needs
from harness.inputs import plugins as catalog
from harness.inputs.image_sets import DataSource
from harness.inputs.weights import Weights
from harness.inputs.zoo import ENTRIES
from harness.plan.estimate import footprint
from harness.plan.jobs import CellJob, Job, ReferenceJob, Subject, SynthesisJob, differing, setting_text
from harness.plan.speeds import Speeds, speeds_here
from harness.record.cells import Cell, Identity
from harness.record.record import Record
from methods.bits import Bits
from methods.registry import METHODS

SUBJECT = Subject(ENTRIES["vit_digits"], Weights(Path("file"), "sha"))
DATA = DataSource("digits")


def reference(key: str) -> ReferenceJob:
    return ReferenceJob(key, SUBJECT, DATA)


def synthesis(key: str, needed: str) -> SynthesisJob:
    return SynthesisJob(key, SUBJECT, "maker", None, 0, None, needed, 1.0)


def cell(key: str, images: str, logits: str) -> CellJob:
    description = Cell("vit_digits", "maker", "grid", Bits(4, 4), 0, {"name": "digits", "n": 5, "sha256": "d"})
    identity = Identity(method_version=1, backend_version=1, weights_sha256="sha")
    return CellJob(
        key=key,
        cell=description,
        identity=identity,
        subject=SUBJECT,
        data=DATA,
        method_config=None,
        backend_config=None,
        synthesis=images,
        reference=logits,
        cached=False,
        passes=1.0,
    )


def jobs() -> list[Job]:
    """Two models, r and q: r has the syntheses a and b with two cells each, q has the synthesis c with one."""
    return [
        reference("r"),
        reference("q"),
        synthesis("a", "r"),
        synthesis("b", "r"),
        synthesis("c", "q"),
        cell("a1", "a", "r"),
        cell("a2", "a", "r"),
        cell("b1", "b", "r"),
        cell("b2", "b", "r"),
        cell("c1", "c", "q"),
    ]


def test_what_jobs_need() -> None:
    assert [needs(job) for job in (reference("r"), synthesis("a", "r"), cell("a1", "a", "r"))] == [
        set(),
        {"r"},
        {"a", "r"},
    ]


def test_one_after_the_other_keeps_the_order_given() -> None:
    schedule, order = Schedule(jobs()), []
    while (job := schedule.next()) is not None:
        order.append(job.key)
        assert schedule.finish(job, failed=False) == []
    assert order == [job.key for job in jobs()]
    assert schedule.exhausted


def test_jobs_wait_for_what_they_need_and_for_nothing_else() -> None:
    schedule = Schedule(jobs())
    first, second = schedule.next(), schedule.next()
    assert first is not None
    assert second is not None
    assert [first.key, second.key] == ["r", "q"]
    assert schedule.next() is None
    assert not schedule.exhausted
    schedule.finish(second, failed=False)
    third = schedule.next()
    assert third is not None
    assert third.key == "c", "the first that is ready, though a and b stand before it"
    assert schedule.next() is None
    schedule.finish(third, failed=False)
    fourth = schedule.next()
    assert fourth is not None
    assert fourth.key == "c1"
    schedule.finish(first, failed=False)
    ready = [schedule.next() for _ in range(3)]
    assert [job.key if job else None for job in ready] == ["a", "b", None]


def test_a_failed_synthesis_blocks_its_cells_alone() -> None:
    schedule, blocked, done = Schedule(jobs()), [], []
    while (job := schedule.next()) is not None:
        failed = job.key == "a"
        blocked += [lost.key for lost in schedule.finish(job, failed)]
        done += [] if failed else [job.key]
    assert blocked == ["a1", "a2"]
    assert done == ["r", "q", "b", "c", "b1", "b2", "c1"]
    assert schedule.exhausted


def test_a_failed_reference_blocks_syntheses_and_their_cells() -> None:
    schedule = Schedule(jobs())
    first = schedule.next()
    assert first is not None
    blocked = schedule.finish(first, failed=True)
    assert sorted(job.key for job in blocked) == ["a", "a1", "a2", "b", "b1", "b2"]
    assert len(blocked) == 6, "each once"
    rest = []
    while (job := schedule.next()) is not None:
        rest.append(job.key)
        schedule.finish(job, failed=False)
    assert rest == ["q", "c", "c1"]


def test_a_failed_cell_blocks_nothing() -> None:
    schedule = Schedule(jobs())
    for _ in range(5):
        job = schedule.next()
        assert job is not None
        schedule.finish(job, failed=False)
    job = schedule.next()
    assert job is not None
    assert job.key == "a1"
    assert schedule.finish(job, failed=True) == []


def test_what_is_not_in_the_plan_is_taken_as_done() -> None:
    schedule = Schedule([cell("x", "cached images", "cached logits")])
    job = schedule.next()
    assert job is not None
    assert job.key == "x"


def test_only_what_differs_is_told() -> None:
    tables: list[dict[str, object]] = [{"a": 1, "b": True}, {"a": 1, "b": False}, {"a": 1, "c": 0.5}]
    assert differing(tables) == ["b=true", "b=false", "c=0.5"]
    assert differing([{"a": 1}, {"a": 1}]) == ["", ""]
    assert differing([]) == []


def test_equal_values_of_other_types_are_others() -> None:
    assert differing([{"a": 1}, {"a": True}]) == ["a=1", "a=true"]


def test_values_are_written_as_they_are_typed() -> None:
    assert [setting_text(value) for value in (True, 1e-5, 3, "one")] == ["true", "1e-05", "3", "one"]


catalog.load()
VIT, SWIN = ENTRIES["vit_digits"], ENTRIES["swin_digits"]


def record(iterations: int, seconds: float, cached: bool = False, **where: Any) -> Record:
    fields = make_fields("k", model="vit_digits", method="psaq_vit", n=300)
    fields["config"] = {"method": {"images": 8, "iterations": iterations}, "backend": {}}
    fields["stages"]["synthesize"] = {"seconds": seconds, "peak_mb": 1.0, "cached": cached}
    fields["stages"]["evaluate"] = {"seconds": 2.0, "peak_mb": 1.0, "cached": False}
    fields["provenance"] = {**PROVENANCE, "cores": os.cpu_count(), **where}
    return typed(fields)


def passes(iterations: int) -> float:
    method = METHODS.get("psaq_vit")
    return method.image_passes(method.config_class(images=8, iterations=iterations))


def test_the_nearest_record_counts_in_proportion() -> None:
    speeds = Speeds([record(100, 10.0), record(100, 14.0), record(10, 5.0), record(1000, 999.0, cached=True)])
    assert speeds.recorded(VIT, "synthesize psaq_vit", passes(100)) == pytest.approx(12.0)
    assert speeds.recorded(VIT, "synthesize psaq_vit", passes(200)) == pytest.approx(24.0)
    assert speeds.recorded(VIT, "evaluate", 50.0) == pytest.approx(1.0)  # 100 passes took 2 s
    assert speeds.recorded(VIT, "quantize blockwise", 50.0) is None


def test_another_model_counts_by_its_operations() -> None:
    ratio = footprint(SWIN).flops / footprint(VIT).flops
    found = Speeds([record(100, 10.0)]).recorded(SWIN, "synthesize psaq_vit", passes(100))
    assert found == pytest.approx(10.0 * ratio)


def test_only_records_of_this_machine_and_of_known_settings_count() -> None:
    other = [record(100, 1.0, processor="another"), record(100, 1.0, cores=999), record(100, 1.0, device="cuda")]
    strange = record(100, 1.0)
    strange.config.method["no_such_setting"] = 1
    assert speeds_here([*other, strange], "a processor", 1, "cpu").recorded(VIT, "evaluate", 1.0) is None
    assert speeds_here([record(100, 1.0)], "a processor", 1, "cpu").recorded(VIT, "evaluate", 100.0) == 2.0
