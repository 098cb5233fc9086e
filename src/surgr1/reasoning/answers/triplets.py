"""Triplets of instrument, verb and target, in lists and in sentences."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.answers.labels import near_label
from surgr1.reasoning.answers.lists import read_nothing
from surgr1.reasoning.answers.sentences import DENIAL, LIST_MARK, OR, REFUSAL, is_aside, without_explanation
from surgr1.reasoning.answers.spec import AMBIGUOUS, EMPTY, MISSING, AnswerSpec, Extraction
from surgr1.reasoning.answers.spelling import Lexicon, lexicon_of, normalise, simple, word_set
from surgr1.reasoning.answers.wrapping import TARGET_KEYS, TOOL_KEYS, VERB_KEYS, unwrap
from surgr1.reasoning.trace import Outcome

_ED = {"clip": "clipped", "cut": "cut"}
"""Past forms that do not just take -ed."""
_FIELDS = re.compile(
    r"(?:[\n,;|]\s{0,8})?(?:[-*•]\s{0,4})?"
    rf"\b(?:{'|'.join(VERB_KEYS + TARGET_KEYS)})\s{{0,4}}:"
)
_TOOL_FIELD = re.compile(rf"\b(?:surgical )?(?:{'|'.join(TOOL_KEYS)})\s{{0,4}}:")
_TOKEN = re.compile(r"[^\W_]+|[;\n()\[\]<>{}]|,|[.!?](?=\s|$)")
_HELPERS = word_set(
    "is are was has have been being be used to currently now actively which that gently carefully"
)
_JOINTS = word_set("and while whereas plus then")
_GOING_ON = _JOINTS | word_set(
    "to at with from in on for under is are during which toward towards away upward upwards laterally gently"
    " carefully visible here now or"
)
_Part = tuple[str, str, str]
"""Role ("tool", "verb", "target"), name, rung."""
_Parts = Mapping[int, tuple[int, _Part]]
"""Start of a part among the tokens -> its end and the part."""
_Triplet = tuple[str, str, str, str]
"""Tool, verb, target, rung."""


class _Item(NamedTuple):
    """One item of a triplet answer: its triplets, all parts that it names, whether it is unknown, and whether
    it is more than one bare triplet.
    """

    triplets: tuple[_Triplet, ...]
    parts: tuple[_Part, ...]
    unknown: bool
    prose: bool


class _Scan(NamedTuple):
    """The items of an answer, and whether they are written as fields ("Instrument: ... Verb: ...")."""

    items: tuple[_Item, ...]
    labelled: bool


@lru_cache
def _part_lexicons() -> dict[str, Lexicon]:
    """Lexicons of tools, verbs and targets. Inflected verbs ("retracts", "retracted") have the rung
    "mention": they come from sentences.
    """
    found = {}
    for role in ("tool", "verb", "target"):
        names = vocabulary("cholect50", role)
        lexicon = lexicon_of(names.names, tuple(sorted(names.aliases.items())))
        if role == "verb":
            inflected = {
                form: (name, "mention")
                for name in names.names
                if " " not in name
                for form in (name + "s", _ED.get(name, name + ("d" if name.endswith("e") else "ed")))
                if form != name
            }
            lexicon = replace(lexicon, spelled=lexicon.spelled | inflected, joined=lexicon.joined | inflected)
        found[role] = lexicon
    return found


def _scan(text: str) -> _Scan:
    return _scan_short(text) if len(text) <= 500 else _scan_any(text)


def _scan_any(text: str) -> _Scan:
    """Take a triplet answer apart. A triplet is tool, verb and target in this order, with nothing between
    but commas, bars, arrows, hyphens and helping words ("is", "used to"); a list ends at ; . brackets, "and",
    "while" and new lines.
    """
    plain = re.sub(r"[*`\"']", "", simple(unwrap(text, "triplets")[0]))
    plain = LIST_MARK.sub("\n", re.sub(r"-+>|[|/_→‐-―-]", " ", plain).strip())
    fields = _TOOL_FIELD.search(plain) is not None
    if fields:
        plain = _TOOL_FIELD.sub(";", _FIELDS.sub(" ", plain))
    plain = re.sub(r"^\W*(?:the )?(?:final )?(?:answer|triplets?|actions?)(?: is| are)?\s?:? ", "", plain)
    tokens = [t for t in _TOKEN.findall(plain) if t not in ("a", "an", "the")]
    return _Scan(tuple(_items(tokens, _parts_among(tokens))), fields)


_scan_short = lru_cache(maxsize=16384)(_scan_any)


def _parts_among(tokens: Sequence[str]) -> _Parts:
    """Every tool, verb and target; the longest spelling at a place, left to right."""
    lexicons = _part_lexicons()
    found: dict[int, tuple[int, _Part]] = {}
    start = 0
    while start < len(tokens):
        best = start
        joined = ""
        for end in range(start + 1, min(start + 5, len(tokens) + 1)):
            if not tokens[end - 1][0].isalnum():
                break
            joined += tokens[end - 1]
            for role, lexicon in lexicons.items():
                known = lexicon.joined.get(joined)
                if known:
                    best = end
                    spelled = lexicon.spelled.get(" ".join(tokens[start:end]))
                    found[start] = (end, (role, *(spelled or known)))
        start = max(best, start + 1)
    return found


def _items(tokens: Sequence[str], parts: _Parts) -> Iterator[_Item]:
    """Items between the separators; commas inside a triplet are none."""
    start, later = 0, False
    triplets: list[tuple[int, int, _Triplet]] = []
    for position in range(len(tokens) + 1):
        if triplets and position < triplets[-1][1]:
            continue
        token = tokens[position] if position < len(tokens) else ";"
        if token in _JOINTS or not token[0].isalnum():
            if position > start:
                yield _item(tokens, parts, start, position, triplets, later)
            later = later or token in (".", "!", "?", "\n")
            start, triplets = position + 1, []
        elif found := _triplet_at(tokens, parts, position):
            triplets.append((position, *found))


def _triplet_at(tokens: Sequence[str], parts: _Parts, start: int) -> tuple[int, _Triplet] | None:
    """End of the triplet that starts here, and the triplet. Nouns that go on after the target ("gallbladder
    bed") would be another target.
    """
    names: list[str] = []
    rungs: set[str] = set()
    position = start
    for role in ("tool", "verb", "target"):
        if names and tokens[position : position + 1] == [","]:
            position += 1
        while role == "verb" and position < len(tokens) and tokens[position] in _HELPERS:
            rungs.add("mention")
            position += 1
        end, part = parts.get(position, (0, ("", "", "")))
        if part[0] != role:
            return None
        names.append(part[1])
        rungs.add(part[2])
        position = end
    following = tokens[position : position + 1]
    goes_on = following and following[0][0].isalnum() and following[0] not in _GOING_ON
    if goes_on and parts.get(position, (0, ("", "", "")))[1][0] != "tool":
        return None
    rung = next(r for r in ("mention", "alias", "exact") if r in rungs)
    return position, (names[0], names[1], names[2], rung)


def _item(
    tokens: Sequence[str],
    parts: _Parts,
    start: int,
    end: int,
    triplets: Sequence[tuple[int, int, _Triplet]],
    later: bool,
) -> _Item:
    """The item tokens[start:end] with its triplets (start, end, triplet)."""
    words = tokens[start:end]
    if DENIAL.intersection(words) or REFUSAL.search(" ".join(words)):
        return _Item((), (), False, True)
    inner = {i for a, b, _ in triplets for i in range(a, b)}
    inside = [i for i in range(start, end) if i in parts]
    over = any(parts[i][1][0] in ("tool", "verb") for i in inside if i not in inner)
    return _Item(
        tuple(t for _, _, t in triplets),
        tuple(parts[i][1] for i in inside),
        over or not (triplets or is_aside(" ".join(words), later)),
        len(triplets) != 1 or len(inner) != end - start or triplets[0][2][3] == "mention",
    )


def parse_triplets(text: str) -> list[tuple[str, str, str]]:
    """(tool, verb, target) of every item of an answer whose parts are in CholecT50's vocabularies, whether or
    not the triplet is one of the 100 classes; items that are no triplet are left out.
    """
    return list(dict.fromkeys(t[:3] for item in _scan(text).items for t in item.triplets))


def triplet_components(text: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """All tools, verbs and targets of CholecT50 that an answer gives, also where they make no whole triplet
    (evaluation.md B1, component source "direct"). What is denied, or stands in an explanation, is left out.
    """
    scan = _scan(without_explanation(text))
    parts = {part[:2] for item in scan.items for part in item.parts}
    tools, verbs, targets = (
        frozenset(name for role, name in parts if role == wanted) for wanted in ("tool", "verb", "target")
    )
    return tools, verbs, targets


def read_triplets(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """A set of triplets of the listed classes; every item must be one."""
    known = set(spec.options)
    found = set(text.split(spec.separator))
    if found <= known:
        return Extraction(spec.listing(found), Outcome.OK, "exact")
    clean = normalise(text)
    if not clean:
        return EMPTY
    if nothing := read_nothing(clean):
        return nothing
    head = without_explanation(text)
    scan = _scan(head)
    triplets = [t for item in scan.items for t in item.triplets]
    if OR.search(simple(head)) and any(item.parts for item in scan.items):
        return AMBIGUOUS
    names = {" ".join(t[:3]) for t in triplets}
    if not names or not names <= known or any(item.unknown for item in scan.items):
        return _near_triplets(head, spec) if fuzzy else MISSING
    value = spec.listing(names)
    if head != text or any(item.prose for item in scan.items):
        return Extraction(value, Outcome.REPAIRED, "mention")
    rung = "alias" if any(t[3] == "alias" for t in triplets) else "exact"
    return Extraction(value, Outcome.REPAIRED if scan.labelled else Outcome.OK, rung)


def _near_triplets(text: str, spec: AnswerSpec) -> Extraction:
    """Triplets in near spellings, every item of the list."""
    found = set()
    for item in re.split(r"[;\n]", LIST_MARK.sub("\n", text)):
        if clean := normalise(item):
            whole = spec.lexicon.whole(clean)
            name = whole[0] if whole else near_label(clean, spec).value
            if name is None:
                return MISSING
            found.add(name)
    return Extraction(spec.listing(found), Outcome.REPAIRED, "fuzzy") if found else MISSING
