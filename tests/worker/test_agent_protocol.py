"""The agent's protocol: what it forwards, keeps and kills, and when it closes."""

from __future__ import annotations

from typing import Any

import pytest

from nearfar.coordinator.large_parts import AGENT, Row
from nearfar.coordinator.messages import FAREWELL, PoolFrame, PoolMessage, PoolMessageType
from nearfar.coordinator.sessions import client_session
from nearfar.coordinator.task import Mode, TaskStatus
from nearfar.net.session import GREET_EVERY, Connect, SendMessage, SessionStage
from nearfar.worker.agent_protocol import Action, AgentProtocol, AssignBatch, Kill, Retire, RevokeBatch

pytestmark = pytest.mark.pure

LEASE = 10.0
WAIT = 60.0


class Story:
    """An agent's protocol, its actions, and the coordinator's messages to it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.machine = AgentProtocol("agent", {"host": "here"}, wait=WAIT)
        self.said = 0
        self.heard = 0

    def live(self, seconds: float) -> None:
        """Let time pass, in which this process is not suspended."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + LEASE / 8)
            self.machine.tick(self.now)

    def flush(self) -> list[Action]:
        actions = self.machine.flush(self.now)
        for action in actions:
            if isinstance(action, SendMessage) and action.envelope.number:
                self.heard = max(self.heard, action.envelope.number)
        return actions

    def words(self) -> list[tuple[Any, ...]]:
        """Its messages without heartbeats."""
        return [
            (message.kind, *message.fields, *([message.rows] if message.rows is not None else []))
            for action in self.flush()
            if isinstance(action, SendMessage)
            and (message := action.envelope.message).kind is not PoolMessageType.HEARTBEAT
        ]

    def deeds(self) -> list[Action]:
        """Its actions other than messages."""
        return [action for action in self.flush() if not isinstance(action, SendMessage)]

    def hear(self, kind: PoolMessageType, *fields: Any, rows: list[Row] | None = None, ack: int = 0) -> None:
        self.said += 1
        self.machine.receive(PoolFrame(self.said, ack, PoolMessage(kind, fields, rows)), self.now)

    def loose(self, kind: PoolMessageType, *fields: Any) -> None:
        self.machine.receive(PoolFrame(0, 0, PoolMessage(kind, fields)), self.now)

    def welcome(self, epoch: str = "one") -> None:
        self.said = self.heard = 0
        facts = {"epoch": epoch, "lease": LEASE, "workers": 0}
        self.loose(PoolMessageType.WELCOME, self.machine.session_name, facts)

    def meet(self, workers: int = 1) -> None:
        self.machine.connect(self.now)
        self.welcome()
        for serial in range(workers):
            self.machine.came(f"0.{serial + 1}", 41 + serial, self.now)
        self.flush()

    def work(self, *numbers: int, worker: str = "0.1", mode: Mode = Mode.CALL) -> None:
        rows: list[Row] = [(number, mode, b"m:f", b"%d" % number, []) for number in numbers]
        self.hear(PoolMessageType.WORK, f"agent/{worker}", "client", rows=rows)

    def answer(self, *numbers: int, worker: str = "0.1", status: TaskStatus = TaskStatus.VALUE) -> None:
        rows = [(status, b"-%d" % number, []) for number in numbers]
        self.machine.answered(worker, rows, 1.0, self.now)

    def another(self, epoch: str) -> None:
        """The coordinator does not know its session any more, and then welcomes it."""
        self.loose(PoolMessageType.STRANGER)
        self.welcome(epoch)


@pytest.fixture
def story() -> Story:
    return Story()


def test_it_sends_hello_until_welcome(story: Story) -> None:
    story.machine.connect(story.now)
    connect, hello = story.flush()
    assert connect == Connect("agent.1")
    assert isinstance(hello, SendMessage) and hello.envelope.message.kind is PoolMessageType.HELLO
    assert hello.envelope.message.fields[1:] == (AGENT, "agent", {"host": "here"})
    story.now += GREET_EVERY
    assert story.machine.deadline(story.now) <= story.now
    story.machine.tick(story.now)
    assert [word[0] for word in story.words()] == [PoolMessageType.HELLO]
    story.welcome()
    story.now += GREET_EVERY
    story.machine.tick(story.now)
    assert story.words() == []


def test_a_welcome_of_another_session_is_ignored(story: Story) -> None:
    story.machine.connect(story.now)
    story.loose(PoolMessageType.WELCOME, "agent.0", {"epoch": "e", "lease": 1, "workers": 0})
    assert story.machine.stage is SessionStage.GREETING


def test_workers_that_came_before_the_welcome_are_reported(story: Story) -> None:
    story.machine.connect(story.now)
    story.machine.came("0.1", 41, story.now)
    story.flush()
    story.welcome()
    story.machine.came("1.1", 42, story.now)
    assert story.words() == [
        (PoolMessageType.CAME, "agent/0.1", 41, 0, [], []),
        (PoolMessageType.CAME, "agent/1.1", 42, 0, [], []),
    ]


def test_tasks_go_to_their_worker_and_answers_return(story: Story) -> None:
    story.meet()
    story.work(5, 6)
    assert story.deeds() == [
        AssignBatch("0.1", "client", [(5, 0, b"m:f", b"5", []), (6, 0, b"m:f", b"6", [])]),
    ]
    story.answer(5)
    story.answer(6)
    assert story.words() == [
        (PoolMessageType.ANSWERS, "agent/0.1", 1, 1.0, [(0, b"-5", [])]),
        (PoolMessageType.ANSWERS, "agent/0.1", 2, 1.0, [(0, b"-6", [])]),
    ]


@pytest.mark.parametrize(("status", "prepared"), [(TaskStatus.VALUE, ["client"]), (TaskStatus.ERROR, [])])
def test_only_an_initializer_that_has_run_counts_for_the_next_coordinator(
    story: Story, status: TaskStatus, prepared: list[str]
) -> None:
    """Given a worker that refused one and lives, I expect no coordinator to count it as prepared."""
    story.meet()
    story.work(0, mode=Mode.PREPARE)
    story.answer(0, status=status)
    story.flush()
    story.another("two")
    assert (PoolMessageType.CAME, "agent/0.1", 41, 1, prepared, []) in story.words()


def test_orders_reach_the_supervisor(story: Story) -> None:
    story.meet(2)
    story.hear(PoolMessageType.RECALL, "agent/0.1")
    story.hear(PoolMessageType.KILL, "agent/0.1")
    story.hear(PoolMessageType.RETIRE, "agent/0.2")
    assert story.deeds() == [RevokeBatch("0.1"), Kill("0.1"), Retire("0.2")]


def test_returned_batches_are_reported(story: Story) -> None:
    story.meet()
    story.work(1)
    story.work(2)
    story.machine.returned("0.1", 1, story.now)
    assert (PoolMessageType.RETURNED, "agent/0.1", 1) in story.words()
    story.another("two")
    assert (PoolMessageType.CAME, "agent/0.1", 41, 0, [], [["client", [1]]]) in story.words()


def test_a_death_is_reported_with_the_batches_given(story: Story) -> None:
    story.meet()
    story.work(1)
    story.work(2)
    story.machine.died("0.1", "killed by SIGKILL", 1, story.now)
    assert (PoolMessageType.DIED, "agent/0.1", "killed by SIGKILL", 1, 2) in story.words()
    story.work(3)
    assert story.deeds() == []


def test_the_death_of_an_unreported_worker_is_not_reported(story: Story) -> None:
    story.meet(0)
    story.machine.died("0.1", "exited with code 1", 0, story.now)
    assert story.words() == []


def test_the_socket_to_a_silent_coordinator_is_replaced_in_the_same_session(story: Story) -> None:
    story.meet()
    story.work(1)
    story.flush()
    story.live(LEASE / 4)
    assert story.deeds() == [] and story.machine.away(story.now) == 0
    story.live(LEASE / 4)
    assert story.deeds() == [] and story.machine.away(story.now) == LEASE / 2
    story.live(LEASE / 2)
    assert story.deeds() == [Connect("agent.1")]
    assert story.machine.away(story.now) == LEASE
    story.hear(PoolMessageType.RECALL, "agent/0.1")
    assert story.deeds() == [RevokeBatch("0.1")]
    assert story.machine.away(story.now) == 0


def test_an_agent_counted_as_dead_kills_its_known_workers_and_starts_again(story: Story) -> None:
    story.meet()
    story.work(1, 2)
    story.answer(1)
    story.flush()
    story.loose(PoolMessageType.STRANGER)
    story.machine.came("9.1", 99, story.now)
    story.flush()
    story.welcome("one")
    actions = story.flush()
    assert Kill("0.1") in actions
    told = [action.envelope.message for action in actions if isinstance(action, SendMessage)]
    assert [(each.kind, each.fields[0]) for each in told] == [(PoolMessageType.CAME, "agent/9.1")]
    story.answer(2)
    assert story.machine.stale == 1
    story.machine.died("0.1", "killed by SIGKILL", 0, story.now)
    assert story.words() == []


def test_another_coordinator_gets_running_and_answered_tasks(story: Story) -> None:
    story.meet()
    story.work(0, mode=Mode.PREPARE)
    story.answer(0)
    story.work(1, 2)
    story.work(3)
    story.answer(1)
    story.flush()
    story.another("two")
    actions = story.flush()
    assert Kill("0.1") not in actions
    told = [action.envelope.message for action in actions if isinstance(action, SendMessage)]
    assert [
        (each.kind, each.fields, each.rows) for each in told if each.kind is not PoolMessageType.HELLO
    ] == [
        (PoolMessageType.CAME, ("agent/0.1", 41, 2, ["client"], [["client", [2]], ["client", [3]]]), None),
        (PoolMessageType.KEPT, (), [("client", 1, 0, b"-1", [])]),
    ]
    story.answer(2)
    assert (PoolMessageType.ANSWERS, "agent/0.1", 3, 1.0, [(0, b"-2", [])]) in story.words()


def test_answers_are_kept_until_they_are_released(story: Story) -> None:
    story.meet()
    story.work(1, 2, 3)
    story.answer(1, 2, 3)
    story.flush()
    story.hear(PoolMessageType.RELEASE, [["client", [1, 3]], ["other", [2]]], ack=story.heard)
    assert story.machine.kept == {"client": {2: (0, b"-2", [])}}
    story.another("two")
    assert (PoolMessageType.KEPT, [("client", 2, 0, b"-2", [])]) in story.words()


def test_a_death_without_a_coordinator_is_reported_to_the_next(story: Story) -> None:
    story.meet()
    story.work(1)
    story.work(2)
    story.flush()
    story.loose(PoolMessageType.STRANGER)
    story.machine.died("0.1", "killed by SIGKILL", 1, story.now)
    story.flush()
    story.welcome("two")
    assert story.words() == [
        (PoolMessageType.CAME, "agent/0.1", 41, 0, [], [["client", [1]], ["client", [2]]]),
        (PoolMessageType.DIED, "agent/0.1", "killed by SIGKILL", 1, 2),
    ]


def test_an_acked_death_is_forgotten(story: Story) -> None:
    story.meet()
    story.work(1)
    story.machine.died("0.1", "killed by SIGKILL", 0, story.now)
    story.flush()
    story.machine.receive(PoolFrame(0, story.heard, PoolMessage(PoolMessageType.HEARTBEAT)), story.now)
    story.another("two")
    assert [word[0] for word in story.words()] == [PoolMessageType.HELLO]


def test_a_refusal_ends_the_session_for_good(story: Story) -> None:
    story.machine.connect(story.now)
    story.loose(PoolMessageType.REFUSED, "another version")
    assert story.machine.stage is SessionStage.CLOSED and story.machine.refused == "another version"


# -- leaving -------------------------------------------------------------------------------------------


def test_it_closes_once_its_workers_are_retired_and_its_answers_are_acked(story: Story) -> None:
    story.meet()
    story.work(1)
    story.flush()
    story.machine.leave()
    assert story.words() == [(PoolMessageType.LEAVING,)]
    story.answer(1)
    assert [word[0] for word in story.words()] == [PoolMessageType.ANSWERS]
    story.hear(PoolMessageType.RETIRE, "agent/0.1")
    assert story.deeds() == [Retire("0.1")]
    story.hear(PoolMessageType.RELEASE, [["client", [1]]])
    assert story.words() == [(PoolMessageType.BYE,)]
    story.hear(PoolMessageType.PART)
    assert story.machine.stage is SessionStage.CLOSED


def test_a_worker_that_comes_while_it_leaves_is_not_reported(story: Story) -> None:
    story.meet()
    story.machine.leave()
    story.flush()
    story.machine.came("0.2", 43, story.now)
    assert story.words() == []


def test_the_next_coordinator_learns_that_it_leaves(story: Story) -> None:
    story.meet()
    story.work(1)
    story.machine.leave()
    story.flush()
    story.another("two")
    assert [word[0] for word in story.words()] == [
        PoolMessageType.HELLO,
        PoolMessageType.CAME,
        PoolMessageType.LEAVING,
    ]


def test_aborting_kills_running_workers_and_reports_them(story: Story) -> None:
    story.meet()
    story.work(1)
    story.flush()
    story.machine.abort()
    assert story.deeds() == [Kill("0.1")]
    story.machine.died("0.1", "killed by SIGKILL", 0, story.now)
    assert [word[0] for word in story.words()] == [PoolMessageType.DIED]
    story.machine.receive(PoolFrame(0, story.heard, PoolMessage(PoolMessageType.HEARTBEAT)), story.now)
    assert story.words() == [(PoolMessageType.BYE,)]


def test_with_nothing_to_report_it_closes_without_a_coordinator(story: Story) -> None:
    story.machine.connect(story.now)
    story.machine.leave()
    story.flush()
    assert story.machine.stage is SessionStage.CLOSED


def test_with_something_to_report_it_waits_for_a_coordinator(story: Story) -> None:
    story.meet()
    story.work(1)
    story.answer(1)
    story.hear(PoolMessageType.RETIRE, "agent/0.1")
    story.loose(PoolMessageType.STRANGER)
    story.machine.leave()
    story.flush()
    assert story.machine.stage is SessionStage.GREETING


def test_its_own_suspension_does_not_count_as_silence(story: Story) -> None:
    """Given an agent that was stopped for minutes, I expect it not to count its coordinator as lost."""
    story.meet()
    story.now += 1000.0
    story.machine.tick(story.now)
    assert story.machine.away(story.now) == 0.0 and not story.machine.lost(story.now)


def test_a_coordinator_is_lost_after_the_wait(story: Story) -> None:
    story.meet()
    story.live(WAIT - LEASE / 8)
    assert not story.machine.lost(story.now)
    story.live(LEASE / 8)
    assert story.machine.lost(story.now)


def test_an_idle_agent_closes_without_an_answer_of_a_silent_coordinator(story: Story) -> None:
    story.meet()
    story.machine.leave()
    assert (PoolMessageType.LEAVING,) in story.words()
    story.live(LEASE / 4)
    assert story.flush() is not None and story.machine.stage is SessionStage.OPEN
    story.live(LEASE / 4)
    story.flush()
    assert story.machine.stage is SessionStage.CLOSED


@pytest.mark.parametrize("answered", [False, True])
def test_a_busy_agent_does_not_close_before_a_coordinator_has_its_answer(
    story: Story, answered: bool
) -> None:
    story.meet()
    story.work(1)
    if answered:
        story.answer(1)
    story.machine.leave()
    story.live(LEASE)
    story.flush()
    assert story.machine.stage is SessionStage.OPEN


@pytest.mark.parametrize("lease", [1.0, 20.0])
def test_a_short_wait_is_kept_without_a_busy_loop(lease: float) -> None:
    """Given half a lease or more to wait, I expect neither more, nor deadlines that have passed."""
    calling = client_session(AGENT, "agent", {}, wait=10.0)
    calling.begin(0.0)
    assert calling.welcome("agent.1", lease, 0.0)
    now, turns = 0.0, 0
    while not calling.lost(now):
        assert calling.deadline(now) > now
        now = calling.deadline(now)
        calling.tick(now)
        calling.flush(now)
        turns += 1
    assert now == 10.0
    assert turns < 100


def test_an_idle_agent_with_acked_answers_leaves_a_dead_coordinator_within_seconds(
    story: Story,
) -> None:
    """Given acked answers that a coordinator had not released before it died, I expect them not to delay an
    agent that must leave."""
    story.meet()
    story.work(1)
    story.answer(1)
    story.flush()
    story.hear(PoolMessageType.WORKERS, 1, ack=story.heard)  # any word: it acks the answer
    story.machine.leave()
    story.flush()
    story.live(FAREWELL + 0.1)
    story.flush()
    assert story.machine.kept
    assert story.machine.stage is SessionStage.CLOSED
