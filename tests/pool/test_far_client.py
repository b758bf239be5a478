"""A client of a remote coordinator."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

import pytest

from nearfar.coordinator import messages
from nearfar.coordinator import task as failures
from nearfar.coordinator.large_parts import CLIENT, Row
from nearfar.coordinator.messages import PoolChannel, PoolFrame, PoolMessage, PoolMessageType, open_channel
from nearfar.coordinator.task import Mode, Task, TaskOutcome, TaskState, Unread
from nearfar.errors import CoordinatorLost, InitializerFailed, PoolBroken, ProtocolError, WorkerLost
from nearfar.net.session import GREET_EVERY, Connect, SendMessage, SessionStage
from nearfar.pool.far_client import FEW_EACH, GATHER, TALKATIVE, WINDOW, WINDOW_BYTES, WINDOW_EACH, FarClient

pytestmark = pytest.mark.pure

LEASE = 10.0


class Call(Task):
    """A task that carries `blob`."""

    def __init__(self, blob: bytes = b"x", buffers: tuple[bytes, ...] = ()) -> None:
        self.function, self.mode, self.blob, self.buffers = b"m:f", Mode.CALL, blob, buffers
        self.state = TaskState.NEW


class Story:
    """A client, and a coordinator whose messages the test chooses."""

    def __init__(self, **options: Any) -> None:
        self.now = 100.0
        self.machine = FarClient("me", {"host": "here", "pid": 1}, **options)
        self.talk: PoolChannel | None = None
        self.heard: list[PoolMessage] = []
        self.connected: list[str] = []
        self.hellos = 0
        self.cut = False

    def open(self, workers: int = 2) -> Story:
        self.machine.connect(self.now)
        self.turn()
        self.welcome(workers)
        return self

    def welcome(self, workers: int = 2, epoch: str = "one") -> None:
        self.talk = open_channel(LEASE, self.now)
        facts = {"epoch": epoch, "lease": LEASE, "workers": workers}
        self.loose(PoolMessageType.WELCOME, self.machine.session_name, facts)

    def loose(self, kind: PoolMessageType, *fields: Any) -> None:
        self.machine.receive(PoolFrame(0, 0, PoolMessage(kind, fields)), self.now)
        self.turn()

    def say(self, kind: PoolMessageType, *fields: Any, rows: list[Row] | None = None) -> None:
        assert self.talk is not None
        self.talk.send(PoolMessage(kind, fields, rows), self.now)
        self.turn()

    def turn(self) -> None:
        """Until no side has a message to send."""
        self.answer()
        while actions := self.machine.flush(self.now):
            for action in actions:
                if isinstance(action, Connect):
                    self.connected.append(action.session)
                    continue
                assert isinstance(action, SendMessage)
                frames = [bytes(frame) for frame in messages.pack(*action.envelope)]
                self.hear(messages.unpack(frames))
            self.answer()

    def hear(self, envelope: PoolFrame) -> None:
        if envelope.message.kind is PoolMessageType.HELLO:
            self.hellos += 1
            assert envelope.message.fields[1] == CLIENT
        elif self.talk is not None and not self.cut:
            self.heard += self.talk.hear(envelope, self.now)

    def answer(self) -> None:
        if self.talk is not None and not self.cut:
            for envelope in self.talk.flush(self.now):
                self.machine.receive(envelope, self.now)

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + step, until)
            if self.talk is not None:
                self.talk.tick(self.now)
            self.machine.tick(self.now)
            self.turn()

    def submit(self, *calls: Call) -> list[Call]:
        for call in calls:
            self.machine.submit(call)
        self.turn()
        return list(calls)

    def rows(self, *, again: bool | None = None) -> list[Row]:
        """The rows that were submitted."""
        said = [m for m in self.heard if m.kind is PoolMessageType.SUBMIT and again in (None, m.fields[0])]
        return [row for message in said for row in message.rows or ()]

    def outcomes(self, *rows: Row) -> None:
        self.say(PoolMessageType.OUTCOMES, rows=list(rows))

    def told(self) -> list[tuple[Task, Any]]:
        told = list(self.machine.outcomes)
        self.machine.outcomes.clear()
        return told

    def kinds(self) -> list[PoolMessageType]:
        return [message.kind for message in self.heard]


def value(number: int, blob: bytes = b"done") -> Row:
    return (number, TaskOutcome.VALUE, blob, [])


# -- a session ---------------------------------------------------------------------------------------


def test_it_sends_hello_until_it_receives_welcome() -> None:
    story = Story()
    story.machine.connect(story.now)
    story.turn()
    assert story.connected == ["me.1"] and story.hellos == 1
    story.pass_time(4 * GREET_EVERY, GREET_EVERY)
    assert story.hellos == 5
    story.welcome(workers=3)
    story.welcome(workers=7)
    assert story.machine.stage is SessionStage.OPEN and story.machine.workers == 3
    story.pass_time(1)
    assert story.hellos == 5


def test_its_initializer_comes_before_any_task() -> None:
    story = Story(initializer=(b"m:prepare", b"args", []), eager=True)
    story.machine.submit(Call())
    story.open()
    assert story.kinds() == [PoolMessageType.JOIN, PoolMessageType.SUBMIT]
    assert story.heard[0].fields == (True,) and story.heard[0].rows == [(b"m:prepare", b"args", ())]


def test_a_task_is_sent_at_once_and_its_answer_returns() -> None:
    story = Story().open()
    call = Call(b"blob", (b"large" * 10_000,))
    call.timeout, call.retries = 3.0, 2
    story.submit(call)
    assert story.rows() == [(1, Mode.CALL, b"m:f", b"blob", (b"large" * 10_000,), 3.0, 2)]
    story.outcomes((1, TaskOutcome.ERROR, b"oops", [b"part"]))
    assert story.told() == [(call, (TaskOutcome.ERROR, b"oops", [b"part"]))]
    assert call.state is TaskState.SETTLED and len(story.machine) == 0


def test_a_coordinators_report_of_a_lost_worker_is_read() -> None:
    story = Story().open()
    calls = story.submit(*(Call() for _ in range(3)))
    lost = WorkerLost("agent/w.1", "there", 7, "killed by SIGKILL", "m:f")
    story.outcomes(
        (1, TaskOutcome.FAILED, failures.describe(lost), []),
        (2, TaskOutcome.FAILED, failures.describe(InitializerFailed("3 workers died in it")), []),
        (3, TaskOutcome.FAILED, b"nonsense", []),
    )
    errors = dict(story.told())
    assert str(errors[calls[0]]) == str(lost)
    assert isinstance(errors[calls[1]], InitializerFailed)
    assert isinstance(errors[calls[2]], ProtocolError)


def test_an_initializers_error_is_unpickled_by_the_pool() -> None:
    story = Story(read_error=lambda blob: InitializerFailed(blob.decode())).open()
    (call,) = story.submit(Call())
    story.outcomes((1, TaskOutcome.FAILED, failures.describe(Unread(b"pickled")), []))
    ((told, error),) = story.told()
    assert told is call and isinstance(error, InitializerFailed)
    assert str(error) == "pickled"


def test_duplicate_and_unknown_outcomes_are_ignored() -> None:
    story = Story().open()
    (call,) = story.submit(Call())
    story.outcomes(value(1))
    story.outcomes(value(1, b"other"), value(99))
    assert [blob for _, (_, blob, _) in story.told()] == [b"done"]
    assert story.machine.stale == 2 and call.state is TaskState.SETTLED


def test_an_idle_client_sends_heartbeats() -> None:
    story = Story().open()
    story.pass_time(5 * LEASE)
    assert story.talk is not None and not story.talk.silent(story.now)
    assert story.machine.deadline(story.now) <= story.now + LEASE / 5


# -- how much is sent, and when ------------------------------------------------------------------------


def test_no_more_tasks_are_sent_than_the_workers_need() -> None:
    story = Story().open(workers=2)
    room = WINDOW + 2 * WINDOW_EACH
    story.submit(*(Call() for _ in range(room + 500)))
    assert len(story.rows()) == room
    story.outcomes(*map(value, range(1, 101)))
    assert len(story.rows()) == room + 100
    assert [row[0] for row in story.rows()] == list(range(1, room + 101))
    story.say(PoolMessageType.WORKERS, 3)
    assert len(story.rows()) == room + 500


def test_large_tasks_fill_the_window_sooner_but_every_worker_gets_some() -> None:
    story = Story().open(workers=2)
    story.submit(*(Call(bytes(WINDOW_BYTES // 2)) for _ in range(40)))
    assert len(story.rows()) == FEW_EACH * 3
    story.outcomes(value(1))
    assert len(story.rows()) == FEW_EACH * 3 + 1


def test_many_tasks_are_sent_together() -> None:
    story = Story().open()
    story.submit(*(Call() for _ in range(1000)))
    assert story.kinds().count(PoolMessageType.SUBMIT) == 1


def test_tasks_form_a_batch_while_many_messages_are_unacked() -> None:
    story = Story().open()
    story.cut = True  # nothing is acked
    for _ in range(TALKATIVE + 20):
        story.machine.submit(Call())
        story.machine.flush(story.now)
    assert story.machine.deadline(story.now) == story.now + GATHER
    story.now += GATHER
    (sent,) = [a for a in story.machine.flush(story.now) if isinstance(a, SendMessage)]
    assert len(sent.envelope.message.rows or ()) == 20 + 1
    assert story.machine.deadline(story.now) > story.now + GATHER


# -- cancel ------------------------------------------------------------------------------------------


def test_cancel_before_a_task_is_sent() -> None:
    story = Story()
    first, second = Call(b"1"), Call(b"2")
    story.submit(first, second)
    assert story.machine.cancel([first]) == [first] and len(story.machine) == 1
    assert story.machine.cancel([first]) == []
    story.open()
    assert [row[3] for row in story.rows()] == [b"2"] and story.told() == []


@pytest.mark.parametrize("never", [True, False])
def test_cancel_of_a_sent_task_is_answered_later(never: bool) -> None:
    story = Story().open()
    (call,) = story.submit(Call())
    assert story.machine.cancel([call]) == []
    assert story.machine.cancel([call]) == []
    assert story.machine.cancelling == {call}
    story.turn()
    assert [m.fields for m in story.heard if m.kind is PoolMessageType.CANCEL] == [(1,)]
    story.say(PoolMessageType.CANCELLED, 1, never)
    if never:
        ((told, error),) = story.told()
        assert told is call and isinstance(error, CancelledError)
    else:
        story.outcomes(value(1))
        assert story.told() == [(call, (TaskOutcome.VALUE, b"done", []))]
    assert story.machine.cancelling == set()
    assert story.machine.cancel([call]) == []


def test_an_unanswered_cancel_is_sent_again_in_the_next_session() -> None:
    story = Story().open()
    (call,) = story.submit(Call())
    story.cut = True
    story.machine.cancel([call])
    story.turn()
    story.cut = False
    story.loose(PoolMessageType.STRANGER)
    story.heard.clear()
    story.welcome(epoch="two")
    assert story.kinds() == [PoolMessageType.JOIN, PoolMessageType.SUBMIT, PoolMessageType.CANCEL]


# -- coordinators that go away -------------------------------------------------------------------------


def test_a_new_session_submits_unanswered_tasks_again_in_order() -> None:
    story = Story().open()
    story.submit(*(Call(bytes([n])) for n in range(5)))
    story.outcomes(value(2), value(4))
    story.heard.clear()
    story.loose(PoolMessageType.STRANGER)
    assert story.connected == ["me.1", "me.2"] and story.machine.stage is SessionStage.GREETING
    story.submit(Call(b"new"))
    story.welcome(epoch="two")
    assert [row[0] for row in story.rows(again=True)] == [1, 3, 5]
    assert [row[0] for row in story.rows(again=False)] == [6]
    assert len(story.machine) == 4


def test_a_silent_coordinator_gets_a_new_connection_in_the_same_session() -> None:
    story = Story().open()
    story.submit(Call())
    story.cut = True
    story.pass_time(LEASE + 1)
    assert story.connected == ["me.1", "me.1"] and story.machine.away(story.now) > LEASE
    story.cut = False
    story.heard.clear()
    story.pass_time(LEASE)
    assert story.machine.away(story.now) == 0 and story.machine.stage is SessionStage.OPEN
    story.outcomes(value(1))
    assert len(story.told()) == 1


@pytest.mark.parametrize("opened", [True, False], ids=["went away", "never came"])
def test_after_the_wait_every_task_fails(opened: bool) -> None:
    story = Story(wait=30.0)
    if opened:
        story.open()
    else:
        story.machine.connect(story.now)
    calls = story.submit(Call(), Call())
    story.cut = True
    story.talk = None
    story.pass_time(29.5)
    assert story.told() == []
    story.pass_time(1)
    assert story.machine.stage is SessionStage.CLOSED
    told = story.told()
    assert [task for task, _ in told] == calls
    assert all(isinstance(error, CoordinatorLost) for _, error in told)
    late = Call()
    story.submit(late)
    ((task, error),) = story.told()
    assert task is late and isinstance(error, CoordinatorLost)


def test_a_suspended_client_does_not_count_the_coordinator_as_silent() -> None:
    story = Story(wait=30.0).open()
    story.submit(Call())
    story.pass_time(1)
    story.now += 1000.0
    story.machine.tick(story.now)
    assert story.machine.stage is SessionStage.OPEN and story.told() == []


def test_a_refusal_ends_the_session_for_good() -> None:
    story = Story()
    story.machine.connect(story.now)
    (call,) = story.submit(Call())
    story.loose(PoolMessageType.REFUSED, "it takes no clients")
    ((task, error),) = story.told()
    assert task is call and isinstance(error, PoolBroken) and "no clients" in str(error)
    assert story.machine.stage is SessionStage.CLOSED


# -- leaving -----------------------------------------------------------------------------------------


def test_it_closes_when_everything_is_answered() -> None:
    story = Story().open()
    story.submit(Call())
    story.machine.leave()
    story.turn()
    assert PoolMessageType.BYE not in story.kinds()
    story.outcomes(value(1))
    assert story.kinds()[-1] is PoolMessageType.BYE
    story.say(PoolMessageType.PART)
    assert story.machine.stage is SessionStage.CLOSED


def test_terminate_drops_everything_and_sends_bye() -> None:
    story = Story().open()
    calls = story.submit(Call(), Call())
    story.machine.terminate()
    story.turn()
    told = story.told()
    assert [task for task, _ in told] == calls
    assert all(isinstance(error, CancelledError) for _, error in told)
    assert story.kinds()[-1] is PoolMessageType.BYE
    story.outcomes(value(1))
    assert story.told() == [] and story.machine.stale == 1


@pytest.mark.parametrize("how", ["stranger", "silence"])
def test_a_bye_whose_answer_is_lost_is_enough(how: str) -> None:
    story = Story().open()
    story.machine.leave()
    story.turn()
    if how == "stranger":
        story.loose(PoolMessageType.STRANGER)
    else:
        story.cut = True
        story.pass_time(LEASE + 1)
    assert story.machine.stage is SessionStage.CLOSED
    assert story.machine.flush(story.now) == []


def test_it_closes_at_once_if_no_coordinator_answered_and_no_task_is_left() -> None:
    story = Story()
    story.machine.connect(story.now)
    call = Call()
    story.submit(call)
    story.machine.cancel([call])
    story.machine.leave()
    story.turn()
    assert story.machine.stage is SessionStage.CLOSED
