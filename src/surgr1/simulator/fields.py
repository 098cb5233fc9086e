"""Draws fields: organs as textured shapes with a mask id each, as the camera's motion frames them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from surgr1.simulator.anatomy import IDS
from surgr1.simulator.canvas import Canvas, Colour, smooth
from surgr1.simulator.geometry import parts_of
from surgr1.simulator.instruments import DrawError
from surgr1.simulator.scene import Centre, Field, Organ, Point, Scene
from surgr1.simulator.textures import fat_surface, surface

_PAN = 0.10
_ZOOM = 0.18
CAMERA: dict[str, tuple[float, float, float]] = {
    "": (0.0, 0.0, 0.0),
    "static": (0.0, 0.0, 0.0),
    "up": (0.0, -1.0, 0.0),
    "down": (0.0, 1.0, 0.0),
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "zoom-in": (0.0, 0.0, -1.0),
    "zoom-out": (0.0, 0.0, 1.0),
}
"""Camera motion -> where what the camera moves to lies at first: to the right, below, too near."""


def framed(scene: Scene, centre: Centre) -> tuple[Scene, Centre]:
    """Scene and camera as the camera's motion has them. Before it moves up, what it moves to lies too high in
    the picture (before it zooms in, too small), and a share `Field.camera` later less so. Directions are the
    picture's, also where the centre mirrors it. Only fields have a camera motion. Raises DrawError on an
    unknown one.
    """
    field = scene.anatomy
    if not isinstance(field, Field):
        return scene, centre
    if scene.motion not in CAMERA:
        raise DrawError(f"no camera motion {scene.motion!r}; known: {', '.join(m for m in CAMERA if m)}")
    right, below, near = (v * (1 - 0.7 * field.camera) for v in CAMERA[scene.motion])
    dx, dy = _PAN * (-right if centre.mirrored else right), _PAN * 1.4 * below

    def at(p: Point) -> Point:
        return p[0] + dx, p[1] + dy

    moved = replace(field, organs=tuple(replace(o, centre=at(o.centre)) for o in field.organs))
    tools = tuple(replace(i, tip=at(i.tip), entry=at(i.entry)) for i in scene.instruments)
    zoomed = replace(centre, zoom=centre.zoom * (1 + _ZOOM * near))
    return replace(scene, anatomy=moved, instruments=tools), zoomed


def draw_field(canvas: Canvas, field: Field) -> None:
    """The backdrop (mask id 0) and the organs from back to front. Raises DrawError on an organ that has no
    mask id or an unknown shape.
    """
    canvas.polygon([(-1, -1), (2, -1), (2, 2), (-1, 2)], _texture(canvas, 1, field.backdrop, "veined"), None)
    for organ in field.organs:
        if organ.name not in IDS:
            raise DrawError(f"no mask id for organ {organ.name!r}; known: {', '.join(IDS)}")
        if organ.shape not in _SHAPES:
            raise DrawError(f"{organ.name}: no shape {organ.shape!r}; known: {', '.join(_SHAPES)}")
        for number, at in enumerate(parts_of(organ, canvas.width / canvas.height)):
            _SHAPES[organ.shape](canvas, organ, at, number)


def _texture(canvas: Canvas, salt: int, colour: Colour, kind: str) -> NDArray[np.uint8]:
    seed = canvas.seed * 31 + salt
    if kind == "fat":
        return _fat(seed, canvas.width, canvas.height, colour)
    return surface(seed, canvas.width, canvas.height, colour, 0.5, 0.6 if kind == "veined" else 0.0)


@lru_cache(maxsize=16)
def _fat(seed: int, width: int, height: int, colour: Colour) -> NDArray[np.uint8]:
    """Fat in another colour than the usual yellow."""
    tint = np.asarray(colour, np.float32) / np.asarray((224, 166, 84), np.float32)
    return np.clip(fat_surface(seed, width, height) * tint, 0, 255).astype(np.uint8)


def _turned(canvas: Canvas, organ: Organ, at: Point, points: Sequence[Point]) -> list[Point]:
    """Points in radii around `at`, turned by the organ's angle, to scene coordinates."""
    c, s = math.cos(organ.angle), math.sin(organ.angle)
    aspect = canvas.width / canvas.height
    r = organ.radius
    return [(at[0] + r * (x * c - y * s), at[1] + r * aspect * (x * s + y * c)) for x, y in points]


def _blob(canvas: Canvas, organ: Organ, at: Point, part: int) -> None:
    ident = IDS[organ.name]
    rng = np.random.default_rng(canvas.seed * 131 + ident * 7 + part)
    reach = rng.uniform(0.82, 1.12, 9)
    outline = [
        (float(reach[k]) * math.cos(k * math.tau / 9), 0.8 * float(reach[k]) * math.sin(k * math.tau / 9))
        for k in range(9)
    ]
    points = smooth(_turned(canvas, organ, at, outline), steps=4)
    canvas.shadow_px([canvas.px(p) for p in points], 0.4)
    canvas.apply_shade()
    canvas.polygon(points, _texture(canvas, ident, organ.colour, organ.surface), ident)
    light: Colour = (
        min(255, organ.colour[0] + 34),
        min(255, organ.colour[1] + 34),
        min(255, organ.colour[2] + 34),
    )
    inner = [(at[0] - 0.08 * organ.radius + 0.6 * (x - at[0]), y - 0.3 * (y - at[1])) for x, y in points]
    canvas.polygon(inner, light, None, alpha=0.2)
    for dx, dy, size in ((-0.35, -0.3, 0.1), (0.2, -0.45, 0.06), (-0.1, 0.2, 0.05)):
        canvas.highlight((at[0] + dx * organ.radius, at[1] + dy * organ.radius), size * organ.radius)


def _tube(canvas: Canvas, organ: Organ, at: Point, part: int) -> None:
    points = _turned(canvas, organ, at, [(-1.0, 0.1), (-0.5, -0.12), (0.0, 0.05), (0.5, 0.14), (1.0, -0.08)])
    thick = max(0.02, min(0.09, 0.26 * organ.radius))
    canvas.tube(smooth(points, closed=False), organ.colour, thick, IDS[organ.name])


def _fold(canvas: Canvas, organ: Organ, at: Point, part: int) -> None:
    """A thin bright arc with a dark shadow line beside it; only the bright line is in the mask."""
    turn = -1.0 if part == 0 and organ.parts == 2 else 1.0
    arc = [(0.7 * math.cos(t) * turn, math.sin(t)) for t in (k * 2.4 / 8 - 1.2 for k in range(9))]
    points = smooth(_turned(canvas, organ, at, arc), closed=False, steps=3)
    canvas.line([(x + 0.008, y + 0.012) for x, y in points], (90, 36, 34), 0.018, None)
    canvas.line(points, organ.colour, 0.014, IDS[organ.name])


def _thread(canvas: Canvas, organ: Organ, at: Point, part: int) -> None:
    wave = [(-1.0 + k * 0.25, 0.35 * math.sin(1.7 * k)) for k in range(9)]
    points = smooth(_turned(canvas, organ, at, wave), closed=False, steps=4)
    canvas.line(points, organ.colour, 0.009, IDS[organ.name])


_SHAPES: dict[str, Callable[[Canvas, Organ, Point, int], None]] = {
    "blob": _blob,
    "tube": _tube,
    "fold": _fold,
    "thread": _thread,
}
