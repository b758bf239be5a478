"""Payloads of attackers: pickles that make a folder when they are read, and names that are not allowed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import msgpack

from nearfar.serialization import item_codec
from nearfar.serialization.plain import LONGEST, PLAIN
from nearfar.serialization.tracebacks import prefixed


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def bomb(path: Path) -> bytes:
    """A pickle whose reader makes a folder at `path`."""
    return pickle.dumps(_Bomb(path), 5)


def hidden(path: Path) -> Any:
    """The bomb as msgpack's extension type by which items of trusted queues carry pickles."""
    return msgpack.ExtType(item_codec.PICKLE, bomb(path))


def wrapped(path: Path) -> list[bytes]:
    """Blobs that contain the bomb, in every way in which pickles are sent, and some more."""
    shell = bomb(path)
    inside = msgpack.packb([[hidden(path)], [], None])
    tupled = msgpack.packb([[msgpack.ExtType(item_codec.TUPLE, msgpack.packb([hidden(path)]))], [], None])
    keyword = msgpack.packb([[], [], {"x": hidden(path)}])
    return [
        shell,
        b"C" + shell,
        b"F" + len(shell).to_bytes(4, "big") + shell + shell,
        b"F" + (len(shell) + 1).to_bytes(4, "big") + b"C" + shell + shell,
        pickle.dumps(("tests.Error", "said", [shell], "traceback"), 5),
        prefixed(ValueError("x"), "traceback", pickle.dumps([("tests.Error", "said", [shell])], 5)),
        PLAIN + shell,
        PLAIN + inside,
        PLAIN + tupled,
        PLAIN + keyword,
        PLAIN + msgpack.packb(hidden(path)),
        PLAIN + msgpack.packb([["tests.Error", "said", hidden(path)], [], None]),
    ]


NOT_ALLOWED = [
    "os:system",
    "builtins:eval",
    "tests.pool:far_tasks",
    "tests.pool.trap:spring",
    "tests.pool.offered_not:double",
    "tests.pool.offered._corner:spring",
    "tests.pool.offered._private:published",
    "tests.pool.offered._private:kept",
    "tests.pool.offered.__main__:main",
    "tests.pool.offered.system:makedirs",
    "tests.pool.offered:os",
    "tests.pool.offered:os.mkdir",
    "tests.pool.offered:getoutput",
    "tests.pool.offered:unexported",
    "tests.pool.offered:Door",
    "tests.pool.offered:Door.knock",
    "tests.pool.offered:enter",
    "tests.pool.offered:twice",
    "tests.pool.offered:prepared",
    "tests.pool.offered:_quiet",
    "tests.pool.offered:__getattr__",
    "tests.pool.offered:__class__",
    "tests.pool.offered:__builtins__",
    "tests.pool.offered:double.__globals__",
    "tests.pool.offered:double:double",
    "tests.pool.offered:double\0",
    "tests.pool.offered:",
    ":double",
    "double",
    ".offered:double",
    "tests..offered:double",
    "tests/pool/offered:double",
    "",
    f"tests.pool.offered:{'x' * LONGEST}",
]
"""To a worker that offers `tests.pool.offered`."""
