"""What a process that gets no memory, or no thread, has to say: that is a mistake of its limits."""

from __future__ import annotations


def shortage(error: BaseException) -> str | None:
    """One sentence; None for any other error."""
    if isinstance(error, RuntimeError) and "start new thread" not in str(error):
        return None
    if not isinstance(error, MemoryError | RuntimeError):
        return None
    return f"{str(error) or 'out of memory'}: raise the limits of memory or processes (ulimit)"
