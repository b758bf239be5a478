"""What the engines share that whoever waits drives: who may use them, what waits to go in, what is told."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container, Sequence
from concurrent.futures import CancelledError
from functools import partial
from time import monotonic

from nearfar.coordinator.endings import Outcomes, tell
from nearfar.coordinator.tasks import State, Task
from nearfar.errors import PoolBroken
from nearfar.net import forks
from nearfar.net.deputy import exposed, safely, struck_anywhere
from nearfar.net.ending import left_behind
from nearfar.net.telling import anew
from nearfar.net.waker import Waker
from nearfar.pool.alone import Alone
from nearfar.pool.call import Call
from nearfar.pool.engine import SHUT, Closed, check_callable
from nearfar.pool.leader import Leadership
from nearfar.pool.notices import Notices
from nearfar.pool.speech import Speech
from nearfar.worker.messages import NUMBERS, are_bare

HELP_EVERY = 128
"""Calls handed in after which whoever does so does some of the I/O, too."""

LONGEST_CANCEL = 5.0
"""Seconds that `cancel` waits for workers, that may not have begun, to give calls back."""


class DrivenEngine(ABC):
    """An engine whose work is done by whoever waits; what differs between them is abstract here.

    See `Engine`. Any thread may use it; a child that inherits it by a fork may not.

    What moves tasks is touched in `_alone` only, and by no thread that is `exposed`: a deputy does that in
    its place (see `nearfar.net.deputy`). What a signal's handler raises waits until it is done.
    """

    def __init__(self, name: str, speech: Speech, *, daemon: bool) -> None:
        """`daemon`: at the program's exit its calls are dropped; else they are waited for."""
        self.name = name
        self.daemon = daemon
        self._speech = speech
        self._names = speech.names
        self._owner = os.getpid()
        self._alone = Alone()
        self._inbox: deque[Call] = deque()
        self._handed_in = 0
        self._hungry = True
        """Whether what is handed in can go somewhere at once, as far as the last step knew."""
        self._due: float | None = None
        """When the next step is due, as the last one left it."""
        self._broken: PoolBroken | None = None
        self.failed = False
        """As `Work.failed`: a step raised."""
        self._closing = False
        self._stopping = False
        self._shut = False
        """Whether the workers are sent home: no call runs any more."""
        self.over = False
        """As `Work.over`."""
        self._outcomes: Outcomes
        """What tasks have come to; what does the work puts it there."""
        self._loud: Outcomes = deque()
        """Outcomes of which callers' callbacks are to be told, in the background."""
        self._notices = Notices()
        self._waker = Waker()
        self._leadership = Leadership(self, self._waker, f"nearfar-pool-{name}")
        forks.watch(self)

    def _begin(self) -> None:
        """Everything is there: begin to work."""
        _working.add(self)
        self._leadership.start()

    # -- for Pool and Executor ---------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """As `Engine.submit`."""
        if self._closing or self._broken:
            self._refuse()
        name, args = self._names.get(id(call.function)), call.blob
        bare = name is not None and type(args) is tuple and not call.buffers
        if bare and ((len(args) == 1 and type(args[0]) in NUMBERS) or are_bare(args)):
            call.function, call.buffers = name, ()
        elif struck_anywhere():
            safely(partial(self._pickle, call))
        else:
            self._pickle(call)
        call.client = self.name
        self._inbox.append(call)
        if (self._hungry and not call.awaited) or self._closing:  # looked at after that: see `_work`
            safely(self._send_now)
        else:
            self._handed_in += 1
            if self._handed_in >= HELP_EVERY:
                self._handed_in = 0
                self._leadership.help()

    def _pickle(self, call: Call) -> None:
        check_callable(call.function)
        func, args, kwargs = call.take()
        if call.mode:
            call.function, call.blob, call.buffers = self._speech.dump_chunk(func, args)
        else:
            call.function, call.blob, call.buffers = self._speech.dump_call(func, args, kwargs)

    def send(self) -> None:
        """As `Work.send`."""
        if self._inbox:
            self.step([])
            self._nudge()

    def _send_now(self) -> None:
        self.step([])  # tells nothing: a caller may hold a lock that some callback takes
        self._nudge()
        if self.over:  # nobody else will
            self.tell()

    @property
    def broken(self) -> PoolBroken | None:
        """Why nothing can run any more, if that is so."""
        return self._broken

    def check_limits(self, timeout: float | None, retries: int) -> None:  # noqa: B027
        """As `Engine.check_limits`: all can be kept."""

    def cancel(self, *calls: Call, wait: bool = True) -> bool:
        """As `Engine.cancel`. All are asked back at once, and then waited for together."""
        safely(partial(self._cancel_here, calls))
        if wait and (open_ := [call for call in calls if self._is_undecided(call)]):
            self.wait_until(lambda: not any(map(self._is_undecided, open_)), LONGEST_CANCEL)
        return all(call.settled and call.cancelled() for call in calls)

    def _is_undecided(self, call: Call) -> bool:
        """Whether it is not known yet if `call` has begun: a worker is asked, or an outcome is to be told."""
        return not call.settled and (call.state is State.SETTLED or call in self._asked_back())

    def _cancel_here(self, calls: Sequence[Call]) -> None:
        self._tell_cancelled(self._alone([], self._cancel_now, calls))
        self.step([])
        self._nudge()

    def cancel_waiting(self) -> None:
        """As `Engine.cancel_waiting`."""
        safely(self._cancel_waiting_here)

    def _cancel_waiting_here(self) -> None:
        self._tell_cancelled(self._alone([], self._cancel_all_now))
        self._nudge()

    def wait_until(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """As `Engine.wait_until`. Raises `PoolBroken` if the pool's own work failed: `ready` may never be.

        Raises `RuntimeError` in a finalizer that runs in the middle of the pool's own work.
        """
        if self._alone.thread == threading.get_ident() and not ready():
            raise RuntimeError("a finalizer cannot wait for the pool in the middle of whose work it runs")
        met = self._leadership.wait_until(ready, timeout)
        if self.over and left_behind():
            raise SystemExit
        if self.failed and self._broken is not None and not ready():
            raise anew(self._broken)
        return met

    def close(self) -> None:
        """As `Engine.close`."""
        if self._owner == os.getpid() and not self._closing:
            self._closing = True
            safely(self._close_here)

    def _close_here(self) -> None:
        self.step([])
        self._waker.wake()

    def terminate(self) -> None:
        """As `Engine.terminate`."""
        if self._owner != os.getpid():
            return
        self._closing = self._stopping = True
        if self._alone.here:  # a garbage collection: whoever leads does it then
            self._waker.wake()
            return
        safely(self._terminate_here)
        if exposed():
            safely(self._leadership.join)
        else:
            self._leadership.join()  # the main thread may be interrupted

    def _terminate_here(self) -> None:
        self.step([])
        self.tell()
        self._waker.wake()

    def join(self, timeout: float | None = None) -> bool:
        """As `Engine.join`."""
        if self._owner != os.getpid():
            return True
        if not self._leadership.wait_until(lambda: self.over, timeout):
            return False
        self._leadership.join()
        return True

    # -- the work, for who leads -------------------------------------------------------------------

    def step(self, events: list[tuple[int, int]]) -> None:
        """As `Work.step`. Not from a thread that is `exposed`."""
        alone = self._alone
        with alone.lock:
            if alone.thread is None:
                alone.thread = threading.get_ident()
                try:
                    self._work(events)
                finally:
                    alone.thread = None

    def deadline(self) -> float | None:
        """As `Work.deadline`."""
        return self._due

    def tell(self) -> bool:
        """As `Work.tell`."""
        if not (self._outcomes or self._loud or self._notices.found):
            return False
        if self._leadership.in_background:
            self._notices.tell()
            told = tell(self._loud)
            return tell(self._outcomes) or told
        told = tell(self._outcomes, self._loud)
        if self._loud or self._notices.found:
            self._leadership.call_background()
        return told

    @property
    def untold(self) -> bool:
        """As `Work.untold`."""
        return bool(self._loud or self._notices.found)

    def forget_parent(self) -> None:
        """In a forked child: no use of this engine works there."""
        self._alone.forget_parent()
        self._broken = PoolBroken("this pool belongs to the process that made it")
        self.failed = True
        forks.keep(self._waker, self._leadership)

    def _nudge(self) -> None:
        """After a step: if it was not the leader's, that has to know what is due now, and to be told."""
        if self._leadership.asleep_until:
            self._leadership.reconsider()
        if self._outcomes:
            self._waker.wake()

    def _tell_cancelled(self, calls: list[Call]) -> None:
        try:
            for call in calls:
                call.failed(CancelledError())
        finally:
            self._waker.wake()  # the leader may wait for one of them, or a follower

    # -- what differs: all but `size`, `counts` and `poll` is called under the lock only -------------

    @property
    @abstractmethod
    def size(self) -> int:
        """As `Engine.size`."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """As `Engine.counts`."""

    @abstractmethod
    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """As `Work.poll`."""

    @abstractmethod
    def _submit(self, calls: deque[Call]) -> None:
        """Take in all these, to which other threads may add."""

    @abstractmethod
    def _cancel(self, calls: Sequence[Call]) -> list[Call]:
        """Those that never run, and nobody else will say so. The others have begun, or are asked back."""

    @abstractmethod
    def _asked_back(self) -> Container[Task]:
        """Those of which a worker has still to say whether it has begun."""

    @abstractmethod
    def _waiting(self) -> list[Call]:
        """The calls that have not gone out."""

    @abstractmethod
    def _fail_all(self, error: BaseException) -> None:
        """Every call without an outcome comes to this one."""

    @abstractmethod
    def _step(self, events: list[tuple[int, int]], now: float) -> None:
        """Do all that is to be done now, and then say whether it is `_hungry`."""

    @abstractmethod
    def _deadline(self) -> float | None:
        """When the next step is due without an event."""

    @abstractmethod
    def _leave_now(self) -> None:
        """Stop what runs, and see to it that `_end` is called."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close everything."""

    # -- under the lock ----------------------------------------------------------------------------

    def _work(self, events: list[tuple[int, int]]) -> None:
        try:
            if not self.over:
                self._step(events, monotonic())
            while self._inbox and self._hungry and not self.over:
                # Handed in since, by one who saw that it was not hungry: there may be no event any more.
                self._step([], monotonic())
            if self._stopping and not self.over:
                self._stop()
            if self.over:
                self._take_in()
            self._due = None if self.over else self._deadline()
        except BaseException as error:
            self.failed = True
            self._hungry = True
            self._due = None
            try:
                self._break(f"the pool's own work failed: {error!r}", error)
            finally:
                self._end()
            if not isinstance(error, Exception):  # of a signal's handler
                raise

    def _cancel_now(self, calls: Sequence[Call]) -> list[Call]:
        self._take_in()
        return self._cancel([call for call in calls if call.state is not State.SETTLED])

    def _cancel_all_now(self) -> list[Call]:
        self._take_in()
        return self._cancel(self._waiting())

    def _stop(self) -> None:
        self._take_in()
        self._fail_all(CancelledError())
        self._leave_now()

    def _take_in(self) -> None:
        inbox = self._inbox
        if not (self._broken is not None or self._stopping or self._shut or self.over):
            self._submit(inbox)
        while inbox:  # handed in just when this ended, and too late to be refused
            error = CancelledError() if self._stopping else Closed(SHUT)
            self._outcomes.append((inbox.popleft(), self._broken or error))

    def _end(self) -> None:
        """Nothing is left to do, or to wait for."""
        if not self.over:
            self.over = True
            self._let_go()
            self._waker.wake()

    def _break(self, reason: str | BaseException, cause: BaseException | None = None) -> None:
        """Nothing works any more: say so to every caller, now and later."""
        if self._broken is None:
            self._broken = reason if isinstance(reason, PoolBroken) else PoolBroken(str(reason))
            self._broken.__cause__ = cause or self._broken.__cause__
            self._fail_all(self._broken)

    def _refuse(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("this pool belongs to the process that made it")
        if self._broken:
            raise anew(self._broken)
        raise Closed(SHUT.replace("after", "after interpreter") if _exiting else SHUT)


_working: weakref.WeakSet[DrivenEngine] = weakref.WeakSet()
_exiting = False
"""Whether the program's last line has run: executors take nothing more, and finish what they have."""


def _finish() -> None:
    """As the standard's executors do it: before other threads are waited for, and `atexit` runs."""
    global _exiting
    _exiting = True
    waited_for = [engine for engine in _working if not (engine.daemon or engine.over)]
    for engine in waited_for:
        engine.close()
    for engine in waited_for:
        engine.join()


def _drop() -> None:
    for engine in list(_working):
        if engine.daemon and not engine.over:
            engine.terminate()


threading._register_atexit(_finish)  # type: ignore[attr-defined]
atexit.register(_drop)
