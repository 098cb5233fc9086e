"""Triplet recognition on CholecT50's 100 classes, also Renji (evaluation.md B1)."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from surgr1.bench.metrics.base import Array, Family, Ints, Marks, MetricError, Rows, Scheme, join
from surgr1.bench.metrics.precision import COMPONENTS, NULLS, class_map, extract
from surgr1.bench.metrics.sets import (
    distinct,
    encode_sets,
    precision_columns,
    precisions,
    readings,
    readings_columns,
)
from surgr1.ontology.vocabularies import triplet_parts, vocabulary

Triplet = tuple[str, str, str]
Components = tuple[frozenset[str], frozenset[str], frozenset[str]]
"""The tools, verbs and targets an answer names, whether or not they form known triplets."""

_PARTS = ("tool", "verb", "target")
_SIMPLE = ("set", "any", "instance", "jaccard")


@lru_cache
def _classes() -> tuple[Triplet, ...]:
    return tuple(triplet_parts(name) for name in vocabulary("cholect50", "triplet").names)


@lru_cache
def _vocabularies() -> tuple[tuple[str, ...], ...]:
    return tuple(vocabulary("cholect50", kind).names for kind in _PARTS)


def encode_triplets(
    truth: Sequence[frozenset[Triplet]],
    prediction: Sequence[frozenset[Triplet] | None],
    direct: Sequence[Components | None],
) -> Rows:
    """Rows (N, 2 * 100 + 2 + 3 * 2 + 6 + 10 + 15) uint8, one per frame.

    `prediction` is the set of (tool, verb, target) answered, known triplets or not; None is no valid answer,
    wrong everywhere. `direct` are the components parsed from the same answer, also where the triplet is
    unknown or `prediction` is None; None if nothing could be parsed. Raises MetricError for a true triplet
    that isn't one of the 100 classes.
    """
    if not len(truth) == len(prediction) == len(direct):
        raise MetricError(
            f"{len(truth)} frames of truth, {len(prediction)} predictions and {len(direct)} component sets"
            " must be equally many"
        )
    marks, strange, _ = _encode(truth)
    if strange.any():
        frame = int(strange.argmax())
        raise MetricError(f"frame {frame} has true triplets outside the 100: {sorted(truth[frame])}")
    predicted, outside, answered = _encode(prediction)
    columns = [marks, predicted, np.minimum(outside, 255)[:, None], answered[:, None]]
    for k, names in enumerate(_vocabularies()):
        found, unknown, named = encode_sets([None if d is None else d[k] for d in direct], names)
        columns += [found, np.minimum(unknown, 255)[:, None], named[:, None]]
    return np.concatenate(columns, 1, dtype=np.uint8, casting="unsafe")


def _encode(sets: Sequence[frozenset[Triplet] | None]) -> tuple[Marks, Ints, Marks]:
    """Marks of the 100 classes, number of triplets outside them, whether there is an answer."""
    index = {c: i for i, c in enumerate(_classes())}
    unique, places = distinct(sets)
    marks, outside = np.zeros((len(unique), len(index)), bool), np.zeros(len(unique), np.int64)
    for row, triplets in enumerate(unique):
        for triplet in triplets or ():
            if triplet in index:
                marks[row, index[triplet]] = True
            else:
                outside[row] += 1
    answered = np.asarray([s is not None for s in unique], bool)
    return marks[places], outside[places], answered[places]


def triplet_statistics(rows: Rows, videos: Ints, names: Sequence[str]) -> Array:
    """Statistics per video, (V, `triplets().width`), of rows from `encode_triplets`; `videos` (N,) holds
    positions in `names`. The constant answers of the floors are the most frequent true sets of all rows.
    """
    count = len(names)
    width = len(_classes())
    truth, predicted = rows[:, :width].view(bool), rows[:, width : 2 * width].view(bool)
    outside, answered = rows[:, 2 * width].astype(np.int64), rows[:, 2 * width + 1].astype(bool)
    real = width - NULLS
    blocks = [
        readings_columns(truth, predicted, outside, answered, videos, count),
        readings_columns(truth[:, :real], predicted[:, :real], outside, answered, videos, count),
    ]
    nothing = np.zeros(len(rows), np.int64)
    at = 2 * width + 2
    averages = [precision_columns(truth, predicted, videos, count)]
    for component in COMPONENTS[1:]:
        t, p = (extract(x, component).astype(bool, copy=False) for x in (truth, predicted))
        averages.append(precision_columns(t, p, videos, count))
        if len(component) > 1:
            continue
        k = t.shape[1]
        direct, unknown, named = rows[:, at : at + k], rows[:, at + k], rows[:, at + k + 1]
        at += k + 2
        blocks += [
            readings_columns(
                t, direct.view(bool), unknown.astype(np.int64), named.astype(bool), videos, count
            ),
            readings_columns(t, p, nothing, answered, videos, count),
        ]
    return np.concatenate(blocks + averages, 1)


def triplets() -> Scheme:
    """Metrics of triplets.

    `accuracy` (A1, the exact set; primary), `any` (A2), `instance` (A3), `jaccard` (A4), `micro_f1`,
    `macro_f1`, `cardinality`, `hallucinated_per_frame`, `missed_per_frame`; each also as `*_no_null`, the six
    null triplets removed from truth and answer and empty = empty.
    Components `tool`, `verb`, `target`: A1 on the sets the answer names (`direct`), `tool_any`,
    `tool_instance`, `tool_jaccard` likewise; `tool_via_triplet*`: only through the 100 known triplets.
    `map` (video-wise, null kept), `map_no_null`, `map_i`, `map_v`, `map_t`, `map_iv`, `map_it`, all also
    `global_*`, and `*_lift` over the floor. A class that no video has is left out.
    """
    width = len(_classes())
    parts = []
    for suffix in ("", "_no_null"):
        names = {
            "set": f"accuracy{suffix}",
            "any": f"any{suffix}",
            "instance": f"instance{suffix}",
            "jaccard": f"jaccard{suffix}",
            "micro_f1": f"micro_f1{suffix}",
            "cardinality": f"cardinality{suffix}",
            "hallucinated": f"hallucinated_per_frame{suffix}",
            "missed": f"missed_per_frame{suffix}",
        }
        parts.append(readings(names))
    for part in _PARTS:
        for source in (part, f"{part}_via_triplet"):
            parts.append(readings({r: source if r == "set" else f"{source}_{r}" for r in _SIMPLE}))
    parts.append(precisions(width, {"": width, "_no_null": width - NULLS}, f1="macro_f1"))
    for component in COMPONENTS[1:]:
        classes = int(class_map(component).max()) + 1
        parts.append(precisions(classes, {f"_{component}": classes}))
    return join(*parts)


def triplet_sets() -> Family:
    """Triplets with their reduction; rows from `encode_triplets`."""
    return Family(triplets(), triplet_statistics)
