"""The registries."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest

import spdfq  # noqa: F401  (registers its method)
from methods.errors import UsageError, unknown_name
from methods.registry import BACKENDS, METHODS, Registry

ROOT = Path(__file__).parents[2]


def test_unknown_name_suggests_the_nearest() -> None:
    registry: Registry[Any] = Registry("backend")
    registry.register("minmax", OrderedDict)
    registry.register("blockwise", Counter)
    with pytest.raises(UsageError) as error:
        registry.get("minmx")
    assert str(error.value) == "Unknown backend 'minmx'. Did you mean 'minmax'? Known: blockwise, minmax."


def test_unknown_name_far_from_all_gets_no_suggestion() -> None:
    assert str(unknown_name("method", "qqq", ["real"])) == "Unknown method 'qqq'. Known: real."
    assert str(unknown_name("method", "qqq", [])) == "Unknown method 'qqq'. Known: none."


def test_second_target_for_a_name_is_refused_and_the_first_stays() -> None:
    registry: Registry[Any] = Registry("method")
    registry.register("a", OrderedDict)
    registry.register("a", OrderedDict)
    with pytest.raises(UsageError, match="'a' is registered twice"):
        registry.register("a", Counter)
    assert type(registry.get("a")) is OrderedDict


def test_lazy_target_is_imported_only_when_asked_for() -> None:
    registry: Registry[Any] = Registry("method")
    registry.register("good", "collections:Counter")
    registry.register("bad", "no_such_module_anywhere:Thing")
    assert registry.names() == ["good", "bad"]
    assert type(registry.get("good")) is Counter
    with pytest.raises(UsageError, match="'bad' cannot be loaded from no_such_module_anywhere"):
        registry.get("bad")


def test_built_in_entries_lead_to_what_they_say() -> None:
    assert set(METHODS.names()) >= {"noise", "real", "spdfq"}
    assert set(BACKENDS.names()) >= {"minmax", "blockwise"}
    assert {name: METHODS.get(name).name for name in ("noise", "real", "spdfq")} == {
        name: name for name in ("noise", "real", "spdfq")
    }
    assert {name: BACKENDS.get(name).name for name in ("minmax", "blockwise")} == {
        name: name for name in ("minmax", "blockwise")
    }


def test_registering_loads_no_torch() -> None:
    code = "import sys, methods, spdfq; sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
