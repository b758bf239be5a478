"""The fetcher's loop: pauses, wake-ups, limits, the rate, and its end."""

from __future__ import annotations

import threading
import time

import pycurl
import pytest

from nearfar.download.model import Head, Job, Reason
from tests.download.fetch.conftest import MakeFetcher
from tests.support.routes import content, cut, endless, gated, status
from tests.support.sinks import Remembered, fetch_all, poll_until
from tests.support.web import Web

BODY = bytes(range(256)) * 8192


@pytest.mark.parametrize("http", ["1.1", "h2c"])
def test_a_sink_that_asks_for_a_pause_gets_no_more_until_it_resumes(
    web: Web, fetcher: MakeFetcher, http: str
) -> None:
    web.routes["/a"] = content(BODY)
    engine = fetcher(http=http, buffer_size=16384)
    sink = Remembered(pause_after=100_000)
    engine.add(Job(web.url("/a")), sink)
    poll_until(engine, lambda: sink.pause_after is None)
    held = len(sink.data)
    for _ in range(20):
        engine.poll(0.01)
    assert len(sink.data) == held < len(BODY)
    engine.resume(sink)
    assert len(sink.data) == held, "resume itself calls no sink"
    poll_until(engine, lambda: sink.ended)
    assert bytes(sink.data) == BODY and sink.body is not None


def test_a_paused_transfer_does_not_hold_up_the_others(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["*"] = content(BODY)
    engine = fetcher(buffer_size=16384)
    paused, other = Remembered(pause_after=1), Remembered()
    engine.add(Job(web.url("/a")), paused)
    engine.add(Job(web.url("/b")), other)
    poll_until(engine, lambda: other.ended and paused.pause_after is None)
    assert not paused.ended and engine.in_flight == 1
    engine.resume(paused)
    poll_until(engine, lambda: paused.ended)
    assert bytes(paused.data) == bytes(other.data) == BODY


@pytest.mark.slow
@pytest.mark.skipif(pycurl.version_info()[2] < 0x075000, reason="an old libcurl takes a pause for a stall")
def test_a_pause_is_no_stall(web: Web, fetcher: MakeFetcher) -> None:
    """Given a stalled transfer and a paused one, I expect only the first to time out."""
    web.routes["/file"] = content(BODY)
    web.routes["/stall"] = cut(BODY, 1000, by="stall")
    engine = fetcher(stall_timeout=1, buffer_size=16384, tries=1)
    paused, stalled = Remembered(pause_after=1), Remembered()
    engine.add(Job(web.url("/file")), paused)
    engine.add(Job(web.url("/stall")), stalled)
    poll_until(engine, lambda: stalled.ended and paused.pause_after is None)
    assert stalled.failure is not None and stalled.failure.reason is Reason.TIMEOUT
    engine.resume(paused)
    poll_until(engine, lambda: paused.ended)
    assert paused.body is not None and paused.body.attempts == 1


@pytest.mark.parametrize("http", ["1.1", "h2c"])
def test_a_transfer_that_fails_in_the_bytes_held_back_ends(web: Web, fetcher: MakeFetcher, http: str) -> None:
    """Given a pause with the limit ahead, I expect the failure when it resumes, and no hanging."""
    web.routes["/endless"] = endless()
    engine = fetcher(http=http, buffer_size=16384, max_size=3_000_000, per_host=1)
    for path in ("/endless", "/endless"):
        sink = Remembered(pause_after=1)
        engine.add(Job(web.url(path)), sink)
        poll_until(engine, lambda sink=sink: sink.pause_after is None)  # type: ignore[misc]
        for _ in range(5):
            engine.poll(0.01)
        engine.resume(sink)
        poll_until(engine, lambda sink=sink: sink.ended)  # type: ignore[misc]
        assert sink.failure is not None and sink.failure.reason is Reason.TOO_LARGE


def test_resuming_one_that_is_not_paused_does_nothing(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = content(BODY)
    engine = fetcher()
    sink = Remembered()
    engine.add(Job(web.url("/a")), sink)
    engine.resume(sink)
    poll_until(engine, lambda: sink.ended)
    assert bytes(sink.data) == BODY


def test_wake_ends_a_poll_of_another_thread(fetcher: MakeFetcher) -> None:
    engine = fetcher()
    timer = threading.Timer(0.1, engine.wake)
    timer.start()
    begun = time.monotonic()
    engine.poll(20)
    timer.join()
    assert time.monotonic() - begun < 10


def test_a_poll_with_nothing_to_do_waits_its_time_and_no_longer(fetcher: MakeFetcher) -> None:
    engine = fetcher()
    begun = time.monotonic()
    engine.poll(0.15)
    assert 0.1 < time.monotonic() - begun < 5


def test_a_poll_ends_when_a_wait_before_a_retry_does(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/a"] = status(503, {"Retry-After": "1"})
    engine = fetcher(wait_for_host=1)
    sink = Remembered()
    engine.add(Job(web.url("/a")), sink)
    polls = 0
    while not sink.ended:
        engine.poll(20)
        polls += 1
    assert polls < 50, "it spins while it waits"


def test_a_host_that_asked_for_patience_is_remembered_when_all_is_cancelled(
    web: Web, fetcher: MakeFetcher
) -> None:
    """As between two shares of a pool's work."""
    web.routes["/busy"] = status(429, {"Retry-After": "300"})
    engine = fetcher()
    for path in ("/busy", "/busy"):
        engine.add(Job(web.url(path)), Remembered())
        poll_until(engine, lambda: len(web.log) == 1)
        engine.poll(0)
        engine.cancel()
    engine.add(Job(web.url("/other")), Remembered())
    engine.poll(0)
    assert len(web.log) == 1 and engine.in_flight == 1


@pytest.mark.parametrize(("connections", "per_host", "most"), [(20, 3, 3), (5, 20, 5)])
def test_limits_in_total_and_per_host_are_kept(
    web: Web, fetcher: MakeFetcher, connections: int, per_host: int, most: int
) -> None:
    gate = threading.Event()
    web.routes["*"] = gated(gate, content(b"x"))
    engine = fetcher(connections=connections, per_host=per_host)
    sinks = [Remembered() for _ in range(12)]
    for n, sink in enumerate(sinks):
        engine.add(Job(web.url(f"/{n}")), sink)
    poll_until(engine, lambda: len(web.log) == most)
    for _ in range(10):
        engine.poll(0.01)
    assert len(web.log) == most and engine.in_flight == 12
    gate.set()
    poll_until(engine, lambda: engine.in_flight == 0)
    assert web.most_at_once == most and all(sink.body for sink in sinks)


def test_the_rate_holds_over_all_transfers(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["*"] = content(bytes(100_000))
    begun = time.monotonic()
    fetch_all(fetcher(rate=400_000), *(web.url(f"/{n}") for n in range(4)))
    assert 0.7 < time.monotonic() - begun < 20


def test_cancel_drops_everything_without_another_call(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/endless"] = endless()
    web.routes["/file"] = content(b"x")
    engine = fetcher(per_host=2)
    sinks = [Remembered() for _ in range(4)]
    for sink in sinks:
        engine.add(Job(web.url("/endless")), sink)
    engine.add(Job("nonsense"), Remembered())
    poll_until(engine, lambda: all(sink.data for sink in sinks[:2]))
    calls = [list(sink.calls) for sink in sinks]
    engine.cancel()
    assert engine.in_flight == 0
    engine.poll(0.01)
    assert [sink.calls for sink in sinks] == calls
    (after,) = fetch_all(engine, web.url("/file"))
    assert bytes(after.data) == b"x"


def test_closing_in_the_middle_leaves_nothing_open(web: Web, fetcher: MakeFetcher) -> None:
    web.routes["/stall"] = cut(BODY, 10, by="stall")
    engine = fetcher()
    sink = Remembered()
    engine.add(Job(web.url("/stall")), sink)
    poll_until(engine, lambda: bool(sink.data))
    engine.close()
    engine.close()
    assert not sink.ended


class Broken(Remembered):
    """A sink with a mistake in it."""

    def begin(self, head: Head) -> None:
        raise RuntimeError("a mistake")


@pytest.mark.parametrize("body", [b"some bytes", b""])
def test_what_a_sink_raises_comes_out_of_poll_and_harms_no_other(
    web: Web, fetcher: MakeFetcher, body: bytes
) -> None:
    web.routes["*"] = content(body)
    engine = fetcher()
    other = Remembered()
    engine.add(Job(web.url("/a")), Broken())
    engine.add(Job(web.url("/b")), other)
    with pytest.raises(RuntimeError, match="a mistake"):
        poll_until(engine, lambda: engine.in_flight == 0)
    poll_until(engine, lambda: engine.in_flight == 0)
    assert bytes(other.data) == body and other.body is not None
