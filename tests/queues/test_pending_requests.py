"""A client's questions: each is asked in every session until it is answered, and answered once."""

from __future__ import annotations

import pytest

from nearfar.queues.client.session import PendingRequests
from nearfar.queues.messages import QueueMessageType

pytestmark = pytest.mark.pure


def unsent(asks: PendingRequests, *, lane: bool = True) -> list[int]:
    return [number for number, *_ in asks.unsent(lane=lane)]


def test_a_question_is_asked_once_in_a_session() -> None:
    asks = PendingRequests()
    number = asks.add(QueueMessageType.ASK, "size", 5)
    assert list(asks.unsent(lane=False)) == [(number, QueueMessageType.ASK, "size", 5)]
    assert unsent(asks) == []


def test_a_question_that_goes_with_a_report_waits_for_the_lane() -> None:
    asks = PendingRequests()
    need, take, size = (
        asks.add(QueueMessageType.NEED),
        asks.add(QueueMessageType.REPORT),
        asks.add(QueueMessageType.ASK, "size"),
    )
    assert unsent(asks, lane=False) == [need, size]
    assert unsent(asks, lane=False) == []
    assert unsent(asks, lane=True) == [take]
    assert unsent(asks, lane=True) == []


def test_an_answer_is_kept_until_it_is_taken() -> None:
    asks = PendingRequests()
    number = asks.add(QueueMessageType.ASK, "join")
    assert not asks.answered(number)
    asks.answer(number, None)
    assert asks.answered(number)
    asks.answer(number, "another")
    assert asks.take(number) is None
    assert not asks.answered(number)


def test_unanswered_questions_are_sent_again_in_a_new_session_except_for_the_lane() -> None:
    """Given four questions, one for a lane, one answered, one that no call waits for any more,

    If a new session begins, I expect only the fourth to be sent again: a session asks for its own lane.
    """
    asks = PendingRequests()
    lane, size, gone, join = (
        asks.add(QueueMessageType.ASK, what) for what in ("lane", "size", "counts", "join")
    )
    assert unsent(asks) == [lane, size, gone, join]
    asks.answer(size, 3)
    assert asks.take(gone) is None
    asks.again()
    assert unsent(asks) == [join]
    asks.answer(gone, 1)
    asks.answer(lane, 1)
    assert not asks.answered(gone)
    assert not asks.answered(lane)
    assert asks.take(size) == 3


def test_a_question_abandoned_before_it_was_sent_is_not_sent() -> None:
    asks = PendingRequests()
    number = asks.add(QueueMessageType.ASK, "size")
    asks.take(number)
    assert unsent(asks) == []


def test_answers_to_unknown_questions_are_ignored() -> None:
    asks = PendingRequests()
    asks.answer(1, "unasked")
    assert not asks.answered(1)
