"""The final image grid: every image is resized once, to multiples of 28 pixels inside the token budget
(design.md, Image grid).
"""

import hashlib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from surgr1.ontology.errors import SurgR1Error

FACTOR = 28
"""Pixels per merged image token: patch 14, merge 2 (Qwen2.5-VL)."""
MAX_SOURCE_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded (decompression bombs); 8K video has 33 million."""


class ImageError(SurgR1Error):
    """A missing, truncated or absurdly large picture."""


@dataclass(frozen=True)
class PreparedImage:
    """A picture on its final grid. Sizes in pixels."""

    path: Path
    width: int
    height: int
    original_width: int
    original_height: int


def fit_grid(width: int, height: int, *, min_tokens: int, max_tokens: int) -> tuple[int, int]:
    """(width, height) on the grid: multiples of 28, area within the budget, aspect kept as closely as that
    allows.

    The rule is Qwen2.5-VL's `smart_resize` with min_pixels = 784 * min_tokens and max_pixels = 784 *
    max_tokens. Raises ImageError when one side is over 200 times the other, as Qwen's does.
    """
    if max(width, height) > 200 * min(width, height):
        raise ImageError(
            f"a picture of {width} x {height} pixels is too elongated (sides may differ 200-fold)"
        )
    low, high = min_tokens * FACTOR**2, max_tokens * FACTOR**2
    w, h = (max(FACTOR, round(v / FACTOR) * FACTOR) for v in (width, height))
    if w * h > high:
        beta = math.sqrt(width * height / high)
        w, h = (max(FACTOR, math.floor(v / beta / FACTOR) * FACTOR) for v in (width, height))
    elif w * h < low:
        beta = math.sqrt(low / (width * height))
        w, h = (math.ceil(v * beta / FACTOR) * FACTOR for v in (width, height))
    return w, h


def _refuse_absurd(path: Path, picture: Image.Image) -> None:
    if picture.width * picture.height > MAX_SOURCE_PIXELS:
        raise ImageError(
            f"{path}: {picture.width} x {picture.height} pixels is over the limit of {MAX_SOURCE_PIXELS}"
        )


def open_image(path: Path) -> Image.Image:
    """Decode a picture to RGB. Raises ImageError naming the file when it is missing, truncated or too
    large.
    """
    try:
        with Image.open(path) as picture:
            _refuse_absurd(path, picture)
            return picture.convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"{path}: no such picture; is the dataset complete?") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a whole picture ({error}); copy it again from the source") from error


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header. Raises ImageError."""
    try:
        with Image.open(path) as picture:
            _refuse_absurd(path, picture)
            return picture.size
    except FileNotFoundError:
        raise ImageError(f"{path}: no such picture; is the dataset complete?") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: not a picture ({error}); copy it again from the source") from error


def prepare_image(path: Path, cache: Path, *, min_tokens: int, max_tokens: int) -> PreparedImage:
    """The picture resized to its grid as a PNG in `cache`, made once: the name is a hash of the file's bytes
    and the budget.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from error
    width, height = image_size(path)
    w, h = fit_grid(width, height, min_tokens=min_tokens, max_tokens=max_tokens)
    name = hashlib.sha256(data + f"|{w}x{h}".encode()).hexdigest()[:32]
    target = cache / name[:2] / f"{name}.png"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Two processes may prepare the same picture: each writes its own file.
        part = target.with_suffix(f".{os.getpid()}.part")
        open_image(path).resize((w, h), Image.Resampling.BICUBIC).save(part, format="PNG", compress_level=1)
        part.replace(target)
    return PreparedImage(target, w, h, width, height)


_CORNERS = re.compile(r"\((-?\d+),(-?\d+)\),\((-?\d+),(-?\d+)\)")


def scale_boxes_in_text(text: str, source: tuple[int, int], target: tuple[int, int]) -> str:
    """Rewrite every "(x1,y1),(x2,y2)" from pixels of a `source`-sized picture (width, height) to pixels of a
    `target`-sized one.
    """
    sx, sy = target[0] / source[0], target[1] / source[1]

    def scaled(match: re.Match[str]) -> str:
        x1, y1, x2, y2 = (int(g) for g in match.groups())
        return f"({round(x1 * sx)},{round(y1 * sy)}),({round(x2 * sx)},{round(y2 * sy)})"

    return _CORNERS.sub(scaled, text)
