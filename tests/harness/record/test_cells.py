"""Keys: what they depend on, and what they must not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.record.cells import Cell, Identity, cell_key, reference_key, synthesis_key
from methods.bits import Bits

CELL = Cell("m", "maker", "grid", Bits(4, 4), 0, {"name": "val", "n": 5, "sha256": "d"}, {}, None)
IDENTITY = Identity(method_version=1, backend_version=1, weights_sha256="weights")


def test_synthesis_is_shared_by_bits_backends_data_and_their_settings() -> None:
    key = synthesis_key(CELL, IDENTITY)
    for cell in (
        replace(CELL, bits=Bits(8, 8)),
        replace(CELL, backend="other"),
        replace(CELL, data={"name": "val", "n": 6, "sha256": "e"}),
        replace(CELL, overrides={"grid.steps": 5}),
    ):
        assert synthesis_key(cell, IDENTITY) == key
    assert synthesis_key(CELL, replace(IDENTITY, backend_version=2)) == key


@pytest.mark.parametrize(
    ("cell", "identity"),
    [
        ({"model": "n"}, {}),
        ({"method": "other"}, {}),
        ({"seed": 1}, {}),
        ({"calibration": {"name": "train", "n": 5, "sha256": "c"}}, {}),
        ({"overrides": {"maker.images": 16}}, {}),
        ({}, {"method_version": 2}),
        ({}, {"weights_sha256": "other"}),
    ],
)
def test_what_the_images_depend_on_changes_both_keys(cell: dict[str, Any], identity: dict[str, Any]) -> None:
    changed = replace(CELL, **cell), replace(IDENTITY, **identity)
    assert synthesis_key(*changed) != synthesis_key(CELL, IDENTITY)
    assert cell_key(*changed) != cell_key(CELL, IDENTITY)


@pytest.mark.parametrize(
    ("cell", "identity"),
    [
        ({"bits": Bits(8, 8)}, {}),
        ({"backend": "other"}, {}),
        ({"data": {"name": "val", "n": 6, "sha256": "d"}}, {}),
        ({"data": {"name": "val", "n": 5, "sha256": "e"}}, {}),
        ({"overrides": {"grid.steps": 2}}, {}),
        ({}, {"backend_version": 2}),
    ],
)
def test_what_only_the_measurement_depends_on_changes_the_cells_key(
    cell: dict[str, Any], identity: dict[str, Any]
) -> None:
    assert cell_key(replace(CELL, **cell), replace(IDENTITY, **identity)) != cell_key(CELL, IDENTITY)


def test_keys_are_stable_and_of_three_kinds() -> None:
    keys = [cell_key(CELL, IDENTITY), synthesis_key(CELL, IDENTITY), reference_key("m", "weights", CELL.data)]
    assert keys == [
        cell_key(replace(CELL), replace(IDENTITY)),
        synthesis_key(replace(CELL), replace(IDENTITY)),
        reference_key("m", "weights", {"name": "val", "n": 5, "sha256": "d"}),
    ]
    assert len(set(keys)) == 3
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_a_reference_depends_on_model_weights_and_images() -> None:
    key = reference_key("m", "weights", CELL.data)
    assert key != reference_key("n", "weights", CELL.data)
    assert key != reference_key("m", "other", CELL.data)
    assert key != reference_key("m", "weights", {"name": "val", "n": 5, "sha256": "e"})
