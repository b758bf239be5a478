"""A client that leaves without a session: whether it must wait for a host."""

from __future__ import annotations

import pytest

from nearfar.net.session import SendMessage, SessionStage
from nearfar.queues.client.protocol import GOODBYE, ClientProtocol
from nearfar.queues.messages import QueueFrame, QueueMessage, QueueMessageType
from tests.queues.test_suspension import ABOUT

pytestmark = pytest.mark.pure


def leaving(*, produces: bool, helper: bool = False) -> ClientProtocol:
    """A client that has reported all, leaves, and whose session its broker has forgotten at second 5."""
    machine = ClientProtocol("end", {}, helper=helper)
    machine.roles.produces = produces
    machine.connect(0.0)
    welcome(machine, 0.0)
    machine.flush(0.0)
    machine.leave()
    machine.flush(4.9)
    machine.receive(QueueFrame(0, 0, QueueMessage(QueueMessageType.STRANGER)), 5.0)
    assert machine.calling.stage is SessionStage.GREETING
    return machine


def welcome(machine: ClientProtocol, now: float) -> None:
    about = QueueMessage(QueueMessageType.WELCOME, (machine.session_name, ABOUT))
    machine.receive(QueueFrame(0, 0, about), now)


def said(machine: ClientProtocol, now: float) -> list[QueueMessageType]:
    return [action.envelope.message.kind for action in machine.flush(now) if isinstance(action, SendMessage)]


def test_a_producer_counted_as_lost_still_says_goodbye() -> None:
    machine = leaving(produces=True)
    assert not machine.may_go(5.1)
    welcome(machine, 5.2)
    assert said(machine, 5.2)[-2:] == [QueueMessageType.JOIN, QueueMessageType.BYE]
    machine.receive(QueueFrame(1, 2, QueueMessage(QueueMessageType.PART)), 5.3)
    assert machine.may_go(5.3)


def test_without_a_host_it_leaves_after_a_while() -> None:
    machine = leaving(produces=True)
    for quarter in range(int(4 * GOODBYE)):
        machine.tick(5.0 + quarter / 4)
        assert machine.calling.stage is SessionStage.GREETING
    machine.tick(5.0 + GOODBYE)
    assert machine.calling.stage is SessionStage.CLOSED


@pytest.mark.parametrize(("produces", "helper"), [(False, False), (True, True)])
def test_a_client_that_is_not_counted_leaves_at_once(produces: bool, helper: bool) -> None:
    assert leaving(produces=produces, helper=helper).may_go(5.0)


def test_a_client_without_a_session_and_items_leaves_at_once() -> None:
    machine = ClientProtocol("end", {})
    machine.roles.produces = True
    machine.connect(0.0)
    machine.leave()
    assert machine.may_go(0.1)


def test_with_a_dead_host_it_leaves_after_a_while_before_the_lease_ends() -> None:
    """In the middle of a session, with everything stored: it does not wait for the lease."""
    machine = ClientProtocol("end", {})
    machine.connect(0.0)
    welcome(machine, 0.0)
    machine.flush(0.0)
    machine.leave()
    machine.tick(0.5)
    assert QueueMessageType.BYE in said(machine, 0.5)
    assert not machine.may_go(0.5)
    assert machine.deadline(0.5) <= 0.5 + GOODBYE
    machine.tick(0.5 + GOODBYE)
    assert machine.calling.stage is SessionStage.CLOSED
