"""The manifest's rows in forms that other programs read."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import IO, Literal

from nearfar.download.model import Saved
from nearfar.readable import json_line

Form = Literal["jsonl", "csv"]


def write(rows: Iterable[Saved], form: Form, file: IO[str]) -> None:
    """Write `rows` to `file`, one at a time: an object a line, or CSV (RFC 4180) below a line of names."""
    if form == "jsonl":
        for row in rows:
            file.write(f"{json_line(row._asdict())}\n")
    elif form == "csv":
        table = csv.writer(file)
        table.writerow(Saved._fields)
        table.writerows(rows)
    else:
        raise ValueError(f"{form!r} is neither 'jsonl' nor 'csv'")
