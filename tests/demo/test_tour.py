"""The demo's check finds errors, and the demo prints them."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from nearfar.contrast.report_model import Table
from nearfar.demo.gallery import Gallery
from nearfar.demo.tour import CheckedFiles, DemoRun, check, run_table, show
from nearfar.download.model import Body, Head, Job
from nearfar.download.store.store import Store

pytestmark = pytest.mark.pure

GALLERY = Gallery(count=3, large=0, seed="check")
URLS = [f"http://gallery/images/{name}" for name in GALLERY.names()]
DEAD, BUSY = "http://gallery/images/missing.png", "http://gallery/busy/0001.png"


def save(folder: Path, url: str, content: bytes | None = None, attempts: int = 1) -> None:
    """As a consumer saves."""
    data = content or GALLERY.picture(url.rpartition("/")[2]) or b""
    body = Body(len(data), hashlib.sha256(data).hexdigest(), attempts)
    with Store(folder) as store:
        store.commit([store.put(Job(url), Head(url, 200), body, data)])


def checked(*folders: Path) -> CheckedFiles:
    return check(GALLERY, URLS, list(folders))


def test_good_files_are_counted_by_folder_and_once_by_url(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, url in ((one, URLS[0]), (one, URLS[1]), (other, URLS[1]), (other, URLS[2])):
        save(folder, url)
    found = checked(one, other)
    assert (found.files, found.twice, found.complaints) == (Counter({one: 2, other: 2}), 1, [])
    assert sum(found.sizes.values()) == sum(len(GALLERY.picture(name) or b"") for name in GALLERY.names())


def test_a_file_of_other_bytes_is_a_complaint(tmp_path: Path) -> None:
    for url in URLS[:2]:
        save(tmp_path, url)
    save(tmp_path, URLS[2], GALLERY.picture("0001.png"))
    found = checked(tmp_path)
    assert found.complaints == [
        f"{tmp_path / '0003.png'} is not the picture at {URLS[2]}",
        f"{URLS[2]} was not saved",
    ]


def test_a_missing_file_and_an_unknown_one_are_complaints(tmp_path: Path) -> None:
    for url in URLS:
        save(tmp_path, url)
    (tmp_path / "0003.png").rename(tmp_path / "0033.png")
    assert len(checked(tmp_path).complaints) == 3


@pytest.mark.parametrize(
    ("failed", "attempts", "complaints"),
    [([DEAD], 2, 0), ([], 2, 1), ([DEAD, URLS[0]], 2, 1), ([DEAD], 1, 1), ([], 1, 2)],
)
def test_the_dead_link_alone_must_fail_and_the_busy_one_be_tried_again(
    failed: list[str], attempts: int, complaints: int
) -> None:
    run = DemoRun("near", "3", 1.0, failed, CheckedFiles(attempts={BUSY: attempts}))
    assert len(run.complaints(DEAD, BUSY)) == complaints


def test_a_run_is_a_row_of_its_figures() -> None:
    found = CheckedFiles(sizes={URLS[0]: 2_000_000, URLS[1]: 1_000_000})
    table = run_table([DemoRun("near", "3", 2.0, [DEAD], found)])
    assert table.rows == [["near", "3", "2", "1", "2.0", "1", "1.5"]]


def test_a_table_is_drawn_with_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    show(Table(["", "files"], [["near", "201"], ["far, one killed", "7"]]), Console(file=sys.stdout))
    drawn = capsys.readouterr().out.split()
    cells = [cell for cell in drawn if set(cell) != {"─"}]
    assert cells == ["files", "near", "201", "far,", "one", "killed", "7"]
