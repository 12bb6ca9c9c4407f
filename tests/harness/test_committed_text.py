"""What is committed names no folder of the machine it was written on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from harness_kit import ROOT

_FOLDERS = "tmp|work|workspace|root|home|mnt|media|opt|var|srv|data|private|scratch|Users"
_ABSOLUTE = re.compile(rf"(?<![\w.~:/$)}}>-])/(?:{_FOLDERS})/[\w.-]+")


def committed() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file under version control that is text."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode()


@pytest.mark.parametrize(
    "text", ["| spdfq | 72.39 | /t" + "mp/study/n | |", '"path": "/h' + 'ome/me/images"', "(/w" + "ork/x)"]
)
def test_an_absolute_path_is_seen(text: str) -> None:
    assert _ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["https://example.org/data/x", "../data/x", "results/tmp/x", "$PWD/data/x", "2/3"])
def test_what_is_relative_is_not(text: str) -> None:
    assert not _ABSOLUTE.search(text)


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a checkout: what is committed is unknown"
)
def test_no_committed_text_holds_an_absolute_path() -> None:
    assert [(name, match.group()) for name, text in committed() for match in _ABSOLUTE.finditer(text)] == []
