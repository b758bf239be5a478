"""A thread of ours that does in a caller's place what no exception may tear.

A signal's handler can be held back (`nearfar.net.shield`). What else is raised in a thread from outside
cannot: `PyThreadState_SetAsyncExc` by another thread, a trace function that raises at any bytecode, a stack
that is nearly full. A thread that is `exposed` to such a thing therefore touches nothing that could be torn:
it posts an errand, and waits. A thread that nobody else knows of does the errand, to its end.

::

    caller:  post --put--> SimpleQueue --get--> deputy: do ... release the lock
             wait on the lock <--------------------------------+
    an exception strikes the caller: the errand is abandoned, its wait is cut short, what it got is given back

All that the caller does is single calls into C, each of which happens or does not.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import _count as count_threads
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable
from functools import partial, wraps
from queue import SimpleQueue
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from nearfar.net.shield import Shield

__all__ = [
    "Abandoned",
    "Errand",
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

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

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


class Errand(Generic[T]):
    """Something that is done to its end, whatever is raised in the caller's thread meanwhile.

    It is done by a deputy, or behind a shield, and sleeps in `Shield.lower` only. ::

        errand = Errand(do, undo)
        try:
            return errand.run()
        except BaseException as error:
            errand.interrupted(error)
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
        outer, _here.errand = _here.errand, None if self._post is None else self
        try:
            self.value = do()
        except Abandoned:
            self._undo = None
        except BaseException as error:
            self.error, self._undo = error, None
        finally:
            _here.errand = outer
            self.done = True
            self._lock.release()

    def _take_back(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None and self.done:
            undo(self.value)


def safely(do: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """`Errand(do, undo)`, done."""
    if undo is None and not exposed():
        with _shield:
            return do()
    errand = Errand(do, undo)
    try:
        return errand.run()
    except BaseException as error:
        errand.interrupted(error)
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
    errand = _here.errand
    if errand is None:
        _shield.lift(_shield.lower())
    elif errand.abandoned:
        raise Abandoned


def errand_here() -> Errand[Any] | None:
    """What this thread, if it is a deputy, does in its caller's place now."""
    return _here.errand


def whose() -> int:
    """The ident of the thread on whose behalf this one works: its own, or a deputy's caller's."""
    errand = _here.errand
    return get_ident() if errand is None else errand.ident


# -- the deputies ----------------------------------------------------------------------------------


class _Here(threading.local):
    """What this thread does for another, and where it posts its own errands."""

    errand: Errand[Any] | None = None
    posted: Errand[Any] | None = None
    post: _Post | None = None


class _Post:
    """Where one thread posts its errands: one deputy does them, in order, until the thread has ended."""

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
    """One deputy for a thread, which keeps its errands in order; another where it waits for that already, and
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
