"""A picture and, drawn in step with it, the mask of what each pixel shows: boxes and visibility follow by
construction.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from surgr1.simulator.scene import Centre, Point

SUPERSAMPLE = 2
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


def smooth(points: Sequence[Point], *, closed: bool = True, steps: int = 6) -> list[Point]:
    """Catmull-Rom curve through the points."""
    count = len(points)
    curve: list[Point] = []
    spans = count if closed else count - 1
    for i in range(spans):
        p0, p1, p2, p3 = (
            points[(i + k) % count] if closed else points[min(max(i + k, 0), count - 1)]
            for k in (-1, 0, 1, 2)
        )
        for s in range(steps):
            t = s / steps
            curve.append(
                (
                    0.5
                    * (
                        2 * p1[0]
                        + (p2[0] - p0[0]) * t
                        + (2 * p0[0] - 5 * p1[0] + 4 * p2[0] - p3[0]) * t**2
                        + (3 * p1[0] - p0[0] - 3 * p2[0] + p3[0]) * t**3
                    ),
                    0.5
                    * (
                        2 * p1[1]
                        + (p2[1] - p0[1]) * t
                        + (2 * p0[1] - 5 * p1[1] + 4 * p2[1] - p3[1]) * t**2
                        + (3 * p1[1] - p0[1] - 3 * p2[1] + p3[1]) * t**3
                    ),
                )
            )
    if not closed:
        curve.append(points[-1])
    return curve


class Canvas:
    """Draws in scene coordinates (fractions of the picture, after the centre's mirror, zoom and roll)."""

    def __init__(self, centre: Centre, seed: int) -> None:
        self.width, self.height = (v * SUPERSAMPLE for v in centre.size)
        self.seed = seed
        self.image = Image.new("RGB", (self.width, self.height), (60, 20, 20))
        self.ids = Image.new("L", (self.width, self.height), 0)
        # Light and shade are collected at quarter size: they are blurred anyway, and a blur costs by the
        # pixel.
        self._small = (self.width // 4, self.height // 4)
        self.gloss = Image.new("L", self._small, 0)
        self.shade = Image.new("L", self._small, 0)
        self._mirror, self._zoom = centre.mirrored, centre.zoom
        self._cos, self._sin = math.cos(centre.roll), math.sin(centre.roll)
        self.unit = 0.105 * self.width * centre.zoom

    def px(self, point: Point) -> Point:
        """Scene coordinates to pixels of the supersampled picture."""
        x = (1 - point[0] if self._mirror else point[0]) - 0.5
        y = (point[1] - 0.5) * self.height / self.width
        x, y = x * self._cos - y * self._sin, x * self._sin + y * self._cos
        return (0.5 + x * self._zoom) * self.width, self.height / 2 + y * self._zoom * self.width

    def polygon(
        self, points: Sequence[Point], fill: Colour | NDArray[np.uint8], ident: int | None, alpha: float = 1.0
    ) -> None:
        """Fill a polygon given in scene coordinates with a colour or a full-size texture. `ident` None leaves
        the mask as it is.
        """
        self.polygon_px([self.px(p) for p in points], fill, ident, alpha)

    def polygon_px(
        self, points: Sequence[Point], fill: Colour | NDArray[np.uint8], ident: int | None, alpha: float = 1.0
    ) -> None:
        """The same in pixels."""
        if isinstance(fill, tuple) and alpha >= 1:
            ImageDraw.Draw(self.image).polygon(list(points), fill=fill)
        else:
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
            right, bottom = min(self.width, math.ceil(max(xs)) + 1), min(self.height, math.ceil(max(ys)) + 1)
            if left >= right or top >= bottom:
                return
            mask = Image.new("L", (right - left, bottom - top), 0)
            ImageDraw.Draw(mask).polygon(
                [(x - left, y - top) for x, y in points], fill=round(255 * min(1.0, alpha))
            )
            patch = fill if isinstance(fill, tuple) else Image.fromarray(fill[top:bottom, left:right])
            self.image.paste(patch, (left, top, right, bottom), mask)
        if ident is not None and alpha > 0.35:
            ImageDraw.Draw(self.ids).polygon(list(points), fill=ident)

    def line(self, points: Sequence[Point], fill: Colour, width: float, ident: int | None) -> None:
        """A stroke of `width` (fraction of the picture's width) through scene points."""
        self.line_px([self.px(p) for p in points], fill, width * self.width * self._zoom, ident)

    def line_px(self, points: Sequence[Point], fill: Colour, width: float, ident: int | None) -> None:
        """The same in pixels."""
        thick = max(1, round(width))
        ImageDraw.Draw(self.image).line(list(points), fill=fill, width=thick, joint="curve")
        if ident is not None:
            ImageDraw.Draw(self.ids).line(list(points), fill=ident, width=thick, joint="curve")

    def tube(self, points: Sequence[Point], fill: Colour, width: float, ident: int | None) -> None:
        """A round tube: dark rim, body, light ridge."""
        dark = (fill[0] * 6 // 10, fill[1] * 5 // 10, fill[2] * 5 // 10)
        light = (min(255, fill[0] + 46), min(255, fill[1] + 46), min(255, fill[2] + 42))
        self.line(points, dark, width, ident)
        self.line(points, fill, width * 0.74, None)
        self.line([(x - width * 0.12, y - width * 0.2) for x, y in points], light, width * 0.2, None)

    def disc(
        self,
        centre: Point,
        radius: float,
        fill: Colour | NDArray[np.uint8],
        ident: int | None,
        alpha: float = 1.0,
        squash: float = 1.0,
    ) -> None:
        """A disc of `radius` (fraction of the width); `squash` < 1 flattens it."""
        aspect = self.width / self.height
        points = [
            (centre[0] + radius * math.cos(a), centre[1] + radius * aspect * squash * math.sin(a))
            for a in (i * math.tau / 24 for i in range(24))
        ]
        self.polygon(points, fill, ident, alpha)

    def highlight(self, centre: Point, radius: float, strength: float = 1.0, squash: float = 0.5) -> None:
        """A wet reflection, applied blurred by `finish`."""
        x, y = (v / 4 for v in self.px(centre))
        r = radius * self._small[0] * self._zoom
        ImageDraw.Draw(self.gloss).ellipse(
            (x - r, y - r * squash, x + r, y + r * squash), fill=round(255 * strength)
        )

    def shadow_px(self, points: Sequence[Point], strength: float) -> None:
        """Darken what lies under a polygon in pixels (soft, offset to the lower right)."""
        ImageDraw.Draw(self.shade).polygon(
            [(x / 4 + 3, y / 4 + 4) for x, y in points], fill=round(255 * strength)
        )

    def apply_shade(self) -> None:
        """Put the collected shadows on what is drawn so far."""
        soft = self.shade.filter(ImageFilter.GaussianBlur(3)).resize(
            self.image.size, Image.Resampling.BILINEAR
        )
        self.image.paste((12, 4, 4), (0, 0), soft)
        self.shade = Image.new("L", self._small, 0)

    def apply_gloss(self) -> None:
        """Put the collected reflections on."""
        soft = self.gloss.filter(ImageFilter.GaussianBlur(1.2)).resize(
            self.image.size, Image.Resampling.BILINEAR
        )
        self.image.paste((255, 250, 244), (0, 0), soft)
        self.gloss = Image.new("L", self._small, 0)
