"""The limit of open files: raised as far as allowed, and refused if it is too low."""

from __future__ import annotations

import resource

import pytest

from nearfar.__main__ import main
from nearfar.cli.common import LEAST, lift_limit
from nearfar.cli.exits import Exit
from nearfar.net.resources import ENOUGH

pytestmark = pytest.mark.pure


@pytest.fixture(
    params=[
        (1024, 4096, 4096),
        (256, 256, None),
        (1024, 1 << 30, ENOUGH),
        (1024, resource.RLIM_INFINITY, ENOUGH),
    ]
)
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], int | None]:
    """Given these soft and hard limits, and the limit to set."""
    soft, hard, wanted = request.param
    given: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: given.append(limits[0]))
    return given, wanted


def test_it_is_raised_as_far_as_useful(limits: tuple[list[int], int | None]) -> None:
    given, wanted = limits
    assert lift_limit() is None
    assert given == ([] if wanted is None else [wanted])


def test_too_few_descriptors_are_an_error_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (LEAST - 1, LEAST - 1))
    assert main(["queue"]) == Exit.USAGE
    assert "only 63 files may be open at a time, and it takes 64" in capsys.readouterr().err
