"""Where things are: anchors of the anatomy in scene coordinates (fractions of the picture)."""

import math

from surgr1.simulator.scene import Anatomy, Cholecystectomy, Field, GastricBypass, Organ, Point, Prostatectomy


def mix(a: Point, b: Point, t: float) -> Point:
    """The point a share `t` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t)


def shifted_fundus(anatomy: Cholecystectomy) -> Point:
    """The fundus after detachment: a freed gallbladder is flipped up and away from the liver bed."""
    free = anatomy.detachment
    return (anatomy.fundus[0] - 0.10 * free, anatomy.fundus[1] - 0.06 * free)


def parts_of(organ: Organ, aspect: float = 16 / 9) -> tuple[Point, ...]:
    """The centres of an organ's parts in a picture of this aspect: beside each other, vessels and the like
    across their own direction.
    """
    if organ.parts == 1:
        return (organ.centre,)
    dx, dy = (
        (1.0, 0.0) if organ.shape in ("blob", "fold") else (-math.sin(organ.angle), math.cos(organ.angle))
    )
    reach = 1.5 * organ.radius
    x, y = organ.centre
    return (x - reach * dx, y - reach * dy * aspect), (x + reach * dx, y + reach * dy * aspect)


def duct_end(anatomy: Cholecystectomy) -> Point:
    """Where the cystic duct leaves the picture's middle (towards the common bile duct)."""
    return (anatomy.neck[0] + 0.10, anatomy.neck[1] + 0.26)


def artery_end(anatomy: Cholecystectomy) -> Point:
    """Where the cystic artery comes from."""
    return (anatomy.neck[0] + 0.26, anatomy.neck[1] + 0.12)


def anchor(anatomy: Anatomy, target: str) -> Point | None:
    """Where a tool working on `target` puts its tip; None if the target cannot be reached in this state."""
    if isinstance(anatomy, Cholecystectomy):
        return _cholecystectomy(anatomy, target)
    if isinstance(anatomy, Prostatectomy):
        return _prostatectomy(anatomy, target)
    if isinstance(anatomy, Field):
        return next((o.centre for o in anatomy.organs if o.name == target), None)
    return _bypass(anatomy, target)


def _cholecystectomy(a: Cholecystectomy, target: str) -> Point | None:
    neck, fundus = a.neck, shifted_fundus(a)
    gone = a.detachment >= 1.0
    plate = mix(neck, a.fundus, 0.2)
    points: dict[str, Point | None] = {
        "gallbladder": None if a.bag == "closed" else mix(neck, fundus, 0.55),
        "cystic plate": (plate[0] - 0.07, plate[1] + 0.04),
        "cystic duct": None if gone else mix(neck, duct_end(a), 0.75),
        "cystic artery": None if gone else mix(neck, artery_end(a), 0.8),
        "cystic pedicle": None if gone else (neck[0] + 0.06, neck[1] + 0.07),
        "blood vessel": mix(neck, artery_end(a), 0.5),
        "fluid": (neck[0] - 0.08, neck[1] + 0.14),
        "abdominal wall cavity": (0.72, 0.12),
        "liver": (0.24, 0.42),
        "adhesion": (neck[0] + 0.10, neck[1] - 0.02),
        "omentum": (0.62, 0.88),
        "peritoneum": mix(neck, fundus, 0.2),
        "gut": (0.85, 0.85),
        "specimen bag": (0.36, 0.66) if a.bag == "open" else (0.60, 0.34) if a.bag == "closed" else None,
    }
    return points.get(target)


def needle_ends(a: Prostatectomy, radius: float = 0.13) -> tuple[Point, Point]:
    """(swage end, tip) of the half-circle needle."""
    dx, dy = radius * math.cos(a.needle_angle), radius * math.sin(a.needle_angle) * 1.6
    return (a.needle[0] - dx, a.needle[1] - dy), (a.needle[0] + dx, a.needle[1] + dy)


def _prostatectomy(a: Prostatectomy, target: str) -> Point | None:
    tail, tip = needle_ends(a)
    points: dict[str, Point | None] = {
        "needle": a.needle if a.needle_visible else None,
        "needle tail": tail,
        "needle tip": tip,
        "wound": a.wound,
        "thread": (a.wound[0] + 0.12, a.wound[1] - 0.16),
        "dorsal venous complex": a.wound,
        "fluid": (a.wound[0] - 0.18, a.wound[1] + 0.2),
    }
    return points.get(target)


_BYPASS_FOCUS: dict[str, Point] = {
    "overview": (0.5, 0.5),
    "stomach": (0.5, 0.48),
    "omentum": (0.5, 0.55),
    "jejunum": (0.5, 0.52),
    "gastrojejunal": (0.52, 0.5),
    "jejunojejunal": (0.5, 0.55),
    "petersen": (0.48, 0.58),
    "mesentery": (0.5, 0.55),
}


def _bypass(a: GastricBypass, target: str) -> Point | None:
    focus = _BYPASS_FOCUS[a.view]
    points = {
        "focus": focus,
        "staple end": (0.22 + 0.5 * a.staple_line, focus[1] - 0.02),
        "left tissue": (focus[0] - 0.2, focus[1] + 0.1),
        "right tissue": (focus[0] + 0.2, focus[1] + 0.08),
        "abdominal wall": (0.68, 0.14),
        "omentum": (0.5, 0.35 + 0.4 * a.omentum_split),
    }
    return points.get(target)
