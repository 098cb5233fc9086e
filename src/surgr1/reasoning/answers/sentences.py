"""What a sentence does with a label that it names: denies, doubts, declines or only explains it."""

import re
from collections.abc import Sequence

from surgr1.reasoning.answers.spelling import simple, word_set

DENIAL = word_set(
    "not no never without neither nor cannot cant isnt arent wasnt werent dont doesnt didnt hasnt havent wont"
    " unlike than instead exclude excludes excluding excluded except ruled absent unlikely before after prior"
    " next previous following until whether if unclear unable"
)
"""A label within three words after one of these is not given: negation, another time, a condition."""
_DENIED_AFTER = re.compile(
    r"(?:phase |step |stage |action )?(?:isnt|hasnt|cannot|cant|doesnt|didnt|wasnt"
    r"|(?:(?:is|are|was|has|have|had|can|could|does|do|did|seems?|appears?|be|been) )+"
    r"(?:not|never|ruled|excluded|absent|unlikely|incorrect|wrong))\b"
)
KIND_NOUNS = word_set("phase step stage action option")
_PARTLY = word_set("partially partly almost nearly incompletely")
OR_WORDS = word_set("or either versus vs maybe perhaps possibly")
OR = re.compile(rf"\b(?:{'|'.join(sorted(OR_WORDS))})\b")
"""In a list one of these leaves open which items are meant."""
_EXPLANATION = re.compile(
    r"\n[\s*_#>-]{0,8}(?:explanation|reasoning|rationale|justification|reasons?|notes?)\b"
    r"|\b(?:because|since|due to|as evidenced by)\b",
    re.IGNORECASE,
)
_ASIDE_START = re.compile(r"\W*(?:\w{2,}ing|which|while|with|to|so|under|toward|towards|at|on|in|of)\b")
_ASIDE_SENTENCE = re.compile(
    r"(?!\W*(?:a|an|another|also|there|i|we)\b).*\b(?:is|are|was|were|has|have|been)\b", re.DOTALL
)
REFUSAL = re.compile(
    r"\bsorry\b|\bas an ai\b|\bapologi[sz]e\b|\b(?:decline|refuse) to\b|\bno answer\b|\bunknown\b|\bn/a\b"
    r"|\b(?:not|un)[ -]?(?:sure|certain|able)\b|\bwont be able\b"
    r"|\bdo(?: not|nt) (?:know|have (?:the|enough|sufficient))\b"
    r"|\b(?:can ?not|cant|could ?nt|could not|wont) (?:be )?(?:\w+ly )?"
    r"(?:assist|help|answer|determined?|provide|see|view|tell|identif(?:y|ied)|say|certain|sure|confirm|count|give"
    r"|recogni[sz]ed?|analy[sz]ed?|interpret|assess(?:ed)?|make out|comply|discern|judged?)\b"
    r"|\bnot (?:possible|clear enough|enough information)\b|\binsufficient (?:information|evidence|data)\b"
    r"|\b(?:impossible|difficult|hard) to (?:determine|tell|say|identify|answer)\b"
)
"""For text in the form of `simple`."""
LIST_MARK = re.compile(r"(?:^|(?<=\n))\s*(?:\(?\d{1,2}[.)](?=\s)|[-*•#>]+(?=\s))\s*")


def refuses(text: str) -> bool:
    """Whether a text declines to answer."""
    return REFUSAL.search(simple(text)) is not None


def is_denied(words: Sequence[str], start: int, end: int, floor: int = 0) -> bool:
    """Whether what stands at words[start:end] is negated, put at another time or under a condition by words
    from `floor` on: the "not" of a label "not achieved" before it is none of its own.
    """
    before = words[max(floor, start - 3) : start]
    if any(w in DENIAL and before[i + 1 : i + 2] != ["only"] for i, w in enumerate(before)):
        return True
    return _DENIED_AFTER.match(" ".join(words[end : end + 5])) is not None


def is_hedged(words: Sequence[str], start: int, end: int) -> bool:
    """Whether "or" stands at a label or "partially" before it."""
    while end < len(words) and words[end] in KIND_NOUNS:
        end += 1
    before = words[max(0, start - 1) : start]
    return "or" in (*before, *words[end : end + 1]) or not _PARTLY.isdisjoint(before)


def is_aside(item: str, later: bool) -> bool:
    """Whether an item without a label is an explanation: a participle clause ("exposing the duct"), or a
    sentence after the first that brings in nothing ("The tissue is under tension.", not "A laser is seen").
    """
    return bool(_ASIDE_START.match(item) or (later and _ASIDE_SENTENCE.match(item)))


def without_explanation(text: str) -> str:
    """The text before an explanation; all of it where nothing stands before."""
    cut = _EXPLANATION.search(text)
    return text[: cut.start()] if cut and re.search(r"\w", text[: cut.start()]) else text
