"""``nearfar verify`` reads the files, and reports differences from the list."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from nearfar.cli.verify import main
from nearfar.demo.gallery import Gallery
from nearfar.demo.server import GalleryServer
from nearfar.download.model import Body, Head, Job
from nearfar.download.store.store import Store

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


def test_wrong_missing_and_unknown_files_are_reported(
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
        *(f"WRONG: http://gallery/{name}.png was not saved" for name in ("girl", "boy", "dog")),
        f"not in the list: {folder / 'man.png'} (of http://gallery/man.png)",
        "0 of 3 urls saved and verified (0 B); 1 file not in the list",
        "to have it fetched again: the same command with --repair, then the producer's again",
    ]


def test_a_file_that_is_only_not_in_the_list_is_not_a_failure(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    save(folder, *FILES)
    listed.write_text(listed.read_text().splitlines(keepends=True)[0])
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main([str(listed), str(folder)]) == 0
    out = capsys.readouterr().out
    assert "WRONG" not in out
    assert [line for line in out.splitlines() if line.startswith("not in the list: ")] == [
        f"not in the list: {folder / name} (of http://gallery/{name})" for name in ("boy.png", "man.png")
    ]
    assert out.endswith("1 of 1 url saved and verified (40 B); 2 files not in the list\n")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before, "it only reads"


def test_a_folder_in_which_nothing_was_saved_gets_no_manifest(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    assert main([str(listed), str(tmp_path / "files")]) == 1
    assert list((tmp_path / "files").iterdir()) == []
    assert main([str(tmp_path / "files")]) == 2


def test_without_a_list_files_are_compared_with_what_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    save(folder, *FILES)
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: 3 files as they were saved\n3 verified (100 B)\n"
    (folder / "boy.png").write_bytes(bytes(30))
    assert main([str(folder)]) == 1
    assert f"WRONG: {folder / 'boy.png'} is not as it was saved" in capsys.readouterr().out


@pytest.mark.parametrize("with_list", [False, True])
def test_repair_has_wrong_files_fetched_again_and_loses_nothing(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], with_list: bool
) -> None:
    folder = tmp_path / "files"
    words = [str(listed), str(folder)] if with_list else [str(folder)]
    for turn in ("", "-2"):
        save(folder, *FILES)
        (folder / "girl.png").write_bytes(bytes(40))
        (folder / "boy.png").unlink()
        assert main(words) == 1
        assert "the same command with --repair" in capsys.readouterr().out
        assert main([*words, "--repair"]) == 1
        out = capsys.readouterr().out
        assert f"repaired: {folder / 'girl.png'}: set aside as girl.spoilt{turn}.png" in out
        assert f"repaired: {folder / 'boy.png'}: forgotten, it is not there" in out
        assert out.endswith("run the producer's command again\n")
        assert (folder / f"girl.spoilt{turn}.png").read_bytes() == bytes(40)
        with Store(folder) as store:
            assert [known and known.name for known in store.known([Job(url) for url in FILES])] == [
                None,
                None,
                "man.png",
            ]
    save(folder, *FILES)
    assert main(words) == 0
    assert {path.name for path in folder.glob("*.png") if "spoilt" not in path.name} == {
        "girl.png",
        "boy.png",
        "man.png",
    }


def test_a_pipe_or_a_link_in_the_place_of_a_file_is_not_followed(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "files"
    save(folder, *FILES)
    (folder / "girl.png").rename(tmp_path / "girl.png")
    (folder / "girl.png").symlink_to(tmp_path / "girl.png")
    (folder / "boy.png").unlink()
    os.mkfifo(folder / "boy.png")
    assert main([str(listed), str(folder), "--repair"]) == 1
    assert capsys.readouterr().out.count("is in the manifest, but not there") == 2
    assert (folder / "girl.png").is_symlink() and (folder / "boy.png").is_fifo()


def test_a_list_without_a_folder_is_a_usage_error(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(listed)])
    assert left.value.code == 2
    assert "name the folders" in capsys.readouterr().err


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
    with GalleryServer(gallery) as server:
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


def test_a_missing_file_or_folder_is_a_usage_error(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(listed), str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path / "nothing.txt"), str(tmp_path)]) == 2
    assert main(["http://127.0.0.1:1/list.txt", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "nowhere: there is no such folder" in said
    assert "nothing.txt: no such file or directory" in said
    assert not (tmp_path / "nowhere").exists()


def test_a_list_may_write_a_url_in_another_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "one", "http://gallery/girl.png")
    digest = hashlib.sha256(FILES["http://gallery/girl.png"]).hexdigest()
    (tmp_path / "list.txt").write_text(f"HTTP://Gallery:80/x/../girl.png#top\tsha256={digest}\n")
    assert main([str(tmp_path / "list.txt"), str(tmp_path / "one")]) == 0
    assert "1 of 1 url saved and verified" in capsys.readouterr().out
