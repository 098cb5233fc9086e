"""Metrics as functions of additive per-video statistics (evaluation.md B0-B5).

Every metric takes statistics of shape (..., D), summed over any set of videos, and returns (...): the point
estimate sums all videos, a bootstrap draw sums its resampled ones. Merging shards is addition. Undefined
ratios are 0 where the paper's tables have 0, NaN where a class is absent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Metric = Callable[[Array], Array]


def _ratio(a: Array, b: Array) -> Array:
    """a / b with 0 / 0 := 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape)), where=b > 0)


@dataclass(frozen=True)
class Scheme:
    """A family of metrics over one layout of statistics. `floor` maps the primary metric's name to what a
    constant answer scores.
    """

    metrics: Mapping[str, Metric]
    floors: Mapping[str, Metric]


def confusion(truth: Sequence[int], prediction: Sequence[int], classes: int) -> Array:
    """(K, K + 1) counts; a prediction of -1 (no valid answer) goes to the last column, so it is wrong and no
    class of its own.
    """
    table = np.zeros((classes, classes + 1))
    for t, p in zip(truth, prediction, strict=True):
        table[t, p if p >= 0 else classes] += 1
    return table


def classification(classes: int) -> Scheme:
    """Accuracy and macro precision, recall, Jaccard, F1 over the fixed list of `classes` (statistics: the
    flattened confusion table).
    """

    def table(s: Array) -> Array:
        return s.reshape(*s.shape[:-1], classes, classes + 1)

    def parts(s: Array) -> tuple[Array, Array, Array]:
        t = table(s)
        hits = np.diagonal(t[..., :classes], axis1=-2, axis2=-1)
        return hits, t.sum(-1), t[..., :classes].sum(-2)

    def accuracy(s: Array) -> Array:
        hits, support, _ = parts(s)
        return _ratio(hits.sum(-1), support.sum(-1))

    def precision(s: Array) -> Array:
        hits, _, predicted = parts(s)
        return _ratio(hits, predicted).mean(-1)

    def recall(s: Array) -> Array:
        hits, support, _ = parts(s)
        return _ratio(hits, support).mean(-1)

    def jaccard(s: Array) -> Array:
        hits, support, predicted = parts(s)
        return _ratio(hits, support + predicted - hits).mean(-1)

    def f1(s: Array) -> Array:
        hits, support, predicted = parts(s)
        return _ratio(2 * hits, support + predicted).mean(-1)

    def majority(s: Array) -> Array:
        _, support, _ = parts(s)
        return _ratio(support.max(-1), support.sum(-1))

    return Scheme(
        {"accuracy": accuracy, "precision": precision, "recall": recall, "jaccard": jaccard, "f1": f1},
        {"accuracy": majority},
    )


def average_precision(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Array:
    """AP of 0/1 predictions per class, closed form R * P + (1 - R) * prevalence (evaluation.md finding 5).
    (frames, classes) -> (classes,); NaN without a positive.
    """
    positives, claimed, n = truth.sum(0), predicted.sum(0), len(truth)
    hits = (truth & predicted).sum(0)
    recall = np.divide(hits, positives, out=np.full(truth.shape[1], np.nan), where=positives > 0)
    precision = np.divide(hits, claimed, out=np.zeros(truth.shape[1]), where=claimed > 0)
    result: Array = recall * precision + (1 - recall) * positives / max(1, n)
    return result


_COUNTS = ("n", "set", "any", "jaccard", "hits", "truth", "tool", "verb", "target", "hallucinated", "missed")
Triplet = tuple[str, str, str]


def triplet_statistics(
    truth: Sequence[frozenset[Triplet]],
    prediction: Sequence[frozenset[Triplet] | None],
    classes: Sequence[Triplet],
    mode: frozenset[Triplet],
) -> Array:
    """Statistics of one video's frames: counts of `_COUNTS`, hits of the constant answer `mode`, then AP sum,
    prevalence sum and presence per class.

    `prediction` None is an answer without a valid parse: wrong everywhere. Components are compared as sets
    (evaluation.md B1, "direct").
    """
    counts = dict.fromkeys(_COUNTS, 0.0)
    index = {c: i for i, c in enumerate(classes)}
    marks = np.zeros((2, len(truth), len(classes)), bool)
    modal = 0
    for f, (g, p) in enumerate(zip(truth, prediction, strict=True)):
        for c in g:
            marks[0, f, index[c]] = True
        counts["n"] += 1
        counts["truth"] += len(g)
        modal += g == mode
        if p is None:
            counts["missed"] += len(g)
            continue
        for c in p:
            if c in index:
                marks[1, f, index[c]] = True
        both = len(g & p)
        counts["set"] += g == p
        counts["any"] += both > 0 or (not g and not p)
        counts["jaccard"] += both / len(g | p) if g | p else 1.0
        counts["hits"] += both
        counts["hallucinated"] += len(p - g)
        counts["missed"] += len(g - p)
        for k, name in enumerate(("tool", "verb", "target")):
            counts[name] += {t[k] for t in g} == {t[k] for t in p}
    ap = average_precision(marks[0], marks[1])
    present = ~np.isnan(ap)
    prevalence = np.where(present, marks[0].mean(0), 0.0)
    return np.concatenate([[*counts.values(), modal], np.nan_to_num(ap), prevalence, present.astype(float)])


def triplets(classes: int) -> Scheme:
    """Triplet metrics: exact-set accuracy (primary), any, instance, Jaccard, components, video-wise mAP over
    present classes.
    """
    width = len(_COUNTS)
    at = {name: i for i, name in enumerate(_COUNTS)}

    def per_frame(name: str) -> Metric:
        return lambda s: _ratio(s[..., at[name]], s[..., 0])

    def class_mean(offset: int) -> Metric:
        def metric(s: Array) -> Array:
            first = width + 1 + offset * classes
            present = s[..., width + 1 + 2 * classes :]
            values = _ratio(s[..., first : first + classes], present)
            return _ratio((values * (present > 0)).sum(-1), (present > 0).sum(-1).astype(float))

        return metric

    names = {
        "accuracy": "set",
        "any": "any",
        "jaccard": "jaccard",
        "tool": "tool",
        "verb": "verb",
        "target": "target",
    }
    metrics: dict[str, Metric] = {k: per_frame(v) for k, v in names.items()}
    metrics["instance"] = lambda s: _ratio(s[..., at["hits"]], s[..., at["truth"]])
    metrics["map"] = class_mean(0)
    metrics["hallucinated_per_frame"] = per_frame("hallucinated")
    metrics["missed_per_frame"] = per_frame("missed")
    return Scheme(metrics, {"accuracy": lambda s: _ratio(s[..., width], s[..., 0]), "map": class_mean(1)})


def cvs() -> Scheme:
    """CVS metrics. Statistics: a (3, 2, 3) table criterion x truth (no, yes) x answer (no, yes, none), then
    joint right, joint asked.
    """

    def table(s: Array) -> Array:
        return s[..., :18].reshape(*s.shape[:-1], 3, 2, 3)

    def right(s: Array) -> Array:
        return table(s)[..., 0, 0] + table(s)[..., 1, 1]

    def per_criterion(s: Array) -> Array:
        return _ratio(right(s), table(s).sum((-1, -2)))

    def criterion(k: int) -> Metric:
        return lambda s: per_criterion(s)[..., k]

    def balanced(s: Array) -> Array:
        t = table(s)
        recalls = np.stack([_ratio(t[..., k, k], t[..., k, :].sum(-1)) for k in (0, 1)], -1)
        seen = np.stack([t[..., k, :].sum(-1) > 0 for k in (0, 1)], -1)
        return _ratio((recalls * seen).sum(-1), seen.sum(-1).astype(float)).mean(-1)

    def majority(s: Array) -> Array:
        return _ratio(table(s).sum(-1).max(-1).sum(-1), table(s).sum((-1, -2, -3)))

    metrics: dict[str, Metric] = {
        "pooled": lambda s: _ratio(right(s).sum(-1), table(s).sum((-1, -2, -3))),
        "average": lambda s: per_criterion(s).mean(-1),
        "c1": criterion(0),
        "c2": criterion(1),
        "c3": criterion(2),
        "joint": lambda s: _ratio(s[..., 18], s[..., 19]),
        "balanced": balanced,
    }
    return Scheme(metrics, {"pooled": majority})


def boxes() -> Scheme:
    """Box metrics. Statistics: n, sum of IoU, hits at 0.5, hits at 0.75. An answer without a box has IoU
    0.
    """

    def mean(column: int) -> Metric:
        return lambda s: _ratio(s[..., column], s[..., 0])

    return Scheme(
        {"miou": mean(1), "acc50": mean(2), "acc75": mean(3)}, {"miou": lambda s: np.zeros(s.shape[:-1])}
    )


def exact_set() -> Scheme:
    """Exact-set accuracy. Statistics: n, right, hits of the most frequent set."""
    return Scheme(
        {"accuracy": lambda s: _ratio(s[..., 1], s[..., 0])},
        {"accuracy": lambda s: _ratio(s[..., 2], s[..., 0])},
    )
