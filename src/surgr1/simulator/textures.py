"""Procedural surfaces: soft noise, veins, fat lobes. Cached per operation, so a frame only composes them."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Float = NDArray[np.float32]


def soft_noise(seed: int, width: int, height: int, cells: int) -> Float:
    """Smooth noise in 0-1, shape (height, width): a small random grid, bicubically enlarged."""
    rng = np.random.default_rng(seed)
    rows = max(2, round(cells * height / width))
    grid = Image.fromarray((rng.random((rows, cells)) * 255).astype(np.uint8))
    smooth = np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return smooth / np.float32(255)


@lru_cache(maxsize=96)
def surface(
    seed: int, width: int, height: int, base: tuple[int, int, int], rough: float, veins: float
) -> NDArray[np.uint8]:
    """A tissue surface, uint8 (height, width, 3): `base` colour, `rough` brightness variation, `veins`
    strength of red lines.
    """
    shade = 0.6 * soft_noise(seed, width, height, 6) + 0.4 * soft_noise(seed + 1, width, height, 28) - 0.5
    picture = np.asarray(base, np.float32)[None, None] * (1 + rough * shade[..., None])
    if veins:
        ridge = np.abs(soft_noise(seed + 2, width, height, 9) - soft_noise(seed + 3, width, height, 13))
        line = np.clip(1 - ridge / 0.022, 0, 1) * (soft_noise(seed + 4, width, height, 5) > 0.45)
        picture = (
            picture * (1 - veins * line[..., None])
            + np.asarray((130, 30, 36), np.float32) * veins * line[..., None]
        )
    return np.clip(picture, 0, 255).astype(np.uint8)


@lru_cache(maxsize=48)
def fat_surface(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """Lobulated yellow fat: bright domes with dark seams, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    cells = 22
    rows = max(2, round(cells * height / width))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    gx, gy = x / width * cells, y / height * rows
    ix, iy = gx.astype(int), gy.astype(int)
    jitter = rng.random((rows + 2, cells + 2, 2)).astype(np.float32)
    nearest = np.full((height, width), 9.0, np.float32)
    second = nearest.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            cx, cy = np.clip(ix + dx, 0, cells), np.clip(iy + dy, 0, rows)
            point = jitter[cy, cx]
            distance = np.hypot(gx - (cx + point[..., 0]), gy - (cy + point[..., 1]))
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    dome = np.clip(1.15 - 0.55 * nearest, 0.45, 1.2) * np.clip(0.80 + (second - nearest) * 1.1, 0.80, 1)
    tint = 0.85 + 0.3 * soft_noise(seed + 1, width, height, 5)
    base = np.asarray((224, 166, 84), np.float32)
    lobes = np.clip(base * (dome * tint)[..., None], 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(lobes).filter(ImageFilter.GaussianBlur(width / 450)))
