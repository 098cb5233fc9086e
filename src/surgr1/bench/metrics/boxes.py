"""Localisation by one box per question (evaluation.md B5). IoU is continuous, without + 1."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgr1.bench.metrics.base import (
    Array,
    Family,
    Ints,
    Metric,
    MetricError,
    Rows,
    Scheme,
    by_video,
    column,
    mean_defined,
    ratio,
)

_THRESHOLDS = (0.3, 0.5, 0.75)
_TIED = (0.5, 0.75)


def clean_boxes(boxes: NDArray[np.generic], sizes: NDArray[np.generic]) -> Array:
    """(N, 4) x1, y1, x2, y2 with corners in order, clipped to pictures of `sizes` (N, 2) w, h; a row of NaN
    where no area is left or nothing was given (NaN).
    """
    raw = np.asarray(boxes, np.float64).reshape(-1, 4)
    edges = np.asarray(sizes, np.float64).reshape(-1, 2)
    corners = np.minimum(np.maximum(np.sort(raw.reshape(-1, 2, 2), axis=1), 0), edges[:, None])
    flat = corners.reshape(-1, 4)
    good = (flat[:, 2] > flat[:, 0]) & (flat[:, 3] > flat[:, 1]) & np.isfinite(raw).all(1)
    return np.where(good[:, None], flat, np.nan)


def overlaps(a: Array, b: Array) -> Array:
    """IoU of (N, 4) boxes pair by pair: (N,); 0 where either is NaN."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
    return ratio(np.nan_to_num(shared), np.nan_to_num(union))


def encode_boxes(
    truth: NDArray[np.generic],
    prediction: NDArray[np.generic],
    classes: Sequence[int] | Ints,
    sizes: NDArray[np.generic],
) -> Rows:
    """Rows (N, 4): IoU, class, whether there is a box, IoU of the whole picture with the true box.

    `truth`, `prediction` (N, 4) in pixels of pictures of `sizes` (N, 2); a prediction of NaN is no valid
    answer and has IoU 0. Predicted boxes are cleaned first. Raises MetricError for a true box without area.
    """
    edges = np.asarray(sizes, np.float64).reshape(-1, 2)
    right, ours = clean_boxes(truth, edges), clean_boxes(prediction, edges)
    if len(right) and np.isnan(right).any():
        row = int(np.isnan(right).any(1).argmax())
        raise MetricError(f"the true box of row {row} has no area in its picture: {np.asarray(truth)[row]}")
    whole = np.concatenate([np.zeros_like(edges), edges], 1)
    named = np.asarray(classes, np.float64)
    return np.stack([overlaps(right, ours), named, ~np.isnan(ours[:, 0]), overlaps(right, whole)], 1)


def boxes(classes: int) -> Scheme:
    """Metrics of one box per question.

    `miou`; `acc30`, `acc50`, `acc75` (share with IoU >= t; a missing box has IoU 0); `ap_tied50`,
    `ap_tied75`: mean over the `classes` with questions of P x the share of the 101 recall points <= R, all
    score-less boxes of a class being one threshold group, so the order of questions doesn't matter. Floors:
    answering the whole picture always.

    Columns: n; IoU, hits at 0.3, 0.5, 0.75; the same of the whole picture; then per class questions, boxes
    answered, hits at 0.5, hits at 0.75.
    """

    def tied(threshold: int) -> Metric:
        def metric(s: Array) -> Array:
            n, given, hits = (s[..., 9 + k * classes : 9 + (k + 1) * classes] for k in (0, 1, 2 + threshold))
            points = np.floor(100 * ratio(hits, n) + 1e-9) + 1
            return mean_defined(np.where(n > 0, ratio(hits, given) * points / 101, np.nan))

        return metric

    names = ("miou", "acc30", "acc50", "acc75")
    metrics: dict[str, Metric] = {name: column(1 + k) for k, name in enumerate(names)}
    floors: dict[str, Metric] = {name: column(5 + k) for k, name in enumerate(names)}
    metrics |= {"ap_tied50": tied(0), "ap_tied75": tied(1)}
    return Scheme(metrics, floors, 9 + 4 * classes)


def box_questions(classes: int) -> Family:
    """Boxes with their reduction; rows from `encode_boxes`."""

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        iou, named, given, whole = rows.T
        if len(rows) and (named.min() < 0 or named.max() >= classes):
            raise MetricError(f"classes must be 0..{classes - 1}, found {named.min():g}..{named.max():g}")
        hit = [iou >= t for t in _THRESHOLDS]
        values = [np.ones(len(rows)), iou, *hit, whole, *(whole >= t for t in _THRESHOLDS)]
        one = np.eye(classes)[named.astype(np.int64)]
        per_class = [one, one * given[:, None], *(one * (iou >= t)[:, None] for t in _TIED)]
        return by_video(np.concatenate([np.stack(values, 1), *per_class], 1), videos, len(names))

    return Family(boxes(classes), statistics)


@dataclass(frozen=True)
class OrderedPrecision:
    """COCO AP of boxes without scores. `ap` (mean over IoU 0.50:0.05:0.95), `ap50`, `ap75` with images in
    the given order; `low` and `high` are the extremes of (ap, ap50, ap75) over shuffled orders.
    """

    ap: float
    ap50: float
    ap75: float
    low: tuple[float, float, float]
    high: tuple[float, float, float]


def coco_ap_ordered(
    truth: Array,
    prediction: Array,
    classes: Sequence[int] | Ints,
    images: Sequence[int] | Ints,
    *,
    shuffles: int = 20,
    seed: int = 0,
) -> OrderedPrecision:
    """COCO's AP with all scores equal, for comparison only: ties are broken by the order of images, so the
    same boxes have a range of values (evaluation.md finding 6). `truth`, `prediction` (N, 4), NaN for no box;
    a class is asked for once per image, so that a box is right where its IoU reaches the threshold. Not
    additive, so it has no bootstrap interval. In 0..1; NaN without a question. Raises MetricError for a class
    asked for twice in an image.
    """
    iou = overlaps(truth, prediction)
    given = ~np.isnan(prediction[:, 0])
    named, pictures = np.asarray(classes, np.int64), np.asarray(images, np.int64)
    if len(np.unique(np.stack([named, pictures], 1), axis=0)) < len(named):
        raise MetricError("a class is asked for twice in one image; COCO would match the boxes among them")
    present = np.unique(named)
    numbers, places = np.unique(pictures, return_inverse=True)

    def values(rank: Ints) -> tuple[float, float, float]:
        order = np.argsort(rank[places], kind="stable")
        per_class = [
            _ordered_curve(iou[order][mine & given[order]], int(mine.sum()))
            for mine in (named[order] == c for c in present)
        ]
        means = np.mean(per_class, axis=0) if per_class else np.full(len(_COCO), np.nan)
        return float(means.mean()), float(means[0]), float(means[5])

    kept = values(np.arange(len(numbers)))
    rng = np.random.default_rng(seed)
    shuffled = [kept, *(values(rng.permutation(len(numbers))) for _ in range(shuffles))]
    lows, highs = (tuple(map(pick, zip(*shuffled, strict=True))) for pick in (min, max))
    return OrderedPrecision(*kept, lows, highs)


_COCO = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


def _ordered_curve(iou: Array, questions: int) -> Array:
    """AP of one class at each of COCO's ten thresholds: mean over 101 recalls of the best precision at that
    recall or beyond; `iou` (boxes,) in the order of the list.
    """
    right = iou[None, :] >= _COCO[:, None]
    hits = np.cumsum(right, axis=1)
    precision = hits / np.arange(1, len(iou) + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([envelope, np.zeros((len(_COCO), 1))], 1)
    # COCO compares these floating-point recalls as they are.
    at = [np.searchsorted(h / questions, _RECALLS, "left") for h in hits]
    found: Array = np.stack([row[a] for row, a in zip(padded, at, strict=True)]).mean(1)
    return found
