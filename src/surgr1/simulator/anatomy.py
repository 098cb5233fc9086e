"""Draws the anatomy of the three procedures. Every field of the scene's anatomy changes something one can
see.
"""

import math

import numpy as np
from numpy.typing import NDArray

from surgr1.simulator.canvas import Canvas, Colour, smooth
from surgr1.simulator.geometry import artery_end, duct_end, mix, needle_ends, shifted_fundus
from surgr1.simulator.scene import Cholecystectomy, GastricBypass, Point, Prostatectomy
from surgr1.simulator.textures import fat_surface, surface

TISSUES = (
    "gallbladder",
    "cystic plate",
    "cystic duct",
    "cystic artery",
    "calot triangle",
    "liver",
    "omentum",
    "gut",
    "adhesion",
    "abdominal wall cavity",
    "fluid",
    "specimen bag",
    "stomach",
    "jejunum",
    "mesentery",
    "staple line",
    "dorsal venous complex",
    "bladder neck",
    "fat",
    "needle",
    "thread",
    "drain",
    # Of the fields (scenarios/*.yaml). Appended: the values above stand in what is already rendered.
    "uterus",
    "round ligament",
    "uterine vessel",
    "vagina",
    "kidney parenchyma",
    "covered kidney",
    "small intestine",
    "clamps",
    "suturing needle",
    "iliac vessel",
    "lymph node",
    "prostate",
    "bladder",
    "denonvilliers fascia",
    "prostatic pedicle",
    "urethra",
    "mucosa flap",
    "submucosa",
    "colon fold",
    "polyp",
    "nasal turbinate",
    "nasal septum",
    "sphenoid sinus",
    "sella",
    "dura",
    "tumour",
    "graft",
    "nasal packing",
    "abdominal wall",
    "colon",
    "inferior mesenteric artery",
    "intestinal veins",
    "pancreas",
    "spleen",
    "ureter",
    "vesicular glands",
    "short gastric vessel",
)
IDS = {name: i + 1 for i, name in enumerate(TISSUES)}


def _texture(
    canvas: Canvas, salt: int, base: Colour, rough: float = 0.5, veins: float = 0.0
) -> NDArray[np.uint8]:
    return surface(canvas.seed * 31 + salt, canvas.width, canvas.height, base, rough, veins)


def _fat(canvas: Canvas, salt: int) -> NDArray[np.uint8]:
    return fat_surface(canvas.seed * 31 + salt, canvas.width, canvas.height)


def _rng(canvas: Canvas, salt: int) -> np.random.Generator:
    return np.random.default_rng(canvas.seed * 131 + salt)


def _wet(
    canvas: Canvas, salt: int, spots: int, box: tuple[float, float, float, float], size: float = 0.010
) -> None:
    """Scatter wet reflections inside a box (x1, y1, x2, y2)."""
    rng = _rng(canvas, salt)
    for _ in range(spots):
        x, y = rng.uniform(box[0], box[2]), rng.uniform(box[1], box[3])
        canvas.highlight((x, y), size * rng.uniform(0.4, 1.5), rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.9))


def _backdrop(canvas: Canvas, *, wall: Colour = (196, 112, 104)) -> None:
    """The abdominal wall behind everything."""
    canvas.polygon(
        [(-1, -1), (2, -1), (2, 2), (-1, 2)],
        _texture(canvas, 1, wall, 0.5, 0.5),
        IDS["abdominal wall cavity"],
    )


def _liver(canvas: Canvas, edge: float) -> None:
    outline: list[Point] = [
        (-0.6, -0.05),
        (0.05, 0.06),
        (0.35, 0.02),
        (0.52, 0.16),
        (0.56, 0.36),
        (0.46, edge),
        (0.2, edge + 0.1),
        (-0.6, edge + 0.06),
    ]
    canvas.polygon(smooth(outline), _texture(canvas, 2, (104, 34, 28), 0.55), IDS["liver"])
    _wet(canvas, 3, 7, (0.02, 0.12, 0.42, edge - 0.1), 0.016)


def _pear(fundus: Point, neck: Point, girth: float) -> list[Point]:
    """Outline of a pear between fundus (wide) and neck (narrow); girth is the half width as a fraction of the
    picture's width.
    """
    dx, dy = neck[0] - fundus[0], (neck[1] - fundus[1]) * 0.5625
    length = math.hypot(dx, dy) or 1e-6
    nx, ny = -dy / length, dx / length / 0.5625
    profile = [
        (-0.22, 0.0),
        (-0.12, 0.75),
        (0.15, 1.0),
        (0.45, 0.82),
        (0.75, 0.48),
        (0.97, 0.26),
        (1.04, 0.0),
    ]
    left = [
        (mix(fundus, neck, t)[0] + nx * girth * w, mix(fundus, neck, t)[1] + ny * girth * w)
        for t, w in profile
    ]
    right = [
        (mix(fundus, neck, t)[0] - nx * girth * w, mix(fundus, neck, t)[1] - ny * girth * w)
        for t, w in profile[-2:0:-1]
    ]
    return smooth(left + right, steps=4)


def draw_cholecystectomy(canvas: Canvas, a: Cholecystectomy) -> None:
    """Right upper abdomen: liver, gallbladder, Calot's triangle with duct and artery, omentum, gut."""
    _backdrop(canvas)
    gut = [(1.15, 0.70), (0.92, 0.72), (0.80, 0.82), (0.74, 1.15)]
    canvas.tube(smooth(gut, closed=False), (206, 124, 118), 0.16, IDS["gut"])
    _liver(canvas, 0.62)
    omentum = [
        (0.30, 0.96),
        (0.42, 0.84),
        (0.55, 0.86),
        (0.68, 0.80),
        (0.82, 0.90),
        (1.0, 0.95),
        (1.1, 1.3),
        (0.1, 1.3),
    ]
    canvas.polygon(smooth(omentum), _fat(canvas, 4), IDS["omentum"])
    # Hepatoduodenal floor behind the triangle.
    floor = [(0.46, 0.50), (0.62, 0.44), (0.84, 0.52), (0.88, 0.74), (0.70, 0.86), (0.52, 0.82), (0.44, 0.66)]
    canvas.polygon(smooth(floor), _texture(canvas, 5, (176, 84, 70), 0.5, 0.3), None)

    neck, fundus = a.neck, shifted_fundus(a)
    if a.detachment > 0.03:
        bed = _pear(
            mix(neck, a.fundus, min(1.0, a.detachment + 0.12)), mix(neck, a.fundus, 0.02), a.girth * 0.95
        )
        canvas.polygon(bed, _texture(canvas, 6, (148, 28, 24), 0.9, 0.25), IDS["cystic plate"])
        _wet(canvas, 7, 5, (a.neck[0] - 0.14, a.neck[1] - 0.25, a.neck[0], a.neck[1] - 0.05), 0.006)
    if a.window > 0.05:
        triangle = [
            (neck[0] + 0.03, neck[1] + 0.04),
            mix(neck, artery_end(a), 0.85),
            mix(neck, duct_end(a), 0.85),
        ]
        canvas.polygon(
            triangle,
            (36, 12, 14),
            IDS["calot triangle"] if a.window >= 0.5 else None,
            alpha=min(1.0, a.window * 1.2),
        )
    if a.detachment < 1.0 or a.bag == "none":
        _tubes(canvas, a)
    if a.plate > 0.05 and a.detachment < 0.9:
        strip = _pear(mix(neck, a.fundus, 0.10 + 0.42 * a.plate), mix(neck, a.fundus, -0.04), a.girth * 0.6)
        strip = [(x - 0.055, y + 0.03) for x, y in strip]
        canvas.polygon(
            strip, _texture(canvas, 8, (158, 26, 22), 0.9), IDS["cystic plate"] if a.plate >= 0.5 else None
        )
    if a.detachment < 1.0:
        _gallbladder(canvas, fundus, (neck[0] - 0.05 * a.detachment, neck[1] - 0.10 * a.detachment), a.girth)
    if a.fat > 0.05 and a.detachment < 1.0:
        rng = _rng(canvas, 9)
        for i in range(16):
            x, y = neck[0] + 0.02 + rng.uniform(-0.03, 0.20), neck[1] + rng.uniform(-0.02, 0.24)
            if (i + 1) / 16 <= a.fat:
                canvas.disc((x, y), rng.uniform(0.035, 0.065), _fat(canvas, 10), None)
                canvas.highlight((x - 0.01, y - 0.02), 0.006, 0.8)
                # Fat hides what lies under it from the labels as well.
                canvas.disc((x, y), 0.04, _fat(canvas, 10), IDS["omentum"])
    if a.adhesions > 0:
        rng = _rng(canvas, 11)
        for _ in range(int(8 * a.adhesions)):
            x = neck[0] + rng.uniform(-0.02, 0.12)
            canvas.line(
                [(x, neck[1] - 0.12), (x + 0.05, neck[1] + 0.02), (x + 0.02, neck[1] + 0.14)],
                (222, 196, 178),
                0.006,
                IDS["adhesion"],
            )
    if a.bag != "none":
        _bag(canvas, a)


def _gallbladder(canvas: Canvas, fundus: Point, neck: Point, girth: float) -> None:
    outline = _pear(fundus, neck, girth)
    canvas.shadow_px([canvas.px(p) for p in outline], 0.45)
    canvas.apply_shade()
    canvas.polygon(outline, _texture(canvas, 12, (150, 156, 128), 0.35, 0.35), IDS["gallbladder"])
    inner = [mix(p, mix(fundus, neck, 0.3), 0.35) for p in outline]
    canvas.polygon(inner, (196, 196, 170), None, alpha=0.35)
    for t, r in ((0.05, 0.020), (0.28, 0.012), (0.62, 0.008)):
        x, y = mix(fundus, neck, t)
        canvas.highlight((x - 0.03, y - 0.02), r)


def _tubes(canvas: Canvas, a: Cholecystectomy) -> None:
    """Cystic duct and artery; both come into view as C1 is dissected, are clipped and cut."""
    for name, end, colour, width, clips, cut in (
        ("cystic artery", artery_end(a), (186, 32, 34), 0.016, a.artery_clips, a.artery_cut),
        ("cystic duct", duct_end(a), (176, 178, 110), 0.034, a.duct_clips, a.duct_cut),
    ):
        start = (a.neck[0] + 0.01, a.neck[1] + 0.02)
        bend = mix(start, end, 0.5)
        path = smooth([start, (bend[0] + 0.015, bend[1] - 0.02), end], closed=False)
        ident = IDS[name] if a.two_structures >= 0.5 else None
        if cut:
            half = len(path) // 2
            canvas.tube(path[: max(2, half - 2)], colour, width, ident)
            canvas.tube(path[half + 3 :], colour, width, ident)
        else:
            canvas.tube(path, colour, width, ident)
        for k in range(clips):
            at = path[round((0.30 + 0.22 * k) * (len(path) - 1))]
            canvas.line(
                [(at[0] - width * 0.9, at[1] + 0.03), (at[0] + width * 0.9, at[1] - 0.03)],
                (236, 238, 244),
                0.014,
                None,
            )
            canvas.line(
                [(at[0] - width * 0.9, at[1] + 0.035), (at[0] + width * 0.9, at[1] - 0.025)],
                (130, 60, 176),
                0.005,
                None,
            )


def _bag(canvas: Canvas, a: Cholecystectomy) -> None:
    if a.bag == "open":
        c = (0.36, 0.66)
        pouch = [
            (c[0] - 0.15, c[1] - 0.12),
            (c[0], c[1] - 0.18),
            (c[0] + 0.15, c[1] - 0.12),
            (c[0] + 0.10, c[1] + 0.18),
            (c[0] - 0.02, c[1] + 0.26),
            (c[0] - 0.12, c[1] + 0.16),
        ]
        canvas.polygon(
            smooth(pouch), _texture(canvas, 13, (222, 224, 230), 0.35), IDS["specimen bag"], alpha=0.88
        )
        canvas.disc((c[0], c[1] - 0.13), 0.115, (120, 116, 124), None, 0.75, squash=0.42)
        canvas.line(
            smooth(
                [(c[0] + 0.11, c[1] - 0.13), (c[0] + 0.2, c[1] - 0.3), (c[0] + 0.32, c[1] - 0.36)],
                closed=False,
            ),
            (240, 240, 244),
            0.006,
            None,
        )
        if a.detachment >= 1.0:
            _gallbladder(canvas, (c[0] - 0.02, c[1] - 0.26), (c[0] + 0.01, c[1] - 0.10), a.girth * 0.62)
    else:
        c = (0.60, 0.34)
        pouch = [
            (c[0] - 0.06, c[1] - 0.2),
            (c[0] + 0.06, c[1] - 0.2),
            (c[0] + 0.13, c[1] + 0.02),
            (c[0] + 0.09, c[1] + 0.2),
            (c[0] - 0.05, c[1] + 0.24),
            (c[0] - 0.13, c[1] + 0.04),
        ]
        canvas.shadow_px([canvas.px(p) for p in pouch], 0.5)
        canvas.apply_shade()
        canvas.polygon(smooth(pouch), _texture(canvas, 14, (206, 210, 216), 0.4), IDS["specimen bag"])
        canvas.disc((c[0], c[1] + 0.05), 0.075, (140, 148, 124), None, 0.5, squash=1.1)
        canvas.line(
            [(c[0] - 0.06, c[1] - 0.2), (c[0], c[1] - 0.26), (c[0] + 0.06, c[1] - 0.2)],
            (246, 246, 250),
            0.012,
            None,
        )
        canvas.line(
            smooth([(c[0], c[1] - 0.24), (c[0] + 0.06, c[1] - 0.4), (c[0] + 0.1, c[1] - 0.6)], closed=False),
            (244, 244, 248),
            0.007,
            None,
        )


def draw_prostatectomy(canvas: Canvas, a: Prostatectomy) -> None:
    """The dorsal venous complex with needle and thread."""
    canvas.polygon([(-1, -1), (2, -1), (2, 2), (-1, 2)], _texture(canvas, 21, (168, 74, 66), 0.6, 0.3), None)
    for x, salt in ((0.02, 22), (0.98, 23)):
        side = [(x - 0.2, -0.1), (x + 0.14, 0.1), (x + 0.1, 0.5), (x + 0.16, 0.8), (x, 1.2), (x - 0.25, 1.2)]
        canvas.polygon(smooth(side), _fat(canvas, salt), IDS["fat"])
    mound = [(0.2, 0.42), (0.5, 0.28), (0.8, 0.42), (0.84, 0.72), (0.5, 0.92), (0.16, 0.72)]
    canvas.polygon(smooth(mound), _texture(canvas, 24, (150, 52, 70), 0.6, 0.4), IDS["dorsal venous complex"])
    fold = [(0.24, 0.06), (0.5, 0.0), (0.76, 0.06), (0.7, 0.24), (0.5, 0.28), (0.3, 0.24)]
    canvas.polygon(smooth(fold), _texture(canvas, 25, (214, 134, 126), 0.3), IDS["bladder neck"])
    wound = a.wound
    canvas.polygon(
        smooth(
            [
                (wound[0] - 0.20, wound[1]),
                (wound[0], wound[1] - 0.055),
                (wound[0] + 0.20, wound[1]),
                (wound[0], wound[1] + 0.055),
            ]
        ),
        (84, 10, 16),
        None,
    )
    _wet(canvas, 26, 12, (0.2, 0.35, 0.8, 0.85), 0.008)
    thread: Colour = (70, 44, 150)
    for k in range(a.stitches):
        x = wound[0] - 0.13 + 0.075 * k
        canvas.line(
            [(x - 0.015, wound[1] - 0.07), (x + 0.015, wound[1] + 0.07)], thread, 0.008, IDS["thread"]
        )
    if a.loops:
        for k in range(a.loops):
            centre = (wound[0] + 0.02 + 0.018 * k, wound[1] - 0.17 - 0.02 * k)
            ring = [
                (centre[0] + 0.085 * math.cos(t), centre[1] + 0.085 * math.sin(t))
                for t in np.linspace(0, math.tau, 20)
            ]
            canvas.line(ring, thread, 0.009, IDS["thread"])
        canvas.line([(wound[0], wound[1]), (wound[0] + 0.02, wound[1] - 0.12)], thread, 0.009, IDS["thread"])
    elif a.thread_cut:
        canvas.line(
            [(wound[0] + 0.03, wound[1] - 0.02), (wound[0] + 0.06, wound[1] - 0.09)],
            thread,
            0.009,
            IDS["thread"],
        )
        canvas.line(
            [(wound[0] + 0.03, wound[1] - 0.02), (wound[0] - 0.01, wound[1] - 0.09)],
            thread,
            0.009,
            IDS["thread"],
        )
    elif a.thread_tension > 0.5 and not a.needle_visible:
        canvas.line([wound, (wound[0] + 0.24, wound[1] - 0.32)], thread, 0.009, IDS["thread"])
    if not a.needle_visible:
        return
    tail, _ = needle_ends(a)
    arc = [
        (
            a.needle[0] + 0.13 * math.cos(a.needle_angle + math.pi + t),
            a.needle[1] + 0.21 * math.sin(a.needle_angle + math.pi + t),
        )
        for t in np.linspace(0, math.pi, 25)
    ]
    if a.needle_in_tissue > 0:
        buried = round(a.needle_in_tissue * 24)
        shown = [arc[: 25 - buried]] if not a.needle_emerged else [arc[buried + 1 :]]
    else:
        shown = [arc]
    if not a.thread_cut:
        if a.thread_tension > 0.5:
            slack = [tail, wound] if a.needle_emerged else [tail, (tail[0] - 0.25, tail[1] - 0.25)]
        else:
            slack = smooth(
                [
                    tail,
                    (tail[0] - 0.12, tail[1] + 0.12),
                    (tail[0] - 0.05, tail[1] + 0.26),
                    (tail[0] - 0.28, tail[1] + 0.22),
                ],
                closed=False,
            )
        canvas.line(slack, thread, 0.009, IDS["thread"])
    for part in shown:
        if len(part) > 1:
            canvas.line(part, (90, 94, 104), 0.020, IDS["needle"])
            canvas.line(part, (232, 236, 242), 0.011, None)
    if a.needle_in_tissue > 0:
        hole = (
            arc[24 - round(a.needle_in_tissue * 24)]
            if not a.needle_emerged
            else arc[min(24, round(a.needle_in_tissue * 24))]
        )
        canvas.disc(hole, 0.02, (60, 6, 10), None, squash=0.6)


def _loop(canvas: Canvas, points: list[Point], width: float, ident: int) -> None:
    path = smooth(points, closed=False)
    canvas.shadow_px([canvas.px((x, y + 0.03)) for x, y in path + path[::-1]], 0.4)
    canvas.apply_shade()
    canvas.tube(path, (214, 128, 124), width, ident)
    for x, y in path[::5]:
        canvas.highlight((x, y - width * 0.35), 0.007, 0.8)


def _staples(canvas: Canvas, start: Point, end: Point, share: float) -> None:
    """Three rows of tiny metal staples along a line, grown to `share` of its length."""
    if share <= 0:
        return
    for row in (-0.014, 0.0, 0.014):
        for k in range(int(26 * share)):
            x, y = mix(start, end, k / 26)
            canvas.line(
                [(x - 0.005, y + row * 1.7), (x + 0.005, y + row * 1.7)],
                (236, 240, 246),
                0.006,
                IDS["staple line"],
            )


def draw_bypass(canvas: Canvas, a: GastricBypass) -> None:
    """Upper abdomen in one of eight views."""
    _backdrop(canvas, wall=(190, 104, 100))
    mucosa: Colour = (196, 24, 34)
    if a.view in ("overview", "stomach", "gastrojejunal"):
        top = 0.20 if a.view == "overview" else 0.10
        canvas.polygon(
            smooth(
                [(-0.3, -0.3), (1.3, -0.3), (1.1, top), (0.6, top + 0.10), (0.2, top + 0.04), (-0.3, top)]
            ),
            _texture(canvas, 31, (104, 34, 28), 0.5),
            IDS["liver"],
        )
    if a.view in ("overview", "stomach"):
        body = [(0.08, 0.42), (0.3, 0.28), (0.62, 0.30), (0.9, 0.44), (0.92, 0.60), (0.6, 0.66), (0.25, 0.64)]
        if a.view == "overview":
            body = [(x * 0.7 + 0.16, y * 0.75 + 0.14) for x, y in body]
        canvas.polygon(smooth(body), _texture(canvas, 32, (216, 132, 122), 0.3, 0.3), IDS["stomach"])
        _wet(canvas, 33, 9, (0.25, 0.36, 0.8, 0.56), 0.012)
        canvas.polygon(
            smooth([(-0.1, 0.80), (0.3, 0.70), (0.7, 0.72), (1.1, 0.78), (1.2, 1.3), (-0.2, 1.3)]),
            _fat(canvas, 34),
            IDS["omentum"],
        )
        _staples(canvas, (0.22, 0.46), (0.80, 0.46), a.staple_line)
    elif a.view == "omentum":
        canvas.polygon(
            smooth([(-0.2, 0.12), (0.3, 0.06), (0.8, 0.1), (1.2, 0.12), (1.3, 1.3), (-0.3, 1.3)]),
            _fat(canvas, 35),
            IDS["omentum"],
        )
        depth = 0.12 + 0.85 * a.omentum_split
        canvas.polygon(
            smooth([(0.46, 0.05), (0.54, 0.05), (0.53, depth * 0.6), (0.5, depth), (0.47, depth * 0.6)]),
            (120, 30, 30),
            None,
        )
    elif a.view == "gastrojejunal":
        canvas.polygon(
            smooth([(0.28, 0.16), (0.55, 0.12), (0.74, 0.24), (0.70, 0.44), (0.46, 0.46), (0.3, 0.34)]),
            _texture(canvas, 36, (220, 138, 128), 0.3, 0.3),
            IDS["stomach"],
        )
        _loop(
            canvas, [(-0.1, 0.74), (0.25, 0.60), (0.55, 0.57), (0.8, 0.66), (1.1, 0.82)], 0.13, IDS["jejunum"]
        )
        canvas.polygon(
            smooth([(-0.2, 0.86), (0.4, 0.80), (1.2, 0.88), (1.2, 1.3), (-0.2, 1.3)]),
            _fat(canvas, 37),
            IDS["omentum"],
        )
        if a.enterotomy > 0.05:
            canvas.disc((0.50, 0.49), 0.055 * a.enterotomy + 0.015, mucosa, None, squash=0.5)
        for k in range(int(8 * a.anastomosis)):
            canvas.line([(0.36 + 0.04 * k, 0.45), (0.37 + 0.04 * k, 0.53)], (60, 40, 150), 0.007, None)
        if a.dye > 0:
            canvas.disc((0.50, 0.42), 0.16 * a.dye, (36, 70, 196), None, 0.85, squash=0.8)
    elif a.view in ("jejunum", "jejunojejunal"):
        canvas.polygon(
            smooth([(-0.2, 0.80), (0.4, 0.76), (1.2, 0.80), (1.2, 1.3), (-0.2, 1.3)]),
            _texture(canvas, 38, (218, 172, 112), 0.3, 0.5),
            IDS["mesentery"],
        )
        if a.view == "jejunum":
            gap = 0.05 if a.staple_line >= 1 else 0.0
            _loop(canvas, [(-0.1, 0.30), (0.2, 0.44), (0.48 - gap, 0.50)], 0.14, IDS["jejunum"])
            _loop(canvas, [(0.52 + gap, 0.50), (0.8, 0.44), (1.1, 0.56)], 0.14, IDS["jejunum"])
            _staples(canvas, (0.50, 0.40), (0.505, 0.62), a.staple_line)
        else:
            _loop(canvas, [(-0.1, 0.36), (0.3, 0.44), (0.7, 0.42), (1.1, 0.30)], 0.13, IDS["jejunum"])
            _loop(canvas, [(-0.1, 0.68), (0.3, 0.62), (0.7, 0.64), (1.1, 0.74)], 0.13, IDS["jejunum"])
            if a.enterotomy > 0.05:
                for y in (0.47, 0.60):
                    canvas.disc((0.5, y), 0.05 * a.enterotomy + 0.015, mucosa, None, squash=0.4)
            for k in range(int(9 * a.anastomosis)):
                canvas.line([(0.3 + 0.045 * k, 0.50), (0.31 + 0.045 * k, 0.57)], (60, 40, 150), 0.007, None)
    else:
        fan = [(-0.1, 0.26), (0.3, 0.20), (0.7, 0.20), (1.1, 0.28), (1.2, 1.3), (-0.2, 1.3)]
        canvas.polygon(smooth(fan), _texture(canvas, 39, (222, 178, 118), 0.3, 0.7), IDS["mesentery"])
        if a.view == "petersen":
            _loop(canvas, [(0.12, -0.1), (0.24, 0.25), (0.2, 0.6), (0.06, 1.1)], 0.14, IDS["jejunum"])
            hole = [(0.34, 0.36), (0.62, 0.48), (0.7, 0.74), (0.44, 0.8), (0.36, 0.6)]
        else:
            _loop(canvas, [(-0.1, 0.12), (0.35, 0.18), (0.7, 0.16), (1.1, 0.06)], 0.13, IDS["jejunum"])
            hole = [(0.46, 0.30), (0.56, 0.40), (0.58, 0.64), (0.5, 0.84), (0.44, 0.62), (0.43, 0.40)]
        middle = (sum(p[0] for p in hole) / len(hole), sum(p[1] for p in hole) / len(hole))
        canvas.polygon(smooth([mix(middle, p, 0.35 + 0.65 * a.defect) for p in hole]), (44, 12, 14), None)
        for k in range(a.sutures):
            y = 0.36 + 0.07 * k
            canvas.line([(middle[0] - 0.08, y), (middle[0] + 0.08, y + 0.03)], (60, 40, 150), 0.008, None)
    if a.drain:
        canvas.tube(
            smooth([(1.1, 0.9), (0.75, 0.72), (0.5, 0.62), (0.3, 0.7)], closed=False),
            (232, 232, 226),
            0.04,
            IDS["drain"],
        )
