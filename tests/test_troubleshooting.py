"""Messages quoted on the troubleshooting page exist in the programs, so that a search finds them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
YOURS = re.compile(
    r"…|\b(?:DIR|HOST|NAME|N|PID|ADDRESS)\b|\b\w+://\S*|'[^']*'|<[^>]*>|\S*\d[\d,.:]*\S*|\w*/\S+"
    r"|\b(?:\w+Error|Untrusted):|\b(?:RuntimeError|SIGKILL|tools|square|ftp|pictures)\b|posix:getpid"
)
"""What stands for the reader's own names and numbers, and ends a piece that is to be found."""
FOREIGN = (
    "Could not resolve host",
    "Failed to connect to",
    "Could not connect to server",
    "TLS connect error",
    "wrong version number",
    "Operation too slow. Less than",
    "bytes/sec transferred the last",
    "end of response with",
    "bytes missing",
    "PicklingError: Can't pickle",
    "TypeError: cannot pickle",
    "MaybeEncodingError: Error sending result:",
    "An attempt has been made to start a new process before",
    "Too many open files",
    "can't start new thread",
    "No module named",
    "Resource temporarily unavailable",
    "should only be shared between processes through inheritance",
)
"""Words of Python, multiprocessing and libcurl."""


@cache
def said() -> str:
    """Every text in the package, one on each line, with a gap for each value."""
    lines = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values]
                lines.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                lines.append(node.value)
    return bare("\n".join(lines))


def bare(text: str) -> str:
    """Without the marks at both sides of a value."""
    return re.sub(r"[,;:()]", "", text)


def quotes(row: str) -> list[str]:
    """The pieces of at least three words in a row's first two columns that are quoted."""
    spans = re.findall(r"`([^`]+)`", " ".join(row.split(" | ")[:2]))
    pieces = [piece.strip(" :,;.()") for span in spans for piece in YOURS.split(span)]
    return [piece for piece in pieces if len(piece.split()) >= 3 and not piece.startswith(("nearfar ", "-"))]


ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
QUOTES = sorted({piece for row in ROWS for piece in quotes(row)})


def test_every_quoted_message_exists() -> None:
    ours = [piece for piece in QUOTES if not any(each in piece or piece in each for each in FOREIGN)]
    assert [piece for piece in ours if not is_said(piece)] == []


def is_said(piece: str) -> bool:
    """In one text of the package, or in several that follow: of at least two words, but for the last."""
    words = bare(piece).split()
    while words:
        found = max((n for n in range(len(words) + 1) if " ".join(words[:n]) in said()), default=0)
        if found < min(2, len(words)):
            return False
        del words[:found]
    return True


def test_wrong_quotes_are_detected() -> None:
    assert is_said("no host has answered at")
    assert not is_said("no host has replied at")


def test_it_quotes_many_messages() -> None:
    assert len(QUOTES) > 60
