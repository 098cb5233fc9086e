"""Where in a level's text its claims stand, and whether the frame's labels support them: a text cut into
pieces, some of them marked.

The reading is that of `reasoning.statements`, the judgement that of `reasoning.support`; here the words are
found again as they were written (aliases, plurals, capitals). What is not marked claims nothing, or was not
read.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from surgr1.ontology.procedures import Procedure
from surgr1.reasoning.lexicon import ANY, NULL, Token, lexicon, sentences, spell
from surgr1.reasoning.statements import Statement, read_text
from surgr1.reasoning.support import Judged, Seen, Verdict, judge, same_thing

_SENTENCE = re.compile(r"[^.!?;\n]+")
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_BREAK = re.compile(r"[,:()\[\]]")
_LOOKING = frozenset(["with", "has", "have", "is", "are"])
"""What begins a description of how an entity looks."""
_LONGEST = 12
"""Words of the longest phrase of the lexicon, articles and gaps included."""
_ACTIVITIES = ("phase", "step", "action")
_CLAIMING = frozenset(
    [
        *(
            "tool",
            "tissue",
            "instrument",
            "structure",
            "verb",
            "idle",
            "nobody",
            "place",
            "number",
            "finding",
        ),
        *("criterion", *_ACTIVITIES),
    ]
)


@dataclass(frozen=True)
class Piece:
    """A part of a text as written. Without a verdict it claims nothing; `reason` is what the labels say."""

    text: str
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True)
class MarkedLevel:
    """One level: `pieces` joined are its text; `judged` are its statements in order."""

    level: int
    pieces: tuple[Piece, ...]
    judged: tuple[Judged, ...]


def mark_level(text: str, level: int, seen: Seen) -> MarkedLevel:
    """The text with every claim marked. Total: any string gives pieces whose texts joined are that string."""
    pieces: list[Piece] = []
    judged: dict[Statement, Judged] = {}
    at = 0
    for sentence in _SENTENCE.finditer(text):
        found = judge(read_text(sentence.group(), level, seen.procedure), seen)
        judged |= {j.statement: j for j in found}
        for start, end, token in _phrases(sentence.group(), seen.procedure):
            start, end = start + sentence.start(), end + sentence.start()
            about = _about(token, found, seen)
            if about and start >= at:
                pieces += _plain(text[at:start])
                pieces.append(_decided(text[start:end], about))
                at = end
    return MarkedLevel(level, (*pieces, *_plain(text[at:])), tuple(judged.values()))


def _plain(text: str) -> list[Piece]:
    return [Piece(text)] if text else []


def _decided(text: str, about: Sequence[Judged]) -> Piece:
    """One refuted claim about these words outweighs the supported ones, which outweigh what is open."""
    order: tuple[Verdict, ...] = ("refuted", "supported", "unlabelled")
    verdict = next(v for v in order if any(j.verdict == v for j in about))
    reasons = dict.fromkeys(j.reason for j in about if j.verdict == verdict and j.reason)
    return Piece(text, verdict, "; ".join(reasons))


def _about(token: Token, found: Sequence[Judged], seen: Seen) -> list[Judged]:
    """What is claimed with a phrase. A tool or tissue is marked by being there, a target by being what that
    tool acts on: a wrong verb, place or number leaves a right tool right, and is marked itself.
    """
    about = [j for j in found if _is_about(token, j.statement)]
    if token.type not in ("tool", "tissue"):
        return about
    claims = []
    for j in about:
        s = j.statement
        if s.kind in ("tool", "tissue") or (s.kind == "deed" and s.negated):
            claims.append(j)
        elif s.kind == "deed" and token.value == s.subject:
            claims += judge([Statement("tool", s.level, s.subject, "seen", text=s.text)], seen)
        elif s.kind == "deed":
            deeds = seen.labels.triplets or ()
            right = any(same_thing(s.subject, tool) and target == s.object for tool, _, target in deeds)
            claims.append(replace(j, verdict="supported") if right else j)
    return claims or about


def _is_about(token: Token, s: Statement) -> bool:
    """Whether a phrase holds the words that a statement was read from."""
    if token.type in ("tool", "tissue", "instrument", "structure"):
        names = (token.value,) if token.type in ("tool", "tissue") else (ANY, "instrument")
        if s.kind == "deed":
            return s.object in names or s.subject in names
        return s.kind in ("tool", "tissue", "place", "count") and s.subject in names
    if token.type in ("verb", "idle", "nobody"):
        doing = {"verb": token.value, "idle": NULL, "nobody": "acts"}[token.type]
        return s.kind == "deed" and s.predicate == doing
    if token.type == "finding":
        clipping = s.kind == "deed" and s.predicate == "clip" and token.value == "clips set"
        return clipping or (s.kind == "cue" and s.subject == token.value)
    if token.type == "place":
        return s.kind == "place" and s.object == token.value
    if token.type == "number":
        return s.kind == "count" and s.object == token.value
    if token.type == "criterion":
        return s.kind == "criterion" and s.subject == token.value
    return s.kind == token.type and s.subject == token.value


def _phrases(sentence: str, procedure: Procedure) -> Iterator[tuple[int, int, Token]]:
    """(start, end, token) of the phrases that may claim something, in order, as the lexicon reads them in
    this sentence.
    """
    read = {(t.type, t.value) for clean in sentences(sentence) for t in lexicon(procedure).tokens(clean)}
    read = {(kind, value) for kind, value in read if kind in _CLAIMING}
    if not read:
        return
    known = frozenset(read)
    words = list(_words(sentence))

    def token(first: int, end: int) -> Token | None:
        return _token(_joined(sentence, words[first:end]), procedure, known)

    k = 0
    while k < len(words):
        best: tuple[int, Token] | None = None
        for end in range(k + 1, min(len(words), k + _LONGEST) + 1):
            found = token(k, end)
            # "hook with a long shaft" is the hook again: the shorter words name it.
            if found and (best is None or found != best[1]):
                best = (end, found)
        if best is None:
            k += 1
            continue
        end, start = best[0], k
        if words[k][0] in _LOOKING:
            # "with an L-shaped tip at the left": how the hook looks is no part of the place.
            start = next((s for s in range(k + 1, end) if token(s, end) == best[1]), k)
        yield words[start][1], words[end - 1][2], best[1]
        k = end


def _joined(sentence: str, words: Sequence[tuple[str, int, int]]) -> str:
    """The words as they stand in the cleaned sentence: what separates clauses is a comma."""
    phrase = words[0][0]
    for (_, _, end), (word, start, _) in pairwise(words):
        phrase += f"{',' if _BREAK.search(sentence, end, start) else ''} {word}"
    return phrase


def _words(sentence: str) -> Iterator[tuple[str, int, int]]:
    """(cleaned word, start, end in the raw sentence); "can't" gives two words at one place."""
    for match in _WORD.finditer(sentence):
        for word in spell(match.group()).split():
            yield word, match.start(), match.end()


@lru_cache(maxsize=1 << 16)
def _token(phrase: str, procedure: Procedure, read: frozenset[tuple[str, str]]) -> Token | None:
    """The one token that a phrase is, of those `read` in its sentence."""
    kinds = {kind for kind, _ in read}
    probes = [("", phrase, "")]
    if "criterion" in kinds:
        # Only a sentence that speaks of criteria names one, and only one that claims names a phase.
        probes.insert(0, ("", phrase, " met"))
    if kinds & set(_ACTIVITIES):
        probes.insert(0, ("phase is ", phrase, ""))
    for before, words, after in probes:
        tokens = lexicon(procedure).tokens(before + words + after)
        first, last = len(before.split()), len(tokens) - len(after.split())
        if last - first == 1 and all(t.type == "word" for t in (*tokens[:first], *tokens[last:])):
            token = tokens[first]
            if (token.type, token.value) in read:
                return token
    return None
