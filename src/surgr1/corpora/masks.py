"""Masks and polygons to boxes (x1, y1, x2, y2 in pixels, the far edge included)."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.corpora.files import LabelError
from surgr1.corpora.grid import MAX_SOURCE_PIXELS
from surgr1.corpora.schema import Box


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask picture as stored: (height, width), or (height, width, channels) for colour masks; palettes
    give their indices. Raises LabelError naming the file.
    """
    try:
        with Image.open(path) as picture:
            # The checksums, which decoding passes over: every third flipped bit of a PNG file would give
            # other classes unnoticed.
            picture.verify()
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_SOURCE_PIXELS:
                raise LabelError(f"{path}: {picture.width} x {picture.height} pixels are no mask")
            return np.asarray(picture)
    except FileNotFoundError:
        raise LabelError(f"{path}: no such mask; is the download complete?") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise LabelError(f"{path}: not a whole mask ({error}); copy it again from the source") from error


def class_mask(path: Path) -> NDArray[np.uint8]:
    """A mask of class numbers (height, width): one channel, or several equal ones. Raises LabelError."""
    mask = read_mask(path)
    if mask.ndim == 3:
        colours = mask[..., :3]
        if (colours != colours[..., :1]).any():
            raise LabelError(f"{path}: a colour mask, where class numbers are expected")
        mask = mask[..., 0]
    return mask


def mask_box(mask: NDArray[np.bool_]) -> Box | None:
    """The box of all true pixels of a (height, width) mask; None if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def component_boxes(mask: NDArray[np.bool_], *, least: int = 50) -> Iterator[Box]:
    """The box of every connected component (8-neighbours) of at least `least` pixels, in scan order: what
    stands for an instance where a dataset does not separate instances. Two that touch are one.
    """
    from scipy import ndimage

    whole = mask_box(mask)
    if whole is None:
        return
    left, top, right, bottom = (int(v) for v in whole)
    labelled, _ = ndimage.label(mask[top:bottom, left:right], structure=np.ones((3, 3), int))
    sizes = np.bincount(labelled.ravel())
    for number, part in enumerate(ndimage.find_objects(labelled), start=1):
        if part is not None and sizes[number] >= least:
            rows, columns = part
            yield (
                float(left + columns.start),
                float(top + rows.start),
                float(left + columns.stop),
                float(top + rows.stop),
            )


def polygon_box(points: Sequence[Sequence[float]], width: int, height: int) -> Box:
    """The box of a polygon's points (x, y), cut off at the picture's edges. Raises ValueError on fewer than
    three points or an empty box.
    """
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points")
    try:
        xs, ys = [float(p[0]) for p in points], [float(p[1]) for p in points]
    except (TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"a polygon with a point that is not two numbers: {error}") from error
    if not all(map(math.isfinite, (*xs, *ys))):
        raise ValueError("a polygon with a point that is not finite")
    box = max(0.0, min(xs)), max(0.0, min(ys)), min(float(width), max(xs)), min(float(height), max(ys))
    return checked_box(box, width, height)


def checked_box(box: Sequence[Any], width: float, height: float, *, slack: float = 1.0) -> Box:
    """A box of four numbers inside a picture (up to `slack` pixels over an edge are cut off). Raises
    ValueError saying what is wrong.
    """
    try:
        x1, y1, x2, y2 = (float(v) for v in box)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"box {str(box)[:80]} is not four numbers: {error}") from error
    if not (-slack <= x1 < x2 <= width + slack and -slack <= y1 < y2 <= height + slack):
        raise ValueError(f"box {tuple(box)} is empty or leaves the picture of {width} x {height}")
    return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
