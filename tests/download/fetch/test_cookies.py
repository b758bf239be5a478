"""Cookies among redirects: who gets them back, and who does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.fetch.request import LONGEST, MOST, MOST_SENT, Cookies, with_cookie
from nearfar.download.urls import parse_url

NOW = 1_000_000.0


def sent(url: str, *values: str, to: str) -> str | None:
    """What goes `to` a URL once `url` has set `values`."""
    cookies = Cookies()
    cookies.take(list(values), parse_url(url), NOW)
    return cookies.field(parse_url(to))


@pytest.mark.parametrize(
    ("value", "url", "to", "back"),
    [
        ("a=b", "http://h/x/y", "http://h/x/z", True),
        ("a=b", "http://h/x/y", "http://h/x", True),
        ("a=b", "http://h/x/y", "http://h/xz", False),
        ("a=b", "http://h/x/y", "http://h/", False),
        ("a=b; path=/", "http://h/x/y", "http://h/", True),
        ("a=b; Path=/x/", "http://h/", "http://h/x/y", True),
        ("a=b; Path=/x/", "http://h/", "http://h/x", False),
        ("a=b; path=x", "http://h/y", "http://h/y", True),
        ("a=b", "http://h/", "http://h:8080/", True),
        ("a=b", "http://h/", "http://other/", False),
        ("a=b", "http://www.h.org/", "http://h.org/", False),
        ("a=b", "http://h.org/", "http://www.h.org/", False),
        ("a=b; domain=.h.org", "http://www.h.org/", "http://cdn.h.org/", True),
        ("a=b; Domain=H.ORG", "http://www.h.org/", "http://h.org/", True),
        ("a=b; domain=h.org", "http://www.h.org/", "http://xh.org/", False),
        ("a=b; domain=org", "http://h.org/", "http://other.org/", False),
        ("a=b; domain=org", "http://h.org/", "http://h.org/", False),
        ("a=b; domain=other.org", "http://h.org/", "http://other.org/", False),
        ("a=b; domain=www.h.org", "http://h.org/", "http://www.h.org/", False),
        ("a=b; domain=0.0.1", "http://127.0.0.1/", "http://127.0.0.1/", False),
        ("a=b; secure", "https://h/", "https://h/", True),
        ("a=b; secure", "https://h/", "http://h/", False),
        ("a=b; secure", "http://h/", "https://h/", False),
        ("a=b; max-age=0", "http://h/", "http://h/", False),
        ("a=b; max-age=9; expires=Thu, 01 Jan 1970 00:00:00 GMT", "http://h/", "http://h/", True),
        ("a=b; expires=Thu, 01 Jan 1970 00:00:00 GMT", "http://h/", "http://h/", False),
        ("a=b; expires=Thu, 01 Jan 99999999999999999999 00:00:00 GMT", "http://h/", "http://h/", True),
        ("a=b; HttpOnly; SameSite=Strict; Partitioned; x", "http://h/", "http://h/", True),
        ("__Host-a=b; secure; path=/", "https://h/", "https://h/", True),
        ("__Host-a=b; secure; path=/x", "https://h/x", "https://h/x", False),
        ("__Secure-a=b", "https://h/", "https://h/", False),
        ("", "http://h/", "http://h/", False),
        ("=", "http://h/", "http://h/", False),
        ("; path=/", "http://h/", "http://h/", False),
        ("a=b\rX: y", "http://h/", "http://h/", False),
        ("a=" + "b" * LONGEST, "http://h/", "http://h/", False),
    ],
)
def test_a_cookie_goes_back_to_whom_it_is_for(value: str, url: str, to: str, back: bool) -> None:
    assert (sent(url, value, to=to) is not None) is back


def test_the_longest_path_goes_first_and_the_last_value_counts() -> None:
    values = ("a=1; path=/", "b=2; path=/x", "a=3; path=/", "c=4; path=/x")
    assert sent("http://h/x", *values, to="http://h/x") == "b=2; c=4; a=3"
    assert sent("http://h/", "a=1", "a=2; max-age=-1", to="http://h/") is None
    assert sent("http://h/", 'a="b c"; x', "bare", to="http://h/") == 'a="b c"; bare'


def test_what_is_kept_and_sent_is_bounded() -> None:
    many = sent("http://h/", *(f"c{n}=x" for n in range(3 * MOST)), to="http://h/")
    assert many is not None and many.count(";") == MOST - 1
    large = sent("http://h/", *(f"c{n}=" + "x" * 4000 for n in range(20)), to="http://h/")
    assert large is not None and len(large) <= MOST_SENT


def test_a_request_has_one_field_of_cookies() -> None:
    lines = [b"Accept: */*", b"cookie: own=0", b"X: y"]
    assert with_cookie(lines, "a=b") == [b"Accept: */*", b"X: y", b"Cookie: own=0; a=b"]
    assert with_cookie([], "a=b") == [b"Cookie: a=b"]


@given(st.lists(st.text(st.characters(max_codepoint=255))))
def test_no_cookie_breaks_a_request(values: list[str]) -> None:
    field = sent("http://h/", *values, to="http://h/") or ""
    assert field.encode("latin-1").decode("latin-1") == field
    assert not {"\r", "\n", "\0"} & set(field)
