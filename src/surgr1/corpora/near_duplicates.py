"""Near-duplicate pictures across sources: a second check beside the registry of canonical videos, for
overlaps that no list names (datasets-a.md section 10).

The hash is the DCT hash ("pHash", 64 bits) with two changes for endoscopy. Dark margins are cut off first:
the same frame is released with and without them. The lowest frequency of each direction is left out: it
mostly shows the round field of view, which all operations share.

How far pictures lie apart, measured on the 527 real frames of CholecT50's challenge-validation clips (three
operations) and three of CholecInstanceSeg (a fourth):

- the same picture as JPEG (quality 60), as 512 x 512 or with a margin: at most 4, median 0; as 224 x 224: 996
  of 1,000 within 4;
- 30 % brighter (clipped) or darker: 97 of 100 within 4; 2 % cut off at each side: 79 of 100;
- frames of one operation up to 2 seconds apart: median 22, 14 of 1,000 within 4;
- frames of different operations (90,273 pairs): median 32, none under 12.

So a distance of 4 (`DISTANCE`) finds copies and not resemblance. Simulated pictures of one centre resemble
each other more: of 69,120 pairs of different operations, 9 in 100,000 lie within 4. Hashes have as many ones
as zeros, so that distances are even.

2.75 million hashes against 36,000 take 4 seconds at distance 4 and 19 at 8 on one core (random hashes).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.corpora.grid import open_image
from surgr1.ontology.errors import SurgR1Error

DISTANCE = 4
"""Bits. See above."""
_SIDE = 32
_DARK, _SEEN = 24, 0.02
"""A row or column belongs to the margin where less than this share of its pixels is brighter (of 255)."""
_FLAT = 4.0
"""Grey levels (standard deviation of the reduced picture): black and empty pictures stay below."""
_CHUNKS, _BITS = 4, 16
_CANDIDATES = 1 << 22
"""Compared at once."""


class DistanceError(SurgR1Error):
    """A distance that the search cannot keep exact in reasonable time."""


def phash(path: Path) -> int | None:
    """The hash of a picture, 0 <= hash < 2**64; None for a flat one (black, out of body), which resembles
    every other flat one. Raises ImageError.
    """
    return phash_of(open_image(path))


def phash_of(picture: Image.Image) -> int | None:
    """`phash` of a decoded picture."""
    from scipy.fft import dctn

    grey = picture.convert("L")
    bright = np.asarray(grey) > _DARK
    rows = np.flatnonzero(bright.mean(axis=1) >= _SEEN)
    columns = np.flatnonzero(bright.mean(axis=0) >= _SEEN)
    if not len(rows) or not len(columns):
        return None
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, box=box), np.float32)
    if small.std() < _FLAT:
        return None
    low = dctn(small, norm="ortho")[1:9, 1:9].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


@dataclass(frozen=True)
class Pair:
    """Two pictures `distance` bits apart."""

    train: str
    evaluation: str
    distance: int


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs in the order of the evaluation pictures, nearest first; flat pictures were not compared."""

    pairs: list[Pair]
    flat_train: int
    flat_evaluation: int


def near_duplicates(
    train: Iterable[tuple[str, int | None]],
    evaluation: Iterable[tuple[str, int | None]],
    distance: int = DISTANCE,
) -> NearDuplicates:
    """Every pair of (name, hash) with hashes at most `distance` bits apart.

    Exact, without comparing all pairs (multi-index hashing): of four 16-bit chunks, one differs in at most
    distance // 4 bits, so that looking up every such variant of every chunk meets every pair. Raises
    DistanceError outside 0-15.
    """
    if not 0 <= distance < _BITS:
        raise DistanceError(f"distance {distance}: expected 0-{_BITS - 1} of the 64 bits")
    train_names, train_codes, flat_train = _codes(train)
    names, codes, flat = _codes(evaluation)
    found: dict[tuple[int, int], int] = {}
    for chunk in range(_CHUNKS):
        for rows, columns, apart in _matches(train_codes, codes, chunk, distance):
            found.update(zip(zip(rows.tolist(), columns.tolist(), strict=True), apart.tolist(), strict=True))
    nearest = sorted(found.items(), key=lambda item: (item[0][0], item[1], item[0][1]))
    pairs = [Pair(train_names[t], names[e], bits) for (e, t), bits in nearest]
    return NearDuplicates(pairs, flat_train, flat)


def _codes(pictures: Iterable[tuple[str, int | None]]) -> tuple[list[str], NDArray[np.uint64], int]:
    """(names, hashes) of the pictures that are not flat, and how many are."""
    names: list[str] = []
    codes: list[int] = []
    flat = 0
    for name, code in pictures:
        if code is None:
            flat += 1
        else:
            names.append(name)
            codes.append(code)
    return names, np.array(codes, np.uint64), flat


@lru_cache
def _variants(radius: int) -> tuple[int, ...]:
    """All 16-bit masks with at most `radius` bits."""
    return tuple(
        sum(1 << b for b in bits) for n in range(radius + 1) for bits in combinations(range(_BITS), n)
    )


def _matches(
    train: NDArray[np.uint64], evaluation: NDArray[np.uint64], chunk: int, distance: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """(evaluation index, train index, bits apart) of the pairs that one chunk meets, in pieces."""

    def keys(codes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return ((codes >> np.uint64(_BITS * chunk)) & np.uint64((1 << _BITS) - 1)).astype(np.int64)

    own = keys(train)
    by_key = np.argsort(own, kind="stable")
    sizes = np.bincount(own, minlength=1 << _BITS)
    starts = np.cumsum(sizes) - sizes
    wanted = keys(evaluation)
    for variant in _variants(distance // _CHUNKS):
        key = wanted ^ variant
        many = sizes[key]
        total = np.cumsum(many)
        whole = int(total[-1]) if len(total) else 0
        edges = [*np.searchsorted(total, np.arange(0, whole, _CANDIDATES), "right"), len(key)]
        for low, high in pairwise(edges):
            rows = np.repeat(np.arange(low, high), many[low:high])
            # Place within the bucket: 0, 1, 2, ... anew for every row.
            place = np.arange(len(rows)) - np.repeat(total[low:high] - many[low:high], many[low:high])
            place += total[low] - many[low]
            columns = by_key[np.repeat(starts[key[low:high]], many[low:high]) + place]
            apart = np.bitwise_count(train[columns] ^ evaluation[rows])
            near = apart <= distance
            yield rows[near], columns[near], apart[near]
