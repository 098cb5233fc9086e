"""Instruments: shaft and working end. Each tool's tip differs in outline and in colour, so that a label can
be seen.
"""

import math
from collections.abc import Callable

from surgr1.ontology.errors import SurgR1Error
from surgr1.simulator.canvas import Canvas, Colour
from surgr1.simulator.field_tools import FIELD_TOOLS
from surgr1.simulator.pen import BRIGHT, DARK, STEEL, Pen, jaw
from surgr1.simulator.pen import SHAFT as SHAFT
from surgr1.simulator.scene import Centre, Instrument


class DrawError(SurgR1Error):
    """A tool the renderer cannot draw."""


def _grasper(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.25, 0.30, shaft)
    for side in (-1, 1):
        angle = 0.10 + 0.45 * pen.opening
        pen.fill(jaw(-1.3, 0.0, angle, 0.17, side), STEEL)
        c, s = math.cos(angle), math.sin(angle) * side
        slot = [(0.35, 0.05 * side), (0.35, 0.11 * side), (0.95, 0.08 * side), (0.95, 0.04 * side)]
        pen.fill([(-1.3 + x * c - y * s, x * s + y * c) for x, y in slot], DARK)
    pen.fill([(-1.5, -0.17), (-1.2, -0.15), (-1.2, 0.15), (-1.5, 0.17)], BRIGHT)


def _bipolar(pen: Pen, shaft: Colour) -> None:
    blue: Colour = (38, 92, 196)
    pen.shaft(-0.95, 0.30, blue)
    gap = 0.07 + 0.16 * pen.opening
    for side in (-1, 1):
        pen.fill(
            [(-1.0, gap * side), (-1.0, (gap + 0.13) * side), (0, (gap + 0.13) * side), (0, gap * side)],
            BRIGHT,
        )
    pen.fill([(-1.2, -0.3), (-0.9, -0.32), (-0.9, 0.32), (-1.2, 0.3)], (70, 130, 232))


def _hook(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.5, 0.26, shaft)
    pen.fill([(-1.6, -0.15), (-0.55, -0.11), (-0.55, 0.11), (-1.6, 0.15)], (244, 242, 234))
    pen.fill([(-1.6, 0.06), (-0.55, 0.04), (-0.55, 0.11), (-1.6, 0.15)], (196, 194, 190))
    pen.stroke([(-0.6, 0), (-0.05, 0), (-0.02, 0.34)], (120, 104, 80), 0.09)


def _scissors(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.1, 0.28, shaft)
    brass: Colour = (206, 160, 60)
    pen.fill([(-1.35, -0.17), (-0.95, -0.15), (-0.95, 0.15), (-1.35, 0.17)], brass)
    for side in (-1, 1):
        a = 0.22 + 0.5 * pen.opening
        c, s = math.cos(a), math.sin(a) * side
        blade = [
            (0.0, -0.06 * side),
            (0.35, 0.10 * side),
            (0.75, 0.12 * side),
            (1.0, 0.02 * side),
            (0.7, -0.03 * side),
        ]
        pen.fill([(-0.95 + x * c - y * s, x * s + y * c) for x, y in blade], BRIGHT)
    pen.fill([(-0.97, -0.06), (-0.85, -0.06), (-0.85, 0.06), (-0.97, 0.06)], DARK)


def _clipper(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.1, 0.46, (188, 192, 198))
    for side in (-1, 1):
        spread = 0.10 + 0.2 * pen.opening
        jaw = [
            (-1.15, 0.05 * side),
            (-1.1, 0.25 * side),
            (-0.55, (0.22 + spread) * side),
            (0.0, (0.06 + spread) * side),
            (0.0, (spread - 0.06) * side),
            (-0.5, (spread + 0.04) * side),
        ]
        pen.fill(jaw, (206, 208, 214))
        pen.stroke([(-0.5, (spread + 0.02) * side), (-0.02, (spread - 0.04) * side)], (150, 60, 190), 0.10)
    pen.fill([(-1.35, -0.26), (-1.05, -0.24), (-1.05, 0.24), (-1.35, 0.26)], (150, 60, 190))


def _irrigator(pen: Pen, shaft: Colour) -> None:
    grey: Colour = (150, 156, 160)
    pen.shaft(-1.2, 0.34, grey)
    pen.fill([(-1.25, -0.17), (0, -0.17), (0, 0.17), (-1.25, 0.17)], (168, 174, 178))
    pen.fill([(-1.25, -0.12), (0, -0.12), (0, -0.04), (-1.25, -0.04)], BRIGHT)
    for x in (-0.95, -0.6, -0.25):
        pen.fill([(x - 0.07, 0.0), (x + 0.07, 0.0), (x + 0.07, 0.1), (x - 0.07, 0.1)], (20, 20, 22))
    pen.fill([(-0.08, -0.17), (0.02, -0.15), (0.02, 0.15), (-0.08, 0.17)], (16, 16, 18))


def _needle_driver(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.15, 0.36, (56, 58, 66))
    pen.fill(
        [(-1.3, -0.2), (-0.95, -0.24), (-0.7, -0.14), (-0.7, 0.14), (-0.95, 0.24), (-1.3, 0.2)], (92, 96, 104)
    )
    for side in (-1, 1):
        pen.fill(jaw(-0.75, 0.0, 0.06 + 0.4 * pen.opening, 0.17, side), (110, 114, 122))
        pen.fill(jaw(-0.45, 0.0, 0.06 + 0.4 * pen.opening, 0.08, side), (214, 178, 70))


def _linear_stapler(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-2.0, 0.5, (120, 124, 130))
    gap = 0.04 + 0.3 * pen.opening
    pen.fill([(-2.1, gap), (-2.1, gap + 0.22), (0, gap + 0.15), (0, gap)], STEEL)
    pen.fill([(-2.1, -gap), (-2.1, -gap - 0.26), (0, -gap - 0.2), (0, -gap)], (40, 84, 190))
    pen.fill([(-2.1, -gap - 0.2), (-2.1, -gap - 0.26), (0, -gap - 0.2), (0, -gap - 0.14)], STEEL)
    pen.fill([(-2.3, -0.28), (-2.0, -0.3), (-2.0, 0.3), (-2.3, 0.28)], DARK)


def _energy_device(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.2, 0.24, (226, 222, 214))
    for side in (-1, 1):
        pen.fill(jaw(-1.2, 0.0, 0.03 + 0.28 * pen.opening, 0.10, side), (196, 198, 200))
    pen.fill([(-1.35, -0.13), (-1.15, -0.12), (-1.15, 0.12), (-1.35, 0.13)], (60, 150, 90))


_DRAW: dict[str, Callable[[Pen, Colour], None]] = {
    "grasper": _grasper,
    "bipolar": _bipolar,
    "hook": _hook,
    "scissors": _scissors,
    "clipper": _clipper,
    "irrigator": _irrigator,
    "suction": _irrigator,
    "needle driver": _needle_driver,
    "linear stapler": _linear_stapler,
    "energy device": _energy_device,
} | FIELD_TOOLS


def draw_instrument(canvas: Canvas, instrument: Instrument, centre: Centre, ident: int) -> Pen:
    """Draw one instrument; its working end gets mask value `ident`, its shaft SHAFT more. Returns the pen it
    was drawn with, for what it does (`draw_deed`). Raises DrawError on an unknown tool.
    """
    if instrument.tool not in _DRAW:
        raise DrawError(f"no drawing for tool {instrument.tool!r}; known: {', '.join(_DRAW)}")
    pen = Pen(canvas, instrument, ident)
    _DRAW[instrument.tool](pen, centre.shaft)
    return pen


def draw_deed(pen: Pen, verb: str) -> None:
    """What tells verbs apart in one frame: strained tissue, a fold, steam over a burn, a water jet."""
    if verb == "retract":
        for y in (-0.5, -0.25, 0.0, 0.25, 0.5):
            pen.canvas.line_px(
                [pen.at(-0.1, y * 0.4), pen.at(0.75, y * 1.6)], (236, 214, 200), 0.05 * pen.unit, None
            )
    elif verb == "grasp":
        ring = [
            pen.at(-0.2 + 0.34 * math.cos(t), 0.34 * math.sin(t))
            for t in (k * math.tau / 16 for k in range(17))
        ]
        pen.canvas.line_px(ring, (70, 26, 26), 0.08 * pen.unit, None)
    elif verb == "coagulate":
        burn = [
            pen.at(0.15 + 0.4 * math.cos(t), 0.4 * math.sin(t))
            for t in (k * math.tau / 12 for k in range(12))
        ]
        pen.canvas.polygon_px(burn, (24, 16, 12), None, 0.8)
        steam = [
            pen.at(0.3 + 0.55 * math.cos(t), 0.45 + 0.5 * math.sin(t))
            for t in (k * math.tau / 12 for k in range(12))
        ]
        pen.canvas.polygon_px(steam, (232, 230, 226), None, 0.5)
    elif verb == "irrigate":
        for y in (-0.3, 0.0, 0.3):
            pen.canvas.line_px(
                [pen.at(0.05, y * 0.3), pen.at(1.1, y * 1.4)], (176, 214, 244), 0.12 * pen.unit, None
            )
