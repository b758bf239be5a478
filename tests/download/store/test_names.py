"""Whatever a user, a server or a URL suggests, a name stays below the directory and fits every system."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nearfar.download.model import Head, Job, Reason, StoreError
from nearfar.download.store import names

pytestmark = pytest.mark.pure

DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{n}" for kind in ("COM", "LPT") for n in "0123456789¹²³")}

texts = st.text(st.characters(), max_size=400) | st.text(alphabet="a./\\ :\u202e\u0301CON1~é", max_size=300)


@given(texts)
@example("." * 300)
@example(" . . CON .txt. ")
@example("é" * 200 + ".jpeg")
@example("\ud800\udfff.png")
def test_a_clean_name_is_safe_on_every_system(text: str) -> None:
    name = names.clean(text)
    assert len(name.encode()) <= names.LIMIT
    assert not set(name) & set('/\\:*?"<>|\0')
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in name)
    assert name == name.strip(" .")
    assert name.split(".")[0].strip().upper() not in DEVICES
    assert unicodedata.is_normalized("NFC", name)


@given(texts)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert names.clean(names.clean(text)) == names.clean(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("CON", "_CON"),
        ("con.tar.gz", "_con.tar.gz"),
        ("COM¹.txt", "_COM¹.txt"),
        ("nul .png", "_nul .png"),
        ("console.png", "console.png"),
        (".htaccess", "htaccess"),
        (".nearfar.sqlite", "nearfar.sqlite"),
        (".nearfar-0123456789abcdef-1.part", "nearfar-0123456789abcdef-1.part"),
        ("trailing. . ", "trailing"),
        ("a\u202egnp.exe", "a_gnp.exe"),
        ("a\x00b\nc", "a_b_c"),
        ("C:evil.txt", "C_evil.txt"),
        ("e\u0301.png", "é.png"),
        ("...", ""),
    ],
)
def test_known_tricks_are_defused(text: str, name: str) -> None:
    assert names.clean(text) == name


def test_long_names_with_one_beginning_stay_two_and_keep_their_extension() -> None:
    one, two = names.clean("ü" * 300 + "1.jpeg"), names.clean("ü" * 300 + "2.jpeg")
    assert one != two
    assert one.endswith(".jpeg")
    assert 250 <= len(one.encode()) <= names.LIMIT


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/photo.png?size=2#top", "photo.png"),
        ("http://h/a/photo%20one.png", "photo one.png"),
        ("http://h/%C3%A9.png", "é.png"),
        ("http://h/%E9.png", "%E9.png"),
        ("http://h/..%2f..%2fetc%2fpasswd", "passwd"),
        ("http://h/..%5c..%5cboot.ini", "boot.ini"),
        ("http://h/%2e%2e", "index"),
        ("http://h/folder/", "index"),
        ("http://h", "index"),
        ("http://h?file=a/b.png", "index"),
    ],
)
def test_a_url_gives_the_last_segment_of_its_path(url: str, name: str) -> None:
    assert names.wanted(Job(url), Head(url, 200)) == (name,)


def test_the_users_name_comes_first_then_the_servers_then_the_final_urls() -> None:
    head = Head("http://h/final.png", 200, suggested="../../their.png")
    assert names.wanted(Job("http://h/first.png", "my/own.png"), head) == ("my", "own.png")
    assert names.wanted(Job("http://h/first.png"), head) == ("their.png",)
    assert names.wanted(Job("http://h/first.png"), Head("http://h/final.png", 200)) == ("final.png",)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "\\windows",
        "C:\\x",
        "c:x",
        "../x",
        "a/../../x",
        "a\\..\\x",
        "..",
        "a/",
        "a/...",
        "./",
    ],
)
def test_a_users_name_that_leads_out_or_names_no_file_is_refused(name: str) -> None:
    with pytest.raises(StoreError) as caught:
        names.asked(name)
    assert caught.value.reason is Reason.REJECTED


@given(texts)
def test_a_users_name_never_escapes(text: str) -> None:
    try:
        parts = names.asked(text)
    except StoreError:
        return
    assert parts
    assert all(part and names.clean(part) == part for part in parts)


@given(st.text(max_size=300).map(names.clean).filter(bool), st.binary(min_size=32, max_size=32))
def test_candidates_are_distinct_safe_and_the_same_each_time(name: str, key: bytes) -> None:
    found = list(names.candidates(("sub", name), key.hex()))
    assert found == list(names.candidates(("sub", name), key.hex()))
    assert len(set(found)) == len(found) == 4
    assert all(parts[0] == "sub" and names.clean(parts[1]) == parts[1] for parts in found)


@pytest.mark.parametrize(("one", "two"), [("A.PNG", "a.png"), ("STRASSE", "straße"), ("É", "e\u0301")])
def test_names_that_some_file_system_takes_for_one_fold_to_one(one: str, two: str) -> None:
    assert names.fold(one) == names.fold(two)
