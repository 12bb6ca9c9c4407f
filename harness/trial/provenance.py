"""Where a record comes from: library versions, git commit, command, kind of machine - never a host name."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from harness.inputs.plugins import PACKAGES
from harness.record.files import hash_file
from harness.record.record import Provenance

if TYPE_CHECKING:
    from harness.plan.jobs import RunSettings

_LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "ray", "accelerate", "safetensors")


@lru_cache
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries a result may depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache
def git_commit() -> str | None:
    """Return this project's commit, with "+changes" when the tree differs from it; None outside git or without it."""

    def git(*words: str) -> str | None:
        root = Path(__file__).parents[2]
        if not (root / ".git").exists():
            return None
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except OSError:  # a machine without git
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "harness", *PACKAGES)
    return f"{commit}+changes" if commit and changed else commit


def processor() -> str:
    """Return the processor's model, as far as the system tells."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def provenance(settings: RunSettings) -> Provenance:
    """Return a record's provenance; commit and command are the driver's, the rest is where the trial runs."""
    return Provenance(
        commit=settings.commit,
        command=settings.command,
        started=settings.started or None,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        device=settings.device,
        processor=processor(),
        cores=os.cpu_count(),
        threads=settings.threads,
        executor=settings.executor,
        plugins={Path(path).name: hash_file(Path(path)) for path in settings.plugins},
    )


def command_line() -> str:
    """Return the command as typed, with folders reduced to their last part (paths name a machine)."""
    words = [Path(word).name if os.sep in word and "=" not in word else word for word in sys.argv[1:]]
    module = getattr(sys.modules["__main__"].__spec__, "name", "harness.bench").removesuffix(".__main__")
    return " ".join([f"python -m {module}", *words])
