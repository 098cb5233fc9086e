"""Lists of labels, and the answer that there is nothing to list."""

import re
from collections.abc import Iterator

from surgr1.reasoning.answers.labels import near_label, read_letter
from surgr1.reasoning.answers.sentences import DENIAL, LIST_MARK, OR, is_aside, is_denied, without_explanation
from surgr1.reasoning.answers.spec import AMBIGUOUS, EMPTY, MISSING, AnswerSpec, Extraction
from surgr1.reasoning.answers.spelling import normalise, simple
from surgr1.reasoning.trace import Outcome

_SENTENCE = re.compile(r"\n+|(?<=[.!?])\s+")
_NOTHING = re.compile(
    r"(?:there (?:is|are) )?(?:none|nothing|no (?:surgical |visible )*"
    r"(?:instruments?|tools?|triplets?|actions?|interactions?|tissues?|structures?))(?: (?:is|are))?"
    r"(?: (?:visible|present|seen|shown|detected|here|in (?:this )?(?:image|frame|view|picture)))*"
)
_NOTHING_ALIASES = frozenset(
    f"no {noun}{end}"
    for noun in ("instrument", "tool", "triplet")
    for end in ("", "s", " visible", "s visible")
)
_AND = re.compile(r"\band\b|&|\bplus\b|\bas well as\b")


def read_nothing(clean: str) -> Extraction | None:
    """The answer that there is none of what was asked for."""
    if clean == "none":
        return Extraction("none", Outcome.OK, "exact")
    if clean in _NOTHING_ALIASES:
        return Extraction("none", Outcome.OK, "alias")
    if _NOTHING.fullmatch(clean):
        return Extraction("none", Outcome.REPAIRED, "mention")
    return None


def read_labels(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """A set of labels; every item of the list must be one."""
    found, rungs, prose = set(text.split(spec.separator)), {"exact"}, False
    if not found <= set(spec.options):
        clean = normalise(text)
        if not clean:
            return EMPTY
        if nothing := read_nothing(clean):
            return nothing
        head = without_explanation(text)
        found, rungs, prose, unknown = _listed(head, spec, fuzzy)
        if found and OR.search(simple(head)):
            return AMBIGUOUS
        if unknown or not found:
            return MISSING
        prose = prose or head != text
    value = spec.listing(found)
    if prose:
        return Extraction(value, Outcome.REPAIRED, "fuzzy" if "fuzzy" in rungs else "mention")
    rung = next(r for r in ("letter", "alias", "exact") if r in rungs)
    return Extraction(value, Outcome.OK, rung)


def _listed(text: str, spec: AnswerSpec, fuzzy: bool) -> tuple[set[str], set[str], bool, bool]:
    """Labels, rungs, whether anything but labels was written, and whether an item is unknown."""
    found: set[str] = set()
    rungs: set[str] = set()
    prose = unknown = False
    for number, sentence in enumerate(_SENTENCE.split(LIST_MARK.sub("\n", simple(text)).strip())):
        for item in _parts(sentence, spec):
            clean = normalise(item)
            hit = spec.lexicon.whole(clean)
            letter = read_letter(item, spec) if spec.letters else None
            if letter and letter.value:
                hit = (letter.value, "letter")
            if not hit and fuzzy and (near := near_label(clean, spec)).value:
                hit, prose = (near.value, "fuzzy"), True
            if hit:
                found.add(hit[0])
                rungs.add(hit[1])
                continue
            if not clean:
                continue
            prose = True
            words = clean.split()
            hits = spec.lexicon.find(words)
            unknown = unknown or not (hits or is_aside(item, number > 0) or DENIAL.intersection(words))
            found |= {h.name for h in hits if not is_denied(words, h.start, h.end)}
    return found, rungs, prose, unknown


def _parts(sentence: str, spec: AnswerSpec) -> Iterator[str]:
    """Items between commas; where an item is no label itself, also between "and"."""
    for item in re.split(r"[;,|\[\]]", sentence):
        if spec.lexicon.whole(normalise(item)):
            yield item
        else:
            yield from _AND.split(item)
