"""The ladder: from a completion to an extraction, for every kind of answer."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from surgr1.reasoning.answers.boxes import read_box
from surgr1.reasoning.answers.labels import read_label, read_text, read_yes_no
from surgr1.reasoning.answers.lists import read_labels
from surgr1.reasoning.answers.numbers import read_count
from surgr1.reasoning.answers.sentences import refuses
from surgr1.reasoning.answers.spec import AnswerSpec, Extraction, Kind
from surgr1.reasoning.answers.triplets import read_triplets
from surgr1.reasoning.answers.wrapping import unwrap
from surgr1.reasoning.trace import Outcome, ParsedTrace, parse

_READERS: Mapping[Kind, Callable[[str, AnswerSpec, bool], Extraction]] = MappingProxyType(
    {
        "label": read_label,
        "labels": read_labels,
        "triplets": read_triplets,
        "box": read_box,
        "yes_no": read_yes_no,
        "count": read_count,
        "text": read_text,
    }
)


def extract(
    answer: str | ParsedTrace, spec: AnswerSpec, *, finish_reason: str = "stop", fuzzy: bool = False
) -> Extraction:
    """Climb the ladder. Never raises, never draws, has no default. `fuzzy` admits the near-spelling rung
    (score >= 90, margin >= 5).
    """
    parsed = parse(answer, finish_reason=finish_reason) if isinstance(answer, str) else answer
    if parsed.answer is None:
        return Extraction(None, parsed.outcome)
    found = _extract(parsed.answer, spec, fuzzy)
    if found.outcome is Outcome.OK and parsed.outcome is Outcome.REPAIRED:
        return replace(found, outcome=Outcome.REPAIRED)
    return found


def _extract(answer: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    if spec.kind == "label" and answer in spec.options:
        return Extraction(answer, Outcome.OK, "exact")
    text, repaired = unwrap(answer, spec.kind) if spec.kind != "box" else (answer, "\\boxed" in answer)
    found = _READERS[spec.kind](text, spec, fuzzy)
    if found.value is None:
        if found.outcome is Outcome.OOV and refuses(answer):
            return Extraction(None, Outcome.REFUSED)
        return found
    return replace(found, outcome=Outcome.REPAIRED) if repaired else found


def same_answer(a: str | None, b: str, spec: AnswerSpec) -> bool:
    """Equality of canonical answers; lists are sets. Boxes must be equal to the pixel (IoU is the caller's
    business).
    """
    if a is None:
        return False
    if spec.kind in ("labels", "triplets"):
        return set(a.split(spec.separator)) == set(b.split(spec.separator))
    return a == b
