"""One URL's transfer, attempt by attempt: decides on every response, and when to try again. No I/O, no clock.

::

    request -> answered -> take* -> finish --> ENDED    the sink has the file or the failure
       ^                               |-----> FOLLOW   `url` is the next hop
       |                               |-----> RETRY    call `again` first
       +-------------------------------+-----> WAIT     the host asked to wait: `again`, or `give_up`
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum, auto
from random import Random

from nearfar.download.fetch import headers
from nearfar.download.fetch.base import Sink, Trouble, from_status, unreadable
from nearfar.download.fetch.content import Content, ContentError, OtherBytesError, coding, codings, too_large
from nearfar.download.fetch.headers import Answer, ContentRange, suggested_name
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import Cookies, RequestFields, resume, with_cookie, with_userinfo
from nearfar.download.model import Body, Head, Job, Reason
from nearfar.download.redact import redact_url
from nearfar.download.store.names import GENERIC, LOOK, is_page, kind_of, looks_like_page, matches, promised
from nearfar.download.urls import Url, UrlError, join_url, parse_url

__all__ = ["DNS_TRIES", "Gains", "Step", "Throttle", "Transfer", "backoff", "park", "worth_another"]


DNS_TRIES = 2
"""A resolver that is down and a name that does not exist look the same; the second is far more frequent."""


def worth_another(trouble: Trouble, tried: int, options: FetchOptions) -> bool:
    """True if an attempt should follow the `tried` that were made."""
    most = min(options.tries, DNS_TRIES) if trouble.reason is Reason.DNS else options.tries
    return trouble.transient and tried < most


CUT_SHORT = frozenset({Reason.TRUNCATED, Reason.TIMEOUT, Reason.CONNECT})
"""Ends of an attempt that may have brought the file on all the same."""
FREE_GAINS = 100
"""Attempts that may bring little; those that follow must have brought `LEAST_GAIN` on the average."""
LEAST_GAIN = 1024
"""Bytes."""


class Gains:
    """Whether an attempt that was cut short brought the file on: then it does not count as a failure.

    So a line that breaks every few seconds brings a file of any size, and a server that sends a byte each
    time, or lets each attempt run into its timeout, still ends.
    """

    def __init__(self) -> None:
        self._furthest = 0
        self._attempts = 0

    def note(self, came: int, trouble: Trouble, options: FetchOptions) -> bool:
        """An attempt ended by `trouble` with `came` bytes there, from which the next one can go on."""
        gained, self._furthest = came - self._furthest, max(came, self._furthest)
        least = options.least_speed * options.stall_timeout if trouble.reason is Reason.TIMEOUT else 1
        if trouble.reason not in CUT_SHORT or not trouble.transient or gained < least:
            return False
        self._attempts += 1
        return came >= LEAST_GAIN * (self._attempts - FREE_GAINS)


def backoff(tried: int, options: FetchOptions, rng: Random) -> float:
    """Seconds to wait before the next attempt, after `tried` (1 or more): exponential, with full jitter.

    Full jitter is the best of the variants compared in M. Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015: clients that failed together do not return together.
    """
    ceiling = min(options.backoff_cap, options.backoff * 2.0 ** min(tried - 1, 60))
    return rng.uniform(0.0, ceiling)


def park(trouble: Trouble, options: FetchOptions) -> float:
    """Seconds for which the host is left alone; 0 if it did not ask."""
    return min(trouble.retry_after or 0.0, options.retry_after_cap)


class HostConcurrency:
    """How many requests at a time a host bears: additive increase, multiplicative decrease.

    The rule by which TCP shares a line (D. Chiu, R. Jain, 1989): a sender that asks too much halves, and
    tries one
    more after each round that went well. A host that never complains is asked as often as it may be.
    """

    __slots__ = ("_most", "_since", "_window", "window")

    def __init__(self, most: int) -> None:
        self.window = most
        """Requests that may be under way."""
        self._most = most
        self._window = float(most)
        self._since: float | None = None

    @property
    def calm(self) -> bool:
        """Nothing need be remembered of this host."""
        return self._since is None and self._window >= self._most

    def slow_down(self) -> None:
        """The host asked for fewer requests."""
        self._window = max(1.0, self._window / 2)
        self.window = int(self._window)

    def put_off(self, now: float) -> float:
        """The host put a request off; seconds since it began to do nothing but that."""
        if self._since is None:
            self._since = now
        return now - self._since

    def answered(self) -> None:
        """The host gave an answer that asks for no patience."""
        self._since = None
        if self._window < self._most:
            self._window = min(float(self._most), self._window + 1 / self._window)
            self.window = int(self._window)


class Throttle:
    """A token bucket that may go into debt: bytes are counted after they came, and paid off by waiting."""

    def __init__(self, rate: int | None, now: float) -> None:
        self._rate = rate
        self._debt = 0.0
        self._then = now

    def spend(self, size: int) -> None:
        """Count `size` bytes that came."""
        self._debt += size

    def wait(self, now: float) -> float:
        """Seconds until more may come. An idle time is not saved up: it allows no burst later."""
        if self._rate is None:
            return 0.0
        self._debt = max(0.0, self._debt - (now - self._then) * self._rate)
        self._then = now
        return self._debt / self._rate


FILE = frozenset({200, 203})
PARTLY_FILE = FILE | {206}
REDIRECT = frozenset({300, 301, 302, 303, 307, 308})

ANSWERED = frozenset({Reason.HTTP_4XX, Reason.HTTP_5XX})

NONE: dict[str, str] = {}

log = logging.getLogger(__name__)


class Step(Enum):
    """What follows when a request is over."""

    ENDED = auto()
    FOLLOW = auto()
    RETRY = auto()
    WAIT = auto()


class Transfer:
    """The state of one job; raises `UrlError` for a URL that cannot be fetched."""

    # Most transfers end as they began: what they never change is the class's.
    attempts = 1
    """Those that were made, the present one included."""
    tried = 1
    """Those of them that count: not one that brought the file on, nor one that the host put off."""
    trouble: Trouble | None = None
    """Why the present attempt has failed, or the last one of a transfer that ended."""
    fresh = False
    """The next request should not go over a connection that was used before."""
    waited = 0.0
    """Seconds that hosts have asked this transfer to wait."""
    put_off = 0
    """How often they have."""
    _target: Url | None = None
    _hops = 0
    _own_origin = True
    _cookies: Cookies | None = None
    _ranged = False
    _asked = 0
    """Where the part begins that was asked for, if one was."""
    _validator: str | None = None
    _distrusted = False
    """The server has lied about a part: no other one is asked for."""
    _gains: Gains | None = None
    _head: Head | None = None
    _content: Content | None = None
    _looked: bytes | None = None
    """The first bytes, kept back until they show what the file is; None: nothing is kept back."""
    _suspect = False
    """The next bytes are the first ones of a file, and may be a page that is not called one."""

    def __init__(self, job: Job, sink: Sink, options: FetchOptions, fields: RequestFields) -> None:
        self.job = job
        self.sink = sink
        self.start = self.url = url = parse_url(job.url)
        self._options = options
        self._fields = fields
        self._userinfo = url.userinfo

    def request(self) -> list[bytes]:
        """The header lines to send to `url`; the same list object where nothing is special."""
        lines = self._fields.own if self._own_origin else self._fields.foreign
        if self._userinfo is not None:
            lines = with_userinfo(lines, self._userinfo)
        if self._cookies is not None and (cookie := self._cookies.field(self.url)):
            lines = with_cookie(lines, cookie)
        head, content = self._head, self._content
        # A validator speaks of one resource: only the URL that sent it may be asked to go on.
        self._ranged = False
        if self._validator and head and head.url == self.url.text and content and content.came:
            self._ranged = True
            self._asked = content.go_on()
            lines = [*lines, *resume(self._asked, self._validator)]
        return lines

    def plain(self, lines: Sequence[bytes], pieces: Sequence[bytes]) -> bool:
        """Pass on a whole body, if the rules below have nothing to say about it; else do nothing: False.

        Most answers are so: 200 to the first request, as long as they say, without coding, digest or name.
        """
        if self._hops or self.attempts > 1 or not self._fields.plain or self.job.checksum is not None:
            return False
        fields = headers.plain_fields(lines)
        if fields is None:
            return False
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        size, kind = len(data), headers.media_type(fields.get("content-type"))
        most = self._options.max_size
        if fields.get("content-length") != str(size) or (most is not None and size > most):
            return False
        if looks_like_page(data) and not is_page(kind):
            return False
        sink = self.sink
        sink.begin(Head(self.url.text, 200, kind, size, fields.get("etag"), fields.get("last-modified")))
        if data:
            sink.chunk(data)
        sink.done(Body(size, None))
        return True

    def answered(self, answer: Answer, now: float) -> bool:
        """Judge a head; True if the body that follows is for `take`. `now`: seconds since the epoch."""
        before = self._head
        try:
            begun = self._judge(answer, now)
        except Exception as error:
            # Whatever a server sends may end its own URL only, even where it finds a fault of ours.
            return self.stumble(error)
        if begun and self._head is not None and self._head is not before:
            if before is not None:
                self.sink.restart()
            # What comes of a coded body is not announced.
            assert self._content is not None
            self.sink.begin(self._head._replace(length=None) if self._content.coded else self._head)
        return begun

    def stumble(self, error: Exception) -> bool:
        """An answer made our own code raise: the attempt has failed, and no other would do better."""
        log.debug("%s: %r", redact_url(self.url.text), error, exc_info=error)
        self.trouble = unreadable(error)
        return False

    def take(self, data: bytes) -> bool:
        """Count, hash and pass on the next bytes; False if the sink asks for a pause or `trouble` came up."""
        assert self._content is not None
        try:
            data = self._content.take(data)
            if self._looked is not None:
                data = self._look(data)
            elif self._suspect and data:
                self._suspect = False
                self._warn_of_page(data)
        except ContentError as error:
            # Of a part, it may be the server's lie about where it belongs.
            if isinstance(error, OtherBytesError) or (self._ranged and error.reason is Reason.TRUNCATED):
                self._cannot_join(error.detail)
            else:
                self.trouble = Trouble(error.reason, error.detail)
            return False
        except Exception as error:
            return self.stumble(error)
        return self.sink.chunk(data) if data else True

    def finish(self, trouble: Trouble | None) -> Step:
        """The request is over, by `trouble` of the connection or without; at the end, tell the sink."""
        if self._target is not None and self.trouble is None:
            self.url, self._target = self._target, None
            return Step.FOLLOW
        self.trouble = self.trouble or trouble or self._fault()
        if self.trouble is None:
            assert self._content is not None, "an answer without a body's head is a trouble"
            if self._looked:
                self.sink.chunk(self._looked)
                self._looked = None
            self.sink.done(Body(self._content.size, self._content.sha256, self.attempts))
            return Step.ENDED
        if self.trouble.paced:
            self.put_off += 1
            return Step.WAIT
        if self._brought_on(self.trouble):
            self.tried = 0
            return Step.RETRY
        if worth_another(self.trouble, self.tried, self._options):
            return Step.RETRY
        self.give_up()
        return Step.ENDED

    def _brought_on(self, trouble: Trouble) -> bool:
        """True if the attempt brought bytes from which the next one can go on."""
        if self._validator is None or self._content is None:
            return False
        self._gains = self._gains or Gains()
        return self._gains.note(self._content.came, trouble, self._options)

    def give_up(self, why: str = "") -> None:
        """Tell the sink that the present trouble is the last, and `why`."""
        assert self.trouble is not None
        failure = self.trouble.failure()
        self.sink.failed(failure._replace(detail=failure.detail + why))

    def again(self, *, counts: bool = True) -> None:
        """Start the next attempt, from the URL as it was given. `counts`: it is one of those allowed."""
        self.attempts += 1
        self.tried += counts
        # A connection whose peer is stuck, or still sends the rest of a lie, serves no second attempt better.
        self.fresh = self.trouble is not None and self.trouble.reason not in ANSWERED
        self.url, self._userinfo = self.start, self.start.userinfo
        self.trouble = self._target = self._cookies = None
        self._hops = 0
        self._own_origin = True

    def _judge(self, answer: Answer, now: float) -> bool:
        fields, status = answer.fields, answer.status
        if status in PARTLY_FILE and (why := headers.contradiction(answer)) is not None:
            self.trouble = Trouble(Reason.REFUSED, why)
            return False
        if status in FILE:
            return self._whole(answer)
        if status == 206:
            return self._part(answer, headers.content_range(answer.single("content-range")))
        if status in REDIRECT and "location" in fields:
            self._redirect(answer, now)
        elif status == 416 and self._ranged:
            return self._beyond(answer)
        else:
            wait = headers.retry_after(fields.get("retry-after"), now)
            self.trouble = from_status(status, answer.phrase, wait)
        return False

    def _fault(self) -> Trouble | None:
        """What is wrong, if all that came is the whole body."""
        content = self._content
        if content is None:
            return None
        try:
            fault = content.fault()
            if fault is None and self._looked is not None:
                self._looked = self._look(b"", whole=True)
        except ContentError as error:
            return Trouble(error.reason, error.detail)
        except Exception as error:
            return unreadable(error)
        if fault is not None and fault.reason is Reason.CHECKSUM and content.joined:
            # One of the parts may have been another file's.
            self._cannot_join(fault.detail)
        return self.trouble or fault

    def _begin(self, answer: Answer, length: int | None) -> bool:
        """A file from its first byte on; `length` of all of it."""
        fields = answer.fields
        head = Head(
            url=self.url.text,
            status=answer.status,
            type=headers.media_type(answer.brief("content-type")),
            length=length,
            etag=answer.brief("etag"),
            modified=answer.brief("last-modified"),
            suggested=suggested_name(answer.every("content-disposition"))
            if "content-disposition" in fields
            else None,
        )
        codes = answer.joined("content-encoding")
        try:
            code = coding(codes) if self._options.decode else None
        except ContentError as error:
            self.trouble = Trouble(error.reason, error.detail)
            return False
        opaque = codes is not None and code is None and bool(codings(codes))
        self.trouble = self._objection(head, opaque=opaque)
        if self.trouble is not None:
            return False
        self._looked = b"" if self._options.expect and not opaque else None
        self._suspect = not (opaque or self._options.expect or is_page(head.type))
        named = _digests(answer) if not fields.keys().isdisjoint(headers.DIGESTS) else NONE
        most = self._options.limit(None if code else length)
        self._content = Content(named, self.job.checksum, code, length, most, digest=self._options.digest)
        self._head = head
        self._validator = None if self._distrusted else headers.validator(answer)
        return True

    def _objection(self, head: Head, *, opaque: bool) -> Trouble | None:
        """Why a file with this head is not taken. `opaque`: its first bytes will not show what it is."""
        options = self._options
        told = (head.type or "") not in GENERIC
        if options.expect and (told or opaque) and not matches(head.type, options.expect):
            return Trouble(*self._unexpected(head.type))
        most = options.limit(head.length)
        return Trouble(*too_large(most)) if (head.length or 0) > most else None

    def _look(self, data: bytes, *, whole: bool = False) -> bytes:
        """What was kept back, with `data`, if its first bytes show what is expected; nothing while few came.

        Bytes that show nothing are believed to be what the server says, if it says anything. Of images, any
        known kind is compared; of other types, which share their forms (a .docx is a zip), only pages are
        seen through. Raises `ContentError`. `whole`: no more comes.
        """
        assert self._looked is not None and self._head is not None
        data = self._looked + data
        if len(data) < LOOK and not whole:
            self._looked = data
            return b""
        self._looked = None
        found, told = kind_of(data), self._head.type or ""
        image = told.startswith("image/")
        believed = told not in GENERIC and (
            not (image and not data) if found is None else not (image or is_page(found))
        )
        if not believed and not matches(found, self._options.expect):
            raise ContentError(*self._unexpected(found or self._head.type, seen=found is not None))
        return data

    def _unexpected(self, kind: str | None, *, seen: bool = False) -> tuple[Reason, str]:
        wanted = ", ".join(self._options.expect)
        by = " (by its first bytes)" if seen else ""
        return Reason.REFUSED, f"{kind or 'no media type'}{by} where {wanted} was expected"

    def _warn_of_page(self, data: bytes) -> None:
        """Warn of a page that is declared as something else. The `JobSource` handles declared pages."""
        if not looks_like_page(data):
            return
        kind = promised(self.job.name or self.start.split()[1])
        if kind is not None:
            log.warning(
                "%s: its bytes are a web page, whatever its name says (--expect '%s' would refuse it)",
                redact_url(self.job.url),
                kind,
            )

    def _whole(self, answer: Answer) -> bool:
        """A 200: all of the file; unless a server means a part and does not say so, or not in the status."""
        length = headers.length(answer)
        part = headers.content_range(answer.single("content-range"))
        if part is not None and length == part.size:
            return self._part(answer, part)
        if self._ranged and self._content is not None and self._content.total is not None:
            total = self._content.total
            same = self._validator in (answer.single("etag"), answer.single("last-modified"))
            if length is not None and (length == total - self._asked or (same and length != total)):
                self._cannot_join("the server sent a part of the file as if it were the whole")
                return False
        return self._begin(answer, length)

    def _part(self, answer: Answer, part: ContentRange | None) -> bool:
        """A 206: the rest that was asked for, or the file's beginning, or all of it, asked for or not."""
        if part is not None and headers.length(answer) not in (None, part.size):
            part = None
        if self._ranged and part is not None and self._goes_on(answer, part):
            return True
        if part is not None and part.start == 0 and part.total is not None:
            self._distrusted = self._distrusted or self._ranged
            return self._begin(answer, part.total)
        if self._ranged:
            self._cannot_join("the part that was sent does not continue what came before")
        elif part is not None:
            self.trouble = Trouble(Reason.REFUSED, "HTTP 206: a part of the file that was not asked for")
        else:
            self.trouble = from_status(answer.status, answer.phrase, None)
        return False

    def _goes_on(self, answer: Answer, part: ContentRange) -> bool:
        """Join a part, where it surely goes on with what came, in the same version of the file."""
        content = self._content
        assert content is not None
        if not self._same_version(answer) or part.total not in (None, content.total or part.total):
            return False
        if not content.rewind(part.start):
            return False
        content.total = content.total or part.total
        return True

    def _same_version(self, answer: Answer) -> bool:
        """A 206 must name the tag again; of a date it need not (RFC 9110, 15.3.7)."""
        if self._head is not None and self._validator == self._head.etag:
            return answer.single("etag") == self._validator
        return answer.single("last-modified") in (None, self._validator)

    def _beyond(self, answer: Answer) -> bool:
        """A 416: there is no more of the file. If it tells the length that came, that was all."""
        content = self._content
        assert content is not None
        total = headers.unsatisfied(answer.single("content-range"))
        same = answer.single("etag") in (None, self._head and self._head.etag)
        if same and total == content.came and content.total in (None, total):
            content.total = total
        else:
            self._cannot_join("the server refused to go on in the middle")
        return False

    def _cannot_join(self, why: str) -> None:
        self._validator = None
        self._distrusted = True
        self.trouble = Trouble(Reason.TRUNCATED, why, transient=True)

    def _redirect(self, answer: Answer, now: float) -> None:
        self._hops += 1
        try:
            # Of several targets the first, as libcurl's own way and other tools have it.
            target = join_url(self.url, answer.fields["location"])
        except UrlError as error:
            self.trouble = Trouble(Reason.REFUSED, f"redirect not followed: {error}")
            return
        if self._hops > self._options.redirects:
            self.trouble = Trouble(Reason.REFUSED, f"more than {self._options.redirects} redirects")
        elif self.url.scheme == "https" and target.scheme == "http":
            where = redact_url(target.text)
            self.trouble = Trouble(Reason.REFUSED, f"redirect from https to http not followed: {where}")
        else:
            self._go_to(target, answer, now)

    def _go_to(self, target: Url, answer: Answer, now: float) -> None:
        if "set-cookie" in answer.fields:
            self._cookies = self._cookies or Cookies()
            self._cookies.take(answer.every("set-cookie"), self.url, now)
        if target.origin != self.url.origin:
            self._userinfo = None
        elif target.userinfo is not None:
            self._userinfo = target.userinfo
        self._own_origin = self._own_origin and target.origin == self.start.origin
        self._target = target


def _digests(answer: Answer) -> dict[str, str]:
    """The fields that name digests of the whole."""
    named = {name: answer.joined(name) or "" for name in headers.DIGESTS if name in answer.fields}
    if answer.status == 206:
        named.pop("content-md5", None)  # it speaks of the part
    return named
