"""URL globs stand for what curl makes of them; wrong ones are errors that say where."""

from __future__ import annotations

import shutil
import subprocess
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.globs import MOST, Glob, GlobError

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("pattern", "urls"),
    [
        ("http://h/a", ["a"]),
        ("http://h/[1-3]", ["1", "2", "3"]),
        ("http://h/[08-11]", ["08", "09", "10", "11"]),
        ("http://h/[0-20:10]", ["0", "10", "20"]),
        ("http://h/[000-9:4]", ["000", "004", "008"]),
        ("http://h/[a-d]", ["a", "b", "c", "d"]),
        ("http://h/[A-E:2]", ["A", "C", "E"]),
        ("http://h/{x,yy,}", ["x", "yy", ""]),
        ("http://h/{x}", ["x"]),
        ("http://h/{a,b}[1-2]", ["a1", "a2", "b1", "b2"]),
        ("http://h/[1-1]/[5-5]", ["1/5"]),
        (r"http://h/\[1-3\]\{a,b\}", ["[1-3]{a,b}"]),
        (r"http://h/{a\,b,c\}}", ["a,b", "c}"]),
        (r"http://h/a\b", [r"a\b"]),
    ],
)
def test_a_glob_stands_for_these_urls(pattern: str, urls: list[str]) -> None:
    glob = Glob(pattern)
    assert list(glob) == [f"http://h/{url}" for url in urls]
    assert glob.count == len(urls)


@pytest.mark.parametrize(
    "host", ["[::1]", "[::1]:8080", "[2001:db8::ff]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]"]
)
def test_an_ipv6_address_is_no_glob(host: str) -> None:
    assert list(Glob(f"http://{host}/[1-2]")) == [f"http://{host}/1", f"http://{host}/2"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("http://h/[1-", "the bracket at character 10 is not closed"),
        ("http://h/{a,b", "the brace at character 10 is not closed"),
        ("http://h/[3-1]", "[3-1] at character 10 is no range"),
        ("http://h/[1]", "is no range"),
        ("http://h/[]", "is no range"),
        ("http://h/[1-3:0]", "is no range"),
        ("http://h/[a-Z]", "is no range"),
        ("http://h/[a-3]", "is no range"),
        ("http://h/[-1-3]", "is no range"),
        (f"http://h/[1-{'9' * 19}]", "is no range"),
        ("http://h/a]", "no bracket or brace is open for the ] at character 11"),
        ("http://h/a}", "no bracket or brace is open for the } at character 11"),
        ("http://h/{}", "the braces at character 10 are empty"),
        ("http://h/{a,{b,c}}", "{ at character 13 is inside of braces: globs cannot be nested"),
        ("http://h/{a,[1-2]}", "globs cannot be nested"),
        ("http://h/[1-1000001]", "more than 1,000,000 URLs"),
        ("http://h/[1-1001][1-1000]", "more than 1,000,000 URLs"),
    ],
)
def test_a_wrong_glob_is_an_error(pattern: str, said: str) -> None:
    with pytest.raises(GlobError) as caught:
        Glob(pattern)
    assert said in str(caught.value)


def test_a_large_glob_is_expanded_one_by_one() -> None:
    glob = Glob("http://h/[1-1000][001-1000]")
    assert glob.count == MOST
    assert list(islice(glob, 2)) == ["http://h/1001", "http://h/1002"]


@given(st.text(alphabet="[]{},\\-:aZ019/", max_size=20))
def test_any_text_is_a_glob_or_an_error(text: str) -> None:
    try:
        glob = Glob(f"http://h/{text}")
    except GlobError:
        return
    assert len(list(islice(glob, 2000))) == min(glob.count, 2000)


@pytest.mark.skipif(shutil.which("curl") is None, reason="compares with curl")
@pytest.mark.parametrize(
    "pattern",
    ["{a,b}", "[1-10]", "[001-100:33]", "[a-z:5]", "{x,y}[08-11]", "{a,b,}c", "[0-100:10]", r"\[1-2\]"],
)
def test_curl_makes_the_same_of_it(pattern: str) -> None:
    """Given the same pattern, I expect the paths that curl asks its proxy for."""
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{url}\n", "--connect-timeout", "1", "--retry", "0"]
    run = subprocess.run(
        [*words, "-x", "http://127.0.0.1:1", f"http://h/{pattern}"],
        capture_output=True,
        text=True,
        timeout=90,
    )
    said = [line for line in run.stdout.splitlines() if line]
    assert said == list(Glob(f"http://h/{pattern}"))
