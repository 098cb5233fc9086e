"""One scene of one centre to a picture with exact boxes (pixels of that picture)."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from surgr1.simulator.anatomy import IDS, draw_bypass, draw_cholecystectomy, draw_prostatectomy
from surgr1.simulator.canvas import Box, Canvas
from surgr1.simulator.field_deeds import draw_field_deed
from surgr1.simulator.fields import draw_field, framed
from surgr1.simulator.instruments import draw_deed, draw_instrument
from surgr1.simulator.scene import Centre, Cholecystectomy, Field, GastricBypass, Prostatectomy, Scene
from surgr1.simulator.textures import Float, soft_noise

FIRST_INSTRUMENT = 60
"""Mask values: the working end of instrument k is FIRST_INSTRUMENT + k, its shaft `instruments.SHAFT` more;
tissues are `anatomy.IDS`.
"""
MIN_PIXELS = 60
"""A working end or tissue with fewer visible pixels than this is not labelled: nobody could see it."""


@dataclass(frozen=True)
class Rendered:
    """`image` uint8 (height, width, 3). `instrument_boxes`: one per instrument of the scene, None if its
    working end is not visible. `tissue_boxes`: visible tissues (and the specimen bag) by name. Boxes are x1,
    y1, x2, y2 in pixels. `ids` uint8 (height, width): what every pixel shows (0 outside the scope)."""

    image: NDArray[np.uint8]
    instrument_boxes: tuple[Box | None, ...]
    tissue_boxes: dict[str, Box]
    ids: NDArray[np.uint8]


@lru_cache(maxsize=32)
def _optics(size: tuple[int, int], vignette: float) -> tuple[Float, NDArray[np.bool_]]:
    """(brightness factor (h, w), visible disc (h, w))."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    half = np.hypot(width, height) / 2
    radius = np.hypot(x - width / 2 + 0.5, y - height / 2 + 0.5) / half
    return (1.10 - 0.55 * radius**2).astype(np.float32), radius <= vignette


def _box(mask: NDArray[np.bool_]) -> Box | None:
    if int(mask.sum()) < MIN_PIXELS:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def render(scene: Scene, centre: Centre) -> Rendered:
    """Draw the scene as this centre's camera sees it. Deterministic in scene and centre."""
    scene, centre = framed(scene, centre)
    canvas = Canvas(centre, scene.seed)
    if isinstance(scene.anatomy, Cholecystectomy):
        draw_cholecystectomy(canvas, scene.anatomy)
    elif isinstance(scene.anatomy, Prostatectomy):
        draw_prostatectomy(canvas, scene.anatomy)
    elif isinstance(scene.anatomy, GastricBypass):
        draw_bypass(canvas, scene.anatomy)
    else:
        draw_field(canvas, scene.anatomy)
    _blood(canvas, scene)
    canvas.apply_gloss()
    in_field = isinstance(scene.anatomy, Field)
    if in_field:
        # Marks lie on the tissue: they never cover what the mask calls an instrument.
        for instrument in scene.instruments:
            draw_field_deed(canvas, instrument)
    for i, instrument in enumerate(scene.instruments):
        pen = draw_instrument(canvas, instrument, centre, FIRST_INSTRUMENT + i)
        if not in_field:
            draw_deed(pen, instrument.verb)
        canvas.shade.paste(0, (0, 0, *canvas.shade.size))
    return _develop(canvas, scene, centre)


def _blood(canvas: Canvas, scene: Scene) -> None:
    effects = scene.effects
    rng = np.random.default_rng(scene.seed * 17 + 3)
    for strength, colour, ident in (
        (effects.blood, (124, 6, 10), None),
        (effects.fluid, (150, 40, 30), IDS["fluid"]),
    ):
        if strength <= 0.05:
            continue
        for _ in range(7):
            x, y = 0.47 + rng.uniform(-0.16, 0.14), 0.66 + rng.uniform(-0.10, 0.16)
            canvas.disc(
                (x, y),
                (0.02 + 0.07 * strength) * rng.uniform(0.5, 1.2),
                colour,
                ident,
                alpha=0.85,
                squash=0.6,
            )
            canvas.highlight((x - 0.01, y - 0.02), 0.009 * (0.5 + strength))


def _develop(canvas: Canvas, scene: Scene, centre: Centre) -> Rendered:
    """Camera and optics: motion blur, light fall-off, smoke, colour, noise, vignette."""
    size = centre.size
    picture = canvas.image.resize(size, Image.Resampling.BOX)
    if scene.effects.blur > 0.05:
        picture = picture.filter(ImageFilter.GaussianBlur(1.6 * scene.effects.blur))
    ids = np.asarray(canvas.ids.resize(size, Image.Resampling.NEAREST))
    light, visible = _optics(size, centre.vignette)
    pixels = np.asarray(picture, np.float32) * (light * centre.illumination)[..., None]
    if scene.effects.smoke > 0.03:
        drift = int.from_bytes(
            hashlib.sha256(f"{scene.seed}|{scene.seconds:.2f}".encode()).digest()[:4], "big"
        )
        haze = (0.25 + 0.75 * soft_noise(drift, size[0], size[1], 4)) * scene.effects.smoke * 0.6
        pixels = pixels * (1 - haze[..., None]) + 186 * haze[..., None]
    warm = centre.temperature
    pixels *= np.asarray((1 + 0.16 * warm, 1.0, 1 - 0.22 * warm), np.float32)
    if centre.noise > 0:
        key = int.from_bytes(
            hashlib.sha256(f"noise|{scene.seed}|{scene.seconds:.2f}".encode()).digest()[:4], "big"
        )
        rng = np.random.default_rng(key)
        pixels += rng.standard_normal((size[1], size[0], 1), dtype=np.float32) * (22 * centre.noise)
    pixels[~visible] = 0
    ids = np.where(visible, ids, 0).astype(np.uint8)
    boxes = tuple(_box(ids == FIRST_INSTRUMENT + i) for i in range(len(scene.instruments)))
    tissues = {name: box for name, i in IDS.items() if (box := _box(ids == i)) is not None}
    return Rendered(np.clip(pixels, 0, 255).astype(np.uint8), boxes, tissues, ids)


def draw_boxes(rendered: Rendered, names: tuple[str, ...]) -> Image.Image:
    """The picture with its instrument boxes and names on it, for people."""
    picture = Image.fromarray(rendered.image)
    pen = ImageDraw.Draw(picture)
    for name, box in zip(names, rendered.instrument_boxes, strict=True):
        if box:
            pen.rectangle(box, outline=(90, 255, 120))
            pen.text((box[0] + 2, box[1] + 1), name, fill=(90, 255, 120))
    return picture
