"""One URL's way to its file, attempt by attempt: decides on every answer; does no I/O, and knows no clock.

::

    request -> answered -> take* -> finish --> ENDED    the sink was told
       ^                               |-----> FOLLOW   `url` is the next hop
       +-------------------------------+-----> RETRY    call `again` first
"""

from __future__ import annotations

from enum import Enum, auto
from fnmatch import fnmatchcase

from nearfar.download.fetch import headers
from nearfar.download.fetch.base import Sink
from nearfar.download.fetch.content import Content, too_large
from nearfar.download.fetch.decoding import ContentError, coding
from nearfar.download.fetch.headers import Answer
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.policy import worth_another
from nearfar.download.fetch.request import RequestFields, basic, resume
from nearfar.download.fetch.trouble import Trouble, from_status
from nearfar.download.model import Body, Head, Job, Reason
from nearfar.download.redact import redact_url
from nearfar.download.urls import Url, UrlError, join_url, parse_url

__all__ = ["Step", "Transfer"]

FILE = frozenset({200, 203})
PARTLY_FILE = FILE | {206}
REDIRECT = frozenset({301, 302, 303, 307, 308})

ANSWERED = frozenset({Reason.HTTP_4XX, Reason.HTTP_5XX})


class Step(Enum):
    """What follows when a request is over."""

    ENDED = auto()
    FOLLOW = auto()
    RETRY = auto()


class Transfer:
    """The state of one job; raises `UrlError` for a URL that cannot be fetched."""

    def __init__(self, job: Job, sink: Sink, options: FetchOptions, fields: RequestFields) -> None:
        self.job = job
        self.sink = sink
        self.start = self.url = parse_url(job.url)
        self.tried = 1
        self.trouble: Trouble | None = None
        """Why the present attempt has failed, or the last one of a transfer that ended."""
        self.fresh = False
        """The next request should not go over a connection that was used before."""
        self._options = options
        self._fields = fields
        self._target: Url | None = None
        self._hops = 0
        self._own_origin = True
        self._ranged = False
        self._joinable = False
        self._head: Head | None = None
        self._content: Content | None = None

    def request(self) -> list[bytes]:
        """The header lines to send to `url`; the same list object where nothing is special."""
        lines = self._fields.own if self._own_origin else self._fields.foreign
        if self._own_origin and self.start.userinfo is not None:
            kept = [line for line in lines if not line.lower().startswith(b"authorization")]
            lines = [*kept, basic(self.start.userinfo)]
        head, content = self._head, self._content
        # An entity tag speaks of one resource: only the URL that sent it may be asked to go on.
        self._ranged = False
        if self._joinable and head and head.etag and head.url == self.url.text and content and content.came:
            self._ranged = True
            lines = [*lines, *resume(content.came, head.etag)]
        return lines

    def answered(self, answer: Answer, now: float) -> bool:
        """Judge a head; True if the body that follows is for `take`. `now`: seconds since the epoch."""
        fields = answer.fields
        if answer.status in PARTLY_FILE and (why := headers.contradiction(answer)) is not None:
            self.trouble = Trouble(Reason.REFUSED, why)
            return False
        if answer.status in FILE:
            return self._begin(answer)
        if answer.status == 206 and self._ranged:
            return self._continue(answer)
        if answer.status in REDIRECT and "location" in fields:
            self._redirect(fields["location"])
        elif answer.status == 416 and self._ranged:
            self._cannot_join("the server refused to go on in the middle")
        else:
            wait = headers.retry_after(fields.get("retry-after"), now)
            self.trouble = from_status(answer.status, answer.phrase, wait)
        return False

    def take(self, data: bytes) -> bool:
        """Count, hash and pass on the next bytes; False if the sink asks for a pause or `trouble` came up."""
        assert self._content is not None
        try:
            data = self._content.take(data)
        except ContentError as error:
            self.trouble = Trouble(error.reason, error.detail)
            return False
        return self.sink.chunk(data) if data else True

    def finish(self, trouble: Trouble | None) -> Step:
        """The request is over, by `trouble` of the connection or without; at the end, tell the sink."""
        if self._target is not None and self.trouble is None:
            self.url, self._target = self._target, None
            return Step.FOLLOW
        content = self._content
        self.trouble = self.trouble or trouble or (content.fault() if content else None)
        if self.trouble is None:
            assert content is not None, "an answer without a body's head is a trouble"
            self.sink.done(Body(content.size, content.sha256, self.tried))
            return Step.ENDED
        if worth_another(self.trouble, self.tried, self._options):
            return Step.RETRY
        self.sink.failed(self.trouble.failure())
        return Step.ENDED

    def again(self) -> None:
        """Start the next attempt, from the URL as it was given."""
        self.tried += 1
        # A connection whose peer is stuck, or still sends the rest of a lie, serves no second attempt better.
        self.fresh = self.trouble is not None and self.trouble.reason not in ANSWERED
        self.url = self.start
        self.trouble = self._target = None
        self._hops = 0
        self._own_origin = True

    def _begin(self, answer: Answer) -> bool:
        fields = answer.fields
        head = Head(
            url=self.url.text,
            status=answer.status,
            type=headers.media_type(fields.get("content-type")),
            length=headers.length(answer),
            etag=fields.get("etag"),
            modified=fields.get("last-modified"),
            suggested=headers.suggested_name(fields.get("content-disposition")),
        )
        try:
            code = coding(fields.get("content-encoding")) if self._options.decode else None
        except ContentError as error:
            self.trouble = Trouble(error.reason, error.detail)
            return False
        self.trouble = self._objection(head)
        if self.trouble is not None:
            return False
        if self._head is not None:
            self.sink.restart()
        # What comes of a coded body is not announced.
        file = head._replace(length=None) if code else head
        most = self._options.limit(file.length)
        self._head, self._joinable = head, headers.is_strong(head.etag)
        digest = self._options.digest
        self._content = Content(fields, self.job.checksum, code, head.length, most, digest=digest)
        self.sink.begin(file)
        return True

    def _objection(self, head: Head) -> Trouble | None:
        options = self._options
        if options.expect and not any(fnmatchcase(head.type or "", kind.lower()) for kind in options.expect):
            wanted = ", ".join(options.expect)
            return Trouble(Reason.REFUSED, f"{head.type or 'no media type'} where {wanted} was expected")
        most = options.limit(head.length)
        return Trouble(*too_large(most)) if (head.length or 0) > most else None

    def _continue(self, answer: Answer) -> bool:
        """A part: only what surely goes on where the bytes so far end, in the same version of the file."""
        content = self._content
        assert self._head is not None and content is not None
        part = headers.content_range(answer.fields.get("content-range"))
        if part is None or part.start != content.came or answer.fields.get("etag") != self._head.etag:
            self._cannot_join("the part that was sent does not continue what came before")
            return False
        if content.total is None:
            content.total = part.total
        if part.total not in (None, content.total):
            self._cannot_join("the file's length changed")
            return False
        return True

    def _cannot_join(self, why: str) -> None:
        self._joinable = False
        self.trouble = Trouble(Reason.TRUNCATED, why, transient=True)

    def _redirect(self, location: str) -> None:
        self._hops += 1
        try:
            target = join_url(self.url, location)
        except UrlError as error:
            self.trouble = Trouble(Reason.REFUSED, f"redirect not followed: {error}")
            return
        if self._hops > self._options.redirects:
            self.trouble = Trouble(Reason.REFUSED, f"more than {self._options.redirects} redirects")
        elif self.url.scheme == "https" and target.scheme == "http":
            where = redact_url(target.text)
            self.trouble = Trouble(Reason.REFUSED, f"redirect from https to http not followed: {where}")
        else:
            self._own_origin = self._own_origin and target.origin == self.start.origin
            self._target = target
