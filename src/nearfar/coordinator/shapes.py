"""What a field of the wire may be: checks of one value each."""

from __future__ import annotations

import math
from typing import Any

from nearfar.coordinator import parts
from nearfar.coordinator.parts import Check
from nearfar.coordinator.tasks import Mode, Outcome, Status
from nearfar.net.shapes import LONGEST_NAME, LONGEST_TEXT, flag, lease, name, natural, positive, text

__all__ = ["LONGEST_NAME", "LONGEST_TEXT", "flag", "lease", "name", "natural", "positive", "text"]

LONGEST_FUNCTION = 1000
"""Bytes of a function's name; a longer one travels by value."""
MOST_NAMES = 4096
AGENT, CLIENT = "agent", "client"
"""What HELLO says its sender is."""
# As numbers, for these are compared in every row: an attribute of an enum costs eight times a global.
_PREPARE, _TOO_LARGE, _FAILED = int(Mode.PREPARE), int(Status.TOO_LARGE), int(Outcome.FAILED)


def seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def timeout(value: Any) -> bool:
    return value is None or seconds(value)


def function(value: Any) -> bool:
    return type(value) is bytes and len(value) <= LONGEST_FUNCTION


def call_mode(value: Any) -> bool:
    return type(value) is int and 0 <= value < _PREPARE


def mode(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _PREPARE


def status(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _TOO_LARGE


def outcome(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _FAILED


def role(value: Any) -> bool:
    return value in (AGENT, CLIENT)


def names(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_NAMES and all(map(name, value))


def batches(value: Any) -> bool:
    return type(value) is list and len(value) <= MOST_NAMES and all(map(batch, value))


def batch(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and name(value[0])
        and type(value[1]) is list
        and 0 < len(value[1]) <= parts.MOST_ROWS
        and all(map(natural, value[1]))
    )


def table(value: Any) -> bool:
    return type(value) is dict and len(value) <= 32 and all(type(key) is str for key in value)


def counts(value: Any) -> bool:
    return table(value) and all(map(natural, value.values()))


def about_coordinator(value: Any) -> bool:
    return (
        table(value)
        and all(key in value and check(value[key]) for key, check in _FACTS.items())
        and natural(value.get("largest", 0))  # bytes that one task or one answer may have; 0: any number
    )


def about_peer(value: Any) -> bool:
    return table(value) and all(check(value[key]) for key, check in _ABOUT.items() if key in value)


_FACTS: dict[str, Check] = {
    "epoch": name,  # of this life of the coordinator
    "lease": lease,
    "workers": natural,
}
_ABOUT: dict[str, Check] = {
    "pid": natural,
    "machine": text,  # net.here.machine_id
    "host": name,
    "python": text,  # net.here.PYTHON
    "bytecode": text,  # net.here.BYTECODE
    "slots": natural,  # an agent's processes
    "quota": natural,  # tasks after which an agent replaces a process; 0: none
    "bytes": natural,  # of answers that an agent may keep; 0: any number
}
"""What HELLO may say; other entries are not read."""
