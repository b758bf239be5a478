"""Which functions a plain worker runs, of all the names that a client may send."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.errors import Untrusted
from nearfar.serialization.plain import Allowed
from tests.pool import offered
from tests.support.bombs import NOT_ALLOWED

pytestmark = pytest.mark.pure

ALLOWED = ("tests.pool.offered",)
DOUBLE = b"tests.pool.offered:double"


@pytest.fixture(autouse=True)
def trap_not_sprung() -> Iterator[None]:
    """No test imports a module that was not allowed."""
    traps = ("tests.pool.trap", "tests.pool.offered._corner")
    assert not any(map(sys.modules.__contains__, traps))
    yield
    assert not any(map(sys.modules.__contains__, traps))


@pytest.mark.parametrize("name", NOT_ALLOWED)
def test_a_name_reaches_only_allowed_functions(name: str) -> None:
    with pytest.raises(Untrusted):
        Allowed(ALLOWED).find(name.encode())


def test_bytes_that_are_not_text_are_not_a_name() -> None:
    with pytest.raises(Untrusted, match="is not the name of a function"):
        Allowed(ALLOWED).find(b"\xff\xfe:double")


@given(st.binary(max_size=30) | st.text(max_size=30).map(lambda text: f"tests.pool.offered:{text}".encode()))
def test_other_names_only_raise(name: bytes) -> None:
    offers = {f"tests.pool.offered:{each}".encode() for each in vars(offered)}
    with contextlib.suppress(Untrusted, ImportError):
        assert Allowed(ALLOWED).find(name) and name in offers


def test_allowed_functions_are_found_below_a_package_too() -> None:
    allowed = Allowed(ALLOWED)
    assert allowed.find(DOUBLE) is offered.double
    assert allowed.find(b"tests.pool.offered:exported")(1) == 101
    assert allowed.find(b"tests.pool.offered.inner:unexported")(1) == 201
    with pytest.raises(ImportError, match=r"has another tests\.pool\.offered, without absent"):
        allowed.find(b"tests.pool.offered:absent")
    assert "absent" not in offered.asked
    with pytest.raises(ImportError, match=r"cannot import tests\.pool\.offered\.absent"):
        allowed.find(b"tests.pool.offered.absent:f")


def test_a_single_function_can_be_allowed() -> None:
    allowed = Allowed(["tests.pool.offered:enter", "tests.pool.offered:_quiet"])
    assert allowed.find(b"tests.pool.offered:enter") == offered.enter
    assert allowed.find(b"tests.pool.offered:_quiet")
    for name in (DOUBLE, b"tests.pool.offered.inner:exported", b"tests.pool.offered:enter.__func__"):
        with pytest.raises(Untrusted):
            allowed.find(name)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a.", ".a", "a:", ":f", "a:b.c", "a:b:c", "__main__", "__mp_main__:f", "a:__init__", "a-b"],
)
def test_an_invalid_name_cannot_be_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=r"names no functions|cannot be allowed"):
        Allowed([name])
