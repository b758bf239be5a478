"""Other Pythons of this machine, whose bytecode is not ours."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
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
        asked = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, timeout=20, check=False)
        match asked.stdout.split():
            case [magic, minor] if magic != MAGIC_NUMBER.hex() and int(minor) >= OLDEST:
                return path
    return None
