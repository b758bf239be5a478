"""One transfer's stories, without a network: heads and bytes in, calls and steps out."""

from __future__ import annotations

import pytest

from nearfar.download.fetch import headers
from nearfar.download.fetch.base import Trouble, from_curl
from nearfar.download.fetch.headers import Answer
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import RequestFields
from nearfar.download.fetch.transfer import Step, Transfer
from nearfar.download.model import Failure, Job, Reason
from nearfar.download.urls import UrlError
from tests.support.sinks import Remembered

pytestmark = pytest.mark.pure

CUT = from_curl(18, "cut", answered=True)


class Story:
    """A transfer with its sink, told in one line a request."""

    def __init__(self, url: str = "http://u:p@h/a", **settings: int) -> None:
        self.options = FetchOptions(headers=(("Authorization", "Bearer x"),), **settings)  # type: ignore[arg-type]
        self.fields = RequestFields(self.options)
        self.sink = Remembered()
        self.transfer = Transfer(Job(url), self.sink, self.options, self.fields)
        self.sent: list[bytes] = []

    def request(self, status: int, body: bytes = b"", trouble: Trouble | None = None, **fields: str) -> Step:
        self.sent = self.transfer.request()
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        if self.transfer.answered(Answer(status, "", named), now=0.0) and body:
            self.transfer.take(body)
        return self.transfer.finish(trouble)


def test_a_file_ends_in_one_request() -> None:
    story = Story()
    assert story.request(200, b"abc", content_length="3") is Step.ENDED
    assert story.sink.calls == ["begin", "chunk", "done"]


def test_requests_without_anything_special_share_their_lines() -> None:
    story = Story("http://h/a")
    assert story.transfer.request() is story.fields.own


def test_userinfo_replaces_the_users_authorization_until_the_origin_changes() -> None:
    story = Story()
    assert story.request(302, location="/b") is Step.FOLLOW
    assert [line for line in story.sent if b"uthorization" in line] == [b"Authorization: Basic dTpw"]
    assert story.transfer.url.text == "http://h/b"
    assert story.request(302, location="http://other/c") is Step.FOLLOW
    story.request(302, location="http://h/d")
    assert not [line for line in story.sent if b"uthorization" in line]
    story.request(302, location="http://h/e")
    assert not [line for line in story.sent if b"uthorization" in line]


def test_an_attempt_starts_from_the_url_as_it_was_given() -> None:
    story = Story(redirects=1, tries=2)
    assert story.request(302, location="http://other/b") is Step.FOLLOW
    assert story.request(503) is Step.RETRY
    story.transfer.again()
    assert story.transfer.url.text == "http://h/a"
    assert story.request(302, location="http://other/b") is Step.FOLLOW
    assert b"Authorization: Basic dTpw" in story.sent
    assert story.request(503) is Step.ENDED
    assert story.sink.calls == ["failed"]


def test_a_redirect_whose_own_body_is_cut_is_followed() -> None:
    assert Story().request(302, trouble=CUT, location="/b") is Step.FOLLOW


def test_a_status_says_more_than_the_cut_after_it() -> None:
    story = Story()
    assert story.request(404, trouble=CUT) is Step.ENDED
    assert story.sink.failure is not None and story.sink.failure.reason is Reason.HTTP_4XX


@pytest.mark.parametrize(("size", "step"), [(2, Step.RETRY), (4, Step.ENDED)])
def test_a_length_that_is_not_kept_is_truncated(size: int, step: Step) -> None:
    story = Story()
    assert story.request(200, bytes(size), content_length="3") is step
    assert story.transfer.trouble is not None and story.transfer.trouble.reason is Reason.TRUNCATED


def test_a_part_nobody_asked_for_is_refused() -> None:
    story = Story()
    assert story.request(206, b"bc", content_range="bytes 1-2/3", etag='"1"') is Step.ENDED
    assert story.sink.calls == ["failed"]


def test_an_unasked_part_that_is_the_whole_file_is_the_file() -> None:
    story = Story()
    assert story.request(206, b"abc", content_range="bytes 0-2/3", content_length="3") is Step.ENDED
    assert story.sink.calls == ["begin", "chunk", "done"]
    assert story.sink.head is not None and (story.sink.head.status, story.sink.head.length) == (206, 3)


@pytest.mark.parametrize("said", ["bytes 0-2/*", "bytes 0-1/3", "bytes */3", "", "bytes 0-3/4"])
def test_an_unasked_part_that_does_not_say_so_is_not_taken_for_the_whole(said: str) -> None:
    story = Story(tries=1)
    assert story.request(206, b"abc", content_range=said, content_length="3") is Step.ENDED
    assert story.sink.body is None


def test_an_unasked_beginning_is_gone_on_with() -> None:
    story = Story(tries=1)
    assert story.request(206, b"abc", content_range="bytes 0-2/5", etag='"1"') is Step.RETRY
    story.transfer.again(counts=False)
    assert story.request(206, b"de", content_range="bytes 3-4/5", etag='"1"') is Step.ENDED
    assert bytes(story.sink.data) == b"abcde" and story.sink.body is not None


@pytest.mark.parametrize(
    ("said", "step"),
    [("bytes */3", Step.ENDED), ("bytes */9", Step.RETRY), ("bytes */2", Step.RETRY), ("", Step.RETRY)],
)
def test_a_416_that_names_the_length_that_came_says_that_it_was_all(said: str, step: Step) -> None:
    """Given a body of unknown length whose end was cut off, behind its last byte."""
    story = Story()
    assert story.request(200, b"abc", CUT, etag='"1"') is Step.RETRY
    story.transfer.again()
    assert story.request(416, content_range=said) is step
    if step is Step.ENDED:
        assert bytes(story.sink.data) == b"abc" and story.sink.body is not None


def test_a_416_of_another_version_says_nothing() -> None:
    story = Story()
    assert story.request(200, b"abc", CUT, etag='"1"') is Step.RETRY
    story.transfer.again()
    assert story.request(416, content_range="bytes */3", etag='"2"') is Step.RETRY
    story.transfer.again()
    assert story.request(200, b"xyz", content_length="3") is Step.ENDED
    assert bytes(story.sink.data) == b"xyz"


def test_a_fault_of_ours_ends_its_own_url_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: object) -> None:
        raise TypeError("a\nfault")

    monkeypatch.setattr(headers, "media_type", stumble)
    story = Story()
    assert story.request(200, b"abc") is Step.ENDED
    assert story.sink.failure == Failure(Reason.REJECTED, "the answer cannot be read (TypeError: a fault)")


def test_being_put_off_spends_no_attempt() -> None:
    story = Story(tries=1)
    for _ in range(20):
        assert story.request(429, retry_after="1") is Step.WAIT
        story.transfer.again(counts=False)
    assert story.request(503, retry_after="Thu, 01 Jan 1970 00:00:09 GMT") is Step.WAIT
    assert story.transfer.trouble is not None and story.transfer.trouble.retry_after == 9.0
    story.transfer.again(counts=False)
    assert story.request(200, b"abc", content_length="3") is Step.ENDED
    assert story.sink.body is not None and story.sink.body.attempts == 22


@pytest.mark.parametrize(
    ("status", "fields"), [(429, {}), (503, {"retry_after": "soon"}), (500, {"retry_after": "1"})]
)
def test_a_failure_that_names_no_time_spends_an_attempt(status: int, fields: dict[str, str]) -> None:
    story = Story(tries=2)
    assert story.request(status, **fields) is Step.RETRY
    story.transfer.again()
    assert story.request(status, **fields) is Step.ENDED


def test_an_attempt_that_brings_the_file_on_is_no_failure() -> None:
    story = Story(tries=2)
    assert story.request(200, b"0", CUT, etag='"1"', content_length="60") is Step.RETRY
    for n in range(1, 59):
        story.transfer.again()
        assert (
            story.request(206, b"%d" % (n % 10), CUT, content_range=f"bytes {n}-59/60", etag='"1"')
            is Step.RETRY
        )
    story.transfer.again()
    assert story.request(206, b"9", content_range="bytes 59-59/60", etag='"1"') is Step.ENDED
    assert bytes(story.sink.data) == b"0123456789" * 6


def test_one_that_brings_nothing_or_starts_again_is_one() -> None:
    story = Story(tries=2)
    assert story.request(200, b"abc", CUT, etag='"1"') is Step.RETRY
    story.transfer.again()
    assert story.request(200, b"ab", CUT, etag='"1"') is Step.RETRY
    story.transfer.again()
    assert story.request(206, b"", CUT, content_range="bytes 2-8/9", etag='"1"') is Step.ENDED


def test_a_server_that_brings_a_byte_at_a_time_ends() -> None:
    story = Story(tries=2)
    step, n = story.request(200, b"x", CUT, etag='"1"', content_length="9999"), 1
    while step is Step.RETRY:
        story.transfer.again()
        step = story.request(206, b"x", CUT, content_range=f"bytes {n}-9998/9999", etag='"1"')
        n += 1
    assert n < 200


def test_the_limit_counts_over_joined_parts() -> None:
    story = Story(max_size=4)
    assert story.request(200, b"abc", CUT, etag='"1"') is Step.RETRY
    story.transfer.again()
    assert story.request(206, b"de", content_range="bytes 3-4/5", etag='"1"') is Step.ENDED
    assert story.sink.failure is not None and story.sink.failure.reason is Reason.TOO_LARGE
    assert bytes(story.sink.data) == b"abc"


def test_a_url_that_cannot_be_fetched_makes_no_transfer() -> None:
    with pytest.raises(UrlError):
        Story("ftp://h/")
