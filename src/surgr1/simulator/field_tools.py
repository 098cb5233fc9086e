"""The tools of the fields: a few shapes in many colours and proportions. Two tools of one scenario differ in
outline or colour.
"""

import math
from collections.abc import Callable

from surgr1.simulator.canvas import Colour
from surgr1.simulator.pen import BRIGHT, DARK, STEEL, Pen, jaw

Drawing = Callable[[Pen, Colour], None]
WHITE: Colour = (240, 238, 230)
GOLD: Colour = (214, 178, 70)
BLACK: Colour = (30, 32, 38)
BLUE: Colour = (40, 92, 196)
GREEN: Colour = (64, 160, 90)
PURPLE: Colour = (150, 60, 190)


def _jaws(
    blade: Colour,
    collar: Colour,
    *,
    length: float = 1.2,
    width: float = 0.16,
    gape: float = 0.45,
    tube: Colour | None = None,
    inlay: Colour | None = None,
    cups: bool = False,
) -> Drawing:
    """Two jaws behind a collar; `inlay` a strip in each, `cups` a bowl at each end, `tube` a shaft of its own
    colour.
    """

    def draw(pen: Pen, shaft: Colour) -> None:
        pen.shaft(-length - 0.1, 0.32, tube or shaft)
        angle = 0.08 + gape * pen.opening
        for side in (-1, 1):
            pen.fill(jaw(-length, 0.0, angle, width, side), blade)
            if inlay:
                pen.fill(jaw(-length * 0.75, -0.08, angle * 1.15, width * 0.5, side), inlay)
            if cups:
                end = (length - 0.1) * math.cos(angle), (length - 0.1) * math.sin(angle) * side
                _round(pen, (-length + end[0], end[1] + 0.05 * side), 0.17, blade)
                _round(pen, (-length + end[0], end[1] + 0.05 * side), 0.08, DARK)
        pen.fill(
            [(-length - 0.3, -0.19), (-length + 0.1, -0.16), (-length + 0.1, 0.16), (-length - 0.3, 0.19)],
            collar,
        )

    return draw


def _round(pen: Pen, at: tuple[float, float], radius: float, colour: Colour, squash: float = 1.0) -> None:
    turns = [k * math.tau / 18 for k in range(18)]
    pen.fill([(at[0] + radius * math.cos(t), at[1] + radius * squash * math.sin(t)) for t in turns], colour)


def _rod(
    body: Colour, end: Colour, *, length: float = 1.2, width: float = 0.3, point: float = 0.0
) -> Drawing:
    """A straight body with an end of another colour; `point` > 0 sharpens it over that length."""

    def draw(pen: Pen, shaft: Colour) -> None:
        half = width / 2
        pen.shaft(-length, width * 0.85, shaft)
        pen.fill([(-length - 0.05, -half), (-point, -half), (-point, half), (-length - 0.05, half)], body)
        light: Colour = (min(255, body[0] + 60), min(255, body[1] + 60), min(255, body[2] + 60))
        pen.fill(
            [(-length, -half * 0.7), (-point, -half * 0.7), (-point, -half * 0.3), (-length, -half * 0.3)],
            light,
        )
        back = -point - 0.22
        pen.fill([(back, -half), (-point, -half), (0.0, 0.0), (-point, half), (back, half)], end)

    return draw


def _plate(
    blade: Colour, collar: Colour, *, length: float = 1.3, width: float = 0.2, tip: float = 0.2
) -> Drawing:
    """A flat blade, `tip` its width at the end."""

    def draw(pen: Pen, shaft: Colour) -> None:
        pen.shaft(-length, 0.2, shaft)
        outline = [(-length, -0.06), (-length * 0.5, -width / 2), (0.0, -tip / 2), (0.0, tip / 2)]
        pen.fill([*outline, (-length * 0.5, width / 2), (-length, 0.06)], blade)
        pen.fill([(-length * 0.9, -0.02), (-0.1, -0.02), (-0.1, 0.02), (-length * 0.9, 0.02)], DARK)
        pen.fill(
            [(-length - 0.2, -0.13), (-length + 0.1, -0.13), (-length + 0.1, 0.13), (-length - 0.2, 0.13)],
            collar,
        )

    return draw


def _ball(
    ball: Colour, neck: Colour, *, radius: float = 0.3, squash: float = 1.0, hole: Colour | None = None
) -> Drawing:
    """A ball (or, with a hole, a ring) at the end of a thin neck."""

    def draw(pen: Pen, shaft: Colour) -> None:
        pen.shaft(-1.2, 0.24, shaft)
        pen.fill([(-1.3, -0.1), (-radius, -0.07), (-radius, 0.07), (-1.3, 0.1)], neck)
        _round(pen, (-radius, 0.0), radius, ball, squash)
        if hole:
            _round(pen, (-radius, 0.0), radius * 0.55, hole, squash)
        else:
            _round(pen, (-radius * 1.25, -radius * 0.3 * squash), radius * 0.3, WHITE, squash)

    return draw


def _curved_scissors(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.15, 0.32, shaft)
    pen.fill([(-1.45, -0.2), (-0.95, -0.17), (-0.95, 0.17), (-1.45, 0.2)], (206, 110, 50))
    for side in (-1, 1):
        a = 0.2 + 0.5 * pen.opening
        c, s = math.cos(a), math.sin(a) * side
        blade = [(0.0, -0.07 * side), (0.4, 0.13 * side), (0.8, 0.2 * side), (1.0, 0.16 * side)]
        blade += [(0.7, 0.02 * side), (0.3, -0.05 * side)]
        pen.fill([(-0.95 + x * c - y * s, x * s + y * c) for x, y in blade], BRIGHT)


def _open_frame(pen: Pen, shaft: Colour) -> None:
    """Grasping retractor: three broad fingers."""
    pen.shaft(-1.4, 0.34, shaft)
    pen.fill([(-1.6, -0.2), (-1.2, -0.2), (-1.2, 0.2), (-1.6, 0.2)], (150, 154, 160))
    for y in (-0.34, 0.0, 0.34):
        pen.fill([(-1.25, y * 0.4 - 0.08), (0, y - 0.09), (0, y + 0.09), (-1.25, y * 0.4 + 0.08)], STEEL)


def _kerrison(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.0, 0.22, STEEL)
    pen.fill([(-1.05, -0.14), (-0.2, -0.14), (-0.2, 0.1), (-1.05, 0.1)], STEEL)
    pen.fill([(-0.12, -0.14), (0.0, -0.14), (0.0, 0.42), (-0.12, 0.42)], BRIGHT)
    pen.fill([(-1.05, 0.1), (0.0, 0.1), (0.0, 0.2), (-1.05, 0.2)], DARK)


def _hook_electrode(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.4, 0.28, shaft)
    pen.fill([(-1.5, -0.16), (-0.5, -0.12), (-0.5, 0.12), (-1.5, 0.16)], (232, 206, 60))
    pen.stroke([(-0.55, 0), (-0.05, 0), (-0.03, 0.36)], (150, 134, 110), 0.1)


def _clip_applier(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.1, 0.42, shaft)
    for side in (-1, 1):
        spread = 0.12 + 0.2 * pen.opening
        pen.fill(
            [(-1.15, 0.05 * side), (-1.1, 0.24 * side), (0.0, (0.1 + spread) * side), (0.0, spread * side)],
            (196, 200, 206),
        )
        pen.stroke([(-0.45, (spread + 0.1) * side), (0.0, (spread + 0.05) * side)], GREEN, 0.12)
    pen.fill([(-1.4, -0.26), (-1.05, -0.24), (-1.05, 0.24), (-1.4, 0.26)], (92, 96, 104))


def _stapler(pen: Pen, shaft: Colour) -> None:
    pen.shaft(-1.9, 0.46, shaft)
    gap = 0.04 + 0.25 * pen.opening
    pen.fill([(-2.0, gap), (-2.0, gap + 0.2), (0, gap + 0.14), (0, gap)], STEEL)
    pen.fill([(-2.0, -gap), (-2.0, -gap - 0.24), (0, -gap - 0.18), (0, -gap)], (210, 210, 214))
    pen.fill([(-1.9, -gap - 0.04), (-0.1, -gap - 0.04), (-0.1, -gap - 0.12), (-1.9, -gap - 0.14)], GREEN)
    pen.fill([(-2.2, -0.28), (-1.9, -0.3), (-1.9, 0.3), (-2.2, 0.28)], DARK)


FIELD_TOOLS: dict[str, Drawing] = {
    # AutoLaparo
    "grasping forceps": _jaws(STEEL, BRIGHT, width=0.2),
    "ligasure": _jaws((206, 206, 210), BLUE, length=1.5, width=0.13, gape=0.3, tube=(96, 120, 190)),
    "dissecting and grasping forceps": _jaws((150, 154, 160), GOLD, length=1.0, width=0.1, gape=0.6),
    "electric hook": _hook_electrode,
    # EndoVis17, EndoVis18, PSI-AVA, GraSP, PitVQA
    "bipolar forceps": _jaws(BRIGHT, BLUE, length=1.0, width=0.12, tube=(60, 90, 170)),
    "prograsp forceps": _jaws(STEEL, (110, 114, 122), length=1.4, width=0.22, inlay=DARK),
    "large needle driver": _jaws((96, 100, 108), BLACK, length=0.8, width=0.2, inlay=GOLD),
    "vessel sealer": _jaws((226, 222, 214), GREEN, length=1.4, width=0.16, gape=0.3, tube=(200, 198, 190)),
    "grasping retractor": _open_frame,
    "monopolar curved scissors": _curved_scissors,
    "ultrasound probe": _rod(WHITE, (90, 96, 110), length=1.6, width=0.5),
    "suction instrument": _rod((168, 174, 178), (16, 16, 18), length=1.4, width=0.34),
    "clip applier": _clip_applier,
    "stapler": _stapler,
    "laparoscopic grasper": _jaws((206, 208, 212), PURPLE, length=1.3, width=0.14, inlay=(140, 144, 150)),
    # CoPESD
    "forceps": _jaws(STEEL, (60, 140, 160), length=1.0, width=0.18, cups=True),
    "knife": _rod((236, 232, 220), (70, 74, 84), length=1.3, width=0.2, point=0.35),
    # SegCol
    "balloon": _ball((186, 216, 232), (120, 150, 170), radius=0.7, squash=0.8),
    "resection device": _rod((70, 90, 150), BRIGHT, length=1.5, width=0.36, point=0.2),
    "captivator": _ball(GOLD, (226, 222, 214), radius=0.5, squash=0.7, hole=(120, 60, 50)),
    # PitVQA
    "freer elevator": _plate(BRIGHT, GOLD, width=0.26, tip=0.14),
    "pituitary rongeurs": _jaws(STEEL, STEEL, length=0.8, width=0.14, tube=(150, 154, 160), cups=True),
    "spatula dissector": _plate(BRIGHT, BLACK, length=1.1, width=0.16, tip=0.44),
    "kerrisons": _kerrison,
    "cottle": _plate((150, 154, 160), BLUE, length=1.5, width=0.34, tip=0.34),
    "haemostatic foam": _ball((250, 236, 180), (240, 238, 230), radius=0.42, squash=0.7),
    "micro doppler": _rod(BLUE, (210, 60, 60), length=1.3, width=0.2),
    "nasal cutting forceps": _jaws((206, 208, 214), GOLD, length=1.1, width=0.24, gape=0.6),
    "stealth pointer": _rod((210, 216, 224), PURPLE, length=1.6, width=0.14, point=0.3),
    "irrigation syringe": _rod((176, 214, 244), WHITE, length=1.2, width=0.5, point=0.3),
    "retractable knife": _plate(BRIGHT, GREEN, length=1.2, width=0.24, tip=0.02),
    "dural scissors": _jaws(BRIGHT, DARK, length=0.8, width=0.08, gape=0.8),
    "ring curette": _ball(BRIGHT, STEEL, radius=0.3, hole=(110, 40, 40)),
    "cup forceps": _jaws((196, 170, 90), GOLD, length=1.0, width=0.1, cups=True),
    "tissue glue": _rod(WHITE, GREEN, length=1.3, width=0.3, point=0.15),
    "surgical drill": _ball((200, 190, 150), BLACK, radius=0.26),
}
"""Canonical name -> how it is drawn."""
