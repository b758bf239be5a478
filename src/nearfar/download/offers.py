"""Ask every store before fetching: what one of them holds is not fetched again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

from nearfar.download.model import Job, Saved
from nearfar.download.post import Post
from nearfar.download.words import Answer, Known, Lost, Offer

Numbered = tuple[int, Job]


@dataclass(slots=True)
class _Round:
    """One batch, while stores are being asked about it."""

    batch: Sequence[Numbered]
    asked: set[str | None] = field(default_factory=set)
    waiting: int = 0
    heard: bool = False
    """A consumer has answered."""
    missed: set[str] = field(default_factory=set)
    """The stores that had no consumer when the question came."""
    saved: dict[int, Saved] = field(default_factory=dict)


class Offers:
    """Jobs on their way from the input to the fetcher, past the stores.

    A store that appears late is asked about what still waits in `ready`; what is being fetched by then
    may be fetched though it has it.
    """

    def __init__(
        self, post: Post, stores: Callable[[], frozenset[str]], on_saved: Callable[[int, Saved], None]
    ) -> None:
        self._post = post
        self._stores = stores
        self._on_saved = on_saved
        self._known: frozenset[str] = frozenset()
        self.ready: deque[Numbered] = deque()
        """Jobs that no store has."""
        self.pending = 0
        """Jobs that a store has yet to answer for."""

    def offer(self, batch: Sequence[Numbered]) -> None:
        """Ask the stores that are there; when none is known, whoever comes first."""
        self.pending += len(batch)
        self._ask(_Round(batch), self._stores() or {None})

    def turn(self) -> None:
        """Ask stores that have just appeared about what is ready."""
        stores = self._stores()
        new, self._known = stores - self._known, stores
        if new and self.ready:
            batch = tuple(self.ready)
            self.ready.clear()
            self.pending += len(batch)
            self._ask(_Round(batch), new)

    def _ask(self, asking: _Round, stores: Set[str | None]) -> None:
        asking.asked |= stores
        asking.waiting = len(stores)
        request = Offer(tuple(job for _, job in asking.batch))
        for store in stores:
            self._post.send(request, partial(self._answered, asking, store), to=store)

    def _answered(self, asking: _Round, store: str | None, answer: Answer) -> None:
        asking.waiting -= 1
        if isinstance(answer, Lost) and store is not None:
            asking.missed.add(store)
        else:
            asking.heard = True
        if isinstance(answer, Known) and len(answer.saved) == len(asking.batch):
            for (number, _), saved in zip(asking.batch, answer.saved, strict=True):
                if saved is not None:
                    asking.saved[number] = saved
        if asking.waiting:
            return
        if left := self._left(asking):
            self._ask(asking, left)
        else:
            self._conclude(asking)

    def _left(self, asking: _Round) -> set[str | None]:
        """Who is still to be asked: when a host returns, consumers may do so later than the question."""
        stores = self._stores()
        left: set[str | None] = set(stores & asking.missed)
        asking.missed.clear()
        if None in asking.asked:
            left |= stores - asking.asked
        return left if left or asking.heard else {None}

    def _conclude(self, asking: _Round) -> None:
        self.pending -= len(asking.batch)
        for number, job in asking.batch:
            if number in asking.saved:
                self._on_saved(number, asking.saved[number])
            else:
                self.ready.append((number, job))
