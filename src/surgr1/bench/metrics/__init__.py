"""Metrics as functions of additive per-video statistics (evaluation.md B0-B6).

Each kind of answer has a `Family`: a `Scheme` of metrics and floors, and `statistics(rows, videos, names)`
that reduces encoded rows to (V, D). `Accumulator` does the same for rows that come in pieces.
"""

from surgr1.bench.metrics.accumulator import Accumulator
from surgr1.bench.metrics.answers import answer_list, answers, encode_texts, exact_set, texts
from surgr1.bench.metrics.base import (
    Array,
    Family,
    Metric,
    MetricError,
    Scheme,
    by_video,
    join,
    ratio,
)
from surgr1.bench.metrics.boxes import (
    OrderedPrecision,
    box_questions,
    boxes,
    clean_boxes,
    coco_ap_ordered,
    encode_boxes,
    overlaps,
)
from surgr1.bench.metrics.classification import (
    classification,
    confusion,
    confusions,
    labels,
    video_columns,
    video_protocols,
)
from surgr1.bench.metrics.cvs import criteria, cvs, cvs_statistics, single_class
from surgr1.bench.metrics.kinds import family_of, scheme_of
from surgr1.bench.metrics.precision import (
    COMPONENTS,
    MeanAveragePrecision,
    average_precision,
    class_map,
    mean_average_precision,
)
from surgr1.bench.metrics.sequences import (
    Boundaries,
    SequenceError,
    action_sequences,
    cholec80,
    majority_filter,
    neighbours,
    phase_sequences,
    require_dense,
    segmental_f1,
)
from surgr1.bench.metrics.sets import encode_label_sets, label_sets
from surgr1.bench.metrics.triplets import (
    Components,
    Triplet,
    encode_triplets,
    triplet_sets,
    triplet_statistics,
    triplets,
)

__all__ = [
    "COMPONENTS",
    "Accumulator",
    "Array",
    "Boundaries",
    "Components",
    "Family",
    "MeanAveragePrecision",
    "Metric",
    "MetricError",
    "OrderedPrecision",
    "Scheme",
    "SequenceError",
    "Triplet",
    "action_sequences",
    "answer_list",
    "answers",
    "average_precision",
    "box_questions",
    "boxes",
    "by_video",
    "cholec80",
    "class_map",
    "classification",
    "clean_boxes",
    "coco_ap_ordered",
    "confusion",
    "confusions",
    "criteria",
    "cvs",
    "cvs_statistics",
    "encode_boxes",
    "encode_label_sets",
    "encode_texts",
    "encode_triplets",
    "exact_set",
    "family_of",
    "join",
    "label_sets",
    "labels",
    "majority_filter",
    "mean_average_precision",
    "neighbours",
    "overlaps",
    "phase_sequences",
    "ratio",
    "require_dense",
    "scheme_of",
    "segmental_f1",
    "single_class",
    "texts",
    "triplet_sets",
    "triplet_statistics",
    "triplets",
    "video_columns",
    "video_protocols",
]
