"""Text from outside is shown with escapes, so that no terminal interprets it."""

from __future__ import annotations

import json
import logging
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.cli.common import JsonFormatter, TextFormatter, why
from nearfar.cli.exits import tell
from nearfar.cli.progress import table
from nearfar.download.redact import written
from nearfar.readable import hidden, json_line, percent, readable

NASTY = "\x1b[2J\x07\x9b31m\r\u202etxt\u2028\ud800"


def clean(text: str) -> bool:
    return not any(hidden(char) for char in text)


@given(st.text(st.characters()))
def test_hidden_characters_are_escaped_and_others_stay(text: str) -> None:
    assert clean(readable(text)) and clean(percent(text)) and clean(json_line(text))
    assert json.loads(json_line({"key": text})) == {"key": text}
    if clean(text):
        assert readable(text) == percent(text) == text


def test_characters_are_escaped_by_their_numbers() -> None:
    assert readable(NASTY) == r"\x1b[2J\x07\x9b31m\r\u202etxt\u2028\ud800"
    assert readable("a\tb\nc", keep="\n") == "a\\tb\nc"
    assert percent("http://h/a\x1bé") == "http://h/a%1Bé"
    assert unquote(percent("\u202e\x9b")) == "\u202e\x9b"


def test_log_lines_and_messages_are_escaped() -> None:
    try:
        raise OSError(NASTY)
    except OSError as error:
        record = logging.LogRecord("n", logging.INFO, "", 0, "failed: %s\nfailed: all", (NASTY,), None)
        assert clean(TextFormatter().format(record)) and "\n" not in TextFormatter().format(record)
        assert clean(JsonFormatter().format(record))
        assert json.loads(JsonFormatter().format(record))["message"] == f"failed: {NASTY}\nfailed: all"
        assert clean(why(error))
        record.exc_info = (OSError, error, error.__traceback__)
        assert clean(TextFormatter().format(record).replace("\n", ""))


def test_lines_on_standard_output_and_tables_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"WRONG: {NASTY}")
    tell(table(("worker", "host"), [(NASTY, "h\nforged")]))
    out = capsys.readouterr().out
    assert clean(out.replace("\n", "")) and out.count("\n") == 3


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_urls_of_the_manifest_can_be_shown(text: str) -> None:
    assert clean(written(f"http://h/{text}"))
