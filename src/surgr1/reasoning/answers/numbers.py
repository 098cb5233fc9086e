"""Counts: one whole number."""

import re

from surgr1.reasoning.answers.lists import read_nothing
from surgr1.reasoning.answers.sentences import is_denied, without_explanation
from surgr1.reasoning.answers.spec import AMBIGUOUS, EMPTY, MISSING, AnswerSpec, Extraction
from surgr1.reasoning.answers.spelling import normalise, simple
from surgr1.reasoning.trace import Outcome

_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
_NUMBER_WORDS = {word: str(i) for i, word in enumerate(_COUNTING.split())} | {"none": "0"}
_QUANTITY = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]+)?(?![\w]|\.[0-9])|[^\W\d_]+|-")
_VAGUE = re.compile(r"\b(?:or|least|most|than|about|around|approximately|over|up to|between|to)\b")


def read_count(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """One whole number, in digits or words up to twenty; "at least 2" and sums are ambiguous."""
    clean = normalise(text)
    if not clean:
        return EMPTY
    if clean in _NUMBER_WORDS:
        return Extraction(_NUMBER_WORDS[clean], Outcome.OK, "alias")
    if nothing := read_nothing(clean):
        return Extraction("0", nothing.outcome, nothing.rung)
    head = simple(without_explanation(text))
    words = _QUANTITY.findall(head)
    lone = [w for w in words if _is_number(w)]
    if lone and _VAGUE.search(head):
        return AMBIGUOUS
    given = [w for i, w in enumerate(words) if _is_number(w) and not is_denied(words, i, i + 1)]
    wholes = {re.sub(r"\.0+$", "", _NUMBER_WORDS.get(w, w)).lstrip("0") or "0" for w in given}
    if len(wholes) > 1:
        return AMBIGUOUS
    if not wholes or not next(iter(wholes)).isdigit():
        return MISSING
    (value,) = wholes
    if len(lone) == 1 and clean == normalise(lone[0]):
        return Extraction(value, Outcome.OK, "exact" if lone[0] == value else "alias")
    return Extraction(value, Outcome.REPAIRED, "mention")


def _is_number(word: str) -> bool:
    return word in _NUMBER_WORDS or word.lstrip("-")[:1].isdigit()
