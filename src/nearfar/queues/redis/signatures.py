"""Signatures of items, with the same keys with which programs connect to hosts.

The keys are of Curve25519, for key agreement; XEdDSA (signal.org/docs/specifications/xeddsa) signs with them:
a signature is one of Ed25519, whose public key follows from the other. libsodium does the arithmetic.

A program with the service's own key signs with that one, which every folder of keys knows; others sign with
their client's key, which only folders know whose list of clients has it.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from nacl import bindings
from nacl.exceptions import BadSignatureError
from zmq.utils import z85

from nearfar.errors import KeysError, Untrusted
from nearfar.net.auth import CLIENT, CLIENTS, SECRET, SERVER, AllowedClients, read_pair, read_server_key

HEAD = 96
"""Bytes before a signed item: the public key, and the signature."""
REFRESH = 1.0
"""Seconds after which the list of clients is read again."""
_PRIME = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_CONTEXT = b"nearfar item 1\0"


class Signer:
    """Signs and verifies the items of one queue with the keys of a folder."""

    def __init__(self, folder: Path, queue: str) -> None:
        """Raises `KeysError`."""
        pair = read_pair(folder, SERVER if (folder / f"{SERVER}{SECRET}").exists() else CLIENT)
        self._public, secret = z85.decode(pair.public), z85.decode(pair.secret)
        self._context = _CONTEXT + queue.encode() + b"\0"
        self._server = read_server_key(folder).decode()
        self._clients = AllowedClients(folder) if (folder / CLIENTS).is_dir() else None
        self._refresh_at = time.monotonic() + REFRESH
        self._edwards: dict[bytes, bytes] = {}
        clamped = bytearray(secret)
        clamped[0] &= 248
        clamped[31] = clamped[31] & 127 | 64
        point = bindings.crypto_scalarmult_ed25519_base_noclamp(bytes(clamped))
        scalar = int.from_bytes(clamped, "little") % _ORDER
        self._scalar = _ORDER - scalar if point[31] & 128 else scalar
        self._point = point[:31] + bytes([point[31] & 127])
        if self._point != _to_edwards(self._public):
            raise KeysError(f"the public key in {folder} does not belong to its secret")

    def sign(self, body: bytes) -> bytes:
        """`body` with the signature before it."""
        message = self._context + body
        secret = self._scalar.to_bytes(32, "little")
        nonce = _number(b"\xfe" + b"\xff" * 31, secret, message, os.urandom(64))
        point = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
        answer = (nonce + _number(point, self._point, message) * self._scalar) % _ORDER
        return self._public + point + answer.to_bytes(32, "little") + body

    def verify(self, signed: bytes) -> bytes:
        """The body of a signed item. Raises `Untrusted`."""
        public = signed[:32]
        if len(signed) < HEAD or not self._accepts(z85.encode(public).decode()):
            raise Untrusted("an item is not signed with a key that is accepted here")
        edwards = self._edwards.get(public)
        if edwards is None:
            edwards = self._edwards[public] = _to_edwards(public)
        body = signed[HEAD:]
        try:
            bindings.crypto_sign_open(signed[32:HEAD] + self._context + body, edwards)
        except BadSignatureError:
            raise Untrusted(
                "an item was changed after it was signed, or was signed for another queue"
            ) from None
        return body

    def _accepts(self, public: str) -> bool:
        if self._clients is None or public == self._server:
            return public == self._server
        if time.monotonic() > self._refresh_at:
            self._clients.refresh()
            self._refresh_at = time.monotonic() + REFRESH
        return public in self._clients.names


def _to_edwards(public: bytes) -> bytes:
    """The Ed25519 key of a Curve25519 key, with the sign 0."""
    u = int.from_bytes(public, "little") % (1 << 255)
    return ((u - 1) * pow(u + 1, -1, _PRIME) % _PRIME).to_bytes(32, "little")


def _number(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % _ORDER
