"""A temporary authority, and its certificate for the loopback names."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Tls:
    """The files that a server and its clients need for TLS."""

    server: ssl.SSLContext
    ca_file: Path

    @classmethod
    def make(cls, folder: Path, name: str = "127.0.0.1", alpn: Sequence[str] = ()) -> Tls:
        """A certificate for `name`; `alpn`: the protocols that the server offers, such as ``h2``."""
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(alpn)
        ca_file = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        return cls(context, ca_file)
