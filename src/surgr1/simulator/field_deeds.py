"""What tells the verbs of a field apart in one frame: a mark in front of the instrument's tip. Verbs of two
datasets that mean the same look the same. Marks are in no mask.
"""

import math
from collections.abc import Callable

from surgr1.simulator.canvas import Canvas, Colour
from surgr1.simulator.instruments import DrawError
from surgr1.simulator.pen import Pen
from surgr1.simulator.scene import Instrument, Point

_RED: Colour = (120, 10, 14)
_PALE: Colour = (240, 220, 206)
_DARK: Colour = (52, 18, 18)
_WATER: Colour = (176, 214, 244)
_BLUE: Colour = (70, 60, 160)
_METAL: Colour = (216, 220, 228)
_PURPLE: Colour = (150, 60, 190)

DIRECTIONS: dict[str, Point] = {
    "right": (1, 0),
    "left": (-1, 0),
    "upward": (0, -1),
    "downward": (0, 1),
    "upper right": (0.7, -0.7),
    "upper left": (-0.7, -0.7),
    "lower left": (-0.7, 0.7),
    "lower right": (0.7, 0.7),
}
"""Direction in the picture -> (to the right, down)."""


def _line(pen: Pen, points: list[Point], colour: Colour, width: float) -> None:
    pen.canvas.line_px([pen.at(*p) for p in points], colour, width * pen.unit, None)


def _disc(pen: Pen, at: Point, radius: float, colour: Colour, alpha: float, squash: float = 1.0) -> None:
    points = [
        pen.at(at[0] + radius * math.cos(t), at[1] + radius * squash * math.sin(t))
        for t in (k * math.tau / 14 for k in range(14))
    ]
    pen.canvas.polygon_px(points, colour, None, alpha)


def _ring(pen: Pen, at: Point, radius: float, colour: Colour, width: float = 0.09) -> None:
    turns = [k * math.tau / 16 for k in range(17)]
    _line(pen, [(at[0] + radius * math.cos(t), at[1] + radius * math.sin(t)) for t in turns], colour, width)


def _strain(pen: Pen) -> None:
    for y in (-0.5, -0.25, 0.0, 0.25, 0.5):
        _line(pen, [(-0.1, y * 0.4), (0.8, y * 1.7)], _PALE, 0.06)


def _grasp(pen: Pen) -> None:
    _ring(pen, (-0.1, 0.0), 0.36, (70, 26, 26))


def _hold(pen: Pen) -> None:
    _ring(pen, (-0.1, 0.0), 0.36, (70, 26, 26))
    _ring(pen, (-0.1, 0.0), 0.58, _PALE, 0.07)


def _burn(pen: Pen) -> None:
    _disc(pen, (0.15, 0.0), 0.4, (24, 16, 12), 0.8)
    _disc(pen, (0.3, 0.45), 0.55, (232, 230, 226), 0.5)


def _slit(pen: Pen) -> None:
    gap = [pen.at(*p) for p in ((-0.15, 0.0), (0.3, 0.17), (0.95, 0.0), (0.3, -0.17))]
    pen.canvas.polygon_px(gap, _RED, None)
    for side in (-1, 1):
        _line(pen, [(-0.15, 0.0), (0.3, 0.24 * side), (0.95, 0.0)], _PALE, 0.07)


def _dissect(pen: Pen) -> None:
    for y in (-0.3, -0.1, 0.1, 0.3):
        _line(pen, [(0.0, y), (0.55, y * 1.4)], (250, 244, 232), 0.05)
    _disc(pen, (0.55, 0.0), 0.22, _RED, 0.8, 2.0)


def _stream(pen: Pen) -> None:
    for y in (-0.5, 0.0, 0.5):
        _line(pen, [(0.9, y), (0.0, y * 0.15)], _RED, 0.12)


def _wash(pen: Pen) -> None:
    for y in (-0.3, 0.0, 0.3):
        _line(pen, [(0.05, y * 0.3), (1.1, y * 1.4)], _WATER, 0.12)


def _waves(pen: Pen) -> None:
    for x in (0.2, 0.45, 0.7):
        _line(pen, [(x, -0.5), (x + 0.14, -0.17), (x - 0.08, 0.17), (x, 0.5)], _DARK, 0.08)


def _thing(pen: Pen) -> None:
    _line(pen, [(0.0, -0.6), (0.12, 0.0), (0.0, 0.6)], _METAL, 0.12)
    _disc(pen, (0.12, 0.0), 0.12, (40, 40, 46), 1.0)


def _loop(pen: Pen) -> None:
    _ring(pen, (-0.35, 0.0), 0.42, _BLUE, 0.07)
    _ring(pen, (-0.15, 0.0), 0.42, _BLUE, 0.07)


def _stitches(pen: Pen) -> None:
    for x in (0.15, 0.45, 0.75):
        _line(pen, [(x, -0.35), (x + 0.18, 0.35)], _BLUE, 0.08)


def _clips(pen: Pen) -> None:
    for x in (0.15, 0.45):
        _line(pen, [(x, -0.4), (x, 0.4)], _METAL, 0.16)
        _line(pen, [(x + 0.04, -0.4), (x + 0.04, 0.4)], _PURPLE, 0.06)


def _staples(pen: Pen) -> None:
    for y in (-0.16, 0.16):
        for x in (0.1, 0.35, 0.6, 0.85):
            _line(pen, [(x, y), (x + 0.14, y)], _METAL, 0.1)


def _sound(pen: Pen) -> None:
    for r in (0.3, 0.55, 0.8):
        turns = [k * 1.8 / 8 - 0.9 for k in range(9)]
        _line(pen, [(r * math.cos(t), r * math.sin(t)) for t in turns], (240, 244, 250), 0.06)


def _pull(pen: Pen) -> None:
    for side in (-1, 1):
        _line(pen, [(0.9, 0.7 * side), (0.1, 0.15 * side), (-0.3, 0.1 * side)], _PALE, 0.09)


def _push(pen: Pen) -> None:
    for r in (0.25, 0.45):
        turns = [k * 2.4 / 8 - 1.2 for k in range(9)]
        _line(pen, [(r * math.cos(t), 1.4 * r * math.sin(t)) for t in turns], _DARK, 0.1)


def _release(pen: Pen) -> None:
    for side in (-1, 1):
        _line(pen, [(0.3, 0.35 * side), (0.7, 0.6 * side)], _DARK, 0.08)
        _line(pen, [(0.5, 0.3 * side), (0.9, 0.45 * side)], _PALE, 0.06)


def _closed(pen: Pen) -> None:
    _line(pen, [(0.05, -0.22), (0.05, 0.22)], _DARK, 0.1)


def _close_something(pen: Pen) -> None:
    for side in (-1, 1):
        _line(pen, [(0.1, 0.55 * side), (0.35, 0.06 * side), (0.6, 0.55 * side)], _PALE, 0.08)


def _opened(pen: Pen) -> None:
    _line(pen, [(0.45, -0.35), (0.1, 0.0), (0.45, 0.35)], _PALE, 0.08)


def _open_something(pen: Pen) -> None:
    _disc(pen, (0.35, 0.0), 0.3, (20, 6, 8), 0.95, 1.4)
    _ring(pen, (0.35, 0.0), 0.34, _PALE, 0.06)


def _pack(pen: Pen) -> None:
    _line(pen, [(0.7, -0.6), (0.15, -0.35), (0.15, 0.35), (0.7, 0.6)], (214, 222, 232), 0.12)


def _travel(pen: Pen) -> None:
    for y in (0.45, 0.65, 0.85):
        _line(pen, [(-0.9, y), (-0.1, y)], (236, 232, 228), 0.05)


def _nothing(pen: Pen) -> None:
    pass


MARKS: dict[str, Callable[[Pen], None]] = {
    "null verb": _nothing,
    "still": _nothing,
    "grasp": _grasp,
    "grasping": _grasp,
    "hold": _hold,
    "retract": _strain,
    "retraction": _strain,
    "lift": _strain,
    "tissue manipulation": _waves,
    "tool manipulation": _thing,
    "cut": _slit,
    "cutting": _slit,
    "dissect": _dissect,
    "coagulate": _burn,
    "cauterize": _burn,
    "cauterization": _burn,
    "suction": _stream,
    "aspirate": _stream,
    "irrigate": _wash,
    "wash": _wash,
    "looping": _loop,
    "suturing": _stitches,
    "suture": _stitches,
    "clip": _clips,
    "clipping": _clips,
    "staple": _staples,
    "ultrasound sensing": _sound,
    "pull": _pull,
    "push": _push,
    "release": _release,
    "close": _closed,
    "close something": _close_something,
    "open": _opened,
    "open something": _open_something,
    "pack": _pack,
    "travel": _travel,
}


def draw_field_deed(canvas: Canvas, instrument: Instrument) -> None:
    """The mark of the verb and, if it has one, of the direction: a trail from the tip that way in the
    picture. Raises DrawError on a verb or direction that has none.
    """
    if instrument.verb not in MARKS:
        raise DrawError(f"no mark for verb {instrument.verb!r}; known: {', '.join(MARKS)}")
    pen = Pen(canvas, instrument, 0)
    MARKS[instrument.verb](pen)
    if not instrument.direction:
        return
    if instrument.direction not in DIRECTIONS:
        raise DrawError(f"no direction {instrument.direction!r}; known: {', '.join(DIRECTIONS)}")
    dx, dy = DIRECTIONS[instrument.direction]
    (x, y), length = pen.tip, 1.3 * pen.unit
    end = (x + dx * length, y + dy * length)
    pen.canvas.line_px([(x, y), end], _RED, 0.14 * pen.unit, None)
    pen.canvas.line_px([(x, y), end], (250, 226, 214), 0.05 * pen.unit, None)
    head = [
        end,
        (end[0] - 0.3 * pen.unit * (dx + 0.7 * dy), end[1] - 0.3 * pen.unit * (dy - 0.7 * dx)),
        (end[0] - 0.3 * pen.unit * (dx - 0.7 * dy), end[1] - 0.3 * pen.unit * (dy + 0.7 * dx)),
    ]
    pen.canvas.polygon_px(head, _RED, None)
