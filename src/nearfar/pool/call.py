"""One call on its way through an engine, its outcome, and its callbacks."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, NoReturn

from nearfar.coordinator.task import Mode, Task, TaskState, TaskStatus
from nearfar.errors import ProtocolError
from nearfar.pool.codec import load_any_error as load_error
from nearfar.serialization import plain
from nearfar.serialization.pickles.results import load_result
from nearfar.serialization.plain import PlainName

__all__ = ["Call", "Chunk", "call_back", "in_main_thread", "raise_from"]


log = logging.getLogger("nearfar.pool")


def call_back(what: str, function: Callable[..., object], *args: Any) -> None:
    """Call ``function(*args)``, and log what it raises, under the name `what`, such as ``callback``.

    In the main thread, `KeyboardInterrupt`, `SystemExit` and the like are raised: Ctrl-C and `sys.exit` are
    for the program. In another thread they are logged as well, because they would only end that thread, which
    may be the one that does the pool's work.
    """
    try:
        function(*args)
    except BaseException as error:
        if not isinstance(error, Exception) and in_main_thread():
            raise
        log.exception("%s %r raised", what, function)


def in_main_thread() -> bool:
    """Whether this is the main thread, in which Python runs signal handlers."""
    return threading.current_thread() is threading.main_thread()


PENDING, RAW_VALUE, RAW_ERROR, VALUE, ERROR = range(5)
"""What a call contains; raw: as sent by a worker, still pickled."""

SMALL = 1024
"""Bytes of an answer that may be unpickled before it is requested."""

# Looked up once: an attribute of an enum costs as much as the rest of `Call.__init__`.
_CALL, _NEW, _SETTLED, _STATUS_VALUE = Mode.CALL, TaskState.NEW, TaskState.SETTLED, int(TaskStatus.VALUE)


class Call(Task):
    """A function and its arguments until an engine takes them; later, the outcome."""

    __slots__ = ("__weakref__", "_how", "_value", "losses", "retries", "settled", "timeout")

    awaited = False
    """Whether its caller waits for it at once, and therefore sends it itself."""

    # Until an engine takes them, the function, its args and its kwargs are in `function`, `blob` and
    # `buffers`: there may be a million pending calls.

    def __init__(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        mode: int = _CALL,
    ) -> None:
        """A call of `func`; `mode` (`coordinator.task.Mode`) is how `args` are passed to it."""
        self.function: Any = func
        self.blob: Any = args
        self.buffers: Any = kwargs
        self.mode = mode
        self.state = _NEW
        self.timeout = None
        self.retries = 0
        self.losses = 0
        self.settled = False
        """Whether the outcome has arrived, and `on_settled` has ended."""
        self._how = PENDING

    @property
    def told(self) -> bool:  # type: ignore[override]
        """Whether the outcome has arrived; `on_settled` may not have ended."""
        return self._how != PENDING

    def take(self) -> tuple[Any, Any, Any]:
        """Remove and return the function, its args and its kwargs (or None)."""
        taken = self.function, self.blob, self.buffers
        self.function = self.blob = self.buffers = None
        return taken

    def lose(self) -> None:
        """Count a worker that was lost while it ran this."""
        self.losses += 1

    def answered(self, status: int, blob: Any, buffers: Sequence[Any]) -> None:
        """Settle with a worker's answer, which is decoded when a caller requests it."""
        self.blob = blob
        self.buffers = buffers
        self._how = RAW_VALUE if status == _STATUS_VALUE else RAW_ERROR
        self._end()

    def returned(self, value: Any) -> None:
        """Settle with `value`, which was not pickled."""
        self.blob = b""
        self._value = value
        self._how = VALUE
        self._end()

    def failed(self, error: BaseException) -> None:
        """Settle with `error`."""
        self.settle(None, error)

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Settle with `error`, or with `value` if that is None. Called once, without any lock held."""
        self.function = self.blob = b""
        self.buffers = ()
        self._value = value if error is None else error
        self._how = VALUE if error is None else ERROR
        self._end()

    def _end(self) -> None:
        self.state = _SETTLED
        try:
            self.on_settled()
        finally:
            self.settled = True

    def on_settled(self) -> None:
        """Called once the outcome is stored, before `settled` is true. Must not raise."""

    def result(self) -> Any:
        """The value, or raises the error. Only when settled; the first thread that calls it unpickles it.

        What unpickling raises is raised and not stored, because it may come from a signal handler: the next
        call unpickles the answer again.
        """
        how = self._how
        if how == VALUE:
            return self._value
        if how < VALUE:
            self._decode()
            if self._how == VALUE:
                return self._value
        try:
            raise self._value
        finally:
            del self  # the error's traceback holds this frame, and the call holds the error

    def error(self) -> BaseException | None:
        """What `result` would raise, or None. Only when settled.

        Raises only `KeyboardInterrupt`, in the main thread: an answer whose unpickling raises `SystemExit`
        must end neither the thread that runs callbacks nor the program that requests the error.
        """
        if self._how < VALUE:
            try:
                self._decode()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and in_main_thread():
                    raise
                return error
        return self._value if self._how == ERROR else None

    def cancelled(self) -> bool:
        """Whether it was cancelled, or dropped by `terminate`."""
        return self._how == ERROR and isinstance(self._value, CancelledError)

    def is_small(self) -> bool:
        """Whether its outcome, which has arrived, takes little time and memory to unpickle."""
        return self._how >= VALUE or (not self.buffers and len(self.blob) <= SMALL)

    @property
    def raised(self) -> bool:
        """Whether it ended in an error, as far as that is known without unpickling the answer."""
        return self._how in (RAW_ERROR, ERROR)

    def _decode(self) -> None:
        # Two threads may both unpickle. No lock: unpickling runs any code, which may wait for the other
        # thread. # The raw answer is dropped last, so a thread that still finds `_how` raw afterwards has all
        # of it. What # unpickling raises is not stored: it may be from an interruption, and the answer is
        # still available.
        raw = self._raw()
        how = self._how
        if how >= VALUE:
            return
        value, read = self._read(how, raw)
        if self._how < VALUE:
            self._value = value
            self._how = read
            self._drop_raw()

    def _raw(self) -> Any:
        return self.blob, self.buffers

    def _read(self, how: int, raw: Any) -> tuple[Any, int]:
        blob, buffers = raw
        if type(getattr(self, "function", None)) is PlainName:  # plain: its answer is never unpickled
            if how == RAW_VALUE:
                return plain.load_result(blob, buffers), VALUE
            return self.seen(plain.load_error(blob)), ERROR
        if how == RAW_VALUE:
            return load_result(blob, buffers), VALUE
        return self.seen(load_error(blob)), ERROR

    def seen(self, error: BaseException) -> BaseException:
        """A task's error as raised to the caller; here as by `multiprocessing.Pool`."""
        return error

    def _drop_raw(self) -> None:
        self.blob = b""
        self.buffers = ()


def wrong_count(values: Any, count: int) -> ProtocolError | None:
    """The error unless `values` is a list of `count` values, one for each item of a chunk."""
    if type(values) is list and len(values) == count:
        return None
    said = f"{len(values)} values" if type(values) is list else f"a {type(values).__name__}"
    return ProtocolError(f"{said} came back for the {count} items of a chunk: it is not known whose they are")


def raise_from(error: StopIteration) -> NoReturn:
    """Raise `RuntimeError` instead of a task's StopIteration, which would end an iterator silently."""
    raise RuntimeError("a task raised StopIteration") from error


class Part(Call):
    """A part of a map: a call for one of its items, or for several. Its owner is notified of its end."""

    __slots__ = ("_ended", "loud", "size")

    size: int
    """Items."""
    loud: bool
    _ended: Callable[[Part], object] | None

    def values(self) -> Sequence[Any]:
        """The values of its items, or raises the error. Only when settled."""
        raise NotImplementedError

    def put_into(self, values: deque[Any]) -> bool:
        """Append `values` to the deque if they need no unpickling; returns whether it did."""
        return False

    def on_settled(self) -> None:
        """Notify the owner, and drop the reference to it."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)


class Item(Part):
    """A call for one item."""

    __slots__ = ()

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        ended: Callable[[Part], object] | None,
        limits: tuple[float | None, int],
        loud: bool = False,
    ) -> None:
        """``func(*args)``; the rest as for `Chunk`."""
        # As in `Call.__init__`, whose call would cost a third of all this.
        self.function, self.blob, self.buffers = func, args, None
        self.mode = _CALL
        self.state = _NEW
        self.timeout, self.retries = limits
        self.losses = 0
        self.settled = False
        self._how = PENDING
        self.size = 1
        self.loud = loud
        self._ended = ended

    def values(self) -> Sequence[Any]:
        """As `Part.values`."""
        return (self.result(),)

    def put_into(self, values: deque[Any]) -> bool:
        """As `Part.put_into`."""
        if self._how != VALUE:
            return False
        values.append(self._value)
        return True

    def returned(self, value: Any) -> None:
        """As `Call.returned`, in one step."""
        self.blob = b""
        self._value = value
        self._how = VALUE
        self.state = _SETTLED
        ended, self._ended = self._ended, None
        try:
            if ended is not None:
                ended(self)
        finally:
            self.settled = True


class Chunk(Part):
    """A call for several items at once."""

    __slots__ = ()

    def __init__(
        self,
        func: Callable[..., Any],
        items: Sequence[Any],
        mode: int,
        ended: Callable[[Part], object] | None,
        *,
        loud: bool = False,
    ) -> None:
        """A call of `func` for each of `items`. `ended` is called with the chunk, in the thread that settles
        it. `loud`: it runs users' code.
        """
        super().__init__(func, items, None, mode)
        self.size = len(items)
        self.loud = loud
        self._ended = ended

    def values(self) -> Sequence[Any]:
        """As `Part.values`."""
        values: Sequence[Any] = self.result()
        return values

    def settle(self, value: Any, error: BaseException | None) -> None:
        """As `Call.settle`; there must be one value for each item."""
        super().settle(value, error or wrong_count(value, self.size))

    def _read(self, how: int, raw: Any) -> tuple[Any, int]:
        value, read = super()._read(how, raw)
        if read == VALUE and (wrong := wrong_count(value, self.size)) is not None:
            return wrong, ERROR
        return value, read
