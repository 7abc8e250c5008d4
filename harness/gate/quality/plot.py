"""Line plots as SVG text, small enough to be read in a diff: panels side by side, one legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 330, 250
"""Pixels of one panel's axes."""

LEFT, TOP, GAP, BOTTOM, LEGEND_LINE = 52, 34, 46, 46, 17

COLORS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#b9770e", "#16808a", "#7f8c8d", "#d35487", "#4d4d4d")


@dataclass(frozen=True)
class Line:
    """Points of one name; equal names share a color and a place in the legend."""

    name: str
    points: Sequence[tuple[float, float]]
    """x above zero, y between 0 and 1."""
    strong: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes: x is logarithmic, y a share in percent."""

    title: str
    lines: Sequence[Line]


def svg(panels: Sequence[Panel], x_label: str) -> str:
    """The panels side by side over a common x range."""
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}
    xs = [x for panel in panels for line in panel.lines for x, _ in line.points]
    axis = _Axis.over(xs)
    body = [_panel(panel, number, axis, colors, x_label) for number, panel in enumerate(panels)]
    width = LEFT + len(panels) * (WIDTH + GAP)
    top = TOP + HEIGHT + BOTTOM
    height = top + LEGEND_LINE * math.ceil(len(names) / 3) + 8
    legend = [_legend(name, index, colors[name], top) for index, name in enumerate(names)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *body, *legend, "</svg>", ""])


@dataclass(frozen=True)
class _Axis:
    """A logarithmic axis from `low` to `high`."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> _Axis:
        return cls(min(values), max(values)) if min(values) < max(values) else cls(min(values) / 2, max(values) * 2)

    def pixels(self, x: float) -> float:
        return WIDTH * math.log(x / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [t * 10.0**d for d in decades for t in (1, 2, 5) if self.low <= t * 10.0**d <= self.high]


def _panel(panel: Panel, number: int, axis: _Axis, colors: dict[str, str], x_label: str) -> str:
    parts = [f'<g transform="translate({LEFT + number * (WIDTH + GAP)},{TOP})">', _text(0, -12, panel.title, bold=True)]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = _y(share)
        parts += [f'<path d="M0 {y}H{WIDTH}" stroke="#ddd"/>', _text(-6, y + 4, f"{100 * share:.0f}%", "end")]
    for tick in axis.ticks():
        x = round(axis.pixels(tick), 1)
        parts += [f'<path d="M{x} 0V{HEIGHT}" stroke="#eee"/>', _text(x, HEIGHT + 15, f"{tick:g}", "middle")]
    parts.append(_text(WIDTH / 2, HEIGHT + 32, x_label, "middle"))
    parts += [_line(line, axis, colors[line.name]) for line in panel.lines]
    return "\n".join([*parts, "</g>"])


def _line(line: Line, axis: _Axis, color: str) -> str:
    places = [(round(axis.pixels(x), 1), _y(share)) for x, share in line.points]
    path = " ".join(f"{'L' if index else 'M'}{x} {y}" for index, (x, y) in enumerate(places))
    width = 2.6 if line.strong else 1.3
    drawn = [f'<path d="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>']
    if not line.strong:
        drawn += [f'<circle cx="{x}" cy="{y}" r="2.2" fill="{color}"/>' for x, y in places]
    return "\n".join(drawn)


def _legend(name: str, index: int, color: str, top: int) -> str:
    x, y = LEFT + (index % 3) * (WIDTH + GAP), top + LEGEND_LINE * (index // 3)
    return f'<path d="M{x} {y}h18" stroke="{color}" stroke-width="2.4"/>' + _text(x + 24, y + 4, name)


def _y(share: float) -> float:
    return round(HEIGHT * (1 - share), 1)


def _text(x: float, y: float, text: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
