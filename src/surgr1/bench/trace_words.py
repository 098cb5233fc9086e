"""Which names a text affirms, by word lists and negation: tools and targets that it says are there, phases,
steps and actions that it says are under way; and the lexicons of these names.

`reasoning.statements` reads negation too, for another question: it asks what a clause claims, in the words of
one known procedure, and leaves hedged clauses unread. Here the question is whether a name is there, for any
lexicon: "not touched by the hook" denies a deed and affirms the hook, "no instrument other than the grasper"
and "possibly a hook" affirm, and the procedure may be unknown. Reading the names out of its statements
instead changes these verdicts, so the two stand side by side.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from types import MappingProxyType
from typing import Literal

from surgr1.ontology.procedures import load_procedure, procedure_names
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.answers import normalise
from surgr1.reasoning.answers.spelling import word_set

Lexicon = Mapping[str, str]
"""Normalised spelling -> canonical name."""
LexiconKind = Literal["tool", "target", "verb", "phase", "step", "action"]


@dataclass(frozen=True)
class Word:
    """A word of a sentence, lower case."""

    text: str
    comma: bool
    """A comma, colon, dash or bracket stands before it."""
    the: bool
    """ "the" stands before it; articles are no words of their own."""


@dataclass(frozen=True)
class Mention:
    """A name in a sentence: words `start` to `end` (exclusive); `denied` when the sentence says it is not
    there.
    """

    name: str
    spelling: str
    start: int
    end: int
    denied: bool


_NEGATORS = word_set(
    "no not without neither nor never cannot lacks lacking unlike dont doesnt didnt isnt arent wasnt cant"
)
# "is not touched by the hook", "nothing but the hook": the hook is there.
_RESETS = word_set("by with but except besides beyond while whereas although however which that")
_REACH = 4
"""Words that may stand between a negation and what it denies."""
_LIST = word_set("or nor and any")
_AUXILIARIES = r"(?:(?:is|are|was|were|be|been|has|have|can|could|does|do|itself|clearly|currently|still) )*"
_SEEN = (
    r"(?:visible|seen|present|view|identified|identifiable|apparent|appear|found|shown|used|use|observed"
    r"|detected|discernible)"
)
_ABSENT = re.compile(
    rf"{_AUXILIARIES}(?:(?:not|no longer|never|cannot|isnt|arent|wasnt|cant|doesnt|dont)(?: \w+){{0,2}}?"
    rf" {_SEEN}\b|(?:absent|missing|lacking|invisible|nowhere|out of (?:view|sight|frame))\b)"
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, as written."""
    return [s for s in re.split(r"[.;!?]+(?=\s|$)|\n", text) if s.strip()]


def split_words(sentence: str) -> list[Word]:
    """The words of a sentence without articles and apostrophes; hyphens part words."""
    clean = unicodedata.normalize("NFKC", sentence).lower().replace("’", "'").replace("'", "")
    found: list[Word] = []
    comma = the = False
    for raw in re.findall(r"[^\W_]+|[,&]", re.sub(r"[—():]", ",", clean)):
        if raw == ",":
            comma = True
        elif raw == "the":
            the = True
        elif raw not in ("a", "an"):
            found.append(Word(raw, comma, the))
            comma = the = False
    return found


def _denied_before(words: Sequence[Word], start: int, stop: int) -> bool:
    """Whether a negation within reach, in the same clause and after the mention that ends at `stop`, denies
    what starts at `start`.
    """
    for i in range(start - 1, max(stop, start - 1 - _REACH) - 1, -1):
        if words[i + 1].comma or words[i].text in _RESETS:
            return False
        word, before = words[i].text, words[i - 1].text if i else ""
        if word == "than":
            return before == "rather"
        if word == "of" and before in ("instead", "absence", "lack"):
            return True
        if word in _NEGATORS:
            return not (word == "not" and words[i + 1].text == "only")
    return False


def _listed(words: Sequence[Word], one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two stretches are neighbours in one list: "clipper, scissors or a hook"."""
    gap = [w.text for w in words[one[1] : other[0]]]
    first = words[other[0]]
    if gap and gap[0] in ("or", "nor"):
        return len(gap) <= 2
    return all(g in _LIST for g in gap) and (bool(gap) or first.comma) and not first.the


def find_names(words: Sequence[Word], lexicon: Lexicon) -> list[Mention]:
    """Names in the words of one sentence, longest spelling first, with what is denied."""
    longest = max((s.count(" ") + 1 for s in lexicon), default=0)
    spans: list[tuple[int, int, str]] = []
    at = 0
    while at < len(words):
        for size in range(min(longest, len(words) - at), 0, -1):
            spelling = " ".join(w.text for w in words[at : at + size])
            if spelling in lexicon:
                spans.append((at, at + size, spelling))
                at += size
                break
        else:
            at += 1
    denied = [False] * len(spans)
    for i, (start, end, _) in enumerate(spans):
        denied[i] = _denied_before(words, start, spans[i - 1][1] if i else 0) or (
            i > 0 and denied[i - 1] and _listed(words, spans[i - 1][:2], (start, end))
        )
    # "The clipper and the hook are not visible": what follows denies the whole list.
    for i in reversed(range(len(spans))):
        end = spans[i][1]
        following = spans[i + 1] if i + 1 < len(spans) else None
        gap = words[end : following[0] if following else len(words)]
        tail = " ".join(w.text for w in takewhile(lambda w: not w.comma, gap))
        after_denied = (
            following is not None
            and denied[i + 1]
            and all(w.text in _LIST for w in gap)
            and not _denied_before(words, following[0], end)
        )
        denied[i] = denied[i] or bool(_ABSENT.match(tail)) or after_denied
    return [
        Mention(lexicon[spelling], spelling, start, end, no)
        for (start, end, spelling), no in zip(spans, denied, strict=True)
    ]


def affirmed_names(text: str, lexicon: Lexicon) -> frozenset[str]:
    """Canonical names that the text says are there. A name that one sentence denies and another affirms is
    affirmed; hedges ("possibly a hook") affirm. `lexicon` maps normalised spellings to canonical names.
    """
    return frozenset(
        m.name for s in sentences(text) for m in find_names(split_words(s), lexicon) if not m.denied
    )


_KIND_WORDS = word_set("phase step stage action gesture activity")
_POINTERS = _KIND_WORDS | word_set(
    "fits fit represents represent matches indicates suggests shows depicts corresponds consistent"
    " characteristic typical belongs during constitutes therefore thus hence"
)
_ELSEWHEN = word_set(
    "before after following prior next preceding precedes towards toward until subsequent upcoming later"
    " previous earlier completed follows preparing prepares ready transition leads leading"
)
_ADVERBS = word_set("likely most probably clearly now currently still therefore thus")
_UNDER_WAY = re.compile(r"(?:is |are )?(?:under ?way|ongoing|in progress|being performed)\b")


def claims(text: str, lexicon: Lexicon) -> frozenset[str]:
    """Labels (phases, steps, actions) that the text says the frame shows: "the phase is X", "the X phase",
    "this fits X", "X is under way", or a sentence that is X alone.

    A label's words in running text ("in preparation for the clips", "gallbladder retraction helps") and
    another time ("before clipping and cutting") claim nothing.
    """
    found = set()
    for sentence in sentences(text):
        words = split_words(sentence)
        for m in find_names(words, lexicon):
            before = [w.text for w in words[max(0, m.start - 4) : m.start]]
            after = [w.text for w in words[m.end : m.end + 3]]
            if m.denied or _ELSEWHEN & set(before[-3:]):
                continue
            plain = [w for w in before if w not in _ADVERBS]
            if (
                len(words) == m.end - m.start
                or _POINTERS & set(before)
                or plain[-1:] == ["is"]
                or (after and after[0] in _KIND_WORDS)
                or _UNDER_WAY.match(" ".join(after))
            ):
                found.add(m.name)
    return frozenset(found)


# --- Lexicons ---


def _verb_forms(verb: str) -> list[str]:
    """ "clip" -> clip, clips, clipped, clipping; "dissect" also dissection."""
    stem = verb.removesuffix("e")
    double = stem + stem[-1] if re.search(r"^[^aeiou]*[aeiou][^aeiouwxy]$", stem) else stem
    noun = [stem + "ion"] if stem.endswith(("ct", "at")) else []
    return [verb, verb + "s", double + "ed", double + "ing", *noun]


def _plural(spelling: str) -> str:
    if spelling.endswith("s"):
        return spelling
    return spelling[:-1] + "ies" if spelling.endswith("y") else spelling + "s"


@lru_cache(maxsize=256)
def lexicon(dataset: str, procedure: str, kind: LexiconKind) -> Lexicon:
    """Normalised spelling -> canonical name of a kind in a dataset. The names are the dataset's vocabulary
    where it has one, else the procedure's; aliases come from both. Empty where neither is known.
    """
    known = load_procedure(procedure) if procedure in procedure_names() else None
    entries: list[tuple[str, str]] = []
    if known:
        entities = {"tool": known.tools, "target": known.tissues}.get(kind, ())
        entries += [(s, e.name) for e in entities for s in (e.name, *e.aliases)]
        entries += [(v.name, v.name) for v in known.verbs if kind == "verb"]
        activities = {"phase": known.phases, "step": known.steps, "action": known.actions}.get(kind, ())
        entries += [(a.name, a.name) for a in activities]
    if has_vocabulary(dataset, kind):
        words = vocabulary(dataset, kind)
        entries = [(s, n) for s, n in (*entries, *words.aliases.items()) if n in words.names]
        entries += [(n, n) for n in words.names]
    table = {normalise(s): n for s, n in entries if not n.startswith("null ")}
    if kind in ("tool", "target"):
        table = {_plural(s): n for s, n in table.items()} | table
    elif kind == "verb":
        table = {form: n for s, n in table.items() for form in _verb_forms(s)} | table
    return MappingProxyType(table)
