"""Secrets in URLs and headers: sent to their server, kept in the failures file, and sent nowhere else."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

from nearfar.cli.exits import Exit
from tests.support import programs
from tests.support.routes import content, redirect
from tests.support.web import Web

HUSH = "HUSHHUSH"
"""Part of every secret here; nothing that a command says or writes may hold it."""


def run(folder: Path, program: str, *options: str) -> tuple[int, str]:
    """Exit code, and everything that was said."""
    done = programs.run(program, *options, cwd=folder, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout


def written_below(folder: Path) -> bytes:
    """Every name and every byte."""
    paths = sorted(folder.rglob("*"))
    return b"\n".join(
        [*(str(path).encode() for path in paths), *(p.read_bytes() for p in paths if p.is_file())]
    )


def lines(web: Web) -> list[str]:
    userinfo = web.url("/private.png").replace("//", f"//me:{HUSH}1@")
    return [
        userinfo,
        web.url(f"/signed.png?X-Amz-Signature={HUSH}2&id=5"),
        web.url(f"/matrix.png;jsessionid={HUSH}3"),
        web.url("/moved.png"),
        web.url(f"/none.png?access_token={HUSH}4"),
        f"ftp://me:{HUSH}5@127.0.0.1/x",
        f"https://me:{HUSH}6 with a blank@127.0.0.1/x",
        web.url(f"/fragment.png#token={HUSH}7"),
    ]


def serve(web: Web) -> None:
    for name in ("private", "signed", "cdn", "fragment"):
        web.routes[f"/{name}.png"] = content(name.encode())
    web.routes[f"/matrix.png;jsessionid={HUSH}3"] = content(b"matrix")
    web.routes["/moved.png"] = redirect(f"/cdn.png?sig={HUSH}8")


def test_no_secret_is_told_and_the_failures_file_is_its_owners(tmp_path: Path) -> None:
    options = ["--queue", "local", "-o", "files", "-v", "--retries", "0"]
    header = ["--header", f"Authorization: Bearer {HUSH}9"]
    with Web() as web:
        serve(web)
        (tmp_path / "urls.txt").write_text("\n".join(lines(web)))
        code, said = run(tmp_path, "producer", *options, *header, "-i", "urls.txt")
        assert code == Exit.FAILED
        assert "8 urls: 5 saved, 0 already there, 3 failed (rejected 2, http-4xx 1)" in said
        assert web.requests("/cdn.png")[0].path.endswith(f"{HUSH}8"), "the server is told"
        again = run(tmp_path, "producer", *options, "--log-format", "json", "-i", "urls.txt")
        assert "0 saved, 5 already there" in again[1]
        exported = run(tmp_path, "consumer", "-o", "files", "--export", "jsonl", "-")[1]
        assert HUSH not in said + again[1] + exported
        assert HUSH.encode() not in written_below(tmp_path / "files")
        assert "***" in exported and "id=5" in exported and f"127.0.0.1:{web.port}/private.png" in exported

        failures = tmp_path / "nearfar-failures.txt"
        assert stat.S_IMODE(failures.stat().st_mode) == 0o600
        assert f"access_token={HUSH}4" in failures.read_text()
        web.routes["/none.png"] = content(b"now")
        code, said = run(tmp_path, "producer", *options, "-i", failures.name)
        assert "3 urls: 1 saved" in said and HUSH not in said


def test_a_header_that_is_none_is_not_repeated(tmp_path: Path) -> None:
    code, said = run(tmp_path, "producer", "http://h/", "--header", f"Bearer {HUSH}")
    assert code == Exit.USAGE and "Name: value" in said and HUSH not in said
