"""Charts as inline SVG: no script, no network, sharp in print and readable in the dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from shared.clock import instant_of_ms

# Told apart by the colour-blind as well (Okabe and Ito).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_WIDTH, _HEIGHT = 860, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 28
_LEGEND_ROW = 18
_ENTRIES_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Marker:
    """A point of interest: an entry or an exit."""

    x: float
    y: float
    shape: str
    colour: str
    tooltip: str


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels, with ticks at round values."""

    low: float
    high: float
    first_pixel: float
    last_pixel: float

    def pixel(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.first_pixel + share * (self.last_pixel - self.first_pixel)

    def ticks(self, most: int = 5) -> list[float]:
        raw = (self.high - self.low) / most
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def line_chart(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    label: str,
    is_time: bool = True,
    is_share: bool = False,
    levels: Iterable[float] = (),
    markers: Sequence[Marker] = (),
    diagonal: bool = False,
) -> str:
    """Draw lines over a common axis.

    Parameters
    ----------
    x
        Milliseconds since 1970 where `is_time`, else numbers.
    series
        Values by name, as many as `x`; the first is drawn the strongest.
    label
        What the chart shows, for those who cannot see it.
    is_time
        Whether the axis is of time.
    is_share
        Whether values are shares, written in percent.
    levels
        Values to draw a dashed line at.
    markers
        Points on top.
    diagonal
        Whether to draw the line on which both axes agree.

    Returns
    -------
    str
        An SVG element; a paragraph where there is nothing to draw.
    """
    if not len(x) or not series:
        return f"<p class='empty'>{escape(label)}: nothing to show.</p>"
    values = [value for line in series.values() for value in line]
    values += [*levels, *(marker.y for marker in markers)]
    sideways = [*values, *x] if diagonal else list(x)
    if diagonal:
        values = sideways
    rows = math.ceil(len(series) / _ENTRIES_A_ROW) if len(series) > 1 else 0
    height = _HEIGHT + rows * _LEGEND_ROW
    across = _Scale(*_spread(min(sideways), max(sideways)), _LEFT, _WIDTH - _RIGHT)
    up = _Scale(*_padded(min(values), max(values)), height - _BOTTOM, _TOP + rows * _LEGEND_ROW)
    parts = [_axes(across, up, height, is_time=is_time, is_share=is_share)]
    parts += [_level(across, up, level) for level in levels]
    if diagonal:
        ends = (across.low, across.high)
        points = " ".join(f"{across.pixel(v):.1f},{up.pixel(v):.1f}" for v in ends)
        parts.append(f"<polyline class='level' points='{points}'/>")
    for n, (name, line) in reversed(list(enumerate(series.items()))):
        points = " ".join(
            f"{across.pixel(at):.1f},{up.pixel(value):.1f}"
            for at, value in zip(x, line, strict=True)
        )
        colour = COLOURS[n % len(COLOURS)]
        # More lines than colours: those of the second round are dashed.
        dash = " stroke-dasharray='5 3'" if n >= len(COLOURS) else ""
        parts.append(
            f"<polyline class='{'line' if n else 'line first'}' stroke='{colour}'{dash} "
            f"points='{points}'><title>{escape(name)}</title></polyline>"
        )
        if rows:
            parts.append(_legend(n, name, colour, dash))
    parts += [_marker(across, up, marker) for marker in markers]
    return _svg(label, height, parts)


def bar_chart(values: Mapping[str, float], *, label: str, unit: str = "") -> str:
    """Draw one bar a name, from zero to the left or to the right.

    Parameters
    ----------
    values
        By name, in the order they are drawn in.
    label
        What the chart shows, for those who cannot see it.
    unit
        Written after each value.
    """
    if not values:
        return f"<p class='empty'>{escape(label)}: nothing to show.</p>"
    row, left = 22, 230
    height = row * len(values) + 8
    scale = _Scale(
        *_spread(min(0.0, *values.values()), max(0.0, *values.values())), left, _WIDTH - 110
    )
    zero = scale.pixel(0.0)
    parts = []
    for n, (name, value) in enumerate(values.items()):
        y, end = 4 + n * row, scale.pixel(value)
        colour = COLOURS[2] if value >= 0 else COLOURS[4]
        at, anchor = (max(end, zero) + 5, "start")
        parts.append(
            f"<rect x='{min(zero, end):.1f}' y='{y + 3}' width='{abs(end - zero):.1f}' height='15' "
            f"fill='{colour}'/><text x='{left - 60}' y='{y + 15}' text-anchor='end'>"
            f"{escape(name)}</text><text x='{at:.1f}' y='{y + 15}' text-anchor='{anchor}'>"
            f"{value:,.4g}{escape(unit)}</text>"
        )
    parts.append(f"<line class='axis' x1='{zero:.1f}' x2='{zero:.1f}' y1='0' y2='{height}'/>")
    return _svg(label, height, parts)


def _svg(label: str, height: int, parts: Iterable[str]) -> str:
    return (
        f"<svg role='img' aria-label='{escape(label, quote=True)}' "
        f"viewBox='0 0 {_WIDTH} {height}'>{''.join(parts)}</svg>"
    )


def _axes(across: _Scale, up: _Scale, height: int, *, is_time: bool, is_share: bool) -> str:
    parts = []
    for value in up.ticks():
        y = up.pixel(value)
        text = f"{value:.1%}" if is_share else f"{value:,.10g}"
        parts.append(
            f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>"
            f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{text}</text>"
        )
    if is_time:
        n = 6
        places = [across.low + (across.high - across.low) * part / n for part in range(n + 1)]
        names = [f"{instant_of_ms(int(at)):%d %b %y}" for at in places]
    else:
        places = across.ticks()
        names = [f"{value:.2g}" for value in places]
    for n, (at, name) in enumerate(zip(places, names, strict=True)):
        anchor = "end" if is_time and n == len(places) - 1 else "middle"
        parts.append(
            f"<text x='{across.pixel(at):.1f}' y='{height - 8}' text-anchor='{anchor}'>{name}"
            "</text>"
        )
    return "".join(parts)


def _level(across: _Scale, up: _Scale, level: float) -> str:
    y = up.pixel(level)
    return (
        f"<line class='level' x1='{across.first_pixel}' x2='{across.last_pixel}' y1='{y:.1f}' "
        f"y2='{y:.1f}'/>"
    )


def _legend(n: int, name: str, colour: str, dash: str) -> str:
    x = _LEFT + n % _ENTRIES_A_ROW * (_WIDTH - _LEFT) // _ENTRIES_A_ROW
    y = _TOP + n // _ENTRIES_A_ROW * _LEGEND_ROW
    return (
        f"<line class='line first' stroke='{colour}'{dash} x1='{x}' x2='{x + 22}' y1='{y}' "
        f"y2='{y}'/><text x='{x + 28}' y='{y + 4}'>{escape(name)}</text>"
    )


def _marker(across: _Scale, up: _Scale, marker: Marker) -> str:
    x, y = across.pixel(marker.x), up.pixel(marker.y)
    shapes = {
        "up": f"path d='M{x:.1f} {y - 5:.1f}l5 9h-10z'",
        "down": f"path d='M{x:.1f} {y + 5:.1f}l5 -9h-10z'",
        "circle": f"circle cx='{x:.1f}' cy='{y:.1f}' r='3.5'",
    }
    element = shapes[marker.shape]
    return (
        f"<{element} class='marker' fill='{marker.colour}'><title>{escape(marker.tooltip)}</title>"
        f"</{element.split()[0]}>"
    )


def _spread(low: float, high: float) -> tuple[float, float]:
    """Return bounds with room between them."""
    if high > low:
        return low, high
    room = abs(low) * 0.01 or 1.0
    return low - room, high + room


def _padded(low: float, high: float) -> tuple[float, float]:
    low, high = _spread(low, high)
    room = 0.04 * (high - low)
    return low - room, high + room
