"""Uncertainty of scores: video-clustered bootstrap, paired tests, Holm, Wilson (evaluation.md B9).

Frames of one video are alike, so whole videos are resampled. Every metric is a function of additive
statistics, which makes a resampling a weighted sum: `weights (draws, videos) @ statistics (videos, D)`.
Nothing here knows about cards; values may be shares or percents, intervals come back in the same unit.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from surgr1.ontology.errors import SurgR1Error

Array = NDArray[np.float64]
Metric = Callable[[Array], Array]
Resampled = Literal["videos", "iid_frames"]

MIN_VIDEOS = 6  # below this a cluster interval is not to be trusted
BCA_VIDEOS = 20  # from here on the jackknife is steady enough for BCa
DRAWS = 2000
_BLOCK = 4_000_000  # weights held at once by `resampled_sums` (32 MB)


class StatisticsError(SurgR1Error):
    """The numbers given do not allow the statistic asked for."""


@dataclass(frozen=True)
class Interval:
    """An interval and how it was made: "percentile", "bca", "wilson"."""

    low: float
    high: float
    method: Literal["percentile", "bca", "wilson"]


@dataclass(frozen=True)
class Difference:
    """A paired difference second - first with its interval and two-sided bootstrap p."""

    difference: float
    interval: Interval
    p: float


@dataclass(frozen=True)
class Clusters:
    """What is resampled: one label per row, and the stamp to print beside the interval."""

    labels: tuple[str, ...]
    stamp: Resampled


def clusters(videos: Sequence[str]) -> Clusters:
    """The rows' video ids, or one cluster per row stamped "iid_frames" where any row has no id ("")."""
    if all(videos):
        return Clusters(tuple(videos), "videos")
    return Clusters(tuple(f"frame {i}" for i in range(len(videos))), "iid_frames")


def interval_warning(count: int, stamp: Resampled = "videos") -> str | None:
    """What to print beside an interval over `count` videos or frames; None where nothing is wrong."""
    if stamp == "iid_frames":
        return "iid_frames: no video ids, frames were resampled as if independent; the interval is too narrow"
    if count < MIN_VIDEOS:
        return (
            f"{count} video{'' if count == 1 else 's'}: the cluster interval is unreliable under {MIN_VIDEOS}"
        )
    return None


def _members(videos: int, strata: Sequence[Hashable] | None) -> list[NDArray[np.intp]]:
    """Indices of the videos of each stratum, strata in order of appearance."""
    if videos < 1:
        raise StatisticsError("a bootstrap needs at least one video, none was given")
    if strata is None:
        return [np.arange(videos)]
    if len(strata) != videos:
        raise StatisticsError(f"{len(strata)} strata for {videos} videos; give one stratum per video")
    at: dict[Hashable, list[int]] = {}
    for i, stratum in enumerate(strata):
        at.setdefault(stratum, []).append(i)
    return [np.asarray(m) for m in at.values()]


def _weights(
    videos: int, draws: int, seed: int, strata: Sequence[Hashable] | None, block: int
) -> Iterator[Array]:
    """Blocks of resampling weights; the numbers do not depend on the size of a block."""
    members = _members(videos, strata)
    rngs = [np.random.default_rng((seed, k)) for k in range(len(members))]
    for start in range(0, draws, block):
        weights = np.empty((min(block, draws - start), videos))
        for rng, index in zip(rngs, members, strict=True):
            n = len(index)
            weights[:, index] = rng.multinomial(n, np.full(n, 1 / n), size=len(weights))
        yield weights


def bootstrap_weights(videos: int, draws: int, seed: int, strata: Sequence[Hashable] | None = None) -> Array:
    """How often each video is drawn in each resampling with replacement: (draws, videos).

    `strata` (one per video, dataset x centre): as many videos are drawn within a stratum as it has, so the
    mix of centres is that of the data. A stratum of one video never varies. The same seed gives two models
    the same videos, which is what pairs them.
    """
    return np.concatenate(list(_weights(videos, draws, seed, strata, max(1, draws))))


def resampled_sums(
    statistics: Array, draws: int, seed: int, strata: Sequence[Hashable] | None = None
) -> Array:
    """`bootstrap_weights(...) @ statistics` in bounded memory: (videos, D) -> (draws, D). Needed where every
    frame is its own cluster.
    """
    n = len(statistics)
    blocks = _weights(n, draws, seed, strata, max(1, _BLOCK // max(1, n)))
    return np.concatenate([w @ statistics for w in blocks])


def jackknife(statistics: Array, metric: Metric) -> Array:
    """The metric without each video in turn: (videos, D) -> (videos,)."""
    return metric(statistics.sum(0) - statistics)


def interval(
    draws: Array,
    point: float,
    jackknife: Array | None = None,
    strata: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Interval:
    """Interval of a metric from its bootstrap draws (B,).

    BCa (Efron 1987) where leave-one-video-out values of at least BCA_VIDEOS videos are given, percentile
    otherwise, and also where BCa is undefined: draws that all lie on one side of the point, or a jackknife
    that does not vary. Draws on which the metric is undefined (NaN) are left out.
    """
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Interval(float("nan"), float("nan"), "percentile")
    tails = np.asarray([(1 - level) / 2, (1 + level) / 2])
    if jackknife is not None and len(jackknife) >= BCA_VIDEOS:
        adjusted = _bca_tails(draws, point, jackknife, strata, tails)
        if adjusted is not None:
            low, high = np.quantile(draws, adjusted)
            return Interval(float(low), float(high), "bca")
    low, high = np.quantile(draws, tails)
    return Interval(float(low), float(high), "percentile")


def _bca_tails(
    draws: Array, point: float, jackknife: Array, strata: Sequence[Hashable] | None, tails: Array
) -> Array | None:
    """Bias-corrected and accelerated quantiles; None where undefined. Draws equal to the point count half to
    each side, as in scipy.stats.bootstrap; strata enter the acceleration as independent samples.
    """
    below = (np.mean(draws < point) + np.mean(draws <= point)) / 2
    cubes = squares = 0.0
    for index in _members(len(jackknife), strata):
        n = len(index)
        influence = (n - 1) * (jackknife[index].mean() - jackknife[index])
        cubes += float((influence**3).sum()) / n**3
        squares += float((influence**2).sum()) / n**2
    if not 0 < below < 1 or not squares > 0 or np.isnan(cubes):
        return None
    bias, acceleration = ndtri(below), cubes / (6 * squares**1.5)
    shifted = bias + ndtri(tails)
    adjusted: Array = ndtr(bias + shifted / (1 - acceleration * shifted))
    return adjusted


def bootstrap_p(gap: Array) -> float:
    """Two-sided p of "no difference" from bootstrap draws of a difference (B,): twice the smaller tail at 0,
    with the + 1 that keeps it above 0 (Davison and Hinkley 1997, 4.11). Exactly equal models get 1.
    """
    gap = gap[~np.isnan(gap)]
    if not len(gap):
        return float("nan")
    tail = min(int((gap <= 0).sum()), int((gap >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(gap)))


def paired_difference(
    first: Array,
    second: Array,
    point: tuple[float, float],
    jackknifes: tuple[Array, Array] | None = None,
    strata: Sequence[Hashable] | None = None,
) -> Difference:
    """second - first for two models scored on the same resampled videos.

    `first`, `second` (B,) are draws from the same weights, `point` the two scores, `jackknifes` their
    leave-one-video-out values.
    """
    if first.shape != second.shape:
        raise StatisticsError(f"{first.shape} and {second.shape} draws: pair models on the same resamplings")
    gap, difference = second - first, point[1] - point[0]
    left_out = None if jackknifes is None else jackknifes[1] - jackknifes[0]
    return Difference(difference, interval(gap, difference, left_out, strata), bootstrap_p(gap))


def sign_flip_p(
    first: Array, second: Array, metric: Metric, permutations: int = DRAWS, seed: int = 0
) -> float:
    """Two-sided p of the cluster permutation test: which model answered a video is exchanged, whole videos at
    a time. A check on `bootstrap_p` that needs no resampling.

    `first`, `second` (videos, D) are the two models' statistics over the same videos. All 2^videos exchanges
    are tried where that is no more than `permutations`.
    """
    if first.shape != second.shape:
        raise StatisticsError(f"{first.shape} and {second.shape} statistics: pair models on the same videos")
    n = len(first)
    every = 2**n <= permutations
    if every:
        flips = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64)
    else:
        flips = np.random.default_rng(seed).integers(0, 2, (permutations, n)).astype(np.float64)
    moved = flips @ (second - first)
    gap = metric(second.sum(0) - moved) - metric(first.sum(0) + moved)
    observed = metric(second.sum(0)) - metric(first.sum(0))
    # Exchanges that leave the gap as it is must count as such whatever the order of the sums.
    extreme = int((np.abs(gap) >= np.abs(observed) - 1e-9 * max(1.0, float(np.abs(observed)))).sum())
    return extreme / len(gap) if every else (1 + extreme) / (1 + len(gap))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p values, in the order given. NaN (no test) stays NaN and is not counted."""
    tested = sorted((v, k) for k, v in p.items() if not np.isnan(v))
    adjusted, highest = dict(p), 0.0
    for i, (value, name) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - i) * value))
        adjusted[name] = highest
    return adjusted


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, in percent. For independent questions: it ignores that they
    come from the same videos.
    """
    if not 0 <= successes <= n or n < 1:
        raise StatisticsError(f"{successes} of {n}: a proportion needs 0 <= successes <= n and n >= 1")
    z = float(ndtri((1 + level) / 2))
    share, scale = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z / scale * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return Interval(100 * max(0.0, centre - half), 100 * min(1.0, centre + half), "wilson")
