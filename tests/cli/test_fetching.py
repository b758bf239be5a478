"""Fetching options of the command line reach the fetcher, and no protection is disabled by default."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

from nearfar.cli.common import set_up_logging
from nearfar.cli.options import fetch_options, warn
from nearfar.cli.producer import downloaders, make_parser
from nearfar.download.fetch.options import FetchOptions

pytestmark = pytest.mark.pure

KEYED = ("queue", "coordinator", "worker", "consumer", "producer")
ALL = """
    --jobs 3 --per-host 2 --expect image/* --user-agent me --max-size 2k --rate 5k --connect-timeout 1
    --stall-timeout 4 --timeout 9 --retries 0 --cacert ca.pem --insecure-tls --no-private --decode
    """


def fetching(*arguments: str) -> FetchOptions:
    return fetch_options(make_parser().parse_args(["http://h/", *arguments]))


def test_without_options_the_defaults_hold() -> None:
    assert fetching("--jobs", "64") == FetchOptions()


def test_files_are_hashed_at_both_ends_only_where_others_may_be_between() -> None:
    assert not fetching().digest and not fetching("--keys", "folder").digest
    assert fetching("--no-keys").digest


@pytest.mark.parametrize(
    ("arguments", "lines", "processes"),
    [
        ((), None, 4),
        ((), 10_000, 4),
        ((), 20, 2),
        ((), 1, 1),
        (("--jobs", "4"), None, 1),
        (("--jobs", "64", "--per-host", "8"), None, 2),
        (("--rate", "1M"), None, 1),
    ],
)
def test_a_local_download_has_as_many_processes_as_are_useful(
    arguments: tuple[str, ...], lines: int | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    options = make_parser().parse_args(["http://h/", "--queue", "local", *arguments])
    assert downloaders(options, lines) == processes


def test_every_option_arrives(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("X-Key: a: b\n\nCookie: c=d\n")
    options = fetching(*ALL.split(), "--header", "A: b", "--header", f"@{tmp_path / 'headers'}")
    assert options == FetchOptions(
        connections=3,
        per_host=2,
        expect=("image/*",),
        headers=(("A", "b"), ("X-Key", "a: b"), ("Cookie", "c=d")),
        user_agent="me",
        max_size=2000,
        rate=5000,
        connect_timeout=1.0,
        stall_timeout=4,
        total_timeout=9.0,
        tries=1,
        ca_file=Path("ca.pem"),
        insecure=True,
        no_private=True,
        decode=True,
    )


def test_secrets_of_headers_are_in_no_repr() -> None:
    assert "hush" not in repr(fetching("--header", "Authorization: hush"))


@pytest.mark.parametrize(
    "arguments", [["--no-keys"], ["--insecure"], ["--insecure", "--no-private"], ["--cacert", "ca.pem"]]
)
def test_only_its_own_option_accepts_any_certificate(arguments: list[str]) -> None:
    assert not fetching(*arguments).insecure


@pytest.mark.parametrize("shortened", ["--insec", "--ins", "--insecure-t"])
def test_no_abbreviation_accepts_any_certificate(shortened: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fetching(shortened)
    assert f"there is no option {shortened} (did you mean --insecure-tls?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (["-j", "3"], ["--jobs", "3"]),
        (["-H", "A: b"], ["--header", "A: b"]),
        (["-A", "me"], ["--user-agent", "me"]),
        (["-x", "http://p:1"], ["--proxy", "http://p:1"]),
        (["-m", "5"], ["--timeout", "5"]),
        (["-k"], ["--insecure-tls"]),
        (["-c"], []),
        (["--continue"], []),
    ],
)
def test_short_options_are_those_of_curl_wget_and_aria2(short: list[str], long: list[str]) -> None:
    assert fetching(*short) == fetching(*long)


def test_options_may_stand_between_urls() -> None:
    options = make_parser().parse_args(["http://h/1", "-j", "3", "http://h/2", "-q", "http://h/3"])
    assert (options.urls, options.jobs) == (["http://h/1", "http://h/2", "http://h/3"], 3)


@pytest.mark.parametrize(
    ("module", "old", "new", "dest", "value"),
    [
        *((name, ["--insecure"], "--no-keys", "no_keys", True) for name in KEYED),
        ("queue", ["--producers", "2"], "--expected-producers", "expected_producers", 2),
        ("consumer", ["--producers", "2"], "--expected-producers", "expected_producers", 2),
    ],
)
def test_the_former_name_of_an_option_works_and_warns_once(
    module: str, old: list[str], new: str, dest: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = import_module(f"nearfar.cli.{module}").make_parser()
    options = parser.parse_args(old)
    assert getattr(options, dest) == value
    assert vars(parser.parse_args([])).get(dest) != value
    root, screen = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    try:
        monkeypatch.setattr(sys, "stderr", screen)
        set_up_logging(options)
        set_up_logging(options)  # as in a process that this one starts
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (warning,) = screen.getvalue().splitlines()
    assert warning.startswith(f"{old[0]} is called {new} now")


def test_a_proxy_is_no_part_of_a_private_download_and_of_no_repr() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        fetching("--no-private", "-x", "http://proxy:1")
    assert "hush" not in repr(fetching("-x", "http://me:hush@proxy:1"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], []), (["--insecure-tls"], ["no certificate is checked"]), (["--no-private"], ["proxy"])],
)
def test_an_option_that_disables_protection_warns(
    arguments: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hush@proxy/")
    warn(make_parser().parse_args(["http://h/", *arguments]))
    assert [word in text for word, text in zip(said, caplog.messages, strict=True)] == [True] * len(said)
    assert "hush" not in caplog.text


def test_a_file_of_headers_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fetching("--header", "@nowhere")
    assert "nowhere: no such file" in capsys.readouterr().err
