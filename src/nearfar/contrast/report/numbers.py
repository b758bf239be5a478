"""Figures in words: as many digits as can be trusted, and a unit."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[float], str]


def plain(value: float) -> str:
    """Three digits that count: ``1,234,000``, ``28.3``, ``0.0123``."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".")


def scaled(value: float) -> str:
    """``28.3 k``, ``1.23 M``; no unit below 1,000."""
    for power, letter in ((1e6, " M"), (1e3, " k")):
        if value >= power * 0.9995:
            return f"{plain(float(f'{value / power:.3g}'))}{letter}"
    return plain(float(f"{value:.3g}"))


def rate(value: float) -> str:
    """Things a second."""
    text = scaled(value)
    return f"{text}/s"


def ratio(value: float) -> str:
    """``5.2`` and the sign for times; two digits that count."""
    return f"{plain(float(f'{value:.2g}'))}×"  # noqa: RUF001 - the sign that is meant


def time(microseconds: float) -> str:
    """``66 µs``, ``1.5 ms``, ``2.1 s``."""
    for power, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= power * 0.9995:
            return f"{plain(float(f'{microseconds / power:.3g}'))} {unit}"
    return f"{plain(float(f'{microseconds:.3g}'))} µs"


def seconds(value: float) -> str:
    return time(value * 1e6)


def bytes_of(value: float) -> str:
    """``100 B``, ``10 KiB``, ``1 MiB``."""
    for power, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= power:
            return f"{plain(float(f'{value / power:.3g}'))} {unit}"
    return f"{value:.0f} B"


def count(value: float) -> str:
    return f"{value:,.0f}"


def share(value: float) -> str:
    """``44%``; a little is not nothing, and almost all is not all."""
    percent = value * 100
    if 0 < percent < 1:
        return "<1%"
    if 99 < percent < 100:
        return ">99%"
    return f"{percent:.0f}%"
