"""Small SVG charts for the report: bars with intervals, radar, line. Plain strings, no scripts."""

import math
from collections.abc import Mapping, Sequence
from html import escape

PALETTE = ("#7a869a", "#2f6fde", "#0f9b8e", "#c9761b", "#8e44ad", "#c0392b")


def bars(rows: Sequence[tuple[str, float, float, float, float]], *, title: str) -> str:
    """Horizontal bars of (name, value, low, high, floor) in percent, interval as a whisker, floor as a
    tick.
    """
    height, left, width = 26, 150, 400
    parts = [
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {left + width + 60}'
        f' {height * len(rows) + 26}" class="chart">'
    ]
    for i, (name, value, low, high, floor) in enumerate(rows):
        y = 6 + i * height
        x = [left + width * v / 100 for v in (value, low, high, floor)]
        parts.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text><rect x="{left}"'
            f' y="{y + 3}" width="{x[0] - left:.1f}" height="15" rx="3"'
            f' fill="{PALETTE[i % len(PALETTE)]}"/><path d="M{x[1]:.1f} {y + 10.5}H{x[2]:.1f}M{x[1]:.1f}'
            f' {y + 6}v9M{x[2]:.1f} {y + 6}v9" class="whisker"/><path d="M{x[3]:.1f} {y}v21"'
            f' class="floor"/><text x="{max(x[0], x[2]) + 6:.1f}" y="{y + 14}">{value:.1f}</text>'
        )
    base = 6 + height * len(rows)
    parts += [
        f'<text x="{left + width * t / 100}" y="{base + 14}" text-anchor="middle" class="tick">{t}</text>'
        for t in (0, 25, 50, 75, 100)
    ]
    return "".join([*parts, "</svg>"])


def radar(axes: Sequence[str], series: Mapping[str, Sequence[float]], floor: Sequence[float]) -> str:
    """One polygon per series over the axes (0-100 from centre to rim); the floor is the grey area."""
    size, middle, rim = 460, 230, 150

    def point(i: int, value: float) -> tuple[float, float]:
        angle = -math.pi / 2 + math.tau * i / len(axes)
        return middle + rim * value / 100 * math.cos(angle), middle + rim * value / 100 * math.sin(angle)

    def path(values: Sequence[float]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (point(i, v) for i, v in enumerate(values)))

    parts = [
        # The margins hold the names of the axes.
        f'<svg role="img" aria-label="radar of primary scores" class="chart radar"'
        f' viewBox="-90 40 {size + 180} {size - 80}">',
    ]
    parts += [f'<polygon points="{path([t] * len(axes))}" class="grid"/>' for t in (25, 50, 75, 100)]
    parts.append(f'<polygon points="{path(floor)}" class="floor-area"/>')
    for k, (_, values) in enumerate(series.items()):
        colour = PALETTE[k % len(PALETTE)]
        parts.append(f'<polygon points="{path(values)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for i, name in enumerate(axes):
        x, y = point(i, 116)
        anchor = "middle" if abs(x - middle) < 20 else "start" if x > middle else "end"
        parts.append(
            f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" class="tick">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def line(points: Sequence[tuple[float, float]], *, title: str) -> str:
    """One curve with its range written on the axes."""
    if len(points) < 2:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = min(ys), max(ys)
    span = (high - low) or 1.0
    coordinates = " ".join(
        f"{36 + 250 * (x - xs[0]) / ((xs[-1] - xs[0]) or 1):.1f},{104 - 84 * (y - low) / span:.1f}"
        for x, y in points
    )
    return (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="-16 0 316 130" class="chart line">'
        f'<text x="36" y="12">{escape(title)}</text><path d="M36 18V106H290" class="axis"/><polyline'
        f' points="{coordinates}" fill="none" stroke="{PALETTE[1]}" stroke-width="1.6"/><text x="32" y="24"'
        f' text-anchor="end" class="tick">{high:.3g}</text><text x="32" y="106" text-anchor="end"'
        f' class="tick">{low:.3g}</text><text x="290" y="120" text-anchor="end" class="tick">step'
        f" {xs[-1]:.0f}</text></svg>"
    )
