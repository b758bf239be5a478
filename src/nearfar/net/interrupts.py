"""Keeps signals and asynchronous exceptions from interrupting a critical step.

Signal handlers can be delayed: `Shield`. Other exceptions raised in a thread from outside cannot:
`PyThreadState_SetAsyncExc` by another thread, a trace function that raises at any bytecode, a stack that is
nearly full. A thread that is `exposed` to these therefore does not run critical steps itself: it posts a
`DeferredCall`, and waits. A deputy, a thread that runs only this library's code, does the call to its end.

::

    caller:  post --put--> SimpleQueue --get--> deputy: do ... release the lock
             wait on the lock <--------------------------------+
    an exception in the caller: the deferred call is abandoned, its wait is cut short, its result is given
    back

All steps of the caller are single calls into C, each of which happens completely or not at all.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from _signal import getsignal as get_handler
from _signal import signal as set_handler
from _thread import LockType, allocate_lock, get_ident, start_new_thread
from _thread import _count as count_threads
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
    "deferred_call_here",
    "exposed",
    "ours",
    "safe",
    "safely",
    "soon",
    "struck_anywhere",
    "whose",
]


T = TypeVar("T")

# From `_signal`, for every step of every pool uses these: `signal` only adds enums, which cost 1 us each.

_SIGINT = int(signal.SIGINT)
_NUMBERS = sorted(int(number) for number in signal.valid_signals())
_SYSTEMS = frozenset((None, int(signal.SIG_DFL), int(signal.SIG_IGN)))
"""The values of `getsignal` for a handler that is not Python's."""
_ident = threading.get_ident


class _Guard:
    """Replaces the handler of one signal: records the signal while the shield is up, else calls the handler.

    So a guard that is left in place after an exception works like the handler itself.
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
        """Call the handler of the recorded signal, or raise the signal again."""
        if callable(self.handler):  # not raised again: a `set_wakeup_fd` has received it already
            return self.handler(self.number, frame)
        signal.raise_signal(self.number)
        return None


class _State:
    """The state of the shield, of the main thread; there is only one."""

    __slots__ = ("came", "complete", "depth", "found", "guards", "thread", "up")

    def __init__(self) -> None:
        self.thread = threading.main_thread().ident
        self.up = False
        """Whether signals are recorded. While this is set, no handler can raise."""
        self.depth = 0
        self.complete = False
        """Whether guards replace all handlers."""
        self.found: list[Any] = []
        """The handlers when the guards were made: as long as these are the same, the guards are reused."""
        self.guards: tuple[_Guard, ...] = ()
        self.came: deque[_Guard] = deque()


_state = _State()


class Shield:
    """A context manager: inside, the handlers of all signals wait until its end. For the main thread.

    Python runs signal handlers in the main thread, between any two of its steps, and each may raise. A signal
    without a Python handler is not delayed: it has the system's default effect. An exception of a handler is
    raised before the first step inside, or after the last one. All `Shield` objects share one state.
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
        """Let signals through until `lift`, at any depth of nesting; raises what their handlers raise."""
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
        """Delay signals again, with the depth that `lower` returned, even if a handler raises here."""
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
        """In a child that was forked inside: its main thread may be another one, which never leaves."""
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
    # A handler may raise at any point below; the remaining steps are still done.
    _state.up = False
    try:
        _remove_guards()
    finally:
        if _state.came:
            _deliver(frame)


def _place_guards() -> None:
    found = list(map(get_handler, _NUMBERS))
    if found != _state.found:  # rare: programs set their handlers once
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
    """Run the recorded handlers with this `frame`: the original one would keep all its objects alive."""
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
"""Stack frames that a step may need."""
_RAISER = "PyThreadState_SetAsyncExc"
"""The C API function by which one thread raises an exception in another."""

_modules = sys.modules
_frame, _limit, _tracer, _profiler = sys._getframe, sys.getrecursionlimit, sys.gettrace, sys.getprofile
_ours: set[int] = set()
"""The threads that run only nearfar's code, from their beginning to just before their end."""


class Abandoned(BaseException):
    """Raised in a deputy whose caller no longer waits."""


def ours(run: Callable[[], object]) -> Callable[[], None]:
    """`run` as the target of a thread of nearfar's own, which is not `exposed`."""

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
    """Whether a thread of this program may raise exceptions in another.

    True once `_RAISER` was looked up in `ctypes.pythonapi`, or if the script itself imports ctypes. That
    ctypes is loaded is not enough: numpy loads it, and so does nearfar.
    """
    api = getattr(_modules.get("ctypes"), "pythonapi", None)
    return api is not None and (_RAISER in vars(api) or "ctypes" in vars(_modules["__main__"]))


def struck_anywhere() -> bool:
    """Whether an exception may be raised here at any bytecode: by another thread, or by a tracer."""
    if _ours and get_ident() in _ours:
        return False
    if count_threads() > len(_ours) and _raiser_is_in_use():
        return True
    return _tracer() is not None or _profiler() is not None or (_HAS_MONITORING and _monitored())


def exposed() -> bool:
    """Whether an exception that cannot be delayed may be raised at any point in this thread."""
    if struck_anywhere():
        return True
    shallow = False
    try:
        _frame(_limit() - HEADROOM)
    except ValueError:  # no call in this block: Ctrl-C would have this error as its context
        shallow = True
    return _limit() <= HEADROOM if shallow else get_ident() not in _ours


_HAS_MONITORING = hasattr(sys, "monitoring")


class DeferredCall(Generic[T]):
    """A call that runs to its end, whatever is raised in the caller's thread meanwhile.

    A deputy runs it, or the caller behind a shield; it may sleep only after `Shield.lower`. ::

        deferred_call = DeferredCall(do, undo)
        try:
            return deferred_call.run()
        except BaseException as error:
            deferred_call.interrupted(error)
            raise
    """

    __slots__ = ("_do", "_lock", "_post", "_undo", "abandoned", "done", "error", "ident", "stir", "value")

    def __init__(self, do: Callable[[], T], undo: Callable[[T], object] | None = None) -> None:
        """`undo` is called with the result of `do` if that does not reach the caller."""
        self._do: Callable[[], T] | None = do
        self._undo = undo
        self.stir: Callable[[], object] | None = None
        """Set by a wait inside the call: a function that makes it check `abandoned`, called by a deputy."""
        self.abandoned = False
        self.done = False
        self.error: BaseException | None = None
        self.value: T
        self.ident = get_ident()
        self._post = _my_post() if exposed() else None
        self._lock: LockType | None = None
        if self._post is not None:
            self._lock = allocate_lock()
            self._lock.acquire()

    def run(self) -> T:
        """Run the call; returns its value, or raises its error."""
        if self._post is None or self._lock is None:
            with _shield:
                self()
        else:
            outer = _here.posted
            try:
                _here.posted = self  # inside: an exception before it must not leave this call there for ever
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
        """Handle an `error` in the caller: unless it is the call's own, cut the call short, and undo it."""
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
        """Whether the caller still waits for it."""
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
            if self._lock is not None:
                self._lock.release()

    def _take_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and self.done:
            undo(self.value)


def safely(do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """Run `do` as a `DeferredCall(do, undo)`, and return its value."""
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
    """Run `do` safely; a caller that is `exposed` does not wait for it. `do` must not raise."""
    post = _my_post() if exposed() else None
    if post is not None:
        post.put(do)
    else:
        with _shield:
            do()


def safe(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A decorator: runs a method `safely`."""

    @wraps(method)
    def done_safely(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return safely(partial(method, self, *args, **kwargs))

    return done_safely


def checkpoint() -> None:
    """Called between two parts of a long call that is done safely: an interruption ends it here."""
    deferred_call = _here.deferred_call
    if deferred_call is None:
        _shield.lift(_shield.lower())
    elif deferred_call.abandoned:
        raise Abandoned


def deferred_call_here() -> DeferredCall[Any] | None:
    """The deferred call that this thread runs now; None if it is not a deputy."""
    return _here.deferred_call


def whose() -> int:
    """The ident of the thread for which this one works: its own, or that of a deputy's caller."""
    deferred_call = _here.deferred_call
    return get_ident() if deferred_call is None else deferred_call.ident


# -- the deputies ----------------------------------------------------------------------------------


class _Here(threading.local):
    """The deferred call that this thread runs, the one it has posted, and where it posts."""

    deferred_call: DeferredCall[Any] | None = None
    posted: DeferredCall[Any] | None = None
    post: _Post | None = None


RESTART = 0.2
"""Seconds after which a deputy that has not begun is started again."""


class _Post:
    """The post box for one thread's deferred calls: one deputy runs them, in order, until the thread has
    ended."""

    __slots__ = ("put",)

    def __init__(self) -> None:
        queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.put = queue.put
        claim, began = allocate_lock(), allocate_lock()
        began.acquire()
        # A new thread has its creator's identity until it runs: an exception raised in the creator by another
        # thread may end the deputy at its first step. So the creator waits for it, and starts another.
        start_new_thread(_serve, (queue, claim, began))
        while not began.acquire(timeout=RESTART):
            start_new_thread(_serve, (queue, claim, began))

    def __del__(self) -> None:
        if hasattr(self, "put"):
            self.put(None)


def _serve(queue: SimpleQueue[Callable[[], object] | None], claim: LockType, began: LockType) -> None:
    if not claim.acquire(False):
        return  # another deputy serves this post box: this one was started because that one was late
    ident = get_ident()
    _ours.add(ident)
    began.release()
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
    """The post box of this thread, whose deputy keeps the calls in order; a new one for a signal handler or a
    finalizer that runs while the thread waits for its deputy.
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
    """A common post box for `stir` functions: they may have to wait for a lock, which a caller must not."""
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
