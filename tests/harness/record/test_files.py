"""Atomic writes, canonical JSON and key hashing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from harness.record.files import canonical_json, hash_file, hash_key, write_atomically


def test_write_replaces_content_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert [child.name for child in path.parent.iterdir()] == ["file.bin"]


def test_written_files_are_readable_by_others(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_failed_write_leaves_old_content_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new content")
    assert path.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_interrupted_write_leaves_no_file_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_is_the_exact_text() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": {"y": True, "x": "é"}}) == (
        '{"a":{"x":"\\u00e9","y":true},"b":[1,2.5,null]}'
    )


def test_hash_key_is_the_sha256_of_canonical_json_whatever_the_order() -> None:
    expected = hashlib.sha256(b'{"a":1,"b":{"c":2,"d":3}}').hexdigest()
    assert hash_key({"a": 1, "b": {"c": 2, "d": 3}}) == expected
    assert hash_key({"b": {"d": 3, "c": 2}, "a": 1}) == expected
    assert hash_key({"a": 1, "b": {"c": 2, "d": 4}}) != expected
    assert hash_key([1, 2]) != hash_key([2, 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_without_a_json_form_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        hash_key({"x": [value]})


def test_hash_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert hash_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
