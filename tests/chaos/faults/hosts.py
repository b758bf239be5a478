"""Simulated machines: network namespaces joined by a bridge, with partitions and packet loss."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

_serials = itertools.count(1)
ESTABLISHED = "01"
"""As `/proc/net/tcp` has it."""


class Connection(NamedTuple):
    """A TCP connection: the port here, and the address and port of the other side."""

    mine: int
    other: str
    theirs: int


def connections(pid: int) -> list[Connection]:
    """The established connections on the machine of a process."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    tcp6 = [line.split() for line in Path(f"/proc/{pid}/net/tcp6").read_text().splitlines()[1:]]
    return [_connection(row[1], row[2]) for row in rows + tcp6 if row[3] == ESTABLISHED]


def _connection(local: str, remote: str) -> Connection:
    address, _, port = remote.partition(":")
    return Connection(
        int(local.partition(":")[2], 16), socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1]), int(port, 16)
    )


@cache
def missing() -> str:
    """Why such networks are not possible here; empty if they are."""
    if os.geteuid():
        return "network namespaces want root"
    for tool in ("ip", "iptables"):
        if not shutil.which(tool):
            return f"there is no {tool} here (apt-get install iproute2 iptables)"
    sweep()
    try:
        with Hosts(["a"]) as hosts:
            hosts.lossy("a", 0.1)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"this kernel makes no network namespaces, or lacks a module: {error}"
    return ""


def sweep() -> None:
    """Remove the machines of test runs that were killed."""
    for path in Path("/run/netns").glob("nf*x*-*"):
        owner = re.match(r"nf(\d+)x", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False, capture_output=True, timeout=10)


class Hosts:
    """A machine with an address for each of `names`; a context manager, which removes them all."""

    def __init__(self, names: list[str]) -> None:
        self._prefix = f"nf{os.getpid()}x{next(_serials)}"
        self._names = names
        self._switch = f"{self._prefix}-switch"

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def network(self, name: str) -> str:
        """The namespace of a machine, for `ip netns` and `starting.enter_network`."""
        return f"{self._prefix}-{name}"

    def address(self, name: str) -> str:
        """The IP address of a machine."""
        return f"10.213.7.{self._names.index(name) + 1}"

    def partition(self, here: str, there: str, *, one_way: bool = False) -> None:
        """Drop all packets from `there` to `here`; and, unless `one_way`, back."""
        self._rule(here, "-s", self.address(there), "-j", "DROP")
        if not one_way:
            self._rule(there, "-s", self.address(here), "-j", "DROP")

    def isolate(self, name: str) -> None:
        """Drop all packets to a machine."""
        self._rule(name, "-i", "eth0", "-j", "DROP")

    def lossy(self, name: str, share: float) -> None:
        """Drop a share of the packets to a machine, at random."""
        self._rule(name, "-m", "statistic", "--mode", "random", "--probability", f"{share:g}", "-j", "DROP")

    def forget(self, here: str, connection: Connection) -> None:
        """Drop a connection in both directions without notice, as a firewall that has lost its state."""
        mine, theirs = str(connection.mine), str(connection.theirs)
        self._rule(here, "-p", "tcp", "--sport", theirs, "--dport", mine, "-j", "DROP")
        self._rule(self._at(connection.other), "-p", "tcp", "--sport", mine, "--dport", theirs, "-j", "DROP")

    def heal(self) -> None:
        """Undo all partitions and losses."""
        for name in self._names:
            self._run("ip", "netns", "exec", self.network(name), "iptables", "-w", "-F", "INPUT")

    def close(self) -> None:
        """Remove the machines; their processes must have ended."""
        for name in [*(self.network(name) for name in self._names), self._switch]:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)

    def _at(self, address: str) -> str:
        return next(name for name in self._names if self.address(name) == address)

    def _make(self) -> None:
        self._batch("", ["netns add " + self._switch, *(f"netns add {self.network(n)}" for n in self._names)])
        orders = ["link add bridge type bridge", "link set bridge up"]
        for number, name in enumerate(self._names, 1):
            orders += [
                f"link add port{number} type veth peer name eth0 netns {self.network(name)}",
                f"link set port{number} master bridge up",
            ]
        self._batch(self._switch, orders)
        for name in self._names:
            address = f"addr add {self.address(name)}/24 dev eth0"
            self._batch(self.network(name), [address, "link set lo up", "link set eth0 up"])

    def _rule(self, name: str, *words: str) -> None:
        self._run("ip", "netns", "exec", self.network(name), "iptables", "-w", "-A", "INPUT", *words)

    def _batch(self, network: str, orders: list[str]) -> None:
        words = ["ip", *(["-n", network] if network else []), "-batch", "-"]
        subprocess.run(words, input="\n".join(orders), text=True, check=True, capture_output=True, timeout=10)

    def _run(self, *words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, timeout=10)
