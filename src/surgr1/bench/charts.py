"""Small SVG charts for our pages: interval bar, radar, shares, reliability, line. Plain strings, no scripts;
every name is escaped here. Colours are the variables and classes of `templates/style.css`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape

SERIES = 8
"""How many series have a colour of their own (`--s0` ... `--s7`); more repeat with another dash."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_RIMS = (5, 10, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100)


def colour(k: int) -> str:
    """The CSS colour of series `k`."""
    return f"var(--s{k % SERIES})"


def interval_bar(
    value: float, interval: tuple[float, float] | None, floor: float | None, *, series: int
) -> str:
    """One bar from 0 to 100 with its interval as a whisker and the floor as a tick; as wide as its box."""
    tick = "" if floor is None else f'<path d="M{floor:.2f} 0V16" class="floor"/>'
    whisker, told = "", f"{value:.1f}"
    if interval:
        low, high = interval
        whisker = f'<path d="M{low:.2f} 8H{high:.2f}M{low:.2f} 5v6M{high:.2f} 5v6" class="whisker"/>'
        told += f", interval {low:.1f} to {high:.1f}"
    return (
        f'<svg role="img" aria-label="{told}" viewBox="0 0 100 16" preserveAspectRatio="none" class="bar">'
        f'<path d="M0 15H100" class="axis"/><rect y="3" height="10" width="{max(value, 0):.2f}"'
        f' style="fill:{colour(series)}"/>{whisker}{tick}</svg>'
    )


def rim(values: Sequence[float]) -> int:
    """The end of an axis that starts at 0: the smallest round percentage that holds all `values`."""
    return next((r for r in _RIMS if r >= max(values, default=0)), 100)


def radar(
    axes: Sequence[tuple[str, str]],
    series: Mapping[str, Sequence[float | None]],
    floor: Sequence[float],
    *,
    title: str,
    apart: Collection[str] = (),
) -> str:
    """One polygon per series over `axes` (two lines of name each), as the paper's Figure 1c.

    Every axis starts at 0 in the middle and ends at its own round maximum, which stands under its name. The
    floor is the grey area. A series without a value on an axis (None) breaks its line there. The series named
    in `apart`, which may not be compared with the others, are dotted.
    """
    ends = [
        rim([floor[i], *(v for values in series.values() if (v := values[i]) is not None)])
        for i in range(len(axes))
    ]
    width, radius = 500, 124
    middle = (width / 2, radius + 54)

    def point(i: int, share: float) -> tuple[float, float]:
        angle = -math.pi / 2 + math.tau * i / len(axes)
        return middle[0] + radius * share * math.cos(angle), middle[1] + radius * share * math.sin(angle)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

    parts = []
    for share in (0.25, 0.5, 0.75, 1):
        ring = path([point(i, share) for i in range(len(axes))])
        parts.append(f'<polygon points="{ring}" class="grid"/>')
    for i in range(len(axes)):
        x, y = point(i, 1)
        parts.append(f'<path d="M{middle[0]} {middle[1]}L{x:.1f} {y:.1f}" class="grid"/>')
    ground = path([point(i, floor[i] / ends[i]) for i in range(len(axes))])
    parts.append(f'<polygon points="{ground}" class="floor-area"/>')
    for k, (name, values) in enumerate(series.items()):
        dash = "1 4" if name in apart else _DASHES[k // SERIES % len(_DASHES)]
        style = f'style="stroke:{colour(k)};stroke-dasharray:{dash or "none"};stroke-linecap:round"'
        spots = [point(i, v / ends[i]) if v is not None else None for i, v in enumerate(values)]
        steps = []
        for i in range(len(spots)):
            a, b = spots[i], spots[(i + 1) % len(spots)]
            if a and b:
                steps.append(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}")
        parts.append(f'<g><title>{escape(name)}</title><path d="{"".join(steps)}" class="series" {style}/>')
        parts += [_marker(*spot, k) for spot in spots if spot]
        parts.append("</g>")
    for i, lines in enumerate(axes):
        x, y = point(i, 1)
        x += 11 * (x - middle[0]) / radius
        beside = abs(x - middle[0]) > 20
        anchor = "middle" if not beside else "start" if x > middle[0] else "end"
        top = y - 6 if beside else y - 38 if y < middle[1] else y + 18
        texts = [(lines[0], "name"), (lines[1], "tick"), (f"max {ends[i]} %", "tick")]
        for n, (text, kind) in enumerate(texts):
            parts.append(
                f'<text x="{x:.0f}" y="{top + 14 * n:.0f}" text-anchor="{anchor}" class="{kind}">'
                f"{escape(text)}</text>"
            )
    # The lowest axis may end far above the circle's bottom: a triangle needs no room beneath.
    height = max(point(i, 1)[1] for i in range(len(axes))) + 58
    head = f'<svg role="img" aria-label="{escape(title)}" class="chart radar"'
    return "".join([f'{head} viewBox="0 0 {width} {height:.0f}">', *parts, "</svg>"])


def _marker(x: float, y: float, k: int) -> str:
    """Series differ by shape too: dot, square, diamond, triangle."""
    style = f'style="fill:{colour(k)}"'
    if k % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" {style}/>'
    if k % 4 == 1:
        return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" {style}/>'
    if k % 4 == 2:
        return f'<path d="M{x:.1f} {y - 4.4:.1f}l4.4 4.4l-4.4 4.4l-4.4 -4.4z" {style}/>'
    return f'<path d="M{x:.1f} {y - 4.2:.1f}l4.2 7.4h-8.4z" {style}/>'


def marker(k: int) -> str:
    """The mark of series `k` for a legend."""
    return f'<svg class="mark" viewBox="0 0 12 12" aria-hidden="true">{_marker(6, 6, k)}</svg>'


def shares(counts: Mapping[str, int], *, title: str, prefix: str) -> str:
    """One stacked bar of counts in the given order, as wide as its box. Parts are of the class
    "`prefix`-name"; zero counts are left out.
    """
    total = sum(counts.values()) or 1
    told = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    parts = [
        f'<svg role="img" aria-label="{escape(f"{title}: {told}")}" viewBox="0 0 100 14"'
        ' preserveAspectRatio="none" class="shares">'
    ]
    x = 0.0
    for name, n in counts.items():
        if n:
            width = 100 * n / total
            parts.append(
                f'<rect x="{x:.3f}" width="{width:.3f}" height="14" class="{prefix}-{escape(name)}"><title>'
                f"{escape(name)} {n} ({width:.1f} %)</title></rect>"
            )
            x += width
    return "".join([*parts, "</svg>"])


def reliability(bins: Sequence[Mapping[str, float]], *, title: str, series: int) -> str:
    """Accuracy over confidence: one bar per bin, as tall as its accuracy, and the diagonal of a calibrated
    model. The darker a bar, the more answers it holds.

    `bins`: {"low", "high", "n", "confidence", "accuracy"}, shares in 0..1; empty bins are left out.
    """
    left, top, size = 40, 12, 200
    most = max((b["n"] for b in bins), default=0) or 1
    parts = [
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 262 252" class="chart plot">'
        f'<path d="M{left} {top}V{top + size}H{left + size}" class="axis"/>'
    ]
    for b in bins:
        if b["n"]:
            x, width = left + size * b["low"], size * (b["high"] - b["low"])
            y = size * b["accuracy"]
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{top + size - y:.1f}" width="{width - 2:.1f}" height="{y:.1f}"'
                f' style="fill:{colour(series)};opacity:{0.25 + 0.75 * b["n"] / most:.2f}"><title>confidence'
                f" {b['confidence']:.2f}, accuracy {b['accuracy']:.2f}, {b['n']:.0f} answers</title></rect>"
                f'<circle cx="{left + size * b["confidence"]:.1f}" cy="{top + size - y:.1f}" r="3"'
                ' class="ink"/>'
            )
    parts.append(f'<path d="M{left} {top + size}L{left + size} {top}" class="floor"/>')
    for share in (0, 0.5, 1):
        parts.append(
            f'<text x="{left + size * share:.0f}" y="{top + size + 16}" text-anchor="middle" class="tick">'
            f'{share:g}</text><text x="{left - 6}" y="{top + size - size * share + 4:.0f}"'
            f' text-anchor="end" class="tick">{share:g}</text>'
        )
    parts.append(
        f'<text x="{left + size / 2}" y="{top + size + 34}" text-anchor="middle" class="tick">'
        "confidence</text>"
        f'<text x="12" y="{top + size / 2}" text-anchor="middle" class="tick"'
        f' transform="rotate(-90 12 {top + size / 2})">accuracy</text></svg>'
    )
    return "".join(parts)


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
        f' points="{coordinates}" class="series" style="stroke:{colour(1)}"/><text x="32" y="24"'
        f' text-anchor="end" class="tick">{high:.3g}</text><text x="32" y="106" text-anchor="end"'
        f' class="tick">{low:.3g}</text><text x="290" y="120" text-anchor="end" class="tick">step'
        f" {xs[-1]:.0f}</text></svg>"
    )
