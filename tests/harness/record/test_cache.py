"""Keys: what they depend on and must not; the cache: what is stored comes back, or is thrown away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.record.cache import Cache, checksum
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


TENSORS = {"images": torch.arange(6, dtype=torch.float32).reshape(1, 2, 3), "labels": torch.tensor([3, 1])}
ABOUT = {"losses": {"tv": [0.5, 0.25]}, "stage": {"seconds": 1.0}}


def stored(results: Path) -> Cache:
    cache = Cache.of(results, "synthesis")
    cache.store("key", TENSORS, ABOUT)
    return cache


def test_round_trip(tmp_path: Path) -> None:
    cache = stored(tmp_path)
    assert "key" in cache
    assert cache.path("key") == tmp_path / "cache" / "synthesis" / "key.safetensors"
    entry = cache.load("key")
    assert entry is not None
    assert entry.about == ABOUT
    assert set(entry.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert entry.tensors[name].dtype == tensor.dtype
        assert torch.equal(entry.tensors[name], tensor)


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    cache = Cache.of(tmp_path, "synthesis")
    assert cache.load("key") is None
    assert "key" not in cache
    assert list(tmp_path.iterdir()) == []


def test_kinds_do_not_mix(tmp_path: Path) -> None:
    stored(tmp_path)
    assert Cache.of(tmp_path, "reference").load("key") is None


def test_a_folder_in_place_of_an_entry_gives_way(tmp_path: Path) -> None:
    cache = Cache.of(tmp_path, "synthesis")
    (cache.path("key") / "inner").mkdir(parents=True)
    assert cache.load("key") is None
    assert stored(tmp_path).load("key") is not None


def test_views_are_stored_as_their_values(tmp_path: Path) -> None:
    cache = Cache.of(tmp_path, "synthesis")
    cache.store("view", {"images": torch.arange(6.0).reshape(2, 3).t()}, {})
    entry = cache.load("view")
    assert entry is not None
    assert entry.tensors["images"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_any_flipped_byte_is_noticed_and_the_file_removed(tmp_path: Path) -> None:
    cache = stored(tmp_path)
    path = cache.path("key")
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x04]) + sound[place + 1 :])
        entry = cache.load("key")
        if entry is None:
            assert not path.exists(), f"byte {place}"
            continue
        assert entry.about == ABOUT, f"byte {place}"  # a byte without meaning, such as padding
        assert all(torch.equal(entry.tensors[name], tensor) for name, tensor in TENSORS.items()), f"byte {place}"
        assert place < len(sound) - 40, "the last 40 bytes are the tensors"


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -8])
def test_truncated_files_are_removed(tmp_path: Path, kept: int) -> None:
    cache = stored(tmp_path)
    path = cache.path("key")
    path.write_bytes(path.read_bytes()[:kept])
    assert cache.load("key") is None
    assert not path.exists()


def test_foreign_files_are_removed(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    cache = Cache.of(tmp_path, "synthesis")
    cache.folder.mkdir(parents=True)
    save_file({"images": torch.zeros(2)}, cache.path("key"))  # no checksum
    assert cache.load("key") is None
    assert not cache.path("key").exists()


@pytest.mark.parametrize("about", ["[" * 100_000, "{", ""])
def test_an_entry_whose_checksum_fits_what_nobody_can_read_is_removed(tmp_path: Path, about: str) -> None:
    from safetensors.torch import save_file

    cache = Cache.of(tmp_path, "synthesis")
    cache.folder.mkdir(parents=True)
    save_file(TENSORS, cache.path("key"), {"about": about, "sha256": checksum(TENSORS, f"key{about}")})
    assert cache.load("key") is None
    assert not cache.path("key").exists()


def test_an_entry_under_another_key_is_no_entry(tmp_path: Path) -> None:
    cache = stored(tmp_path)
    cache.path("other").write_bytes(cache.path("key").read_bytes())
    assert cache.load("other") is None
    assert not cache.path("other").exists()
    assert cache.load("key") is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int8])
def test_tensors_of_every_type_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    cache, tensors = Cache.of(tmp_path, "synthesis"), {"a": torch.tensor([[0.0], [1.0]]).to(dtype)}
    cache.store("key", tensors, {})
    entry = cache.load("key")
    assert entry is not None
    assert entry.tensors["a"].dtype == dtype
    assert entry.tensors["a"].float().tolist() == [[0.0], [1.0]]


def test_nan_in_the_description_is_refused(tmp_path: Path) -> None:
    cache = Cache.of(tmp_path, "synthesis")
    with pytest.raises(ValueError, match="JSON"):
        cache.store("key", TENSORS, {"losses": [float("nan")]})
    assert "key" not in cache


def test_checksums_follow_names_types_shapes_values_and_text() -> None:
    one = torch.tensor([1.0, 2.0])
    sums = [
        checksum({"a": one}),
        checksum({"b": one}),
        checksum({"a": one.reshape(1, 2)}),
        checksum({"a": one.view(torch.int32)}),
        checksum({"a": torch.tensor([2.0, 1.0])}),
        checksum({"a": one}, "text"),
        checksum({"a": one, "b": one}),
    ]
    assert len(set(sums)) == len(sums)
    assert checksum({"a": one, "b": 2 * one}) == checksum({"b": 2 * one, "a": one})
