"""Calibration: does a confidence of 80 % mean right in 80 % of cases (evaluation.md B9)?

A confidence is the probability of the answered option (local models), or how many of k sampled answers agree
(`agreement`, for models that give no probabilities).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgr1.ontology.errors import SurgR1Error


class CalibrationError(SurgR1Error):
    """Confidences and outcomes do not fit together."""


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence in (low, high], the first bin with its lower edge: how many, their mean
    confidence and the share of right ones. Shares; NaN in an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error (mean gap over equal-width bins, weighted by size) and Brier score, both
    shares: 0 is best.
    """

    n: int
    ece: float
    brier: float
    bins: tuple[Bin, ...]


def calibration(confidence: Sequence[float], correct: Sequence[bool], bins: int = 10) -> Calibration:
    """Calibration of answers with a confidence in [0, 1] each."""
    c, right = np.asarray(confidence, float), np.asarray(correct, float)
    if len(c) != len(right) or not len(c):
        raise CalibrationError(f"{len(c)} confidences for {len(right)} answers; give one each, at least one")
    if not ((c >= 0) & (c <= 1)).all():
        raise CalibrationError(f"confidences from {c.min()} to {c.max()}; expected shares from 0 to 1")
    edges = np.linspace(0, 1, bins + 1)
    at = np.clip(np.searchsorted(edges, c, side="left") - 1, 0, bins - 1)
    n = np.bincount(at, minlength=bins)
    sums = (np.bincount(at, weights=c, minlength=bins), np.bincount(at, weights=right, minlength=bins))
    means = [np.divide(s, n, out=np.full(bins, np.nan), where=n > 0) for s in sums]
    return Calibration(
        n=len(c),
        ece=float(np.abs(sums[0] - sums[1]).sum() / len(c)),
        brier=float(((c - right) ** 2).mean()),
        bins=tuple(
            Bin(float(edges[b]), float(edges[b + 1]), int(n[b]), float(means[0][b]), float(means[1][b]))
            for b in range(bins)
        ),
    )


def agreement(answers: Sequence[str | None]) -> tuple[str | None, float]:
    """The most frequent of k sampled answers and its share of all k; of equally frequent ones the first.

    None is a sample without an answer: it never wins (none but such: None and 0) but counts among the k, so
    that unreadable samples lower the confidence.
    """
    if not answers:
        raise CalibrationError("agreement needs at least one sampled answer, none was given")
    said = Counter(a for a in answers if a is not None)
    if not said:
        return None, 0.0
    answer, votes = said.most_common(1)[0]
    return answer, votes / len(answers)
