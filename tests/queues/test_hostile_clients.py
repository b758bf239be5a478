"""For any messages of clients, a host continues, its ledger is consistent, and honest clients are served."""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearfar.net.frames import WrongHello
from nearfar.net.reliable import FURTHEST_AHEAD, HEAVIEST_AHEAD, MESSAGE_WEIGHS, ReceiveWindow
from nearfar.net.session import SendTo
from nearfar.queues import messages as wire
from nearfar.queues.broker.ledger import Ledger
from nearfar.queues.broker.protocol import BrokerProtocol
from nearfar.queues.broker.sessions import MOST_HEAVY, MOST_JOINS, MOST_ROUNDS, Action
from nearfar.queues.messages import MOST_TAGS, VERSION, QueueFrame, QueueMessage, QueueMessageType
from tests.queues.hostile import Hostile
from tests.queues.ledger_check import body_of, check
from tests.queues.simulation import SimConsumer, SteadyProducer, World

pytestmark = pytest.mark.pure

LEASE = 10.0
MOST = (1 << 63) - 1


def run_hostile(random: Random, words: int, **options: int) -> None:
    """Only hostile clients: nothing is raised, all answers can be sent, and the ledger is consistent."""
    ledger = Ledger(max_attempts=2, **options)
    machine = BrokerProtocol(ledger, {"epoch": "e"}, lease=LEASE)
    hostile = Hostile(random, consumes=True, shuts=True)
    now = 0.0
    for _ in range(words):
        now += random.choice([0.0, 0.0, 0.01, 0.5, 3.0])
        machine.receive(*hostile.word(), now)
        if random.random() < 0.2:
            machine.tick(now)
        act(machine, now)
        check(ledger, honest=False)
    assert ledger.size <= (options.get("maxsize") or ledger.size)
    assert ledger.size_bytes <= (options.get("maxbytes") or ledger.size_bytes)
    for _ in range(8):  # step by step: a gap of a lease would count as a suspension of the broker
        now += LEASE / 4
        machine.tick(now)
        act(machine, now)
    assert not machine.peers and not ledger.consumers


def act(machine: BrokerProtocol, now: float) -> list[Action]:
    actions = machine.flush(now)
    for action in actions:
        if isinstance(action, SendTo):
            wire.unpack(
                wire.pack(*action.envelope)
            ) if action.envelope.message.kind is not QueueMessageType.WELCOME else None
        elif hasattr(action, "ask"):
            machine.lane_opened(action.session, action.ask, 5, now)
    return actions


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.sampled_from([{}, {"maxsize": 6}, {"maxbytes": 60}]))
def test_any_messages_in_any_order(random: Random, options: dict[str, int]) -> None:
    run_hostile(random, 60, **options)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_very_many_messages() -> None:
    seed = int(os.environ.get("NEARFAR_SEED", "0")) or Random().randrange(1 << 32)
    print(f"NEARFAR_SEED={seed}")
    random = Random(seed)
    for _ in range(200):
        run_hostile(random, 600, **random.choice([{}, {"maxsize": 6}, {"maxbytes": 60}]))


@pytest.mark.parametrize("seed", range(6))
def test_honest_clients_are_served_beside_hostile_ones(seed: int) -> None:
    """Given clients that send anything but "I consume", I expect each honest item done once, and no other
    to have reported on it, taken its producer's place, or put in its name."""
    world = World(seed, loss=0.03, expected=99)
    producers = [SteadyProducer(world, f"producer-{n}") for n in range(2)]
    for producer in producers:
        producer.count = 60
    takers = [SimConsumer(world, f"consumer-{n}") for n in range(2)]
    names = tuple(world.ends)
    hostile = Hostile(world.random, names, consumes=False, shuts=False)

    def attack() -> None:
        for _ in range(3):
            world.host.machine.receive(*hostile.word(), world.now)
            world.host.machine.table.take_complaints()
            check(world.host.ledger)
        world.host._act()
        world.later(0.02, attack)

    world.run(until=lambda: world.host.machine.table._names.keys() >= set(names), most=60.0)
    attack()

    def done() -> Counter[tuple[str, int]]:
        return Counter(item for taker in takers for item in taker.done if type(item) is tuple)

    world.run(until=lambda: sum(done().values()) >= 120, most=600.0)
    assert done() == Counter({(p.name, n): 1 for p in producers for n in range(1, 61)})


class Story:
    """A broker, and one client that sends what the test tells it to."""

    def __init__(self, **options: int) -> None:
        self.ledger = Ledger(**options)
        self.machine = BrokerProtocol(self.ledger, {}, lease=LEASE, most_peers=2)
        self.said = 0
        self.hello("end.x.1", "end")

    def hello(self, session: str, uid: str, version: int = VERSION) -> list[QueueMessage]:
        return self.receive(
            session, QueueFrame(0, 0, QueueMessage(QueueMessageType.HELLO, (version, uid, {})))
        )

    def receive(self, session: str, envelope: QueueFrame) -> list[QueueMessage]:
        self.machine.receive(session, envelope, 0.0)
        return [a.envelope.message for a in act(self.machine, 0.0) if isinstance(a, SendTo)]

    def say(self, kind: QueueMessageType, *fields: object, body: bytes | None = None) -> list[QueueMessage]:
        self.said += 1
        return self.receive("end.x.1", QueueFrame(self.said, 0, QueueMessage(kind, fields, body)))

    def refused(self, messages: list[QueueMessage]) -> str:
        (why,) = [message.fields[0] for message in messages if message.kind is QueueMessageType.REFUSED]
        return str(why)


def test_items_beyond_the_bound_end_the_session() -> None:
    story = Story(maxsize=2)
    story.say(QueueMessageType.JOIN, True, False, [], False)
    story.say(QueueMessageType.NEED, 5, 0, 0, 0, 0, 0)
    assert "puts 3 items, with room for 2" in story.refused(
        story.say(QueueMessageType.PUT, 1, 3, None, body=body_of(range(3)))
    )
    assert (
        story.ledger.size == 0 and not story.machine.peers and len(story.machine.table.take_complaints()) == 1
    )


def test_bytes_beyond_the_bound_end_the_session() -> None:
    story = Story(maxbytes=10)
    story.say(QueueMessageType.JOIN, True, False, [], False)
    story.say(QueueMessageType.NEED, 5, 4, 4, 0, 0, 0)
    body = body_of([b"123456789"])  # one byte more than there is room in the queue
    assert "with room for 10" in story.refused(story.say(QueueMessageType.PUT, 1, 1, None, body=body))


def test_a_report_on_what_was_never_lent_ends_the_session_and_counts_nothing() -> None:
    """Given a range as long as numbers go, I expect no sum of it to grow beyond what can be sent."""
    story = Story()
    story.say(QueueMessageType.JOIN, False, True, [], False)
    report = (1, 1, 0, 0, [[1, MOST]], [], [], [], [])
    assert "but was lent only" in story.refused(story.say(QueueMessageType.REPORT, *report))
    assert story.ledger.late == 0


def test_late_reports_of_strangers_never_overflow_a_figure() -> None:
    story = Story()
    for session in ("nobody.1", "nobody.2", "nobody.3"):
        story.receive(
            session,
            QueueFrame(
                1,
                0,
                QueueMessage(QueueMessageType.REPORT, (1, 1, 0, 0, [[1, MOST]], [[1, MOST]], [], [], [])),
            ),
        )
    (answer,) = story.say(QueueMessageType.ASK, 1, "counts", None)
    assert answer.fields[1]["late"] == MOST


def test_no_peer_can_take_over_another_ones_name() -> None:
    story = Story()
    assert "another peer has this name" in story.refused(story.hello("thief.y.1", "end"))
    assert "end.x.1" in story.machine.peers
    (welcome,) = story.hello("end.x.2", "end")
    assert welcome.kind is QueueMessageType.WELCOME and list(story.machine.peers) == ["end.x.2"]


def test_the_number_of_clients_is_limited() -> None:
    story = Story()
    assert story.hello("two.x.1", "two")[0].kind is QueueMessageType.WELCOME
    assert "as many as there may be" in story.refused(story.hello("three.x.1", "three"))
    for second in range(int(LEASE) + 1):
        story.machine.tick(second + 1.0)  # silent ones make room
    assert story.hello("three.x.1", "three")[0].kind is QueueMessageType.WELCOME
    assert story.machine.counts()["refused"] == 1


def test_another_version_is_refused_whatever_its_hello_looks_like() -> None:
    story = Story()
    why = story.refused(story.hello("new.x.1", "new", version=VERSION + 1))
    assert f"the host uses version {VERSION} of the protocol, this client version {VERSION + 1}" == why
    strange = wire.pack(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION + 1, {"all": "new"})))
    with pytest.raises(WrongHello) as error:
        wire.unpack(strange)
    assert error.value.why == why
    with pytest.raises(WrongHello) as error:
        wire.unpack(wire.pack(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION, "agent", "name", {}))))
    assert "there is a queue here" in error.value.why


def test_too_many_questions_at_a_time_end_the_session() -> None:
    story = Story()
    story.hello("other.x.1", "other")
    story.receive(
        "other.x.1", QueueFrame(1, 0, QueueMessage(QueueMessageType.JOIN, (True, False, [], False)))
    )
    for ask in range(1, MOST_ROUNDS + 1):
        assert not [
            m
            for m in story.say(QueueMessageType.ASK, ask, "size", None)
            if m.kind is QueueMessageType.REFUSED
        ]
    assert "at a time" in story.refused(story.say(QueueMessageType.ASK, MOST_ROUNDS + 1, "size", None))


def test_too_many_joins_and_dead_letter_requests_end_the_session() -> None:
    story = Story()
    story.say(QueueMessageType.JOIN, True, False, [], False)
    story.say(QueueMessageType.PUT, 1, 1, None, body=body_of([1]))
    for ask in range(1, MOST_JOINS + 1):
        story.say(QueueMessageType.ASK, ask, "join", None)
    assert "joins more" in story.refused(story.say(QueueMessageType.ASK, MOST_JOINS + 1, "join", None))
    story = Story()
    for ask in range(1, MOST_HEAVY + 1):
        story.say(QueueMessageType.ASK, ask, "dead letters", None)
    assert "does not take them" in story.refused(
        story.say(QueueMessageType.ASK, MOST_HEAVY + 1, "dead letters", None)
    )


def test_names_of_consumers_always_fit_into_their_message() -> None:
    """Given more names than fit into a message to the producers, I expect no producer to get one that it
    could not read: it would wait for that message for ever."""
    machine = BrokerProtocol(Ledger(), {}, lease=LEASE)
    for n in range(200):
        session = f"c{n}.x.1"
        machine.receive(
            session, QueueFrame(0, 0, QueueMessage(QueueMessageType.HELLO, (VERSION, f"c{n}", {}))), 0.0
        )
        tags = [f"{n}-{tag}-" + "\U0001f984" * 180 for tag in range(MOST_TAGS)]
        machine.receive(
            session, QueueFrame(1, 0, QueueMessage(QueueMessageType.JOIN, (True, True, tags, False))), 0.0
        )
        act(machine, 0.0)
    assert machine.table.take_complaints()


def test_a_client_that_never_acks_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearfar.net.reliable.MOST_UNACKED", 100)
    story = Story()
    for ask in range(1, 102):
        story.machine.receive(
            "end.x.1", QueueFrame(ask, 0, QueueMessage(QueueMessageType.ASK, (ask, "fence", None))), 0.0
        )
    story.machine.tick(0.0)
    assert not story.machine.peers


def test_early_messages_take_a_bounded_amount_of_memory() -> None:
    line: ReceiveWindow[bytes] = ReceiveWindow(len)
    body = bytes(1 << 20)
    for number in range(2, FURTHEST_AHEAD):
        line.accept(number, body)
    assert len(line.early) <= HEAVIEST_AHEAD // len(body)
    assert line._weight <= HEAVIEST_AHEAD
    assert len(line.accept(1, b"")) == 1 + HEAVIEST_AHEAD // (len(body) + MESSAGE_WEIGHS)
    assert line._weight == 0
