"""A pool's initializer on its way to the workers, and the error that comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nearfar.coordinator.workers import Initializer
from nearfar.errors import InitializerFailed
from nearfar.pool.speech import Speech
from nearfar.worker.inherited import Inherited, initialize


def travelling_initializer(
    speech: Speech, initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> Initializer | None:
    """What travels of an initializer. Raises what pickling raises."""
    return None if initializer is None else Initializer(*speech.dump_call(initializer, args, None))


def near_initializer(
    speech: Speech, initializer: Callable[..., object] | None, args: tuple[Any, ...]
) -> tuple[Initializer | None, Inherited | None]:
    """What travels of it, and what child processes get at their start, because it cannot be pickled.

    Raises `ItemError` where it has to travel plainly, and cannot.
    """
    try:
        return travelling_initializer(speech, initializer, args), None
    except Exception:
        if speech.plain:
            raise
        assert initializer is not None
        return travelling_initializer(speech, initialize, ()), (initializer, args)


def read_initializer_error(speech: Speech, blob: Any) -> BaseException:
    """The error that every task of a pool gets when its initializer raised."""
    cause = speech.load_error(blob)
    error = InitializerFailed(f"the initializer raised {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error
