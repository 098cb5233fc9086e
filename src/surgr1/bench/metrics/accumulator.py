"""Scoring in pieces: rows may come in any order and from several shards, also cut inside a video."""

from collections.abc import Sequence

import numpy as np

from surgr1.bench.metrics.base import Array, Family, Ints, MetricError, Rows
from surgr1.bench.metrics.sets import distinct


class Accumulator:
    """Collects one card's encoded rows and reduces whole videos at the end.

    Per-video metrics and sequences aren't sums over frames, so the rows are kept (a few to 250 bytes each)
    and every video is finished once all of it is there: merging shards equals scoring everything at once.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._parts: list[tuple[list[str], Ints, Array, Rows]] = []

    def __len__(self) -> int:
        return sum(len(rows) for *_, rows in self._parts)

    def update(self, videos: Sequence[str], order: Sequence[float] | Array, rows: Rows) -> None:
        """Add encoded `rows` (N, W), each with its video and its place in it (a frame number or seconds)."""
        places = np.asarray(order, np.float64)
        if not len(videos) == len(places) == len(rows):
            raise MetricError(
                f"{len(videos)} videos, {len(places)} positions and {len(rows)} rows must be equally many"
            )
        names, codes = distinct(videos)
        self._parts.append((names, codes, places, rows))

    def merge(self, other: "Accumulator") -> None:
        """Take over another shard's rows of the same card."""
        if other.family.scheme.metrics.keys() != self.family.scheme.metrics.keys():
            raise MetricError("only accumulators of the same metrics can be merged")
        self._parts.extend(other._parts)

    def statistics(self) -> tuple[tuple[str, ...], Array]:
        """Videos in the order of their names, and their statistics (V, D)."""
        if not self._parts:
            return (), np.zeros((0, self.family.scheme.width))
        names = tuple(sorted({name for found, *_ in self._parts for name in found}))
        index = {name: k for k, name in enumerate(names)}
        videos = np.concatenate(
            [np.asarray([index[n] for n in ns], np.int64)[c] for ns, c, *_ in self._parts]
        )
        order = np.concatenate([places for _, _, places, _ in self._parts])
        rows = np.concatenate([rows for *_, rows in self._parts])
        sorting = np.lexsort((order, videos))
        return names, self.family.statistics(rows[sorting], videos[sorting], names)

    def result(self) -> dict[str, float]:
        """Every metric over all videos (0..1). Raises MetricError when there are no rows."""
        names, statistics = self.statistics()
        if not names:
            raise MetricError("no rows were added, so there is nothing to score")
        total = statistics.sum(0)
        return {name: float(metric(total)) for name, metric in self.family.scheme.metrics.items()}
