"""Pickles that do harm when they are read: each makes a folder, so that a test sees whether one went off."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import msgpack

from nearfar.net import codec
from nearfar.net.plain import PLAIN


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
    return msgpack.ExtType(codec.PICKLE, bomb(path))


def wrapped(path: Path) -> list[bytes]:
    """Blobs with the bomb in them, in every way in which pickles travel, and some more."""
    shell = bomb(path)
    inside = msgpack.packb([[hidden(path)], [], None])
    tupled = msgpack.packb([[msgpack.ExtType(codec.TUPLE, msgpack.packb([hidden(path)]))], [], None])
    keyword = msgpack.packb([[], [], {"x": hidden(path)}])
    return [
        shell,
        b"C" + shell,
        b"F" + len(shell).to_bytes(4, "big") + shell + shell,
        b"F" + (len(shell) + 1).to_bytes(4, "big") + b"C" + shell + shell,
        pickle.dumps(("tests.Error", "said", [shell], "traceback"), 5),
        PLAIN + shell,
        PLAIN + inside,
        PLAIN + tupled,
        PLAIN + keyword,
        PLAIN + msgpack.packb(hidden(path)),
        PLAIN + msgpack.packb([["tests.Error", "said", hidden(path)], [], None]),
    ]
