"""A pool's initializer on its way to the workers, and the error that comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearfar.coordinator.workers import Initializer
from nearfar.errors import InitializerFailed
from nearfar.net.pickles.calls import CallPickler
from nearfar.net.pickles.failures import load_error
from nearfar.worker.inherited import Inherited, initialize


def pickled_initializer(
    pickler: CallPickler, initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> Initializer | None:
    """What travels of an initializer. Raises what pickling raises."""
    return None if initializer is None else Initializer(*pickler.dump_call(initializer, args, None))


def near_initializer(
    pickler: CallPickler, initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> tuple[Initializer | None, Inherited | None]:
    """What travels of it, and what child processes get at their start, because it cannot be pickled."""
    try:
        return pickled_initializer(pickler, initializer, args), None
    except Exception:
        assert initializer is not None
        return pickled_initializer(pickler, initialize, ()), (initializer, args)


def read_initializer_error(blob: Any) -> BaseException:
    """The error that every task of a pool gets when its initializer raised."""
    cause = load_error(blob)
    error = InitializerFailed(f"the initializer raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
