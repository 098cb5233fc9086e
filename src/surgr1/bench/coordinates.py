"""Boxes from the frame a model answers in to pixels of the stored picture (evaluation.md B5). The frame is a
property of the model, said by its card, never guessed from the numbers.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from surgr1.corpora.schema import Box

Coordinates = Literal["grid", "thousand", "thousand_yx", "stored", "unit"]
"""grid: pixels of the picture as the processor resized it (Qwen2.5-VL). thousand: 0 to 1000 of width and
height (Qwen2-VL, Qwen3-VL, InternVL). thousand_yx: the same, y before x (Gemini). stored: pixels of the
stored picture. unit: 0 to 1.
"""
Size = tuple[int, int]
"""Width and height in pixels."""

EXAMPLES: Mapping[Coordinates, str] = MappingProxyType(
    {
        "grid": "(120,84),(252,196)",
        "thousand": "(120,300),(410,620)",
        "thousand_yx": "[300, 120, 620, 410]",
        "stored": "(120,84),(252,196)",
        "unit": "(0.12,0.30),(0.41,0.62)",
    }
)
"""How a box is written in each frame."""


def to_stored(box: Box, coordinates: Coordinates, *, size: Size, grid: Size) -> Box | None:
    """A box in pixels of the stored picture, corners in order, clipped to the picture; None when no area is
    left inside it.

    `box` are the four numbers in the order in which the model wrote them, `size` the stored picture, `grid`
    the picture that the model was shown.
    """
    a, b, c, d = box
    if coordinates == "thousand_yx":
        a, b, c, d = b, a, d, c
    width, height = {"grid": grid, "stored": size, "unit": (1, 1)}.get(coordinates, (1000, 1000))
    xs = sorted(min(max(x * size[0] / width, 0.0), float(size[0])) for x in (a, c))
    ys = sorted(min(max(y * size[1] / height, 0.0), float(size[1])) for y in (b, d))
    return (xs[0], ys[0], xs[1], ys[1]) if xs[0] < xs[1] and ys[0] < ys[1] else None
