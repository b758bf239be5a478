"""What the fields of the wire may be, said as data: the reader compares, and calls nothing for each value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import inf
from types import NoneType
from typing import Any, NamedTuple

from nearfar.coordinator.tasks import Mode, Outcome, Status
from nearfar.net.shapes import LONGEST_LEASE, LONGEST_NAME, LONGEST_TEXT, SHORTEST_LEASE, name, natural

__all__ = ["LONGEST_NAME", "LONGEST_TEXT", "Field", "Shape"]

LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
MOST_NAMES = 4096
MOST_NUMBERS = 4096
"""Tasks in one list of their numbers."""
MOST_NATURAL = (1 << 63) - 1
AGENT, CLIENT = "agent", "client"
"""What HELLO says its sender is."""


class Field(NamedTuple):
    """One field: the types of its values, the least and the most of a number or of a length, and what else
    must be true."""

    types: frozenset[type]
    least: float = 0
    most: float = inf
    also: Callable[[Any], bool] | None = None

    def holds_in(self, column: Sequence[Any]) -> bool:
        """True if each value of a column is what this may be."""
        types, least, most, also = self
        if not types.issuperset(map(type, column)):
            return False
        if (least, most) != (0, inf):
            if types <= _NUMBERS:
                measured = column
            elif NoneType in types:
                measured = [value for value in column if value is not None]
            else:
                measured = [*map(len, column)]
            if measured and not least <= min(measured) <= max(measured) <= most:
                return False
            if float in types and any(value != value for value in measured):  # NaN, which min passes over
                return False
        return also is None or all(map(also, column))


class Shape:
    """Several fields in a row: their types are compared at once."""

    __slots__ = ("_also", "_lengths", "_numbers", "_types", "count", "fields")

    def __init__(self, *fields: Field) -> None:
        self.fields = fields
        self.count = len(fields)
        self._types = frozenset(product(*(field.types for field in fields)))
        bounded = [
            (place, field) for place, field in enumerate(fields) if (field.least, field.most) != (0, inf)
        ]
        self._numbers = [(p, f.least, f.most) for p, f in bounded if f.types & _NUMBERS]
        self._lengths = [(p, f.least, f.most) for p, f in bounded if not f.types & _NUMBERS]
        self._also = [(place, field.also) for place, field in enumerate(fields) if field.also is not None]

    def holds(self, values: Sequence[Any]) -> bool:
        """True if `values` are as many as there are fields, and each is what its field may be."""
        if tuple(map(type, values)) not in self._types:
            return False
        for place, least, most in self._numbers:
            value = values[place]
            if value is not None and not least <= value <= most:
                return False
        for place, least, most in self._lengths:
            if not least <= len(values[place]) <= most:
                return False
        for place, also in self._also:  # noqa: SIM110  # a generator costs as much as the rest
            if not also(values[place]):
                return False
        return True


_NUMBERS = frozenset((int, float))


def _batches_fit(value: list[Any]) -> bool:
    return all(
        type(each) is list
        and len(each) == 2
        and name(each[0])
        and type(each[1]) is list
        and 0 < len(each[1]) <= MOST_NUMBERS
        and NATURAL.holds_in(each[1])
        for each in value
    )


def _names_fit(value: list[Any]) -> bool:
    return all(map(name, value))


def _table_fits(value: dict[Any, Any]) -> bool:
    return len(value) <= 32 and all(type(key) is str for key in value)


def _counts_fit(value: dict[Any, Any]) -> bool:
    return _table_fits(value) and all(map(natural, value.values()))


def _facts_fit(value: dict[Any, Any]) -> bool:
    return (
        _table_fits(value)
        and all(key in value and field.holds_in((value[key],)) for key, field in _FACTS.items())
        and natural(value.get("largest", 0))  # bytes that one task or one answer may have; 0: any number
    )


def _about_fits(value: dict[Any, Any]) -> bool:
    return _table_fits(value) and all(
        field.holds_in((value[key],)) for key, field in _ABOUT.items() if key in value
    )


def _is_role(value: str) -> bool:
    return value in (AGENT, CLIENT)


_INT, _STR, _BYTES, _LIST = frozenset((int,)), frozenset((str,)), frozenset((bytes,)), frozenset((list,))
_DICT = frozenset((dict,))

NATURAL = Field(_INT, 0, MOST_NATURAL)
POSITIVE = Field(_INT, 1, MOST_NATURAL)
SECONDS = Field(_NUMBERS, 0, 1.7976931348623157e308)
TIMEOUT = SECONDS._replace(types=_NUMBERS | {NoneType})
FLAG = Field(frozenset((bool,)))
NAME = Field(_STR, 1, LONGEST_NAME, str.isprintable)
TEXT = Field(_STR, 0, LONGEST_TEXT)
FUNCTION = Field(_BYTES, 0, LONGEST_FUNCTION)
CALL_MODE = Field(_INT, 0, int(Mode.PREPARE) - 1)
MODE = Field(_INT, 0, int(Mode.PREPARE))
STATUS = Field(_INT, 0, int(Status.TOO_LARGE))
OUTCOME = Field(_INT, 0, int(Outcome.FAILED))
PART = Field(frozenset((bytes, memoryview)))
PARTS = Field(_LIST)
"""What stands in it is looked at where the large parts are put in their places."""
ROLE = Field(_STR, also=_is_role)
NAMES = Field(_LIST, 0, MOST_NAMES, _names_fit)
BATCHES = Field(_LIST, 0, MOST_NAMES, _batches_fit)
COUNTS = Field(_DICT, also=_counts_fit)
FACTS = Field(_DICT, also=_facts_fit)
"""What WELCOME tells of the coordinator."""
ABOUT = Field(_DICT, also=_about_fits)
"""What HELLO tells of a peer; other entries are not read."""

_FACTS: dict[str, Field] = {
    "epoch": NAME,  # of this life of the coordinator
    "lease": Field(_NUMBERS, SHORTEST_LEASE, LONGEST_LEASE),
    "workers": NATURAL,
}
_ABOUT: dict[str, Field] = {
    "pid": NATURAL,
    "machine": TEXT,  # net.here.machine_id
    "host": NAME,
    "python": TEXT,  # net.here.PYTHON
    "bytecode": TEXT,  # net.here.BYTECODE
    "slots": NATURAL,  # an agent's processes
    "quota": NATURAL,  # tasks after which an agent replaces a process; 0: none
    "bytes": NATURAL,  # of answers that an agent may keep; 0: any number
}
