"""This process's own standstills, which are nobody else's silence. Pure."""

from __future__ import annotations


class Standstill:
    """Told the time several times a lease, it finds when this process did not run: it was frozen."""

    def __init__(self, now: float) -> None:
        self._last = now

    def seconds(self, now: float, lease: float) -> float:
        """For how many seconds it stood still since the last call; 0 for what is less than half a lease."""
        stood, self._last = now - self._last, now
        return stood if stood > lease / 2 else 0.0
