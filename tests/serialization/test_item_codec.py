"""Items come back equal and of the same type, or are refused; malformed bytes break nothing."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import pickle
import threading
from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.errors import ItemError, ProtocolError, Untrusted
from nearfar.serialization import item_codec

pytestmark = pytest.mark.pure

EXTENSIONS = [
    item_codec.TUPLE,
    item_codec.SET,
    item_codec.FROZENSET,
    item_codec.BYTEARRAY,
    item_codec.INTEGER,
    item_codec.PICKLE,
]

numbers = (
    st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63) - 1])
)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=20) | st.binary(max_size=20)
hashables = st.recursive(
    leaves | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
plain = st.recursive(
    leaves | st.floats() | st.binary(max_size=20).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashables, inner, max_size=4)
        | st.sets(hashables, max_size=4)
        | st.frozensets(hashables, max_size=4)
    ),
    max_leaves=20,
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types at every level."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(map(same, one, other)) == [True] * len(other) and all(
            map(same, one.values(), other.values())
        )
    if isinstance(one, set | frozenset):
        twins = {member: member for member in other}
        return one == other and all(same(member, twins[member]) for member in one)
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or repr(one) == repr(other)
    return bool(one == other)


def nested(levels: int, kind: type = list) -> Any:
    item: Any = kind()
    for _ in range(levels - 1):
        item = kind([item])
    return item


# -- what travels --------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(plain, st.booleans())
def test_plain_data_comes_back_equal_and_of_the_same_type(item: Any, trusted: bool) -> None:
    """It needs no pickle: an untrusted peer can read what a trusted one encodes."""
    body = item_codec.encode(item, trusted=trusted)
    assert same(item_codec.decode(body, 1, trusted=False), [item])
    assert same(item_codec.decode(body, 1, trusted=True), [item])


class Point(NamedTuple):
    x: int
    y: int


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "item",
    [
        Point(1, 2),
        Colour.RED,
        [Colour.RED],
        {"when": datetime.datetime(2024, 2, 29, 12, 30)},
        Decimal("1.10"),
        OrderedDict(a=1),
        1j,
        (range(5), slice(1, 2)),
        "lone \ud800 surrogate",
        {"\udcff": 1},
        msgpack.ExtType(5, b"x"),
    ],
    ids=repr,
)
def test_other_objects_are_pickled_if_the_peer_is_trusted(item: Any) -> None:
    body = item_codec.encode(item, trusted=True)
    assert same(item_codec.decode(body, 1, trusted=True), [item])
    with pytest.raises(Untrusted, match="a pickle"):
        item_codec.decode(body, 1, trusted=False)
    with pytest.raises(ItemError, match="not trusted with pickle") as refusal:
        item_codec.encode(item, trusted=False)
    assert type(item).__qualname__ in str(refusal.value)


def test_a_circular_object_is_pickles() -> None:
    item: list[Any] = [1]
    item += [item, item]
    (back,) = item_codec.decode(item_codec.encode(item, trusted=True), 1, trusted=True)
    assert back[0] == 1
    assert back[1] is back is back[2]


@pytest.mark.parametrize(
    "kind", [list, tuple, lambda items=(): frozenset(items)], ids=["list", "tuple", "frozenset"]
)
def test_nesting_is_plain_data_up_to_a_depth(kind: Any) -> None:
    deepest, deeper = nested(32, kind), nested(33, kind)
    assert same(item_codec.decode(item_codec.encode(deepest, trusted=False), 1, trusted=False), [deepest])
    with pytest.raises(ItemError, match="up to 32 deep"):
        item_codec.encode(deeper, trusted=False)
    assert same(item_codec.decode(item_codec.encode(deeper, trusted=True), 1, trusted=True), [deeper])


def test_an_object_that_cannot_be_pickled_raises_pickles_error_and_affects_nothing() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        item_codec.encode([1, lambda: None], trusted=True)
    assert item_codec.decode(item_codec.encode([1], trusted=True), 1, trusted=True) == [[1]]


def test_an_item_too_large_for_a_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_codec, "LARGEST_ITEM", 1000)
    assert item_codec.encode(b"x" * 900, trusted=False)
    with pytest.raises(ItemError, match="1003 bytes is too large"):
        item_codec.encode(b"x" * 1000, trusted=False)
    with pytest.raises(ItemError, match="too large"):
        item_codec.encode(Decimal("1" * 1000), trusted=True)


class Unloadable:
    def __reduce__(self) -> Any:
        return (int, ("not a number",))


def test_a_pickle_that_cannot_be_read_is_an_item_error() -> None:
    with pytest.raises(ItemError, match=r"cannot be unpickled.*not a number"):
        item_codec.decode(item_codec.encode(Unloadable(), trusted=True), 1, trusted=True)


# -- batches -------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(plain, min_size=1, max_size=6))
def test_a_batch_is_its_items_end_to_end_and_can_be_cut_at_each(items: list[Any]) -> None:
    parts = [item_codec.encode(item, trusted=False) for item in items]
    body = b"".join(parts)
    assert same(item_codec.decode(body, len(items), trusted=False), items)
    assert list(item_codec.split(body)) == parts
    for count in range(len(items) + 1):
        at = item_codec.cut(body, count)
        assert at == sum(map(len, parts[:count]))
        assert same(item_codec.decode(body[:at], count, trusted=False), items[:count])


@given(st.lists(st.integers(), max_size=5), st.integers(1, 1 << 63))
def test_too_few_items_is_a_protocol_error(items: list[int], more: int) -> None:
    body = b"".join(item_codec.encode(item, trusted=False) for item in items)
    with pytest.raises(ProtocolError, match="is not"):
        item_codec.decode(body, len(items) + more, trusted=False)
    with pytest.raises(ProtocolError, match="fewer than"):
        item_codec.cut(body, len(items) + more)


def test_more_items_than_announced_is_a_protocol_error() -> None:
    for count in (1, 2):
        with pytest.raises(ProtocolError, match=f"is not {count} items"):
            item_codec.decode(b"\x01\x02\x03", count, trusted=False)


def test_split_returns_the_items_before_the_damage() -> None:
    parts = item_codec.split(b"\x01\x02\xc1\x03")
    assert [next(parts), next(parts)] == [b"\x01", b"\x02"]
    with pytest.raises(ProtocolError, match="at byte 2 of 4"):
        next(parts)


# -- bytes of strangers ----------------------------------------------------------------------------------


def survives(body: bytes, count: int) -> None:
    """Reading `body` gives `count` items or one of our own errors."""
    with contextlib.suppress(ProtocolError, ItemError, Untrusted):
        assert len(item_codec.decode(body, count, trusted=False)) == count
    with contextlib.suppress(ProtocolError):
        assert 0 <= item_codec.cut(body, count) <= len(body)
    with contextlib.suppress(ProtocolError):
        assert b"".join(item_codec.split(body)) == body


def extension(code: int, data: bytes) -> bytes:
    return bytes(msgpack.packb(msgpack.ExtType(code, data)))


hostile = st.recursive(
    st.binary(max_size=30) | plain.map(lambda item: item_codec.encode(item, trusted=False)),
    lambda inner: (
        st.builds(extension, st.sampled_from([*EXTENSIONS, 0, 127]), inner)
        | st.lists(inner, max_size=3).map(b"".join)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(hostile, st.integers(0, 4) | st.integers(1 << 20, 1 << 64))
def test_hostile_bytes_raise_only_nearfar_errors(body: bytes, count: int) -> None:
    survives(body, count)


@settings(max_examples=80)
@given(st.lists(plain, min_size=1, max_size=3), st.data())
def test_damaged_items_raise_only_nearfar_errors(items: list[Any], data: st.DataObject) -> None:
    body = bytearray(b"".join(item_codec.encode(item, trusted=False) for item in items))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(body[: data.draw(st.integers(0, len(body)))]), len(items))


@pytest.mark.parametrize("levels", [31, 33, 200, 1000, 5000])
@pytest.mark.parametrize("code", [item_codec.TUPLE, item_codec.SET, item_codec.FROZENSET])
def test_deep_nesting_is_refused_before_the_stack_ends(levels: int, code: int) -> None:
    body = b"\x90"
    for _ in range(levels):
        body = extension(code, b"\x91" + body)
    survives(body, 1)
    survives(b"\x91" * levels + b"\xc0", 1)
    survives((b"\x91" + body) * 2, 2)


@pytest.mark.parametrize(
    "head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9", b"\xdc", b"\xde"], ids=bytes.hex
)
@pytest.mark.parametrize(
    "length", [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x10\x00\x00"], ids=bytes.hex
)
def test_a_huge_announced_length_costs_nothing(head: bytes, length: bytes) -> None:
    survives(head + length, 1)
    survives((head + length) * 200, 1)
    survives(extension(item_codec.TUPLE, head + length), 1)


# -- threads -----------------------------------------------------------------------------------------------


def test_threads_do_not_share_a_packer() -> None:
    """Each of several threads encodes nested tuples, and items that fail half-way, and reads its own back."""
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work(mine: int) -> None:
        start.wait(5)
        for number in range(300):
            item = [mine, (number, ("x" * mine, {(mine, number)})), {number: (mine,)}]
            if not same(item_codec.decode(item_codec.encode(item, trusted=False), 1, trusted=False), [item]):
                wrong.append(item)
            try:
                item_codec.encode([mine, "\ud800", number], trusted=False)
                wrong.append("a lone surrogate was encoded")
            except ItemError:
                pass

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_large_item_leaves_no_large_buffer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    idle: list[msgpack.Packer] = []
    monkeypatch.setattr(item_codec, "_idle_packers", idle)
    item_codec.encode(b"x" * item_codec.LARGEST_KEPT, trusted=False)
    assert idle == []
    item_codec.encode(b"x", trusted=False)
    assert len(idle) == 1


@pytest.mark.parametrize("trusted", [True, False])
def test_an_unreadable_run_does_not_affect_later_ones(trusted: bool) -> None:
    """Given runs read in reused memory, one truncated in the middle of an item, one with a surplus item,

    I expect each of these to be an error, and every valid one before, between and after them to be read.
    """
    items = [os.urandom(1000) for _ in range(40)]
    body = b"".join(item_codec.encode(item, trusted=trusted) for item in items)
    for bad in (body[:-1], body + item_codec.encode(1, trusted=trusted), b"\xc1" + body[1:]):
        assert item_codec.decode(memoryview(body), 40, trusted=trusted) == items
        with pytest.raises(ProtocolError, match="not 40 items"):
            item_codec.decode(bad, 40, trusted=trusted)
    assert item_codec.decode(body, 40, trusted=trusted) == items


def test_reading_a_run_inside_a_run() -> None:
    """Given an item that reads another run while it is unpickled, I expect both to be read correctly."""
    items = [Nested(bytes(30_000)), *([b"x" * 1000] * 20)]
    body = b"".join(item_codec.encode(item, trusted=True) for item in items)
    assert item_codec.decode(body, 21, trusted=True) == items
    assert item_codec.decode(body, 21, trusted=True) == items


@dataclass
class Nested:
    """Pickled as two encoded items."""

    payload: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _nested, (item_codec.encode(self.payload, trusted=True) * 2,)


def _nested(body: bytes) -> Nested:
    one, other = item_codec.decode(body, 2, trusted=True)
    assert one == other
    return Nested(one)
