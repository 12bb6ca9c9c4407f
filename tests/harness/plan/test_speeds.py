"""Speeds from records: the nearest counts, in proportion; other machines and unknown settings do not."""

from __future__ import annotations

import os
from typing import Any

import pytest
from harness_kit import PROVENANCE, make_fields, typed

from harness.inputs import plugins as catalog
from harness.inputs.zoo import ENTRIES
from harness.plan.estimate import footprint
from harness.plan.speeds import Speeds, speeds_here
from harness.record.record import Record
from methods.registry import METHODS

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
