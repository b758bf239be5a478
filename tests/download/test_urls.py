"""URLs: what is taken, how it is rebuilt, and what never shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.urls import UrlError, join_url, one_line, parse_url


@pytest.mark.parametrize(
    ("given_", "text", "host"),
    [
        ("http://h", "http://h/", "h:80"),
        ("HTTPS://Example.ORG:443/A?B#c", "https://example.org/A?B", "example.org:443"),
        ("http://h:8080?q=a b", "http://h:8080/?q=a%20b", "h:8080"),
        ("http://h/ä%20%zz", "http://h/%C3%A4%20%zz", "h:80"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example:80"),
        ("http://[::1]:80/x", "http://[::1]/x", "[::1]:80"),
        (" http://1.2.3.4:/ ", "http://1.2.3.4/", "1.2.3.4:80"),
    ],
)
def test_a_url_is_rebuilt_from_its_parts(given_: str, text: str, host: str) -> None:
    url = parse_url(given_)
    assert (url.text, url.host) == (text, host)
    assert parse_url(text) == url


def test_userinfo_is_decoded_and_kept_apart() -> None:
    url = parse_url("https://a%40b:p%3Aw:x@h/")
    assert url.userinfo == ("a@b", "p:w:x")
    assert url.text == "https://h/"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h/x",
        "//h/x",
        "mailto:x@y",
        "ftp://h/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://:80/",
        "http://h:0/",
        "http://h:65536/",
        "http://h:x/",
        "http://h\r\nX: y/",
        "http://h/\x00",
        "http://h/\t",
        "http://a b/",
        "http://a\\@b/",
        "http://a%00b/",
        "http://[::1/",
        "http://[1.2.3.4]/",
        "http://" + "ä" * 80 + "/",
        "http://-h/",
    ],
)
def test_what_cannot_be_fetched_is_refused(text: str) -> None:
    with pytest.raises(UrlError):
        parse_url(text)


@given(st.text())
def test_any_text_is_a_clean_url_or_refused(text: str) -> None:
    try:
        url = parse_url("http://" + text)
    except UrlError as error:
        assert str(error).isprintable()
    else:
        assert url.text.isascii() and url.text.isprintable() and " " not in url.text
        assert "@" not in url.text.split("/")[2]


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("c", "https://h/a/c"),
        ("/c?x", "https://h/c?x"),
        ("?x", "https://h/a/b?x"),
        ("//other/c", "https://other/c"),
        ("http://other/c#f", "http://other/c"),
        ("../../../c", "https://h/c"),
        ("", "https://h/a/b?q"),
        ("/\xc3\xa4", "https://h/%C3%A4"),
    ],
)
def test_a_location_is_joined(location: str, text: str) -> None:
    assert join_url(parse_url("https://h/a/b?q"), location).text == text


@pytest.mark.parametrize("location", ["file:///x", "javascript:alert(1)", "http://", "http:", "//", "a\x00b"])
def test_a_location_that_leads_nowhere_is_refused(location: str) -> None:
    with pytest.raises(UrlError):
        join_url(parse_url("http://h/"), location)


@given(st.text())
def test_whatever_is_told_of_a_text_is_one_printable_bounded_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable() and len(line) <= 300
