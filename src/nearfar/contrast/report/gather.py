"""Finds what was measured in the outcomes of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nearfar.contrast.quantiles import Spread, ratios, spread

Document = dict[str, Any]
Pick = Callable[[Any], float | None]


class Gathered:
    """The outcomes of a document (see `results.document`)."""

    def __init__(self, document: Document) -> None:
        self._outcomes: list[dict[str, Any]] = document["outcomes"]
        self._planned: int = document["planned"]

    def of(self, part: str, work: str, contestant: str) -> dict[int, Any]:
        """The results, by turn."""
        return {
            each["turn"]: each["result"]
            for each in self._outcomes
            if (each["part"], each["work"], each["contestant"]) == (part, work, contestant)
            and not each["trouble"]
        }

    def stuck(self, part: str, work: str, contestant: str) -> int:
        """How many turns came to no result."""
        return sum(
            bool(each["trouble"])
            for each in self._outcomes
            if (each["part"], each["work"], each["contestant"]) == (part, work, contestant)
        )

    def has(self, part: str, work: str) -> bool:
        return any((each["part"], each["work"]) == (part, work) for each in self._outcomes)

    def troubles(self) -> list[str]:
        """A line for each turn without a result, and one for all that never had its turn."""
        lines = [
            f"{each['part']}: {each['work']}, {each['contestant']}: {each['trouble']}"
            for each in self._outcomes
            if each["trouble"]
        ]
        done = len(self._outcomes)
        return [*lines, f"stopped after {done} of {self._planned}"] if done < self._planned else lines

    def values(self, part: str, work: str, contestant: str, pick: Pick) -> dict[int, float]:
        """One figure of each turn that has it."""
        picked = {turn: pick(result) for turn, result in self.of(part, work, contestant).items()}
        return {turn: value for turn, value in picked.items() if value is not None}

    def spread(self, part: str, work: str, contestant: str, pick: Pick) -> Spread | None:
        values = self.values(part, work, contestant, pick)
        return spread(list(values.values())) if values else None

    def ratio(self, part: str, work: str, contestants: Sequence[str], pick: Pick) -> Spread | None:
        """Of the first contestant to the second, within each turn."""
        mine, ideal = (self.values(part, work, each, pick) for each in contestants)
        return ratios(mine, ideal)


def entry(key: str) -> Pick:
    """Picks the value of that name."""
    return lambda result: float(result[key])
