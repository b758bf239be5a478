"""After a fork: what the child must not use of its parent's, and must not close either."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something with threads, sockets or locks, which a fork does not copy."""

    def forget_parent(self) -> None:
        """Called in the child: begin anew, and `keep` what is the parent's."""


def watch(one: Forked) -> None:
    """Call `one.forget_parent` in every child that is forked while `one` lives."""
    _watched.add(one)


def keep(*inherited: object) -> None:
    """Never let the garbage collector close these here."""
    _kept.extend(inherited)


def _after_fork() -> None:
    for one in list(_watched):
        with contextlib.suppress(AttributeError):  # being made while another thread forked
            one.forget_parent()


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_kept: list[object] = []
os.register_at_fork(after_in_child=_after_fork)
