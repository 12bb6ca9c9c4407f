"""The plan: shared syntheses, recorded cells, and what a method must be given."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import make_fields, put, typed

from harness.inputs import plugins as catalog
from harness.inputs.image_sets import DataSource
from harness.inputs.named_models import select_models
from harness.inputs.weights import find_weights
from harness.inputs.zoo import ENTRIES
from harness.plan.jobs import CellJob, ReferenceJob, Request, Subject, SynthesisJob
from harness.plan.plan import Plan, make_plan
from harness.record.cache import Cache
from harness.record.records import write_record
from methods.bits import Bits
from methods.errors import UsageError

catalog.load()


def request_for(**changes: Any) -> Request:
    subject = Subject(ENTRIES["vit_digits"], find_weights(ENTRIES["vit_digits"], None))
    given: dict[str, Any] = {
        "subjects": [subject],
        "methods": ["noise", "real"],
        "backends": ["minmax", "blockwise"],
        "bits": [Bits(4, 4), Bits(8, 8)],
        "seeds": [0, 1],
        "overrides": {},
        "data": {"digits": DataSource("digits", 20)},
        "calibration": {"digits": DataSource("digits-train")},
    }
    return Request(**{**given, **changes})


def counts(plan: Plan) -> tuple[int, int, int]:
    kinds = (ReferenceJob, SynthesisJob, CellJob)
    found = [sum(isinstance(job, kind) for job in plan.jobs) for kind in kinds]
    return found[0], found[1], found[2]


def test_bits_and_backends_share_syntheses(tmp_path: Path) -> None:
    plan = make_plan([request_for()], tmp_path)
    assert counts(plan) == (1, 4, 16)  # 2 methods x 2 seeds; x 2 bits x 2 backends
    assert len(plan.cells) == 16
    assert {job.synthesis for job in plan.cells} == {job.key for job in plan.jobs if isinstance(job, SynthesisJob)}
    assert list(tmp_path.iterdir()) == [], "planning writes nothing"


def test_more_cells_than_anybody_could_wait_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^100,016 cells are asked for; one command takes 100,000 at most\.$"):
        make_plan([request_for(seeds=list(range(12_500))), request_for()], tmp_path)


def test_two_models_share_nothing(tmp_path: Path) -> None:
    subjects = [Subject(ENTRIES[name], find_weights(ENTRIES[name], None)) for name in ("vit_digits", "swin_digits")]
    assert counts(make_plan([request_for(subjects=subjects)], tmp_path)) == (2, 8, 32)


def test_references_come_first_then_syntheses_then_the_dearest_cells(tmp_path: Path) -> None:
    plan = make_plan([request_for(methods=["noise", "spdfq"])], tmp_path)
    kinds = [type(job) for job in plan.jobs]
    assert kinds == [ReferenceJob] + [SynthesisJob] * 4 + [CellJob] * 16
    assert [job.method for job in plan.jobs if isinstance(job, SynthesisJob)] == ["spdfq"] * 2 + ["noise"] * 2
    assert [job.cell.backend for job in plan.jobs if isinstance(job, CellJob)] == ["blockwise"] * 8 + ["minmax"] * 8


def finished(job: CellJob, status: str = "ok") -> dict[str, Any]:
    identity, count = job.identity, job.cell.data["n"]
    return {
        **make_fields(job.key, status=status, n=count, top1=100.0, fp32=100.0, agreement=100.0),
        "cell": asdict(job.cell),
        "versions": {"method": identity.method_version, "backend": identity.backend_version, "libraries": {}},
        "weights": {"tag": "t", "sha256": identity.weights_sha256},
    }


def test_recorded_cells_and_what_only_they_need_are_dropped(tmp_path: Path) -> None:
    plan = make_plan([request_for()], tmp_path)
    mine = [job for job in plan.cells if job.cell.method == "noise" and job.cell.seed == 1]
    assert len(mine) == 4
    for job in mine[:-1]:
        write_record(tmp_path, typed(finished(job)))
    again = make_plan([request_for()], tmp_path)
    assert counts(again) == (1, 4, 13)
    write_record(tmp_path, typed(finished(mine[-1])))
    again = make_plan([request_for()], tmp_path)
    assert counts(again) == (1, 3, 12)
    assert again.recorded == {job.key for job in mine}
    assert len(again.cells) == 16
    for job in plan.cells:
        write_record(tmp_path, typed(finished(job)))
    assert make_plan([request_for()], tmp_path).jobs == []


def test_failed_and_damaged_records_are_run_again(tmp_path: Path) -> None:
    plan = make_plan([request_for()], tmp_path)
    write_record(tmp_path, typed(finished(plan.cells[0], "failed")))
    put(tmp_path, finished(plan.cells[1])).write_text("{")
    put(tmp_path, {**finished(plan.cells[2]), "schema": 2})
    again = make_plan([request_for()], tmp_path)
    assert again.recorded == set()
    assert counts(again) == (1, 4, 16)


def test_cells_know_whether_their_synthesis_was_there(tmp_path: Path) -> None:
    plan = make_plan([request_for()], tmp_path)
    assert not any(job.cached for job in plan.cells)
    Cache.of(tmp_path, "synthesis").store(plan.cells[0].synthesis, {"images": torch.zeros(1)}, {})
    again = make_plan([request_for()], tmp_path)
    assert [job.cached for job in again.cells] == [job.synthesis == plan.cells[0].synthesis for job in again.cells]
    assert sum(job.cached for job in again.cells) == 4


def test_overrides_equal_to_the_defaults_change_no_key(tmp_path: Path) -> None:
    keys = [job.key for job in make_plan([request_for()], tmp_path).cells]
    same = request_for(overrides={"noise": {"images": 32}, "blockwise": {"iterations": 50}})
    assert [job.key for job in make_plan([same], tmp_path).cells] == keys
    assert all(job.cell.overrides == {} for job in make_plan([same], tmp_path).cells)


def test_overrides_change_the_cells_they_concern(tmp_path: Path) -> None:
    plain = {job.cell.label(): job for job in make_plan([request_for()], tmp_path).cells}
    other = request_for(overrides={"noise": {"images": 8}, "blockwise": {"iterations": 5}})
    for job in make_plan([other], tmp_path).cells:
        before = plain[job.cell.label()]
        noise, blockwise = job.cell.method == "noise", job.cell.backend == "blockwise"
        assert (job.synthesis != before.synthesis) == noise
        assert (job.key != before.key) == (noise or blockwise)
        wanted = {"noise.images": 8} if noise else {}
        assert job.cell.overrides == wanted | ({"blockwise.iterations": 5} if blockwise else {})


def test_other_images_share_syntheses_but_no_cells(tmp_path: Path) -> None:
    one = make_plan([request_for()], tmp_path)
    two = make_plan([request_for(data={"digits": DataSource("digits", 30)})], tmp_path)
    assert [job.synthesis for job in one.cells] == [job.synthesis for job in two.cells]
    assert not {job.key for job in one.cells} & {job.key for job in two.cells}
    assert {job.reference for job in one.cells} != {job.reference for job in two.cells}


def test_only_methods_that_draw_real_images_depend_on_them(tmp_path: Path) -> None:
    for job in make_plan([request_for()], tmp_path).cells:
        expected = ("digits-train", 1297) if job.cell.method == "real" else None
        assert (job.cell.calibration and (job.cell.calibration["name"], job.cell.calibration["n"])) == expected


def test_real_images_must_be_given(tmp_path: Path) -> None:
    [entry] = select_models(["deit_t"])
    request = request_for(
        subjects=[Subject(entry, find_weights(entry, "random"))],
        data={"imagenet": DataSource("dead-leaves", 2)},
        calibration={},
    )
    with pytest.raises(UsageError, match="--calib-data DIR") as error:
        make_plan([request], tmp_path)
    assert "'real'" in str(error.value)
    assert "deit_t" in str(error.value)
