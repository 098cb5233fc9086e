"""What every metric is made of: ratios, schemes over columns of statistics, sums by video.

A metric is a function of additive statistics, (..., D) -> (...). Statistics are computed per video, shape
(V, D); the point estimate sums the videos, a bootstrap draw sums its resampled ones (weights @ statistics).
Nothing else may enter a metric, so every metric has an interval and shards merge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.ontology.errors import SurgR1Error

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Marks = NDArray[np.bool_]
Rows = NDArray[Any]
Metric = Callable[[Array], Array]
Statistics = Callable[[Rows, Ints, Sequence[str]], Array]


class MetricError(SurgR1Error):
    """Rows that a metric can't be computed from; names the video or label."""


@dataclass(frozen=True)
class Scheme:
    """A family of metrics over one layout of `width` columns of statistics.

    `floors` maps a metric's name to what the best constant answer scores on the same statistics (for mean
    average precision: what predicting nothing scores), `chance` to the expectation of uniform guessing.
    Values are shares (1 is perfect), except standard deviations, biases and counts per frame.
    """

    metrics: Mapping[str, Metric]
    floors: Mapping[str, Metric]
    width: int
    chance: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A scheme with its reduction. `statistics(rows, videos, names)` reduces encoded rows (N, W) to
    (V, width); `videos` (N,) holds positions in `names`.
    """

    scheme: Scheme
    statistics: Statistics


def ratio(a: Array, b: Array) -> Array:
    """a / b with 0 / 0 := 0, as the paper's tables have it (evaluation.md B0)."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), np.shape(b))), where=b > 0)


def defined(a: Array, b: Array) -> Array:
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(np.broadcast_shapes(np.shape(a), np.shape(b)), np.nan), where=b > 0)


def mean_defined(values: Array) -> Array:
    """Mean over the last axis without NaN entries; NaN if all are."""
    seen = ~np.isnan(values)
    return defined(np.where(seen, values, 0.0).sum(-1), seen.sum(-1).astype(np.float64))


def column(k: int) -> Metric:
    """Column k per unit of column 0."""
    return lambda s: ratio(s[..., k], s[..., 0])


def constant(value: float) -> Metric:
    """The same value whatever the statistics."""
    return lambda s: np.full(s.shape[:-1], value)


def spread(total: Array, squares: Array, n: Array, *, sample: bool) -> Array:
    """Standard deviation from sums: divided by n - 1 (`sample`, as MATLAB) or by n (as numpy). NaN when
    there are too few values.
    """
    mean = defined(total, n)
    deviations = np.maximum(squares - n * np.nan_to_num(mean) ** 2, 0.0)
    return np.sqrt(defined(deviations, n - 1 if sample else n))


def join(*schemes: Scheme) -> Scheme:
    """One scheme over the columns of several, side by side. Metric names must differ."""
    metrics: dict[str, Metric] = {}
    floors: dict[str, Metric] = {}
    chance: dict[str, Metric] = {}
    start = 0
    for scheme in schemes:
        if twice := metrics.keys() & scheme.metrics.keys():
            raise ValueError(f"two schemes have the metrics {sorted(twice)}")
        part = slice(start, start + scheme.width)
        for found, into in ((scheme.metrics, metrics), (scheme.floors, floors), (scheme.chance, chance)):
            into.update({name: _on(part, metric) for name, metric in found.items()})
        start += scheme.width
    return Scheme(metrics, floors, start, chance)


def _on(part: slice, metric: Metric) -> Metric:
    return lambda s: metric(s[..., part])


def by_video(values: Rows, videos: Ints, count: int) -> Array:
    """Sums of (N, C) values per video: (count, C)."""
    order = np.argsort(videos, kind="stable")
    sizes = np.bincount(videos, minlength=count)
    sums = np.zeros((count, values.shape[1]))
    if len(values):
        starts = np.cumsum(sizes) - sizes
        filled = sizes > 0
        sums[filled] = np.add.reduceat(values[order], starts[filled], axis=0, dtype=np.float64)
    return sums


def marks_by_video(marks: Marks, videos: Ints, count: int) -> Array:
    """Numbers of set marks per video and class: (N, C) -> (count, C). Quick where marks are rare."""
    width = marks.shape[1]
    # Flat indices: numpy finds the true entries of a flat array several times quicker than of rows.
    cells = np.flatnonzero(marks)
    sums = np.bincount(
        cells + (videos - np.arange(len(videos)))[cells // width] * width, minlength=count * width
    )
    return sums.reshape(count, width).astype(np.float64)
