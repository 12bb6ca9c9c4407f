"""The registries of methods and backends: names, and where to find what they stand for.

An entry is a class or a lazy "module:Class" string, so that listing names imports nothing heavy.
Built-in entries are registered by `methods/__init__.py` and `spdfq/__init__.py`; third parties add
theirs with `METHODS.register` / `BACKENDS.register` from a plugin or an entry point.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from methods.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from methods.contracts import Backend, Method


T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind ("method" or "backend"), each leading to a class without arguments.

    contract: "module:Class" of what these are instances of, imported when the first of them is made; None: anything.
    """

    def __init__(self, kind: str, contract: str | None = None) -> None:
        self.kind, self._contract = kind, contract
        self._targets: dict[str, str | type[T]] = {}

    def register(self, name: str, target: str | type[T]) -> None:
        """Add `name`; raises UsageError when it already leads somewhere else."""
        if self._targets.get(name, target) != target:
            raise UsageError(f"The {self.kind} {name!r} is registered twice: {self._targets[name]!r}, {target!r}.")
        self._targets[name] = target

    def names(self) -> list[str]:
        """Return all names in order of registration."""
        return list(self._targets)

    def target(self, name: str) -> str | type[T]:
        """Return what a name that is known leads to: a class, or "module:Class" of one that need not be loaded yet."""
        return self._targets[name]

    def get(self, name: str) -> T:
        """Return an instance of the entry `name`; raises UsageError with the nearest known name, or with the reason
        why what it leads to cannot be imported or is no method or backend."""
        if name not in self._targets:
            raise unknown_name(self.kind, name, self._targets)
        target = self._targets[name]
        try:
            return self._kept((_imported(target) if isinstance(target, str) else target)())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may raise anything, and may try to end us
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"The {self.kind} {name!r} cannot be loaded from {target} ({reason}).") from error

    def _kept(self, found: T) -> T:
        """Return an instance; raises TypeError when it is none of the contract's, or has no version."""
        if self._contract is not None:
            kept = isinstance(found, _imported(self._contract))
            if not kept or type(getattr(found, "version", None)) is not int:
                raise TypeError(f"it must be a {self._contract} with a whole number as its version")
        return found

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Take back what is registered inside when it raises."""
        before = dict(self._targets)
        try:
            yield
        except BaseException:
            self._targets = before
            raise


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


METHODS: Registry[Method] = Registry("method", "methods.contracts:Method")
BACKENDS: Registry[Backend] = Registry("backend", "methods.contracts:Backend")
