"""A command that is struck at a point of `tests.chaos`: ``python -m ... FOLDER POINT NTH ARGUMENT...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nearfar.__main__ import main
from tests.chaos.download.points import arm


def strike(folder: Path, point: str, nth: int, arguments: list[str]) -> int:
    """Be the command `arguments`, of which the process that comes to `point` for the nth time is killed."""
    for name in ("armed", "struck"):
        (folder / name).mkdir()
    armed = {"point": point, "role": "command", "nth": nth, "kind": "kill"}
    (folder / "armed" / "1.json").write_text(json.dumps(armed))
    arm(folder, "command")
    return main(arguments)


if __name__ == "__main__":
    sys.exit(strike(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
