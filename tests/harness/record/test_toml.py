"""TOML files that cannot be read are named, with what they were to hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.record.toml import read_toml
from methods.errors import UsageError


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = [1, 2]\n[t]\ny = 'z'\n")
    assert read_toml(tmp_path / "a.toml", "file") == {"x": [1, 2], "t": {"y": "z"}}


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "torn.toml").write_text("[spdfq\n")
    for name in ("absent.toml", "binary.toml", "torn.toml", ""):
        with pytest.raises(UsageError, match=f"^The config file .*{name} cannot be read: "):
            read_toml(tmp_path / name, "config file")
