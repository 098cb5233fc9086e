"""Average precision of triplets and their components (evaluation.md B1, findings 4 and 5).

Definitions follow ivtmetrics' `Recognition`: scikit-learn's step-wise AP without interpolation, a component's
score is the largest among its triplets, video-wise means skip videos without the class. Unlike the package
(0.1.5 under scikit-learn >= 1.6) a class without a positive is NaN, never 0.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from surgr1.bench.metrics.base import Array, Ints, Marks, MetricError, marks_by_video, mean_defined
from surgr1.ontology.vocabularies import triplet_parts, vocabulary

Component = Literal["ivt", "i", "v", "t", "iv", "it"]
COMPONENTS: tuple[Component, ...] = ("ivt", "i", "v", "t", "iv", "it")
NULLS = 6
"""The last six of CholecT50's 100 classes are (instrument, null verb, null target)."""


@lru_cache
def class_map(component: Component) -> Ints:
    """Which class of the component each of the 100 triplets belongs to: (100,), classes counted from 0 in
    the order of the vocabularies; pairs in the order of their first, then their second part.
    """
    parts = [triplet_parts(name) for name in vocabulary("cholect50", "triplet").names]
    names = [vocabulary("cholect50", kind).names for kind in ("tool", "verb", "target")]
    i, v, t = (np.asarray([names[k].index(p[k]) for p in parts]) for k in range(3))
    keys = {
        "ivt": np.arange(len(parts)),
        "i": i,
        "v": v,
        "t": t,
        "iv": i * len(names[1]) + v,
        "it": i * len(names[2]) + t,
    }
    found: Ints = np.unique(keys[component], return_inverse=True)[1].astype(np.int64)
    found.flags.writeable = False
    return found


def extract(values: NDArray[np.generic], component: Component) -> NDArray[np.generic]:
    """(N, 100) marks or scores of triplets -> (N, C) of the component, the largest among its triplets."""
    if component == "ivt":
        return values
    classes = class_map(component)
    if values.dtype == np.bool_:
        # By sums of marks: a product is several times quicker than a maximum by groups.
        return values.astype(np.float32) @ np.eye(classes.max() + 1, dtype=np.float32)[classes] > 0
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(classes.max() + 1))
    found: NDArray[np.generic] = np.maximum.reduceat(values[:, order], starts, axis=1)
    return found


def from_counts(hits: Array, claimed: Array, positives: Array, n: Array) -> Array:
    """AP of 0/1 predictions from counts, R P + (1 - R) prevalence (evaluation.md finding 5); NaN without a
    positive. Equals scikit-learn's step-wise AP: there are only two thresholds.
    """
    shape = np.broadcast_shapes(hits.shape, n.shape)
    recall = np.divide(hits, positives, out=np.full(shape, np.nan), where=positives > 0)
    precision = np.divide(hits, claimed, out=np.zeros(shape), where=claimed > 0)
    prevalence = np.divide(positives, n, out=np.zeros(shape), where=n > 0)
    return recall * precision + (1 - recall) * prevalence


def average_precision(truth: Marks, predicted: Marks) -> Array:
    """AP of 0/1 predictions per class: (frames, classes) -> (classes,); NaN without a positive."""
    hits, claimed, positives = (x.sum(0).astype(np.float64) for x in (truth & predicted, predicted, truth))
    return from_counts(hits, claimed, positives, np.asarray(float(len(truth))))


@dataclass(frozen=True)
class MeanAveragePrecision:
    """`value` is the mean over `classes` (C,) without NaN; NaN if no class has a positive."""

    value: float
    classes: Array


def mean_average_precision(
    targets: NDArray[np.generic],
    scores: NDArray[np.generic],
    videos: Ints | None = None,
    component: Component = "ivt",
    ignore_null: bool = False,
) -> MeanAveragePrecision:
    """mAP of (N, 100) 0/1 `targets` and `scores` (0/1 or graded; equal scores are one step).

    With `videos` (N,), codes counted from 0, video-wise: a class's AP is the mean over the videos that have
    it. Without, global: all frames in one pool. `ignore_null` leaves out the six null triplets, of "ivt"
    only, as ivtmetrics does. Raises MetricError for shapes that don't fit and for scores that aren't numbers.
    """
    width = len(class_map("ivt"))
    if targets.shape != scores.shape or targets.ndim != 2 or targets.shape[1] != width:
        raise MetricError(f"targets {targets.shape} and scores {scores.shape} must both be (N, {width})")
    if videos is None:
        videos = np.zeros(len(targets), np.int64)
    if videos.shape != (len(targets),):
        raise MetricError(f"videos {videos.shape} must be ({len(targets)},)")
    marks = extract(targets.astype(bool, copy=False), component).astype(bool, copy=False)
    if scores.dtype != np.bool_ and not np.isfinite(scores).all():
        raise MetricError("scores must be finite numbers; give an unanswered frame 0 for every class")
    given = extract(scores, component)
    count = int(videos.max()) + 1 if len(videos) else 0
    if given.dtype == np.bool_:
        per_video = _binary(marks, given.astype(bool, copy=False), videos, count)
    else:
        per_video = _graded(marks, given, videos, count)
    classes = mean_defined(per_video.T)
    if ignore_null and component == "ivt":
        classes = classes[:-NULLS]
    return MeanAveragePrecision(float(mean_defined(classes)), classes)


def _binary(truth: Marks, predicted: Marks, videos: Ints, count: int) -> Array:
    """(count, C) from counts."""
    hits, claimed, positives = (
        marks_by_video(x, videos, count) for x in (truth & predicted, predicted, truth)
    )
    frames = np.bincount(videos, minlength=count)[:, None].astype(np.float64)
    return from_counts(hits, claimed, positives, frames)


def _graded(truth: Marks, scores: NDArray[np.generic], videos: Ints, count: int) -> Array:
    """(count, C). AP = mean over positives of the precision among all frames that score at least as much."""
    classes = truth.shape[1]
    found = np.full((count, classes), np.nan)
    if np.any(np.diff(videos) < 0):
        order = np.argsort(videos, kind="stable")
        truth, scores, videos = truth[order], scores[order], videos[order]
    edges = np.searchsorted(videos, np.arange(count + 1))
    for v in range(count):
        first, last = edges[v], edges[v + 1]
        frames, labels = np.divmod(np.flatnonzero(truth[first:last]), classes)
        frames = frames[np.argsort(labels, kind="stable")]
        ends = np.cumsum(np.bincount(labels, minlength=classes))
        columns = np.empty((_LINE, last - first), scores.dtype)
        for c in range(classes):
            if c % _LINE == 0:
                some = scores[first:last, c : c + _LINE].T
                columns[: len(some)] = some
            mine = frames[ends[c - 1] if c else 0 : ends[c]]
            if len(mine):
                found[v, c] = _step_wise(columns[c % _LINE], mine)
    return found


_LINE = 8
"""Columns read together: a cache line of a row holds that many scores."""


def _step_wise(scores: NDArray[np.generic], positives: Ints) -> float:
    """AP of one class from all frames' scores and the places of its positives (at least one)."""
    true = scores[positives]
    true.sort()
    lowest = true[0]
    # What scores below the lowest positive doesn't matter and its ties are counted, so only the rest is
    # sorted; where most scores are 0, that is little.
    above = scores[scores > lowest]
    above.sort()
    claimed = len(above) - above.searchsorted(true)
    ties = true.searchsorted(lowest, "right")
    claimed[:ties] = np.count_nonzero(scores >= lowest)
    hits = len(true) - true.searchsorted(true)
    return float((hits / claimed).sum() / len(true))
