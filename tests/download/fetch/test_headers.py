"""Header fields, read as their standards say and as servers send them."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.fetch.content import ContentError, coding
from nearfar.download.fetch.headers import (
    FIELDS,
    Answer,
    ContentRange,
    Hashes,
    content_range,
    contradiction,
    http_date,
    is_known,
    is_strong,
    length,
    media_type,
    named_digests,
    parse_head,
    retry_after,
    suggested_name,
    unsatisfied,
    validator,
)
from nearfar.download.fetch.request import Cookies
from nearfar.download.model import Checksum
from nearfar.download.urls import parse_url

pytestmark = pytest.mark.pure


def test_the_last_head_counts() -> None:
    lines = [
        b"HTTP/1.1 200 Connection established\r\n",
        b"Digest: proxy\r\n",
        b"\r\n",
        b"HTTP/1.1 103 Early Hints\r\n",
        b'ETag: "early"\r\n',
        b"\r\n",
        b"HTTP/1.1 404 Not  There \r\n",
        b"content-TYPE:text/html; x=HTTP/1.1 200\t\r\n",
        b"Digest: a\r\n",
        b"digest: b\r\n",
        b"X-Other: c\r\n",
        b"\r\n",
    ]
    answer = parse_head(lines)
    assert (answer.status, answer.phrase) == (404, "Not  There")
    assert answer.fields == {"content-type": "text/html; x=HTTP/1.1 200", "digest": "a"}
    assert (answer.joined("digest"), answer.single("digest"), answer.every("digest")) == (
        "a, b",
        None,
        ["a", "b"],
    )


@given(st.lists(st.binary()))
def test_no_head_breaks_the_reader(lines: list[bytes]) -> None:
    answer = parse_head(lines)
    assert length(answer) is None or length(answer) == min(int(answer.fields["content-length"]), 2**63 - 1)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        (b"Content-Length: 5\r\n", 5),
        (b"Content-Length: -5\r\n", None),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n", 2**63 - 1),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", None),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", None),
        (b"", None),
    ],
)
def test_a_length_is_a_number_or_unknown(fields: bytes, size: int | None) -> None:
    assert length(parse_head([b"HTTP/1.1 200 OK\r\n", fields])) == size


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (b"Content-Length: 5\r\nContent-Length: 3\r\n", "lengths"),
        (b"Content-Length: 5, 3\r\n", "lengths"),
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", ""),
        (b"Transfer-Encoding: gzip, chunked\r\n", "coding"),
        (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "coding"),
        (b"Transfer-Encoding: Chunked \r\n", ""),
        (b"", ""),
    ],
)
def test_a_body_whose_end_or_form_nobody_can_tell(fields: bytes, word: str) -> None:
    assert word in (contradiction(parse_head([b"HTTP/1.1 200 OK\r\n", *fields.splitlines(True)])) or "")
    assert bool(word) is (contradiction(parse_head([*fields.splitlines(True)])) is not None)


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("bytes 5-9/10", ContentRange(5, 9, 10)),
        ("Bytes  0-0/*", ContentRange(0, 0, None)),
        ("bytes 5-10/10", None),
        ("bytes 6-5/10", None),
        ("bytes */10", None),
        ("items 5-9/10", None),
        ("bytes 5-9", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, part: ContentRange | None) -> None:
    assert content_range(value) == part


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 37.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 37.0),
        ("Sun Nov  6 08:49:37 1994", 37.0),
        ("Sun, 06 Nov 1994 08:48:59 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: float | None) -> None:
    now = 784111740.0  # Sun, 06 Nov 1994 08:49:00 GMT
    assert retry_after(value, now) == seconds


@pytest.mark.parametrize(
    ("etag", "strong"),
    [
        ('"a"', True),
        ('"a\rX: b"', False),
        ('"a b"', False),
        ('"\xe4"', True),
        ('""', True),
        ('W/"a"', False),
        ("a", False),
        (None, False),
    ],
)
def test_only_a_quoted_tag_is_strong(etag: str | None, strong: bool) -> None:
    assert is_strong(etag) is strong


@pytest.mark.parametrize(
    ("value", "kind"), [("Text/HTML ; charset=x", "text/html"), ("", None), (None, None), (";x", None)]
)
def test_media_type(value: str | None, kind: str | None) -> None:
    assert media_type(value) == kind


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("attachment; filename=plain.txt", "plain.txt"),
        ('attachment; filename="a; b.txt"; x=y', "a; b.txt"),
        (r'attachment; filename="a\"b\\c"', 'a"b\\c'),
        ("attachment; filename=a.txt; filename*=UTF-8''%e2%82%ac.txt", "€.txt"),
        ("attachment; filename*=iso-8859-1'en'%A3.txt", "£.txt"),
        ("attachment; filename=a.txt; filename*=UTF-8''%ff", "a.txt"),
        ("attachment; filename*=utf-7''x; filename=a.txt", "a.txt"),
        ("attachment; FILENAME = a.txt", "a.txt"),
        ('attachment; filename="\xc3\xa4.txt"', "ä.txt"),
        ('attachment; filename="\xe4.txt"', "ä.txt"),
        ('attachment; filename="../../etc/passwd"', "../../etc/passwd"),
        ('attachment; x="filename=evil"; filename=good', "good"),
        ("attachment", None),
        ('attachment; filename=""', None),
        (None, None),
    ],
)
def test_suggested_name(value: str | None, name: str | None) -> None:
    assert suggested_name([] if value is None else [value]) == name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (['attachment; filename="one.txt"', 'attachment; filename="two.txt"'], "one.txt"),
        (["attachment", 'inline; filename="two.txt"'], "two.txt"),
        (['filename="bare.txt"'], "bare.txt"),
        (["filename=bare.txt; x=y"], "bare.txt"),
        (["filename*=UTF-8''b%C3%A4re.txt"], "bäre.txt"),
        ([r'attachment; filename="C:\dir\cat.txt"'], r"C:\dir\cat.txt"),
        ([r'attachment; filename="C:\\dir\\cat.txt"'], r"C:\dir\cat.txt"),
        ([r'attachment; filename="\\host\dir\cat.txt"'], r"\host\dir\cat.txt"),
        ([r'attachment; filename="dir\"'], "dir\\"),
        (['attachment; filename="=?UTF-8?B?4oKsLnR4dA==?="'], "€.txt"),
        (['attachment; filename="=?utf-8?q?=E2=82=AC_1.txt?="'], "€ 1.txt"),
        (['attachment; filename="=?ISO-8859-1?Q?=A3?= =?utf-8*en?B?LnR4dA?="'], "£.txt"),
        (["attachment; filename==?UTF-8?B?4oKsLnR4dA==?="], "€.txt"),
        (['attachment; filename="=?utf-7?Q?x?=.txt"'], "=?utf-7?Q?x?=.txt"),
        (['attachment; filename="=?UTF-8?B?!?=.txt"'], "=?UTF-8?B?!?=.txt"),
        (['attachment; filename*0="long "; filename*1="name.txt"'], "long name.txt"),
        (["attachment; filename*0*=UTF-8''%e2%82; filename*1*=%ac; filename*2=.txt"], "€.txt"),
        (["attachment; filename=my cat.txt; x=y"], "my cat.txt"),
        ([";;;", "attachment;", "=", "", '"'], None),
        ([], None),
    ],
)
def test_a_name_as_servers_send_it(values: list[str], name: str | None) -> None:
    assert suggested_name(values) == name


def test_a_folded_field_is_one() -> None:
    lines = [
        b"HTTP/1.1 200 OK\r\n",
        b"X-Other: a\r\n",
        b" location: b\r\n",
        b"Content-Disposition: attachment;\r\n",
        b'\tfilename="cat.txt"\r\n',
        b"ETag: 1\r\n",
        b"ETag: 2\r\n",
        b" 3\r\n",
        b"\r\n",
        b" 4\r\n",
    ]
    answer = parse_head(lines)
    assert answer.fields == {"content-disposition": 'attachment; filename="cat.txt"', "etag": "1"}
    assert answer.every("etag") == ["1", "2 3"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        ("Sun Nov  6 08:49:37 1994", 784111777.0),
        ("6 Nov 1994 08:49:37 +0000", 784111777.0),
        ("Wed, 21-Oct-2026 07:28:00 GMT", 1792567680.0),
        ("Sun, 06 Nov 1994 23:59:60 GMT", 784166399.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", -62135596800.0),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Thu, 01 Jan 0000 00:00:00 GMT", None),
        ("Thu, 31 Feb 2026 00:00:00 GMT", None),
        ("Thu, 01 Foo 2026 00:00:00 GMT", None),
        ("Thu, 01 Jan 2026 24:00:00 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +9999", None),
        ("\u0661", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_is_read_or_not_and_raises_nothing(value: str | None, seconds: float | None) -> None:
    assert http_date(value) == seconds


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"etag": '"a"', "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, '"a"'),
        ({"etag": '"' + "a" * 5000 + '"'}, None),
        ({"etag": '"a b"'}, None),
        ({}, None),
    ],
)
def test_a_validator_is_what_may_be_sent_back(fields: dict[str, str], name: str | None) -> None:
    assert validator(Answer(200, "", fields)) == name


def test_a_tag_that_was_sent_twice_is_none() -> None:
    assert validator(Answer(200, "", {"etag": '"a"'}, (("etag", '"b"'),))) is None
    assert validator(Answer(200, "", {"etag": '"a"'}, (("etag", '"a"'),))) == '"a"'


@pytest.mark.parametrize(
    ("value", "total"), [("bytes */10", 10), ("bytes 0-1/10", None), ("bytes */*", None), (None, None)]
)
def test_what_a_416_says_of_the_length(value: str | None, total: int | None) -> None:
    assert unsatisfied(value) == total


@given(st.text())
def test_no_value_breaks_a_reader(value: str) -> None:
    suggested_name(["attachment; filename" + value, value])
    retry_after(value, 0.0)
    content_range(value)
    unsatisfied(value)
    http_date(value)
    media_type(value)
    coding_or_none(value)
    suggested_name([f'x; filename="=?utf-8?{value}?="', f"x; filename*0*={value}", f"x; filename*={value}"])
    cookies = Cookies()
    cookies.take(
        [value, f"a=b; {value}", f"a=b; expires={value}; max-age={value}"], parse_url("http://h/"), 0.0
    )
    cookies.field(parse_url("http://h/"))
    named_digests({"digest": value, "repr-digest": value, "content-md5": value})


def coding_or_none(value: str) -> str | None:
    with suppress(ContentError):
        return coding(value)
    return None


@given(
    st.lists(
        st.binary() | st.sampled_from([b"HTTP/1.1 200\r\n", b"ETag: ", b" x", b"Set-Cookie: a=b", b"\r\n"])
    )
)
def test_every_value_of_a_head_can_be_asked_for(lines: list[bytes]) -> None:
    answer = parse_head(lines)
    for name in FIELDS.values():
        values = answer.every(name)
        assert answer.joined(name) == (", ".join(values) if values else None)
        assert answer.single(name) in {None, *values} and answer.brief(name) in {None, *values}
    contradiction(answer)
    validator(answer)


MD5 = hashlib.md5(b"abc", usedforsecurity=False)
SHA512 = hashlib.sha512(b"abc")


def coded(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"digest": f"MD5={coded(MD5.digest())}"}, [Checksum("md5", MD5.hexdigest())]),
        ({"content-md5": coded(MD5.digest())}, [Checksum("md5", MD5.hexdigest())]),
        (
            {"repr-digest": f"x=:AAAA:,sha-512=:{coded(SHA512.digest())}:"},
            [Checksum("sha512", SHA512.hexdigest())],
        ),
        ({"digest": "crc32c=AAAAAA=="}, []),
        ({"digest": "sha-256=AAAA"}, []),
        ({"digest": "sha-256=!!!"}, []),
        ({"content-md5": MD5.hexdigest()}, []),
        ({}, []),
    ],
)
def test_digests_are_read_and_others_ignored(fields: dict[str, str], found: list[Checksum]) -> None:
    assert list(named_digests(fields)) == found


def test_hashes_name_what_is_wrong() -> None:
    right = Checksum("md5", MD5.hexdigest().upper())
    wrong = Checksum("sha512", "00")
    for expected, found in (((right,), None), ((right, wrong), wrong)):
        hashes = Hashes(expected)
        hashes.update(b"a")
        hashes.update(b"bc")
        assert hashes.wrong() == found
        assert hashes.sha256 == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize(
    ("name", "known"), [("sha256", True), ("md5", True), ("shake_128", False), ("x", False)]
)
def test_a_checksum_needs_a_known_algorithm_of_fixed_length(name: str, known: bool) -> None:
    assert is_known(name) is known
