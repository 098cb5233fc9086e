"""Single-label classification: phases, actions, steps (evaluation.md B0, B2, B3).

A K x (K + 1) table of counts holds everything: truth in rows, answers in columns, the last column for frames
without a valid answer, which are wrong and no class of their own. Pooled metrics read the sum of the videos'
tables, per-video protocols are further columns computed from each video's own table.
"""

from collections.abc import Sequence

import numpy as np

from surgr1.bench.metrics.base import (
    Array,
    Family,
    Ints,
    Metric,
    MetricError,
    Rows,
    Scheme,
    column,
    constant,
    join,
    ratio,
    spread,
)

_SCORES = ("precision", "recall", "f1", "jaccard")


def confusion(truth: Sequence[int] | Ints, prediction: Sequence[int] | Ints, classes: int) -> Array:
    """(K, K + 1) counts. A prediction of -1 (no valid answer) goes to the last column."""
    return confusions(np.stack([truth, prediction], 1), np.zeros(len(truth), np.int64), 1, classes)[0]


def confusions(rows: Rows, videos: Ints, count: int, classes: int) -> Array:
    """Tables (count, K, K + 1) of rows (truth, prediction). Raises MetricError for a truth outside the list
    and for predictions outside -1..K-1.
    """
    rows = rows.reshape(-1, 2).astype(np.int64)
    truth, prediction = rows[:, 0], rows[:, 1]
    if len(rows) and (truth.min() < 0 or truth.max() >= classes):
        raise MetricError(f"true labels must be 0..{classes - 1}, found {truth.min()}..{truth.max()}")
    if len(rows) and (prediction.min() < -1 or prediction.max() >= classes):
        raise MetricError(
            f"predictions must be -1 (no answer) or 0..{classes - 1}, found"
            f" {prediction.min()}..{prediction.max()}"
        )
    cells = (videos * classes + truth) * (classes + 1) + np.where(prediction < 0, classes, prediction)
    flat = np.bincount(cells, minlength=count * classes * (classes + 1))
    return flat.reshape(count, classes, classes + 1).astype(np.float64)


def parts(tables: Array) -> tuple[Array, Array, Array]:
    """(hits, support, predicted) per class of (..., K, K + 1) tables, each (..., K)."""
    classes = tables.shape[-2]
    hits = np.diagonal(tables[..., :classes], axis1=-2, axis2=-1)
    return hits, tables.sum(-1), tables[..., :classes].sum(-2)


def class_scores(tables: Array) -> tuple[Array, Array, Array, Array]:
    """Precision, recall, F1 and Jaccard per class with 0 / 0 := 0, each (..., K)."""
    hits, support, predicted = parts(tables)
    return (
        ratio(hits, predicted),
        ratio(hits, support),
        ratio(2 * hits, support + predicted),
        ratio(hits, support + predicted - hits),
    )


def classification(classes: int) -> Scheme:
    """Pooled metrics over the fixed list of `classes`; statistics are the flattened table, K (K + 1) columns.

    `accuracy`; macro `precision`, `recall`, `jaccard`, `f1` (mean over all K); `weighted_*` (weighted by
    support; Table 14's recall, evaluation.md B3); `micro_*`. Floors: the most frequent label always.
    """

    def table(s: Array) -> Array:
        return s.reshape(*s.shape[:-1], classes, classes + 1)

    def macro(k: int) -> Metric:
        return lambda s: class_scores(table(s))[k].mean(-1)

    def weighted(k: int) -> Metric:
        def metric(s: Array) -> Array:
            support = table(s).sum(-1)
            return ratio((class_scores(table(s))[k] * support).sum(-1), support.sum(-1))

        return metric

    def pooled(s: Array) -> tuple[Array, Array, Array]:
        hits, support, predicted = parts(table(s))
        return hits.sum(-1), support.sum(-1), predicted.sum(-1)

    def accuracy(s: Array) -> Array:
        hits, n, _ = pooled(s)
        return ratio(hits, n)

    def micro_precision(s: Array) -> Array:
        hits, _, answered = pooled(s)
        return ratio(hits, answered)

    def micro_f1(s: Array) -> Array:
        hits, n, answered = pooled(s)
        return ratio(2 * hits, n + answered)

    def micro_jaccard(s: Array) -> Array:
        hits, n, answered = pooled(s)
        return ratio(hits, n + answered - hits)

    def majority(s: Array) -> Array:
        support = table(s).sum(-1)
        return ratio(support.max(-1), support.sum(-1))

    # A constant answer has precision m, recall 1, F1 2m / (1 + m) and Jaccard m on its own class and 0 on
    # the others, m being the class's share.
    own: tuple[Metric, ...] = (
        majority,
        constant(1.0),
        lambda s: 2 * majority(s) / (1 + majority(s)),
        majority,
    )
    metrics: dict[str, Metric] = {"accuracy": accuracy}
    metrics |= {name: macro(k) for k, name in enumerate(_SCORES)}
    metrics |= {f"weighted_{name}": weighted(k) for k, name in enumerate(_SCORES)}
    metrics |= {
        "micro_precision": micro_precision,
        "micro_recall": accuracy,
        "micro_f1": micro_f1,
        "micro_jaccard": micro_jaccard,
    }
    floors: dict[str, Metric] = {"accuracy": majority, "micro_recall": majority, "micro_f1": majority}
    for k, name in enumerate(_SCORES):
        floors[name] = _scaled(own[k], constant(1 / classes))
        floors[f"weighted_{name}"] = _scaled(own[k], majority)
    return Scheme(metrics, floors, classes * (classes + 1), {"accuracy": constant(1 / classes)})


def _scaled(a: Metric, b: Metric) -> Metric:
    return lambda s: a(s) * b(s)


def video_protocols(classes: int) -> Scheme:
    """Per-video protocols (evaluation.md B2, B and C). Columns: see `video_columns`.

    `video_accuracy`: mean over videos. `video_union_*`: each video's macro score over the labels that occur
    in its truth or its predictions, `video_truth_*`: in its truth; then the mean over videos (MultiBypass140
    reports the union; its standard deviations divide by n, so do `*_sd`). `surgvlp_accuracy`, `surgvlp_f1`:
    SurgVLP's zero-shot mode, scikit-learn's macro F1 without a label list, which is the union reading.
    """
    modes = ("video_union", "video_truth")
    names = ("video_accuracy", *(f"{mode}_{score}" for mode in modes for score in _SCORES))
    metrics: dict[str, Metric] = {}
    for k, name in enumerate(names):
        metrics[name] = column(1 + k)
        metrics[f"{name}_sd"] = _deviation(1 + k, 1 + len(names) + k)
    metrics |= {
        "surgvlp_accuracy": metrics["video_accuracy"],
        "surgvlp_f1": metrics["video_union_f1"],
    }
    first = 1 + 2 * len(names)

    def floor(s: Array) -> Array:
        return ratio(s[..., first : first + classes].max(-1), s[..., 0])

    accuracies = ("video_accuracy", "surgvlp_accuracy")
    return Scheme(
        metrics,
        dict.fromkeys(accuracies, floor),
        first + classes,
        dict.fromkeys(accuracies, constant(1 / classes)),
    )


def _deviation(total: int, squares: int) -> Metric:
    return lambda s: spread(s[..., total], s[..., squares], s[..., 0], sample=False)


def video_columns(tables: Array) -> Array:
    """(V, K, K + 1) tables of single videos -> (V, 1 + 9 + 9 + K): one, the nine scores of `video_protocols`,
    their squares, each label's share of the frames. A video without frames is all 0.
    """
    hits, support, predicted = parts(tables)
    n = support.sum(-1)
    scores = class_scores(tables)
    values = [ratio(hits.sum(-1), n)]
    for seen in (support + predicted > 0, support > 0):
        values += [ratio((x * seen).sum(-1), seen.sum(-1).astype(np.float64)) for x in scores]
    stacked = np.stack(values, -1)
    return np.concatenate(
        [(n > 0)[:, None].astype(np.float64), stacked, stacked**2, ratio(support, n[:, None])], -1
    )


def labels(classes: int) -> Family:
    """Pooled metrics and per-video protocols. Rows: (truth, prediction), -1 for no valid answer. The first
    K (K + 1) columns are the table.
    """

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        tables = confusions(rows, videos, len(names), classes)
        return np.concatenate([tables.reshape(len(names), -1), video_columns(tables)], -1)

    return Family(join(classification(classes), video_protocols(classes)), statistics)
