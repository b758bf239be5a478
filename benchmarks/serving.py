"""Random files on loopback, served by nginx if there is one, else by the standard library."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 10.0
TINY = "/tiny"
"""Below it, nginx has a file of four bytes under every name."""
_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{
    listen 127.0.0.1:{port}; root {folder}/files;
    location {tiny}/ {{ default_type text/plain; return 200 "tiny"; }}
  }}
}}
"""


def make_files(folder: Path, count: int, least: int, most: int) -> list[str]:
    """Write `count` files of `least` to `most` random bytes below `folder`; return their names."""
    dice = random.Random(1)
    folder.mkdir()
    names = [f"{number:06}.bin" for number in range(count)]
    for name in names:
        with (folder / name).open("wb") as file:
            left = dice.randint(least, most)
            while left:
                left -= file.write(dice.randbytes(min(left, 1 << 20)))
    return names


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve ``folder/files``: the base URL, and the server's name. Ends the server."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    port = free_port()
    if nginx:
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, port=port, tiny=TINY))
        command = [nginx, "-c", str(config), "-e", str(folder / "nginx.log")]
    else:
        command = [
            sys.executable,
            "-m",
            "http.server",
            str(port),
            "--bind",
            "127.0.0.1",
            "-d",
            f"{folder}/files",
        ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}", "nginx" if nginx else "http.server"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start") from None
            time.sleep(0.02)
