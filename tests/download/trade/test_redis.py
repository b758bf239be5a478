"""The transport over Redis by itself: who gets a request and its answer, whatever dies or is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from nearfar import Queue
from nearfar.cli.exits import Exit
from nearfar.download import redis_transport
from nearfar.download.redis_transport import RedisRequestReceiver, RedisRequestSender
from nearfar.download.transport import Endpoint, Undeliverable
from nearfar.errors import NotAdmitted, ProducerLost, QueueLost, ShutDown
from nearfar.net import auth
from tests.download.trade.commands import Commands, ended
from tests.support import redis_server
from tests.support.keys import keys
from tests.support.waiting import eventually

pytestmark = redis_server.needed
LIMIT = 20.0


class Exchange:
    """The senders and receivers of one test."""

    def __init__(self, address: str, stack: ExitStack) -> None:
        self.address = address
        self._stack = stack

    def sender(self, keys: Path | None = None, *, attends: bool = True) -> RedisRequestSender:
        sender = redis_transport.open_request_sender(self._endpoint(keys))
        self._close_at_end(sender)
        if attends:
            assert sender.reach(LIMIT)
            sender.attend()
        return sender

    def receiver(
        self, store: str = "store", keys: Path | None = None, producers: int = 1
    ) -> RedisRequestReceiver:
        receiver = redis_transport.open_request_receiver(
            self._endpoint(keys), store=store, producers=producers
        )
        self._close_at_end(receiver)
        assert receiver.reach(LIMIT)
        return receiver

    def _endpoint(self, keys: Path | None) -> Endpoint:
        return Endpoint(address=self.address, keys=str(keys) if keys else None, insecure=not keys, wait=LIMIT)

    def _close_at_end(self, end: RedisRequestSender | RedisRequestReceiver) -> None:
        def close() -> None:
            with suppress(QueueLost, NotAdmitted):
                end.close(LIMIT)

        self._stack.callback(close)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with ExitStack() as stack:
        yield Exchange(redis_server.address(), stack)


def answers(sender: RedisRequestSender, count: int) -> dict[int, Any]:
    """The next answers of a sender, by ticket."""
    found: dict[int, Any] = {}

    def hear() -> bool:
        for ticket, value in sender.answers():
            assert ticket not in found
            found[ticket] = value
        return len(found) >= count

    assert eventually(hear), f"{len(found)} of {count} answers"
    return found


def expire(end: Any, by: Any) -> None:
    """The server declares `end` dead, as after a lease, when `by` has its next heartbeat."""
    client = end._client
    with client._lock:  # meanwhile it says nothing
        assert client._request("ZADD", client._key + b":clients", 1, client.name) == 0
        by._client.call("beat")


def echo(receiver: RedisRequestReceiver) -> Any:
    """Answer one request with itself, and return it."""
    request = receiver.receive(LIMIT)
    assert request is not None
    request.answer(["got", request.message])
    return request.message


def test_a_request_goes_to_any_consumer_to_one_or_to_one_of_a_store(exchange: Exchange) -> None:
    one, other, sender = exchange.receiver("a"), exchange.receiver("b"), exchange.sender()
    sender.send(["to b"], to="b")
    assert echo(other) == ["to b"]
    sender.send(["to one", b"\0\xff" * 1000], to=one.name)
    assert echo(one) == ["to one", b"\0\xff" * 1000]
    sender.send(["to any"])
    assert echo(one) == ["to any"]
    sender.send(["to nobody"], to="c")
    assert answers(sender, 4) == {
        1: ["got", ["to b"]],
        2: ["got", ["to one", b"\0\xff" * 1000]],
        3: ["got", ["to any"]],
        4: Undeliverable("c"),
    }
    assert one.receive(0) is None
    assert eventually(lambda: sender.stores() == {"a", "b"})
    other.close(LIMIT)
    assert eventually(lambda: sender.stores() == {"a"})


def test_what_a_dead_consumer_held_goes_to_others_and_what_was_for_it_comes_back(exchange: Exchange) -> None:
    dead, alive, sender = exchange.receiver(), exchange.receiver(), exchange.sender()
    sender.send(["first"], to=dead.name)
    sender.send(["second"], to=dead.name)
    held = dead.receive(LIMIT)
    assert held is not None and held.message == ["first"]
    sender.send(["for any"])
    taken = dead.receive(LIMIT)
    assert taken is not None and taken.message in (["second"], ["for any"])
    if taken.message == ["second"]:
        taken = dead.receive(LIMIT)
        assert taken is not None and taken.message == ["for any"]
    name = dead.name
    expire(dead, by=alive)
    assert answers(sender, 2) == {1: Undeliverable(name), 2: Undeliverable(name)}
    again = alive.receive(LIMIT)
    assert again is not None and (again.message, again.attempt) == (["for any"], 2)
    taken.answer(["too late"])
    again.answer(["in time"])
    assert answers(sender, 1) == {3: ["in time"]}
    assert dead.receive(0) is None and dead.name != name, "it goes on under a new name"


def test_a_request_for_a_store_goes_to_another_of_its_consumers(exchange: Exchange) -> None:
    dead, alive, sender = exchange.receiver(), exchange.receiver(), exchange.sender()
    sender.send(["offer"], to="store")
    assert dead.receive(LIMIT) is not None
    expire(dead, by=alive)
    assert echo(alive) == ["offer"]
    assert answers(sender, 1) == {1: ["got", ["offer"]]}


def test_a_request_that_kills_its_consumers_comes_back(exchange: Exchange) -> None:
    witness, sender = exchange.receiver("other"), exchange.sender()
    sender.send(["poison"], to="store")
    assert answers(sender, 1) == {1: Undeliverable("store")}, "nobody is there"
    victims = [exchange.receiver() for _ in range(5)]
    assert eventually(lambda: "store" in sender.stores())
    sender.send(["poison"], to="store")
    for victim in victims:
        assert victim.receive(LIMIT) is not None
        expire(victim, by=witness)
    assert answers(sender, 1) == {2: Undeliverable("store")}


def test_a_stopped_consumer_gives_back_what_it_has_not_answered(exchange: Exchange) -> None:
    leaving, other, sender = exchange.receiver(), exchange.receiver(), exchange.sender()
    sender.send(["one"])
    sender.send(["two"])
    for _ in range(2):
        request = leaving.receive(LIMIT)
        assert request is not None
        if request.message == ["one"]:
            request.answer(["done"])
    leaving.close(LIMIT)
    assert echo(other) == ["two"]
    assert answers(sender, 2) == {1: ["done"], 2: ["got", ["two"]]}


def test_the_end_comes_when_all_expected_producers_left_and_all_is_answered(exchange: Exchange) -> None:
    one, other = exchange.receiver(producers=2), exchange.receiver()
    first, second = exchange.sender(), exchange.sender()
    first.send(["last"])
    held = one.receive(LIMIT)
    assert held is not None
    first.close(LIMIT)
    assert other.receive(0) is None
    second.close(LIMIT)
    assert other.receive(0) is None, "what another consumer holds may come to this one"
    with pytest.raises(ShutDown):
        one.receive(LIMIT)
    held.answer(["done"])
    with pytest.raises(ShutDown):
        other.receive(LIMIT)


def test_a_dead_producer_is_named(exchange: Exchange) -> None:
    receiver, other = exchange.receiver(producers=2), exchange.sender()
    dead = exchange.sender()
    with dead._client._lock:  # it does not come back
        expire(dead, by=receiver)
        other.close(LIMIT)
        with pytest.raises(ProducerLost) as raised:
            receiver.receive(LIMIT)
    assert raised.value.names == (dead._id,)


def test_a_producer_that_came_after_it_replaces_a_dead_one(exchange: Exchange) -> None:
    receiver, dead = exchange.receiver(), exchange.sender()
    came = time.monotonic()
    assert eventually(lambda: time.monotonic() > came + 0.01)
    again = exchange.sender()
    with dead._client._lock:
        expire(dead, by=receiver)
        again.close(LIMIT)
        with pytest.raises(ShutDown):
            receiver.receive(LIMIT)


def test_a_producer_that_was_silent_goes_on(exchange: Exchange) -> None:
    receiver, sender = exchange.receiver(), exchange.sender()
    sender.send(["before"])
    held = receiver.receive(LIMIT)
    assert held is not None
    expire(sender, by=receiver)
    sender.send(["after"])
    assert eventually(lambda: sender._accepted == 2), "it is back"
    assert receiver.receive(0) is None, "what it sends again waits for what is there"
    held.answer(["kept"])
    again = receiver.receive(LIMIT)
    assert again is not None and (again.message, again.attempt) == (["before"], 2)
    again.answer(["twice"])
    assert echo(receiver) == ["after"]
    assert answers(sender, 2) == {1: ["kept"], 2: ["got", ["after"]]}
    assert receiver.receive(0) is None
    sender.close(LIMIT)
    with pytest.raises(ShutDown):
        receiver.receive(LIMIT)


def test_an_empty_producer_may_come_before_any_consumer(exchange: Exchange) -> None:
    for _ in range(2):
        exchange.sender().close(LIMIT)
        receiver = exchange.receiver()
        with pytest.raises(ShutDown):
            receiver.receive(LIMIT)
        receiver.close(LIMIT)
    assert left_behind(exchange.address) == []


def left_behind(address: str) -> list[bytes]:
    """Keys of an exchange, but for tokens, which have a minute to live."""
    place = redis_transport.RedisAddress.parse(address)
    with closing(redis.Redis(port=place.port)) as server:
        keys: Any = server.keys(f"nearfar:{{{place.name}}}*")
        return sorted(key for key in keys if b":wake:" not in key)


def test_a_consumer_that_comes_after_the_end_waits_for_new_producers(exchange: Exchange) -> None:
    present, sender = exchange.receiver(), exchange.sender()
    sender.send(["old"])
    echo(present)
    answers(sender, 1)
    sender.close(LIMIT)
    late = exchange.receiver()
    assert late.receive(0) is None
    with pytest.raises(ShutDown):
        present.receive(LIMIT)
    new = exchange.sender()
    new.send(["new"])
    assert echo(late) == ["new"]
    assert answers(new, 1) == {1: ["got", ["new"]]}


def test_what_killed_programs_left_is_not_there_for_the_next_ones(exchange: Exchange) -> None:
    """Their producer has the URLs, and asks again."""
    dead, sender = exchange.receiver(), exchange.sender()
    sender.send(["old"])
    assert dead.receive(LIMIT) is not None
    place = redis_transport.RedisAddress.parse(exchange.address)
    with dead._client._lock, sender._client._lock, closing(redis.Redis(port=place.port)) as server:
        clients = f"nearfar:{{{place.name}}}:clients"
        server.zadd(clients, dict.fromkeys(server.zrange(clients, 0, -1), 1))
        receiver = exchange.receiver()
        assert receiver.receive(0) is None


def test_a_server_that_forgets_everything_is_sent_it_again(exchange: Exchange) -> None:
    receiver, sender = exchange.receiver(), exchange.sender()
    sender.send(["to any"])
    held = receiver.receive(LIMIT)
    assert held is not None
    sender.send(["to it"], to=receiver.name)
    name = receiver.name
    assert receiver.receive(LIMIT) is not None
    place = redis_transport.RedisAddress.parse(exchange.address)
    with closing(redis.Redis(port=place.port)) as server:
        server.delete(*server.keys(f"nearfar:{{{place.name}}}*"))
    again = receiver.receive(LIMIT)
    assert again is not None and (again.message, again.attempt) == (["to any"], 2)
    assert receiver.name != name
    held.answer(["too late"])
    again.answer(["now"])
    assert answers(sender, 2) == {1: ["now"], 2: Undeliverable(name)}


def test_a_server_that_forgets_its_latest_state_is_sent_it_again(exchange: Exchange) -> None:
    """As after a power cut, or when a replica takes over."""
    receiver, sender = exchange.receiver(), exchange.sender()
    sender.send(["first"])
    assert echo(receiver) == ["first"]
    assert answers(sender, 1) == {1: ["got", ["first"]]}
    place = redis_transport.RedisAddress.parse(exchange.address)
    with closing(redis.Redis(port=place.port)) as server:
        keys = server.keys(f"nearfar:{{{place.name}}}*")
        before = {key: server.dump(key) for key in keys}
        sender.send(["second"])
        held = receiver.receive(LIMIT)
        assert held is not None
        with server.pipeline() as step:
            step.delete(*server.keys(f"nearfar:{{{place.name}}}*"))
            for key, value in before.items():
                if value is not None:
                    step.restore(key, 0, value)
            step.execute()
    again = receiver.receive(LIMIT)
    assert again is not None and (again.message, again.attempt) == (["second"], 2)
    held.answer(["too late"])
    again.answer(["now"])
    assert answers(sender, 1) == {2: ["now"]}


def test_the_server_has_a_bounded_number_of_bytes(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_transport, "MOST_QUEUED", 10_000)
    monkeypatch.setattr(redis_transport, "TOGETHER", 5_000)
    receiver, sender = exchange.receiver(), exchange.sender()
    sent = []

    def full() -> bool:
        while sender.send([len(sent), b"x" * 1000]) is not None:
            sent.append(len(sent))
        return len(sent) >= 12

    assert eventually(full)
    assert len(sent) < 20
    for number in sent:
        assert echo(receiver)[0] == number
    assert set(answers(sender, len(sent))) == {number + 1 for number in sent}


@pytest.mark.parametrize("seed", range(3))
def test_lost_replies_lose_and_double_nothing(exchange: Exchange, seed: int) -> None:
    """Given connections that break after one of four calls, each request is answered once."""
    dice = random.Random(seed)
    receivers, sender = [exchange.receiver(), exchange.receiver()], exchange.sender()
    for end in (*receivers, sender):
        shake(end, dice)
    answered = 0

    def work() -> bool:
        nonlocal answered
        for receiver in receivers:
            if (request := receiver.receive(0)) is not None:
                request.answer([request.message])
        for ticket, value in sender.answers():
            assert value == [[ticket]]
            answered += 1
        return answered == 24

    for number in range(1, 25):
        assert sender.send([number]) == number
    assert eventually(work, 40.0), answered
    assert sender.answers() == []


def shake(end: Any, dice: random.Random) -> None:
    """Break the connection after some of a client's calls, before it has the reply."""
    client = end._client
    do: Callable[..., Any] = client._request

    def request(*command: Any) -> Any:
        reply = do(*command)
        if command[0] == "EVALSHA" and dice.random() < 0.25:
            raise redis.ConnectionError("shaken")
        return reply

    client._request = request


def test_signed_messages_need_keys_on_both_sides(exchange: Exchange) -> None:
    receiver, sender = exchange.receiver(keys=keys()), exchange.sender(keys())
    sender.send(["signed"])
    assert echo(receiver) == ["signed"]
    assert answers(sender, 1) == {1: ["got", ["signed"]]}
    with pytest.raises(NotAdmitted, match="are signed, and this side has no keys"):
        exchange.receiver()
    with pytest.raises(NotAdmitted, match="are signed, and this side has no keys"):
        exchange.sender()


def test_a_producer_with_other_keys_is_told(exchange: Exchange, tmp_path: Path) -> None:
    auth.init(tmp_path / "others")
    receiver, sender = exchange.receiver(keys=keys()), exchange.sender(tmp_path / "others")
    sender.send(["forged"])
    assert eventually(lambda: receiver.receive(0) is None and sender._failure is not None)
    with pytest.raises(NotAdmitted, match="could not read a message"):
        sender.answers()


def test_an_answer_that_belongs_to_another_request_is_not_taken(exchange: Exchange) -> None:
    receiver, sender = exchange.receiver(keys=keys()), exchange.sender(keys())
    sender.send(["one"])
    sender.send(["two"])
    requests = [receiver.receive(LIMIT), receiver.receive(LIMIT)]
    place = redis_transport.RedisAddress.parse(exchange.address)
    with sender._client._lock, closing(redis.Redis(port=place.port)) as server:
        for request in requests:
            assert request is not None
            request.answer(["value"])
        receiver._client.settle_now()
        bodies = f"nearfar:{{{place.name}}}:bodies"
        (first, one), (second, two) = server.hgetall(bodies).items()
        server.hset(bodies, mapping={first: two, second: one})
    assert eventually(lambda: sender._failure is not None)
    with pytest.raises(NotAdmitted, match="belongs to another request"):
        sender.answers()


def test_a_name_that_a_queue_has_is_refused(exchange: Exchange) -> None:
    with (
        Queue(5, exchange.address, insecure=True),
        pytest.raises(QueueLost, match="choose another name"),
    ):
        exchange.receiver()


def test_no_program_hosts_it(tmp_path: Path) -> None:
    commands = Commands(tmp_path, redis_server.address())
    try:
        for program in ("consumer", "producer"):
            urls = ["http://127.0.0.1:9/"] if program == "producer" else []
            process = commands.start(program, "--bind", commands.address, *urls)
            _, said = process.communicate(timeout=LIMIT)
            assert process.returncode == Exit.USAGE
            assert f"use --queue {commands.address} in place of --bind" in said
    finally:
        commands.close()


def test_another_password_is_no_traceback(tmp_path: Path) -> None:
    with redis_server.running("--requirepass", "right") as server:
        commands = Commands(tmp_path, server.address("q").replace("//", "//:wrong-one@"))
        try:
            process = commands.start("producer", "--queue", commands.address, "http://127.0.0.1:9/")
            code, said = ended(process)
            assert code == Exit.UNTRUSTED and "1 left" in said
        finally:
            commands.close()
