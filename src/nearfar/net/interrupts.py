"""Signals and exceptions from outside, held back from a step that they must not tear.

A thread of ours that does in a caller's place what no exception may tear.

A signal's handler can be held back (`nearfar.net.interrupts`). What else is raised in a thread from outside
cannot: `PyThreadState_SetAsyncExc` by another thread, a trace function that raises at any bytecode, a stack
that is nearly full. A thread that is `exposed` to such a thing therefore touches nothing that could be torn:
it posts an deferred call, and waits. A thread that nobody else knows of does the deferred call, to its end.

::

    caller:  post --put--> SimpleQueue --get--> deputy: do ... release the lock
             wait on the lock <--------------------------------+
    an exception strikes the caller: the deferred call is abandoned, its wait is cut short, what it got is given back

All that the caller does is single calls into C, each of which happens or does not.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _signal import getsignal as get_handler
from _signal import signal as set_handler
from _thread import _count as count_threads
from _thread import allocate_lock, get_ident, start_new_thread
from collections import deque
from collections.abc import Callable
from functools import partial, wraps
from queue import SimpleQueue
from types import FrameType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

__all__ = [
    "Abandoned",
    "DeferredCall",
    "checkpoint",
    "errand_here",
    "exposed",
    "ours",
    "safe",
    "safely",
    "soon",
    "struck_anywhere",
    "whose",
]


T = TypeVar("T")

# Straight from C, in every step of every pool: what `signal` adds is to make enums of numbers, at 1 us each.

_SIGINT = int(signal.SIGINT)
_NUMBERS = sorted(int(number) for number in signal.valid_signals())
_SYSTEMS = frozenset((None, int(signal.SIG_DFL), int(signal.SIG_IGN)))
"""What stands in place of a handler that is not Python's."""
_ident = threading.get_ident


class _Guard:
    """Stands in place of one signal's handler: notes the signal while the shield is up, and else hands it on.

    A guard that an exception left in its place is therefore as good as the handler itself.
    """

    __slots__ = ("handler", "number")

    def __init__(self, number: int, handler: Any) -> None:
        self.number = number
        self.handler = handler

    def __call__(self, signum: int, frame: FrameType | None) -> object:
        if _state.up:
            if self not in _state.came:
                _state.came.append(self)
            return None
        _state.complete = False  # the handler may set other handlers
        if get_handler(signum) is self:
            set_handler(signum, self.handler)
        return self.run(frame)

    def run(self, frame: FrameType | None) -> object:
        """Do what the signal is there for, whose turn it is now."""
        if callable(self.handler):  # not sent again: a `set_wakeup_fd` has heard of it
            return self.handler(self.number, frame)
        signal.raise_signal(self.number)
        return None


class _State:
    """Of the main thread; there is only one."""

    __slots__ = ("came", "complete", "depth", "found", "guards", "thread", "up")

    def __init__(self) -> None:
        self.thread = threading.main_thread().ident
        self.up = False
        """Whether signals are noted. From when this is set, nothing can be raised by a handler."""
        self.depth = 0
        self.complete = False
        """Whether every handler has a guard in its place."""
        self.found: list[Any] = []
        """The handlers as they were when the guards were made: while they stay, the guards do."""
        self.guards: tuple[_Guard, ...] = ()
        self.came: deque[_Guard] = deque()


_state = _State()


class Shield:
    """A context manager: inside, the handlers of all signals wait until its end. For the main thread.

    Python runs signal handlers in the main thread, between any two steps of it, and each may raise. A signal
    that nobody handles is not held back: it does what the system does with it. An exception of a handler
    comes before the first step inside, or after the last one; all shields are one, however many objects.
    """

    __slots__ = ()

    def __enter__(self) -> Self:
        if _ident() == _state.thread:
            if _state.up:
                _state.depth += 1
            else:
                _raise_shield(1)
        return self

    def __exit__(self, *_: object) -> None:
        if _state.up and _ident() == _state.thread:
            if _state.depth > 1:
                _state.depth -= 1
            else:
                _drop_shield(sys._getframe(1))

    def lower(self) -> int:
        """Let signals through until `lift`, however deep this is; raises what their handlers raise."""
        if not _state.up or _ident() != _state.thread:
            return 0
        depth = _state.depth
        _state.up = False
        if _state.came:
            try:
                _deliver(sys._getframe(1))
            except BaseException:
                self.lift(depth)
                raise
        return depth

    def lift(self, depth: int) -> None:
        """Hold signals back again, as before `lower` gave this; so it is, too, when a handler raises here."""
        if depth:
            try:
                _raise_shield(depth)
            finally:
                if not _state.up:
                    self.lift(depth)

    def let_through(self, do: Callable[..., T], *given: object) -> T:
        """What `do` returns; meanwhile signals come through, and what their handlers raise is raised.

        A function of its own: where one `try` stands in another, the step at which the inner one begins
        belongs to neither, and an exception there would leave out what the outer one has to do.
        """
        depth = self.lower()
        try:
            return do(*given)
        finally:
            self.lift(depth)

    def forget_parent(self) -> None:
        """In a child that was forked meanwhile: its main thread may be another, which never comes out."""
        _forget_parent()


def _raise_shield(depth: int) -> None:
    try:
        if not _state.complete:
            _place_guards()
        _state.depth = depth
        _state.up = True
    except BaseException:
        if not _state.up:
            _remove_guards()
        raise


def _drop_shield(frame: FrameType) -> None:
    # Of what follows, anything may be left undone by what a handler raises: the rest is done all the same.
    _state.up = False
    try:
        _remove_guards()
    finally:
        if _state.came:
            _deliver(frame)


def _place_guards() -> None:
    found = list(map(get_handler, _NUMBERS))
    if found != _state.found:  # seldom: programs set their handlers once
        _state.guards = tuple(
            _Guard(number, handler.handler if type(handler) is _Guard else handler)
            for number, handler in zip(_NUMBERS, found, strict=True)
            if handler not in _SYSTEMS or (number == _SIGINT and handler is not None)
        )
        _state.found = found
    for guard in _state.guards:
        set_handler(guard.number, guard)
    _state.complete = True


def _remove_guards() -> None:
    _state.complete = False
    for guard in _state.guards:
        if get_handler(guard.number) is guard:
            set_handler(guard.number, guard.handler)


def _deliver(frame: FrameType | None) -> None:
    """As if they came behind the shield: the frame they came in would keep alive all it had in hand."""
    while _state.came:
        guard = _state.came.popleft()
        try:
            guard.run(frame)
        finally:
            _deliver(frame)


def _forget_parent() -> None:
    _state.thread = threading.main_thread().ident
    _state.up, _state.depth = False, 0
    _state.came.clear()
    _remove_guards()


os.register_at_fork(after_in_child=_forget_parent)


P = ParamSpec("P")
S = TypeVar("S")

HEADROOM = 200
"""Frames that a step may need on the stack."""
_RAISER = "PyThreadState_SetAsyncExc"
"""The function of Python by which one thread raises an exception in another."""

_modules = sys.modules
_frame, _limit, _tracer, _profiler = sys._getframe, sys.getrecursionlimit, sys.gettrace, sys.getprofile
_ours: set[int] = set()
"""The threads that run nothing but nearfar's code, from when they began to just before they end."""


class Abandoned(BaseException):
    """Raised in a deputy whose caller does not wait any more."""


def ours(run: Callable[[], object]) -> Callable[[], None]:
    """`run`, as what a thread of ours does: nobody raises anything in it."""

    def run_ours() -> None:
        _ours.add(get_ident())
        try:
            run()
        finally:
            _ours.discard(get_ident())

    return run_ours


def _monitored() -> bool:
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(map(monitoring.get_tool, range(6)))


def _raiser_is_in_use() -> bool:
    """Whether a thread of this program may raise something in another.

    That is so once `_RAISER` was looked up in `ctypes.pythonapi`, and where the script itself imports ctypes.
    That ctypes is loaded says nothing: numpy loads it, and so does nearfar.
    """
    api = getattr(_modules.get("ctypes"), "pythonapi", None)
    return api is not None and (_RAISER in vars(api) or "ctypes" in vars(_modules["__main__"]))


def struck_anywhere() -> bool:
    """Whether an exception may be raised here at any bytecode: by another thread, or by what traces this."""
    if _ours and get_ident() in _ours:
        return False
    if count_threads() > len(_ours) and _raiser_is_in_use():
        return True
    return _tracer() is not None or _profiler() is not None or (_HAS_MONITORING and _monitored())


def exposed() -> bool:
    """Whether an exception that cannot be held back may be raised in the middle of something here."""
    if struck_anywhere():
        return True
    shallow = False
    try:
        _frame(_limit() - HEADROOM)
    except ValueError:  # no call in here: Ctrl-C would come with this error as its context
        shallow = True
    return _limit() <= HEADROOM if shallow else get_ident() not in _ours


_HAS_MONITORING = hasattr(sys, "monitoring")


class DeferredCall(Generic[T]):
    """Something that is done to its end, whatever is raised in the caller's thread meanwhile.

    It is done by a deputy, or behind a shield, and sleeps in `Shield.lower` only. ::

        deferred call = Errand(do, undo)
        try:
            return deferred call.run()
        except BaseException as error:
            deferred call.interrupted(error)
            raise
    """

    __slots__ = ("_do", "_lock", "_post", "_undo", "abandoned", "done", "error", "ident", "stir", "value")

    def __init__(self, do: Callable[[], T], undo: Callable[[T], object] | None = None) -> None:
        """`undo` gets what it brought, where that does not reach the caller."""
        self._do: Callable[[], T] | None = do
        self._undo = undo
        self.stir: Callable[[], object] | None = None
        """What waits inside sets it: to be called, in a thread of ours, when it is to look at `abandoned`."""
        self.abandoned = False
        self.done = False
        self.error: BaseException | None = None
        self.value: T
        self.ident = get_ident()
        self._post = _my_post() if exposed() else None
        self._lock = allocate_lock()
        self._lock.acquire()

    def run(self) -> T:
        """Have it done; the value, or raises its error."""
        if self._post is None:
            with _shield:
                self()
        else:
            outer, _here.posted = _here.posted, self
            try:
                self._post.put(self)
                self._lock.acquire()
            finally:
                _here.posted = outer
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            del self  # its traceback holds this frame

    def interrupted(self, error: BaseException) -> None:
        """The caller gets `error`. If that is not its own, cut it short, and undo it."""
        if error is self.error:
            return
        self.abandoned = True
        if self._post is None:
            with _shield:
                self._take_back()
            return
        self._post.put(self._take_back)
        if not self.done and self.stir is not None:
            _stirrers().put(self.stir)

    @property
    def pending(self) -> bool:
        """Whether its caller still waits for it."""
        return not (self.done or self.abandoned)

    # -- in the deputy -----------------------------------------------------------------------------

    def __call__(self) -> None:
        do, self._do = self._do, None
        if do is None or self.abandoned:
            return
        outer, _here.deferred_call = _here.deferred_call, None if self._post is None else self
        try:
            self.value = do()
        except Abandoned:
            self._undo = None
        except BaseException as error:
            self.error, self._undo = error, None
        finally:
            _here.deferred_call = outer
            self.done = True
            self._lock.release()

    def _take_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and self.done:
            undo(self.value)


def safely(do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """`DeferredCall(do, undo)`, done."""
    if undo is None and not exposed():
        with _shield:
            return do()
    deferred_call = DeferredCall(do, undo)
    try:
        return deferred_call.run()
    except BaseException as error:
        deferred_call.interrupted(error)
        raise


def soon(do: Callable[[], object]) -> None:
    """`do` safely; whoever is `exposed` need not wait for it. It must not raise."""
    post = _my_post() if exposed() else None
    if post is not None:
        post.put(do)
    else:
        with _shield:
            do()


def safe(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that is done `safely`."""

    @wraps(method)
    def done_safely(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return safely(partial(method, self, *args, **kwargs))

    return done_safely


def checkpoint() -> None:
    """Between two parts of something long that is done safely: an interruption ends it here."""
    deferred_call = _here.deferred_call
    if deferred_call is None:
        _shield.lift(_shield.lower())
    elif deferred_call.abandoned:
        raise Abandoned


def errand_here() -> DeferredCall[Any] | None:
    """What this thread, if it is a deputy, does in its caller's place now."""
    return _here.deferred_call


def whose() -> int:
    """The ident of the thread on whose behalf this one works: its own, or a deputy's caller's."""
    deferred_call = _here.deferred_call
    return get_ident() if deferred_call is None else deferred_call.ident


# -- the deputies ----------------------------------------------------------------------------------


class _Here(threading.local):
    """What this thread does for another, and where it posts its own deferred calls."""

    deferred_call: DeferredCall[Any] | None = None
    posted: DeferredCall[Any] | None = None
    post: _Post | None = None


class _Post:
    """Where one thread posts its deferred calls: one deputy does them, in order, until the thread has ended."""

    __slots__ = ("put",)

    def __init__(self) -> None:
        queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.put = queue.put
        start_new_thread(_serve, (queue,))  # in one call: nothing can be raised inside

    def __del__(self) -> None:
        if hasattr(self, "put"):
            self.put(None)


def _serve(queue: SimpleQueue[Callable[[], object] | None]) -> None:
    ident = get_ident()
    _ours.add(ident)
    try:
        while (do := queue.get()) is not None:
            try:
                do()
            except Exception:
                sys.excepthook(*sys.exc_info())
            del do
            threading._active.pop(ident, None)  # type: ignore[attr-defined]  # `current_thread` made it
    finally:
        _ours.discard(ident)


def _my_post() -> _Post | None:
    """One deputy for a thread, which keeps its deferred calls in order; another where it waits for that already, and
    a signal's handler or a finalizer runs meanwhile.
    """
    posted = _here.posted
    if posted is not None and posted.pending:
        try:
            return _Post()
        except RuntimeError:
            return None
    post = _here.post
    if post is None:
        try:
            _here.post = post = _Post()
        except RuntimeError:
            return None
    return post


def _stirrers() -> _Post:
    """Of one for all: what wakes a deputy may have to wait for a lock, which its caller must not."""
    if not _stirring:
        _stirring.append(_Post())
    return _stirring[0]


_here = _Here()
_shield = Shield()
_stirring: list[_Post] = []


def _after_fork() -> None:
    global _here
    _ours.clear()
    _kept.extend((_here, list(_stirring)))
    _here = _Here()
    _stirring.clear()


_kept: list[object] = []
os.register_at_fork(after_in_child=_after_fork)
