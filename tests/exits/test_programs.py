"""Every program ends within its deadline, after any fault in any phase: runs the matrix."""

from __future__ import annotations

import pytest

from tests.exits.matrix import EVERYDAY, MATRIX
from tests.exits.play import play_all

BY_PROGRAM = sorted({cell.program for cell in MATRIX})


def test_some_cells_of_each_kind() -> None:
    cells = [cell for cell in MATRIX if str(cell) in EVERYDAY]
    assert len(cells) == len(EVERYDAY)
    complaints = play_all(cells)
    assert not complaints, "\n".join(complaints)


@pytest.mark.matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize("program", BY_PROGRAM)
def test_every_cell_of(program: str) -> None:
    complaints = play_all(cell for cell in MATRIX if cell.program == program)
    assert not complaints, "\n".join(complaints)
