"""Hostile clients of a queue: well-formed messages, in any order, with any numbers in them."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

from nearfar.errors import ProtocolError
from nearfar.queues.messages import VERSION, QueueFrame, QueueMessage, QueueMessageType, pack, unpack
from tests.queues.ledger_check import body_of

NUMBERS = (0, 1, 1, 2, 3, 5, 40, 4096, 1 << 31, 1 << 62, (1 << 63) - 1)
WORDS = [kind for kind in QueueMessageType if kind is not QueueMessageType.HELLO]
ASKS = (
    "fence",
    "flush",
    "late",
    "lane",
    "size",
    "join",
    "dead letters",
    "counts",
    "\u202eshutdown",
    "nonsense",
)
TRUTHS = (
    QueueMessageType.JOIN,
    QueueMessageType.PUT,
    QueueMessageType.NEED,
    QueueMessageType.REPORT,
    QueueMessageType.ASK,
    QueueMessageType.SYNCED,
    QueueMessageType.BYE,
)


class Hostile:
    """A few sessions of faulty or hostile clients. `names`: of honest ones, which they try to impersonate."""

    def __init__(self, random: Random, names: tuple[str, ...] = (), *, consumes: bool, shuts: bool) -> None:
        self.random = random
        self._names = [*names, *(f"evil-{n}" for n in range(3))]
        self._sessions = {f"evil-{n}.secret.{n}": 0 for n in range(4)}
        self._consumes = consumes
        self._asks = [*ASKS, "shutdown"] if shuts else ASKS

    def word(self) -> tuple[str, QueueFrame]:
        """A message in one of the sessions that passes the checks of the encoding."""
        while True:
            with contextlib.suppress(ProtocolError):
                session, envelope = self._any_word()
                return session, unpack([bytes(frame) for frame in pack(*envelope)])

    def _any_word(self) -> tuple[str, QueueFrame]:
        choose = self.random
        session = choose.choice(list(self._sessions))
        if choose.random() < 0.15:
            self._sessions[session] = 0
            about = {"pid": choose.choice([1, 1 << 62, "x"]), "machine": "m"}
            hello = (choose.choice([VERSION, VERSION, VERSION, 2]), choose.choice(self._names), about)
            return session, QueueFrame(0, 0, QueueMessage(QueueMessageType.HELLO, hello))
        number = self._sessions[session] + 1
        if choose.random() < 0.1:
            number = self.number()
        elif choose.random() < 0.95:
            self._sessions[session] = number
        kind = choose.choice(TRUTHS if choose.random() < 0.8 else WORDS)
        body = None
        if kind in (QueueMessageType.PUT, QueueMessageType.LEND):
            body = body_of(range(choose.randint(1, 9))) + choose.choice([b"", b"", b"\xc1", b"\x93\x00"])
        return session, QueueFrame(number, self.number(), QueueMessage(kind, self.fields(kind, body), body))

    def number(self) -> int:
        return self.random.choice([*NUMBERS, self.random.randint(0, 12)])

    def positive(self) -> int:
        return max(1, self.number())

    def ranges(self) -> list[list[int]]:
        return [sorted([self.positive(), self.positive()]) for _ in range(self.random.randint(0, 2))]

    def fields(self, kind: QueueMessageType, body: bytes | None) -> tuple[Any, ...]:
        choose, flag = self.random, self.random.random() < 0.5
        match kind:
            case QueueMessageType.JOIN:
                tags = [choose.choice(["red", "blue", *self._names])]
                return (choose.random() < 0.8, flag and self._consumes, tags, choose.random() < 0.3)
            case QueueMessageType.PUT:
                to = choose.choice([None, None, "red", "nobody", *self._names])
                return (
                    choose.choice([self.positive(), self.number() + 1]),
                    choose.randint(1, len(body or b"x")),
                    to,
                )
            case QueueMessageType.NEED | QueueMessageType.REPORT:
                three = (self.number(), self.number(), self.number())
                if kind is QueueMessageType.NEED:
                    return (*three, self.number(), self.number(), self.number())
                answers = [[self.positive(), b"!"] for _ in range(choose.randint(0, 2))]
                return (*three, self.number(), *(self.ranges() for _ in range(4)), answers)
            case QueueMessageType.ASK:
                return (
                    self.positive(),
                    choose.choice(self._asks),
                    choose.choice([None, True, self.number()]),
                )
            case QueueMessageType.SYNCED:
                return (self.positive(), self.number(), self.number())
            case (
                QueueMessageType.BYE
                | QueueMessageType.HEARTBEAT
                | QueueMessageType.QUERY
                | QueueMessageType.PART
                | QueueMessageType.STRANGER
            ):
                return ()
            case _:
                return (self.positive(), self.positive(), self.positive())
