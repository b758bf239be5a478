"""The seam: how a producer end and a consumer end are made and connected, over each transport."""

from __future__ import annotations

import abc
import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")
"""How the processes of a measurement start. A stage has no threads when it forks."""


class Producer(abc.ABC):
    """The end that puts, in its own process."""

    @abc.abstractmethod
    def put(self, item: Any) -> None:
        """Wait while the queue is full."""

    @abc.abstractmethod
    def put_many(self, items: list[Any]) -> None:
        """A batch, in the way that is natural to the transport."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Wait until everything has left this process."""


class Consumer(abc.ABC):
    """The end that gets, in its own process."""

    @abc.abstractmethod
    def get(self) -> Any:
        """Wait for the next item that `put` sent."""

    @abc.abstractmethod
    def get_many(self, most: int) -> list[Any]:
        """Wait for items that `put_many` sent: some of a batch, or all."""


class Link(abc.ABC):
    """One queue: made before the processes that use it, which inherit it by fork."""

    @abc.abstractmethod
    def producer(self) -> Producer:
        """Make the producing end, in the process that is to use it."""

    @abc.abstractmethod
    def consumer(self) -> Consumer:
        """Make a consuming end, in the process that is to use it."""

    def size(self) -> int | None:
        """How many items the queue itself says are waiting; None where nobody can tell."""
        return None

    @property
    def host(self) -> int | None:
        """The process that holds the items, if there is one of its own."""
        return None

    def kill_host(self) -> None:
        """``kill -9``."""
        raise NotImplementedError

    def start_host(self) -> None:
        """Again, at the same address."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Transport:
    """A way for items to travel."""

    name: str
    open: Callable[[Path, int], AbstractContextManager[Link]]
    """Given a folder for its files and a bound on the messages (0: none)."""
    hosted: bool = False
    """A process of its own holds the items."""
