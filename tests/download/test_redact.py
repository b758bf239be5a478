"""What of a URL is written down: no secret, and as much of the rest as tells files apart."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nearfar.download.redact import identity, redact_url, without_parameters, written

pytestmark = pytest.mark.pure

NAMED = """
    token TOKEN access_token accessToken id-token auth authorization oauth_signature key api_key apikey
    APIKey ApiKey AWSAccessKeyId Key-Pair-Id sig signature Signature X-Amz-Signature X-Amz-Credential
    X-Amz-Security-Token X-Goog-Signature x-oss-signature q-signature secret client_secret password
    passwd pwd pw pass sid PHPSESSID jsessionid session jwt hmac Policy ticket md5 hdnts __token__
    t%6Fken sso.token user[password]
    """
NAMES = NAMED.split()
HARMLESS = ["id", "page", "author", "keyword", "monkey", "design", "q", "size", "compass", "assign", "tokyo"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "form", ["http://h/x?a=1&{}=hush&b=2", "http://h/x;{}=hush/y?a=1", "http://h/x?a=1;{}=hush;hush"]
)
def test_a_parameter_whose_name_says_so_is_masked(name: str, form: str) -> None:
    told = redact_url(form.format(name))
    assert "hush" not in told and f"{name}=***" in told and "a=1" in told


@pytest.mark.parametrize("name", HARMLESS)
def test_other_parameters_are_told(name: str) -> None:
    url = f"http://h/x?{name}=17"
    assert redact_url(url) == written(url) == url


@pytest.mark.parametrize(
    "value",
    [
        "9f86d081884c7d659a2feaa0c55ad015",
        "Zx81kQp0LmN3vB7yTr2W",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "MTIzNDU2Nzg5MGFiY2RlZkdISUpLTE1O%2BQ%3D%3D",
    ],
)
def test_a_value_that_looks_drawn_by_lot_is_masked_whatever_its_name(value: str) -> None:
    assert redact_url(f"http://h/x?q={value}") == "http://h/x?q=***"
    assert redact_url(f"http://h/x?{value}") == "http://h/x?***"
    assert redact_url(f"http://h/x?{value}=1") == "http://h/x?***=***"


@pytest.mark.parametrize(
    "value",
    [
        "550e8400-e29b-41d4-a716-446655440000",
        "holiday-in-spain-2020-0001-final.JPG",
        "S1A_IW_GRDH_1SDV_20200101T054231_20200101T054256_030609_0381C4_F0A1",
        "the%20quick%20Brown%20Fox%20Jumps%20over%201%20dog",
        "1605999999999999",
    ],
)
def test_what_people_and_machines_call_files_by_is_told(value: str) -> None:
    assert redact_url(f"http://h/x?q={value}") == f"http://h/x?q={value}"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://u:p@h/x?a=1&b&c=#access_token=x", "http://***@h/x?a=1&b&c="),
        ("http://u:p@q@h/", "http://***@h/"),
        ("http://h/x?url=https%3A%2F%2Fu%3Ap%40g%2F&z=1", "http://h/x?url=***&z=1"),
        ("http://h/x?next=http://g/?token=hush", "http://h/x?next=***"),
        ("http://h/x?next=http://g/?id=1", "http://h/x?next=http://g/?id=1"),
        ("http://h/x?h=exp=1~acl=/*~hmac=hush", "http://h/x?h=***"),
        ("http://h/@scope/x", "http://h/@scope/x"),
        (
            "http://h/9f86d081884c7d659a2feaa0c55ad015/a;sid=9",
            "http://h/9f86d081884c7d659a2feaa0c55ad015/a;sid=***",
        ),
    ],
)
def test_what_is_shown_hides_secrets(url: str, told: str) -> None:
    assert redact_url(url) == told
    assert written(url) == told.replace("***@", "")


@pytest.mark.parametrize(
    "text",
    [
        "ftp://u:hush@h/",
        "http://u:hu/sh@h/",
        "u:hush@h/x",
        "nonsense?hush",
        "http://u:hush @h/x y",
        "//u:hush@h",
        "hush@",
    ],
)
def test_what_is_no_url_tells_nothing_before_an_at_or_behind_a_question_mark(text: str) -> None:
    assert "hush" not in redact_url(text).replace("hu/sh", "hush")


@given(st.text())
@example("http://h/?a=" + "://" * 9 + "=")
def test_whatever_is_shown_is_one_printable_bounded_line(text: str) -> None:
    for line in (redact_url(text), redact_url("http://h/" + text)):
        assert line.isprintable() and len(line) <= 300


PIECES = st.text("abz019/=?&;:@~%-_.,", max_size=12)


@given(st.sampled_from(NAMES), PIECES, PIECES, PIECES)
def test_no_surrounding_brings_a_named_secret_out(name: str, before: str, between: str, after: str) -> None:
    for url in (
        f"http://h/x?{before}&{name}=HUSH{between}&{after}",
        f"http://h/{before.replace('?', '')}?{name}={between.replace('&', '')}HUSH",
        f"http://{before.replace('/', '').replace('?', '')}:HUSH@h/{after}",
    ):
        assert "HUSH" not in redact_url(url), url
        assert "HUSH" not in written(url), url


@given(st.text())
def test_what_is_written_stays_as_it_is_when_it_is_written_again(text: str) -> None:
    once = written("http://h/" + text)
    assert written(once) == once
    once.encode()


def test_passwords_are_no_part_of_what_a_url_is_known_by() -> None:
    assert identity("http://u:one@h/x") == identity("http://u:two@h/x") != identity("http://v:one@h/x")
    assert identity("http://h/x?password=one&id=1") == identity("http://h/x?password=two&id=1")
    assert identity("http://h/x?key=1.jpg") != identity("http://h/x?key=2.jpg")


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("a.png", "a.png"),
        ("a.png;jsessionid=1F2", "a.png"),
        ("a;v=2;token=x;w=3", "a;v=2;w=3"),
        ("a;b", "a;b"),
    ],
)
def test_a_name_is_made_without_secrets(segment: str, name: str) -> None:
    assert without_parameters(segment) == name


def test_an_at_in_the_path_stays_in_the_manifest() -> None:
    assert written("http://me:hush@h/a/b@c") == "http://h/a/b@c"
    assert written("http://h/a//b@c") == "http://h/a//***@c"
