"""URLs: what is taken, how it is rebuilt, and what never shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.urls import Url, UrlError, ascii_host, join_url, one_line, parse_url, resource

pytestmark = pytest.mark.pure


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
        ("http://h/a/./b/../c", "http://h/a/c", "h:80"),
        ("http://h/a/%2e%2E/c/%2e", "http://h/c/", "h:80"),
        ("http://h/../..?a/../b", "http://h/?a/../b", "h:80"),
        ("http://h/...//.a/%2f", "http://h/...//.a/%2f", "h:80"),
        ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/", "xn--bcher-kva.example:80"),
        ("http://%65xample.org/", "http://example.org/", "example.org:80"),
        ("http://h/\udcff", "http://h/%FF", "h:80"),
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
        "http://h/\ud800",
        "http://u\ud800@h/",
        "http://\udcff/",
        "http://a%2Fb/",
        "http://a%ff/",
        "http://a\u2100b.example/",  # "a/c" once it is mapped
        "http://a\uff0fb.example/",  # a slash
        "http://\u0627a.example/",  # right to left and left to right in one label
        "http://a\u200db.example/",  # a joiner that joins nothing
        "http://\u0301a.example/",  # a combining mark with nothing before it
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


RFC_3986_5_4 = {
    "g": "http://a/b/c/g",
    "./g": "http://a/b/c/g",
    "g/": "http://a/b/c/g/",
    "/g": "http://a/g",
    "//g": "http://g/",
    "?y": "http://a/b/c/d;p?y",
    "g?y": "http://a/b/c/g?y",
    "#s": "http://a/b/c/d;p?q",
    "g#s": "http://a/b/c/g",
    "g?y#s": "http://a/b/c/g?y",
    ";x": "http://a/b/c/;x",
    "g;x": "http://a/b/c/g;x",
    "g;x?y#s": "http://a/b/c/g;x?y",
    "": "http://a/b/c/d;p?q",
    ".": "http://a/b/c/",
    "./": "http://a/b/c/",
    "..": "http://a/b/",
    "../": "http://a/b/",
    "../g": "http://a/b/g",
    "../..": "http://a/",
    "../../": "http://a/",
    "../../g": "http://a/g",
    "../../../g": "http://a/g",
    "../../../../g": "http://a/g",
    "/./g": "http://a/g",
    "/../g": "http://a/g",
    "g.": "http://a/b/c/g.",
    ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..",
    "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h",
    "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y",
    "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x",
}


@pytest.mark.parametrize("location", RFC_3986_5_4)
def test_a_relative_location_means_what_rfc_3986_says(location: str) -> None:
    """The examples of its 5.4, without fragments, which are not sent."""
    assert join_url(parse_url("http://a/b/c/d;p?q"), location).text == RFC_3986_5_4[location]


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("//stra\xc3\x9fe.example/x", "https://xn--strae-oqa.example/x"),
        ("https://stra%C3%9Fe.example/", "https://xn--strae-oqa.example/"),
        ("HTTP://Other.example:80", "http://other.example/"),
        ("/a//b/", "https://h/a//b/"),
        ("//", None),
        ("/\xe4", "https://h/%E4"),
        ("?", "https://h/a/b?"),
        ("a:b", None),
        ("./a:b", "https://h/a/a:b"),
        ("/x y", "https://h/x%20y"),
    ],
)
def test_a_location_as_servers_send_it(location: str, text: str | None) -> None:
    if text is None:
        with pytest.raises(UrlError):
            join_url(parse_url("https://h/a/b?q"), location)
    else:
        assert join_url(parse_url("https://h/a/b?q"), location).text == text


@given(
    st.text(st.characters(max_codepoint=255)),
    st.sampled_from(["http://h", "https://h:8/a/b/?q", "http://[::1]/"]),
)
def test_any_location_is_a_clean_url_or_refused(location: str, base: str) -> None:
    try:
        url = join_url(parse_url(base), location)
    except UrlError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(url, Url) and parse_url(url.text).text == url.text
        assert url.text.isascii() and url.text.isprintable() and " " not in url.text


@pytest.mark.parametrize(
    ("name", "ascii_"),
    [
        ("straße.example", "xn--strae-oqa.example"),
        ("Faß.DE", "xn--fa-hia.de"),
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("ශ්\u200dරී.com", "xn--10cl1a0b660p.com"),
        ("\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.com", "xn--mgba3gch31f060k.com"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("faß\u3002de", "xn--fa-hia.de"),
        ("\uff11\uff12\uff17.0.0.1", "127.0.0.1"),
        ("i❤.ws", "xn--i-7iq.ws"),
        ("_x.bücher.example", "_x.xn--bcher-kva.example"),
        ("xn--strae-oqa.example", "xn--strae-oqa.example"),
        ("EXAMPLE.org", "example.org"),
    ],
)
def test_a_host_name_is_looked_up_as_idna_2008_says(name: str, ascii_: str) -> None:
    assert ascii_host(name) == ascii_
    assert ascii_host(ascii_) == ascii_, "what is in ASCII stays"


@pytest.mark.parametrize("host", ["straße.example", "STRASSE\u1e9e.example"])
def test_no_two_domains_are_taken_for_one(host: str) -> None:
    """IDNA 2003 made ``ss`` of a sharp s, and so asked another domain than a browser does."""
    assert "strasse.example" not in parse_url(f"http://{host}/").text


SAME = [
    [
        "http://h/x",
        "HTTP://H/x",
        "http://h:80/x",
        "http://h:/x#one",
        "http://h/x#two",
        "http://h/a/../x",
        " http://h/x",
    ],
    ["https://h/", "https://h", "HTTPS://h:443/", "https://h#f"],
    ["http://h/~a%C3%BC", "http://h/%7Ea%c3%bc", "http://h/%7ea\u00fc"],
    ["http://straße.example/", "http://XN--STRAE-OQA.example", "http://stra%c3%9fe.example:80/"],
    ["http://me:hush@h/x", "http://me:hush@H:80/x#f"],
    ["http://h/a%2Fb", "http://h/a%2fb"],
    ["http://h/a/b"],
    ["http://h/X"],
    ["http://h:8080/x"],
    ["http://h/x?"],
    ["http://h/x?a=1"],
    ["http://h./x"],
    ["nonsense"],
    [""],
]


def test_one_resource_has_one_spelling() -> None:
    spellings = [{resource(text) for text in group} for group in SAME]
    assert [len(each) for each in spellings] == [1] * len(SAME)
    assert len(set.union(*spellings)) == len(SAME), "what differs stays apart"


@given(st.text())
def test_a_spelling_stays_what_it_is(text: str) -> None:
    once = resource("http://" + text)
    assert resource(once) == once


@pytest.mark.parametrize("location", ["file:///x", "javascript:alert(1)", "http://", "http:", "//", "a\x00b"])
def test_a_location_that_leads_nowhere_is_refused(location: str) -> None:
    with pytest.raises(UrlError):
        join_url(parse_url("http://h/"), location)


@given(st.text())
def test_whatever_is_told_of_a_text_is_one_printable_bounded_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable() and len(line) <= 300
