"""URL globs, as curl has them: ``{a,b}``, ``[1-10]``, ``[001-100]``, ``[0-100:10]``, ``[a-z]``, ``[a-z:2]``.

Of several globs in a URL, the last one changes fastest. A backslash before a bracket, brace or comma takes it
literally. An IPv6 address in brackets is no glob. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from math import prod
from typing import NamedTuple

from nearfar.download.patterns import compile_lazily

MOST = 1_000_000
"""URLs of one pattern."""
LONGEST = 18
"""Digits of a number in a range."""

_NUMBERS = compile_lazily(rf"([0-9]{{1,{LONGEST}}})-([0-9]{{1,{LONGEST}}})(?::([0-9]{{1,{LONGEST}}}))?")
_LETTERS = compile_lazily(r"([a-z])-([a-z])(?::([0-9]{1,2}))?|([A-Z])-([A-Z])(?::([0-9]{1,2}))?")
_ADDRESS = compile_lazily(r"\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%25[^\]]*)?)\]")


class GlobError(ValueError):
    """A pattern that is no glob; the message names the character, counted from 1."""


class _Piece(NamedTuple):
    """A part of a pattern: `values`, numbers with at least `width` digits."""

    values: Sequence[str] | range
    width: int = 0

    def texts(self) -> Iterator[str]:
        return (value if isinstance(value, str) else f"{value:0{self.width}}" for value in self.values)


class Glob:
    """The URLs of one pattern, made one by one. Raises `GlobError`."""

    def __init__(self, pattern: str) -> None:
        self._pieces = _parse(pattern)
        self.count = prod(len(piece.values) for piece in self._pieces)
        """How many URLs it stands for."""
        if self.count > MOST:
            raise GlobError(f"it stands for more than {MOST:,} URLs: use several, or a list (-i FILE)")

    def __iter__(self) -> Iterator[str]:
        # Not itertools.product, which makes all values of each piece first.
        return self._from(0, "")

    def _from(self, index: int, begin: str) -> Iterator[str]:
        if index == len(self._pieces):
            yield begin
            return
        for text in self._pieces[index].texts():
            yield from self._from(index + 1, begin + text)


def _parse(pattern: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    literal: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\" and pattern[at + 1 : at + 2] in tuple("{}[]"):
            literal.append(pattern[at + 1])
            at += 2
        elif character == "[" and (end := _address(pattern, at)):
            literal.append(pattern[at:end])
            at = end
        elif character in "[{":
            pieces.append(_Piece(["".join(literal)]))
            literal.clear()
            piece, at = (_range if character == "[" else _choice)(pattern, at + 1)
            pieces.append(piece)
        elif character in "]}":
            raise GlobError(f"no bracket or brace is open for the {character} at character {at + 1}")
        else:
            literal.append(character)
            at += 1
    return [*pieces, _Piece(["".join(literal)])]


def _address(pattern: str, at: int) -> int:
    """The end of an IPv6 address in brackets at `at`; 0 if there is none."""
    match = _ADDRESS.match(pattern, at)
    try:
        return match.end() if match and IPv6Address(match[1].partition("%")[0]) else 0
    except ValueError:
        return 0


def _range(pattern: str, at: int) -> tuple[_Piece, int]:
    end = pattern.find("]", at)
    if end < 0:
        raise GlobError(f"the bracket at character {at} is not closed")
    text = pattern[at:end]
    if numbers := _NUMBERS.fullmatch(text):
        first, last, step = numbers[1], int(numbers[2]), int(numbers[3] or 1)
        width = len(first) if first.startswith("0") else 0
        if int(first) <= last and step:
            return _Piece(range(int(first), last + 1, step), width), end + 1
    elif letters := _LETTERS.fullmatch(text):
        low, high, step = (
            letters[1] or letters[4],
            letters[2] or letters[5],
            int(letters[3] or letters[6] or 1),
        )
        if low <= high and step:
            return _Piece([chr(code) for code in range(ord(low), ord(high) + 1, step)]), end + 1
    raise GlobError(f"[{text[:40]}] at character {at} is no range, such as [1-10], [001-100:10] or [a-z]")


def _choice(pattern: str, at: int) -> tuple[_Piece, int]:
    begin = at
    choices = [""]
    while at < len(pattern):
        character = pattern[at]
        if character == "\\" and pattern[at + 1 : at + 2] in tuple("{}[],"):
            at += 1
            choices[-1] += pattern[at]
        elif character == ",":
            choices.append("")
        elif character == "}":
            if choices == [""]:
                raise GlobError(f"the braces at character {begin} are empty")
            return _Piece(choices), at + 1
        elif character in "{[]":
            raise GlobError(f"{character} at character {at + 1} is inside of braces: globs cannot be nested")
        else:
            choices[-1] += character
        at += 1
    raise GlobError(f"the brace at character {begin} is not closed")
