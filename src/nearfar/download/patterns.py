"""Regular expressions that are compiled at their first use, since most runs of a program need few of them."""

from __future__ import annotations

import re
from typing import Any, AnyStr, cast


def compile_lazily(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """`re.compile`, delayed until the first use: compiling a pattern takes up to a millisecond."""
    return cast("re.Pattern[AnyStr]", _Lazy(pattern, flags))


class _Lazy:
    def __init__(self, pattern: Any, flags: int) -> None:
        self._given = (pattern, flags)

    def __getattr__(self, name: str) -> Any:
        # The result is stored as an attribute, so this is not called again for it.
        found = getattr(re.compile(*self._given), name)
        setattr(self, name, found)
        return found
