"""The conservation law, over random histories."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.account import Account, Ended
from nearfar.download.input import Bad, Seen, digest_of
from nearfar.download.model import Checksum, Ending, Failure, Job, Reason, Saved


def saved(url: str) -> Saved:
    return Saved(url, url, "name", 10, "0" * 64, None, None, 0.0, 1)


OUTCOMES = st.sampled_from([Ending.SAVED, Ending.ALREADY, Ending.FAILED])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 6)),
        st.tuples(st.just("end"), st.integers(0, 20), OUTCOMES, st.sampled_from(Reason)),
        st.tuples(st.just("bad"), st.sampled_from(Reason)),
        st.tuples(st.just("pass"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_every_line_ends_once_and_the_counts_add_up(events: list[tuple[object, ...]]) -> None:
    account = Account()
    lines = 0
    fetched: Counter[str] = Counter()
    for event in events:
        match event:
            case "begin", url:
                lines += 1
                if account.begin(Job(f"http://h/{url}")) is not None:
                    fetched[str(url)] += 1
            case "end", which, ending, reason:
                numbers = sorted(account.open)
                if numbers:
                    assert isinstance(which, int) and isinstance(ending, Ending)
                    number = numbers[which % len(numbers)]
                    failed = ending is Ending.FAILED
                    what = Failure(Reason(str(reason)), "why") if failed else saved("http://h/")
                    account.end(number, Ended(ending, what))
            case "bad", reason:
                lines += 1
                account.refuse(Bad("", Failure(Reason(str(reason)), "why")))
            case "pass", count:
                assert isinstance(count, int)
                lines += count
                account.pass_by(count)
        account.check()
        now = account.summary()
        assert now.urls == lines == now.saved + now.already + now.failed.total() + now.left
        assert now.complete == (not now.left and not now.failed)
    assert all(times == 1 for times in fetched.values())


def test_a_job_cannot_end_twice() -> None:
    account = Account()
    number = account.begin(Job("http://h/1"))
    assert number is not None
    account.end(number, Ended(Ending.SAVED, saved("http://h/1")))
    before = str(account.summary())
    with pytest.raises(KeyError):
        account.end(number, Ended(Ending.SAVED, saved("http://h/1")))
    assert str(account.summary()) == before


def test_a_repeated_line_ends_as_the_first_one_did() -> None:
    """While the first is open, and after; saved once, it is already there for the others."""
    account = Account()
    for url, ended in {
        "http://h/good": Ended(Ending.SAVED, saved("http://h/good")),
        "http://h/bad": Ended(Ending.FAILED, Failure(Reason.TLS, "expired")),
    }.items():
        number = account.begin(Job(url))
        assert number is not None
        assert account.begin(Job(url)) is None
        account.end(number, ended)
        assert account.begin(Job(url)) is None
    assert str(account.summary()) == "6 urls: 1 saved, 2 already there, 3 failed (tls 3)"


def test_another_name_or_checksum_is_another_job() -> None:
    account = Account()
    job = Job("http://h/1")
    others = [Job(job.url, "name"), Job(job.url, None, Checksum("md5", "0" * 32))]
    assert all(account.begin(each) is not None for each in [job, *others])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("http://h/f#one", "http://h/f#two", True),
        ("HTTP://h/x", "http://H:80/x", True),
        ("http://h/a/../%7Ex", "http://h/~x", True),
        ("http://straße.example/", "http://xn--strae-oqa.example", True),
        ("http://straße.example/", "http://strasse.example/", False),
        ("http://h/x", "https://h/x", False),
        ("http://h/x", "http://h/X", False),
        ("http://h/x?a", "http://h/x?b", False),
        ("http://me@h/x", "http://h/x", False),
    ],
)
def test_one_resource_is_one_job_however_it_is_spelt(first: str, second: str, same: bool) -> None:
    account = Account()
    number = account.begin(Job(first))
    assert number is not None
    assert (account.begin(Job(second)) is None) is same
    account.end(number, Ended(Ending.SAVED, saved(first)))
    assert account.summary().already == (1 if same else 0)
    account.check()


def test_what_is_left_is_told() -> None:
    account = Account()
    account.begin(Job("http://h/1"))
    account.pass_by(1_199)
    assert str(account.summary()) == "1,200 urls: 0 saved, 0 already there, 0 failed, 1,200 left"
    assert not account.summary().complete


@given(st.lists(st.binary(min_size=16, max_size=16) | st.sampled_from([b"\0" * 16, b"\0\0" + b"\1" * 14])))
def test_seen_is_a_set(digests: list[bytes]) -> None:
    seen, reference = Seen(), set[bytes]()
    for digest in digests:
        assert seen.add(digest) == (digest not in reference)
        reference.add(digest)


def test_seen_finds_no_digest_across_the_border_of_two() -> None:
    seen = Seen()
    first, second = b"\0\0" + bytes(range(14)), b"\0\0" + bytes(range(14, 28))
    across = b"\0\0" + bytes(range(7, 21))
    assert seen.add(first) and seen.add(second)
    assert seen.add(across)
    assert not seen.add(across)


def test_a_digest_tells_jobs_apart() -> None:
    assert digest_of(Job("http://h/1")) == digest_of(Job("http://h/1"))
    assert digest_of(Job("http://h/1")) != digest_of(Job("http://h/1", "1"))
