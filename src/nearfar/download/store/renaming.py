"""A rename that never replaces anything: one system call where a link and an unlink are two."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

_NOREPLACE = 1  # renameat2(2)
_CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP})
"""How kernels, file systems and sandboxes say that they do not know it."""


def rename_new(old: str, new: str, folder: int) -> bool:
    """Rename `old` to `new` in `folder` unless that name is taken; False where this cannot be done here.

    Raises FileExistsError for a name that is taken, and other OSErrors.
    """
    call = _renameat2()
    if call is None:
        return False
    if call(folder, os.fsencode(old), folder, os.fsencode(new), _NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), new)


@cache
def _renameat2() -> Any:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None
