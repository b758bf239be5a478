"""The files that a run downloads, and a server that serves some of them wrongly at first."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from random import Random

from tests.chaos.download.plan import Plan
from tests.support.exchange import Reply, Request
from tests.support.routes import content, cut, status
from tests.support.web import Web

BUSY = ("busy", "reset", "drop", "short", "silent", "slow")
RARE = ("parked", "stall")
"""Each costs seconds: a host that asks for a pause gets it, and a stall is waited for."""


@dataclass
class Ware:
    """One URL, and how the server misbehaves before it serves it."""

    path: str
    body: bytes
    fails: str = ""
    """The reason for which it is to fail; empty for one that is to be saved."""
    bad: list[str] = field(default_factory=list)
    name: str = ""
    checked: bool = False

    @property
    def saved_as(self) -> str:
        return self.name or self.path[1:]

    def line(self, web: Web) -> str:
        fields = [web.url(self.path)]
        if self.name:
            fields.append(f"name={self.name}")
        if self.checked:
            right = hashlib.sha256(self.body).hexdigest()
            fields.append(f"sha256={right if self.fails != 'checksum' else right[::-1]}")
        return "\t".join(fields)


class Wares:
    """The files of one plan. The last fifth is not served before `open`, so that no producer ends before."""

    def __init__(self, plan: Plan, web: Web) -> None:
        self._dice = Random(plan.seed)
        self._pace = self._dice.choice((0.0, 0.005, 0.02))
        self._web = web
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._pause = threading.Event()
        self.all = [self._draw(number, plan.mischief) for number in range(plan.files)]
        for path, kind in zip(("/stalls", "/parks"), ("stall", "parked"), strict=True):
            if plan.mischief and self._dice.random() < 0.1:
                self.all.insert(0, Ware(f"{path}.bin", path.encode() * 3000, bad=[kind]))
        self._by_path = {ware.path: ware for ware in self.all}
        self._held = {ware.path for ware in self.all[len(self.all) * 4 // 5 :]}
        self.given: dict[str, int] = {}
        """How often each was given whole."""
        web.routes["*"] = self._answer

    def open(self) -> None:
        """Serve all files from now on."""
        self._open.set()

    def shares(self, parts: int) -> list[list[Ware]]:
        return [self.all[part::parts] for part in range(parts)]

    def lines(self, share: list[Ware]) -> list[str]:
        """A user's list: two lines are repeated, one is invalid."""
        lines = [ware.line(self._web) for ware in share]
        return [*lines[:7], *lines[3:5], "not a url", "# a remark", "", *lines[7:]]

    def saved(self) -> dict[str, Ware]:
        """The expected files at the end, by name."""
        return {ware.saved_as: ware for ware in self.all if not ware.fails}

    def _draw(self, number: int, mischief: float) -> Ware:
        dice = self._dice
        path = f"/{number:03}.bin"
        size = dice.randrange(550_000, 1_500_000) if dice.random() < 0.03 else dice.randrange(1, 30_000)
        ware = Ware(path, (path.encode() * (size // len(path) + 1))[:size])
        if dice.random() < 0.2:
            ware.name = f"sub{number % 3}/{number}.dat"
        if dice.random() < 0.2:
            ware.checked = True
        if dice.random() < mischief:
            ware.bad = [dice.choice(BUSY) for _ in range(dice.randrange(1, 3))]
        if number % 25 == 11:
            ware.fails, ware.checked = ("http-4xx", False) if number % 2 else ("checksum", True)
        return ware

    def _answer(self, request: Request, reply: Reply) -> None:
        if request.path in self._held:
            self._open.wait(60)
        if self._pace:
            self._pause.wait(self._pace)
        ware = self._by_path[request.path]
        with self._lock:
            bad = ware.bad.pop(0) if ware.bad else ""
            if not bad and "range" not in request.fields:
                self.given[ware.path] = self.given.get(ware.path, 0) + 1
        if ware.fails == "http-4xx":
            status(404)(request, reply)
        elif bad:
            self._misbehave(bad, ware.body, request, reply)
        else:
            content(ware.body, etag=f'"{len(ware.body)}"')(request, reply)

    def _misbehave(self, how: str, body: bytes, request: Request, reply: Reply) -> None:
        etag = f'"{len(body)}"'
        match how:
            case "busy" | "parked":
                status(503, {"Retry-After": "0" if how == "busy" else "1"})(request, reply)
            case "reset" | "drop" | "stall":
                cut(body, len(body) // 2, by=how, etag=etag)(request, reply)
            case "short":
                reply.head(200, {"Content-Length": str(len(body) + 10)})
                reply.data(body)
                reply.drop()
            case "silent":
                reply.drop()
            case _:
                reply.head(200, {"Content-Length": str(len(body)), "ETag": etag})
                for start in range(0, len(body), len(body) // 4 + 1):
                    reply.data(body[start : start + len(body) // 4 + 1])
                    self._pause.wait(0.05)
                reply.end()
