"""``producer --refresh``: newer versions of saved files replace them, once they are whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from nearfar.download.messages import Offer, decode, encode
from nearfar.download.model import Body, Head, Job
from nearfar.download.store.listing import Listing
from nearfar.download.store.manifest import FILE
from nearfar.download.store.store import Store
from tests.download.trade.commands import Commands, ended
from tests.download.trade.world import World
from tests.support import redis_server
from tests.support.exchange import Handler, Reply, Request
from tests.support.routes import content, cut, redirect, status
from tests.support.web import Web

OLD, NEW = "Sun, 06 Nov 1994 08:49:37 GMT", "Mon, 07 Nov 1994 08:49:37 GMT"
LARGE = 3_000_000
"""Bytes of a file that is written as it arrives."""


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as web:
        yield web


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    yield commands
    commands.close()


def version(body: bytes, etag: str = "", modified: str = "") -> Handler:
    """A server that knows the version of its file, by a tag or by a date."""
    fields = ({"etag": etag} if etag else {}) | ({"last_modified": modified} if modified else {})

    def answer(request: Request, reply: Reply) -> None:
        tag, date = (request.fields.get(name) for name in ("if-none-match", "if-modified-since"))
        same = tag == etag if tag is not None else date is not None and date == modified
        (status(304, body=b"") if same else content(body, **fields))(request, reply)

    return answer


def local(commands: Commands, *options: str) -> tuple[int, str]:
    """A download by processes that each fetch and save."""
    return ended(commands.start("producer", "--queue", "local", "-o", "a", *options))


def by_queues(commands: Commands, *options: str) -> tuple[int, str]:
    return local(commands, "-P", "1", "-C", "1", *options)


def far(commands: Commands, *options: str) -> tuple[int, str]:
    host = commands.host("-o", "a")
    end = ended(commands.start("producer", "--queue", commands.address, *options))
    assert ended(host)[0] == Exit.OK
    return end


def over_redis(commands: Commands, *options: str) -> tuple[int, str]:
    commands.address = redis_server.address()
    return far(commands, *options)


def pooled(commands: Commands, *options: str) -> tuple[int, str]:
    return far(commands, "--pool", "local:1", *options)


@pytest.mark.parametrize("run", [local, by_queues, far, over_redis, pooled], ids=lambda run: run.__name__)
def test_only_other_versions_are_fetched_and_replace_the_saved_ones(
    web: Web, commands: Commands, run: Callable[..., tuple[int, str]]
) -> None:
    web.routes |= {
        "/tag": version(b"tag", '"t"'),
        "/weak": version(b"weak", 'W/"w"'),
        "/date": version(b"date", modified=OLD),
        "/bare": content(b"bare"),
        "/new": version(b"one", '"1"', OLD),
        "/large": version(b"1" * LARGE, '"1"'),
        "/gone": version(b"gone", '"g"'),
    }
    urls = [web.url(path) for path in web.routes]
    assert run(commands, *urls) == (Exit.OK, "7 urls: 7 saved, 0 already there, 0 failed")
    assert run(commands, *urls) == (Exit.OK, "7 urls: 0 saved, 7 already there, 0 failed")
    assert len(web.log) == 7

    web.log.clear()
    web.routes |= {
        "/new": version(b"two!", '"2"', NEW),
        "/large": version(b"2" * LARGE, '"2"'),
        "/gone": status(404),
    }
    said = "7 urls: 2 saved, 4 already there, 1 failed (http-4xx 1)"
    assert run(commands, "--refresh", *urls) == (Exit.FAILED, said)
    there = {"tag": b"tag", "weak": b"weak", "date": b"date", "bare": b"bare", "gone": b"gone"}
    assert files_in(commands.folder / "a") == there | {"new": b"two!", "large": b"2" * LARGE}
    conditions = {
        request.path: (request.fields.get("if-none-match"), request.fields.get("if-modified-since"))
        for request in web.log
    }
    assert conditions == {
        "/tag": ('"t"', None),
        "/weak": ('W/"w"', None),
        "/date": (None, OLD),
        "/bare": (None, None),
        "/new": ('"1"', OLD),
        "/large": ('"1"', None),
        "/gone": ('"g"', None),
    }
    assert replaced(commands.folder / "a") == [("large", '"1"', None), ("new", '"1"', OLD)]

    assert run(commands, "--refresh", *urls[:6]) == (Exit.OK, "6 urls: 0 saved, 6 already there, 0 failed")
    assert files_in(commands.folder / "a")["new"] == b"two!"


def files_in(folder: Path) -> dict[str, bytes]:
    """The saved files."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def replaced(folder: Path) -> list[tuple[str, str, str | None]]:
    """The records of earlier versions."""
    db = sqlite3.connect(folder / FILE)
    try:
        return db.execute("SELECT name, etag, modified FROM replaced ORDER BY name").fetchall()
    finally:
        db.close()


@pytest.mark.parametrize("size", [300, LARGE])
def test_a_version_that_does_not_come_whole_leaves_the_old_one(
    web: Web, commands: Commands, size: int
) -> None:
    web.routes["/f"] = version(b"old", '"1"')
    assert local(commands, web.url("/f"))[0] == Exit.OK
    web.routes["/f"] = cut(b"n" * size, size // 2)
    code, said = local(commands, "--refresh", "--retries", "0", web.url("/f"))
    assert (code, said) == (Exit.FAILED, "1 url: 0 saved, 0 already there, 1 failed (truncated 1)")
    assert files_in(commands.folder / "a") == {"f": b"old"}


def test_a_version_that_was_cut_is_continued_by_the_next_refresh(web: Web, commands: Commands) -> None:
    web.routes["/f"] = version(b"old", '"1"')
    assert local(commands, web.url("/f"))[0] == Exit.OK
    new = bytes(range(250)) * (LARGE // 250)
    web.routes["/f"] = cut(new, LARGE // 2, etag='"2"')
    assert local(commands, "--refresh", "--retries", "0", web.url("/f"))[0] == Exit.FAILED
    web.log.clear()
    web.routes["/f"] = content(new, etag='"2"')
    assert local(commands, "--refresh", web.url("/f"))[1] == "1 url: 1 saved, 0 already there, 0 failed"
    assert files_in(commands.folder / "a") == {"f": new}
    [request] = web.log
    assert request.fields["if-range"] == '"2"'
    assert "if-none-match" not in request.fields


def test_only_the_url_that_sent_the_validators_is_asked_with_them(web: Web, commands: Commands) -> None:
    web.routes |= {"/from": redirect("/to"), "/to": version(b"body", '"1"', OLD)}
    assert local(commands, web.url("/from"))[0] == Exit.OK
    web.log.clear()
    assert local(commands, "--refresh", web.url("/from"))[1] == "1 url: 0 saved, 1 already there, 0 failed"
    (first,), (second,) = web.requests("/from"), web.requests("/to")
    assert {"if-none-match", "if-modified-since"}.isdisjoint(first.fields)
    assert second.fields["if-none-match"] == '"1"'
    web.log.clear()
    web.routes["/from"] = version(b"no redirect", '"1"')
    assert local(commands, "--refresh", web.url("/from"))[1] == "1 url: 1 saved, 0 already there, 0 failed"


def test_a_304_that_was_not_asked_for_is_a_failure(web: Web, commands: Commands) -> None:
    web.routes["/f"] = content(b"bare")
    assert local(commands, web.url("/f"))[0] == Exit.OK
    web.routes["/f"] = status(304, body=b"")
    code, said = local(commands, "--refresh", web.url("/f"))
    assert (code, said) == (Exit.FAILED, "1 url: 0 saved, 0 already there, 1 failed (rejected 1)")
    assert files_in(commands.folder / "a") == {"f": b"bare"}


def test_a_file_with_a_digest_in_the_list_is_not_asked_for(web: Web, commands: Commands) -> None:
    web.routes["/f"] = content(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (commands.folder / "list").write_text(f"{web.url('/f')}\tsha256={empty}\n")
    assert local(commands, "-i", "list")[0] == Exit.OK
    assert local(commands, "--refresh", "-i", "list")[1] == "1 url: 0 saved, 1 already there, 0 failed"
    assert len(web.log) == 1


def test_a_dry_run_tells_what_would_be_asked_for(web: Web, commands: Commands) -> None:
    web.routes["/f"] = content(b"f")
    assert local(commands, web.url("/f"))[0] == Exit.OK
    process = commands.start(
        "producer", "--queue", "local", "-o", "a", "--refresh", "--dry-run", web.url("/f"), web.url("/g")
    )
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == [
        f"to refresh: {web.url('/f')} -> f",
        f"to fetch: {web.url('/g')} -> g",
        "2 urls: 1 to fetch, 1 to refresh, 0 already there, 0 rejected",
    ]


@pytest.mark.parametrize("size", [5, LARGE])
def test_of_several_stores_the_one_with_the_old_version_gets_the_new_one(
    make_world: Callable[..., World], tmp_path: Path, size: int
) -> None:
    urls = [f"http://h/{number}" for number in range(20)]
    world = make_world(dict.fromkeys(urls, b"old"))
    world.consumer("a", tmp_path / "a")
    assert world.fetch(*urls).saved == 20
    world.consumer("b", tmp_path / "b")
    world.fetcher.bodies |= dict.fromkeys(urls[:10], b"n" * size)
    summary = world.fetch(*urls, refresh=True)
    assert (summary.saved, summary.already) == (10, 10)
    assert files_in(tmp_path / "b") == {}
    assert [files_in(tmp_path / "a")[str(number)] for number in (0, 9, 10, 19)] == [b"n" * size] * 2 + [
        b"old"
    ] * 2


def test_a_new_tag_of_the_same_bytes_is_recorded(tmp_path: Path) -> None:
    job, body = Job("http://h/a"), Body(1, None)
    with Store(tmp_path) as store:
        for tag in ('"1"', '"2"'):
            [(_, saved)] = store.commit([store.put(job, Head("http://h/a", 200, etag=tag), body, b"a")])
        [known] = store.known([job])
        assert known is not None
        assert known.etag == '"2"'
        assert known == saved._replace(etag='"2"')
    assert replaced(tmp_path) == []


def test_a_manifest_of_an_earlier_nearfar_is_read_and_gets_what_it_lacks(tmp_path: Path) -> None:
    job, head, body = Job("http://h/a"), Head("http://h/a", 200, modified=OLD), Body(1, None)
    with Store(tmp_path) as store:
        store.commit([store.put(job, head, body, b"a")])
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("DROP TABLE replaced")
    for table in ("files", "intents"):
        db.execute(f"ALTER TABLE {table} DROP COLUMN modified")
    db.commit()
    db.close()
    with Listing(tmp_path) as listing:
        [row] = listing.rows()
        assert listing.find(job) == row
        assert row.modified is None
    with Store(tmp_path) as store:
        assert store.known([job]) == [row]
        store.commit([store.put(job, head, body, b"b")])
        [known] = store.known([job])
        assert known is not None
        assert known.modified == OLD
    assert replaced(tmp_path) == [("a", None, None)]


def test_an_offer_says_whether_saved_files_may_be_fetched_again() -> None:
    for refresh in (False, True):
        offer = Offer((Job("http://h/a"),), refresh)
        assert decode(encode(offer)) == offer
