"""Which files a consumer commits together: those that come within `COMPANY` of the first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nearfar.download.consumer import COMPANY, Consumer
from nearfar.download.messages import File, Files, encode
from nearfar.download.model import Body, Head, Job
from nearfar.download.store.store import Store
from tests.download.store.making import recorded
from tests.support.transport import Outbox, Post


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as store:
        yield store


def send(post: Post, name: str, *, last: bool = False) -> None:
    url, data = f"http://here/{name}", name.encode()
    file = File(Job(url), Head(url, 200), Body(len(data), hashlib.sha256(data).hexdigest()), data)
    Outbox(post).send(encode(Files((file,), last)))


def test_a_file_waits_for_company_but_not_for_long(store: Store, tmp_path: Path) -> None:
    post, clock = Post(), Clock()
    consumer = Consumer(post.join("c", store.id), store, clock=clock)
    send(post, "a")
    consumer.turn()
    clock.now += COMPANY / 2
    send(post, "b")
    consumer.turn()
    assert len(recorded(tmp_path)) == 0
    clock.now += COMPANY
    send(post, "c")
    consumer.turn()
    assert len(recorded(tmp_path)) == 3
    assert len(post.answered) == 3


def test_a_file_does_not_wait_for_company_that_cannot_come(store: Store, tmp_path: Path) -> None:
    post, clock = Post(), Clock()
    consumer = Consumer(post.join("c", store.id), store, clock=clock)
    send(post, "a")
    send(post, "b", last=True)
    consumer.turn()
    assert not post.answered
    consumer.turn()
    assert (len(recorded(tmp_path)), len(post.answered)) == (2, 2)


def test_when_nothing_more_comes_the_group_is_committed(store: Store, tmp_path: Path) -> None:
    post, clock = Post(), Clock()
    consumer = Consumer(post.join("c", store.id), store, clock=clock)
    send(post, "a")
    consumer.turn()
    assert not post.answered
    consumer.turn()
    assert len(recorded(tmp_path)) == 1
    assert len(post.answered) == 1
