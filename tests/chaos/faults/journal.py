"""The journal of a run's processes: one file, a line of JSON for each event, written atomically."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Note = dict[str, Any]


class Journal:
    """`who` is the role that writes. Times are of `time.monotonic`, which all processes of a machine
    share."""

    def __init__(self, path: Path | str, who: str = "") -> None:
        self._path = Path(path)
        self._who = who

    def note(self, what: str, **facts: Any) -> None:
        """Add an event, which remains however the process ends."""
        line = json.dumps({"at": time.monotonic(), "who": self._who, "what": what, **facts})
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)

    def notes(self, *kinds: str) -> Iterator[Note]:
        """All events of these kinds (or all), in their order."""
        if not self._path.exists():
            return
        for line in self._path.read_text().splitlines():
            note: Note = json.loads(line)
            if not kinds or note["what"] in kinds:
                yield note
