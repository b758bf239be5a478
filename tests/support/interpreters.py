"""Other Pythons of this machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

OLDEST, NEWEST = 11, 16
_ASK = "import importlib.util, sys; print(importlib.util.MAGIC_NUMBER.hex(), sys.version_info[1])"


@functools.cache
def another_python() -> str | None:
    """An interpreter that nearfar runs on, with another format of bytecode; None if there is none here."""
    named = [shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST + 1)]
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for path in [*filter(None, named), *map(str, sorted(root.glob("versions/3.*/bin/python3")))]:
        match _ask(path):
            case [magic, minor] if magic != MAGIC_NUMBER.hex() and int(minor) >= OLDEST:
                return path
    return None


@functools.cache
def is_between() -> bool:
    """Whether the path has an older and a newer Python that nearfar supports."""
    named = [shutil.which(f"python3.{minor}") for minor in range(OLDEST, NEWEST + 1)]
    found = {int(answer[1]) for answer in map(_ask, filter(None, named)) if answer}
    return any(minor < sys.version_info[1] for minor in found) and any(
        minor > sys.version_info[1] for minor in found
    )


def _ask(path: str) -> list[str]:
    """The format of its bytecode and its minor version; None if it does not run."""
    return subprocess.run(
        [path, "-c", _ASK], capture_output=True, text=True, timeout=20, check=False
    ).stdout.split()
