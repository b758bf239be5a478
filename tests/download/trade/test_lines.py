"""The input: lines become jobs, bad ones become failures, and nothing stops the run."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.download.account import Failures
from nearfar.download.input import (
    AHEAD,
    LONGEST_LINE,
    Arguments,
    Bad,
    DescriptorSource,
    Intake,
    LineReader,
    failed_line,
    parse,
)
from nearfar.download.model import Checksum, Failure, Job, Reason

SHA = "a" * 64

urls = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)).map("http://h/".__add__)
words = st.text(st.characters(exclude_characters="\t\r\n\ufeff", exclude_categories=["Cs", "Cc"]), min_size=1)
jobs = st.builds(
    Job,
    urls,
    st.none() | words.filter(lambda name: name == name.strip(" \xa0\u200b")),
    st.none() | st.builds(Checksum, st.just("sha256"), st.binary(min_size=32, max_size=32).map(bytes.hex)),
)


def read(*blocks: bytes) -> list[Job | Bad]:
    reader = LineReader()
    return [entry for block in blocks for entry in reader.feed(block)] + reader.end()


def test_a_line_names_a_url_and_what_its_author_knows() -> None:
    line = f"https://h/a.png\tname=cats/a.png\tsha256={SHA.upper()}\t# http-5xx: 503\r\n"
    assert parse(line, "line 1") == Job("https://h/a.png", "cats/a.png", Checksum("sha256", SHA))


@pytest.mark.parametrize(
    "line",
    [
        f"  https://h/a.png\tname=a.png\tsha256={SHA}",
        f"\thttps://h/a.png\tname=a.png\tsha256={SHA}\t",
        f"https://h/a.png \t name=a.png \t sha256={SHA} ",
        f"https://h/a.png\t\tname = a.png\tsha256 = {SHA}\r\n",
        f"\ufeffhttps://h/a.png\xa0\tname=a.png\xa0\t\xa0sha256={SHA}\u200b",
        f" \t https://h/a.png \t sha256={SHA} \t name=a.png \t # dns: no such host",
    ],
)
def test_white_space_around_a_line_or_a_field_says_nothing(line: str) -> None:
    assert parse(line, "line 1") == Job("https://h/a.png", "a.png", Checksum("sha256", SHA))


def test_white_space_inside_a_name_is_part_of_it() -> None:
    assert parse("http://h/a\tname= my cat.png ", "line 1") == Job("http://h/a", "my cat.png")


@pytest.mark.parametrize("line", ["", "  ", "\t", " \t# remark", "# remark", "\r\n", "\ufeff"])
def test_blank_lines_and_remarks_are_nothing(line: str) -> None:
    assert parse(line, "line 1") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ftp://h/a", "not an http or https URL"),
        ("http:///path", "not an http or https URL"),
        ("http://h/a name=x", "white space"),
        ("http://h/a\tcolour=red", "unknown field 'colour'"),
        ("http://h/a\tname", "key=value"),
        ("http://h/a\tname=", "key=value"),
        ("http://h/a\tsha256=12", "64 hexadecimal digits"),
        (f"http://h/a\tsha256={'g' * 64}", "64 hexadecimal digits"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(line: str, said: str) -> None:
    bad = parse(line, "line 7")
    assert isinstance(bad, Bad)
    assert bad.failure.reason is Reason.REJECTED
    assert bad.failure.detail.startswith("line 7: ")
    assert said in bad.failure.detail


def test_bad_lines_stop_nobody_and_are_numbered_as_an_editor_does() -> None:
    entries = read(b"http://h/1\n\n# remark\n\xff\xfe\nhttp://h/2")
    assert entries[0] == Job("http://h/1")
    assert entries[1] == Bad("", Failure(Reason.REJECTED, "line 4: not UTF-8"))
    assert entries[2] == Job("http://h/2")


@given(st.lists(jobs), st.data())
def test_lines_are_the_same_however_the_bytes_arrive(wanted: list[Job], data: st.DataObject) -> None:
    text = "".join(failed_line(job, Failure(Reason.DNS, "no such\nhost")) for job in wanted).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    blocks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(*blocks) == wanted


@given(st.text())
def test_any_text_is_a_job_a_refusal_or_nothing(text: str) -> None:
    entry = parse(text, "line 1")
    assert entry is None or isinstance(entry, Job | Bad)


def test_an_endless_line_is_refused_once_and_in_bounded_memory() -> None:
    reader = LineReader()
    block = b"x" * LONGEST_LINE
    entries = [entry for _ in range(50) for entry in reader.feed(block)]
    entries += reader.feed(b"\nhttp://h/2\n")
    assert [type(entry) for entry in entries] == [Bad, Job]
    assert "line 1: longer" in entries[0].failure.detail  # type: ignore[union-attr]


def test_an_input_is_read_only_a_little_ahead(tmp_path: Path) -> None:
    """Many lines are there; few are in memory, and all are given out in order."""
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"http://h/{number}\n" for number in range(100_000)))
    descriptor = DescriptorSource(os.open(path, os.O_RDONLY))
    more = threading.Semaphore(0)
    tracemalloc.start()
    try:
        intake = Intake(descriptor, more.release)
        intake.begin()
        taken = 0
        while not intake.exhausted:
            assert more.acquire(timeout=10)
            while entries := intake.take(500):
                assert entries[0] == Job(f"http://h/{taken}")
                taken += len(entries)
        assert taken == 100_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        intake.close()
        descriptor.close()


def test_what_was_not_taken_of_a_file_is_counted_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    path.write_text("".join(f"http://h/{number}\n" for number in range(10 * AHEAD)))
    descriptor = DescriptorSource(os.open(path, os.O_RDONLY))
    ready = threading.Event()
    intake = Intake(descriptor, ready.set)
    intake.begin()
    assert ready.wait(10)
    taken = len(intake.take(100))
    intake.close()
    assert intake.rest() == (10 * AHEAD - taken, True)
    descriptor.close()


def test_a_silent_pipe_is_left_at_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    descriptor = DescriptorSource(reading)
    ready = threading.Event()
    intake = Intake(descriptor, ready.set)
    intake.begin()
    os.write(writing, b"http://h/1\nhttp://h/")
    assert ready.wait(10)
    intake.close()
    assert intake.rest() == (1, False)
    os.close(writing)
    descriptor.close()


def test_an_input_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    descriptor = DescriptorSource(os.open(tmp_path, os.O_RDONLY))
    ready = threading.Event()
    intake = Intake(descriptor, ready.set)
    intake.begin()
    assert ready.wait(10)
    with pytest.raises(IsADirectoryError):
        intake.take(1)
    intake.close()
    descriptor.close()


def test_an_input_that_gets_no_thread_says_so_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a system without room for a thread, I expect its complaint, and no other one behind it."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    intake = Intake(Arguments(["http://h/1"]))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="start new thread"):
        intake.take(1)
    intake.close()
    assert intake.rest() == (1, True)


def test_arguments_are_read_as_lines_are() -> None:
    ready = threading.Event()
    intake = Intake(Arguments(["http://h/1", "nonsense"]), ready.set)
    intake.begin()
    intake.close()
    entries = [*intake.take(5)]
    assert entries[0] == Job("http://h/1")
    assert len(entries) + intake.rest()[0] == 2


def test_a_failures_file_appears_whole_and_goes_when_nothing_failed(tmp_path: Path) -> None:
    path = tmp_path / "failures.txt"
    path.write_text("of an earlier run\n")
    failures = Failures(path)
    failures.add(Job("http://h/1", "a.png"), Failure(Reason.DNS, "no such host"))
    assert path.read_text() == "of an earlier run\n", "it may be this run's input"
    failures.close()
    assert path.read_text() == "http://h/1\tname=a.png\t# dns: no such host\n"
    Failures(path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_failures_leaves_those_of_a_run_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "failures.txt"
    path.write_text("of a run that is over")
    clean, beside = Failures(path), Failures(path)
    beside.add(Job("http://x/missing"), Failure(Reason.HTTP_4XX, "HTTP 404"))
    beside.close()
    clean.close()
    assert "http://x/missing" in path.read_text()


def test_what_a_killed_run_had_begun_is_removed_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "failures.txt"
    (tmp_path / ".failures.txt.123").write_text("of a killed one")
    theirs = [tmp_path / name for name in (".failures.txt.bak", ".other.txt.123")]
    for each in theirs:
        each.touch()
    living = Failures(path)
    living.add(Job("http://x/missing"), Failure(Reason.HTTP_4XX, "HTTP 404"))
    Failures(path).close()
    assert set(tmp_path.iterdir()) == {*theirs, tmp_path / f".failures.txt.{os.getpid()}"}
    living.close()
    assert set(tmp_path.iterdir()) == {*theirs, path}


def test_failures_that_cannot_be_written_are_counted_and_an_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "failures.txt"
    path.write_text("of an earlier run\n")
    failures = Failures(path)
    (tmp_path / f".failures.txt.{os.getpid()}").mkdir()
    for _ in range(2):
        failures.add(Job("http://x/missing"), Failure(Reason.HTTP_4XX, "HTTP 404"))
    failures.close()
    assert failures.count == 2
    assert isinstance(failures.trouble, IsADirectoryError)
    assert path.read_text() == "of an earlier run\n"


@pytest.mark.parametrize(
    "content",
    [
        "http://h/1\nhttp://h/2\n",
        "http://h/1\t# dns: no such host\nhttp://h/2\n",
        "# my list\n",
        "",
        "http://h/1\t# dns: no such host",
        "http://h/1\t# because: of me\n",
        "anything else",
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_only_a_failures_file_is_removed_when_nothing_failed(tmp_path: Path, content: str, mode: int) -> None:
    """Given a user's own list in place of the failures file, I expect it to be there afterwards."""
    path = tmp_path / "my-list.txt"
    path.write_text(content)
    path.chmod(mode)
    Failures(path).close()
    assert path.read_text() == content


def test_a_failures_file_behind_a_symlink_is_removed_and_the_link_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    failures = Failures(link)
    failures.add(Job("http://h/1"), Failure(Reason.DNS, "no such host"))
    failures.close()
    assert link.is_symlink() and target.read_text() == "http://h/1\t# dns: no such host\n"
    Failures(link).close()
    assert link.is_symlink() and not target.exists()


def test_failures_go_to_a_fifo_as_they_come_and_nothing_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    failures = Failures(path)
    failures.add(Job("http://h/1"), Failure(Reason.DNS, "no such host"))
    assert os.read(reader, 100) == b"http://h/1\t# dns: no such host\n"
    os.close(reader)
    failures.add(Job("http://h/2"), Failure(Reason.DNS, "no such host"))
    failures.close()
    assert isinstance(failures.trouble, BrokenPipeError)
    assert path.is_fifo() and list(tmp_path.iterdir()) == [path]


def test_pipes_planted_where_drafts_lie_hold_nobody_up(tmp_path: Path) -> None:
    for number in (os.getpid(), 123):
        os.mkfifo(tmp_path / f".failures.txt.{number}")
    failures = Failures(tmp_path / "failures.txt")
    failures.add(Job("http://h/1"), Failure(Reason.DNS, "no such host"))
    failures.close()
    assert (tmp_path / "failures.txt").read_text() == "http://h/1\t# dns: no such host\n"
    Failures(tmp_path / "failures.txt").close()
    assert [path.name for path in tmp_path.iterdir()] == [".failures.txt.123"]


HOSTILE = ["\x1b[2J", "\x1b]0;title\x07", "\r", "\x08\x08", "\x9b31m", "\x7f", "\u202e", "\u2028", "\ufeff"]


@pytest.mark.parametrize("nasty", HOSTILE)
def test_a_failures_file_holds_nothing_that_a_terminal_obeys(nasty: str) -> None:
    url = f"http://h/a{nasty.strip()}b"
    jobs_ = [
        parse(line, "line 1") for line in (url, f"http://h/a\tname=x{nasty}y%41z", f"ftp://h/{nasty}\tz")
    ]
    for entry in jobs_:
        assert entry is not None
        line = failed_line(entry, Failure(Reason.HTTP_4XX, f"HTTP 404 {nasty} Not\nFound"))
        assert line.endswith("\n") and line[:-1].replace("\t", "").isprintable(), line
        (again,) = read(line.encode())
        if isinstance(entry, Job):
            assert isinstance(again, Job)
            assert (unquote(again.url), again.name) == (unquote(entry.url), entry.name), (
                "it asks for the same"
            )


@given(jobs, st.text())
def test_any_failed_job_is_read_as_the_same_again(job: Job, detail: str) -> None:
    line = failed_line(job, Failure(Reason.DNS, detail))
    assert line[:-1].replace("\t", "").isprintable() or any(ord(c) > 0x9F for c in line)
    assert read(line.encode()) == [job]


def test_a_name_that_is_no_percent_encoded_utf_8_is_refused() -> None:
    bad = parse("http://h/a\tname*=%FF", "line 1")
    assert isinstance(bad, Bad) and "name* takes percent-encoded UTF-8" in bad.failure.detail


def test_a_pipe_that_nobody_writes_can_be_left(tmp_path: Path) -> None:
    """Given a FIFO as the input before its writer has come, I expect the reading to wait, and to end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    descriptor = DescriptorSource(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    ready = threading.Event()
    intake = Intake(descriptor, ready.set)
    intake.begin()
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"http://h/1\n")
    assert ready.wait(10)
    assert intake.take(5) == [Job("http://h/1")] and not intake.ended
    intake.close()
    os.close(writer)
    descriptor.close()

    descriptor = DescriptorSource(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    intake = Intake(descriptor)
    intake.begin()
    intake.close()
    assert intake.rest() == (0, False)
    descriptor.close()
