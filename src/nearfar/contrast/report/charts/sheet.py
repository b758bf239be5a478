"""A sheet to draw on: SVG elements, and the place of every text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

NARROW_LETTERS = frozenset("iljtfrI.,:;|'!()[]- ·")
WIDE_LETTERS = frozenset("mwMWQOGD@%")


def width_of(text: str, size: float) -> float:
    """About how wide `text` is in a system's sans serif; rather too wide."""
    units = sum(
        0.4 if letter in NARROW_LETTERS else 0.95 if letter in WIDE_LETTERS else 0.64 for letter in text
    )
    return units * size


@dataclass(frozen=True, slots=True)
class Box:
    """Where a text is."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class Sheet:
    """`width` units of a viewBox, which the page shows as as many pixels, or fewer."""

    def __init__(self, width: float) -> None:
        self.width = width
        self.height = 0.0
        self.boxes: list[Box] = []
        self._elements: list[str] = []

    def rect(
        self, left: float, top: float, width: float, height: float, kind: str, *, hint: str = ""
    ) -> None:
        """A filled piece in the colour of `kind`; `hint` shows when it is pointed at."""
        title = f"<title>{escape(hint)}</title>" if hint else ""
        self._add(
            f'<rect class="fill {kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}"'
            f' height="{height:.1f}" rx="1.5">{title}</rect>',
            top + height,
        )

    def line(self, start: tuple[float, float], end: tuple[float, float], kind: str) -> None:
        (x1, y1), (x2, y2) = start, end
        self._add(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>', max(y1, y2)
        )

    def path(self, points: list[tuple[float, float]], kind: str) -> None:
        """A line through all points."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add(f'<polyline class="curve {kind}" points="{places}"/>', max(y for _, y in points))

    def dot(self, x: float, y: float, kind: str, *, hint: str) -> None:
        self._add(
            f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{escape(hint)}</title></circle>",
            y,
        )

    def text(
        self, x: float, y: float, text: str, kind: str = "", *, size: float = 13.0, anchor: str = "start"
    ) -> None:
        """`y` is the middle of the line; `anchor`: start, middle or end."""
        width = width_of(text, size)
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        self.boxes.append(Box(text, left, y - size * 0.55, left + width, y + size * 0.55))
        self._add(
            f'<text class="{kind}" x="{x:.1f}" y="{y + size * 0.35:.1f}" font-size="{size:g}"'
            f' text-anchor="{anchor}">{escape(text)}</text>',
            y + size * 0.55,
        )

    def _add(self, element: str, bottom: float) -> None:
        self._elements.append(element)
        self.height = max(self.height, bottom)

    def svg(self, name: str, title: str, says: str) -> str:
        """The drawing, with words for those who cannot see it. `name` is unique on a page."""
        return (
            f'<svg viewBox="0 0 {self.width:g} {self.height + 4:.0f}" role="img"'
            f' aria-labelledby="{name}-title {name}-desc" xmlns="http://www.w3.org/2000/svg">'
            f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(says)}</desc>'
            + "".join(self._elements)
            + "</svg>"
        )
