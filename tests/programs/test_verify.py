"""``nearfar verify`` believes the files, and says what is not as the list has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from nearfar.demo.gallery import Gallery
from nearfar.demo.server import Server
from nearfar.demo.site import Site
from nearfar.download.model import Body, Head, Job
from nearfar.download.store import Store
from nearfar.programs.verify import main

FILES = {f"http://gallery/{name}.png": name.encode() * 10 for name in ("girl", "boy", "man")}


def save(folder: Path, *urls: str) -> None:
    """As a consumer saves."""
    with Store(folder) as store:
        for url in urls:
            data = FILES[url]
            body = Body(len(data), hashlib.sha256(data).hexdigest(), 1)
            store.commit([store.put(Job(url), Head(url, 200), body, data)])


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{u}\tsha256={hashlib.sha256(data).hexdigest()}\n" for u, data in FILES.items()))
    return path


def test_all_of_a_list_may_be_in_several_folders(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = FILES
    save(tmp_path / "one", first, second)
    save(tmp_path / "two", second, third)
    assert main([str(listed), str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path / 'one'}: 2 files as the list has them",
        f"{tmp_path / 'two'}: 2 files as the list has them",
        "3 of 3 urls saved and verified (100 B)",
    ]


def test_what_is_spoilt_gone_foreign_or_missing_is_said(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    save(folder, *FILES)
    (folder / "girl.png").write_bytes(bytes(40))
    (folder / "boy.png").unlink()
    lines = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join([*lines[:2], f"http://gallery/dog.png\tsha256={'0' * 64}\n"]))
    assert main([str(listed), str(folder)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: 0 files as the list has them",
        f"WRONG: {folder / 'girl.png'} has another digest than the list tells",
        f"WRONG: {folder / 'boy.png'} is in the manifest, but not there",
        f"WRONG: {folder / 'man.png'} is of http://gallery/man.png, which is not in the list",
        *(f"WRONG: http://gallery/{name}.png was not saved" for name in ("girl", "boy", "dog")),
        "0 of 3 urls saved and verified (0 B)",
    ]


def test_many_complaints_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"http://gallery/{n}\tsha256={'0' * 64}\n" for n in range(12)))
    (tmp_path / "files").mkdir()
    assert main([str(listed), str(tmp_path / "files")]) == 1
    assert "WRONG: and 2 other things\n0 of 12 urls" in capsys.readouterr().out


def test_a_gallery_lists_the_digests_of_its_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = Gallery(count=2, large=0, seed="verify")
    with Server(Site(gallery)) as server:
        for name in gallery.names():
            url = f"{server.url}/images/{name}"
            FILES[url] = gallery.picture(name) or b""
            save(tmp_path / "files", url)
            del FILES[url]
        assert main([f"{server.url}/digests.txt", str(tmp_path / "files")]) == 0
    assert "2 of 2 urls saved and verified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("http://gallery/girl.png", "line 1 is not a URL with its digest"),
        (f"http://gallery/girl.png\tmd5={'0' * 32}", "line 1 is not a URL with its digest"),
        ("girl.png", "line 1 is not a URL with its digest"),
    ],
)
def test_a_list_without_digests_is_a_usage_error(
    line: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.txt").write_text(line)
    assert main([str(tmp_path / "list.txt"), str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_place_that_is_not_there_is_a_usage_error(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(listed), str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path / "nothing.txt"), str(tmp_path)]) == 2
    assert main(["http://127.0.0.1:1/list.txt", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "nowhere: there is no such folder" in said
    assert "nothing.txt: no such file or directory" in said
    assert not (tmp_path / "nowhere").exists()
