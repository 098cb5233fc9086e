"""Sets of labels per frame: exactness, overlap, F1 and average precision (evaluation.md B1).

Rows are marks (N, K) of a fixed list of K classes in truth and answer, the number of answered labels outside
the list, and whether the frame has a valid answer at all. Triplets and their components are such sets.
"""

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np

from surgr1.bench.metrics.base import (
    Array,
    Family,
    Ints,
    Marks,
    Metric,
    MetricError,
    Rows,
    Scheme,
    by_video,
    column,
    defined,
    join,
    marks_by_video,
    mean_defined,
    ratio,
)
from surgr1.bench.metrics.precision import from_counts

Key = TypeVar("Key", bound=Hashable)
_READINGS = ("n", "set", "any", "jaccard", "hits", "truth", "claimed", "cardinality")
_CONSTANT = ("set", "any", "jaccard", "hits")


def distinct(items: Sequence[Key]) -> tuple[list[Key], Ints]:
    """The different items and each item's place among them, so that each is encoded once."""
    index: dict[Key, int] = {}
    places = np.fromiter((index.setdefault(x, len(index)) for x in items), np.int64, len(items))
    return list(index), places


def encode_sets(sets: Sequence[frozenset[str] | None], classes: Sequence[str]) -> tuple[Marks, Ints, Marks]:
    """(marks (N, K), number of labels outside the list (N,), whether there is an answer (N,))."""
    index = {c: i for i, c in enumerate(classes)}
    unique, places = distinct(sets)
    marks, outside = np.zeros((len(unique), len(classes)), bool), np.zeros(len(unique), np.int64)
    for row, labels in enumerate(unique):
        for label in labels or ():
            if label in index:
                marks[row, index[label]] = True
            else:
                outside[row] += 1
    answered = np.asarray([s is not None for s in unique], bool)
    return marks[places], outside[places], answered[places]


def modal_marks(truth: Marks) -> Marks:
    """The most frequent row of marks (K,), the constant answer that is right most often; in a tie the one
    with the smallest bit pattern, so that the order of frames doesn't matter.
    """
    if not len(truth):
        return np.zeros(truth.shape[1], bool)
    packed = np.packbits(truth, axis=1)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    codes = np.zeros(len(truth), np.int64)
    for word in np.ascontiguousarray(padded).view(">u8").T:
        values, places = np.unique(word.astype(np.uint64), return_inverse=True)
        codes = np.unique(codes * len(values) + places, return_inverse=True)[1]
    found: Marks = truth[int((codes == np.bincount(codes).argmax()).argmax())]
    return found


def readings_columns(
    truth: Marks, predicted: Marks, outside: Ints, answered: Marks, videos: Ints, count: int
) -> Array:
    """(V, 12) sums of `_READINGS`: frames; answers with the exact set, with any true label, their Jaccard
    index; true labels found, true labels, labels claimed; answers of the right size. Then `_CONSTANT`: the
    same of answering the most frequent true set always. An empty set answered as empty is exact.
    """
    true, claimed = np.count_nonzero(truth, axis=1), np.count_nonzero(predicted, axis=1) + outside
    hits = np.count_nonzero(truth & predicted, axis=1)
    modal = modal_marks(truth)
    modal_hits = np.count_nonzero(truth[:, modal], axis=1)
    values = [
        np.ones(len(truth)),
        *(answered * x for x in _overlap(hits, true, claimed)),
        hits,
        true,
        claimed,
        answered & (true == claimed),
        *_overlap(modal_hits, true, np.full_like(true, modal.sum())),
        modal_hits,
    ]
    return by_video(np.stack(values, 1).astype(np.float64), videos, count)


def _overlap(hits: Ints, true: Ints, claimed: Ints) -> tuple[Marks, Marks, Array]:
    """Whether the set is exact, whether any label is right, the Jaccard index; (N,) each."""
    union = true + claimed - hits
    return union == hits, (hits > 0) | (union == 0), np.where(union == 0, 1.0, hits / np.maximum(union, 1))


def readings(names: dict[str, str]) -> Scheme:
    """The readings of "accuracy" (A1 `set`, A2 `any`, A3 `instance`, A4 `jaccard`), `micro_f1`,
    `cardinality` (rate of answers of the right size), `hallucinated` and `missed` labels per frame, under
    the metric names given for them. Floors of A1-A4: the most frequent true set always.
    """
    at = {name: k for k, name in enumerate(_READINGS)}
    always = {name: len(_READINGS) + k for k, name in enumerate(_CONSTANT)}

    def quotient(over: str, below: str) -> Metric:
        return lambda s: ratio(s[..., at[over]], s[..., at[below]])

    def micro_f1(s: Array) -> Array:
        return ratio(2 * s[..., at["hits"]], s[..., at["truth"]] + s[..., at["claimed"]])

    def rest(of: str) -> Metric:
        return lambda s: ratio(s[..., at[of]] - s[..., at["hits"]], s[..., 0])

    known: dict[str, Metric] = {
        "set": column(at["set"]),
        "any": column(at["any"]),
        "instance": quotient("hits", "truth"),
        "jaccard": column(at["jaccard"]),
        "micro_f1": micro_f1,
        "cardinality": column(at["cardinality"]),
        "hallucinated": rest("claimed"),
        "missed": rest("truth"),
    }
    floors: dict[str, Metric] = {names[r]: column(always[r]) for r in ("set", "any", "jaccard")}
    floors[names["instance"]] = lambda s: ratio(s[..., always["hits"]], s[..., at["truth"]])
    return Scheme(
        {name: known[reading] for reading, name in names.items()}, floors, len(_READINGS) + len(_CONSTANT)
    )


def precision_columns(truth: Marks, predicted: Marks, videos: Ints, count: int) -> Array:
    """(V, 1 + 6 K): frames; per class hits, claims, positives; AP in the video, its prevalence and whether
    the class is in the video.
    """
    n = np.bincount(videos, minlength=count)[:, None].astype(np.float64)
    hits, claimed, positives = (
        marks_by_video(x, videos, count) for x in (truth & predicted, predicted, truth)
    )
    ap = from_counts(hits, claimed, positives, n)
    present = ~np.isnan(ap)
    prevalence = ratio(positives, n) * present
    return np.concatenate(
        [n, hits, claimed, positives, np.nan_to_num(ap), prevalence, present.astype(np.float64)], 1
    )


def precisions(classes: int, suffixes: dict[str, int], f1: str = "") -> Scheme:
    """`map<suffix>` (video-wise: a class's mean over the videos that have it, then the mean over classes) and
    `global_map<suffix>` (all frames in one pool), each over the first `suffixes[suffix]` classes, skipping
    classes without a positive; their floors, the mean prevalence, which is what predicting nothing scores;
    `*_lift`, (mAP - floor) / (1 - floor). With `f1` also `<f1><suffix>`, macro F1 over the fixed list,
    0 / 0 := 0.
    """

    def part(s: Array, k: int, used: int) -> Array:
        return s[..., 1 + k * classes : 1 + k * classes + used]

    def video_wise(k: int, used: int) -> Metric:
        return lambda s: mean_defined(defined(part(s, k, used), part(s, 5, used)))

    def pooled(used: int) -> Metric:
        return lambda s: mean_defined(
            from_counts(part(s, 0, used), part(s, 1, used), part(s, 2, used), s[..., :1])
        )

    def prevalence(used: int) -> Metric:
        def metric(s: Array) -> Array:
            positives = part(s, 2, used)
            return mean_defined(np.where(positives > 0, ratio(positives, s[..., :1]), np.nan))

        return metric

    def macro_f1(used: int) -> Metric:
        return lambda s: ratio(2 * part(s, 0, used), part(s, 1, used) + part(s, 2, used)).mean(-1)

    metrics: dict[str, Metric] = {}
    floors: dict[str, Metric] = {}
    for suffix, used in suffixes.items():
        metrics[f"map{suffix}"], floors[f"map{suffix}"] = video_wise(3, used), video_wise(4, used)
        metrics[f"global_map{suffix}"], floors[f"global_map{suffix}"] = pooled(used), prevalence(used)
        for name in (f"map{suffix}", f"global_map{suffix}"):
            metrics[f"{name}_lift"] = _lift(metrics[name], floors[name])
        if f1:
            metrics[f"{f1}{suffix}"] = macro_f1(used)
    return Scheme(metrics, floors, 1 + 6 * classes)


def _lift(metric: Metric, floor: Metric) -> Metric:
    def lift(s: Array) -> Array:
        base = floor(s)
        return ratio(metric(s) - base, 1 - base)

    return lift


def label_sets(classes: int) -> Family:
    """Sets of tools or other labels. Rows from `encode_label_sets`."""
    names = {
        "set": "accuracy",
        "any": "any",
        "instance": "instance",
        "jaccard": "jaccard",
        "micro_f1": "micro_f1",
        "cardinality": "cardinality",
        "hallucinated": "hallucinated_per_frame",
        "missed": "missed_per_frame",
    }

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        truth, predicted = rows[:, :classes].view(bool), rows[:, classes : 2 * classes].view(bool)
        outside, answered = rows[:, -2].astype(np.int64), rows[:, -1].astype(bool)
        return np.concatenate(
            [
                readings_columns(truth, predicted, outside, answered, videos, len(names)),
                precision_columns(truth, predicted, videos, len(names)),
            ],
            1,
        )

    return Family(join(readings(names), precisions(classes, {"": classes}, f1="macro_f1")), statistics)


def encode_label_sets(
    truth: Sequence[frozenset[str]], prediction: Sequence[frozenset[str] | None], classes: Sequence[str]
) -> Rows:
    """Rows (N, 2 K + 2) uint8 for `label_sets`; a prediction of None is no valid answer. Raises MetricError
    for true labels outside the list.
    """
    marks, strange, _ = encode_sets(truth, classes)
    if strange.any():
        raise MetricError(
            f"true labels {sorted(truth[int(strange.argmax())])} are not all in the list {list(classes)}"
        )
    predicted, outside, answered = encode_sets(prediction, classes)
    return np.concatenate(
        [marks, predicted, np.minimum(outside, 255)[:, None], answered[:, None]],
        1,
        dtype=np.uint8,
        casting="unsafe",
    )
