"""``nearfar queue`` hosts a queue, and may be killed and started again during its use."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nearfar import Queue
from nearfar.cli.exits import Exit
from nearfar.cli.queue import describe, main
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer
from tests.support.shell import ANYWHERE, Shell, ended
from tests.support.waiting import eventually

GALLERY = Gallery(count=100, large=0, seed="queue")


@pytest.mark.slow
def test_a_killed_and_restarted_queue_loses_nothing(shell: Shell, tmp_path: Path) -> None:
    """Given a queue killed in the middle, I expect its producer and its consumer to continue and finish."""
    with GalleryServer(GALLERY) as server:
        urls = [url for url in server.urls if "/images/0" in url]
        (tmp_path / "urls.txt").write_text("\n".join(urls))
        queue, address = shell.queue()
        consumer = shell.start("consumer", "--queue", address, "-o", "saved")
        producer = shell.start("producer", "--queue", address, "-i", "urls.txt", "--rate", "500k")
        assert eventually(lambda: len(list(tmp_path.glob("saved/*.png"))) >= 10, within=30)
        queue.kill()
        assert queue.wait(10) == -signal.SIGKILL
        again, _ = shell.queue(address)
        assert ended(producer)[:2] == (0, "100 urls: 100 saved, 0 already there, 0 failed\n")
        assert ended(consumer)[0] == Exit.OK
    saved = {path.name: path.read_bytes() for path in tmp_path.glob("saved/*.png")}
    assert saved == {name: GALLERY.picture(name) for name in GALLERY.names()}
    again.send_signal(signal.SIGTERM)
    code, _, err = ended(again)
    assert (code, err.splitlines()[-1]) == (Exit.OK, "stopped; nothing is left in it")


def test_it_logs_its_status_and_the_remaining_items(shell: Shell) -> None:
    process, address = shell.queue(ANYWHERE, "--maxsize", "2", "--status-every", "0.1")
    assert process.stderr is not None
    with Queue.connect(address) as queue:
        queue.put_many([b"one", b"two"])
        assert queue.full()
        assert process.stderr.readline().startswith("2 waiting (")
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == Exit.INTERRUPTED
    assert "stopped with 2 waiting (" in err
    assert err.endswith("it is lost: its producers have left\n")


@pytest.mark.slow
def test_a_connected_producer_keeps_its_items(shell: Shell) -> None:
    process, address = shell.queue()
    with Queue.connect(address, wait=20.0) as queue:
        queue.put("kept")
        assert queue.qsize() == 1  # a put without a bound returns before the host has the item
        process.send_signal(signal.SIGINT)
        assert "send it again to a queue at the same address" in ended(process)[2]
        again, _ = shell.queue(address)
        assert queue.get(timeout=20) == "kept"
    again.send_signal(signal.SIGTERM)
    assert ended(again)[0] == Exit.OK


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("5555", "cannot read the address"),
        ("tcp://0.0.0.0:*", "can be reached from other machines"),
        ("ipc:///nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_a_bad_address_is_a_short_error(address: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bind", address]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nearfar queue: ")
    assert said in err
    assert err.count("\n") == 1


def test_an_address_in_use_is_a_short_error(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    _, address = shell.queue()
    assert main(["--bind", address]) == Exit.USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_the_status_is_one_line_with_errors_only_if_there_are_some() -> None:
    counts = dict.fromkeys(("dead", "dropped", "undeliverable", "late", "lost producers"), 0)
    counts |= {"size": 3, "bytes": 1_200_000, "unsettled": 5, "settled": 1204, "producers": 1, "consumers": 2}
    assert describe(counts) == "3 waiting (1.2 MB), 2 unacknowledged, 1,204 done; 1 producer, 2 consumers"
    assert describe(counts | {"dead": 1, "lost producers": 2}) == (
        "3 waiting (1.2 MB), 2 unacknowledged, 1,204 done, 1 dead; 1 producer, 2 consumers, 2 producers lost"
    )
