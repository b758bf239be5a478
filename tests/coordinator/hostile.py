"""Agents and clients that send well-formed messages in any order, with any numbers in them."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

from nearfar.coordinator.large_parts import AGENT, CLIENT, Row
from nearfar.coordinator.messages import FORMS, VERSION, PoolFrame, PoolMessage, PoolMessageType, pack, unpack
from nearfar.errors import ProtocolError

NUMBERS = (0, 1, 1, 2, 3, 5, 40, 4096, 1 << 31, 1 << 62, (1 << 63) - 1)
FROM_AGENTS = (
    PoolMessageType.CAME,
    PoolMessageType.CAME,
    PoolMessageType.ANSWERS,
    PoolMessageType.ANSWERS,
    PoolMessageType.DIED,
    PoolMessageType.RETURNED,
    PoolMessageType.LEAVING,
    PoolMessageType.KEPT,
)
FROM_CLIENTS = (
    PoolMessageType.JOIN,
    PoolMessageType.SUBMIT,
    PoolMessageType.SUBMIT,
    PoolMessageType.CANCEL,
    PoolMessageType.BYE,
)
OTHERS = (
    PoolMessageType.HEARTBEAT,
    PoolMessageType.QUERY,
    PoolMessageType.BYE,
    PoolMessageType.PART,
    PoolMessageType.RECALL,
    PoolMessageType.OUTCOMES,
    PoolMessageType.WORKERS,
    PoolMessageType.STRANGER,
)


class Hostile:
    """A few sessions of faulty or hostile peers. `names`: of honest peers, which they try to impersonate.

    `works`: they say that they have workers, and so are given tasks.
    """

    def __init__(self, random: Random, names: tuple[str, ...] = (), *, works: bool) -> None:
        self.random = random
        self._names = [*names, *(f"evil-{n}" for n in range(3))]
        self._roles = {f"evil-{n}.secret.{n}": AGENT if n % 2 else CLIENT for n in range(4)}
        self._sessions = dict.fromkeys(self._roles, 0)
        self._works = works

    def word(self) -> tuple[str, PoolFrame]:
        """A message in one of the sessions that passes the checks of the encoding."""
        while True:
            with contextlib.suppress(ProtocolError):
                session, envelope = self._any_word()
                return session, unpack([bytes(frame) for frame in pack(*envelope)])

    def _any_word(self) -> tuple[str, PoolFrame]:
        choose = self.random
        session = choose.choice(list(self._sessions))
        role = self._roles[session]
        if choose.random() < 0.1:
            self._sessions[session] = 0
            uid = choose.choice([session.partition(".")[0], *self._names])
            about = {"pid": self.number(), "host": "h", "slots": self.number(), "quota": self.number()}
            hello = (choose.choice([VERSION, VERSION, VERSION, VERSION + 1]), role, uid, about)
            return session, PoolFrame(0, 0, PoolMessage(PoolMessageType.HELLO, hello))
        number = self._sessions[session] + 1
        if choose.random() < 0.1:
            number = self.number()
        elif choose.random() < 0.95:
            self._sessions[session] = number
        kinds = FROM_CLIENTS if role == CLIENT else FROM_AGENTS
        kind = choose.choice(kinds if choose.random() < 0.9 else [*OTHERS, *FROM_AGENTS, *FROM_CLIENTS])
        if not self._works and kind in (PoolMessageType.CAME, PoolMessageType.KEPT):
            kind = PoolMessageType.QUERY
        rows = [self.row(kind) for _ in range(choose.randint(0, 3))] if kind in FORMS else None
        return session, PoolFrame(number, self.number(), PoolMessage(kind, self.fields(kind), rows))

    def number(self) -> int:
        return self.random.choice([*NUMBERS, self.random.randint(0, 12)])

    def positive(self) -> int:
        return max(1, self.number())

    def worker(self) -> str:
        return f"{self.random.choice(self._names)}/0.{self.random.randint(1, 3)}"

    def parts(self) -> tuple[bytes, list[bytes]]:
        return self.random.choice([(b"", []), (b"x", [b"y"]), (b"\xc1", [])])

    def row(self, kind: PoolMessageType) -> Row:
        choose = self.random
        match kind:
            case PoolMessageType.SUBMIT:
                timeout = choose.choice([None, 0, 1.5, 1e300])
                return (
                    self.positive(),
                    choose.randint(0, 2),
                    b"m:f\x1b[2J",
                    *self.parts(),
                    timeout,
                    self.number(),
                )
            case PoolMessageType.JOIN:
                return (b"m:prepare", *self.parts())
            case PoolMessageType.ANSWERS:
                return (choose.randint(0, 1), *self.parts())
            case PoolMessageType.KEPT:
                return (choose.choice(self._names), self.positive(), choose.randint(0, 1), *self.parts())
            case _:
                return (self.positive(), choose.randint(0, 1), *self.parts())

    def fields(self, kind: PoolMessageType) -> tuple[Any, ...]:
        choose = self.random
        match kind:
            case PoolMessageType.CAME:
                tasks = [[choose.choice(self._names), [self.number()]] for _ in range(choose.randint(0, 2))]
                ran = choose.choice([0, 0, self.number()])
                return (self.worker(), self.number(), ran, [choose.choice(self._names)], tasks)
            case PoolMessageType.ANSWERS:
                return (self.worker(), self.positive(), choose.choice([0, 0.5, 1e300]))
            case PoolMessageType.DIED:
                return (self.worker(), "was \x1b[31mkilled\nby nobody", self.number(), self.number())
            case PoolMessageType.RETURNED:
                return (self.worker(), self.number())
            case PoolMessageType.JOIN | PoolMessageType.SUBMIT:
                return (choose.random() < 0.5,)
            case PoolMessageType.CANCEL | PoolMessageType.WORKERS:
                return (self.positive(),)
            case PoolMessageType.RECALL:
                return (self.worker(),)
            case _:
                return ()
