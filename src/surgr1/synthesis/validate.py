"""The gate every trace passes, a teacher's or the model's own: form, answer, entities, the chain from level
to level and the wording must agree with the sample's labels. The checks are in `reasoning.faithfulness` and
`reasoning.prose`; `CHECKS` says what each asks.
"""

from collections.abc import Mapping
from functools import lru_cache

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.answers import (
    AnswerSpec,
    Box,
    extract,
    iou,
    normalise,
    parse_boxes,
    same_answer,
    spec_for,
)
from surgr1.reasoning.faithfulness import check_trace
from surgr1.reasoning.prose import Finding
from surgr1.reasoning.support import Seen
from surgr1.reasoning.trace import Outcome, parse
from surgr1.synthesis.conversations import prepared_answer

BOX_IOU = 0.5
"""A box answer is right at this overlap (the paper's exact match is meaningless for pixels)."""

CHECKS: Mapping[str, str] = {
    "format": "closed think tags, exactly Level 1 to the task's own in order, one answer, nothing after it",
    "answer": "the answer equals the label",
    "no_leak": "nothing says that the answer was given",
    "observes_first": "the first sentence does not conclude what was asked",
    "vocabulary": "instruments and structures are of this kind of operation",
    "tools_supported": "no tool is claimed that the labels exclude, no labelled one denied",
    "tissues_supported": "no structure is claimed that the labels exclude, no labelled one denied",
    "deeds_supported": "who does what to what agrees with the labelled triplets",
    "activity_supported": "no other phase, step or action than the labelled one is claimed",
    "criteria_supported": "criteria are met or not as labelled",
    "cues_supported": "no visual cue of another phase, action or state of a criterion is claimed",
    "places_supported": "quadrants and sides agree with the labelled boxes",
    "numbers_supported": "counts agree with the labels and no measurement is invented",
    "tools_grounded": "Level 1 establishes every labelled tool (where all tools are asked for)",
    "relations_stated": "Level 2 states every labelled triplet (where triplets are asked for)",
    "level2_from_level1": "what acts and is acted on in Level 2 was established in Level 1",
    "level3_from_levels": "Level 3 brings in no tool, target or deed that Levels 1 and 2 lack",
    "not_repetitive": "no sentence twice, no looping phrase",
    "length": "each level has 3 to 160 words, all together 8 to 420",
    "language": "English prose without markup",
}
"""Every check by name. Some apply to some tasks and labels only."""


def is_right(prediction: str | None, label: str, spec: AnswerSpec) -> bool:
    """Whether a canonical answer equals the label; for boxes, overlaps it by `BOX_IOU`. Both in the same
    pixels.
    """
    if prediction is None:
        return False
    if spec.kind == "box":
        return iou(parse_boxes(prediction)[0], parse_boxes(label)[0]) >= BOX_IOU
    if spec.kind == "text":
        label = normalise(label)
    return same_answer(prediction, label, spec)


def validate(
    text: str, sample: Sample, image: PreparedImage, *, finish_reason: str = "stop"
) -> tuple[list[Finding], str | None]:
    """All findings on one trace and the extracted answer. A trace is accepted when every finding is ok."""
    parsed = parse(text, finish_reason=finish_reason)
    spec = _spec(sample.task, sample.options, sample.dataset)
    extraction = extract(parsed, spec)
    counts = extraction.outcome in (Outcome.OK, Outcome.REPAIRED)
    right = counts and is_right(extraction.value, prepared_answer(sample, image), spec)
    seen = seen_of(sample)
    allowed = _vocabulary(sample.dataset)
    if sample.task in (Task.TOOL_RECOGNITION, Task.TISSUE_RECOGNITION):
        allowed = allowed | set(sample.options)
    findings = check_trace(
        parsed, task=sample.task, seen=seen, boxes=_prepared_boxes(sample, image), allowed=allowed
    )
    return [Finding("answer", right, f"{parsed.answer!r} is not the label"), *findings], extraction.value


def seen_of(sample: Sample) -> Seen:
    """What the sample's labels say of its frame."""
    counted = sample.task is Task.TOOL_COUNTING and sample.answer.isdigit()
    return Seen(
        sample.labels,
        sample.dataset,
        load_procedure(sample.procedure),
        sample.width,
        sample.height,
        int(sample.answer) if counted else None,
    )


@lru_cache
def _spec(task: Task, options: tuple[str, ...], dataset: str) -> AnswerSpec:
    return spec_for(task, options, dataset)


@lru_cache
def _vocabulary(dataset: str) -> frozenset[str]:
    kinds = [k for k in ("tool", "tissue", "target") if has_vocabulary(dataset, k)]
    return frozenset(n for k in kinds for n in vocabulary(dataset, k).names)


def _prepared_boxes(sample: Sample, image: PreparedImage) -> list[Box]:
    """The labelled boxes in pixels of the prepared picture, in which traces speak."""
    x, y = image.width / image.original_width, image.height / image.original_height
    return [(b.xyxy[0] * x, b.xyxy[1] * y, b.xyxy[2] * x, b.xyxy[3] * y) for b in sample.labels.boxes or ()]
