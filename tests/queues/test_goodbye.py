"""An end that leaves while it has no session: whether a host has to hear of it."""

from __future__ import annotations

import pytest

from nearfar.queues.ends.actions import Send
from nearfar.queues.ends.machine import GOODBYE, EndMachine, State
from nearfar.queues.wire import Envelope, Kind, Message
from tests.queues.test_standstill import ABOUT

pytestmark = pytest.mark.pure


def leaving(*, produces: bool, helper: bool = False) -> EndMachine:
    """An end in whose session all is told, that leaves, and that its host knows no more at second 5."""
    machine = EndMachine("end", {}, helper=helper)
    machine.roles.produces = produces
    machine.connect(0.0)
    welcome(machine, 0.0)
    machine.flush(0.0)
    machine.leave()
    machine.flush(4.9)
    machine.receive(Envelope(0, 0, Message(Kind.STRANGER)), 5.0)
    assert machine.state is State.GREETING
    return machine


def welcome(machine: EndMachine, now: float) -> None:
    about = Message(Kind.WELCOME, (machine.session_name, ABOUT))
    machine.receive(Envelope(0, 0, about), now)


def said(machine: EndMachine, now: float) -> list[Kind]:
    return [action.envelope.message.kind for action in machine.flush(now) if isinstance(action, Send)]


def test_a_producer_that_was_taken_for_lost_says_goodbye_all_the_same() -> None:
    machine = leaving(produces=True)
    assert not machine.may_go(5.1)
    welcome(machine, 5.2)
    assert said(machine, 5.2)[-2:] == [Kind.JOIN, Kind.BYE]
    machine.receive(Envelope(1, 2, Message(Kind.PART)), 5.3)
    assert machine.may_go(5.3)


def test_where_no_host_answers_it_goes_after_a_while() -> None:
    machine = leaving(produces=True)
    machine.tick(5.0 + GOODBYE - 0.1)
    assert machine.state is State.GREETING
    machine.tick(5.0 + GOODBYE)
    assert machine.state is State.CLOSED


@pytest.mark.parametrize(("produces", "helper"), [(False, False), (True, True)])
def test_whom_nobody_counts_goes_at_once(produces: bool, helper: bool) -> None:
    assert leaving(produces=produces, helper=helper).may_go(5.0)


def test_who_was_never_welcomed_and_put_nothing_goes_at_once() -> None:
    machine = EndMachine("end", {})
    machine.roles.produces = True
    machine.connect(0.0)
    machine.leave()
    assert machine.may_go(0.1)


def test_where_the_host_is_dead_but_not_missed_yet_it_goes_after_a_while() -> None:
    """In the middle of a session, with everything handed over: the lease is not waited for."""
    machine = EndMachine("end", {})
    machine.connect(0.0)
    welcome(machine, 0.0)
    machine.flush(0.0)
    machine.leave()
    machine.tick(0.5)
    assert Kind.BYE in said(machine, 0.5)
    assert not machine.may_go(0.5)
    assert machine.deadline(0.5) <= 0.5 + GOODBYE
    machine.tick(0.5 + GOODBYE)
    assert machine.state is State.CLOSED
