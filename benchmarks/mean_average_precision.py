"""Mean average precision of triplets and components: ours against ivtmetrics on the same arrays, in one run.

    python benchmarks/mean_average_precision.py [--videos 100] [--frames 1700] [--repeats 3]
        [--components ivt i v t iv it]

Random videos with two triplets per frame on average and as many claims, half of them right; scores 0/1, then
self-consistency shares of ten samples, then continuous. ivtmetrics is the package with its handling of absent
classes mended (they are NaN). Its time is one whole run: update, video_end, then video-wise and global AP of
every component: per 100 videos a quarter of an hour for each kind of scores, or ten seconds with
`--components ivt`, where scikit-learn does most of it. Ours is the median of `--repeats`. Times are of the
processor. Prints their ratio and the largest difference of any class's AP.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from ivtmetrics.recognition import Recognition
from numpy.typing import NDArray

from surgr1.bench.metrics import COMPONENTS, mean_average_precision


class Mended(Recognition):  # type: ignore[misc]
    """ivtmetrics with absent classes as NaN: it looks for "-0.0", which scikit-learn >= 1.6 doesn't return.

    A class with a positive never has an AP of exactly 0, so 0 means absent.
    """

    def resolve_nan(self, classwise: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.asarray(classwise) == 0, np.nan, classwise)


def arrays(videos: int, frames: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """(targets, right-or-wrong claims, videos); each video has about sixty of the hundred triplets."""
    rng = np.random.default_rng(0)
    n = videos * frames
    known = rng.random((videos, 1, 100)) < 0.6
    targets = (rng.random((videos, frames, 100)) < 0.035) & known
    claims = np.where(rng.random((videos, frames, 100)) < 0.5, targets, False)
    claims |= (rng.random((videos, frames, 100)) < 0.015) & known
    return targets.reshape(n, 100), claims.reshape(n, 100), np.repeat(np.arange(videos), frames)


def ours(
    targets: NDArray[Any], scores: NDArray[Any], videos: NDArray[np.int64], components: Sequence[Any]
) -> list[NDArray[np.float64]]:
    return [
        mean_average_precision(targets, scores, wise, component).classes
        for component in components
        for wise in (videos, None)
    ]


def theirs(
    targets: NDArray[Any], scores: NDArray[Any], videos: NDArray[np.int64], components: Sequence[str]
) -> list[NDArray[np.float64]]:
    judge = Mended()
    for v in range(int(videos.max()) + 1):
        judge.update(targets[videos == v].astype(int), scores[videos == v].astype(float))
        judge.video_end()
    return [
        np.asarray(compute(component)["AP"])
        for component in components
        for compute in (judge.compute_video_AP, judge.compute_global_AP)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--frames", type=int, default=1700)
    parser.add_argument("--components", nargs="+", default=list(COMPONENTS))
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", message="No positive class found")
    targets, claims, videos = arrays(chosen.videos, chosen.frames)
    rng = np.random.default_rng(1)
    noise = rng.binomial(10, 0.2, claims.shape) / 10
    cases = {
        "0/1": claims,
        "shares of ten": np.where(
            claims | (rng.random(claims.shape) < 0.02), np.maximum(noise, claims * 0.7), 0.0
        ),
        "continuous": rng.random(claims.shape) + claims,
    }
    print(f"{len(targets)} frames, {chosen.videos} videos, components {' '.join(chosen.components)}")
    for name, scores in cases.items():
        times = []
        for _ in range(chosen.repeats):
            start = time.process_time()
            a = ours(targets, scores, videos, chosen.components)
            times.append(time.process_time() - start)
        start = time.process_time()
        b = theirs(targets, scores, videos, chosen.components)
        slow, fast = time.process_time() - start, statistics.median(times)
        gap = max(float(np.nanmax(np.abs(x - y))) for x, y in zip(a, b, strict=True))
        same = all((np.isnan(x) == np.isnan(y)).all() for x, y in zip(a, b, strict=True))
        print(
            f"{name:>14}: ours {fast:8.3f} s  ivtmetrics {slow:8.2f} s  ratio {slow / fast:7.1f}"
            f"  largest difference {gap:.1e}  same classes absent: {same}"
        )


if __name__ == "__main__":
    main()
