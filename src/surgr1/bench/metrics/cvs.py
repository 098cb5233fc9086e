"""Critical view of safety: one yes/no question per criterion and frame (evaluation.md B4)."""

from collections.abc import Sequence

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
    constant,
    defined,
    mean_defined,
    ratio,
)
from surgr1.bench.metrics.precision import from_counts

CRITERIA = ("C1", "C2", "C3")
_TABLE, _JOINT = 18, 20


def cvs_statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
    """(V, 28) of rows (criterion 0..2, truth 0/1, answer 0 no / 1 yes / 2 none, frame).

    Columns: the (3, 2, 3) table criterion x truth x answer; frames with all three criteria asked and all
    answered right; frames with all three asked; of those, how many have each of the eight possible truths.
    Raises MetricError for other codes and for a criterion asked twice on a frame.
    """
    rows, count = rows.reshape(-1, 4).astype(np.int64), len(names)
    criterion, truth, answer, frame = rows.T
    for values, top, what in ((criterion, 2, "criterion"), (truth, 1, "truth"), (answer, 2, "answer")):
        if len(rows) and (values.min() < 0 or values.max() > top):
            raise MetricError(f"{what} must be 0..{top}, found {values.min()}..{values.max()}")
    cells = ((videos * 3 + criterion) * 2 + truth) * 3 + answer
    table = np.bincount(cells, minlength=count * _TABLE).reshape(count, _TABLE)
    frames, of_frame = np.unique(np.stack([videos, frame], 1), axis=0, return_inverse=True)
    asked = np.bincount(of_frame.ravel() * 3 + criterion, minlength=3 * len(frames)).reshape(-1, 3)
    if (asked > 1).any():
        video, number = frames[int((asked > 1).any(1).argmax())]
        raise MetricError(f"video {names[video]}, frame {number}: a criterion is asked twice")
    right = np.bincount(of_frame.ravel(), weights=truth == answer, minlength=len(frames)) == 3
    pattern = np.bincount(of_frame.ravel(), weights=truth << criterion, minlength=len(frames))
    whole = asked.all(1)
    joint = np.zeros((count, 10))
    np.add.at(joint[:, 0], frames[whole & right, 0], 1)
    np.add.at(joint[:, 1], frames[whole, 0], 1)
    np.add.at(joint, (frames[whole, 0], 2 + pattern[whole].astype(np.int64)), 1)
    return np.concatenate([table.astype(np.float64), joint], 1)


def _table(s: Array) -> Array:
    return s[..., :_TABLE].reshape(*s.shape[:-1], 3, 2, 3)


def _asked(s: Array) -> Array:
    return _table(s).sum((-1, -2))


def _two_classes(s: Array) -> Marks:
    """Whether a criterion has both frames that meet it and frames that don't: (..., 3)."""
    found: Marks = (_table(s).sum(-1) > 0).all(-1)
    return found


def single_class(statistics: Array) -> tuple[str, ...]:
    """Criteria asked on frames of one class only (of summed statistics (28,)). Balanced accuracy and MCC are
    undefined there, so they are left out of the macro averages; say so beside them.
    """
    one = ~_two_classes(statistics) & (_asked(statistics) > 0)
    return tuple(name for name, alone in zip(CRITERIA, one, strict=True) if alone)


def _per_criterion() -> dict[str, Metric]:
    """Metrics with a value per criterion, (..., 28) -> (..., 3)."""

    def right(s: Array) -> Array:
        return defined(_table(s)[..., 0, 0] + _table(s)[..., 1, 1], _asked(s))

    def recall(k: int) -> Metric:
        return lambda s: defined(_table(s)[..., k, k], _table(s)[..., k, :].sum(-1))

    def mcc(s: Array) -> Array:
        # The K-class coefficient with "no answer" as a third answer that is never true: equal to the binary
        # MCC when every frame is answered, 0 when none is.
        t = _table(s)
        n, hits = _asked(s), t[..., 0, 0] + t[..., 1, 1]
        true, given = t.sum(-1), t.sum(-2)
        covariance = hits * n - (true * given[..., :2]).sum(-1)
        variances = (n**2 - (true**2).sum(-1)) * (n**2 - (given**2).sum(-1))
        return np.where(_two_classes(s), ratio(covariance, np.sqrt(np.maximum(variances, 0))), np.nan)

    def positives(s: Array) -> Array:
        return defined(_table(s)[..., 1, :].sum(-1), _asked(s))

    def bias(s: Array) -> Array:
        return defined(_table(s)[..., 1].sum(-1) - _table(s)[..., 1, :].sum(-1), _asked(s))

    def ap(s: Array) -> Array:
        t = _table(s)
        return from_counts(t[..., 1, 1], t[..., 1].sum(-1), t[..., 1, :].sum(-1), _asked(s))

    sensitivity, specificity = recall(1), recall(0)
    return {
        "accuracy": right,
        "balanced": lambda s: (sensitivity(s) + specificity(s)) / 2,
        "mcc": mcc,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "positives": positives,
        "yes_bias": bias,
        "ap": ap,
    }


def _majority(s: Array) -> Array:
    return _table(s).sum(-1).max(-1)


def cvs() -> Scheme:
    """Metrics over `cvs_statistics`.

    `pooled` (right questions / all questions; what the paper prints as "Overall" and the primary), `average`
    (mean of the criteria's accuracies, "Avg"), `joint` (all three right, on frames where all are asked),
    `c1`..`c3`; per criterion `balanced_c1`, `mcc_c1`, `sensitivity_c1`, `specificity_c1`, `positives_c1`
    (share of true yes), `yes_bias_c1` (share of answered yes - share of true yes), `ap_c1` (Endoscapes; of
    0/1 answers by the closed form). `balanced`, `mcc`, `sensitivity`, `specificity` and `map` are means over
    the criteria that have both classes (see `single_class`); `yes_bias` is pooled. NaN for a criterion
    nobody asked.
    """
    values = _per_criterion()

    def one(metric: Metric, k: int) -> Metric:
        return lambda s: metric(s)[..., k]

    def macro(metric: Metric) -> Metric:
        return lambda s: mean_defined(np.where(_two_classes(s), metric(s), np.nan))

    def bias(s: Array) -> Array:
        t = _table(s)
        return ratio(t[..., 1].sum((-1, -2)) - t[..., 1, :].sum((-1, -2)), _asked(s).sum(-1))

    def pooled(s: Array) -> Array:
        t = _table(s)
        return ratio((t[..., 0, 0] + t[..., 1, 1]).sum(-1), _asked(s).sum(-1))

    def majorities(s: Array) -> Array:
        return defined(_majority(s), _asked(s))

    metrics: dict[str, Metric] = {
        "pooled": pooled,
        "average": lambda s: mean_defined(values["accuracy"](s)),
        "joint": lambda s: ratio(s[..., 18], s[..., 19]),
    }
    floors: dict[str, Metric] = {
        "pooled": lambda s: ratio(_majority(s).sum(-1), _asked(s).sum(-1)),
        "average": lambda s: mean_defined(majorities(s)),
        "joint": lambda s: ratio(s[..., _JOINT : _JOINT + 8].max(-1), s[..., 19]),
        "balanced": constant(0.5),
        "mcc": constant(0.0),
        "map": macro(values["positives"]),
    }
    for k in range(3):
        metrics[f"c{k + 1}"], floors[f"c{k + 1}"] = one(values["accuracy"], k), one(majorities, k)
        floors[f"ap_c{k + 1}"] = one(values["positives"], k)
        floors[f"balanced_c{k + 1}"], floors[f"mcc_c{k + 1}"] = constant(0.5), constant(0.0)
    for name, metric in values.items():
        if name != "accuracy":
            metrics |= {f"{name}_c{k + 1}": one(metric, k) for k in range(3)}
    metrics |= {name: macro(values[name]) for name in ("balanced", "mcc", "sensitivity", "specificity")}
    metrics |= {"map": macro(values["ap"]), "yes_bias": bias}
    half = dict.fromkeys(("pooled", "average", "c1", "c2", "c3", "balanced"), constant(0.5))
    return Scheme(metrics, floors, _JOINT + 8, {**half, "joint": constant(0.125)})


def criteria() -> Family:
    """CVS questions with their reduction; rows as for `cvs_statistics`."""
    return Family(cvs(), cvs_statistics)
