"""One transfer's stories, without a network: heads and bytes in, calls and steps out."""

from __future__ import annotations

import pytest

from nearfar.download.fetch.headers import Answer
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import RequestFields
from nearfar.download.fetch.transfer import Step, Transfer
from nearfar.download.fetch.trouble import Trouble, from_curl
from nearfar.download.model import Job, Reason
from nearfar.download.urls import UrlError
from tests.support.sinks import Remembered

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
    assert story.request(206, b"abc", content_range="bytes 0-2/3", etag='"1"') is Step.ENDED
    assert story.sink.calls == ["failed"]


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
