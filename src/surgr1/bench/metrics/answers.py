"""Answers to questions: a fixed list of answers (surgical VQA, evaluation.md B6) or open texts."""

import hashlib
from collections.abc import Sequence

import numpy as np

from surgr1.bench.metrics.base import (
    Array,
    Family,
    Ints,
    Metric,
    Rows,
    Scheme,
    by_video,
    column,
    mean_defined,
)
from surgr1.bench.metrics.classification import classification, confusions, parts


def answers(classes: int) -> Scheme:
    """VQA over a fixed list: everything of `classification` and `compat_precision`, `compat_recall`,
    `compat_f1`, which repeat the reference code of SurgicalGPT, Surgical-VQLA and PitVQA: scikit-learn's
    macro scores over the labels that occur, with `zero_division=1`. There a class never predicted has
    precision 1, so a constant answer scores high; never put them in one column with ours.
    """
    plain = classification(classes)

    def compat(k: int) -> Metric:
        def metric(s: Array) -> Array:
            hits, support, predicted = parts(s.reshape(*s.shape[:-1], classes, classes + 1))
            below = (predicted, support, (support + predicted) / 2)[k]
            values = np.divide(hits, below, out=np.ones(hits.shape), where=below > 0)
            return mean_defined(np.where(support + predicted > 0, values, np.nan))

        return metric

    names = ("compat_precision", "compat_recall", "compat_f1")
    return Scheme(
        {**plain.metrics, **{name: compat(k) for k, name in enumerate(names)}},
        plain.floors,
        plain.width,
        plain.chance,
    )


def answer_list(classes: int) -> Family:
    """VQA with its reduction. Rows: (truth, prediction), -1 for no valid answer."""

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        return confusions(rows, videos, len(names), classes).reshape(len(names), -1)

    return Family(answers(classes), statistics)


def exact_set() -> Scheme:
    """Exact answers without a list. Columns: questions, right answers, questions whose true answer is the
    most frequent one (the floor).
    """
    return Scheme({"accuracy": column(1)}, {"accuracy": column(2)}, 3)


def encode_texts(truth: Sequence[str], prediction: Sequence[str | None]) -> Rows:
    """Rows (N, 2) int64: a code of the true answer that doesn't depend on the other rows, whether the
    canonical answers are equal. A prediction of None is wrong.
    """
    codes = {
        t: int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big", signed=True) for t in set(truth)
    }
    pairs = [(codes[t], int(t == p)) for t, p in zip(truth, prediction, strict=True)]
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def texts() -> Family:
    """Open answers with their reduction; rows from `encode_texts`."""

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        codes, places, counts = np.unique(rows[:, 0], return_inverse=True, return_counts=True)
        common = places.ravel() == counts.argmax() if len(codes) else np.zeros(0, bool)
        values = np.stack([np.ones(len(rows)), rows[:, 1], common], 1)
        return by_video(values, videos, len(names))

    return Family(exact_set(), statistics)
