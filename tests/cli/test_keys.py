"""``nearfar keys``, and programs that are given keys."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from nearfar.cli.exits import Exit
from nearfar.cli.keys import main
from nearfar.net.auth import read_pair, read_public
from tests.support.shell import ANYWHERE, Shell, ended, interrupt


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    return code, *capsys.readouterr()


def test_keys_are_made_added_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = str(tmp_path / "keys")
    code, out, err = run(capsys, "init", "--keys", keys)
    assert (code, err) == (Exit.OK, "")
    assert f"--keys {keys}" in out
    code, out, err = run(capsys, "add", "laptop", "--keys", keys)
    assert (code, err) == (Exit.OK, "")
    assert f"its keys are in {keys}/for/laptop" in out
    code, out, _ = run(capsys, "list", "--keys", keys)
    heads, *rows = out.splitlines()
    assert heads.split() == ["name", "public", "key", "since"]
    assert [row.split()[0] for row in rows] == ["laptop", "local"]
    assert read_public(tmp_path / "keys" / "client.key").decode() in rows[1]
    assert run(capsys, "revoke", "laptop", "--keys", keys) == (Exit.OK, "laptop is no longer admitted\n", "")
    _, out, _ = run(capsys, "list", "--keys", keys)
    assert "laptop" not in out


def test_a_secret_is_never_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    said = ""
    for words in (("init",), ("add", "laptop"), ("list",), ("init",), ("revoke", "laptop")):
        _, out, err = run(capsys, *words, "--keys", str(keys))
        said += out + err
    for role in ("server", "client"):
        assert read_pair(keys, role).secret.decode() not in said


def test_a_client_makes_its_own_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service, mine = tmp_path / "keys", tmp_path / "mine"
    run(capsys, "init", "--keys", str(service))
    code, out, _ = run(capsys, "init", "--server", str(service / "server.key"), "--keys", str(mine))
    assert code == Exit.OK
    assert "nearfar keys add NAME --public client.key" in out
    code, out, _ = run(capsys, "add", "laptop", "--public", str(mine / "client.key"), "--keys", str(service))
    assert code == Exit.OK
    assert not (service / "for").exists()


def test_the_environment_names_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_KEYS", str(tmp_path / "mine"))
    run(capsys, "init")
    assert (tmp_path / "mine" / "server.key_secret").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "laptop"), "`nearfar keys init` makes it"),
        (("revoke", "laptop"), "`nearfar keys init` makes it"),
        (("add", "../up"), "is not a name"),
        (("list",), "there is no folder"),
        (("init", "--server", "nowhere.key"), "cannot read the key nowhere.key"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, *words, "--keys", str(tmp_path / "none"))
    assert (code, out) == (Exit.USAGE, "")
    assert said in err
    assert err.startswith("nearfar keys: ")
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    code, _, err = run(capsys, "init", "--keys", str(tmp_path / "file" / "keys"))
    assert (code, err) == (Exit.USAGE, f"nearfar keys: {tmp_path}/file/keys: not a directory\n")


def test_an_existing_key_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = str(tmp_path / "keys")
    run(capsys, "init", "--keys", keys)
    code, _, err = run(capsys, "init", "--keys", keys)
    assert code == Exit.USAGE
    assert "there is a key already" in err


# -- programs with keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["consumer", "queue", "coordinator"])
def test_no_program_hosts_beyond_loopback_without_keys_or_insecure(shell: Shell, program: str) -> None:
    code, out, err = ended(shell.start(program, "--bind", "tcp://0.0.0.0:*"))
    assert (code, out) == (Exit.USAGE, "")
    assert err.splitlines()[-1].startswith(f"nearfar {program}: tcp://0.0.0.0:* can be reached from other")
    assert "--keys DIR" in err
    assert "--no-keys" in err


@pytest.mark.parametrize("program", ["consumer", "queue", "coordinator", "worker", "producer"])
def test_keys_that_others_can_read_are_refused(shell: Shell, tmp_path: Path, program: str) -> None:
    main(["init", "--keys", str(tmp_path / "keys")])
    for secret in (tmp_path / "keys").glob("*.key_secret"):
        secret.chmod(0o644)
    where = ["--connect", "tcp://127.0.0.1:9"] if program == "worker" else ["--bind", ANYWHERE]
    words = ["http://127.0.0.1:9/"] if program == "producer" else []
    code, _, err = ended(shell.start(program, *where, "--keys", "keys", *words))
    assert code == Exit.USAGE
    assert f"nearfar {program}: others can read the secret key" in err


@pytest.mark.slow
def test_a_command_with_wrong_keys_has_its_own_exit_code(shell: Shell, tmp_path: Path) -> None:
    for name in ("keys", "others"):
        main(["init", "--keys", str(tmp_path / name)])
    queue, address = shell.queue(ANYWHERE, "--keys", "keys")
    coordinator, pool = shell.coordinator(ANYWHERE, "--keys", "keys")
    commands = {
        "consumer": ("--queue", address),
        "producer": ("--queue", address, "http://127.0.0.1:9/a.png"),
        "worker": ("--connect", pool),
        "coordinator": ("--status", pool, "--wait", "10"),
    }
    for keys in ((), ("--keys", "others")):
        started = {name: shell.start(name, *words, *keys) for name, words in commands.items()}
        for name, process in started.items():
            code, _, err = ended(process)
            assert code == Exit.UNTRUSTED, (name, err)
            assert ("it asks for keys" if not keys else "it has another key") in err.splitlines()[-1]
    for process in (queue, coordinator):
        interrupt(process)
        assert ended(process)[0] in (Exit.OK, Exit.INTERRUPTED)


def test_a_pooled_download_works_with_keys(shell: Shell, tmp_path: Path) -> None:
    """All together: coordinator, queue, worker, consumer and producer, each with its own keys."""
    main(["init", "--keys", str(tmp_path / "keys")])
    for name in ("worker", "consumer", "producer"):
        main(["add", name, "--keys", str(tmp_path / "keys")])
    gallery = shell.start("gallery", "--bind", "127.0.0.1:0", "--count", "8")
    assert gallery.stderr is not None
    base = re.findall(r"http://[\d.:]+", gallery.stderr.readline())[0]
    _, address = shell.queue(ANYWHERE, "--keys", "keys")
    _, pool = shell.coordinator(ANYWHERE, "--keys", "keys")
    shell.worker(pool, 1, "--keys", "keys/for/worker")
    consumer = shell.start("consumer", "--queue", address, "-o", "out", "--keys", "keys/for/consumer")
    urls = [f"{base}/images/{n:04}.png" for n in range(1, 9)]
    producer = shell.start(
        "producer", "--queue", address, "--pool", pool, "--keys", "keys/for/producer", *urls
    )
    code, out, err = ended(producer)
    assert (code, out.splitlines()[0]) == (Exit.OK, "8 urls: 8 saved, 0 already there, 0 failed"), err
    assert ended(consumer)[0] == Exit.OK
    assert len(list((tmp_path / "out").rglob("*.png"))) == 8
    assert os.environ.get("NEARFAR_KEYS") is None
