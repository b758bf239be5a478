"""DNS rebinding for real: a resolver that lies, in a network and mount namespace of its own.

``public.test`` is 8.8.8.8, which is here; ``private.test`` is 127.0.0.1; ``both.test`` is 127.0.0.1 and
8.8.8.8; ``rebind.test`` is 8.8.8.8 when first asked for, and 127.0.0.1 from then on. Run as root of the
namespaces: ``unshare --map-root-user --net --mount python -m tests.download.fetch.rebinding``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from contextlib import closing
from pathlib import Path

from nearfar.download.fetch.curl import CurlFetcher
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.model import Reason
from tests.support.routes import content, redirect
from tests.support.sinks import Remembered, fetch_all
from tests.support.web import Web

PUBLIC, PRIVATE = "8.8.8.8", "127.0.0.1"


class Resolver:
    """Answers A questions over UDP, with no time to live; other questions have no answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((PRIVATE, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, peer = self._socket.recvfrom(512)
            self._socket.sendto(self._answer(question), peer)

    def _answer(self, question: bytes) -> bytes:
        labels, at = [], 12
        while size := question[at]:
            labels.append(question[at + 1 : at + 1 + size].decode())
            at += 1 + size
        kind = int.from_bytes(question[at + 1 : at + 3])
        addresses = self._addresses(".".join(labels)) if kind == 1 else []
        head = question[:2] + b"\x81\x80\0\1" + len(addresses).to_bytes(2) + b"\0\0\0\0"
        records = (b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(each) for each in addresses)
        return head + question[12 : at + 5] + b"".join(records)

    def _addresses(self, name: str) -> list[str]:
        self.asked.append(name)
        match name:
            case "public.test":
                return [PUBLIC]
            case "both.test":
                return [PRIVATE, PUBLIC]
            case "rebind.test" if self.asked.count(name) == 1:
                return [PUBLIC]
        return [PRIVATE]


def prepare(folder: Path) -> None:
    for command in ("ip link set lo up", f"ip addr add {PUBLIC}/32 dev lo"):
        subprocess.run(command.split(), check=True)
    (folder / "resolv.conf").write_text(f"nameserver {PRIVATE}\noptions attempts:1 timeout:5\n")
    subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)


def fetch(url: str) -> Remembered:
    """With a fetcher of its own: what another one has looked up is not known to it."""
    with closing(CurlFetcher(FetchOptions(no_private=True, tries=2, backoff=0.01))) as fetcher:
        (sink,) = fetch_all(fetcher, url)
    return sink


def refused(sink: Remembered) -> bool:
    return sink.failure is not None and sink.failure.reason is Reason.REJECTED


def story(resolver: Resolver) -> None:
    with Web(host=PUBLIC) as outside, Web(host=PRIVATE) as inside:
        outside.routes["*"] = content(b"outside")
        inside.routes["*"] = content(b"inside")
        outside.routes["/there"] = redirect(inside.url("/secret", host="private.test"))
        assert bytes(fetch(outside.url("/a", host="public.test")).data) == b"outside"
        assert refused(fetch(inside.url("/a", host="private.test")))
        assert refused(fetch(outside.url("/there", host="public.test")))

        # One look, and what it found is judged and connected to: the second answer comes too late.
        assert bytes(fetch(outside.url("/a", host="rebind.test")).data) == b"outside"
        assert resolver.asked.count("rebind.test") == 1
        assert refused(fetch(inside.url("/a", host="rebind.test")))
        assert resolver.asked.count("rebind.test") == 2

        # Of two addresses only the public one is tried, even if no server answers there.
        assert bytes(fetch(outside.url("/a", host="both.test")).data) == b"outside"
        assert fetch(inside.url("/a", host="both.test")).failure is not None
        assert inside.connections == 0 and not inside.log


if __name__ == "__main__":
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        story(Resolver())
    print("well")
