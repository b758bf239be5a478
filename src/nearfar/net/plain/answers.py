"""What a task returned or raised, to plain data and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nearfar.errors import ItemError, NearfarError, RemoteError, Untrusted
from nearfar.net.plain import PLAIN
from nearfar.net.plain.payloads import DATA, pack, unpack
from nearfar.net.telling import described, quietly, traceback_of, with_traceback

LONGEST_TEXT = 100_000
"""Characters of what an error says, and of its traceback: what is over is cut from the middle."""

_SINGLE, _LIST, _TUPLE = range(3)
_OWN: dict[str, type[NearfarError]] = {
    f"nearfar.errors.{kind.__name__}": kind for kind in (ItemError, Untrusted)
}
"""The errors that come home as themselves: those by which a worker refuses a call."""


def dump_result(value: Any) -> tuple[bytes, list[bytes]]:
    """`value`, and the large bytes that it is or that a list or tuple holds. Raises `ItemError`."""
    kind = type(value)
    if kind is list or kind is tuple:
        return pack(value, _LIST if kind is list else _TUPLE)
    return pack([value], _SINGLE)


def load_result(blob: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """What `dump_result` dumped. Raises `Untrusted` for a pickle, `ItemError` for what else is none."""
    if blob[:1] != PLAIN:
        raise Untrusted("a result came that is not plain data: this pool is plain, and reads no pickle")
    values, kind = unpack(blob, buffers)
    if kind == _LIST:
        return values
    if kind == _TUPLE:
        return tuple(values)
    if kind == _SINGLE and len(values) == 1:
        return values[0]
    raise ItemError("a result came that cannot be read")


def dump_error(error: BaseException) -> bytes:
    """`error` in words. Never raises."""
    return _in_words(*described(error), traceback_of(error))


def dump_unsendable(error: BaseException, value: Any) -> bytes:
    """What the caller gets for a result that `dump_result` refused. Never raises."""
    kind = quietly(lambda: str(type(value).__qualname__), "?")
    what = f"the result, of type {kind}, is or holds what does not travel without pickle"
    return _in_words("nearfar.errors.ItemError", f"{what}: {DATA} do", "")


def load_error(blob: bytes | memoryview) -> BaseException:
    """What `dump_error` dumped: mostly a `RemoteError`, with the traceback as its cause. Never raises.

    For a pickle: `Untrusted`; for what else is none: `ItemError`.
    """
    if blob[:1] != PLAIN:
        return Untrusted("an error came that is not plain data: this pool is plain, and reads no pickle")
    try:
        words, _ = unpack(blob, ())
    except (ItemError, Untrusted) as error:
        return ItemError(f"an error came that cannot be read: {error}")
    match words:
        case [str() as kind, str() as message, str() as text]:
            own = _OWN.get(kind)
            return with_traceback(RemoteError(kind, message) if own is None else own(message), text)
    return ItemError("an error came that cannot be read")


def _in_words(*words: str) -> bytes:
    return pack([_sendable(word) for word in words])[0]


def _sendable(text: str) -> str:
    """`text` without what has no UTF-8, and not too long."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return text.encode(errors="backslashreplace").decode()
