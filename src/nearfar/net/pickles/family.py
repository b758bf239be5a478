"""What is different for a relative of this process: what `multiprocessing` registers for it, where plain
pickle would not do, and the classes of the program, which a forked child has.
"""

from __future__ import annotations

import io
import pickle
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

from nearfar.net.pickles import FamilyPickler
from nearfar.net.pickles.names import MAINS, is_found
from nearfar.net.pickles.parts import UNSUITED, keep_large

_CONNECTION = b"multiprocessing.connection"
_UNMISTAKABLE = frozenset({"builtins", "functools", "socket"})
"""Modules whose registered types plain pickle refuses, or sends just as well."""

_marked = 0
_marks: tuple[bytes, ...] = ()


def is_mistaken(blob: bytes, family: bool) -> bool:
    """Whether the plain pickle `blob` may hold what should not have been pickled so.

    `family`: its reader is a relative of this process. For another, a connection is just a number.
    """
    return any(map(blob.__contains__, _family_marks())) if family else _CONNECTION in blob


def dump_parts_for_family(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]] | None:
    """As `dump_parts`, but as `ForkingPickler` pickles; None for what neither can."""
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    FamilyPickler.refresh()
    try:
        FamilyPickler(file, 5, buffer_callback=partial(keep_large, buffers)).dump(value)
    except UNSUITED:
        return None
    return file.getvalue(), buffers


def name_unreachable_classes() -> None:
    """Give those classes of the program a name that a process forked now has, too, which have none that leads
    to them: they stand in functions, or a launcher runs the program in a namespace that is not `__main__`.

    So what a task makes of such a class comes home as the class that is here.
    """
    seen: set[int] = set()
    waiting: list[type] = [object]
    while waiting:
        kinds: list[type] = type.__subclasses__(waiting.pop())
        for kind in kinds:
            if id(kind) not in seen:
                seen.add(id(kind))
                waiting.append(kind)
                if kind.__module__ in MAINS and not is_found(kind):
                    from nearfar.net.pickles.classes import tracker_id

                    tracker_id(kind)


def _family_marks() -> tuple[bytes, ...]:
    global _marked, _marks
    types = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    if _marked != len(types):
        _marks = tuple(module.encode() for module in {each.__module__ for each in types} - _UNMISTAKABLE)
        _marked = len(types)
    return _marks
