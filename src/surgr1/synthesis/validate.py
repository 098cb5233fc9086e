"""The gate every trace passes, a teacher's or the model's own: form, answer and entities must agree with the
sample's labels.
"""

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.ontology.procedures import load_procedure
from surgr1.reasoning.answers import AnswerSpec, extract, iou, parse_boxes, same_answer, spec_for
from surgr1.reasoning.faithfulness import Finding, check_trace
from surgr1.reasoning.trace import Outcome, parse
from surgr1.synthesis.conversations import prepared_answer

BOX_IOU = 0.5
"""A box answer is right at this overlap (the paper's exact match is meaningless for pixels)."""


def is_right(prediction: str | None, label: str, spec: AnswerSpec) -> bool:
    """Whether a canonical answer equals the label; for boxes, overlaps it by `BOX_IOU`. Both in the same
    pixels.
    """
    if prediction is None:
        return False
    if spec.kind == "box":
        return iou(parse_boxes(prediction)[0], parse_boxes(label)[0]) >= BOX_IOU
    return same_answer(prediction, label, spec)


def validate(
    text: str, sample: Sample, image: PreparedImage, *, finish_reason: str = "stop"
) -> tuple[list[Finding], str | None]:
    """All findings on one trace and the extracted answer. A trace is accepted when every finding is ok."""
    parsed = parse(text, finish_reason=finish_reason)
    spec = spec_for(sample.task, sample.options, sample.dataset)
    extraction = extract(parsed, spec)
    counts = extraction.outcome in (Outcome.OK, Outcome.REPAIRED)
    right = counts and is_right(extraction.value, prepared_answer(sample, image), spec)
    findings = check_trace(
        parsed,
        task=sample.task,
        labels=sample.labels,
        procedure=load_procedure(sample.procedure),
        answer_ok=right,
    )
    return findings, extraction.value
