"""Download a data set whose digests are published, and check each file.

The list is what many data sets publish: lines of digest and name, as `sha256sum` writes them.

    python dataset.py http://127.0.0.1:8000/set/ SHA256SUMS data          # near: in one command
    python dataset.py http://127.0.0.1:8000/set/ SHA256SUMS data --far    # far: two programs and a queue

A file with another digest is not saved, and is reported. Run it again after any interruption: it fetches
what is missing. With `--far`, further consumers and producers on other machines may join at the address.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote, urljoin

NEARFAR = [sys.executable, "-m", "nearfar"]


def as_list(base: str, sums: Path) -> str:
    """The list for `nearfar producer -i` and `nearfar verify`: URL, name and digest, with tabs between."""
    lines = []
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        lines.append(f"{urljoin(base, quote(name))}\tname={name}\tsha256={digest}\n")
    return "".join(lines)


def near(list_file: str, folder: Path, queue: str) -> int:
    return subprocess.run(
        [*NEARFAR, "producer", "-i", list_file, "--queue", "local", "-o", folder]
    ).returncode


def far(list_file: str, folder: Path, queue: str) -> int:
    with subprocess.Popen([*NEARFAR, "consumer", "-o", folder, "--bind", queue]) as consumer:
        code = subprocess.run([*NEARFAR, "producer", "-i", list_file, "--queue", queue]).returncode
        return consumer.wait() or code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="download a data set, and check it")
    parser.add_argument("base", help="the URL that the names are relative to")
    parser.add_argument("sums", type=Path, help="lines of SHA-256 and name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--far", action="store_true", help="fetch and save in two programs, over ZeroMQ")
    parser.add_argument(
        "--queue", default="tcp://127.0.0.1:5555", help="with --far: the address between them"
    )
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as list_file:
        list_file.write(as_list(options.base, options.sums))
        list_file.flush()
        download = far if options.far else near
        code = download(list_file.name, options.folder, options.queue)
        wrong = subprocess.run([*NEARFAR, "verify", list_file.name, options.folder]).returncode
    sys.exit(code or wrong)
