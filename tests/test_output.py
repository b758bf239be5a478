"""Output files that users name: only regular files are ever replaced."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from nearfar import output
from nearfar.output import Output, check, draft_of, same_file, special, sweep, write

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device, or use another user")


def test_a_regular_file_is_replaced_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    path.chmod(0o640)
    out = Output(path)
    out.file.write("new\n")
    out.file.flush()
    assert path.read_text() == "old"
    out.commit()
    out.commit()
    out.discard()
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_mode_and_a_private_one_is_its_owners(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write(tmp_path / "new", "x")
        with Output(tmp_path / "new", private=True) as private:
            private.file.write("secret")
        with Output(tmp_path / "private", private=True) as private:
            private.file.write("secret")
        write(tmp_path / "other", "x")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new": 0o600, "private": 0o600, "other": 0o644}


def test_an_error_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), Output(path) as out:
        out.file.write("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@needs_root
@pytest.mark.parametrize("private", [False, True])
def test_a_device_is_written_to_and_stays_one(tmp_path: Path, private: bool) -> None:
    """With root's ``/dev/null``: a regular file in its place would break every other program."""
    null = tmp_path / "null"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    before = null.stat().st_mode
    with Output(null, private=private) as out:
        out.file.write("gone\n")
    assert null.stat().st_mode == before and stat.S_ISCHR(before)
    assert list(tmp_path.iterdir()) == [null]


def test_a_full_device_raises() -> None:
    with pytest.raises(OSError) as caught, Output(Path("/dev/full")) as out:
        out.file.write("more\n")
    assert caught.value.errno == errno.ENOSPC


def test_a_fifo_is_written_to_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with Output(path) as out:
        out.file.write("first\n")
        assert os.read(reader, 100) == b"first\n", "at once"
        out.file.write("second\n")
    assert os.read(reader, 100) == b"second\n"
    assert os.read(reader, 100) == b""
    os.close(reader)
    assert path.is_fifo() and list(tmp_path.iterdir()) == [path]


def test_a_reader_of_a_fifo_may_come_a_little_late(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Timer(0.1, lambda: read.append(path.read_text()))
    reader.start()
    write(path, "told")
    reader.join(10)
    assert read == ["told"]


def test_a_fifo_without_a_reader_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "READER", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no process reads this FIFO: start its reader first"):
        Output(tmp_path / "pipe")


def test_a_socket_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen()
        with Output(Path("socket")) as out:
            peer, _ = server.accept()
            out.file.write("told\n")
        with peer:
            assert peer.recv(100) == b"told\n"
    assert stat.S_ISSOCK(Path("socket").stat().st_mode)
    with pytest.raises(ConnectionRefusedError, match="socket"):
        Output(Path("socket"))


@pytest.mark.parametrize("there", [True, False])
def test_a_symlink_stays_and_what_it_leads_to_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert {path.name for path in tmp_path.rglob("*")} == {"elsewhere", "link", "target"}


def test_a_symlink_to_a_device_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link", "gone")
    assert (tmp_path / "link").readlink() == Path("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_cycle_of_symlinks_and_a_directory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ring").symlink_to("ring")
    for path, said in ((tmp_path / "ring", "symbolic links"), (tmp_path, "directory")):
        with pytest.raises(OSError, match=said):
            Output(path)
        with pytest.raises(OSError, match=said):
            check(path)
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nowhere" / "out")
    check(tmp_path / "out")


def test_standard_output_redirected_to_a_file_is_neither_truncated_nor_replaced(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nearfar.output import write\n"
        "print('before', flush=True); write(Path('/dev/stdout'), 'told\\n'); print('after')"
    )
    out = tmp_path / "out"
    out.write_text("earlier\n")
    with out.open("a") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True, timeout=90)
    assert out.read_text() == "earlier\nbefore\ntold\nafter\n"
    assert list(tmp_path.iterdir()) == [out]


def test_a_special_file_that_took_the_name_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    out = Output(path)
    out.file.write("told")
    path.symlink_to("/dev/full")
    with pytest.raises(OSError):
        out.commit()
    assert path.is_symlink()
    assert list(tmp_path.iterdir()) == [path]


@needs_root
def test_a_file_in_a_read_only_folder_is_written_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        path.write_text("a longer old text")
        path.chmod(0o666)
        path.parent.chmod(0o755)
        inode = path.stat().st_ino
        os.seteuid(65534)
        try:
            write(path, "new")
        finally:
            os.seteuid(0)
        assert (path.read_text(), path.stat().st_ino) == ("new", inode)


@needs_root
def test_a_file_that_a_container_mounted_is_written_in_place(tmp_path: Path) -> None:
    source, path = tmp_path / "source", tmp_path / "mounted"
    source.write_text("a longer old text")
    path.touch()
    if subprocess.run(["mount", "--bind", source, path], capture_output=True, check=False).returncode:
        pytest.skip("no bind mounts here")
    try:
        write(path, "new")
        assert path.read_text() == source.read_text() == "new"
    finally:
        subprocess.run(["umount", path], check=True, timeout=90)
    assert {each.name for each in tmp_path.iterdir()} == {"source", "mounted"}


def test_only_regular_drafts_of_dead_processes_are_swept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    (tmp_path / ".out.123").write_text("of a killed one")
    os.mkfifo(tmp_path / ".out.124")
    (tmp_path / ".out.125").symlink_to(tmp_path / ".out.124")
    (tmp_path / ".out.126").mkdir()
    (tmp_path / ".out.bak").touch()
    living = Output(target)
    sweep(target)
    left = {".out.124", ".out.125", ".out.126", ".out.bak"}
    assert {path.name for path in tmp_path.iterdir()} == left | {draft_of(target).name}
    living.discard()
    assert {path.name for path in tmp_path.iterdir()} == left


def test_the_longest_name_has_a_draft_too(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255), "told")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_an_output_that_is_its_own_input_is_detected(tmp_path: Path) -> None:
    path, link, twin = tmp_path / "list", tmp_path / "link", tmp_path / "twin"
    path.touch()
    link.symlink_to(path)
    os.link(path, twin)
    os.mkfifo(tmp_path / "pipe")
    with path.open() as file:
        assert all(same_file(file.fileno(), each) for each in (path, link, twin))
        assert not same_file(file.fileno(), tmp_path / "other")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert same_file(pipe, tmp_path / "pipe")
    os.close(pipe)
    with Path("/dev/null").open() as null:
        assert not same_file(null.fileno(), Path("/dev/null")), "harmless"
    assert special(tmp_path / "pipe") and special(Path("/dev/null"))
    assert not special(path) and not special(tmp_path / "none")
