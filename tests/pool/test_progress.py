"""The progress of a map."""

from __future__ import annotations

import importlib.util
import io
import sys
import threading
from types import ModuleType
from typing import Any, TextIO

import pytest
import rich.console

from nearfar.pool.progress import Reporter, reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


def made(progress: Any, total: int | None, stream: TextIO | None = None) -> Reporter:
    found = reporter(progress, total, stream)
    assert found is not None
    return found


def test_nothing_is_shown_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reporter(None, 3) is None
    assert reporter(False, 3) is None
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert reporter(True, 3) is None


@pytest.mark.usefixtures("without_rich")
@pytest.mark.parametrize(("total", "words"), [(2000, "1,500 of 2,000"), (None, "1,500")])
def test_a_line_counts_on_a_terminal(terminal: Terminal, total: int | None, words: str) -> None:
    shown = made(True, total, terminal)
    shown.add(1000)
    shown.add(500)
    shown.close()
    shown.close()
    assert terminal.getvalue().startswith("\r1,000")
    assert terminal.getvalue().endswith(f"\r{words}\x1b[K\n")
    assert terminal.getvalue().count("\n") == 1


@pytest.mark.usefixtures("without_rich")
def test_a_line_is_not_written_for_each_item(terminal: Terminal) -> None:
    shown = made(True, 10_000, terminal)
    for _ in range(10_000):
        shown.add(1)
    shown.close()
    assert terminal.getvalue().count("\r") < 1000
    assert "10,000 of 10,000" in terminal.getvalue()


@pytest.mark.usefixtures("without_rich")
def test_an_empty_map_shows_no_line(terminal: Terminal) -> None:
    made(True, 0, terminal).close()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("total", [3, None])
def test_a_bar_is_drawn_by_rich(terminal: Terminal, total: int | None) -> None:
    pytest.importorskip("rich")
    shown = made(True, total, terminal)
    shown.add(1)
    shown.add(2)
    shown.close()
    assert "3/3" in terminal.getvalue() or "3/?" in terminal.getvalue()
    made(True, 0, terminal).close()


def test_counts_never_decrease_with_many_threads() -> None:
    seen: list[tuple[int, int | None]] = []
    shown = made(lambda done, total: seen.append((done, total)), 4000)

    def add() -> None:
        for _ in range(1000):
            shown.add(1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(number, 4000) for number in range(1, 4001)]


def test_a_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    shown = made(lambda *_: 1 / 0, 2)
    shown.add(1)
    assert "ZeroDivisionError" in caplog.text


class Handle:
    """As IPython's DisplayHandle: the HTML of each update."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def update(self, thing: Any) -> None:
        self.shown.append(thing._repr_mimebundle_([], [])["text/html"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """A process that looks like the kernel of a notebook: IPython is not installed here."""
    handle, shell = Handle(), type("ZMQInteractiveShell", (), {})()
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    display.display = lambda thing, display_id: handle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("builtins.get_ipython", lambda: shell, raising=False)
    monkeypatch.setattr(rich.console, "get_ipython", lambda: shell, raising=False)
    return handle


def test_in_a_notebook_the_bar_is_html_that_is_replaced(notebook: Handle) -> None:
    threads = threading.active_count()
    shown = made(True, 3)
    for _ in range(3):
        shown.add(1)
    shown.close()
    assert threading.active_count() == threads
    assert 2 <= len(notebook.shown) <= 4, "the first, the last, and not each item"
    assert "1/3" in notebook.shown[0] and "3/3" in notebook.shown[-1]
    assert all(html.startswith("<pre") for html in notebook.shown)


def test_in_a_notebook_an_unknown_total_is_shown_as_such(notebook: Handle) -> None:
    shown = made(True, None)
    shown.add(5)
    shown.close()
    assert "5/?" in notebook.shown[-1]


@pytest.mark.usefixtures("notebook", "without_rich")
def test_in_a_notebook_without_rich_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert reporter(True, 3) is None
