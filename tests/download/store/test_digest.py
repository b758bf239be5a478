"""A digest is that of all bytes in their order, whichever thread hashes them; no thread is left."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from nearfar.download.store import draft
from nearfar.download.store.draft import LARGE, WAITING, Digest

PIECES = [os.urandom(size) for size in (10, LARGE, 1, LARGE + 1, 0, 70_000, *[LARGE] * (2 * WAITING), 5)]


def test_small_and_large_pieces_are_hashed_in_order() -> None:
    found, whole = Digest(), hashlib.sha256()
    for piece in PIECES:
        found.update(piece)
        whole.update(piece)
    assert found.hexdigest() == whole.hexdigest()
    assert "digest" not in {thread.name for thread in threading.enumerate()}


def test_it_goes_on_after_its_digest_was_asked_for() -> None:
    found = Digest()
    found.update(PIECES[1])
    assert found.hexdigest() == hashlib.sha256(PIECES[1]).hexdigest()
    found.update(PIECES[3])
    assert found.hexdigest() == hashlib.sha256(PIECES[1] + PIECES[3]).hexdigest()


def test_a_view_need_not_outlive_the_call() -> None:
    memory, found = bytearray(PIECES[1]), Digest()
    found.update(memoryview(memory))
    memory[:] = bytes(len(memory))
    assert found.hexdigest() == hashlib.sha256(PIECES[1]).hexdigest()


def test_without_a_thread_it_hashes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(draft, "Thread", NoThread)
    found = Digest()
    for piece in PIECES:
        found.update(piece)
    assert found.hexdigest() == hashlib.sha256(b"".join(PIECES)).hexdigest()


def test_one_that_is_closed_leaves_no_thread() -> None:
    found = Digest()
    found.update(PIECES[1])
    found.close()
    found.close()
    assert "digest" not in {thread.name for thread in threading.enumerate()}
