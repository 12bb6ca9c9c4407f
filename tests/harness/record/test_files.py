"""Files: atomic writes, canonical JSON, key hashing; paths that only look like files; TOML that cannot be read."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from harness.record.files import (
    canonical_json,
    check_writable,
    hash_file,
    hash_key,
    parse_toml,
    read_regular,
    read_toml,
    user_path,
    write_atomically,
)
from methods.errors import UsageError


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


HOME = Path("/", "home", "somebody")


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(HOME))
    assert user_path("~/x") == HOME / "x"
    assert user_path("a/~") == Path("a/~")


@pytest.mark.parametrize("text", ["~nobody-of-this-name/x", "a\udcffb", "a\0b"])
def test_paths_that_no_record_could_hold_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="The path"):
        user_path(text)


def test_a_folder_in_another_encoding_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = os.fsencode(tmp_path) + b"/\xff"
    Path(os.fsdecode(strange)).mkdir()
    monkeypatch.chdir(os.fsdecode(strange))
    for refusing in (lambda: check_writable(Path("results")), lambda: user_path("."), lambda: user_path("data")):
        with pytest.raises(UsageError, match="not UTF-8"):
            refusing()
    assert list(Path(os.fsdecode(strange)).iterdir()) == []


def test_writable_folders_may_be_there_or_not_and_are_left_as_they_are(tmp_path: Path) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["/nowhere/results", "loop"])
def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path, target: str) -> None:
    (tmp_path / "loop").symlink_to(target)
    for folder in (tmp_path / "loop", tmp_path / "loop" / "below"):
        with pytest.raises(UsageError, match="is a link to what is not there"):
            check_writable(folder)


@pytest.mark.parametrize("folder", ["/proc", "/proc/results", "/dev/null/results"])
def test_what_takes_no_files_is_refused(folder: str) -> None:
    with pytest.raises(UsageError, match="cannot be written to"):
        check_writable(Path(folder))


def test_only_regular_files_of_a_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1024)
    assert read_regular(tmp_path / "a", 1024) == b"x" * 1024
    with pytest.raises(OSError, match="larger than 0 KiB"):
        read_regular(tmp_path / "a", 1023)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"no regular file|Is a directory"):
            read_regular(path, 1024)


def test_toml_may_open_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfname = '\xc3\xbc'")
    assert read_toml(tmp_path / "a.toml", "file") == {"name": "ü"}


@pytest.mark.parametrize(
    "text",
    [
        *("a = " + "[" * 20_000, "a = " + "9" * 5000, "a = [{b = 0x" + "f" * 4000 + "}]"),
        *("a.b = 1\na = 2", "a = 1\na = 2", "a" * 1000, "\x00", "x = {" * 5000),
    ],
    ids=range(8),
)
def test_a_text_that_is_no_toml_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_toml(text)


def test_files_that_cannot_be_read_are_a_sentence_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.toml").write_bytes(b"a = '\xfc'")
    (tmp_path / "deep.toml").write_text("a." * 30_000 + "a = 1")
    (tmp_path / "large.toml").write_text("\n".join(f"key{number} = 1" for number in range(100_000)))
    begun = time.process_time()
    names = ("pipe", "latin.toml", "deep.toml", "large.toml")
    for path in (*(tmp_path / name for name in names), Path("/dev/zero"), tmp_path):
        with pytest.raises(UsageError, match=f"The file {path} cannot be read: .*\\."):
            read_toml(path, "file")
    assert time.process_time() - begun < 2


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = [1, 2]\n[t]\ny = 'z'\n")
    assert read_toml(tmp_path / "a.toml", "file") == {"x": [1, 2], "t": {"y": "z"}}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "torn.toml").write_text("[spdfq\n")
    for name in ("absent.toml", "binary.toml", "torn.toml", ""):
        with pytest.raises(UsageError, match=f"^The config file .*{name} cannot be read: "):
            read_toml(tmp_path / name, "config file")
