"""One URL's transfer, attempt by attempt: decides on each response, and when to retry. No I/O, no clock.

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
from typing import TYPE_CHECKING

from nearfar.download.fetch import headers
from nearfar.download.fetch.base import Sink, Trouble, from_status, unreadable
from nearfar.download.fetch.content import Content, ContentError, OtherBytesError, coding, codings, too_large
from nearfar.download.fetch.headers import Answer, ContentRange, suggested_name
from nearfar.download.fetch.options import FetchOptions
from nearfar.download.fetch.request import (
    Cookies,
    RequestFields,
    resume,
    unless_changed,
    with_cookie,
    with_userinfo,
)
from nearfar.download.model import Body, Head, Job, Partial, Reason, Saved
from nearfar.download.redact import redact_url, written
from nearfar.download.store.names import GENERIC, LOOK, is_page, kind_of, looks_like_page, matches, promised
from nearfar.download.urls import Url, UrlError, join_url, parse_url

if TYPE_CHECKING:
    from random import Random

__all__ = ["DNS_TRIES", "Gains", "Step", "Throttle", "Transfer", "backoff", "park", "worth_another"]


DNS_TRIES = 2
"""Tries of a name lookup: a missing name looks like a resolver failure, and is more frequent."""


def worth_another(trouble: Trouble, tried: int, options: FetchOptions) -> bool:
    """True if another attempt should follow the `tried` ones."""
    most = min(options.tries, DNS_TRIES) if trouble.reason is Reason.DNS else options.tries
    return trouble.transient and tried < most


CUT_SHORT = frozenset({Reason.TRUNCATED, Reason.TIMEOUT, Reason.CONNECT})
"""Reasons of failed attempts that may have made progress."""
FREE_GAINS = 100
"""Attempts that may bring few bytes; later ones must bring `LEAST_GAIN` on average."""
LEAST_GAIN = 1024
"""Bytes per attempt."""


class Gains:
    """Decides whether an attempt that was cut short made progress: then it does not count as a failure.

    So a connection that breaks every few seconds can still deliver a file of any size, and a server that
    sends one byte per attempt, or lets each attempt time out, is given up eventually.
    """

    def __init__(self) -> None:
        self._furthest = 0
        self._attempts = 0

    def note(self, came: int, trouble: Trouble, options: FetchOptions) -> bool:
        """True if the attempt, ended by `trouble` with `came` bytes so far, made enough progress."""
        gained, self._furthest = came - self._furthest, max(came, self._furthest)
        least = options.least_speed * options.stall_timeout if trouble.reason is Reason.TIMEOUT else 1
        if trouble.reason not in CUT_SHORT or not trouble.transient or gained < least:
            return False
        self._attempts += 1
        return came >= LEAST_GAIN * (self._attempts - FREE_GAINS)


def backoff(tried: int, options: FetchOptions, rng: Random) -> float:
    """Seconds to wait before the next attempt, after `tried` (1 or more): exponential, with full jitter.

    Full jitter is the best variant in M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015: clients that failed together do not return together.
    """
    ceiling = min(options.backoff_cap, options.backoff * 2.0 ** min(tried - 1, 60))
    return rng.uniform(0.0, ceiling)


def park(trouble: Trouble, options: FetchOptions) -> float:
    """Seconds for which no request goes to the host; 0 if it did not ask for that."""
    return min(trouble.retry_after or 0.0, options.retry_after_cap)


class HostConcurrency:
    """The number of concurrent requests to a host: additive increase, multiplicative decrease.

    TCP's rule (D. Chiu, R. Jain, 1989): halve the window on 429 or 503, add one after each round that went
    well. A host that sends neither keeps the maximum.
    """

    __slots__ = ("_most", "_since", "_window", "window")

    def __init__(self, most: int) -> None:
        self.window = most
        """Requests that may be in flight."""
        self._most = most
        self._window = float(most)
        self._since: float | None = None

    @property
    def calm(self) -> bool:
        """The window is the maximum and the host defers nothing: its state need not be kept."""
        return self._since is None and self._window >= self._most

    def slow_down(self) -> None:
        """The host asked for fewer requests."""
        self._window = max(1.0, self._window / 2)
        self.window = int(self._window)

    def put_off(self, now: float) -> float:
        """The host deferred a request; return the seconds since it began to do only that."""
        if self._since is None:
            self._since = now
        return now - self._since

    def answered(self) -> None:
        """The host sent a response other than 429 or 503."""
        self._since = None
        if self._window < self._most:
            self._window = min(float(self._most), self._window + 1 / self._window)
            self.window = int(self._window)


class Throttle:
    """A token bucket that may go into debt: bytes are counted after receipt, and the debt is waited for."""

    def __init__(self, rate: int | None, now: float) -> None:
        self._rate = rate
        self._debt = 0.0
        self._then = now

    def spend(self, size: int) -> None:
        """Count `size` received bytes."""
        self._debt += size

    def wait(self, now: float) -> float:
        """Seconds until more may be received. Idle time gives no credit: it allows no later burst."""
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
    """What follows when a request has ended."""

    ENDED = auto()
    FOLLOW = auto()
    RETRY = auto()
    WAIT = auto()


class Transfer:
    """The state of one job; raises `UrlError` for a URL that cannot be fetched."""

    # Most transfers keep these defaults, so they are class attributes.
    attempts = 1
    """Attempts made, the present one included."""
    tried = 1
    """Attempts that count: without those that made progress, or that the host deferred."""
    trouble: Trouble | None = None
    """Why the present attempt has failed, or the last one of a transfer that ended."""
    fresh = False
    """The next request should use a new connection."""
    waited = 0.0
    """Seconds that hosts have asked this transfer to wait."""
    put_off = 0
    """How often hosts deferred it."""
    _target: Url | None = None
    _hops = 0
    _own_origin = True
    _cookies: Cookies | None = None
    _ranged = False
    _asked = 0
    """The first byte of the requested part, if one was requested."""
    _validator: str | None = None
    _distrusted = False
    """The server sent a wrong part: no other part is requested."""
    _gains: Gains | None = None
    _head: Head | None = None
    _content: Content | None = None
    _looked: bytes | None = None
    """The first bytes, held back until they show the file's type; None: nothing is held back."""
    _suspect = False
    """The next bytes are the first of a file, and may be an undeclared web page."""
    _continued: Partial | None = None
    """The partial file in `_content`, until the server has confirmed it."""
    _anew = False
    """The present response starts the file from its first byte."""
    _checks: str | None = None
    """See `Body.checks`."""
    _conditional = False
    """The present request asks only for another version than the saved one."""
    _unchanged = False
    """The server has no other version."""

    def __init__(
        self,
        job: Job,
        sink: Sink,
        options: FetchOptions,
        fields: RequestFields,
        partial: Partial | None = None,
        saved: Saved | None = None,
    ) -> None:
        """`partial`: the bytes that the sink has. `saved`: the file of an earlier transfer, fetched only
        if it has changed."""
        self._partial = partial
        self._saved = saved
        self.job = job
        self.sink = sink
        self.start = self.url = url = parse_url(job.url)
        self._options = options
        self._fields = fields
        self._userinfo = url.userinfo

    @property
    def own_origin(self) -> bool:
        """Whether the next request goes to the origin of the job's URL, and every one before did."""
        return self._own_origin

    def request(self) -> list[bytes]:
        """The header lines to send to `url`; the same list object if nothing is special."""
        lines = self._fields.own if self._own_origin else self._fields.foreign
        login = self._userinfo or self._fields.login(self.url, own_origin=self._own_origin)
        if login is not None:
            lines = with_userinfo(lines, login)
        cookies = self._cookies or self._fields.cookies
        if cookie := cookies.field(self.url):
            lines = with_cookie(lines, cookie)
        if self._partial is not None and self._partial.comes_from(self.url.text):
            self._take_up(self._partial)
        head, content = self._head, self._content
        # A validator belongs to one resource: only the URL that sent it is asked for a part.
        self._ranged = False
        if self._validator and head and head.url == self.url.text and content and content.came:
            self._ranged = True
            self._asked = content.go_on()
            lines = [*lines, *resume(self._asked, self._validator)]
        if self._saved is not None:
            lines = self._unless_changed(self._saved, lines)
        return lines

    def _unless_changed(self, saved: Saved, lines: list[bytes]) -> list[bytes]:
        """Ask for another version than the saved one, at the URL that sent its validators."""
        condition, text = list[bytes](), self.url.text
        if not (self._ranged or self._fields.conditional) and (said := written(text)) == saved.final_url:
            # With its secrets masked, it may be the URL of another file, which a date does not show.
            condition = unless_changed(saved, by_date=said == text)
        self._conditional = bool(condition)
        return [*lines, *condition] if condition else lines

    def _take_up(self, partial: Partial) -> None:
        """Continue a partial file as if its bytes had come in this transfer."""
        self._partial, self._continued = None, partial
        self._content = Content.after(partial, self._options.limit(partial.length))
        self._head = Head(self.url.text, 200, None, partial.length, partial.etag, partial.modified)
        self._validator = partial.validator

    def plain(self, lines: Sequence[bytes], pieces: Sequence[bytes]) -> bool:
        """Pass on a whole body, if no rule below applies to it; otherwise do nothing and return False.

        Most responses are so: 200 to the first request, of the announced length, without coding, digest or
        name.
        """
        if self._hops or self.attempts > 1 or not self._fields.plain or self.job.checksum is not None:
            return False
        if self._head is not None or self._partial is not None:
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
        """Evaluate a head; True if the body that follows goes to `take`. `now`: seconds since the epoch."""
        before, self._anew = self._head, False
        try:
            begun = self._judge(answer, now)
        except Exception as error:
            # A response may end its own URL only, even if it triggers an error in our code.
            return self.stumble(error)
        if begun and self._anew:
            if before is not None or self._partial is not None:
                self._partial = self._continued = self._checks = None
                self.sink.restart()
            # The decoded length of a body is not announced.
            assert self._content is not None and self._head is not None
            self.sink.begin(self._head._replace(length=None) if self._content.coded else self._head)
        return begun

    def stumble(self, error: Exception) -> bool:
        """A response made our own code raise: the attempt has failed, and a retry would fail too."""
        log.debug("%s: %r", redact_url(self.url.text), error, exc_info=error)
        self.trouble = unreadable(error)
        return False

    def take(self, data: bytes) -> bool:
        """Count, hash and pass on the next bytes; False if the sink asks for a pause or `trouble` was set."""
        assert self._content is not None
        try:
            data = self._content.take(data)
            if self._looked is not None:
                data = self._look(data)
            elif self._suspect and data:
                self._suspect = False
                self._warn_of_page(data)
        except ContentError as error:
            # The server may have sent a part with a wrong offset.
            if isinstance(error, OtherBytesError) or (self._ranged and error.reason is Reason.TRUNCATED):
                self._cannot_join(error.detail)
            else:
                self.trouble = Trouble(error.reason, error.detail)
            return False
        except Exception as error:
            return self.stumble(error)
        return self.sink.chunk(data) if data else True

    def finish(self, trouble: Trouble | None) -> Step:
        """The request has ended, by `trouble` of the connection or without; at the end, notify the sink."""
        if self._target is not None and self.trouble is None:
            self.url, self._target = self._target, None
            return Step.FOLLOW
        self.trouble = self.trouble or trouble or self._fault()
        if self.trouble is None and self._unchanged:
            self.sink.unchanged()
            return Step.ENDED
        if self.trouble is None:
            assert self._content is not None, "an answer without a body's head is a trouble"
            if self._looked:
                self.sink.chunk(self._looked)
                self._looked = None
            self.sink.done(Body(self._content.size, self._content.sha256, self.attempts, self._checks))
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
        """True if the attempt brought bytes that the next one can continue."""
        if self._validator is None or self._content is None:
            return False
        self._gains = self._gains or Gains()
        return self._gains.note(self._content.came, trouble, self._options)

    def give_up(self, why: str = "") -> None:
        """Report the present trouble to the sink as final, and `why`."""
        assert self.trouble is not None
        failure = self.trouble.failure()
        self.sink.failed(failure._replace(detail=failure.detail + why))

    def again(self, *, counts: bool = True) -> None:
        """Start the next attempt, from the URL as given. `counts`: it uses one of the allowed tries."""
        self.attempts += 1
        self.tried += counts
        # Avoid a connection whose peer is stuck, or still sends the rest of a wrong response.
        self.fresh = self.trouble is not None and self.trouble.reason not in ANSWERED
        self.url, self._userinfo = self.start, self.start.userinfo
        self.trouble = self._target = self._cookies = None
        self._unchanged = False
        self._hops = 0
        self._own_origin = True

    def _judge(self, answer: Answer, now: float) -> bool:
        fields, status = answer.fields, answer.status
        if status in PARTLY_FILE and (why := headers.contradiction(answer)) is not None:
            self.trouble = Trouble(Reason.REJECTED, why)
            return False
        if status in FILE:
            return self._whole(answer)
        if status == 206:
            return self._part(answer, headers.content_range(answer.single("content-range")))
        if status in REDIRECT and "location" in fields:
            self._redirect(answer, now)
        elif status == 416 and self._ranged:
            return self._beyond(answer)
        elif status == 304 and self._conditional:
            self._unchanged = True
        else:
            wait = headers.retry_after(fields.get("retry-after"), now)
            self.trouble = from_status(status, answer.phrase, wait)
        return False

    def _fault(self) -> Trouble | None:
        """What is wrong, if all received bytes are the whole body."""
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
            # One of the parts may belong to another file.
            self._cannot_join(fault.detail)
        return self.trouble or fault

    def _begin(self, answer: Answer, length: int | None) -> bool:
        """Start a file from its first byte; `length` is its whole length."""
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
            # Another transfer may ask for another coding: only a body without any can be continued by it.
            validator=None if self._distrusted or "content-encoding" in fields else headers.validator(answer),
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
        self._head, self._anew = head, True
        self._validator = None if self._distrusted else headers.validator(answer)
        return True

    def _objection(self, head: Head, *, opaque: bool) -> Trouble | None:
        """Why a file with this head is rejected. `opaque`: its first bytes will not show its type."""
        options = self._options
        told = (head.type or "") not in GENERIC
        if options.expect and (told or opaque) and not matches(head.type, options.expect):
            return Trouble(*self._unexpected(head.type))
        most = options.limit(head.length)
        return Trouble(*too_large(most)) if (head.length or 0) > most else None

    def _look(self, data: bytes, *, whole: bool = False) -> bytes:
        """Return the bytes held back, with `data`, once the first bytes have an expected type; none before.

        If the bytes show no type, the declared one is accepted, if there is one. For images, any detected
        type is compared; other types share formats (a .docx is a zip), so there only web pages are detected.
        Raises `ContentError`. `whole`: no more bytes come.
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
        return Reason.REJECTED, f"{kind or 'no media type'}{by} where {wanted} was expected"

    def _warn_of_page(self, data: bytes) -> None:
        """Warn about a web page that is declared as something else. `JobSource` handles declared pages."""
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
        """A 200 is the whole file, except if the server sends a part and does not mark it with status 206."""
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
        """A 206: the requested rest, or the file's beginning or all of it, requested or not."""
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
            self.trouble = Trouble(Reason.REJECTED, "HTTP 206: a part of the file that was not asked for")
        else:
            self.trouble = from_status(answer.status, answer.phrase, None)
        return False

    def _goes_on(self, answer: Answer, part: ContentRange) -> bool:
        """Append a part, if it certainly continues the received bytes, in the same version of the file."""
        content = self._content
        assert content is not None
        if not self._same_version(answer) or part.total not in (None, content.total or part.total):
            return False
        if self._continued is not None and not self._confirms(answer, self._continued):
            return False
        if not content.rewind(part.start):
            return False
        content.total = content.total or part.total
        return True

    def _confirms(self, answer: Answer, partial: Partial) -> bool:
        """The first part of a file that another transfer began: whether this one's rules allow the file.

        If not, it is fetched from the start, where the same rules give the reason.
        """
        if codings(answer.joined("content-encoding")):
            return False
        if self._options.expect:
            assert self._head is not None
            self._head = self._head._replace(type=headers.media_type(answer.brief("content-type")))
            self._looked = b""
            try:
                if self._objection(self._head, opaque=False) is not None:
                    return False
                self._look(partial.first, whole=True)
            except ContentError:
                return False
            finally:
                self._looked = None
        # `answered` passes on no head for this response: the sink has the one of the earlier transfer.
        own = (self.job.checksum,) if self.job.checksum else ()
        checks = (*own, *headers.named_digests(_digests(answer)))
        self._checks = " ".join(f"{each.algorithm}={each.digest}" for each in checks) or None
        self._continued = None
        return True

    def _same_version(self, answer: Answer) -> bool:
        """A 206 must repeat the tag; it need not repeat a date (RFC 9110, 15.3.7)."""
        if self._head is not None and self._validator == self._head.etag:
            return answer.single("etag") == self._validator
        return answer.single("last-modified") in (None, self._validator)

    def _beyond(self, answer: Answer) -> bool:
        """A 416: the file has no more bytes. If it names the received length, the file is complete."""
        content = self._content
        assert content is not None
        total = headers.unsatisfied(answer.single("content-range"))
        same = answer.single("etag") in (None, self._head and self._head.etag)
        if self._continued is None and same and total == content.came and content.total in (None, total):
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
            # Of several targets take the first, as libcurl and other tools do.
            target = join_url(self.url, answer.fields["location"])
        except UrlError as error:
            self.trouble = Trouble(Reason.REJECTED, f"redirect not followed: {error}")
            return
        if self._hops > self._options.redirects:
            self.trouble = Trouble(Reason.REJECTED, f"more than {self._options.redirects} redirects")
        elif self.url.scheme == "https" and target.scheme == "http":
            where = redact_url(target.text)
            self.trouble = Trouble(Reason.REJECTED, f"redirect from https to http not followed: {where}")
        else:
            self._go_to(target, answer, now)

    def _go_to(self, target: Url, answer: Answer, now: float) -> None:
        if "set-cookie" in answer.fields:
            self._cookies = self._cookies or Cookies(self._fields.jar)
            self._cookies.take(answer.every("set-cookie"), self.url, now)
        if target.origin != self.url.origin:
            self._userinfo = None
        elif target.userinfo is not None:
            self._userinfo = target.userinfo
        self._own_origin = self._own_origin and target.origin == self.start.origin
        self._target = target


def _digests(answer: Answer) -> dict[str, str]:
    """The fields that hold digests of the whole file."""
    named = {name: answer.joined(name) or "" for name in headers.DIGESTS if name in answer.fields}
    if answer.status == 206:
        named.pop("content-md5", None)  # a digest of the part
    return named
