"""What the messages of queues and pools may hold: each field is tried with what a peer may send instead."""

from __future__ import annotations

import contextlib
import math
import tracemalloc
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgpack
import msgspec
import pytest
from msgspec import inspect

from nearfar.coordinator import messages as pool
from nearfar.errors import ProtocolError
from nearfar.net import frames
from nearfar.net.frames import Message
from nearfar.net.validation import LONGEST_NAME, name
from nearfar.queues import messages as queue

pytestmark = pytest.mark.pure

ALL: list[tuple[Any, IntEnum, type[Message]]] = [
    (module, kind, message) for module in (queue, pool) for kind, message in module._protocol.messages.items()
]
every_message = pytest.mark.parametrize(
    ("module", "kind", "message"), [pytest.param(*each, id=each[1].name) for each in ALL]
)
BEYOND = b"\xdd\xff\xff\xff\xff"
"""A list that announces four billion members."""
DEEP = b"\x91" * 100_000
"""Lists in each other."""
EXTENSION = msgpack.packb(msgpack.ExtType(17, b"x"))
TIME = b"\xd6\xff" + bytes(4)
"""The extension that msgpack reserves for times."""
PACKED = [
    BEYOND,
    DEEP,
    EXTENSION,
    TIME,
    *(code + BEYOND[1:] for code in (b"\xdf", b"\xdb", b"\xc6", b"\xc9")),
]
PACKED += [b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xc1", b""]
"""Beginnings of values that are good for no field: what they announce is missing, or is not text."""
NONE_AND_LISTS = [None, [], [[]], {}, {"a": 1}, {1: 1}]
WRONG: dict[type, list[Any]] = {
    inspect.IntType: [*NONE_AND_LISTS, True, False, 1.0, math.nan, -1, 1 << 63, (1 << 64) - 1, "1", b"1"],
    inspect.FloatType: [*NONE_AND_LISTS, True, math.nan, math.inf, -1, -0.5, "1", b"1"],
    inspect.BoolType: [*NONE_AND_LISTS, 0, 1, 1.0, "true", b"1"],
    inspect.StrType: [*NONE_AND_LISTS, True, 0, 1.0, b"a", "x" * 10_001],
    inspect.LiteralType: [*NONE_AND_LISTS, True, 0, b"agent", "", "king"],
    inspect.BytesType: [*NONE_AND_LISTS, True, 0, 1.0, "text"],
    inspect.ListType: [None, True, 0, 1.0, "text", b"bytes", {}, [None], [[[]]], [{}]],
    inspect.VarTupleType: [None, True, 0, "text", b"bytes", {}, [None], [[]], ["text"], [1]],
    inspect.TupleType: [*NONE_AND_LISTS, True, 0, "text", b"bytes", [None] * 40],
    inspect.DictType: [None, True, 0, "text", b"bytes", [], {1: 1}, {"a": "b"}, {b"a": 1}],
    inspect.TypedDictType: [None, True, 0, "text", b"bytes", [], {1: 1}, {b"pid": 1}],
}
WRONG[inspect.NoneType] = [value for values in WRONG.values() for value in values if value is not None]
"""What a field of a type refuses."""


def types_in(kind: inspect.Type) -> Iterator[inspect.Type]:
    """A type, and those of its members."""
    yield kind
    match kind:
        case inspect.Metadata(type=inner):
            yield from types_in(inner)
        case inspect.StructType(fields=fields) | inspect.TypedDictType(fields=fields):
            for field in fields:
                yield from types_in(field.type)
        case inspect.UnionType(types=members) | inspect.TupleType(item_types=members):
            for member in members:
                yield from types_in(member)
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            yield from types_in(inner)
        case inspect.DictType(key_type=key, value_type=value):
            yield from types_in(key)
            yield from types_in(value)


def sample(kind: inspect.Type) -> Any:
    """A value that a field of this type takes."""
    match kind:
        case inspect.IntType(ge=least) | inspect.FloatType(ge=least):
            return least
        case inspect.BoolType():
            return False
        case inspect.StrType():
            return "name"
        case inspect.LiteralType(values=values):
            return values[0]
        case inspect.BytesType(min_length=least):
            return b"x" * (least or 5)
        case inspect.NoneType():
            return None
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            return [sample(inner)] * (kind.min_length or 1)
        case inspect.TupleType(item_types=members):
            return [sample(member) for member in members]
        case inspect.DictType(key_type=key, value_type=value):
            return {sample(key): sample(value)}
        case inspect.TypedDictType(fields=fields):
            return {field.name: sample(field.type) for field in fields}
        case inspect.UnionType(types=members):
            return sample(members[0])
    raise AssertionError(kind)


def within(kind: inspect.Type, value: Any) -> bool:
    """Whether a number is in the bounds of a field that may be negative."""
    return (
        isinstance(kind, inspect.IntType) and type(value) is int and (kind.ge or 0) <= value <= (kind.le or 0)
    )


def wrong_for(kind: inspect.Type, good: Any) -> Iterator[Any]:
    """Values that are refused in place of `good`, of such a field or of one of its members."""
    members = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    refused = [[value for value in WRONG[type(member)] if not within(member, value)] for member in members]
    yield from (value for value in refused[0] if all(repr(value) in map(repr, each) for each in refused))
    match kind:
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner):
            yield from ([*good[1:], value] for value in wrong_for(inner, good[0]))
        case inspect.TupleType(item_types=inners):
            yield good[:-1]
            yield [*good, None]
            for place, inner in enumerate(inners):
                for value in wrong_for(inner, good[place]):
                    yield [*good[:place], value, *good[place + 1 :]]
        case inspect.TypedDictType(fields=fields):
            for field in fields:
                yield from (good | {field.name: value} for value in wrong_for(field.type, good[field.name]))
                if field.required:
                    yield {key: value for key, value in good.items() if key != field.name}


def fields_of(message: type[Message]) -> tuple[inspect.Field, ...]:
    described = inspect.type_info(message)
    assert isinstance(described, inspect.StructType)
    return described.fields


def words_of(message: type[Message]) -> list[Any]:
    """The number, ack and fields of a good message."""
    words = [sample(field.type) for field in fields_of(message)]
    if issubclass(message, pool.MessageWithRows):
        words[2] = []  # no large parts
    return words


def parts_of(module: Any, kind: IntEnum, header: bytes) -> list[bytes]:
    return [header, b"body"] if module is queue and kind.name in ("PUT", "LEND") else [header]


@every_message
def test_every_list_has_a_bound_and_no_field_is_of_any_type(
    module: Any, kind: IntEnum, message: type[Message]
) -> None:
    for each in types_in(inspect.type_info(message)):
        assert not isinstance(each, inspect.AnyType | inspect.RawType | inspect.ExtType)
        if isinstance(each, inspect.ListType | inspect.VarTupleType | inspect.DictType):
            assert each.max_length is not None and each.max_length <= 1 << 20
        if isinstance(each, inspect.FloatType):  # a bound refuses what is not a number, too
            assert each.ge is not None and each.le is not None
        if isinstance(each, inspect.IntType):
            assert each.ge is not None and each.le is not None
        if isinstance(each, inspect.UnionType) and any(isinstance(m, inspect.IntType) for m in each.types):
            # msgspec 0.23 crashes in the garbage collector over a bounded number beside such a tuple
            assert not any(isinstance(member, inspect.TupleType) for member in each.types)
    assert int(kind) < 128 and len(fields_of(message)) < 15  # so the second byte of a frame is the kind


@every_message
def test_no_field_is_of_a_union_for_which_msgspec_reads_wrong_memory(
    module: Any, kind: IntEnum, message: type[Message]
) -> None:
    """The decoder and the garbage collector would follow invalid pointers (msgspec 0.19 to 0.23)."""
    for each in types_in(inspect.type_info(message)):
        if isinstance(each, inspect.UnionType):
            if any(isinstance(member, inspect.StrType) and member.pattern for member in each.types):
                containers = inspect.ListType | inspect.VarTupleType | inspect.DictType | inspect.SetType
                assert not any(isinstance(member, containers) for member in each.types)
            if any(isinstance(member, inspect.TupleType) for member in each.types):
                plain = inspect.TupleType | inspect.NoneType | inspect.BoolType
                assert all(isinstance(member, plain) for member in each.types)


@every_message
def test_a_field_accepts_only_its_type(module: Any, kind: IntEnum, message: type[Message]) -> None:
    good = words_of(message)
    read = module.unpack(parts_of(module, kind, msgpack.packb([kind, *good])))
    assert read.message.kind is kind
    described = fields_of(message)
    for words in (good[:-1], [*good, None], [*good, BEYOND]):
        with pytest.raises(ProtocolError):
            module.unpack(parts_of(module, kind, msgpack.packb([kind, *words])))
    for place, field in enumerate(described):
        for value in wrong_for(field.type, sample(field.type)):
            words = [*good[:place], value, *good[place + 1 :]]
            with pytest.raises(ProtocolError):
                module.unpack(parts_of(module, kind, msgpack.packb([kind, *words])))


@every_message
def test_no_memory_is_allocated_for_what_a_field_announces(
    module: Any, kind: IntEnum, message: type[Message]
) -> None:
    good = [msgpack.packb(word) for word in (kind, *words_of(message))]
    for place in range(1, len(good)):
        for bad in PACKED:
            header = bytes((0x90 + len(good),)) + b"".join((*good[:place], bad))
            tracemalloc.start()
            try:
                with pytest.raises(ProtocolError):
                    module.unpack(parts_of(module, kind, header))
                assert tracemalloc.get_traced_memory()[1] < 1 << 20
            finally:
                tracemalloc.stop()


def test_tables_with_the_same_key_twice_are_one_table_and_still_need_every_key() -> None:
    start = msgpack.packb([int(queue.QueueMessageType.WELCOME), 0, 0, "session"])
    start = b"\x95" + start[1:]
    facts = sample(inspect.type_info(queue.QueueFacts))
    pairs = [msgpack.packb(key) + msgpack.packb(value) for key, value in facts.items()]
    assert len(pairs) < 15

    def read(some: list[bytes]) -> Any:
        return queue.unpack([start + bytes((0x80 + len(some),)) + b"".join(some)]).message.fields[1]

    assert read([pairs[0], *pairs]) == facts
    with pytest.raises(ProtocolError):
        read([pairs[0], *pairs[:-1]])


@pytest.mark.parametrize("levels", [10, 100_000])
def test_entries_that_are_not_read_may_be_anything_and_cost_nothing(levels: int) -> None:
    hello = msgpack.packb([int(queue.QueueMessageType.HELLO), 0, 0, 4, "name"])
    table = b"\x82" + msgpack.packb("more") + b"\x91" * levels + b"\xc0" + msgpack.packb("pid") + b"\x07"
    tracemalloc.start()
    try:
        # Where the interpreter's stack ends depends on its version.
        with contextlib.suppress(ProtocolError):
            assert queue.unpack([b"\x96" + hello[1:] + table]).message.fields[2] == {"pid": 7}
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damaged", range(0, 60, 3))
def test_a_frame_that_ends_early_or_goes_on_is_refused(damaged: int) -> None:
    rows = [(number, 0, b"m:f", b"blob", (b"part",), 1.5, 0) for number in range(1, 4)]
    (frame,) = pool.pack(1, 0, pool.PoolMessage(pool.PoolMessageType.SUBMIT, (False,), rows))
    for wrong in (frame[:damaged], frame + bytes(1 + damaged)):
        with pytest.raises(ProtocolError):
            pool.unpack([wrong])


def test_a_name_has_no_characters_that_could_forge_a_line_or_control_a_terminal() -> None:
    bad = ["", "x" * (LONGEST_NAME + 1), "a\n", "\na", "a\x1b[2J", "a\x85", "a\u2028", "a\u202e", "a\u200b"]
    bad += ["a\u00a0b", "a\ue000", "\ufeffa", "a\U000e0041"]
    for word in (*bad, *map(chr, range(0x20)), *map(chr, range(0x7F, 0xA1))):
        assert not name(word), ascii(word)
    for word in ("a", "a b", "Grüße, 你好", "x" * LONGEST_NAME, "host-1/0.3"):
        assert name(word)


def test_a_value_of_a_derived_type_is_packed_as_the_type_that_it_comes_from() -> None:
    class Text(str):
        __slots__ = ()

    class Bytes(bytes):
        __slots__ = ()

    class Number(int):
        __slots__ = ()

    assert msgspec.msgpack.decode(frames.pack([Text("a"), Bytes(b"b"), Number(3)])) == ["a", b"b", 3]
    with pytest.raises(TypeError, match="an object of type object cannot be sent"):
        frames.pack([object()])
