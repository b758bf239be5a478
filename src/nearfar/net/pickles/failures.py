"""What a task raised, to bytes and back: as itself if that can be, and always with its traceback."""

from __future__ import annotations

import pickle
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

from nearfar.errors import ItemError, RemoteError
from nearfar.net.pickles.results import dump_result, load_result
from nearfar.net.telling import described, quietly, traceback_of, with_traceback


def dump_error(error: BaseException, traceback_text: str | None = None, *, main: bool = False) -> bytes:
    """`error` for `load_error`. Never raises.

    `traceback_text` stands in the place of the error's own traceback; empty: none. `main` is as for
    `dump_result`. An attribute of the error that cannot travel is left out; an argument becomes its `repr`.
    """
    if traceback_text is None:
        traceback_text = traceback_of(error)
    pickled = quietly(lambda: _dump(error, main), [])
    return pickle.dumps((*described(error), pickled, traceback_text), 5)


def load_error(blob: bytes | memoryview) -> BaseException:
    """The exception, with `RemoteTraceback` as its `__cause__` as the standard's pool does. Never raises.

    One that cannot be read here comes as `RemoteError`; for a blob that is none: `ItemError`.
    """
    try:
        kind, message, pickled, text = pickle.loads(blob)
    except Exception as error:
        return ItemError(f"an error came that cannot be read: {type(error).__name__}: {error}")
    read = quietly(lambda: _read(pickled), None)
    found = read if isinstance(read, BaseException) else RemoteError(kind, message)
    return with_traceback(found, text)


def dump_unsendable(error: BaseException, value: Any) -> bytes:
    """What the caller gets for a result `value` that pickling refused with `error`. Never raises.

    It reads as the `MaybeEncodingError` that the standard's pool raises; `original_of` it is `error`, which
    the standard's executor raises.
    """
    shown = quietly(lambda: repr(value), f"<a {type(value).__name__} whose repr() raises>")
    said = quietly(lambda: repr(error), type(error).__name__)
    refused = MaybeEncodingError(_Shown(said), _Shown(shown))
    refused.original = dump_error(error)
    return dump_error(refused, "")


def original_of(error: BaseException) -> BaseException:
    """What pickling raised, if `error` says that a result could not be sent; else `error` itself."""
    blob = getattr(error, "original", None) if type(error) is MaybeEncodingError else None
    return load_error(blob) if isinstance(blob, bytes) else error


class _Shown:
    """Its `repr` is known."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _dump(error: BaseException, main: bool) -> list[bytes]:
    """`error` as a pickle and its buffers; nothing if no way leads to what can be read again."""
    portable = _portable(error, main)
    return [] if portable is None else _pickle(portable, main)


def _portable(error: BaseException, main: bool) -> Any:
    """What reads as `error` when it was pickled: itself, or what makes it again of what can travel."""
    if described(_read_back(error, main)) == described(error):
        return error  # not so where the constructor takes other arguments than it passes on
    remade = quietly(lambda: _Remade(error, main), None)
    return remade if type(_read_back(remade, main)) is type(error) else None


def _read_back(value: Any, main: bool) -> Any:
    return quietly(lambda: _read(_pickle(value, main)), quietly)


def _pickle(value: Any, main: bool) -> list[bytes]:
    blob, buffers = dump_result(value, main=main)
    return [blob, *map(bytes, buffers)]


def _read(parts: list[bytes]) -> Any:
    return load_result(parts[0], parts[1:])


class _Remade:
    """Reads as an exception whose own pickle cannot be written, or not read."""

    def __init__(self, error: BaseException, main: bool) -> None:
        self._kind = type(error)
        self._args = tuple(_part(each, main) for each in error.args)
        if isinstance(error, BaseExceptionGroup):
            children = [_portable(each, main) or _stand_in(each) for each in error.exceptions]
            self._args = (error.message, children)
        self._attributes = {
            name: value
            for name, value in vars(error).items()
            if _travels(value, main) and name != "__cause__"
        }

    def __reduce__(self) -> Any:
        return _make_again, (self._kind, self._args, self._attributes)


def _make_again(
    kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]
) -> BaseException:
    made = kind.__new__(kind, *args)
    made.args = args
    vars(made).update(attributes)
    return made


def _stand_in(error: BaseException) -> RemoteError:
    return RemoteError(*described(error))


def _part(value: Any, main: bool) -> Any:
    return value if _travels(value, main) else quietly(lambda: repr(value), f"<a {type(value).__name__}>")


def _travels(value: Any, main: bool) -> bool:
    return type(_read_back(value, main)) is type(value)
