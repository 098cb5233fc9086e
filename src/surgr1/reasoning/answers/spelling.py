"""How labels are spelt: the normal form of a text, and the labels of a closed vocabulary found in one."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


def word_set(text: str) -> frozenset[str]:
    """The words of a text that lists them."""
    return frozenset(text.split())


# --- Normal form ---

LEAD_NOUN = (
    r"(?:answer|prediction|label|option|choice|phase|stage|step|action|triplet|tool|instrument|tissue"
    r"|structure|count|number|position|quadrant|location)s?"
)
LEAD_ADJECTIVE = r"(?:final|correct|best|predicted|current|present|ongoing|surgical|visible|my|most likely)"
_LEAD = re.compile(
    rf"^(?:(?:{LEAD_ADJECTIVE} )*{LEAD_NOUN}"
    r"(?: ?:| (?:being performed |shown |visible )?(?:is|are)(?: ?:)?)(?: |$))+"
)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b ?")
_APOSTROPHES = str.maketrans(dict.fromkeys("'’‘`´"))


def normalise(text: str) -> str:
    """NFKC, lower case, underscores and hyphens to spaces, markdown and punctuation away, articles and
    lead-ins ("The current phase is", "Final answer:") away. Idempotent.
    """
    return _normalise_short(text) if len(text) <= 200 else _normalise(text)


def _normalise(text: str) -> str:
    # Lower case can leave the normal form ("İ") and the normal form lower case: twice is stable.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower()).lower()
    text = re.sub(r"[_\-/‐-―]", " ", text.translate(_APOSTROPHES))
    text = re.sub(r"\s+", " ", re.sub(r"[^\w\s&:]", " ", text))
    text = _LEAD.sub("", re.sub(r" +", " ", _ARTICLE.sub("", text)).lstrip(": ")).replace(":", " ")
    while True:
        plain = _LEAD.sub("", re.sub(r" +", " ", _ARTICLE.sub("", text)).strip())
        if plain == text:
            return plain
        text = plain


_normalise_short = lru_cache(maxsize=65536)(_normalise)


def simple(text: str) -> str:
    """NFKC, lower case, apostrophes away: punctuation stays."""
    return unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)


# --- Labels of a vocabulary ---


class Hit(NamedTuple):
    """Words `start` to `end` are a spelling of `name`."""

    start: int
    end: int
    name: str
    rung: str


@dataclass(frozen=True)
class Lexicon:
    """Spellings of labels. `spelled`: normalised spelling -> (name, rung); `joined`: the same with the spaces
    away, so that "gall bladder" and "CalotTriangleDissection" are found; `words`: those of the longest
    spelling, with room for one word written apart.
    """

    spelled: dict[str, tuple[str, str]]
    joined: dict[str, tuple[str, str]]
    words: int

    def whole(self, clean: str) -> tuple[str, str] | None:
        """The label that a normalised text is, and its rung."""
        return self.spelled.get(clean) or self.joined.get(clean.replace(" ", ""))

    def find(self, words: Sequence[str]) -> list[Hit]:
        """Labels among words in order. One inside a longer one is left out; two that cross ("left bottom
        right") both count.
        """
        hits = []
        for start in range(len(words)):
            joined = ""
            for end in range(start, min(start + self.words, len(words))):
                joined += words[end]
                known = self.joined.get(joined)
                if known:
                    spelled = self.spelled.get(" ".join(words[start : end + 1]))
                    hit = Hit(start, end + 1, *(spelled or known))
                    hits.append((start - end, hit))
        reach = [0] * len(words)
        chosen = []
        for *_, hit in sorted(hits):
            if reach[hit.start] < hit.end:
                reach[hit.start : hit.end] = [max(r, hit.end) for r in reach[hit.start : hit.end]]
                chosen.append(hit)
        return sorted(chosen)


@lru_cache(maxsize=256)
def lexicon_of(options: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> Lexicon:
    """Spellings of the options; aliases count only where they lead to a listed option. A spelling that would
    lead to two options leads to none, so no order decides.
    """
    exact = [(normalise(option), option) for option in options]
    other = [(normalise(alias), name) for alias, name in aliases if name in options]
    plural = [
        (" ".join([*words[:i], word + "s", *words[i + 1 :]]), name)
        for spelling, name in exact + other
        for words in (spelling.split(),)
        for i, word in enumerate(words)
    ]
    spelled: dict[str, tuple[str, str]] = {}
    for entries, rung in ((exact, "exact"), (other, "alias"), (plural, "alias")):
        spelled |= {s: (n, rung) for s, n in _unique(entries).items() if s not in spelled}
    joined: dict[str, tuple[str, str]] = {}
    for entries in (exact, other, plural):
        added = _unique([(s.replace(" ", ""), n) for s, n in entries])
        joined |= {s: (n, "alias") for s, n in added.items() if s not in joined}
    return Lexicon(spelled, joined, 1 + max((len(s.split()) for s in spelled), default=0))


def _unique(entries: Iterable[tuple[str, str]]) -> dict[str, str]:
    names: dict[str, set[str]] = {}
    for spelling, name in entries:
        names.setdefault(spelling, set()).add(name)
    return {s: next(iter(n)) for s, n in names.items() if len(n) == 1 and s}


def mentions(text: str, table: Mapping[str, str]) -> list[str]:
    """Canonical names whose spelling occurs as whole words in normalised `text`, longest spelling first, each
    stretch counted once.
    """
    words = text.split()
    longest = max((len(s.split()) for s in table), default=0)
    hits = []
    for start in range(len(words)):
        for end in range(start + 1, min(start + longest, len(words)) + 1):
            spelling = " ".join(words[start:end])
            if spelling in table:
                hits.append((-len(spelling), start, end))
    taken = [False] * len(words)
    found: dict[int, str] = {}
    for _, start, end in sorted(hits):
        if not any(taken[start:end]):
            taken[start:end] = [True] * (end - start)
            found[start] = table[" ".join(words[start:end])]
    return list(dict.fromkeys(found[at] for at in sorted(found)))
