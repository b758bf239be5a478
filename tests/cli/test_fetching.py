"""Fetching options of the command line reach the fetcher, and no protection is disabled by default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nearfar.cli.options import fetch_options, warn
from nearfar.cli.producer import downloaders, make_parser
from nearfar.download.fetch.options import FetchOptions

pytestmark = pytest.mark.pure

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
    assert fetching("--insecure").digest


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
    "arguments", [["--insecure"], ["--insecure", "--no-private"], ["--cacert", "ca.pem"]]
)
def test_only_its_own_option_accepts_any_certificate(arguments: list[str]) -> None:
    assert not fetching(*arguments).insecure


@pytest.mark.parametrize("shortened", ["--insec", "--ins"])
def test_no_abbreviation_accepts_any_certificate(shortened: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fetching(shortened)
    assert "ambiguous" in capsys.readouterr().err


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
