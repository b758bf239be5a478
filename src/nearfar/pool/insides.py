"""What differs between the engines that whoever waits drives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence

from nearfar.coordinator.endings import Outcomes
from nearfar.coordinator.tasks import Task
from nearfar.pool.call import Call


class Insides(ABC):
    """What `DrivenEngine` needs. All but `size`, `counts` and `poll` is called under its lock only."""

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

    @property
    @abstractmethod
    def _outcomes(self) -> Outcomes:
        """What tasks have come to."""

    @abstractmethod
    def _submit(self, call: Call) -> None:
        """Take a call in."""

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
