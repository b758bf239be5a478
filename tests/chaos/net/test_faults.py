"""The tools of the chaos tests work: failpoints exist, networks can be partitioned, connections broken."""

from __future__ import annotations

import importlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.chaos.faults.failpoints import Failpoint, Point
from tests.chaos.faults.faults import chosen_seeds, kinds_of, telling_seeds
from tests.chaos.faults.hosts import Hosts, missing
from tests.chaos.faults.proxied import LISTEN, TARGET, Proxied
from tests.chaos.faults.starting import enter_network
from tests.chaos.pool import plan as pools
from tests.chaos.pool.points import POINTS as OF_POOLS
from tests.chaos.queue import plan as queues
from tests.chaos.queue.points import POINTS as OF_QUEUES
from tests.support.ports import free_port

PATIENCE = 0.3
"""Seconds after which what has not come is not expected any more."""


@pytest.mark.parametrize("point", [*OF_QUEUES.values(), *OF_POOLS.values()], ids=str)
def test_every_failpoint_exists(point: Point) -> None:
    module, _, path = point.place.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_a_failpoint_can_be_formatted_and_parsed() -> None:
    text = "lend-sent:kill@3"
    assert Failpoint.parse(text) == Failpoint("lend-sent", "kill", 3)
    assert str(Failpoint.parse(text)) == text


@pytest.mark.parametrize("points", [OF_QUEUES, OF_POOLS], ids=["queue", "pool"])
def test_two_hundred_seeds_use_every_failpoint(points: dict[str, Point]) -> None:
    plan = queues.Plan if points is OF_QUEUES else pools.Plan
    drawn = {failpoint.point for seed in range(1, 201) for _, failpoint in plan.draw(seed).failpoints}
    assert drawn == points.keys()


@pytest.mark.parametrize("plan", [queues.Plan, pools.Plan])
def test_a_few_telling_seeds_use_more_than_many_others(
    plan: type[queues.Plan] | type[pools.Plan],
) -> None:
    telling = set().union(*(kinds_of(plan.draw(seed)) for seed in telling_seeds(plan.draw, 14)))
    others = set().union(*(kinds_of(plan.draw(seed)) for seed in range(1, 26)))
    assert len(telling) > 1.2 * len(others)
    everything = set().union(*(kinds_of(plan.draw(seed)) for seed in range(1, 201)))
    faults = {fault.kind for seed in range(1, 201) for fault in plan.draw(seed).faults}
    transports = {plan.draw(seed).transport for seed in range(1, 201)}
    assert (faults | transports) <= telling <= everything


@pytest.mark.parametrize("plan", [queues.Plan, pools.Plan])
def test_a_seed_always_gives_the_same_plan(plan: type[queues.Plan] | type[pools.Plan]) -> None:
    for seed in range(50):
        assert plan.draw(seed) == plan.draw(seed)
        assert str(plan.draw(seed)) == str(plan.draw(seed))


def test_seeds_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_seeds("1-3") == [1, 2, 3]
    assert chosen_seeds("1-3", 7) == [7]
    assert chosen_seeds([4, 9, 2]) == [4, 9, 2]
    monkeypatch.setenv("NEARFAR_CHAOS_RUNS", "2")
    assert chosen_seeds("1-3") == [1, 2]
    assert chosen_seeds([4, 9, 2]) == [4, 9]
    monkeypatch.setenv("NEARFAR_CHAOS_SEEDS", "5-6")
    assert chosen_seeds("1-3") == chosen_seeds([4, 9, 2]) == [5, 6]


# -- networks --------------------------------------------------------------------------------------


@pytest.fixture
def datagrams(hosts: Hosts | None) -> Iterator[Callable[[str, str], bool]]:
    """Returns whether a datagram of one machine reaches another."""
    if hosts is None:
        pytest.skip(missing())
    sockets = {name: _socket_in(hosts.network(name)) for name in "abc"}
    for name, made in sockets.items():
        made.bind((hosts.address(name), 7777))
        made.settimeout(PATIENCE)

    def reaches(here: str, there: str) -> bool:
        sockets[here].sendto(b"hello", (hosts.address(there), 7777))
        try:
            return sockets[there].recv(100) == b"hello"
        except TimeoutError:
            return False

    yield reaches
    hosts.heal()
    for made in sockets.values():
        made.close()


def _socket_in(network: str) -> socket.socket:
    """A socket in that network: it belongs to the network of the thread that makes it."""
    made: list[socket.socket] = []

    def make() -> None:
        enter_network(network)
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def test_machines_reach_each_other_until_a_partition(
    hosts: Hosts, datagrams: Callable[[str, str], bool]
) -> None:
    assert datagrams("a", "b") and datagrams("b", "a")
    hosts.partition("a", "b", one_way=True)
    assert not datagrams("b", "a")
    assert datagrams("a", "b") and datagrams("c", "a")
    hosts.partition("a", "b")
    assert not datagrams("a", "b") and not datagrams("b", "a")
    hosts.heal()
    assert datagrams("a", "b") and datagrams("b", "a")


def test_a_lossy_machine_loses_a_share(hosts: Hosts, datagrams: Callable[[str, str], bool]) -> None:
    """Given a loss of one half, I expect some of twenty datagrams to arrive, and some not."""
    hosts.lossy("b", 0.5)
    arrived = [datagrams("a", "b") for _ in range(20)]
    assert any(arrived) and not all(arrived)


# -- connections -----------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    """The port of an echo server."""
    port = free_port()
    with socket.create_server((TARGET, port)) as server:

        def serve() -> None:
            while True:
                try:
                    taken, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(taken,)).start()

        def echo(taken: socket.socket) -> None:
            with taken:
                try:
                    while said := taken.recv(1 << 16):
                        taken.sendall(said)
                except OSError:
                    return

        serving = threading.Thread(target=serve)
        serving.start()
        yield port
        server.shutdown(socket.SHUT_RDWR)
        serving.join()


@pytest.fixture
def proxy(port: int) -> Iterator[Proxied]:
    with Proxied([port], 1) as proxy:
        yield proxy


@pytest.fixture
def line(proxy: Proxied, port: int) -> Iterator[socket.socket]:
    with closing(socket.create_connection((LISTEN, port), timeout=5)) as line:
        assert said_again(line, b"hello")
        line.settimeout(PATIENCE)
        yield line


def said_again(line: socket.socket, words: bytes) -> bool:
    line.sendall(words)
    try:
        heard = b""
        while len(heard) < len(words):
            heard += (more := line.recv(1 << 16))
            if not more:
                return False
        return heard == words
    except TimeoutError:
        return False


def test_a_reset_resets_the_connection(proxy: Proxied, line: socket.socket) -> None:
    proxy.order("reset")
    with pytest.raises(ConnectionResetError):
        line.recv(1)


def test_a_cut_is_in_the_middle_of_a_message(proxy: Proxied, line: socket.socket) -> None:
    proxy.order("cut")
    line.sendall(b"x" * 1000)
    with pytest.raises(ConnectionResetError):
        while line.recv(1 << 16):
            pass


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_half_open_connection_transmits_nothing_and_a_new_one_does(
    proxy: Proxied, line: socket.socket, port: int, way: str
) -> None:
    proxy.order("half-open", ways=[way])
    assert not said_again(line, b"still there?")
    with closing(socket.create_connection((LISTEN, port), timeout=5)) as new:
        assert said_again(new, b"hello")


def test_a_black_hole_delivers_everything_when_it_ends(proxy: Proxied, line: socket.socket) -> None:
    proxy.order("blackhole", ways=["up"])
    assert not said_again(line, b"still there?")
    proxy.order("clear")
    line.settimeout(5)
    assert line.recv(100) == b"still there?"


def test_a_slow_connection_takes_its_time(proxy: Proxied, line: socket.socket) -> None:
    """Given 100 kB a second each way, I expect 20 kB there and back to take its 0.4 s."""
    proxy.order("throttle", amount=100_000)
    line.settimeout(5)
    began = time.monotonic()
    assert said_again(line, b"x" * 20_000)
    assert time.monotonic() - began >= 0.3
