"""Calls and answers without pickle: functions by name, and plain data for the rest.

``function`` field: ``b"module:function"``, a function at the top of a module. Blobs: `PLAIN`, then one item
of `nearfar.net.codec`, which reads no pickle here; large bytes travel beside it. `calls` is the client's end,
`loader` and `names` are the worker's, `answers` travel home. Nobody in here imports `nearfar.net.pickles`.
"""

from __future__ import annotations


class PlainName(bytes):
    """A function field in the client that worded the call: who asked plainly reads the answer so, too."""

    __slots__ = ()


PLAIN = b"P"
"""The first byte of a plain blob. What `nearfar.net.pickles` writes begins with 0x80, C or F."""
