"""Agents and clients of a coordinator: tasks run once, outcomes are reported, lost peers are detected."""

from __future__ import annotations

import pytest

from nearfar.coordinator.large_parts import AGENT, CLIENT, LARGE
from nearfar.coordinator.messages import VERSION, PoolFrame, PoolMessage, PoolMessageType
from nearfar.coordinator.remote_clients import RELEASE_EVERY
from nearfar.coordinator.task import TaskOutcome
from nearfar.errors import InitializerFailed, TaskTimeout, WorkerLost
from tests.coordinator.world import LEASE, FakeClient, World

pytestmark = pytest.mark.pure


@pytest.fixture
def world() -> World:
    return World()


def test_a_task_goes_to_an_agent_and_its_value_comes_back(world: World) -> None:
    world.agent()
    client = world.client()
    (number,) = client.submit(b"abc")
    world.run_all()
    assert client.value(number) == b"cba"
    assert world.peers.counts()["done"] == 1


def test_many_tasks_over_many_workers_are_each_run_once(world: World) -> None:
    agents = [world.agent("one", 2), world.agent("two", 3)]
    clients = [world.client("a"), world.client("b")]
    for client in clients:
        client.submit(*(b"%s %d" % (client.name.encode(), n) for n in range(100)))
    world.run_all()
    assert sorted(agents[0].ran + agents[1].ran) == sorted(
        b"%s %d" % (name, n) for name in (b"a", b"b") for n in range(100)
    )
    for client in clients:
        assert not client.pending and all(len(told) == 1 for told in client.outcomes.values())


def test_large_parts_come_through(world: World) -> None:
    world.agent()
    client = world.client()
    blob = bytes(range(256)) * 1000
    (number,) = client.submit(blob)
    world.run_all()
    assert client.value(number) == blob[::-1]


def test_an_error_is_sent_as_its_worker_pickled_it(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"abc")
    world.settle()
    agent.run("0.1", status=1)
    world.settle()
    assert client.outcomes[number] == [(TaskOutcome.ERROR, b"cba")]


def test_clients_receive_the_number_of_workers(world: World) -> None:
    client = world.client()
    assert client.workers == 0
    agent = world.agent(workers=3)
    assert client.workers == 3
    agent.end("0.2")
    world.settle()
    assert client.workers == 2


# -- loss ----------------------------------------------------------------------------------------------


def test_a_killed_worker_fails_the_task_it_ran_and_no_other(world: World) -> None:
    agent = world.agent()
    client = world.client()
    first, second = client.submit(b"1", b"2")
    world.settle()
    agent.read("0.1")
    agent.end("0.1")
    world.settle()
    error = client.error(first)
    assert isinstance(error, WorkerLost)
    assert (error.worker, error.host, error.pid) == ("agent/0.1", "elsewhere", 1001)
    agent.start()
    world.run_all()
    assert client.value(second) == b"2"


def test_tasks_sent_to_a_dead_worker_go_to_another(world: World) -> None:
    """Given tasks sent to a worker that died before it read them, I expect another to run them."""
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    client.act()
    agent.end("0.1")
    agent.start()
    world.run_all()
    assert client.value(number) == b"1"
    assert world.peers.counts()["lost"] == 0


def test_a_lost_task_with_retries_runs_again(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1", retries=1)
    world.settle()
    agent.read("0.1")
    agent.end("0.1")
    agent.start()
    world.run_all()
    assert client.value(number) == b"1"


def test_a_task_that_exceeds_its_timeout_is_killed(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1", timeout=3)
    world.settle()
    agent.read("0.1")
    world.pass_time(4)
    assert isinstance(client.error(number), TaskTimeout)
    assert "0.1" not in agent.unread


def test_a_silent_agent_is_lost_after_the_lease(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    agent.cut = True
    world.pass_time(LEASE - 2)
    assert number in client.pending
    world.pass_time(3)
    error = client.error(number)
    assert (
        isinstance(error, WorkerLost)
        and error.how == f"was lost with its agent: it was silent for {LEASE:g} s"
    )


def test_an_agent_that_was_lost_starts_again_with_new_workers(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (lost,) = client.submit(b"1")
    world.settle()
    agent.cut = True
    agent.read("0.1")
    world.pass_time(LEASE + 1)
    agent.run("0.1")
    agent.cut = False
    world.pass_time(LEASE)
    assert isinstance(client.error(lost), WorkerLost)
    assert list(world.coordinator.workers) == ["agent/0.2"]
    (number,) = client.submit(b"2")
    world.run_all()
    assert client.value(number) == b"2"


def test_a_short_silence_loses_nothing(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    agent.cut = True
    agent.run("0.1")
    world.pass_time(LEASE / 2)
    agent.cut = False
    world.pass_time(2)
    assert client.value(number) == b"1"


def test_a_suspended_coordinator_counts_no_peer_as_silent(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    world.now += 20 * LEASE
    world.peers.tick(world.now)
    world.settle()
    agent.run("0.1")
    world.settle()
    assert client.value(number) == b"1"


def test_a_process_seen_dead_is_lost_at_once(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    world.peers.table.dead(agent.socket, "process 77 ended", world.now)
    world.settle()
    error = client.error(number)
    assert isinstance(error, WorkerLost) and error.how == "was lost with its agent: process 77 ended"


# -- clients -------------------------------------------------------------------------------------------


def test_running_tasks_of_a_client_that_left_are_killed(world: World) -> None:
    agent = world.agent()
    client = world.client()
    client.submit(b"1", b"2")
    world.settle()
    agent.read("0.1")
    client.say(PoolMessageType.BYE)
    world.settle()
    assert client.parted
    assert "0.1" not in agent.unread
    assert world.peers.counts()["clients"] == 0
    world.run_all()
    assert agent.ran == []


def test_a_client_seen_dead_is_gone(world: World) -> None:
    agent = world.agent()
    client = world.client()
    client.submit(b"1")
    world.settle()
    world.clients.remove(client)
    world.peers.table.dead(client.socket, "process 5 ended", world.now)
    world.settle()
    assert "0.1" not in agent.unread


def test_a_client_that_was_away_for_a_lease_learns_that_what_had_begun_is_lost(world: World) -> None:
    agent = world.agent()
    client = world.client()
    begun, waiting = client.submit(b"1", b"2")
    world.settle()
    agent.read("0.1")
    client.cut = True
    world.pass_time(LEASE + 2)
    assert world.peers.counts()["clients"] == 0
    client.cut = False
    world.pass_time(LEASE)
    world.run_all()
    assert isinstance(client.error(begun), WorkerLost)
    assert client.value(waiting) == b"2"
    assert agent.ran == [b"2"]


def test_a_client_with_a_new_session_gets_missed_outcomes_and_no_task_runs_twice(world: World) -> None:
    agent = world.agent()
    client = world.client()
    missed, running, waiting = client.submit(b"1", b"2", b"3")
    world.settle()
    client.cut = True
    agent.run("0.1")
    world.settle()
    client.cut = False
    client.greet()
    world.run_all()
    assert [client.value(number) for number in (missed, running, waiting)] == [b"1", b"2", b"3"]
    assert agent.ran == [b"1", b"2", b"3"]


def test_an_outcome_between_hello_and_resubmission_is_sent_once(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    client.greet()
    agent.run("0.1")
    world.settle()
    world.run_all()
    assert client.value(number) == b"1"
    assert agent.ran == [b"1"]


# -- cancelling ----------------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled(world: World) -> None:
    client = world.client()
    (number,) = client.submit(b"1")
    client.say(PoolMessageType.CANCEL, number)
    world.settle()
    assert client.cancelled == {number: True}
    agent = world.agent()
    world.run_all()
    assert agent.ran == []


def test_a_running_task_is_not_cancelled(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    client.say(PoolMessageType.CANCEL, number)
    world.run_all()
    assert client.cancelled == {number: False}
    assert client.value(number) == b"1"
    assert agent.ran == [b"1"]


def stocked(world: World) -> tuple[object, ...]:
    """A worker with one batch that it runs, and another behind."""
    agent = world.agent()
    client = world.client()
    client.submit(b"0")
    world.settle()
    agent.read("0.1")
    agent.reading["0.1"].clear()
    agent.machine.answered("0.1", [(0, b"0", [])], 0.001, world.now)
    world.settle()
    numbers = client.submit(b"1", b"2")
    world.settle()
    assert len(agent.unread["0.1"]) == 2
    return agent, client, numbers


def test_an_unread_task_is_recalled_and_cancelled(world: World) -> None:
    agent, client, numbers = stocked(world)
    agent.read("0.1")
    client.say(PoolMessageType.CANCEL, numbers[1])
    world.settle()
    assert client.was_cancelled(numbers[1])
    world.run_all()
    assert client.value(numbers[0]) == b"1"
    assert agent.ran == [b"1"]


def test_a_task_read_in_the_meantime_is_not_cancelled(world: World) -> None:
    agent, client, numbers = stocked(world)
    agent.reading["0.1"].extend(row for batch in agent.unread["0.1"] for row in batch)
    agent.unread["0.1"].clear()
    client.say(PoolMessageType.CANCEL, numbers[1])
    world.settle()
    assert client.cancelled == {numbers[1]: False}
    world.run_all()
    assert client.value(numbers[1]) == b"2"


def test_unread_tasks_go_to_a_new_worker(world: World) -> None:
    agent, client, numbers = stocked(world)
    agent.read("0.1")
    agent.start()
    world.settle()
    assert agent.run("0.2")
    world.settle()
    assert client.value(numbers[1]) == b"2"


# -- initializers --------------------------------------------------------------------------------------


def test_an_initializer_runs_first_in_each_worker(world: World) -> None:
    agent = world.agent(workers=2)
    client = world.client(initializer=(b"m:init", b"init", []))
    client.submit(b"1", b"2", b"3")
    world.run_all()
    assert agent.ran.count(b"init") == 2 and len(agent.ran) == 5


def test_an_eager_initializer_runs_without_a_task(world: World) -> None:
    agent = world.agent(workers=2)
    world.client(initializer=(b"m:init", b"init", []), eager=True)
    world.run_all()
    assert agent.ran == [b"init"] * 2


def test_an_initializer_that_raises_breaks_its_client_with_its_error(world: World) -> None:
    agent = world.agent()
    client = world.client(initializer=(b"m:init", b"init", []))
    (number,) = client.submit(b"1")
    world.settle()
    agent.run("0.1", status=1)
    world.settle()
    error = client.error(number)
    assert isinstance(error, InitializerFailed) and error.args == (b"tini",)


# -- a restarted coordinator ---------------------------------------------------------------------------


def test_running_tasks_continue_over_a_restart(world: World) -> None:
    agent = world.agent()
    client = world.client()
    numbers = client.submit(b"1", b"2")
    world.settle()
    agent.read("0.1")
    world.restart()
    world.pass_time(LEASE / 2)
    assert list(agent.unread) == ["0.1"]
    agent.run("0.1")
    world.pass_time(LEASE)
    world.run_all()
    assert [client.value(number) for number in numbers] == [b"1", b"2"]
    assert agent.ran == [b"1", b"2"]


@pytest.mark.parametrize("first", ["agent", "client"])
def test_an_answer_without_a_coordinator_is_sent_to_the_next(world: World, first: str) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    world.up = False
    agent.run("0.1")
    world.settle()
    world.restart()
    late = agent if first == "client" else client
    late.cut = True
    world.pass_time(LEASE / 2)
    late.cut = False
    world.pass_time(LEASE)
    assert client.value(number) == b"1"
    assert agent.ran == [b"1"]


def test_an_answer_lost_with_the_coordinator_is_sent_again_by_the_agent(world: World) -> None:
    """Given an answer acked by a coordinator that died before its client had it, I expect no second run."""
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    client.cut = True
    agent.run("0.1")
    world.settle()
    assert world.peers.counts()["done"] == 1
    world.restart()
    client.cut = False
    world.pass_time(2 * LEASE)
    world.run_all()
    assert client.value(number) == b"1"
    assert agent.ran == [b"1"]


def test_answers_are_dropped_once_clients_have_them(world: World) -> None:
    agent = world.agent()
    client = world.client()
    client.submit(b"1", b"2")
    world.run_all()
    world.pass_time(1)  # for the client's ack
    world.pass_time(1)  # for company
    assert agent.machine.kept == {}


def test_large_or_many_answers_are_released_at_once(world: World) -> None:
    agent = world.agent()
    client = world.client()
    client.submit(bytes(LARGE + 1), b"1")
    world.run_all()
    world.pass_time(1)
    assert agent.machine.kept == {}
    client.submit(*[b"1"] * RELEASE_EVERY)
    world.run_all()
    world.pass_time(1)
    assert agent.machine.kept == {}


def test_unclaimed_tasks_run_again_after_a_lease(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    world.agents.remove(agent)
    world.restart()
    other = world.agent("other")
    world.pass_time(LEASE / 2)
    assert other.busy() == []
    world.pass_time(LEASE)
    world.run_all()
    assert client.value(number) == b"1"


def test_claimed_tasks_of_a_client_that_does_not_return_are_killed(world: World) -> None:
    agent = world.agent()
    client = world.client()
    client.submit(b"1")
    world.settle()
    world.clients.remove(client)
    world.restart()
    world.pass_time(LEASE / 2)
    assert agent.busy() == ["0.1"]
    world.pass_time(LEASE)
    assert agent.busy() == []
    assert world.peers.counts()["clients"] == 0
    assert agent.machine.kept == {}


def test_a_worker_that_died_without_a_coordinator_fails_its_task(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1")
    world.settle()
    world.up = False
    agent.read("0.1")
    agent.end("0.1")
    agent.start()
    world.settle()
    world.restart()
    world.pass_time(LEASE)
    assert isinstance(client.error(number), WorkerLost)


def test_a_timeout_holds_over_a_restart(world: World) -> None:
    agent = world.agent()
    client = world.client()
    (number,) = client.submit(b"1", timeout=5)
    world.settle()
    agent.read("0.1")
    world.restart()
    world.pass_time(LEASE + 6)
    assert isinstance(client.error(number), TaskTimeout)


def test_an_initializer_is_not_run_again_after_a_restart(world: World) -> None:
    agent = world.agent()
    client = world.client(initializer=(b"m:init", b"init", []))
    client.submit(b"1")
    world.run_all()
    world.restart()
    world.pass_time(LEASE)
    client.submit(b"2")
    world.run_all()
    assert agent.ran == [b"init", b"1", b"2"]


def bring(world: World, name: str, *messages: PoolMessage) -> None:
    """An agent begins a session, and sends these messages."""
    hello(world, f"{name}.1", AGENT, name)
    for number, message in enumerate(messages, 1):
        world.peers.receive(f"{name}.1", PoolFrame(number, 0, message), world.now)
    world.settle()


def came(name: str, *numbers: int) -> PoolMessage:
    """A worker comes with one batch of tasks of the client."""
    return PoolMessage(PoolMessageType.CAME, (f"{name}/0.1", 7, 0, [], [["client", list(numbers)]]))


def died(name: str, unread: int) -> PoolMessage:
    return PoolMessage(PoolMessageType.DIED, (f"{name}/0.1", "fell", unread, 1))


def answers(name: str) -> PoolMessage:
    return PoolMessage(PoolMessageType.ANSWERS, (f"{name}/0.1", 1, 0.1), [(0, b"value", [])])


def kept(number: int) -> PoolMessage:
    return PoolMessage(PoolMessageType.KEPT, (), [("client", number, 0, b"value", [])])


def submit_again(client: FakeClient) -> None:
    """The client has no outcome for task 1."""
    client.pending[1] = (1, 0, b"m:f", b"1", [], None, 0)
    client.say(PoolMessageType.SUBMIT, True, rows=list(client.pending.values()))
    client.world.settle()


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_an_unread_claim_does_not_hide_one_that_runs(world: World, when: str) -> None:
    client = world.client()
    if when == "before":
        submit_again(client)
    bring(world, "first", came("first", 1), died("first", 1))
    if when == "between":
        submit_again(client)
    bring(world, "second", came("second", 1), answers("second"))
    if when == "after":
        submit_again(client)
    world.agent()
    world.run_all()
    assert client.value(1) == b"value"


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_an_unread_claim_does_not_hide_an_answer(world: World, when: str) -> None:
    client = world.client()
    if when == "before":
        submit_again(client)
    bring(world, "first", came("first", 1), died("first", 1))
    if when == "between":
        submit_again(client)
    bring(world, "second", kept(1))
    if when == "after":
        submit_again(client)
    world.agent()
    world.run_all()
    assert client.value(1) == b"value"


def test_tasks_returned_unread_are_held_longer(world: World) -> None:
    """Given a claim whose worker had not read it, I expect others to be heard before it is run anew."""
    client = world.client()
    submit_again(client)
    agent = world.agent()
    bring(world, "first", came("first", 1), died("first", 1))
    world.pass_time(LEASE - 1)
    assert not agent.busy()
    world.pass_time(2)
    world.run_all()
    assert client.value(1) == b"1"


def test_held_tasks_can_be_cancelled(world: World) -> None:
    client = world.client()
    submit_again(client)
    client.say(PoolMessageType.CANCEL, 1)
    world.settle()
    assert client.cancelled == {}, "nobody knows yet whether it runs elsewhere"
    world.pass_time(LEASE)
    assert client.cancelled == {1: True}
    bring(world, "first", came("first", 1), died("first", 1))
    client.cancelled.clear()
    client.say(PoolMessageType.CANCEL, 1)
    world.settle()
    assert client.cancelled == {1: True}
    agent = world.agent()
    world.pass_time(LEASE + 1)
    assert not agent.busy()


def test_a_task_that_two_agents_run_has_one_outcome(world: World) -> None:
    client = world.client()
    submit_again(client)
    bring(world, "first", came("first", 1))
    bring(world, "second", came("second", 1), answers("second"))
    assert 1 in client.pending
    world.peers.receive("first.1", PoolFrame(2, 0, answers("first")), world.now)
    world.settle()
    assert client.value(1) == b"value"
    assert world.peers.counts()["stale"] == 1


def test_claimed_tasks_that_no_client_submits_are_dropped(world: World) -> None:
    client = world.client()
    bring(world, "first", came("first", 1), died("first", 1))
    world.pass_time(LEASE + 1)
    assert world.peers._remote_clients.all["client"].tasks == {}
    submit_again(client)
    world.agent()
    world.run_all()
    assert client.value(1) == b"1"


def test_a_client_that_returns_under_its_name_is_counted_from_zero(world: World) -> None:
    """Given work of a client that left, still with a worker, I expect it not to count for its next life."""
    agent = world.agent()
    client = world.client()
    client.submit(b"1")
    world.settle()
    agent.cut = True
    client.say(PoolMessageType.BYE)
    world.settle()
    again = world.client()
    agent.cut = False
    world.pass_time(2)
    (number,) = again.submit(b"2")
    world.run_all()
    assert again.value(number) == b"2"
    assert world.coordinator.book.clients["client"].given == 0


# -- leaving -------------------------------------------------------------------------------------------


def test_a_leaving_agent_answers_running_tasks_and_returns_the_others(world: World) -> None:
    agent, client, numbers = stocked(world)
    agent.read("0.1")
    agent.machine.leave()
    world.settle()
    assert world.peers.counts()["agents"] == 1
    agent.run("0.1")
    world.pass_time(3)
    assert agent.machine.stage.name == "CLOSED"
    assert world.peers.counts()["agents"] == 0
    assert client.value(numbers[0]) == b"1"
    world.agent("other")
    world.run_all()
    assert client.value(numbers[1]) == b"2"


# -- strangers and liars -------------------------------------------------------------------------------


def hello(world: World, socket: str, role: str, uid: str, version: int = VERSION) -> list[PoolMessage]:
    world.peers.receive(
        socket, PoolFrame(0, 0, PoolMessage(PoolMessageType.HELLO, (version, role, uid, {}))), world.now
    )
    return [envelope.message for _, envelope in world.peers.flush(world.now)]


def test_another_version_is_refused(world: World) -> None:
    (message,) = hello(world, "s", AGENT, "a", version=99)
    assert message.kind is PoolMessageType.REFUSED and "version" in message.fields[0]


def test_a_pools_own_coordinator_refuses_clients(world: World) -> None:
    world.peers._clients = False
    (message,) = hello(world, "s", CLIENT, "c")
    assert message.kind is PoolMessageType.REFUSED


def test_answers_from_an_unknown_session_are_counted(world: World) -> None:
    answers = PoolMessage(PoolMessageType.ANSWERS, ("x/0.1", 1, 0.1), [(0, b"", []), (0, b"", [])])
    world.peers.receive("nobody", PoolFrame(1, 0, answers), world.now)
    ((socket, envelope),) = world.peers.flush(world.now)
    assert (socket, envelope.message.kind) == ("nobody", PoolMessageType.STRANGER)
    assert world.peers.counts()["stale"] == 2


@pytest.mark.parametrize(
    "lie",
    [
        PoolMessage(PoolMessageType.CAME, ("other/0.1", 1, 0, [], [])),
        PoolMessage(PoolMessageType.CAME, ("agent/0.1", 1, 0, [], [])),
        PoolMessage(PoolMessageType.ANSWERS, ("agent/0.1", 1, 0.1), [(0, b"", [])]),
        PoolMessage(PoolMessageType.ANSWERS, ("agent/0.1", 9, 0.1), [(0, b"", [])]),
        PoolMessage(PoolMessageType.DIED, ("agent/0.1", "fell", 3, 0)),
        PoolMessage(PoolMessageType.DIED, ("agent/0.1", "fell", 0, 3)),
        PoolMessage(PoolMessageType.RETURNED, ("agent/0.1", 3)),
        PoolMessage(PoolMessageType.SUBMIT, (False,), []),
    ],
)
def test_a_contradictory_message_ends_only_its_session(world: World, lie: PoolMessage) -> None:
    agent = world.agent()
    assert agent.machine.calling.talk is not None
    agent.machine.calling.talk.send(lie, world.now)
    world.settle()
    world.pass_time(1)
    assert world.peers.table.malformed == 1
    client = world.client()
    (number,) = client.submit(b"1")
    world.run_all()
    assert client.value(number) == b"1"


def test_the_status_shows_what_each_worker_runs(world: World) -> None:
    agent = world.agent(workers=2)
    client = world.client()
    client.submit(b"1")
    world.settle()
    world.now += 3
    world.peers.receive("asker", PoolFrame(0, 0, PoolMessage(PoolMessageType.QUERY)), world.now)
    (status,) = [e.message for name, e in world.peers.flush(world.now) if name == "asker"]
    assert status.fields[0]["workers"] == 2 and status.fields[0]["running"] == 1
    assert sorted(status.rows or ()) == [
        ("agent/0.1", "elsewhere", 1001, 0, "m:f", 3.0),
        ("agent/0.2", "elsewhere", 1002, 0, "", 0.0),
    ]
    assert agent.busy() == ["0.1"]


def test_different_pythons_of_clients_and_workers_are_reported_once(world: World) -> None:
    def hello(role: str, uid: str, python: str) -> None:
        about = {"python": f"Python {python}", "bytecode": f"CPython-{python}"}
        fields = (VERSION, role, uid, about)
        world.peers.receive(
            f"{uid}.1", PoolFrame(0, 0, PoolMessage(PoolMessageType.HELLO, fields)), world.now
        )

    hello(CLIENT, "one", "3.11")
    hello(AGENT, "two", "3.11")
    assert world.peers.take_notices() == []
    hello(AGENT, "three", "3.13")
    (notice,) = world.peers.take_notices()
    assert "agent three runs Python 3.13, others run Python 3.11" in notice
    hello(AGENT, "four", "3.13")
    hello(CLIENT, "five", "3.11")
    assert world.peers.take_notices() == []


def test_peers_that_do_not_report_their_python_are_admitted(world: World) -> None:
    world.agent()
    world.client()
    assert world.peers.take_notices() == []
