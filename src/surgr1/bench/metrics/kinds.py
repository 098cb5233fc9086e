"""The metrics of each kind of task card."""

from collections.abc import Sequence
from typing import Literal

from surgr1.bench.metrics.answers import answer_list, texts
from surgr1.bench.metrics.base import Family, Scheme
from surgr1.bench.metrics.boxes import box_questions
from surgr1.bench.metrics.classification import labels as label_family
from surgr1.bench.metrics.cvs import criteria
from surgr1.bench.metrics.sets import label_sets
from surgr1.bench.metrics.triplets import triplet_sets

Kind = Literal["label", "labels", "triplets", "cvs", "box", "text"]


def family_of(kind: Kind, labels: Sequence[str] = ()) -> Family:
    """Metrics and reduction of a card's kind. `labels` is its fixed list: of answers, for boxes of the
    things asked for (() is one class), for texts of the possible answers (() is open).
    """
    match kind:
        case "label":
            return label_family(len(labels))
        case "labels":
            return label_sets(len(labels))
        case "triplets":
            return triplet_sets()
        case "cvs":
            return criteria()
        case "box":
            return box_questions(max(1, len(labels)))
        case "text":
            return answer_list(len(labels)) if labels else texts()


def scheme_of(kind: Kind, labels: Sequence[str] = ()) -> Scheme:
    """The metrics of a card's kind."""
    return family_of(kind, labels).scheme
