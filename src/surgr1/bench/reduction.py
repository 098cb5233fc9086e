"""One card's judged rows as additive statistics per video: the encoding of each kind of answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from surgr1.bench import metrics as m
from surgr1.bench.cards import Card
from surgr1.bench.metrics.base import Array, Ints, Rows
from surgr1.bench.predictions import judge
from surgr1.bench.statistics import Resampled, clusters
from surgr1.reasoning.answers import Box, parse_boxes, parse_triplets, triplet_components
from surgr1.reasoning.trace import Outcome, parse

Row = Mapping[str, Any]
Reading = Literal["strict", "repaired", "fuzzy"]
"""Which answers count: those in the asked form, those that the parser repaired too (the score), and with near
spellings (evaluation.md B10).
"""
_FPS = {"phase_recognition": 1.0, "action_recognition": 10.0}
"""Frames per second of the community's sequence metrics (evaluation.md B2, B3)."""


@dataclass(frozen=True)
class CardStatistics:
    """A card's rows as statistics (V, D) of `videos`, whose `centres` stand beside them; `rows` in the order
    of video and frame. `resampled` says what a cluster is.
    """

    card: Card
    scheme: m.Scheme
    videos: tuple[str, ...]
    centres: tuple[str, ...]
    statistics: Array
    rows: tuple[Row, ...]
    resampled: Resampled

    def value(self, metric: str) -> float:
        """The metric over all videos, in percent; NaN where undefined."""
        return 100 * float(self.scheme.metrics[metric](self.statistics.sum(0)))

    def floor(self, metric: str) -> float | None:
        """What the best constant answer scores, in percent."""
        floor = self.scheme.floors.get(metric)
        return None if floor is None else 100 * float(floor(self.statistics.sum(0)))


def answered(row: Row, reading: Reading = "repaired") -> bool:
    """Whether the row has an answer that counts under a reading."""
    good = (Outcome.OK,) if reading == "strict" else (Outcome.OK, Outcome.REPAIRED)
    return row["outcome"] in good and row["prediction"] is not None


def reduce_card(card: Card, rows: Sequence[Row], reading: Reading = "repaired") -> CardStatistics:
    """Statistics of a card's judged rows. Rows without an answer under the reading stay in as wrong. Raises
    MetricError for a truth that the card's label list does not hold.
    """
    if reading == "fuzzy":
        rows = [judge(r, fuzzy=True) if r["outcome"] == Outcome.OOV else r for r in rows]
    rows = sorted(rows, key=lambda r: (r["video"], r["frame"], r["focus"], r["sample_id"]))
    names = clusters([r["video"] for r in rows])
    videos = tuple(sorted(set(names.labels)))
    place = {v: k for k, v in enumerate(videos)}
    codes = np.asarray([place[v] for v in names.labels], np.int64)
    family = m.family_of(card.kind, card.labels)
    encoded = _encode(card, rows, [answered(r, reading) for r in rows])
    scheme, statistics = family.scheme, family.statistics(encoded, codes, videos)
    dense = _sequences(card, rows, encoded, codes, videos)
    if dense is not None:
        scheme, statistics = m.join(scheme, dense[0]), np.concatenate([statistics, dense[1]], 1)
    centres = dict(zip(names.labels, (r["centre"] for r in rows), strict=True))
    return CardStatistics(
        card, scheme, videos, tuple(centres[v] for v in videos), statistics, tuple(rows), names.stamp
    )


def _sequences(
    card: Card, rows: Sequence[Row], encoded: Rows, codes: Ints, videos: Sequence[str]
) -> tuple[m.Scheme, Array] | None:
    """Relaxed and segmental metrics where every video is a dense sequence, None for a sampled list."""
    fps = _FPS.get(card.task) if card.kind == "label" else None
    if fps is None:
        return None
    seconds = np.asarray([r["seconds"] for r in rows])
    timed = np.column_stack([encoded, seconds])
    classes = len(card.labels)
    if card.task == "action_recognition":
        family = m.action_sequences(classes, fps=fps)
    else:
        rules = m.cholec80(classes) if card.dataset == "cholec80" else m.neighbours(classes)
        family = m.phase_sequences(rules, fps=fps)
    try:
        for k, video in enumerate(videos):
            m.require_dense(seconds[codes == k], video, fps=fps)
        return family.scheme, family.statistics(timed, codes, videos)
    except m.SequenceError:
        return None


def _encode(card: Card, rows: Sequence[Row], counts: Sequence[bool]) -> Rows:
    """The rows as the card's family of metrics reads them."""
    truth = [r["answer"] for r in rows]
    given = [r["prediction"] if c else None for r, c in zip(rows, counts, strict=True)]
    match card.kind:
        case "label":
            return _places(card, rows, truth, given)
        case "text" if card.labels:
            return _places(card, rows, truth, given)
        case "text":
            return m.encode_texts(truth, given)
        case "labels":
            return m.encode_label_sets(
                [_names(t) for t in truth], [None if g is None else _names(g) for g in given], card.labels
            )
        case "triplets":
            return m.encode_triplets(
                [_triplets(t) for t in truth],
                [None if g is None else _triplets(g) for g in given],
                [_direct(r) for r in rows],
            )
        case "cvs":
            criteria, answers = {"C1": 0, "C2": 1, "C3": 2}, {"no": 0, "yes": 1}
            return np.asarray(
                [
                    (criteria[r["focus"]], answers[t], answers.get(g or "", 2), r["frame"])
                    for r, t, g in zip(rows, truth, given, strict=True)
                ],
                np.int64,
            ).reshape(-1, 4)
        case "box":
            return m.encode_boxes(
                _boxes(truth),
                _boxes(given),
                _asked_for(card, rows),
                np.asarray([r["size"] or (1e9, 1e9) for r in rows]),
            )


def _boxes(texts: Sequence[str | None]) -> Array:
    """(N, 4) corners, NaN for no box."""
    nothing = (np.nan,) * 4
    return np.asarray([_box(t) if t else nothing for t in texts], np.float64).reshape(-1, 4)


@lru_cache(maxsize=65536)
def _box(text: str) -> Box:
    return parse_boxes(text)[0]


def ordered_precision(stats: CardStatistics) -> m.OrderedPrecision:
    """COCO AP of a box card's answers, for comparison: it depends on the order of the pictures (evaluation.md
    finding 6).
    """
    rows = stats.rows
    pictures = {key: k for k, key in enumerate(dict.fromkeys((r["video"], r["frame"]) for r in rows))}
    return m.coco_ap_ordered(
        _boxes([r["answer"] for r in rows]),
        _boxes([r["prediction"] if answered(r) else None for r in rows]),
        _asked_for(stats.card, rows),
        [pictures[r["video"], r["frame"]] for r in rows],
    )


def _places(card: Card, rows: Sequence[Row], truth: Sequence[str], given: Sequence[str | None]) -> Rows:
    """(truth, prediction or -1) as places in the card's label list."""
    _require(card, rows, truth, "truth")
    place = {label: k for k, label in enumerate(card.labels)}
    pairs = [(place[t], place.get(g or "", -1)) for t, g in zip(truth, given, strict=True)]
    return np.asarray(pairs, np.int64).reshape(-1, 2)


def _asked_for(card: Card, rows: Sequence[Row]) -> Ints:
    """The class of each box: the place in the card's list of what the question asks for."""
    asked = [r["focus"] for r in rows]
    _require(card, rows, asked, "focus")
    return np.asarray([card.labels.index(a) for a in asked], np.int64)


def _require(card: Card, rows: Sequence[Row], labels: Sequence[str], what: str) -> None:
    """Raise MetricError for the first label that the card's list does not hold."""
    for row, label in zip(rows, labels, strict=True):
        if label not in card.labels:
            raise m.MetricError(
                f"{card.id}: sample {row['sample_id']}: the {what} {label!r} is not in the card's list:"
                f" {', '.join(card.labels)}"
            )


@lru_cache(maxsize=4096)
def _names(text: str) -> frozenset[str]:
    """A canonical list answer as a set."""
    return frozenset() if text == "none" else frozenset(text.split(", "))


@lru_cache(maxsize=4096)
def _triplets(text: str) -> frozenset[m.Triplet]:
    return frozenset(parse_triplets(text))


def _direct(row: Row) -> m.Components | None:
    """The components that the answer names, whether or not its triplets exist (evaluation.md B1: direct)."""
    if row["text"] is None:
        answer = row["prediction"]
    else:
        answer = parse(row["text"], finish_reason=row["finish_reason"]).answer
    return None if answer is None else _components(answer)


@lru_cache(maxsize=4096)
def _components(answer: str) -> m.Components | None:
    found = triplet_components(answer)
    return found if any(found) or answer == "none" else None
