"""What a store keeps, under which names, and what it leaves alone."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import tracemalloc
import weakref
from pathlib import Path

import pytest

from nearfar.download.model import Body, Checksum, Head, Job, Reason, StoreError
from nearfar.download.store.listing import Listing
from nearfar.download.store.store import Store
from tests.download.store.making import (
    SITE,
    body,
    distinct,
    draft,
    failed,
    files,
    job,
    recorded,
    save,
    saved,
    temporaries,
)


def test_a_file_is_saved_with_its_row(tmp_path: Path) -> None:
    with Store(tmp_path, clock=lambda: 12.5) as store:
        what = Job("http://me:secret@example.org/a.png?x=1")
        head = Head("http://me:secret@cdn.example.org/b.png", 200, "image/png", 4, '"tag"')
        store.commit([store.put(what, head, body(b"data", attempts=3), b"data")])
        [row] = recorded(tmp_path)
        assert store.known([what]) == [row]
        assert row.size == 4
    assert (row.url, row.final_url) == ("http://example.org/a.png?x=1", "http://cdn.example.org/b.png")
    assert (row.name, row.size, row.type, row.etag) == ("b.png", 4, "image/png", '"tag"')
    assert (row.sha256, row.time, row.attempts) == (hashlib.sha256(b"data").hexdigest(), 12.5, 3)
    assert files(tmp_path) == {"b.png": b"data"}
    assert not temporaries(tmp_path)
    assert b"secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_nothing_bears_the_final_name_before_the_commit(store: Store, tmp_path: Path) -> None:
    what = draft(store, job())
    assert files(tmp_path) == {}
    store.commit([what])
    assert files(tmp_path) == {"a.png": b"data"}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (Body(5, hashlib.sha256(b"data").hexdigest()), Reason.TRUNCATED),
        (Body(3, hashlib.sha256(b"dat").hexdigest()), Reason.TRUNCATED),
        (Body(4, hashlib.sha256(b"Data").hexdigest()), Reason.CHECKSUM),
    ],
)
def test_bytes_that_are_not_those_sent_are_discarded(
    store: Store, tmp_path: Path, told: Body, reason: Reason
) -> None:
    started = store.open(job(), Head(SITE, 200))
    started.write(b"da")
    started.write(b"ta")
    with pytest.raises(StoreError) as caught:
        started.finish(told)
    assert caught.value.reason is reason
    assert [name for name in temporaries(tmp_path) if name.endswith(".part")] == []


def test_a_digest_that_was_not_counted_on_the_way_is_counted_here(store: Store) -> None:
    [(_, ending)] = store.commit([store.put(job(), Head(SITE, 200), Body(4, None), b"data")])
    assert saved(ending).sha256 == hashlib.sha256(b"data").hexdigest()
    with pytest.raises(StoreError):
        store.put(job(), Head(SITE, 200), Body(5, None), b"data")


def test_a_length_and_a_type_that_lie_are_recorded_not_trusted(store: Store) -> None:
    head = Head(SITE + "x.jpg", 200, "text/html", length=999)
    [(_, ending)] = store.commit([store.put(job("x.jpg"), head, body(b"data"), b"data")])
    assert (saved(ending).type, saved(ending).size) == ("text/html", 4)


def test_two_urls_of_one_name_get_two_and_the_same_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path) as store:
            one, two = draft(store, job("1/a.png"), b"one"), draft(store, job("2/A.png"), b"two")
            names = [saved(ending).name for _, ending in store.commit([one, two])]
            assert names == ["a.png", distinct("2/A.png", "A")]
    assert files(tmp_path) == {"a.png": b"one", names[1]: b"two"}


def test_a_collision_with_an_earlier_group_or_another_store_gets_its_own_name(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as other:
        assert one.id == other.id
        assert saved(save(one, job("1/a.png"))).name == "a.png"
        assert saved(save(other, job("2/a.png"))).name == distinct("2/a.png")


def test_a_file_of_someone_else_is_never_overwritten(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"theirs")
    assert saved(save(store, job())).name == distinct("a.png")
    assert saved(save(store, job(), b"newer")).name == distinct("a.png")
    assert [row.name for row in recorded(tmp_path)] == [distinct("a.png")]
    assert files(tmp_path) == {"a.png": b"theirs", distinct("a.png"): b"newer"}


def test_a_users_name_that_is_taken_is_refused_and_the_others_are_unharmed(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "mine.png").write_bytes(b"theirs")
    bad, good = draft(store, job(name="mine.png")), draft(store, job("b.png", name="sub/b.png"))
    (_, first), (_, second) = store.commit([bad, good])
    assert failed(first).reason is Reason.REJECTED
    assert saved(second).name == "sub/b.png"
    assert failed(save(store, job("c.png", name="SUB/B.png"))).reason is Reason.REJECTED
    assert files(tmp_path) == {"mine.png": b"theirs", "sub/b.png": b"data"}


def test_overwrite_replaces_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"theirs")
    with Store(tmp_path, overwrite=True) as store:
        assert saved(save(store, job(), b"ours")).name == "a.png"
        assert saved(save(store, job("other", name="a.png"), b"other")).name == "a.png"
        assert [row.url for row in recorded(tmp_path)] == [SITE + "other"]
    assert files(tmp_path) == {"a.png": b"other"}


def test_a_new_version_replaces_our_own_old_one_but_not_one_that_was_edited(
    store: Store, tmp_path: Path
) -> None:
    save(store, job(), b"one")
    assert saved(save(store, job(), b"two")).name == "a.png"
    (tmp_path / "a.png").write_bytes(b"ed!")
    assert saved(save(store, job(), b"three")).name == distinct("a.png")
    assert files(tmp_path) == {"a.png": b"ed!", distinct("a.png"): b"three"}


def test_one_url_twice_in_a_group_is_one_file(store: Store, tmp_path: Path) -> None:
    endings = store.commit([draft(store, job()), draft(store, job()), draft(store, job(), b"newer")])
    assert [saved(ending).name for _, ending in endings] == ["a.png"] * 3
    assert files(tmp_path) == {"a.png": b"newer"}
    assert [row.size for row in recorded(tmp_path)] == [5]


def test_known_wants_the_file_its_size_its_name_and_its_checksum(store: Store, tmp_path: Path) -> None:
    save(store, job())
    md5, sha = hashlib.md5(b"data").hexdigest(), hashlib.sha256(b"data").hexdigest()
    fit = [
        job(),
        job(name="A.png"),
        job(checksum=Checksum("md5", md5)),
        job(checksum=Checksum("sha256", sha)),
    ]
    unfit = [
        job("b.png"),
        job(name="b.png"),
        job(name="../a.png"),
        job(checksum=Checksum("md5", "0" * 32)),
        job(checksum=Checksum("sha256", "0" * 64)),
    ]
    assert all(store.known(fit))
    assert not any(store.known(unfit))
    (tmp_path / "a.png").write_bytes(b"longer")
    assert store.known([job()]) == [None]
    (tmp_path / "a.png").unlink()
    assert store.known([job()]) == [None]


def test_many_sub_directories_need_few_descriptors(store: Store, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for number in range(100):
        saved(save(store, job(f"{number}", name=f"{number}/deep/a.png")))
    assert len(os.listdir("/proc/self/fd")) - before <= 32  # noqa: PTH208
    assert len(files(tmp_path)) == 100


def test_close_discards_what_was_not_committed(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        draft(store, job())
        store.open(job("b.png", name="sub/b.png"), Head(SITE, 200)).write(b"half")
    store.close()
    assert temporaries(tmp_path) == []
    assert files(tmp_path) == {}


def test_a_store_holds_on_to_no_draft_that_has_ended(store: Store) -> None:
    kept, dropped = draft(store, job()), draft(store, job("b.png"))
    store.commit([kept])
    dropped.discard()
    ended = [weakref.ref(kept), weakref.ref(dropped)]
    del kept, dropped
    gc.collect()
    assert [reference() for reference in ended] == [None, None]


def test_a_discarded_draft_takes_no_more_bytes(store: Store, tmp_path: Path) -> None:
    started = store.open(job(), Head(SITE, 200))
    started.discard()
    started.discard()
    with pytest.raises(ValueError, match="no more bytes"):
        started.write(b"late")


def test_export_gives_every_row(store: Store, tmp_path: Path) -> None:
    save(store, job("1.png"))
    save(store, job('2,"ü".png'))
    lines, table = io.StringIO(), io.StringIO(newline="")
    with Listing(tmp_path) as listing:
        listing.export("jsonl", lines)
        listing.export("csv", table)
    rows = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [row["name"] for row in rows] == ["1.png", "2,_ü_.png"]
    columns = "url,final_url,name,size,sha256,type,etag,time,attempts,modified"
    assert ",".join(rows[0]) == columns
    assert table.getvalue().splitlines()[0] == columns
    assert len(table.getvalue().splitlines()) == 3


def test_what_a_server_says_may_be_no_unicode(store: Store) -> None:
    head = Head(SITE + "\udce9", 200, "im\udce9", etag="\udce9", suggested="\udce9.png")
    [(_, ending)] = store.commit([store.put(Job(SITE + "\udce9"), head, body(b""), b"")])
    assert saved(ending).name == "_.png"


def test_a_large_file_streams_in_bounded_memory(store: Store, tmp_path: Path) -> None:
    chunk = bytes(1 << 20)
    whole = hashlib.sha256()
    tracemalloc.start()
    try:
        started = store.open(job("large"), Head(SITE + "large", 200))
        for _ in range(128):
            started.write(chunk)
            whole.update(chunk)
        started.finish(Body(128 << 20, whole.hexdigest()))
        [(_, ending)] = store.commit([started])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert saved(ending).size == (tmp_path / "large").stat().st_size == 128 << 20


def test_what_is_known_of_a_secret_cannot_be_looked_up(tmp_path: Path) -> None:
    """Given one URL with a token in two directories, I expect it known in each, by hashes that differ."""
    what = job("a.png?token=hush")
    plain = hashlib.sha256(what.url.encode()).digest()
    keys = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        with Store(folder) as store:
            save(store, job("other/a.png"))
            saved(save(store, what, b"other"))
            assert store.known([what, job("a.png?token=hash"), job("a.png")])[1:] == [None, None]
            [key] = {path.stem for path in folder.glob("a-*.png")}
        assert plain not in (folder / ".nearfar.sqlite").read_bytes() and plain.hex()[:8] not in key
        keys.append(key)
    assert keys[0] != keys[1]


def test_a_new_password_is_the_same_url_and_another_user_is_not(store: Store) -> None:
    first, later, other = (Job(f"http://{who}@h/a") for who in ("me:one", "me:two", "you:one"))
    row = saved(save(store, first))
    assert store.known([later, other]) == [row, None]


@pytest.mark.parametrize(
    "spelling",
    ["HTTP://Example.org:80/a.png", "http://example.org/b/../a.png#two", "http://example.org/%61.png"],
)
def test_one_resource_is_known_however_it_is_spelt(store: Store, spelling: str) -> None:
    row = saved(save(store, job("a.png#one")))
    assert store.known([Job(spelling), job("b.png")]) == [row, None]
    assert saved(save(store, Job(spelling))).name == row.name, "the same file again is no second one"
