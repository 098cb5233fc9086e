"""Predictions to scores: every metric of every card with its floor, its video-clustered interval, its strict
N and the stamp that says what it may be compared with.

`score` returns (and `scores.json` holds; percent unless said otherwise)
    {"name", "model", "draws", "seed", "predictions", "simulated", "final", "valid_format" (share),
     "warnings",
     "cards": [{"id", "title", "dataset", "group", "task", "kind", "primary", "n", "videos",
                "metrics": {name: {"value", "low", "high"}}, "floor", "floors": {name: value}, "chance",
                "lift" (share), "outcomes": {outcome: n}, "rungs": {rung: n}, "coverage" (share),
                "answered_only", "sensitivity": {"strict", "repaired", "fuzzy"}, "valid_format" (share),
                "labels", "confusion" (K x K + 1), "class_counts": {label: n}, "per_video": {video: value},
                "centres": [{"centre", "seen", "n", "videos", "value", "low", "high"}], "warnings",
                "stamp": {"protocol", "form", "questions", "frames", "vocabulary"},
                "asked": {"reasoning", "prompts"}, "usage": `predictions.usage`,
                "ordered_precision" (boxes: COCO AP "ap", "ap50", "ap75", "low", "high" over orders),
                "wilson" (CVS: {"c1", "c2", "c3", "pooled": {"low", "high"}})}],
     "arena": {"public"|"external": {"value", "low", "high", "floor", "lift" (share), "tasks", "missing",
               "renji_triplet_acc"}},
     "calibration": `calibration` or null, "letters": `predictions.letter_counts`}
A value that is undefined (a class that never occurs, say) is null.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from surgr1.bench.arena import PAPER_TASKS, ArenaGroup, arena, arena_lift, arena_paper, lift
from surgr1.bench.calibration import agreement, calibration
from surgr1.bench.cards import all_cards, card_of, digest
from surgr1.bench.metrics import Array, single_class
from surgr1.bench.predictions import is_final, letter_counts, main_rows, usage
from surgr1.bench.reduction import CardStatistics, Reading, Row, answered, ordered_precision, reduce_card
from surgr1.bench.statistics import (
    DRAWS,
    Difference,
    holm,
    interval,
    interval_warning,
    jackknife,
    paired_difference,
    resampled_sums,
    sign_flip_p,
    wilson,
)
from surgr1.ontology.errors import SurgR1Error


class ScoringError(SurgR1Error):
    """Rows that cannot be scored or compared."""


def reduce_all(rows: Sequence[Row]) -> list[CardStatistics]:
    """Statistics of every card that has predictions."""
    by_card: dict[str, list[Row]] = {}
    for row in rows:
        card = card_of(row["dataset"], row["task"])
        if card is not None:
            by_card.setdefault(card.id, []).append(row)
    return [reduce_card(c, by_card[c.id]) for c in all_cards() if c.id in by_card]


def score(
    rows: Sequence[Row],
    *,
    name: str,
    draws: int = DRAWS,
    seed: int = 0,
    seen_centres: Collection[str] | None = None,
    price: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Scores of one model's judged rows (`predictions.read_predictions`) in the form of the module docstring.

    `seen_centres` are the centres that the model was trained on; without them the cards say which hospitals
    also gave a public set. `price` is US dollars per million tokens in and out. Raises ScoringError when no
    row belongs to a card.
    """
    first = main_rows(rows)
    cards = reduce_all(first)
    if not cards:
        found = sorted({f"{r['dataset']} {r['task']}" for r in first})[:5]
        raise ScoringError(
            f"{name}: no row belongs to a task card; found {', '.join(found) or 'no rows'};"
            " `surgr1 bench tasks` lists the cards"
        )
    body = []
    sampled: dict[ArenaGroup, dict[str, Array]] = {"public": {}, "external": {}}
    for stats in cards:
        resampled = _resampled(stats, draws, seed)
        body.append(_card(stats, resampled, seen_centres, price))
        card = stats.card
        if card.group != "extra":
            sampled[card.group][card.id] = 100 * stats.scheme.metrics[card.primary](resampled)
    counted = [r for stats in cards for r in stats.rows]
    final = is_final(counted)
    return {
        "name": name,
        "model": ", ".join(sorted({r["model"] for r in counted if r["model"]})),
        "draws": draws,
        "seed": seed,
        "predictions": len(counted),
        "simulated": any(r["dataset"].startswith("sim-") for r in counted),
        "final": final,
        "valid_format": sum(r["valid_format"] for r in counted) / len(counted),
        "warnings": [] if final else ["not final: over 0.5 % of the requests failed; ask again to fill them"],
        "cards": body,
        "arena": {g: _arena(g, body, d) for g, d in sampled.items() if d},
        "calibration": _calibration(rows),
        "letters": letter_counts(counted),
    }


def _resampled(stats: CardStatistics, draws: int, seed: int) -> Array:
    """Sums of the statistics over each resampling of the card's videos, (draws, D), within centres. Seeded by
    the dataset, so that two models (and two tasks of a dataset) share them.
    """
    offset = int.from_bytes(stats.card.dataset.encode()[:6], "big") % 100_003
    return resampled_sums(stats.statistics, draws, seed + offset, stats.centres)


def _json(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _bounds(stats: CardStatistics, metric: str, resampled: Array) -> dict[str, float | None]:
    """Value and interval of one metric, in percent."""
    function = stats.scheme.metrics[metric]
    value = stats.value(metric)
    found = interval(
        100 * function(resampled), value, 100 * jackknife(stats.statistics, function), stats.centres
    )
    return {"value": _json(value), "low": _json(found.low), "high": _json(found.high)}


def _card(
    stats: CardStatistics,
    resampled: Array,
    seen_centres: Collection[str] | None,
    price: tuple[float, float] | None,
) -> dict[str, Any]:
    card, rows = stats.card, stats.rows
    primary, floor = stats.value(card.primary), stats.floor(card.primary) or 0.0
    given = [r for r in rows if answered(r)]
    only = reduce_card(card, given).value(card.primary) if given else 0.0
    chance = stats.scheme.chance.get(card.primary)
    total = stats.statistics.sum(0)
    warning = interval_warning(len(stats.videos), stats.resampled)
    warnings = [warning] if warning else []
    if card.kind == "cvs" and (alone := single_class(total)):
        warnings.append(f"{', '.join(alone)}: frames of one class only, left out of the macro averages")
    single = stats.scheme.metrics[card.primary](stats.statistics)
    table = card.kind in ("label", "text") and card.labels
    confusion = (
        total[: len(card.labels) * (len(card.labels) + 1)].reshape(len(card.labels), -1)
        if table
        else np.zeros((0, 0))
    )
    return {
        "id": card.id,
        "title": card.title,
        "dataset": rows[0]["dataset"],
        "group": card.group,
        "task": str(card.task),
        "kind": card.kind,
        "primary": card.primary,
        "n": len(rows),
        "videos": len(stats.videos),
        "metrics": {name: _bounds(stats, name, resampled) for name in stats.scheme.metrics},
        "floor": floor,
        "floors": {name: _json(stats.floor(name) or 0.0) for name in stats.scheme.floors},
        "chance": 0.0 if chance is None else 100 * float(chance(total)),
        "lift": lift(primary, floor),
        "outcomes": dict(Counter(r["outcome"] for r in rows)),
        "rungs": dict(Counter(r["rung"] or "none" for r in rows)),
        "coverage": len(given) / len(rows),
        "answered_only": only,
        "sensitivity": {r: _under(stats, r) for r in ("strict", "repaired", "fuzzy")},
        "valid_format": sum(r["valid_format"] for r in rows) / len(rows),
        "labels": list(card.labels) if table else [],
        "confusion": confusion.astype(int).tolist(),
        "class_counts": dict(Counter(r["answer"] for r in rows)) if card.kind != "box" else {},
        "per_video": {v: _json(100 * float(x)) for v, x in zip(stats.videos, single, strict=True)},
        "centres": _centres(stats, resampled, seen_centres),
        "warnings": warnings,
        "stamp": {
            "protocol": _one({r["protocol"] for r in rows}),
            "form": _one({r["form"] for r in rows}),
            "questions": digest(sorted({_question(r) for r in rows})),
            "frames": digest(sorted([r["dataset"], r["video"], r["frame"], r["focus"]] for r in rows)),
            "vocabulary": card.vocabulary_hash,
        },
        "asked": {
            "reasoning": _one({"levels" if r["reasoning"] else "answer alone" for r in rows}),
            "prompts": digest(sorted({r["prompt_sha"] for r in rows})),
        },
        "usage": usage(rows, price),
        "ordered_precision": _ordered(stats),
        "wilson": _wilson(stats),
    }


def _wilson(stats: CardStatistics) -> dict[str, dict[str, float]]:
    """Wilson intervals of the CVS accuracies, in percent, for comparison with tables that have no videos
    (evaluation.md B4); {} for other kinds.
    """
    if stats.card.kind != "cvs":
        return {}
    right = [(r["focus"], answered(r) and r["prediction"] == r["answer"]) for r in stats.rows]
    parts = {f.lower(): [hit for focus, hit in right if focus == f] for f in sorted({f for f, _ in right})}
    parts["pooled"] = [hit for _, hit in right]
    found = {name: wilson(sum(hits), len(hits)) for name, hits in parts.items()}
    return {name: {"low": i.low, "high": i.high} for name, i in found.items()}


def _ordered(stats: CardStatistics) -> dict[str, Any] | None:
    """COCO AP over one order of the pictures and its range over other orders, in percent; boxes only."""
    if stats.card.kind != "box":
        return None
    found = asdict(ordered_precision(stats))
    return {k: 100 * v if isinstance(v, float) else [100 * x for x in v] for k, v in found.items()}


def _one(values: set[str]) -> str:
    return values.pop() if len(values) == 1 else "mixed"


def _question(row: Row) -> str:
    """What decides whether two rows were asked the same: the wording and the options that stood in it."""
    offered = row["options"] if row["protocol"] == "options" else []
    return json.dumps([row["focus"], row["question"], offered, row["letters"]])


def _under(stats: CardStatistics, reading: Reading) -> float | None:
    """The primary score under a reading of the ladder."""
    touched = {"strict": "repaired", "fuzzy": "oov"}.get(reading)
    if touched is None or not any(r["outcome"] == touched for r in stats.rows):
        return _json(stats.value(stats.card.primary))
    return _json(reduce_card(stats.card, stats.rows, reading).value(stats.card.primary))


def _centres(
    stats: CardStatistics, resampled: Array, seen_centres: Collection[str] | None
) -> list[dict[str, Any]]:
    """The primary score of each centre. One centre's interval is the card's own."""
    card, found = stats.card, []
    for centre in sorted(set(stats.centres)):
        mine = np.asarray([c == centre for c in stats.centres])
        part = stats.statistics[mine]
        function = stats.scheme.metrics[card.primary]
        sums = resampled if mine.all() else resampled_sums(part, len(resampled), 0)
        value = 100 * float(function(part.sum(0)))
        bounds = interval(100 * function(sums), value)
        seen = centre in seen_centres if seen_centres is not None else card.seen_centre
        found.append(
            {
                "centre": centre,
                "seen": seen,
                "n": sum(r["centre"] == centre for r in stats.rows),
                "videos": int(mine.sum()),
                "value": _json(value),
                "low": _json(bounds.low),
                "high": _json(bounds.high),
            }
        )
    return found


def _arena(
    group: ArenaGroup, cards: Sequence[Mapping[str, Any]], draws: Mapping[str, Array]
) -> dict[str, Any]:
    mine = [c for c in cards if c["group"] == group]
    values = {c["id"]: c["metrics"][c["primary"]]["value"] for c in mine}
    paper = arena_paper({c["id"]: {k: v["value"] for k, v in c["metrics"].items()} for c in mine}, group)
    floors = {c["id"]: c["floor"] for c in mine}
    value = arena(values)
    bounds = interval(np.mean(list(draws.values()), axis=0), value)
    return {
        "value": value,
        "low": bounds.low,
        "high": bounds.high,
        "floor": arena(floors),
        "lift": arena_lift(values, floors),
        "tasks": sorted(values),
        "missing": [t for t in PAPER_TASKS[group] if t not in values],
        "renji_triplet_acc": paper.renji_triplet_acc,
    }


def _calibration(rows: Sequence[Row]) -> dict[str, Any] | None:
    """How well the agreement of several completions of a question tells that their majority is right; None
    where every question was asked once. Boxes are left out: no two are equal.
    """
    samples: dict[str, list[Row]] = {}
    for row in rows:
        card = card_of(row["dataset"], row["task"])
        if card is not None and card.kind != "box":
            samples.setdefault(row["sample_id"], []).append(row)
    if not any(len(group) > 1 for group in samples.values()):
        return None
    confidence: list[float] = []
    correct: list[bool] = []
    for group in samples.values():
        answer, share = agreement([r["prediction"] if answered(r) else None for r in group])
        confidence.append(share)
        correct.append(answer == group[0]["answer"])
    body = asdict(calibration(confidence, correct))
    return body | {"bins": [{k: _json(v) for k, v in b.items()} for b in body["bins"]]}


def compare(
    before: Sequence[Row], after: Sequence[Row], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Paired differences after - before, in percent, of every card's primary score and of the Arena Scores,
    on the same resampled videos.

    Values: {"difference", "low", "high", "p" (two-sided, bootstrap), "p_holm" (adjusted over the cards),
    "p_sign_flip" (cluster permutation)}; the Arena Scores have only p. Keys are card ids, "arena-public",
    "arena-external". Cards that only one side has are left out. Raises ScoringError when a card's questions
    differ.
    """
    old = {s.card.id: s for s in reduce_all(main_rows(before))}
    found: dict[str, dict[str, float]] = {}
    arenas: dict[str, list[tuple[Array, Array]]] = {"public": [], "external": []}
    scores: dict[str, list[tuple[float, float]]] = {"public": [], "external": []}
    for new in reduce_all(main_rows(after)):
        card = new.card
        if card.id not in old:
            continue
        one = old[card.id]
        if [r["sample_id"] for r in one.rows] != [r["sample_id"] for r in new.rows]:
            raise ScoringError(
                f"{card.id}: the two files answer other questions ({len(one.rows)} and {len(new.rows)} rows);"
                " a paired comparison needs the same frame list"
            )
        metric = new.scheme.metrics[card.primary]
        first, second = (100 * metric(_resampled(s, draws, seed)) for s in (one, new))
        points = one.value(card.primary), new.value(card.primary)
        left_out = (100 * jackknife(one.statistics, metric), 100 * jackknife(new.statistics, metric))
        gap = paired_difference(first, second, points, left_out, new.centres)
        found[card.id] = _flat(gap) | {"p_sign_flip": sign_flip_p(one.statistics, new.statistics, metric)}
        if card.group != "extra":
            arenas[card.group].append((first, second))
            scores[card.group].append(points)
    for card_id, p in holm({k: v["p"] for k, v in found.items()}).items():
        found[card_id]["p_holm"] = p
    for group, parts in arenas.items():
        if parts:
            a, b = np.mean([[one, two] for one, two in parts], axis=0)
            was, now = np.mean(scores[group], axis=0)
            found[f"arena-{group}"] = _flat(paired_difference(a, b, (float(was), float(now))))
    return found


def _flat(gap: Difference) -> dict[str, float]:
    return {"difference": gap.difference, "low": gap.interval.low, "high": gap.interval.high, "p": gap.p}


def write_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Write `scores.json` atomically."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    part.replace(path)
