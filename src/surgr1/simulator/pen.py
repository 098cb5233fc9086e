"""The pen that draws one instrument in its own coordinates, mask in step."""

import math
from collections.abc import Sequence

from surgr1.simulator.canvas import Canvas, Colour
from surgr1.simulator.scene import Instrument, Point

SHAFT = 100
"""Added to an instrument's mask value where a pixel shows its shaft."""
STEEL: Colour = (176, 182, 190)
BRIGHT: Colour = (222, 226, 232)
DARK: Colour = (44, 46, 50)


class Pen:
    """Local coordinates of one instrument: x towards the tip (0 at the tip), y to its left, in units of the
    tip size.
    """

    def __init__(self, canvas: Canvas, instrument: Instrument, ident: int) -> None:
        self.canvas, self.ident = canvas, ident
        self.tip = canvas.px(instrument.tip)
        entry = canvas.px(instrument.entry)
        length = math.dist(self.tip, entry) or 1.0
        self.along = ((self.tip[0] - entry[0]) / length, (self.tip[1] - entry[1]) / length)
        self.unit = canvas.unit * instrument.scale
        self.reach = length / self.unit + 1.0
        self.opening = instrument.opening

    def at(self, x: float, y: float) -> Point:
        ax, ay = self.along
        return (
            self.tip[0] + (ax * x - ay * y) * self.unit,
            self.tip[1] + (ay * x + ax * y) * self.unit,
        )

    def fill(self, points: Sequence[Point], colour: Colour, *, working: bool = True) -> None:
        """A polygon of the working end (or of the shaft, which is not part of the label's box)."""
        self.canvas.polygon_px(
            [self.at(*p) for p in points], colour, self.ident if working else self.ident + SHAFT
        )

    def stroke(self, points: Sequence[Point], colour: Colour, width: float, *, working: bool = True) -> None:
        self.canvas.line_px(
            [self.at(*p) for p in points],
            colour,
            width * self.unit,
            self.ident if working else self.ident + SHAFT,
        )

    def shaft(self, start: float, width: float, colour: Colour) -> None:
        """The round shaft from x = `start` back out of the picture."""
        far = -self.reach
        half = width / 2
        outline = [(start, -half), (start, half), (far, half * 1.25), (far, -half * 1.25)]
        self.canvas.shadow_px([self.at(*p) for p in outline], 0.5)
        self.fill(outline, colour, working=False)
        light: Colour = (min(255, colour[0] + 70), min(255, colour[1] + 70), min(255, colour[2] + 72))
        dark: Colour = (colour[0] * 5 // 10, colour[1] * 5 // 10, colour[2] * 5 // 10)
        self.fill(
            [(start, half * 0.5), (start, half), (far, half * 1.25), (far, half * 0.6)], dark, working=False
        )
        self.fill(
            [(start, -half * 0.55), (start, -half * 0.2), (far, -half * 0.25), (far, -half * 0.7)],
            light,
            working=False,
        )


def jaw(x0: float, x1: float, angle: float, width: float, side: int) -> list[Point]:
    """A tapered jaw from x0 to x1 swung open by `angle` to one side."""
    c, s = math.cos(angle), math.sin(angle) * side
    raw = [(0.0, 0.0), (0.0, width * side), ((x1 - x0), width * 0.45 * side), ((x1 - x0), 0.0)]
    return [(x0 + x * c - y * s, x * s + y * c) for x, y in raw]
