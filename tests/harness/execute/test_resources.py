"""What a trial is given: threads by the model's size, a share of a GPU by what the stage needs of its memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_jobs import SUBJECT, cell, reference, synthesis

from harness.execute.resources import Demand, Resources, demand
from harness.inputs.zoo import ENTRIES, PARAMETERS
from harness.plan.estimate import footprint, gpu_peak_mb, parameters
from harness.plan.jobs import Job, Subject

BASE = Subject(ENTRIES["vit_b"], SUBJECT.weights)
TINY = Subject(ENTRIES["deit_t"], SUBJECT.weights)


def of(job: Job, subject: Subject, **changes: float) -> Job:
    return replace(job, subject=subject, **changes)  # type: ignore[arg-type]


def flexible(**there: Any) -> Resources:
    return Resources(8, float("cuda" in there), fixed_cpus=False, fixed_gpus=False, **there)


def test_threads_follow_the_models_size() -> None:
    there = flexible(cores=32)
    assert demand(synthesis("s", "r"), there) == Demand(1, 0.0)
    assert demand(of(synthesis("s", "r"), BASE), there) == Demand(8, 0.0)
    assert demand(of(synthesis("s", "r"), BASE), replace(there, cores=3)) == Demand(3, 0.0)
    assert demand(of(synthesis("s", "r"), BASE, passes=0.0), there) == Demand(1, 0.0), "nothing to compute"
    assert demand(of(reference("r"), BASE), there) == Demand(8, 0.0)


def test_what_is_asked_for_is_given() -> None:
    there = Resources(2, 0.7, cores=32, cuda=4)
    for job in (synthesis("s", "r"), of(cell("c", "s", "r"), BASE), reference("r")):
        assert demand(job, there) == Demand(2, 0.7)


@pytest.mark.parametrize(("gpu_mb", "expected"), [(400_000, 0.25), (100_000, 0.34), (60_000, 0.5), (40_000, 1.0)])
def test_the_share_is_the_smallest_whose_memory_holds_the_job(gpu_mb: float, expected: float) -> None:
    size = footprint(BASE.entry)
    peak = 500 + size.weights + 128 * size.activations
    assert 25_000 < peak < 34_000, "these bounds tell 0.25, 0.34, 0.5 and 1 of the four memories apart"
    job = of(synthesis("s", "r"), BASE)
    assert gpu_peak_mb(job) == pytest.approx(peak)
    assert demand(job, flexible(cores=16, cuda=2, gpu_mb=gpu_mb)).gpus == expected


def test_the_stage_counts() -> None:
    peaks = [gpu_peak_mb(of(job, TINY)) for job in (reference("r"), cell("c", "s", "r"), synthesis("s", "r"))]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[2] / 5, "a forward pass keeps no activations"


def test_cores_are_divided_with_the_gpus() -> None:
    there = flexible(cores=16, cuda=4, gpu_mb=40_000)
    assert demand(of(synthesis("s", "r"), BASE), there) == Demand(4, 1.0)
    assert demand(of(reference("r"), BASE), there) == Demand(1, 0.25)


def test_parameters_are_those_listed() -> None:
    for name in ("vit_digits", "deit_t"):
        assert int(footprint(ENTRIES[name]).weights * 2**18) == pytest.approx(PARAMETERS[name], rel=0.01)
        assert parameters(replace(ENTRIES[name], name="another")) == pytest.approx(PARAMETERS[name], rel=0.01)
