"""Messages as typed structs, which msgspec validates while it decodes them. Pure.

A message is one msgpack array, ``[kind, number, ack, *fields]``. A protocol declares a subclass of `Message`
for each kind that has fields, with one line per field. The type of a field defines what a peer may send
there. Everything else is refused: other types, numbers and lengths out of bounds, missing and unknown fields.

Every list and table needs a bound: the decoder allocates memory for the announced length of a list before it
reads the members. For the same reason no field may be of any type. And msgspec (up to 0.23) reads wrong
memory for two kinds of union: a string with a pattern and a list or a table; a tuple of fixed length and a
type with bounds. Tests check all of this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from types import new_class
from typing import Annotated, Any, ClassVar, Generic, TypedDict, TypeVar

from msgspec import Meta, MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import astuple

from nearfar.errors import ProtocolError
from nearfar.net.validation import LONGEST_LEASE, LONGEST_NAME, LONGEST_TEXT, NAME, SHORTEST_LEASE

VERSION = 7
"""The version of the messages of queues and pools. A peer with another version is refused."""
LONGEST_CONTROL = 1 << 20
"""Bytes of a frame without rows: longer ones are not read."""

Natural = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Positive = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Seconds = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Lease = Annotated[float, Meta(ge=SHORTEST_LEASE, le=LONGEST_LEASE)]
Name = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME, pattern=NAME)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
"""Text for the user: it may contain anything, and is escaped when shown."""


class Process(TypedDict, total=False):
    """Facts about the sending process, in HELLO. Unknown entries are ignored."""

    pid: Natural
    machine: Text  # net.process.machine_id


class Message(Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """The fields at the beginning of every message. The tag of a subclass is the kind of its messages."""

    longest: ClassVar[int] = LONGEST_CONTROL
    """Bytes of the frame, at most."""

    number: Natural
    ack: Natural


class WrongHello(ProtocolError):
    """A HELLO that cannot be decoded; `why` is sent to its sender."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)
        self.why = why


class _Greeting(Struct, array_like=True):
    """The beginning of a HELLO, identical in every version."""

    kind: Natural
    number: Natural
    ack: Natural
    version: Natural


Kind = TypeVar("Kind", bound=IntEnum)


class Protocol(Generic[Kind]):
    """Decodes the messages of one protocol.

    Subclasses of `base` declare the messages that have fields; the other `kinds` have none. `refusal` returns
    the reason that is sent to the sender of a malformed HELLO, by the version in it (None: no version).
    """

    def __init__(self, kinds: type[Kind], base: type[Message], refusal: Callable[[int | None], str]) -> None:
        self._refusal = refusal
        declared = {message.__struct_config__.tag: message for message in _declared(base)}
        self.messages: dict[Kind, type[Message]] = {
            kind: declared.get(int(kind)) or new_class(kind.name, (Message,), {"tag": int(kind)})
            for kind in kinds
        }
        self._readers = {
            int(kind): (kind, message.longest, Decoder(message).decode)
            for kind, message in self.messages.items()
        }

    def unpack(self, frame: Any) -> tuple[Kind, tuple[Any, ...]]:
        """The kind of the message in `frame` (bytes, or another buffer), and its number, ack and fields.

        Raises `ProtocolError` for anything else; for a HELLO, `WrongHello`.
        """
        try:
            kind, longest, decode = self._readers[frame[1]]  # the second byte: kinds are small integers
        except (IndexError, KeyError):
            raise ProtocolError(f"not a message: a frame of {len(frame)} bytes") from None
        if len(frame) > longest:
            raise ProtocolError(f"{kind.name} of {len(frame)} bytes, which is too much")
        try:
            return kind, astuple(decode(frame))
        except (MsgspecError, ValueError, RecursionError, MemoryError) as error:
            what = f"{kind.name} is malformed: {error}"
            if kind.name == "HELLO":
                raise WrongHello(what, self._refusal(_version(frame))) from error
            raise ProtocolError(what) from error


def _declared(base: type[Message]) -> Iterator[type[Message]]:
    """The subclasses of `base` that declare a message."""
    for message in base.__subclasses__():
        if message.__struct_config__.tag is not None:
            yield message
        yield from _declared(message)


def _version(hello: Any) -> int | None:
    try:
        return _greetings.decode(hello).version
    except (MsgspecError, ValueError, RecursionError, MemoryError):
        return None


def _plain(value: Any) -> Any:
    """`value`, of a subclass of a type that msgspec encodes, as that type."""
    for kind in (bytes, str, int, float):
        if isinstance(value, kind):
            return kind(value)  # type: ignore[arg-type]  # each returns a plain instance of its type
    raise TypeError(f"an object of type {type(value).__qualname__} cannot be sent")


_greetings = Decoder(_Greeting)
pack: Callable[[Sequence[Any]], bytes] = Encoder(enc_hook=_plain).encode
"""The frame of a message: its kind, number, ack and fields."""
