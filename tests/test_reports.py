"""A failure that pytest cannot print fails its test alone, not the whole run."""

from __future__ import annotations

from types import FunctionType

import pytest

from tests.conftest import pytest_runtest_makereport

NO_LINE = bytes([0b1_1111_111])
"""The entry of `co_linetable` for up to eight bytecodes without a line."""


def fail() -> None:
    raise ValueError("the reason")


def test_an_exception_at_a_bytecode_without_a_line_is_reported(request: pytest.FixtureRequest) -> None:
    code = fail.__code__
    strange = FunctionType(code.replace(co_linetable=NO_LINE * (len(code.co_code) // 16 + 1)), globals())
    call = pytest.CallInfo.from_call(strange, "call")
    with pytest.raises(TypeError):
        pytest.TestReport.from_item_and_call(request.node, call)
    report = pytest_runtest_makereport(request.node, call)
    assert report.failed
    assert "ValueError: the reason" in report.longreprtext
    assert f"{__file__}:?, in fail" in report.longreprtext


def test_another_exception_is_reported_by_pytest_itself(request: pytest.FixtureRequest) -> None:
    report = pytest_runtest_makereport(request.node, pytest.CallInfo.from_call(fail, "call"))
    assert report.failed
    assert 'raise ValueError("the reason")' in report.longreprtext
