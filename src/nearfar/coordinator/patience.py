"""When to say what somebody waits for in vain: once. Pure."""

from __future__ import annotations

AFTER = 3.0
"""Seconds of waiting before it is said."""


class Patience:
    """Told again and again what is waited for, it finds when that has not changed for `AFTER` seconds."""

    def __init__(self) -> None:
        self._missing = ""
        self._since = 0.0
        self._said = False

    def look(self, missing: str, now: float) -> str:
        """What is to be said now, or nothing.

        `missing` is a sentence, the same as long as the same is missing; nothing if nothing is.
        """
        if missing != self._missing:
            self._missing, self._since, self._said = missing, now, False
        elif missing and not self._said and now - self._since >= AFTER:
            self._said = True
            return missing
        return ""

    def deadline(self) -> float | None:
        """When `look` is wanted next, if nothing happens."""
        return self._since + AFTER if self._missing and not self._said else None
