"""Metrics of whole operations: relaxed phase boundaries and segments (evaluation.md B2 protocol A, B3).

They need every frame of a video in order at a fixed rate; `require_dense` refuses sampled frame lists. A
frame without a valid answer (-1) is never forgiven and its stretch counts as a wrong segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    constant,
    defined,
    join,
    mean_defined,
    ratio,
    spread,
)

BOUNDARY_SECONDS = 10.0
FILTER_SECONDS = 10.0
_RELAXED = ("precision", "recall", "jaccard")


class SequenceError(MetricError):
    """Frames that aren't a dense ordered sequence."""


def require_dense(seconds: Sequence[float] | Array, video: str, *, fps: float = 1.0) -> None:
    """Raises SequenceError, naming the video and the first gap, unless consecutive times differ by 1 / fps
    (within a tenth of it). One frame is a sample too.
    """
    if len(seconds) == 1:
        raise SequenceError(f"video {video} has one frame, expected all of its frames at {fps:g} per second")
    steps = np.diff(np.asarray(seconds, np.float64))
    wrong = np.flatnonzero(~(np.abs(steps * fps - 1) <= 0.1))
    if len(wrong):
        k = int(wrong[0])
        raise SequenceError(
            f"video {video}: from second {seconds[k]:g} to {seconds[k + 1]:g}, expected steps of"
            f" {1 / fps:g} s; relaxed and segmental metrics need every frame in order, so score this card"
            " without them or predict the whole video"
        )


@dataclass(frozen=True)
class Boundaries:
    """Which confusions are forgiven near a phase's boundaries: label offsets (answer - truth) per true
    label, `late` in the first 10 s of a true segment, `early` in its last 10 s.
    """

    late: tuple[frozenset[int], ...]
    early: tuple[frozenset[int], ...]

    def allowed(self, side: tuple[frozenset[int], ...]) -> Marks:
        """(K, K + 1): truth x answer; the last column, no answer, is never forgiven."""
        classes = len(side)
        table = np.zeros((classes, classes + 1), bool)
        for k, offsets in enumerate(side):
            for offset in offsets:
                if 0 <= k + offset < classes:
                    table[k, k + offset] = True
        return table


def neighbours(classes: int) -> Boundaries:
    """The general rule: a late transition still names the phase before, an early one the phase after."""
    return Boundaries((frozenset({-1}),) * classes, (frozenset({1}),) * classes)


def cholec80(classes: int = 7) -> Boundaries:
    """The rule with Cholec80's exceptions on the last four phases, which may swap (TMRNet's `Evaluate.m`;
    for m2cai's 8 phases `Evaluate_m2cai.m` shifts them by one): 4 and 5 also forgive +2 at their end, 6 and
    7 also -2 at their start and +2 at their end.
    """
    plain = classes - 4
    late = [frozenset({-1})] * (plain + 2) + [frozenset({-1, -2})] * 2
    early = [frozenset({1})] * plain + [frozenset({1, 2})] * 4
    return Boundaries(tuple(late), tuple(early))


def segment_starts(labels: Ints, videos: Ints | None = None) -> Ints:
    """Indices at which a run of equal labels begins; a new video begins a run."""
    if not len(labels):
        return np.zeros(0, np.int64)
    new = labels[1:] != labels[:-1]
    if videos is not None:
        new |= videos[1:] != videos[:-1]
    return np.concatenate([[0], np.flatnonzero(new) + 1])


def forgiven(
    truth: Ints, prediction: Ints, videos: Ints, rules: Boundaries, *, width: int, literal: bool = False
) -> Marks:
    """Frames right under the relaxed boundary of `width` frames: (N,).

    `literal` does what the published MATLAB code executes: its mask of early transitions is computed on the
    last `width` frames of a segment but indexes the segment's first ones, so those are set right instead.
    """
    n = len(truth)
    late, early = rules.allowed(rules.late), rules.allowed(rules.early)
    right: Marks = truth == prediction
    if not n:
        return right
    starts = segment_starts(truth, videos)
    lengths = np.diff(np.append(starts, n))
    start, length = np.repeat(starts, lengths), np.repeat(lengths, lengths)
    position = np.arange(n) - start
    at_start = position < width
    right = right | (at_start & late[truth, prediction])
    if literal:
        source = np.where(at_start, start + length - np.minimum(width, length) + position, 0)
        return right | (at_start & early[truth, prediction[source]])
    return right | ((length - position <= width) & early[truth, prediction])


def relaxed_counts(
    truth: Ints, prediction: Ints, right: Marks, videos: Ints, count: int, classes: int
) -> tuple[Array, Array, Array, Array]:
    """Per video and phase, each (V, K): true positives over the union of true and predicted frames, true
    positives over predicted frames only, frames in the truth, frames predicted.
    """
    answered = prediction >= 0

    def counts(labels: Ints, where: Marks) -> Array:
        flat = np.bincount(videos[where] * classes + labels[where], minlength=count * classes)
        return flat.reshape(count, classes).astype(np.float64)

    everywhere = np.ones(len(truth), bool)
    among_truth = counts(truth, right)
    among_predicted = counts(prediction, right & answered)
    both = counts(truth, right & (truth == prediction))
    return (
        among_truth + among_predicted - both,
        among_predicted,
        counts(truth, everywhere),
        counts(prediction, answered),
    )


def segmental_f1(truth: Ints, prediction: Ints, overlap: float = 0.1) -> float:
    """F1@10 of the SAR-RARP50 challenge: a predicted segment hits if the true segment of its label with the
    largest IoU (>= `overlap`) isn't taken; the first one takes it. No label is background. In 0..1.
    """
    ours, theirs = segment_starts(prediction), segment_starts(truth)
    ends_p, ends_t = np.append(ours[1:], len(truth)), np.append(theirs[1:], len(truth))
    shared = np.minimum(ends_p[:, None], ends_t) - np.maximum(ours[:, None], theirs)
    joint = np.maximum(ends_p[:, None], ends_t) - np.minimum(ours[:, None], theirs)
    same = prediction[ours][:, None] == truth[theirs]
    iou = np.where(same, np.maximum(shared, 0) / joint, 0.0)
    best = iou.argmax(1)
    taken = np.unique(best[iou.max(1) >= overlap])
    return 2 * len(taken) / (len(ours) + len(theirs))


def majority_filter(labels: Ints, classes: int, width: int) -> Ints:
    """Post-processing: each frame takes the most frequent label of the `width` (odd) frames around it, its
    own in a tie, else the smallest. Frames without an answer (-1) don't vote; -1 stays where no one votes.
    """
    n = len(labels)
    own = np.zeros((n, classes), np.int64)
    valid = np.flatnonzero(labels >= 0)
    own[valid, labels[valid]] = 1
    summed = np.concatenate([np.zeros((1, classes), np.int64), own.cumsum(0)])
    half = width // 2
    at = np.arange(n)
    votes = summed[np.minimum(at + half + 1, n)] - summed[np.maximum(at - half, 0)]
    chosen = (2 * votes + own).argmax(1)
    return np.where(votes.any(1), chosen, -1)


def _relaxed_scheme(prefix: str, classes: int) -> Scheme:
    """Columns: videos, accuracy, its square, the best constants' accuracies (K), then for precision, recall,
    Jaccard the sums and the numbers of defined values per phase (K each).
    """
    first = 3 + classes

    def phases(k: int) -> Metric:
        at = first + 2 * k * classes
        return lambda s: defined(s[..., at : at + classes], s[..., at + classes : at + 2 * classes])

    def deviation_of_phases(values: Metric) -> Metric:
        def metric(s: Array) -> Array:
            v = values(s)
            seen = ~np.isnan(v)
            v = np.where(seen, v, 0.0)
            return spread(v.sum(-1), (v**2).sum(-1), seen.sum(-1).astype(np.float64), sample=True)

        return metric

    metrics: dict[str, Metric] = {
        f"{prefix}_accuracy": column(1),
        f"{prefix}_accuracy_sd": lambda s: spread(s[..., 1], s[..., 2], s[..., 0], sample=True),
    }
    for k, name in enumerate(_RELAXED):
        metrics[f"{prefix}_{name}"] = _mean_of(phases(k))
        metrics[f"{prefix}_{name}_sd"] = deviation_of_phases(phases(k))
    floors: dict[str, Metric] = {f"{prefix}_accuracy": _best(3, classes)}
    return Scheme(metrics, floors, first + 6 * classes, {})


def _mean_of(values: Metric) -> Metric:
    return lambda s: mean_defined(values(s))


def _best(first: int, classes: int) -> Metric:
    return lambda s: ratio(s[..., first : first + classes].max(-1), s[..., 0])


def _relaxed_columns(
    truth: Ints, prediction: Ints, videos: Ints, count: int, rules: Boundaries, width: int, *, literal: bool
) -> Array:
    classes = len(rules.late)
    n = np.bincount(videos, minlength=count).astype(np.float64)

    def accuracies(answers: Ints) -> tuple[Marks, Array]:
        right = forgiven(truth, answers, videos, rules, width=width, literal=literal)
        return right, ratio(by_video(right[:, None], videos, count)[:, 0], n)

    right, accuracy = accuracies(prediction)
    constants = [accuracies(np.full_like(truth, k))[1] for k in range(classes)]
    union_hits, _, in_truth, predicted = relaxed_counts(truth, prediction, right, videos, count, classes)
    columns = [(n > 0).astype(np.float64), accuracy, accuracy**2, *constants]
    # The script divides by the frames predicted: 0 / 0 is left out, hits / 0 is infinite and clipped to 1.
    for below in (
        predicted,
        in_truth,
        in_truth + predicted - _both(truth, prediction, videos, count, classes),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.minimum(union_hits / below, 1.0)
        seen = (in_truth > 0) & ~np.isnan(values)
        columns += [*np.where(seen, values, 0.0).T, *seen.T.astype(np.float64)]
    return np.stack(columns, -1)


def _both(truth: Ints, prediction: Ints, videos: Ints, count: int, classes: int) -> Array:
    same = truth == prediction
    flat = np.bincount(videos[same] * classes + truth[same], minlength=count * classes)
    return flat.reshape(count, classes).astype(np.float64)


_SELFSUPSURG = ("accuracy", "precision", "recall", "f1", "jaccard")


def _selfsupsurg_scheme(classes: int) -> Scheme:
    """Columns: videos, then sum and number of defined values of each score."""
    metrics: dict[str, Metric] = {
        f"selfsupsurg_{name}": _quotient(1 + 2 * k) for k, name in enumerate(_SELFSUPSURG)
    }
    return Scheme(metrics, {}, 1 + 2 * len(_SELFSUPSURG), {})


def _quotient(k: int) -> Metric:
    return lambda s: defined(s[..., k], s[..., k + 1])


def _selfsupsurg_columns(
    truth: Ints, prediction: Ints, videos: Ints, count: int, rules: Boundaries, width: int
) -> Array:
    """Mean over a video's phases, then over videos; true positives among predicted frames only, no
    clipping. The script itself hands column vectors to this function and flattens their index pairs, so its
    printed numbers count frame 0 as well; that is not repeated here.
    """
    classes = len(rules.late)
    right = forgiven(truth, prediction, videos, rules, width=width)
    _, hits, in_truth, predicted = relaxed_counts(truth, prediction, right, videos, count, classes)
    n = np.bincount(videos, minlength=count).astype(np.float64)
    here = np.where(in_truth > 0, 1.0, np.nan)
    precision, recall = defined(hits, predicted) * here, defined(hits, in_truth)
    jaccard = defined(hits, in_truth + predicted - _both(truth, prediction, videos, count, classes)) * here
    with np.errstate(invalid="ignore"):
        f1 = defined(2 * precision * recall, precision + recall)
    accuracy = defined(by_video(right[:, None], videos, count)[:, 0], n)
    values = [accuracy, *(mean_defined(x) for x in (precision, recall, f1, jaccard))]
    columns = [(n > 0).astype(np.float64)]
    for value in values:
        columns += [np.nan_to_num(value), (~np.isnan(value)).astype(np.float64)]
    return np.stack(columns, -1)


def segments(classes: int) -> Scheme:
    """The challenge's metrics: `frame_accuracy` and `segment_f1` (F1@10), means over videos, and
    `action_score` = sqrt of their product; `filtered_*` the same after `majority_filter`, which is
    post-processing and must be labelled so. Columns: videos, the four means' sums, label shares (K).
    """

    def score(accuracy: int, f1: int) -> Metric:
        return lambda s: np.sqrt(column(accuracy)(s) * column(f1)(s))

    metrics: dict[str, Metric] = {}
    for at, prefix in ((1, ""), (3, "filtered_")):
        metrics |= {
            f"{prefix}frame_accuracy": column(at),
            f"{prefix}segment_f1": column(at + 1),
            f"{prefix}action_score": score(at, at + 1),
        }
    accuracies = ("frame_accuracy", "filtered_frame_accuracy")
    return Scheme(
        metrics,
        dict.fromkeys(accuracies, _best(5, classes)),
        5 + classes,
        dict.fromkeys(accuracies, constant(1 / classes)),
    )


def _segment_columns(
    truth: Ints, prediction: Ints, videos: Ints, count: int, classes: int, width: int
) -> Array:
    found = np.zeros((count, 5 + classes))
    edges = np.searchsorted(videos, np.arange(count + 1))
    for v in range(count):
        mine = slice(edges[v], edges[v + 1])
        t, p = truth[mine], prediction[mine]
        if not len(t):
            continue
        found[v, 0] = 1
        for at, answers in ((1, p), (3, majority_filter(p, classes, width))):
            found[v, at] = (answers == t).mean()
            found[v, at + 1] = segmental_f1(t, answers)
        found[v, 5:] = np.bincount(t, minlength=classes) / len(t)
    return found


def _frames(rows: NDArray[np.float64], videos: Ints, names: Sequence[str], fps: float) -> tuple[Ints, Ints]:
    """Truth and prediction of rows (truth, prediction, seconds), which must lie video by video in order."""
    if np.any(np.diff(videos) < 0):
        raise SequenceError("the rows of sequences must be sorted by video, then by time")
    edges = np.searchsorted(videos, np.arange(len(names) + 1))
    for v, name in enumerate(names):
        require_dense(rows[edges[v] : edges[v + 1], 2], name, fps=fps)
    return rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)


def phase_sequences(rules: Boundaries, *, fps: float = 1.0) -> Family:
    """Relaxed phase metrics. Rows: (truth, prediction or -1, seconds), sorted by video and time.

    `relaxed_*`: evaluation.md B2, protocol A: true positives over the union of true and predicted frames,
    clipped at 1, NaN for a phase absent from the video's truth, mean over videos per phase, then over
    phases; `relaxed_accuracy_sd` over videos, the others' `_sd` over phases (both n - 1, as MATLAB).
    `matlab_*`: what the published script executes (see `forgiven`), for published numbers. `selfsupsurg_*`:
    SelfSupSurg's port. Plain accuracies and segments come with them (`segments`).
    """
    classes = len(rules.late)
    width = round(BOUNDARY_SECONDS * fps)

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        t, p = _frames(rows, videos, names, fps)
        blocks = [
            _relaxed_columns(t, p, videos, len(names), rules, width, literal=literal)
            for literal in (False, True)
        ]
        blocks.append(_selfsupsurg_columns(t, p, videos, len(names), rules, width))
        blocks.append(_segment_columns(t, p, videos, len(names), classes, _filter_width(fps)))
        return np.concatenate(blocks, -1)

    return Family(
        join(
            _relaxed_scheme("relaxed", classes),
            _relaxed_scheme("matlab", classes),
            _selfsupsurg_scheme(classes),
            segments(classes),
        ),
        statistics,
    )


def action_sequences(classes: int, *, fps: float = 1.0) -> Family:
    """The SAR-RARP50 challenge's metrics (10 fps there). Rows as for `phase_sequences`."""

    def statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
        t, p = _frames(rows, videos, names, fps)
        return _segment_columns(t, p, videos, len(names), classes, _filter_width(fps))

    return Family(segments(classes), statistics)


def _filter_width(fps: float) -> int:
    """Frames of the majority filter's window, odd."""
    return 2 * round(FILTER_SECONDS * fps / 2) + 1
