"""Exceptions are sent back with all their content: in C fields, in slots, in other exceptions."""

from __future__ import annotations

import builtins
import errno
import subprocess
import sys
from typing import Any

import pytest

from nearfar.serialization.pickles.results import DEEPEST, LONGEST_CHAIN, dump_error, load_error
from tests.serialization.test_pickles_results import Coded

NAMES = ("errno", "strerror", "filename", "filename2", "characters_written")
NAMES += ("encoding", "object", "start", "end", "reason")
NAMES += ("msg", "name", "path", "name_from", "obj", "value", "code")
NAMES += ("lineno", "offset", "text", "end_lineno", "end_offset", "print_file_and_line")
NAMES += ("message", "args")


def facts(error: BaseException) -> dict[str, Any]:
    return {name: getattr(error, name) for name in NAMES if hasattr(error, name)}


def home(error: BaseException) -> Any:
    return load_error(dump_error(error))


def check(error: BaseException) -> Any:
    back = home(error)
    assert type(back) is type(error)
    assert facts(back) == facts(error)
    assert vars(back) == vars(error)
    assert str(back) == str(error)
    again = home(back)  # a task may pass on what another one raised
    assert facts(again) == facts(error)
    return back


class OwnInit(OSError):
    def __init__(self, host: str) -> None:
        super().__init__(errno.ECONNREFUSED, "refused", f"/dev/{host}")
        self.host = host


class LateInit(OSError):
    """Most of its attributes are set after the constructor."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.errno, self.strerror, self.filename, self.filename2 = 5, "late", b"one", "two"


class OwnUnicode(UnicodeDecodeError):
    def __init__(self, data: bytes) -> None:
        super().__init__("utf-8", data, 0, 1, "own")


class OwnImport(ImportError):
    def __init__(self, what: str) -> None:
        super().__init__(f"no {what}", name=what, path=f"/{what}")


class OwnSyntax(SyntaxError):
    def __init__(self, line: int) -> None:
        super().__init__("odd", ("file", line, 2, "text", line, 4))


class OwnStop(StopIteration):
    def __init__(self, value: Any) -> None:
        super().__init__("other", value)
        self.value = value


class OwnExit(SystemExit):
    def __init__(self, code: Any, why: str) -> None:
        super().__init__(why)
        self.code = code


class OwnAttribute(AttributeError):
    def __init__(self, name: str) -> None:
        super().__init__("lacks", name=name, obj=[1, 2])


class OwnKey(KeyError):
    def __init__(self, key: str, table: str) -> None:
        super().__init__(key)
        self.table = table


class Slotted(Exception):
    __slots__ = ("__private", "code", "empty")

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.__private = [code]

    def private(self) -> list[int]:
        return self.__private


class OwnGroup(ExceptionGroup):
    """Its own `__new__` takes other arguments."""

    def __new__(cls, code: int, errors: list[Exception]) -> OwnGroup:
        made = super().__new__(cls, f"group {code}", errors)
        made.code = code
        return made

    def __init__(self, code: int, errors: list[Exception]) -> None:
        super().__init__(code, errors)

    code: int


def said_later(error: BaseException, **said: Any) -> BaseException:
    for name, value in said.items():
        setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "error",
    [
        OwnInit("host"),
        LateInit("what"),
        OwnUnicode(b"\xff"),
        OwnImport("module"),
        OwnSyntax(7),
        OwnStop(5),
        OwnExit(3, "why"),
        OwnAttribute("x"),
        OwnKey("key", "table"),
        OSError(2, "No such file", "one", None, "two"),
        said_later(OSError("only words"), errno=7),
        said_later(OSError(2, "x"), filename="later"),
        BlockingIOError(11, "again", 512),
        said_later(BlockingIOError("words"), characters_written=9),
        ImportError("no", name="m", path="p"),
        ModuleNotFoundError("no", name="m"),
        AttributeError("lacks", name="x", obj=(1, 2)),
        NameError("lacks", name="x"),
        UnboundLocalError("lacks"),
        SyntaxError("odd", ("file", 1, 2, "text", 3, 4)),
        said_later(SyntaxError("odd"), lineno=4, filename="f", print_file_and_line=True),
        StopIteration(5),
        said_later(StopIteration(5), value=6),
        SystemExit(3),
        said_later(SystemExit("x"), code=4),
        UnicodeEncodeError("ascii", "\xff", 0, 1, "bad"),
        UnicodeTranslateError("\xff", 0, 1, "bad"),
        said_later(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), reason="other"),
        subprocess.CalledProcessError(3, ["x"], b"out", b"err"),
        TimeoutError(110, "late"),
        said_later(ValueError("x"), code=5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_keeps_its_facts(error: BaseException) -> None:
    check(error)


@pytest.mark.parametrize(
    "kind",
    [
        each
        for each in vars(builtins).values()
        if isinstance(each, type)
        and issubclass(each, BaseException)
        and not issubclass(each, BaseExceptionGroup)
    ],
    ids=lambda kind: kind.__name__,
)
def test_a_subclass_of_each_standard_exception_keeps_its_facts(kind: type[BaseException]) -> None:
    def begin(self: Any, *given: Any) -> None:
        kind.__init__(self, *given)
        self.own = "own"

    unicode: dict[str, tuple[Any, ...]] = {
        "UnicodeDecodeError": ("utf-8", b"\xff", 0, 1, "bad"),
        "UnicodeEncodeError": ("ascii", "\xff", 0, 1, "bad"),
        "UnicodeTranslateError": ("\xff", 0, 1, "bad"),
    }
    given = unicode.get(kind.__name__, (2, "words"))
    if issubclass(kind, SyntaxError):
        given = ("odd", ("file", 1, 2, "text", 3, 4))
    own: Any = type("Own", (kind,), {"__init__": lambda self, *ignored: begin(self, *given)})
    check(own())
    check(
        said_later(
            own(), **{name: "set" for name in facts(own()) if name in ("name", "value", "code", "obj")}
        )
    )


def test_slots_are_sent_back() -> None:
    back = home(Slotted(5))
    assert (type(back), back.code, back.private(), str(back)) == (Slotted, 5, [5], "code 5")
    assert not hasattr(back, "empty")


def test_a_group_with_its_own_constructor_is_sent_back() -> None:
    inner = OwnGroup(2, [Coded(1, "b"), OwnInit("inner")])
    error = OwnGroup(7, [OwnInit("host"), inner, ValueError("x")])
    error.add_note("noted")
    back = home(error)
    assert type(back) is OwnGroup
    assert (back.code, back.message, back.args[0], back.__notes__) == (7, "group 7", 7, ["noted"])
    assert (back.exceptions[0].errno, back.exceptions[0].host) == (errno.ECONNREFUSED, "host")
    assert back.exceptions[1].exceptions[1].filename == "/dev/inner"
    plain = home(ExceptionGroup("g", [OwnInit("host")]))
    assert plain.exceptions[0].errno == errno.ECONNREFUSED


def test_an_exception_inside_of_another_keeps_its_facts() -> None:
    error = ValueError(OwnInit("argument"))
    error.reason = OwnInit("attribute")  # type: ignore[attr-defined]
    back = home(error)
    assert back.args[0].errno == back.reason.errno == errno.ECONNREFUSED
    error = ValueError("circle")
    error.me = error  # type: ignore[attr-defined]
    assert type(home(error)) is ValueError


def raised_from(cause: BaseException | None) -> BaseException:
    try:
        try:
            raise OwnInit("first")
        except OSError:
            raise ValueError("second") from cause
    except ValueError as error:
        return error


def raised_while_handling() -> BaseException:
    try:
        try:
            raise OwnInit("first")
        except OSError:
            raise ValueError("second")  # noqa: B904
    except ValueError as error:
        return error


def test_causes_and_contexts_are_sent_back() -> None:
    assert home(raised_from(None)).__context__ is None
    cause = home(raised_from(OwnKey("key", "table"))).__context__
    assert (type(cause), cause.table) == (OwnKey, "table")
    before = home(raised_while_handling()).__context__
    assert (type(before), before.errno) == (OwnInit, errno.ECONNREFUSED)
    assert "second" in str(home(raised_while_handling()).__cause__)


def test_long_chains_and_circles_are_cut() -> None:
    first = error = ValueError("0")
    for number in range(100):
        error.__context__ = ValueError(str(number))
        error = error.__context__  # type: ignore[assignment]
    back, count = home(first), 0
    while back is not None:
        back, count = back.__context__, count + 1
    assert count == LONGEST_CHAIN
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    assert home(one).__context__.__context__ is None


def test_content_that_is_too_large_or_too_deep_is_left_out() -> None:
    error: BaseException = AttributeError("lacks", name="x", obj=bytes(5_000_000))
    blob = dump_error(error)
    assert len(blob) < 100_000
    assert load_error(blob).name == "x"  # type: ignore[attr-defined]
    error = ValueError("deepest")
    for _ in range(3 * DEEPEST):
        error = ValueError(error)
    assert type(home(error)) is ValueError


def test_errors_are_pickled_in_bounded_time() -> None:
    error = ValueError([1, 2, 3])
    error.table = {number: str(number) for number in range(10_000)}  # type: ignore[attr-defined]
    assert home(error).table[5] == "5"
    assert sys.getsizeof(dump_error(error)) < 1_000_000
