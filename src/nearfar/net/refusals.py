"""Handshakes that fail, until there is no doubt. Pure."""

from __future__ import annotations

BELIEVED = 1.5
"""Seconds of failures without a success after which it is no accident, such as a host that starts again."""


class Refusals:
    """Why the other side does not let this one in, or is not the one it should be."""

    def __init__(self) -> None:
        self._why = ""
        self._since = 0.0

    def failed(self, why: str, now: float) -> None:
        """A handshake failed."""
        if not self._why:
            self._since = now
        self._why = why

    def succeeded(self) -> None:
        """One did not."""
        self._why = ""

    def believed(self, now: float) -> str:
        """Why, once they have failed for long enough; else nothing."""
        return self._why if self._why and now >= self._since + BELIEVED else ""
