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
from nearfar.download.fetch.digests import Hashes, named_digests
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
REDIRECT = frozenset({301, 302, 303, 307, 308})


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
        self._options = options
        self._fields = fields
        self._target: Url | None = None
        self._hops = 0
        self._own_origin = True
        self._ranged = False
        self._joinable = False
        self._head: Head | None = None
        self._total: int | None = None
        self._size = 0
        self._most = 0
        self._hashes: Hashes

    def request(self) -> list[bytes]:
        """The header lines to send to `url`; the same list object where nothing is special."""
        lines = self._fields.own if self._own_origin else self._fields.foreign
        if self._own_origin and self.start.userinfo is not None:
            kept = [line for line in lines if not line.lower().startswith(b"authorization")]
            lines = [*kept, basic(self.start.userinfo)]
        head = self._head
        # An entity tag speaks of one resource: only the URL that sent it may be asked to go on.
        self._ranged = self._joinable and self._size > 0 and head is not None and head.url == self.url.text
        if self._ranged and head is not None and head.etag is not None:
            lines = [*lines, *resume(self._size, head.etag)]
        return lines

    def answered(self, answer: Answer, now: float) -> bool:
        """Judge a head; True if the body that follows is for `take`. `now`: seconds since the epoch."""
        fields = answer.fields
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
        self._size += len(data)
        if self._size > self._most:
            self.trouble = self._too_large()
            return False
        self._hashes.update(data)
        return self.sink.chunk(data)

    def finish(self, trouble: Trouble | None) -> Step:
        """The request is over, by `trouble` of the connection or without; at the end, tell the sink."""
        if self._target is not None and self.trouble is None:
            self.url, self._target = self._target, None
            return Step.FOLLOW
        self.trouble = self.trouble or trouble or self._verify()
        if self.trouble is None:
            self.sink.done(Body(self._size, self._hashes.sha256, self.tried))
            return Step.ENDED
        if worth_another(self.trouble, self.tried, self._options):
            return Step.RETRY
        self.sink.failed(self.trouble.failure())
        return Step.ENDED

    def again(self) -> None:
        """Start the next attempt, from the URL as it was given."""
        self.tried += 1
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
        self._most = self._options.limit(head.length)
        self.trouble = self._objection(head)
        if self.trouble is not None:
            return False
        if self._head is not None:
            self.sink.restart()
        self._head, self._total, self._size = head, head.length, 0
        self._joinable = headers.is_strong(head.etag)
        own = (self.job.checksum,) if self.job.checksum else ()
        self._hashes = Hashes((*own, *named_digests(fields)))
        self.sink.begin(head)
        return True

    def _objection(self, head: Head) -> Trouble | None:
        options = self._options
        if options.expect and not any(fnmatchcase(head.type or "", kind.lower()) for kind in options.expect):
            wanted = ", ".join(options.expect)
            return Trouble(Reason.REFUSED, f"{head.type or 'no media type'} where {wanted} was expected")
        return self._too_large() if (head.length or 0) > self._most else None

    def _too_large(self) -> Trouble:
        return Trouble(Reason.TOO_LARGE, f"more than the {self._most:,} bytes allowed (--max-size)")

    def _continue(self, answer: Answer) -> bool:
        """A part: only what surely goes on where the bytes so far end, in the same version of the file."""
        assert self._head is not None
        part = headers.content_range(answer.fields.get("content-range"))
        if part is None or part.start != self._size or answer.fields.get("etag") != self._head.etag:
            self._cannot_join("the part that was sent does not continue what came before")
            return False
        if self._total is None:
            self._total = part.total
        if part.total not in (None, self._total):
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

    def _verify(self) -> Trouble | None:
        if self._total is not None and self._size != self._total:
            return Trouble(
                Reason.TRUNCATED, f"{self._size} of {self._total} bytes came", self._size < self._total
            )
        wrong = self._hashes.wrong()
        if wrong is not None:
            return Trouble(Reason.CHECKSUM, f"the content has not the {wrong.algorithm} {wrong.digest}")
        return None
