"""What an agent remembers of a worker, so that it can tell another coordinator. Pure."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Given(NamedTuple):
    """A batch that a worker was given: its client, and the numbers of its tasks there (0: an initializer)."""

    client: str
    numbers: list[int]


class Record:
    """One worker."""

    def __init__(self, name: str, pid: int, wired: str) -> None:
        self.name = name
        self.wired = wired
        """What the coordinator calls it."""
        self.pid = pid
        self.batches: deque[Given] = deque()
        """What it has not answered, in order."""
        self.prepared: set[str] = set()
        """The clients whose initializer it was given."""
        self.ran = 0
        """Tasks that it answered."""
        self.given = 0
        """Batches given in this session, those among them that it began with."""
        self.told = False
        """A coordinator knows it."""
        self.end: tuple[str, int] | None = None
        """Once it is dead: how, and how many batches it had not read."""
        self.end_message = 0
        """The number of the message in which this session was told of its end."""

    def give(self, client: str, numbers: list[int], *, initializer: bool) -> None:
        self.given += 1
        self.batches.append(Given(client, numbers))
        if initializer:
            self.prepared.add(client)

    def take_back(self, batches: int) -> None:
        """The last `batches` come back unread."""
        for _ in range(batches):
            client, numbers = self.batches.pop()
            self.given -= 1
            if 0 in numbers:
                self.prepared.discard(client)

    def answer(self, count: int) -> list[Given]:
        """It answered its next `count` tasks: these."""
        self.ran += count
        answered: list[Given] = []
        while count:
            given = self.batches.popleft()
            if len(given.numbers) > count:
                client, numbers = given
                self.batches.appendleft(Given(client, numbers[count:]))
                given = Given(client, numbers[:count])
            answered.append(given)
            count -= len(given.numbers)
        return answered
