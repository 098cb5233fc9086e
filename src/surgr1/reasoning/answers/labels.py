"""One label: its name, a letter, the label that a sentence states, a near spelling; yes or no; open text."""

import re
from types import MappingProxyType

from rapidfuzz import fuzz

from surgr1.reasoning.answers.sentences import (
    KIND_NOUNS,
    LIST_MARK,
    OR_WORDS,
    REFUSAL,
    is_denied,
    is_hedged,
    without_explanation,
)
from surgr1.reasoning.answers.spec import AMBIGUOUS, EMPTY, MISSING, AnswerSpec, Extraction
from surgr1.reasoning.answers.spelling import LEAD_ADJECTIVE, LEAD_NOUN, normalise, simple, word_set
from surgr1.reasoning.trace import Outcome

_CLAUSE = re.compile(r"[\n;:!?,()\[\]{}\"“”]|\.(?=\s|$)|\s[-–]+\s|—|\bbut\b")
_STATING = KIND_NOUNS | word_set(
    "is are be being as in likely probably definitely clearly currently now say says called performing shows"
    " depicts answer"
)
"""A label that ends a clause is stated after one of these."""
_DOUBT = OR_WORDS | word_set("might could may actually alternatively instead wait rather correction")
_EVERYDAY = word_set("yes no true false other none")
_LISTING = word_set("and or either both &")
# "B", "(b)", "option b", "b) name", "b. name", "b: name", "b - name", "b name".
_LETTER = re.compile(
    r"\W*(?:(?:option|choice|letter) )?([(\[]?)([a-z])(?![\w'])([)\].:,]*)\s*([-–—:]?)\s*(.*)", re.DOTALL
)
_LETTER_LEAD = re.compile(
    rf"^(?:the )?(?:{LEAD_ADJECTIVE} )*{LEAD_NOUN}(?: (?:is|are))?:? (?=\W*(?:option )?[(\[]?[a-z]\b)"
)
_LETTER_AFTER = re.compile(r"(.*\w)\W*[(\[]([a-z])[)\]]\W*", re.DOTALL)


def read_letter(text: str, spec: AnswerSpec) -> Extraction | None:
    """A text that is a letter, alone or with the name of its option; None for any other. A name of another
    option makes it ambiguous. "A" followed by words is the article.
    """
    plain = _LETTER_LEAD.sub("", simple(text).replace("*", "").replace("`", "").strip())
    match = _LETTER.fullmatch(plain)
    if match:
        opening, letter, closing, dash, rest = match.groups()
        marked = bool(opening or closing or dash)
    else:
        match = _LETTER_AFTER.fullmatch(plain)
        if not match:
            return None
        rest, letter = match.groups()
        marked = True
    index = ord(letter) - ord("a")
    rest = normalise(rest)
    named = spec.lexicon.whole(rest)
    article = letter == "a" and not marked
    if index >= len(spec.options) or (rest and (article or not named)):
        return None
    if named and named[0] != spec.options[index]:
        return AMBIGUOUS
    return Extraction(spec.options[index], Outcome.OK, "letter")


def read_label(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """One label. Every step needs it alone, or as the only one stated or mentioned."""
    text = LIST_MARK.sub("", text) if "\n" not in text else text
    if spec.letters and (letter := read_letter(text, spec)):
        return letter
    clean = normalise(text)
    if not clean:
        return EMPTY
    whole = spec.lexicon.whole(clean)
    if whole:
        return Extraction(whole[0], Outcome.OK, whole[1])
    found = _read(without_explanation(text), spec)
    if found is MISSING and fuzzy:
        return near_label(clean, spec)
    return found


def _read(text: str, spec: AnswerSpec) -> Extraction:
    """The one label that the clauses of a text state, or else mention."""
    whole = spec.lexicon.whole
    stated: dict[str, str] = {}
    named: dict[str, str] = {}
    doubted: set[str] = set()
    refused = hedged = False
    for clause in _CLAUSE.split(simple(text)):
        if REFUSAL.search(clause):
            refused = True
            continue
        if spec.letters:
            stated |= dict.fromkeys(_letters(clause, spec), "letter")
        words = normalise(clause).split()
        hits = spec.lexicon.find(words)
        listed = {w for hit in hits for w in range(hit.start, hit.end)}
        listing = all(w in _LISTING for i, w in enumerate(words) if i not in listed)
        last = max((i for i, w in enumerate(words) if w not in KIND_NOUNS), default=-1)
        doubt = not _DOUBT.isdisjoint(words)
        end = 0
        for hit in hits:
            spelling, name = " ".join(words[hit.start : hit.end]), hit.name
            ends = hit.end > last
            states = listing or (ends and (hit.start == 0 or words[hit.start - 1] in _STATING))
            floor, end = end, hit.end
            if is_denied(words, hit.start, hit.end, floor):
                # "has not been achieved" is the label "not achieved" where there is one.
                opposite = whole(f"not {spelling}") or whole(f"not {normalise(name)}")
                if not opposite:
                    continue
                name, states = opposite[0], ends
            elif spelling in _EVERYDAY and not states:
                continue
            hedged = hedged or is_hedged(words, hit.start, hit.end)
            named.setdefault(name, "mention")
            if states:
                stated.setdefault(name, "mention")
            elif doubt:
                doubted.add(name)
    if hedged or len(stated) > 1 or (stated and doubted - set(stated)):
        return AMBIGUOUS
    if not stated and refused:
        return MISSING
    given = stated or named
    if len(given) != 1:
        return AMBIGUOUS if given else MISSING
    ((name, rung),) = given.items()
    return Extraction(name, Outcome.REPAIRED, rung)


def _letters(clause: str, spec: AnswerSpec) -> list[str]:
    """Options whose letter a clause is, lists or ends with ("I think it is B", "or maybe C")."""
    words = re.findall(r"\w+", clause)
    letters = [w for w in words if len(w) == 1 and 0 <= ord(w) - ord("a") < len(spec.options)]
    if not letters or (len(letters) < len(words) and not set(words) <= {*letters, *_LISTING}):
        last = len(words) - 1
        said = last > 0 and words[last - 1] in ("is", "be", "option", "choice", "answer", "letter")
        said = said or not _DOUBT.isdisjoint(words)
        letters = letters[-1:] if letters and said and words[-1] == letters[-1] else []
        if is_denied(words, last, last + 1):
            return []
    return [spec.options[ord(w) - ord("a")] for w in letters]


def near_label(clean: str, spec: AnswerSpec) -> Extraction:
    """The one label of a near spelling: score >= 90, 5 more than any other label's, word by word no worse
    than 80, so that "action" is no misspelt "retraction".
    """
    words = clean.split()
    best: dict[str, float] = {}
    for spelling, (name, _) in spec.lexicon.spelled.items():
        if abs(len(clean) - len(spelling)) <= len(spelling) // 4 + 1:
            best[name] = max(best.get(name, 0.0), fuzz.ratio(clean, spelling))
    ranked = sorted(best, key=lambda name: -best[name])
    if not ranked or best[ranked[0]] < 90 or (len(ranked) > 1 and best[ranked[0]] - best[ranked[1]] < 5):
        return MISSING
    for spelling, (name, _) in spec.lexicon.spelled.items():
        theirs = spelling.split()
        if name != ranked[0] or len(theirs) != len(words):
            continue
        if all(fuzz.ratio(a, b) >= 80 for a, b in zip(words, theirs, strict=True)):
            return Extraction(name, Outcome.REPAIRED, "fuzzy")
    return MISSING


_YES_NO = AnswerSpec(
    "label",
    ("yes", "no"),
    MappingProxyType(
        {
            "true": "yes",
            "achieved": "yes",
            "yes it is": "yes",
            "met": "yes",
            "satisfied": "yes",
            "false": "no",
            "not achieved": "no",
            "no it is not": "no",
            "no it isnt": "no",
            "not met": "no",
            "not satisfied": "no",
        }
    ),
)


def read_yes_no(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """Yes or no. "no" before a noun ("no fat remains") says nothing about the question."""
    return read_label(text, _YES_NO, False)


def read_text(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """A label where there are options, else any text in normal form."""
    if spec.options:
        return read_label(text, spec, fuzzy)
    clean = normalise(text)
    return Extraction(clean, Outcome.OK, "exact") if clean else EMPTY
