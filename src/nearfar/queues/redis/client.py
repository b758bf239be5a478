"""One process's connection to a queue in Redis: calls of the script, acks, the heartbeat, and waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import util
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from nearfar.errors import NearfarError, NotAdmitted, QueueLost
from nearfar.net.interrupts import Shield, checkpoint, ours, safe
from nearfar.net.process import new_name
from nearfar.queues.base import left
from nearfar.queues.redis.address import RedisAddress

SCRIPT = Path(__file__).with_name("queue.lua").read_bytes()
PREFIX = "nearfar:{%s}"
"""The name of a queue's hash; the braces put all keys of a queue into one slot of a cluster."""
DELIVERY = 0
"""The holder of items taken by `receive`: a later `get` of the same thread does not ack them."""
LINGER = 0.005
"""Seconds after which acks are sent that no other call has taken along."""
REPLY = 5.0
"""Seconds within which a server that is there connects and replies."""
LOOK = 1.0
"""Seconds after which a call that waits looks again, should its wake-up have gone to a process that died."""

PAUSE = 0.05
"""Seconds between two attempts to reach a server that is away."""
News = tuple[list[Any], list[int], list[int], list[int], list[int]]
"""Numbers of items that are done (with their answers, if there are any), failed, unreadable, and unused; and
of those whose acks came too late."""
DONE, FAILED, UNREADABLE, UNUSED, LATE = range(5)
NOTHING: News = ([], [], [], [], [])

log = logging.getLogger(__name__)
_shield = Shield()


class LeasedItem(NamedTuple):
    """An item that this client holds."""

    session: int
    number: int
    attempt: int
    body: bytes


class _Lock:
    """A reentrant lock. Signals come through while it is waited for: its holder may wait for the server."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        while not self._lock.acquire(timeout=PAUSE):
            checkpoint()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class RedisClient:
    """The state of one process. Any thread may call its methods; one call of the script runs at a time."""

    def __init__(
        self,
        place: RedisAddress,
        wait: float,
        settings: dict[str, int] | None,
        *,
        settles: bool,
        script: bytes = SCRIPT,
        introduction: tuple[bytes, ...] = (),
    ) -> None:
        """With `settings`, the first call makes the queue, or changes it. With `settles`, items that were
        taken are done when this client leaves, except deliveries. Another `script` than the queue's may need
        an `introduction` of each client that enters."""
        self.place = place
        self.maxbytes = self.head = 0
        """The queue's bound, and the bytes before each of its items, as last heard."""
        self.waited_for = True
        """Whether `join` and the exit of the process wait for the goodbye."""
        self.at_exit: util.Finalize | None = None
        """What waits for the goodbye at the exit of the process; not needed after it."""
        self.failure: Exception | None = None
        """The error of the goodbye."""
        self.session = 0
        self._wait = wait
        self._settings = settings
        self.settles = settles
        self._script, self._introduction = script, introduction
        self.epoch = b""
        """What the script said that it is, when this client entered; the queue's says nothing."""
        self._key = (PREFIX % place.name).encode()
        self._shas: dict[bytes, bytes] = {}
        self._name = self._former = ""
        self._puts = self._calls = 0
        self._lease = REPLY
        self._lock = _Lock()
        self._putting = _Lock()
        self._connection: redis.Connection | None = None
        self._idle: list[redis.Connection] = []
        self._away_since: float | None = None
        self._why = ""
        self._unsure = False
        """Whether the server may have lent items in a reply that did not arrive."""
        self._recalls = 0
        """How often this client had given back what a lost reply may have lent."""
        self._held: dict[int, dict[int, None]] = {}
        """The numbers of held items, by holder, the oldest first."""
        self._superseded: Counter[int] = Counter()
        """How many items each holder had when this client was declared dead: they are others' now."""
        self._news: News = ([], [], [], [], [])
        """What the server was not told."""
        self._flight = (0, b"")
        """The number and the news of a call whose reply has not arrived; 0 if there is none."""
        self._stirred = threading.Event()
        self._leaving = False
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The name under which the server knows this client: another one once it was declared dead."""
        return self._name

    @property
    def owes(self) -> bool:
        """Whether the server was not told of all acks."""
        return self._news != NOTHING or self._flight[0] != 0

    @property
    def entered(self) -> bool:
        """Whether the queue's settings are known here."""
        return bool(self._name)

    # -- calls -----------------------------------------------------------------------------------

    def call(self, op: str, *args: bytes | str | int) -> list[Any]:
        """The script's reply to a call that may be repeated.

        While the server is away, or has no such queue, this and all other calls wait, up to `wait` seconds,
        and then raise `QueueLost`. Raises `NotAdmitted`.
        """
        return self._persist(partial(self._attempt, op, lambda: (0, *args)), None)

    def exchange(self, op: str, args: Callable[[], tuple[bytes | str | int, ...]]) -> list[Any]:
        """As `call`, with arguments that are asked for before each attempt, once this client has entered."""
        return self._persist(partial(self._attempt, op, args), None)

    def attempt(self, script: bytes, op: str, args: tuple[bytes | str | int, ...]) -> list[Any] | None:
        """The reply of another `script`; None if that was not possible now, or if the outcome is unknown.

        Raises `QueueLost`, `NotAdmitted`.
        """
        with self._lock:
            return self._attempt(op, lambda: (0, *args), script)

    def reach(self, until: float) -> bool:
        """Whether this client has entered, at the latest at `until`. Raises `QueueLost`, `NotAdmitted`."""
        self._persist(partial(self._attempt, "beat", lambda: (0,)), until)
        return self.entered

    def put(self, bodies: list[bytes]) -> list[Any]:
        """The script's reply to a put, which the server does once, however often it is sent."""
        with self._putting:
            self._puts += 1
            number = self._puts
            return self._persist(partial(self._attempt, "put", lambda: (number, *bodies)), None)

    def take(self, most: int, holder: int, *, to_the_end: bool, until: float | None) -> list[Any]:
        """Up to `most` items (`LeasedItem`) for `holder`; if there are none, the script's reply.

        It takes along all acks. If the server is away at `until`, there are none.
        """
        return self._persist(partial(self._take, most, holder, to_the_end), until)

    @safe
    def settle_now(self) -> None:
        """Tell the server of all acks."""
        while self.owes:
            self._persist(self._settle, None)

    def _persist(self, attempt: Callable[[], list[Any] | None], until: float | None) -> list[Any]:
        while True:
            with self._lock:
                reply = attempt()
            if reply is not None:
                return reply
            self._give_up_if_lost()
            if until is not None and time.monotonic() >= until:
                return [b"empty"]
            checkpoint()
            _shield.let_through(time.sleep, PAUSE)

    def _give_up_if_lost(self) -> None:
        since = self._away_since
        if since is not None and time.monotonic() - since >= self._wait:
            raise QueueLost(f"{self._why} for {self._wait:g} s")

    def _take(self, most: int, holder: int, to_the_end: bool) -> list[Any] | None:
        recalls = 0

        def args() -> tuple[bytes | str | int, ...]:
            nonlocal recalls
            count = sum(map(len, self._held.values()))
            found = (*self._news_args(), most, int(to_the_end), count)
            recalls = self._recalls
            return found

        reply = self._attempt("take", args)
        if reply is not None:
            self._flight = (0, b"")
            if recalls != self._recalls:  # a signal handler used the queue, and gave back what this call got
                self._unsure = True
                return [b"empty"]
            self._unsure = False
            if reply[0] == b"ok":
                rows = msgpack.unpackb(reply[1], raw=True)
                mine = self._held.setdefault(holder, {})
                mine.update(dict.fromkeys(rows[::3]))
                return [LeasedItem(self.session, *rows[at : at + 3]) for at in range(0, len(rows), 3)] or [
                    b"empty"
                ]
        return reply

    def _settle(self) -> list[Any] | None:
        reply = self._attempt("settle", self._news_args)
        if reply is not None:
            self._flight, self._unsure = (0, b""), False
        return reply

    def _news_args(self) -> tuple[int, bytes, bytes]:
        """The number and the news of the call that is under way, or a new one; and, if a reply was lost, the
        items that this client knows of."""
        if not self._flight[0] and self._news != NOTHING:
            self._calls += 1
            self._flight, self._news = (
                (self._calls, msgpack.packb(self._news, use_bin_type=False)),
                ([], [], [], [], []),
            )
        known = b""
        if self._unsure:
            self._recalls += 1
            known = msgpack.packb([number for held in self._held.values() for number in held])
        self._unsure = True
        return *self._flight, known

    def _attempt(
        self, op: str, args: Callable[[], tuple[bytes | str | int, ...]], script: bytes = b""
    ) -> list[Any] | None:
        """One exchange with the server, as a client that it knows; None if that was not possible now."""
        try:
            while self._enter():
                reply = self._exchange(op, *args(), script=script)
                if reply[0] == b"stranger":
                    self._expelled()
                    continue
                if reply[0] != b"none":
                    self._away_since = None
                    return reply
                self._no_queue()
                self._name = ""
                break
        except QueueLost:
            raise  # not a connection's error, though it is one of Python's
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise NotAdmitted(f"the server at {self.place} refuses this client: {error}") from None
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise NotAdmitted(f"cannot verify who answers at {self.place}: {error}") from None
            self._away(f"no server has answered at {self.place}")
        except (OutOfMemoryError, ReadOnlyError) as error:
            self._away(f"the server at {self.place} has refused ({error})")
        except RedisError as error:
            raise QueueLost(f"the server at {self.place} cannot do this: {error}") from None
        return None

    def _expelled(self) -> None:
        """The server has declared this client dead, and given its items to others. Begin anew."""
        self._superseded += Counter({who: len(held) for who, held in self._held.items() if who != DELIVERY})
        self._held.clear()
        self._news, self._flight, self._unsure = ([], [], [], [], []), (0, b""), False
        self._former, self._name = self._name, ""
        self.session += 1

    def _enter(self) -> bool:
        """Make this client known to the queue, under a new name. False if there is no such queue."""
        if self._name:
            return True
        name = new_name()
        if self._settings is not None:
            self._exchange("declare", 0, msgpack.packb(self._settings), name=name)
            self._settings = None
        reply = self._exchange("enter", 0, self._former, *self._introduction, name=name)
        if reply[0] == b"none":
            self._no_queue()
            return False
        if reply[0] != b"ok":
            raise QueueLost(
                f"the queue at {self.place} is of another kind, or of another version of nearfar: choose"
                " another name, or use the same version everywhere"
            )
        _, self.maxbytes, lease, self.head, *epoch = reply
        self.epoch = b"".join(epoch)
        self._lease, self._name = lease / 1000, name
        if self._thread is None and not self._leaving:
            self._thread = threading.Thread(target=ours(self._beat), name="nearfar-redis", daemon=True)
            self._thread.start()
        return True

    def _no_queue(self) -> None:
        self._away(
            f"there has been no queue {self.place.name!r}, which Queue(maxsize, address) makes, at"
            f" {self.place}"
        )

    def _away(self, why: str) -> None:
        self._why = why
        if self._away_since is None:
            self._away_since = time.monotonic()

    def _exchange(
        self,
        op: str,
        number: int | bytes | str,
        *args: bytes | str | int,
        name: str = "",
        script: bytes = b"",
    ) -> list[Any]:
        tail = (1, self._key, op, name or self._name, number, *args)
        script = script or self._script
        try:
            if script in self._shas:
                known: list[Any] = self._request("EVALSHA", self._shas[script], *tail)
                return known
        except NoScriptError:
            pass  # the server was started again
        self._shas[script] = self._request("SCRIPT", "LOAD", script)
        reply: list[Any] = self._request("EVALSHA", self._shas[script], *tail)
        return reply

    def _request(self, *command: Any) -> Any:
        # Meanwhile no other thread has the connection: a signal handler may run here, and use the queue.
        connection, self._connection = self._connection, None
        try:
            if connection is None:
                connection = self._connect()
            connection.send_command(*command)
            return _reply(connection, REPLY)
        except ResponseError:
            raise
        except BaseException:
            if connection is not None:
                connection.disconnect()
                connection = None
            raise
        finally:
            if self._connection is None:
                self._connection = connection
            elif connection is not None:
                connection.disconnect()

    def _connect(self) -> redis.Connection:
        return connect(self.place, min(REPLY, max(self._wait, 0.1)))

    # -- what this client holds ------------------------------------------------------------------

    @safe
    def done(self, one: LeasedItem, answer: bytes | None = None) -> None:
        """Ack an item; of an earlier session it is late, and only counted. Does not wait for the server."""
        self._note(one, DONE, answer)

    @safe
    def failed(self, one: LeasedItem) -> None:
        """Give an item back for another attempt, and wait until the server has it."""
        if self._note(one, FAILED):
            self.settle_now()

    @safe
    def unreadable(self, one: LeasedItem) -> None:
        """Put an item aside, as a dead letter."""
        self._note(one, UNREADABLE)

    @safe
    def let_go(self, some: Iterable[LeasedItem]) -> None:
        """Give back items that the program has not seen."""
        for one in some:
            self._note(one, UNUSED)

    def _note(self, one: LeasedItem, outcome: int, answer: bytes | None = None) -> bool:
        with self._lock:
            if one.session == self.session:
                for held in self._held.values():
                    if one.number in held:
                        del held[one.number]
                        news: list[Any] = self._news[outcome]
                        news.append(one.number if answer is None else (one.number, answer))
                        self._stirred.set()
                        return True
            elif outcome == DONE:
                self._news[LATE].append(one.number)
        return False

    def done_by(self, holder: int) -> None:
        """Ack what `holder` took; the next call tells the server."""
        with self._lock:
            self._news[DONE].extend(self._held.pop(holder, ()))
            self._superseded.pop(holder, None)

    @safe
    def done_oldest(self, holder: int) -> bool:
        """Ack the oldest item of `holder`, else of another thread; False if there is none."""
        with self._lock:
            if self._superseded[holder]:
                self._superseded[holder] -= 1
                return True
            mine = self._held.get(holder)
            others = [held for who, held in self._held.items() if who != DELIVERY and held]
            held = mine or min(others, key=lambda each: next(iter(each)), default=None)
            if not held:
                return False
            number = next(iter(held))
            del held[number]
            self._news[DONE].append(number)
            self._stirred.set()
            return True

    # -- waiting ---------------------------------------------------------------------------------

    def sleep(self, deadline: float | None, *tokens: str) -> None:
        """Wait until there may be news of these kinds (``wake``, ``room``, ``idle``), or a moment passed."""
        checkpoint()
        seconds = left(deadline, LOOK) or 0.0
        if seconds <= 0:
            return
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        try:
            if connection is None:
                connection = self._connect()
            keys = [self._key + b":" + token.encode() for token in tokens]
            connection.send_command("BLPOP", *keys, f"{max(seconds, 0.001):.3f}")
            _reply(connection, seconds + REPLY)
        except (RedisError, OSError):
            if connection is not None:
                connection.disconnect()
            _shield.let_through(time.sleep, min(seconds, 0.05))  # the next call says what it is
        except BaseException:
            if connection is not None:
                connection.disconnect()
            raise
        else:
            with self._lock:
                if not self._leaving:
                    self._idle.append(connection)
                    return
            connection.disconnect()

    # -- the thread ------------------------------------------------------------------------------

    def _beat(self) -> None:
        """Send heartbeats, and acks that no call takes along; and say goodbye in the end."""
        due = 0.0
        while not self._leaving:
            stirred = self._stirred.wait(max(0.0, due - time.monotonic()))
            if stirred and not self._leaving:
                time.sleep(LINGER)
            self._stirred.clear()
            if self._leaving:
                break
            try:
                with self._lock:
                    if self.owes:
                        self._settle()
                    if time.monotonic() >= due:
                        due = time.monotonic() + self._lease / 4
                        self._attempt("beat", lambda: (0,))
            except NearfarError as error:
                log.debug("no heartbeat: %s", error)
        try:
            self._say_goodbye()
        except NearfarError as error:
            self.failure = error
        self._disconnect()
        if self.at_exit is not None and self.failure is None:
            self.at_exit.cancel()

    def _say_goodbye(self) -> None:
        if self.settles:
            for holder in list(self._held):
                if holder != DELIVERY:
                    self.done_by(holder)
        while self._name:
            with self._lock:
                if (not self.owes or self._settle()) and self._attempt("leave", lambda: (0,)):
                    return
            self._give_up_if_lost()
            if not self.waited_for:
                return
            time.sleep(PAUSE)

    # -- leaving ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye, in the background: unacked items go to others. Does not wait."""
        self._leaving = True
        self._stirred.set()
        if self._thread is None:
            self._disconnect()

    def _disconnect(self) -> None:
        connections = [*self._idle, *([self._connection] if self._connection is not None else [])]
        self._connection = None
        self._idle.clear()
        for connection in connections:
            connection.disconnect()

    @safe
    def join(self, timeout: float | None = None) -> None:
        """After `close`: wait for the goodbye. Raises `QueueLost` if the server did not answer in time."""
        thread, deadline = self._thread, None if timeout is None else time.monotonic() + timeout
        while thread is not None and thread.is_alive():
            seconds = left(deadline, LOOK)
            if not seconds:
                raise QueueLost(f"the server at {self.place} has not heard the goodbye for {timeout:g} s")
            _shield.let_through(thread.join, seconds)
            checkpoint()
        failure, self.failure = self.failure, None
        if failure is not None and self.waited_for:
            raise failure


def connect(place: RedisAddress, seconds: float) -> redis.Connection:
    """A new connection, made within `seconds`. Raises errors of redis-py, and `AddressError`."""
    made = (redis.SSLConnection if place.tls else redis.Connection)(
        **place.settings(),
        socket_timeout=REPLY,
        socket_connect_timeout=seconds,
        socket_keepalive=True,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
    )
    made.connect()
    return made


def ask(place: RedisAddress, *command: str) -> Any:
    """The server's reply to a command; nothing if it does not answer, or refuses."""
    try:
        connection = connect(place, REPLY)
        try:
            connection.send_command(*command)
            return _reply(connection, REPLY)
        finally:
            connection.disconnect()
    except (RedisError, OSError):
        return b""


def _reply(connection: redis.Connection, seconds: float) -> Any:
    """The reply to the last command. Signals come through while this waits for a slow one."""
    deadline = time.monotonic() + seconds
    if not connection.can_read(0.02):
        while not _shield.let_through(connection.can_read, 0.5):
            if time.monotonic() > deadline:
                raise redis.TimeoutError(f"no reply within {seconds:g} s")
            checkpoint()
    return connection.read_response(disable_decoding=True)
