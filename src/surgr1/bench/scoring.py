"""Predictions to scores: every metric with its floor, its video-clustered bootstrap interval and its strict
N.

`scores.json`:
    {"stage", "draws", "seed", "predictions", "valid_format",
     "cards": [{"id", "title", "dataset", "group", "primary", "n", "videos", "metrics": {name: {"value",
     "low", "high"}}, "floor", "chance", "lift",
                "outcomes": {name: n}, "rungs": {name: n}, "coverage", "answered_only", "valid_format",
                "labels", "confusion", "warnings"}],
     "arena": {"public"|"external": {"value", "low", "high", "floor", "lift", "tasks"}}}
All scores are in percent; `lift`, `coverage` and `valid_format` are shares.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.bench import metrics as m
from surgr1.bench.arena import arena, arena_lift, lift
from surgr1.bench.cards import Card, all_cards
from surgr1.ontology.vocabularies import triplet_parts, vocabulary
from surgr1.reasoning.answers import iou, parse_boxes, parse_triplets

Row = Mapping[str, Any]
Array = NDArray[np.float64]
MIN_VIDEOS = 6


@dataclass(frozen=True)
class CardStatistics:
    """A card's rows reduced to additive statistics: `videos` (V, D) in the order of `names`."""

    card: Card
    scheme: m.Scheme
    names: tuple[str, ...]
    videos: Array
    rows: tuple[Row, ...]
    labels: tuple[str, ...] = ()

    def point(self, metric: str) -> float:
        return 100 * float(self.scheme.metrics[metric](self.videos.sum(0)))

    @property
    def floor(self) -> float:
        return 100 * float(self.scheme.floors[self.card.primary](self.videos.sum(0)))

    def draws(self, metric: str, weights: Array) -> Array:
        """The metric on each resampling; `weights` (draws, V) counts how often each video was drawn."""
        return 100 * self.scheme.metrics[metric](weights @ self.videos)


def bootstrap_weights(videos: int, draws: int, seed: int) -> Array:
    """How often each video is drawn in each resampling with replacement: (draws, videos)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(videos, np.full(videos, 1 / videos), size=draws).astype(np.float64)


def _counts(row: Row) -> bool:
    """Whether the prediction carries an answer at all (outcome ok or repaired)."""
    return row["outcome"] in ("ok", "repaired") and row["prediction"] is not None


def reduce_card(card: Card, rows: Sequence[Row]) -> CardStatistics:
    """Statistics per video of one card's predictions."""
    rows = sorted(rows, key=lambda r: (r["video"], r["frame"], r["focus"], r["sample_id"]))
    by_video: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_video[row["video"]].append(row)
    names = tuple(by_video)
    groups = [by_video[v] for v in names]
    if card.kind == "label":
        labels = tuple(rows[0]["options"])
        index = {x: i for i, x in enumerate(labels)}
        stats = [
            m.confusion(
                [index[r["answer"]] for r in g],
                [index.get(r["prediction"], -1) if _counts(r) else -1 for r in g],
                len(labels),
            ).ravel()
            for g in groups
        ]
        return CardStatistics(
            card, m.classification(len(labels)), names, np.stack(stats), tuple(rows), labels
        )
    if card.kind == "triplets":
        classes = [triplet_parts(n) for n in vocabulary("cholect50", "triplet").names]
        truth = {r["sample_id"]: frozenset(parse_triplets(r["answer"])) for r in rows}
        mode = Counter(truth.values()).most_common(1)[0][0]
        stats = [
            m.triplet_statistics(
                [truth[r["sample_id"]] for r in g],
                [frozenset(parse_triplets(r["prediction"])) if _counts(r) else None for r in g],
                classes,
                mode,
            )
            for g in groups
        ]
        return CardStatistics(card, m.triplets(len(classes)), names, np.stack(stats), tuple(rows))
    if card.kind == "cvs":
        return CardStatistics(card, m.cvs(), names, np.stack([_cvs(g) for g in groups]), tuple(rows))
    if card.kind == "box":
        stats = []
        for g in groups:
            overlaps = np.asarray(
                [
                    (
                        iou(parse_boxes(r["prediction"])[0], parse_boxes(r["answer"])[0])
                        if _counts(r) and parse_boxes(r["prediction"])
                        else 0.0
                    )
                    for r in g
                ]
            )
            stats.append(
                np.asarray([len(g), overlaps.sum(), (overlaps >= 0.5).sum(), (overlaps >= 0.75).sum()])
            )
        return CardStatistics(card, m.boxes(), names, np.stack(stats), tuple(rows))
    common = Counter(r["answer"] for r in rows).most_common(1)[0][0]
    stats = [
        np.asarray(
            [
                len(g),
                sum(_counts(r) and r["prediction"] == r["answer"] for r in g),
                sum(r["answer"] == common for r in g),
            ],
            float,
        )
        for g in groups
    ]
    return CardStatistics(card, m.exact_set(), names, np.stack(stats), tuple(rows))


def _cvs(rows: Sequence[Row]) -> Array:
    """(3, 2, 3) table and the joint counts over frames on which all three criteria were asked."""
    table = np.zeros((3, 2, 3))
    frames: defaultdict[int, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        truth = int(row["answer"] == "yes")
        given = {"no": 0, "yes": 1}.get(row["prediction"], 2) if _counts(row) else 2
        table[["C1", "C2", "C3"].index(row["focus"]), truth, given] += 1
        frames[row["frame"]][row["focus"]] = given == truth
    whole = [f for f in frames.values() if len(f) == 3]
    return np.concatenate([table.ravel(), [sum(all(f.values()) for f in whole), len(whole)]])


def reduce_all(rows: Sequence[Row]) -> list[CardStatistics]:
    """Statistics of every card that has predictions."""
    found = []
    for card in all_cards():
        mine = [r for r in rows if card.matches(r["dataset"], r["task"])]
        if mine:
            found.append(reduce_card(card, mine))
    return found


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _card_weights(stats: CardStatistics, draws: int, seed: int) -> Array:
    """Resamplings of one card's videos. Seeded by the dataset, so that two stages (and two tasks of a
    dataset) share them.
    """
    offset = int.from_bytes(stats.card.dataset.encode()[:6], "big") % 100_003
    return bootstrap_weights(len(stats.names), draws, seed + offset)


def score(rows: Sequence[Row], *, stage: str, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Scores of one stage's predictions in the form of the module docstring."""
    rows = list(rows)
    cards = reduce_all(rows)
    body: list[dict[str, Any]] = []
    sampled: dict[str, dict[str, Array]] = {"public": {}, "external": {}}
    for stats in cards:
        card = stats.card
        weights = _card_weights(stats, draws, seed)
        values = {}
        for name in stats.scheme.metrics:
            low, high = _interval(stats.draws(name, weights))
            values[name] = {"value": stats.point(name), "low": low, "high": high}
        answered = [r for r in stats.rows if _counts(r)]
        only = reduce_card(card, answered).point(card.primary) if answered else 0.0
        primary = values[card.primary]["value"]
        warnings = (
            [f"{len(stats.names)} videos: the cluster interval is unreliable under {MIN_VIDEOS}"]
            if len(stats.names) < MIN_VIDEOS
            else []
        )
        if card.group != "extra":
            sampled[card.group][card.id] = stats.draws(card.primary, weights)
        body.append(
            {
                "id": card.id,
                "title": card.title,
                "dataset": stats.rows[0]["dataset"],
                "group": card.group,
                "primary": card.primary,
                "n": len(stats.rows),
                "videos": len(stats.names),
                "metrics": values,
                "floor": stats.floor,
                "lift": lift(primary, stats.floor),
                "chance": 100 / len(stats.labels) if stats.labels else 50.0 if card.kind == "cvs" else 0.0,
                "outcomes": dict(Counter(r["outcome"] for r in stats.rows)),
                "rungs": dict(Counter(r["rung"] or "none" for r in stats.rows)),
                "coverage": len(answered) / len(stats.rows),
                "answered_only": only,
                "valid_format": sum(r["valid_format"] for r in stats.rows) / len(stats.rows),
                "labels": list(stats.labels),
                "confusion": (
                    stats.videos.sum(0).reshape(len(stats.labels), -1).astype(int).tolist()
                    if stats.labels
                    else []
                ),
                "warnings": warnings,
            }
        )
    arenas = {}
    for group, draws_by_task in sampled.items():
        if draws_by_task:
            values_by_task = {
                c["id"]: c["metrics"][c["primary"]]["value"] for c in body if c["group"] == group
            }
            floors = {c["id"]: c["floor"] for c in body if c["group"] == group}
            low, high = _interval(np.mean(list(draws_by_task.values()), axis=0))
            arenas[group] = {
                "value": arena(values_by_task),
                "low": low,
                "high": high,
                "floor": arena(floors),
                "lift": arena_lift(values_by_task, floors),
                "tasks": sorted(values_by_task),
            }
    return {
        "stage": stage,
        "draws": draws,
        "seed": seed,
        "predictions": len(rows),
        "valid_format": sum(r["valid_format"] for r in rows) / max(1, len(rows)),
        "cards": body,
        "arena": arenas,
    }


def compare(
    before: Sequence[Row], after: Sequence[Row], *, draws: int = 2000, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Paired differences after - before of every card's primary score and of the Arena Scores, on the same
    resampled videos.

    Values: {"difference", "low", "high", "p"}; p is two-sided from the bootstrap. Keys are card ids,
    "arena-public", "arena-external".
    """
    old = {s.card.id: s for s in reduce_all(before)}
    found: dict[str, dict[str, float]] = {}
    sums: dict[str, list[tuple[float, Array]]] = {"public": [], "external": []}
    for new in reduce_all(after):
        card = new.card
        if card.id not in old or old[card.id].names != new.names:
            continue
        weights = _card_weights(new, draws, seed)
        gap = new.draws(card.primary, weights) - old[card.id].draws(card.primary, weights)
        point = new.point(card.primary) - old[card.id].point(card.primary)
        found[card.id] = _difference(point, gap)
        if card.group != "extra":
            sums[card.group].append((point, gap))
    for group, parts in sums.items():
        if parts:
            found[f"arena-{group}"] = _difference(
                float(np.mean([p for p, _ in parts])), np.mean([g for _, g in parts], axis=0)
            )
    return found


def _difference(point: float, gap: Array) -> dict[str, float]:
    low, high = _interval(gap)
    p = 2 * min(float((gap <= 0).mean()), float((gap >= 0).mean()))
    return {"difference": point, "low": low, "high": high, "p": min(1.0, p)}


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Write `scores.json` atomically."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    part.replace(path)
