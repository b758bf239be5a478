"""A bad address is a short error in every program that takes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import programs

PRODUCER = ("producer", "http://127.0.0.1:9/")


@pytest.mark.parametrize("program", [PRODUCER, ("consumer",)])
@pytest.mark.parametrize(
    ("option", "address", "said"),
    [
        ("--queue", "tcp://127.0.0.1:*", "it needs a port"),
        ("--queue", "storage:5555", "expected tcp://host:port or ipc://path"),
        ("--bind", "tcp://0.0.0.0:*", "can be reached from other machines"),
    ],
)
def test_an_address_that_cannot_be_used(
    tmp_path: Path, program: tuple[str, ...], option: str, address: str, said: str
) -> None:
    run = programs.run(*program, option, address, cwd=tmp_path)
    assert run.returncode == 2
    assert said in run.stderr
    assert run.stderr.count("\n") == 1
