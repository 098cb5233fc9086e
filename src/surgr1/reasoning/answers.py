"""From an answer text to a canonical answer, or to the reason why there is none (evaluation.md B10, steps
3-8), whatever kind of model wrote it.

One ladder for every task: the canonical spelling ("exact"), another spelling of it ("alias": the frozen alias
table, a plural or possessive s, written together or apart), a letter where the prompt offered letters, the
only label of a sentence ("mention"), a near spelling where that is asked for ("fuzzy"). The first three are
`ok` in the asked form; list marks, quotes, brackets, bold and a lead-in such as "The phase is" are form, not
content. What had to be dug out of JSON, LaTeX, a sentence or a text without tags is `repaired`.

Judgement calls, the same for all tasks:

- A label is not given where it is negated ("not preparation", "preparation has not begun"), set at another
  time ("before clipping and cutting") or under a refusal or a condition ("cannot tell whether it is ...").
- A label alone in a clause, or at its end after "is", "in" and the like, is stated. One stated label goes
  before labels that are only mentioned (explanations), unless one of those comes with a doubt ("or",
  "perhaps", "actually"). Two stated labels, or two mentioned and none stated, are ambiguous.
- What follows "because", "since" or "Explanation:" explains and is not read.
- Everyday words that are labels too (yes, no, true, false, other) count only where they are stated.
- In lists every item must be known: an unknown one makes the answer `oov`, "or" makes it `ambiguous`.
- A refusal counts as such only where no label is stated.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from rapidfuzz import fuzz

from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.trace import Outcome, ParsedTrace, parse

Kind = Literal["label", "labels", "triplets", "box", "yes_no", "count", "text"]
Box = tuple[float, float, float, float]

_KINDS: Mapping[Task, Kind] = MappingProxyType(
    {
        Task.TOOL_RECOGNITION: "labels",
        Task.TISSUE_RECOGNITION: "labels",
        Task.TOOL_LOCALIZATION: "box",
        Task.TISSUE_LOCALIZATION: "box",
        Task.GRID_POSITION_RECOGNITION: "label",
        Task.CVS_CRITERIA_ASSESSMENT: "yes_no",
        Task.ACTION_RECOGNITION: "label",
        Task.MOTION_RECOGNITION: "label",
        Task.TRIPLET_EXTRACTION: "triplets",
        Task.TOOL_COUNTING: "count",
        Task.STEP_RECOGNITION: "label",
        Task.PHASE_RECOGNITION: "label",
        Task.OVERALL_CVS_ASSESSMENT: "label",
        Task.SURGICAL_VQA: "text",
    }
)
_VOCABULARY_KIND: Mapping[Task, str] = MappingProxyType(
    {
        Task.TOOL_RECOGNITION: "tool",
        Task.TISSUE_RECOGNITION: "tissue",
        Task.ACTION_RECOGNITION: "action",
        Task.TRIPLET_EXTRACTION: "triplet",
        Task.STEP_RECOGNITION: "step",
        Task.PHASE_RECOGNITION: "phase",
    }
)
_GRID_ALIASES = {
    f"{a} {b}": f"{side}-{height}"
    for side in ("left", "right")
    for height, other in (("top", "upper"), ("bottom", "lower"))
    for word in (height, other)
    for a, b in ((word, side), (side, word))
    if (a, b) != (side, height)
}
_CVS_ALIASES = {
    "yes": "achieved",
    "true": "achieved",
    "fully achieved": "achieved",
    "no": "not achieved",
    "false": "not achieved",
    "is not achieved": "not achieved",
}
_YES_NO_ALIASES = {
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
_COUNTING = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen twenty"
)
_NUMBER_WORDS = {word: str(i) for i, word in enumerate(_COUNTING.split())} | {"none": "0"}


@dataclass(frozen=True)
class AnswerSpec:
    """What counts as an answer. `options` is the closed vocabulary in canonical spelling; `letters` whether
    the prompt offered A, B, …
    """

    kind: Kind
    options: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    letters: bool = False

    @cached_property
    def _lexicon(self) -> "_Lexicon":
        return _lexicon(self.options, tuple(sorted(self.aliases.items())))


@dataclass(frozen=True)
class Extraction:
    """`value` is the canonical answer (same form as `Sample.answer`) or None; `rung` says which step of the
    ladder found it.
    """

    value: str | None
    outcome: Outcome
    rung: str = ""


def spec_for(
    task: Task, options: Iterable[str] = (), dataset: str = "", *, letters: bool = False
) -> AnswerSpec:
    """The specification of a task's answers in a dataset."""
    kind = _KINDS[task]
    aliases: dict[str, str] = {}
    if task is Task.GRID_POSITION_RECOGNITION:
        aliases = _GRID_ALIASES
    elif task is Task.OVERALL_CVS_ASSESSMENT:
        aliases = _CVS_ALIASES
    elif dataset and task in _VOCABULARY_KIND and has_vocabulary(dataset, _VOCABULARY_KIND[task]):
        aliases = dict(vocabulary(dataset, _VOCABULARY_KIND[task]).aliases)
    return AnswerSpec(kind, tuple(options), MappingProxyType(aliases), letters)


# --- Spelling ---

_LEAD_NOUN = (
    r"(?:answer|prediction|label|option|choice|phase|stage|step|action|triplet|tool|instrument|tissue"
    r"|structure|count|number|position|quadrant|location)s?"
)
_LEAD_ADJECTIVE = r"(?:final|correct|best|predicted|current|present|ongoing|surgical|visible|my|most likely)"
_LEAD = re.compile(
    rf"^(?:(?:{_LEAD_ADJECTIVE} )*{_LEAD_NOUN}"
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


class _Hit(NamedTuple):
    """Words `start` to `end` are a spelling of `name`."""

    start: int
    end: int
    name: str
    rung: str


@dataclass(frozen=True)
class _Lexicon:
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

    def find(self, words: Sequence[str]) -> list[_Hit]:
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
                    hit = _Hit(start, end + 1, *(spelled or known))
                    hits.append((start - end, hit))
        reach = [0] * len(words)
        chosen = []
        for *_, hit in sorted(hits):
            if reach[hit.start] < hit.end:
                reach[hit.start : hit.end] = [max(r, hit.end) for r in reach[hit.start : hit.end]]
                chosen.append(hit)
        return sorted(chosen)


@lru_cache(maxsize=256)
def _lexicon(options: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> _Lexicon:
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
    return _Lexicon(spelled, joined, 1 + max((len(s.split()) for s in spelled), default=0))


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


# --- Sentences: what is denied, doubted, declined ---


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DENIAL = _words(
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
_STATING = _words(
    "is are be being as in likely probably definitely clearly currently now say says called performing shows"
    " depicts phase step stage action answer option"
)
"""A label that ends a clause is stated after one of these."""
_KIND_NOUNS = frozenset({"phase", "step", "stage", "action", "option"})
_PARTLY = frozenset({"partially", "partly", "almost", "nearly", "incompletely"})
_DOUBT = _words(
    "or either versus vs maybe perhaps possibly might could may actually alternatively instead wait rather"
    " correction"
)
_EVERYDAY = frozenset({"yes", "no", "true", "false", "other", "none"})
_LISTING = frozenset({"and", "or", "either", "both", "&"})
_CLAUSE = re.compile(r"[\n;:!?,()\[\]{}\"“”]|\.(?=\s|$)|\s[-–]+\s|—|\bbut\b")
_SENTENCE = re.compile(r"\n+|(?<=[.!?])\s+")
_EXPLANATION = re.compile(
    r"\n[\s*_#>-]{0,8}(?:explanation|reasoning|rationale|justification|reasons?|notes?)\b"
    r"|\b(?:because|since|due to|as evidenced by)\b",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"(?:^|(?<=\n))\s*(?:\(?\d{1,2}[.)](?=\s)|[-*•#>]+(?=\s))\s*")
_REFUSAL = re.compile(
    r"\bsorry\b|\bas an ai\b|\bapologi[sz]e\b|\b(?:decline|refuse) to\b|\bno answer\b|\bunknown\b|\bn/a\b"
    r"|\b(?:not|un)[ -]?(?:sure|certain|able)\b|\bwont be able\b"
    r"|\bdo(?: not|nt) (?:know|have (?:the|enough|sufficient))\b"
    r"|\b(?:can ?not|cant|could ?nt|could not|wont) (?:be )?(?:\w+ly )?"
    r"(?:assist|help|answer|determined?|provide|see|view|tell|identif(?:y|ied)|say|certain|sure|confirm|count|give"
    r"|recogni[sz]ed?|analy[sz]ed?|interpret|assess(?:ed)?|make out|comply|discern|judged?)\b"
    r"|\bnot (?:possible|clear enough|enough information)\b|\binsufficient (?:information|evidence|data)\b"
    r"|\b(?:impossible|difficult|hard) to (?:determine|tell|say|identify|answer)\b"
)


def _simple(text: str) -> str:
    """NFKC, lower case, apostrophes away: punctuation stays."""
    return unicodedata.normalize("NFKC", text).lower().translate(_APOSTROPHES)


def _refuses(text: str) -> bool:
    return _REFUSAL.search(_simple(text)) is not None


def _denied(words: Sequence[str], start: int, end: int, floor: int = 0) -> bool:
    """Whether what stands at words[start:end] is negated, put at another time or under a condition by words
    from `floor` on: the "not" of a label "not achieved" before it is none of its own.
    """
    before = words[max(floor, start - 3) : start]
    if any(w in _DENIAL and before[i + 1 : i + 2] != ["only"] for i, w in enumerate(before)):
        return True
    return _DENIED_AFTER.match(" ".join(words[end : end + 5])) is not None


def _hedged(words: Sequence[str], start: int, end: int) -> bool:
    """Whether "or" stands at a label or "partially" before it."""
    while words[end : end + 1] and words[end] in _KIND_NOUNS:
        end += 1
    return "or" in (*words[max(0, start - 1) : start], *words[end : end + 1]) or bool(
        _PARTLY & set(words[max(0, start - 1) : start])
    )


def _without_explanation(text: str) -> str:
    """The text before an explanation; all of it where nothing stands before."""
    cut = _EXPLANATION.search(text)
    return text[: cut.start()] if cut and re.search(r"\w", text[: cut.start()]) else text


# --- Wrappings: code fences, LaTeX, JSON ---

_FENCE = re.compile(r"```[a-zA-Z]{0,12}[ \t]{0,4}\n?(.*?)```", re.DOTALL)
_BOXED = re.compile(r"\\boxed ?\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf) ?\{([^{}]*)\}")
_JSON_LENGTH = 4000
"""No JSON answer is longer; a repair of more would be slow."""
_ANSWER_KEYS = _words(
    "answer prediction label result response output value class choice option phase step action tool tools"
    " instrument instruments tissue tissues structure structures triplet triplets count number position"
    " quadrant location"
)
_TOOL_KEYS = ("tool", "instrument")
_VERB_KEYS = ("verb", "action")
_TARGET_KEYS = ("target", "tissue", "organ", "anatomy", "structure")


def _unwrap(text: str, kind: Kind) -> tuple[str, bool]:
    """The answer inside a code fence, `\\boxed{}` or JSON, as plain text (a list: one item a line), and
    whether it had to be dug out: a bare code fence is mere form.
    """
    repaired = False
    fences = _FENCE.findall(text) if "```" in text else []
    if len(fences) == 1:
        repaired = bool(_FENCE.sub("", text).strip())
        text = fences[0].strip()
    if "\\boxed" in text:
        boxed = [_LATEX_TEXT.sub(r"\1", b).strip() for b in _BOXED.findall(text)]
        if boxed:
            text, repaired = "\n".join(dict.fromkeys(boxed)), True
    stripped = text.strip()
    if stripped[:1] in ("{", "[") and len(stripped) <= _JSON_LENGTH and re.search(r"[\"'\d]", stripped):
        lines = "\n".join(_json_lines(_json(stripped), kind)).strip()
        if lines:
            return lines, True
    return text, repaired


def _json(text: str) -> Any:
    """A JSON value, mended where it is nearly JSON (single quotes, a missing brace); None otherwise."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # A list of bare words is no JSON: "[grasper, hook]" is read as it stands.
        if not re.search(r"[\"']", text):
            return None
    from json_repair import loads

    try:
        return loads(text)
    except (ValueError, RecursionError):
        return None


def _json_lines(value: Any, kind: Kind, depth: int = 0) -> Iterator[str]:
    """The answers in a JSON value. Of an object: instrument, verb and target of a triplet; the keys that are
    all true; values of keys such as "answer" or "phase"; else its only value.
    """
    if depth > 6 or value is None:
        return
    if isinstance(value, Mapping):
        entries = {normalise(str(k)): v for k, v in value.items()}
        parts = [_of_key(entries, keys) for keys in (_TOOL_KEYS, _VERB_KEYS, _TARGET_KEYS)]
        if kind == "triplets" and sum(p is not None for p in parts) >= 2:
            yield "(" + ", ".join(p or "?" for p in parts) + ")"
        elif len(value) > 1 and all(isinstance(v, bool) for v in value.values()):
            yield from (str(k) for k, v in value.items() if v)
        else:
            chosen = [v for k, v in entries.items() if k.split()[-1:] and k.split()[-1] in _ANSWER_KEYS]
            for one in chosen or list(entries.values())[: len(entries) == 1]:
                yield from _json_lines(one, kind, depth + 1)
    elif isinstance(value, list):
        if not value and kind in ("labels", "triplets"):
            yield "none"
        elif kind == "triplets" and all(isinstance(v, str) for v in value):
            yield "(" + ", ".join(value) + ")"
        else:
            for one in value:
                yield from _json_lines(one, kind, depth + 1)
    elif isinstance(value, bool):
        yield str(value).lower()
    else:
        yield str(value)


def _of_key(entries: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((v for k, v in entries.items() if k in keys and isinstance(v, str)), None)


# --- The ladder ---


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
    text, repaired = _unwrap(answer, spec.kind) if spec.kind != "box" else (answer, "\\boxed" in answer)
    found = _EXTRACTORS[spec.kind](text, spec, fuzzy)
    if found.value is None:
        if found.outcome is Outcome.OOV and _refuses(answer):
            return Extraction(None, Outcome.REFUSED)
        return found
    return replace(found, outcome=Outcome.REPAIRED) if repaired else found


_MISSING = Extraction(None, Outcome.OOV)
_AMBIGUOUS = Extraction(None, Outcome.AMBIGUOUS)
_EMPTY = Extraction(None, Outcome.EMPTY)


def _plain(hit: tuple[str, str]) -> Extraction:
    return Extraction(hit[0], Outcome.OK, hit[1])


def _in_prose(found: Extraction) -> Extraction:
    """The same answer, given beside other text."""
    return Extraction(found.value, Outcome.REPAIRED, "letter" if found.rung == "letter" else "mention")


# "B", "(b)", "option b", "b) name", "b. name", "b: name", "b - name", "b name".
_LETTER = re.compile(
    r"\W*(?:(?:option|choice|letter) )?([(\[]?)([a-z])(?![\w'])([)\].:,]*)\s*([-–—:]?)\s*(.*)", re.DOTALL
)
_LETTER_LEAD = re.compile(
    rf"^(?:the )?(?:{_LEAD_ADJECTIVE} )*{_LEAD_NOUN}(?: (?:is|are))?:? (?=\W*(?:option )?[(\[]?[a-z]\b)"
)
_LETTER_AFTER = re.compile(r"(.*\w)\W*[(\[]([a-z])[)\]]\W*", re.DOTALL)


def _letter(text: str, spec: AnswerSpec) -> Extraction | None:
    """A text that is a letter, alone or with the name of its option; None for any other. A name of another
    option makes it ambiguous. "A" followed by words is the article.
    """
    simple = _simple(text).replace("*", "").replace("`", "").strip()
    simple = _LETTER_LEAD.sub("", simple)
    match = _LETTER.fullmatch(simple)
    if match:
        opening, letter, closing, dash, rest = match.groups()
        marked = bool(opening or closing or dash)
    else:
        match = _LETTER_AFTER.fullmatch(simple)
        if not match:
            return None
        rest, letter = match.groups()
        marked = True
    index = ord(letter) - ord("a")
    rest = normalise(rest)
    named = spec._lexicon.whole(rest)
    article = letter == "a" and not marked
    if index >= len(spec.options) or (rest and (article or not named)):
        return None
    if named and named[0] != spec.options[index]:
        return _AMBIGUOUS
    return Extraction(spec.options[index], Outcome.OK, "letter")


def _label(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """One label. Every step needs it alone, or as the only one stated or mentioned."""
    text = _LIST_MARK.sub("", text) if text.count("\n") == 0 else text
    if spec.letters and (letter := _letter(text, spec)):
        return letter
    clean = normalise(text)
    if not clean:
        return _EMPTY
    whole = spec._lexicon.whole(clean)
    if whole:
        return _plain(whole)
    found = _read(_without_explanation(text), spec)
    if found is _MISSING and fuzzy:
        return _near(clean, spec)
    return found


def _read(text: str, spec: AnswerSpec) -> Extraction:
    """The one label that the clauses of a text state, or else mention."""
    whole = spec._lexicon.whole
    stated: dict[str, str] = {}
    named: dict[str, str] = {}
    doubted: set[str] = set()
    refused = hedged = False
    for clause in _CLAUSE.split(_simple(text)):
        if _REFUSAL.search(clause):
            refused = True
            continue
        if spec.letters:
            stated |= dict.fromkeys(_letters(clause, spec), "letter")
        words = normalise(clause).split()
        hits = spec._lexicon.find(words)
        listed = {w for hit in hits for w in range(hit.start, hit.end)}
        listing = all(w in _LISTING for i, w in enumerate(words) if i not in listed)
        last = max((i for i, w in enumerate(words) if w not in _KIND_NOUNS), default=-1)
        doubt = not _DOUBT.isdisjoint(words)
        end = 0
        for hit in hits:
            spelling, name = " ".join(words[hit.start : hit.end]), hit.name
            ends = hit.end > last
            states = listing or (ends and (hit.start == 0 or words[hit.start - 1] in _STATING))
            floor, end = end, hit.end
            if _denied(words, hit.start, hit.end, floor):
                # "has not been achieved" is the label "not achieved" where there is one.
                opposite = whole(f"not {spelling}") or whole(f"not {normalise(name)}")
                if not opposite:
                    continue
                name, states = opposite[0], ends
            elif spelling in _EVERYDAY and not states:
                continue
            hedged = hedged or _hedged(words, hit.start, hit.end)
            named.setdefault(name, "mention")
            if states:
                stated.setdefault(name, "mention")
            elif doubt:
                doubted.add(name)
    if hedged or len(stated) > 1 or (stated and doubted - set(stated)):
        return _AMBIGUOUS
    if not stated and refused:
        return _MISSING
    given = stated or named
    if len(given) != 1:
        return _AMBIGUOUS if given else _MISSING
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
        if _denied(words, last, last + 1):
            return []
    return [spec.options[ord(w) - ord("a")] for w in letters]


def _near(clean: str, spec: AnswerSpec) -> Extraction:
    """The one label of a near spelling: score >= 90, 5 more than any other label's, word by word no worse
    than 80, so that "action" is no misspelt "retraction".
    """
    words = clean.split()
    best: dict[str, float] = {}
    for spelling, (name, _) in spec._lexicon.spelled.items():
        if abs(len(clean) - len(spelling)) <= len(spelling) // 4 + 1:
            best[name] = max(best.get(name, 0.0), fuzz.ratio(clean, spelling))
    ranked = sorted(best, key=lambda name: -best[name])
    if not ranked or best[ranked[0]] < 90 or (len(ranked) > 1 and best[ranked[0]] - best[ranked[1]] < 5):
        return _MISSING
    for spelling, (name, _) in spec._lexicon.spelled.items():
        theirs = spelling.split()
        if name != ranked[0] or len(theirs) != len(words):
            continue
        if all(fuzz.ratio(a, b) >= 80 for a, b in zip(words, theirs, strict=True)):
            return Extraction(name, Outcome.REPAIRED, "fuzzy")
    return _MISSING


# --- Lists ---

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
_OR = re.compile(r"\b(?:or|either|versus|vs|maybe|perhaps|possibly)\b")
_ASIDE_START = re.compile(r"\W*(?:\w{2,}ing|which|while|with|to|so|under|toward|towards|at|on|in|of)\b")
_ASIDE_SENTENCE = re.compile(
    r"(?!\W*(?:a|an|another|also|there|i|we)\b).*\b(?:is|are|was|were|has|have|been)\b", re.DOTALL
)


def _nothing(clean: str) -> Extraction | None:
    """The answer that there is none of what was asked for."""
    if clean == "none":
        return Extraction("none", Outcome.OK, "exact")
    if clean in _NOTHING_ALIASES:
        return Extraction("none", Outcome.OK, "alias")
    if _NOTHING.fullmatch(clean):
        return Extraction("none", Outcome.REPAIRED, "mention")
    return None


def _is_aside(item: str, later: bool) -> bool:
    """Whether an item without a label is an explanation: a participle clause ("exposing the duct"), or a
    sentence after the first that brings in nothing ("The tissue is under tension.", not "A laser is seen").
    """
    return bool(_ASIDE_START.match(item) or (later and _ASIDE_SENTENCE.match(item)))


def _labels(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """A set of labels; every item of the list must be one."""
    found, rungs, prose = set(text.split(", ")), {"exact"}, False
    if not found <= set(spec.options):
        clean = normalise(text)
        if not clean:
            return _EMPTY
        if nothing := _nothing(clean):
            return nothing
        head = _without_explanation(text)
        found, rungs, prose, unknown = _listed(head, spec, fuzzy)
        if found and _OR.search(_simple(head)):
            return _AMBIGUOUS
        if unknown or not found:
            return _MISSING
        prose = prose or head != text
    value = ", ".join(o for o in spec.options if o in found)
    if prose:
        return Extraction(value, Outcome.REPAIRED, "fuzzy" if "fuzzy" in rungs else "mention")
    rung = next(r for r in ("letter", "alias", "exact") if r in rungs)
    return Extraction(value, Outcome.OK, rung)


def _listed(text: str, spec: AnswerSpec, fuzzy: bool) -> tuple[set[str], set[str], bool, bool]:
    """Labels, rungs, whether anything but labels was written, and whether an item is unknown."""
    found: set[str] = set()
    rungs: set[str] = set()
    prose = unknown = False
    for number, sentence in enumerate(_SENTENCE.split(_LIST_MARK.sub("\n", _simple(text)).strip())):
        for item in _parts(sentence, spec):
            clean = normalise(item)
            hit = spec._lexicon.whole(clean)
            letter = _letter(item, spec) if spec.letters else None
            if letter and letter.value:
                hit = (letter.value, "letter")
            if not hit and fuzzy and (near := _near(clean, spec)).value:
                hit, prose = (near.value, "fuzzy"), True
            if hit:
                found.add(hit[0])
                rungs.add(hit[1])
                continue
            if not clean:
                continue
            prose = True
            words = clean.split()
            hits = spec._lexicon.find(words)
            unknown = unknown or not (hits or _is_aside(item, number > 0) or _DENIAL.intersection(words))
            found |= {h.name for h in hits if not _denied(words, h.start, h.end)}
    return found, rungs, prose, unknown


def _parts(sentence: str, spec: AnswerSpec) -> Iterator[str]:
    """Items between commas; where an item is no label itself, also between "and"."""
    for item in re.split(r"[;,|\[\]]", sentence):
        if spec._lexicon.whole(normalise(item)):
            yield item
        else:
            yield from _AND.split(item)


# --- Triplets ---

_ED = {"clip": "clipped", "cut": "cut"}
"""Past forms that do not just take -ed."""
_FIELDS = re.compile(
    r"(?:[\n,;|]\s{0,8})?(?:[-*•]\s{0,4})?\b(?:verb|action|target|tissue|organ|anatomy|structure)\s{0,4}:"
)
_TOOL_FIELD = re.compile(r"\b(?:surgical )?(?:instrument|tool)\s{0,4}:")
_TOKEN = re.compile(r"[^\W_]+|[;\n()\[\]<>{}]|,|[.!?](?=\s|$)")
_HELPERS = _words(
    "is are was has have been being be used to currently now actively which that gently carefully"
)
_JOINTS = frozenset({"and", "while", "whereas", "plus", "then"})
_GOING_ON = _JOINTS | _words(
    "to at with from in on for under is are during which toward towards away upward upwards laterally gently"
    " carefully visible here now or"
)
_Part = tuple[str, str, str]
"""Role ("tool", "verb", "target"), name, rung."""


class _Item(NamedTuple):
    """One item of a triplet answer: its triplets (tool, verb, target, rung), all parts that it names, whether
    it is unknown, and whether it is more than one bare triplet.
    """

    triplets: tuple[tuple[str, str, str, str], ...]
    parts: tuple[_Part, ...]
    unknown: bool
    prose: bool


class _Scan(NamedTuple):
    items: tuple[_Item, ...]
    labelled: bool


@lru_cache
def _part_lexicons() -> dict[str, _Lexicon]:
    """Lexicons of tools, verbs and targets. Inflected verbs ("retracts", "retracted") have the rung
    "mention": they come from sentences.
    """
    found = {}
    for role in ("tool", "verb", "target"):
        names = vocabulary("cholect50", role)
        lexicon = _lexicon(names.names, tuple(sorted(names.aliases.items())))
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
    simple = re.sub(r"[*`\"']", "", _simple(_unwrap(text, "triplets")[0]))
    simple = _LIST_MARK.sub("\n", re.sub(r"-+>|[|/_→‐-―-]", " ", simple).strip())
    fields = _TOOL_FIELD.search(simple) is not None
    if fields:
        simple = _TOOL_FIELD.sub(";", _FIELDS.sub(" ", simple))
    simple = re.sub(r"^\W*(?:the )?(?:final )?(?:answer|triplets?|actions?)(?: is| are)?\s?:? ", "", simple)
    tokens = [t for t in _TOKEN.findall(simple) if t not in ("a", "an", "the")]
    parts = _parts_among(tokens)
    return _Scan(tuple(_items(tokens, parts)), fields)


_scan_short = lru_cache(maxsize=16384)(_scan_any)


def _parts_among(tokens: Sequence[str]) -> dict[int, tuple[int, _Part]]:
    """Start -> (end, part) of every tool, verb and target; the longest spelling at a place, left to right."""
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


def _items(tokens: Sequence[str], parts: Mapping[int, tuple[int, _Part]]) -> Iterator[_Item]:
    """Items between the separators; commas inside a triplet are none."""
    start, later = 0, False
    position = 0
    triplets: list[tuple[int, int, tuple[str, str, str, str]]] = []
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


def _triplet_at(
    tokens: Sequence[str], parts: Mapping[int, tuple[int, _Part]], start: int
) -> tuple[int, tuple[str, str, str, str]] | None:
    """End and (tool, verb, target, rung) of the triplet that starts here. Nouns that go on after the target
    ("gallbladder bed") would be another target.
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
    parts: Mapping[int, tuple[int, _Part]],
    start: int,
    end: int,
    triplets: Sequence[tuple[int, int, tuple[str, str, str, str]]],
    later: bool,
) -> _Item:
    words = tokens[start:end]
    inside = [parts[i] for i in range(start, end) if i in parts]
    if _DENIAL.intersection(words) or _REFUSAL.search(" ".join(words)):
        return _Item((), (), False, True)
    inner = {i for a, b, _ in triplets for i in range(a, b)}
    over = [parts[i][1] for i in range(start, end) if i in parts and i not in inner]
    if triplets:
        unknown = any(role in ("tool", "verb") for role, _, _ in over)
    else:
        roles = {role for role, _, _ in over}
        aside = _is_aside(" ".join(words), later)
        unknown = bool(roles & {"tool", "verb"}) or not aside
    return _Item(
        tuple(t for _, _, t in triplets),
        tuple(part for _, part in inside),
        unknown,
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
    scan = _scan(_without_explanation(text))
    parts = {part[:2] for item in scan.items for part in item.parts}
    tools, verbs, targets = (
        frozenset(name for role, name in parts if role == wanted) for wanted in ("tool", "verb", "target")
    )
    return tools, verbs, targets


def _triplets(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """A set of triplets of the listed classes; every item must be one."""
    if all(part in spec.options for part in text.split("; ")):
        found = set(text.split("; "))
        return Extraction("; ".join(o for o in spec.options if o in found), Outcome.OK, "exact")
    clean = normalise(text)
    if not clean:
        return _EMPTY
    if nothing := _nothing(clean):
        return nothing
    head = _without_explanation(text)
    scan = _scan(head)
    triplets = [t for item in scan.items for t in item.triplets]
    known = set(spec.options)
    if _OR.search(_simple(head)) and any(item.parts for item in scan.items):
        return _AMBIGUOUS
    wrong = any(item.unknown for item in scan.items) or any(" ".join(t[:3]) not in known for t in triplets)
    if wrong or not triplets:
        return _near_triplets(head, spec) if fuzzy else _MISSING
    names = {" ".join(t[:3]) for t in triplets}
    value = "; ".join(o for o in spec.options if o in names)
    if head != text or any(item.prose for item in scan.items):
        return Extraction(value, Outcome.REPAIRED, "mention")
    rung = "alias" if any(t[3] == "alias" for t in triplets) else "exact"
    return Extraction(value, Outcome.REPAIRED if scan.labelled else Outcome.OK, rung)


def _near_triplets(text: str, spec: AnswerSpec) -> Extraction:
    """Triplets in near spellings, every item of the list."""
    found = set()
    for item in re.split(r"[;\n]", _LIST_MARK.sub("\n", text)):
        if clean := normalise(item):
            whole = spec._lexicon.whole(clean)
            name = whole[0] if whole else _near(clean, spec).value
            if name is None:
                return _MISSING
            found.add(name)
    value = "; ".join(o for o in spec.options if o in found)
    return Extraction(value, Outcome.REPAIRED, "fuzzy") if found else _MISSING


# --- Boxes ---

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_GROUP = re.compile(rf"[(\[]\s*({_NUMBER}(?:\s*,\s*{_NUMBER})*)\s*[)\]]")
_BARE = re.compile(rf"\s*({_NUMBER}(?:\s*,\s*{_NUMBER}){{3}})\s*")
_PAIR_GAP = re.compile(r"[\s,\[\]()]*(?:to|->?)?[\s,\[\]()]*")
_CORNER = re.compile(
    rf"\b(x_?min|y_?min|x_?max|y_?max|x1|y1|x2|y2|left|top|right|bottom)[\"']?\s{{0,4}}[:=]\s{{0,4}}({_NUMBER})",
    re.IGNORECASE,
)
_CORNER_NAMES = (
    {"x1", "left", "xmin"},
    {"y1", "top", "ymin"},
    {"x2", "right", "xmax"},
    {"y2", "bottom", "ymax"},
)
_BOX_FORM = re.compile(
    r"<ref>[^<]{0,200}</ref>|<\|object_ref_start\|>[^<]{0,200}<\|object_ref_end\|>|</?\|?\w+\|?>"
    r"|[\"'](?:label|name|class|object|tool|text|score|confidence)[\"']\s{0,4}:\s{0,4}(?:\"[^\"]{0,200}\"|'[^']{0,200}'"
    r"|[\d.]+)|\\boxed|\b(?:final |correct )?answer\b|\b(?:bounding )?box(?:_2d|es)?\b|\bbbox(?:_2d)?\b"
    r"|\bcoordinates\b|\bjson\b",
    re.IGNORECASE,
)


def parse_boxes(text: str) -> list[Box]:
    """Boxes in order, each once: `(x1,y1),(x2,y2)`, `[x1, y1, x2, y2]` (round or square brackets, nested, in
    the tags of Qwen and InternVL), JSON `"bbox_2d": […]`, `x1=…, y1=…, x2=…, y2=…` and a text that is four
    bare numbers.

    Corners are put in order; boxes of no area or with a number that is not finite are dropped, and so are
    lists of other lengths and an odd number of points in a row. Coordinates stay in the frame and axis order
    of the model; width and height are not read as a corner.
    """
    return list(dict.fromkeys(box for _, _, box in _boxes_at(text)))


def _boxes_at(text: str) -> list[tuple[int, int, Box]]:
    """Where boxes stand in the NFKC form of a text."""
    text = unicodedata.normalize("NFKC", text)
    found: list[tuple[int, int, list[float]]] = []
    points: list[tuple[int, int, list[float]]] = []

    def flush() -> None:
        if len(points) % 2 == 0:
            for a, b in zip(points[::2], points[1::2], strict=True):
                found.append((a[0], b[1], a[2] + b[2]))
        points.clear()

    for match in _GROUP.finditer(text):
        numbers = [float(n) for n in match.group(1).split(",")]
        start, end = match.span()
        if points and not (
            len(numbers) == 2
            and start - points[-1][1] <= 20
            and _PAIR_GAP.fullmatch(text[points[-1][1] : start])
        ):
            flush()
        if len(numbers) == 2:
            points.append((start, end, numbers))
        elif len(numbers) == 4:
            found.append((start, end, numbers))
    flush()
    found.extend(_named_corners(text))
    if not found and (bare := _BARE.fullmatch(text)):
        found.append((*bare.span(), [float(n) for n in bare.group(1).split(",")]))
    boxes = []
    for start, end, (a, b, c, d) in sorted(found):
        box = (min(a, c), min(b, d), max(a, c), max(b, d))
        if all(map(math.isfinite, box)) and box[0] < box[2] and box[1] < box[3]:
            boxes.append((start, end, box))
    return boxes


def _named_corners(text: str) -> Iterator[tuple[int, int, list[float]]]:
    """Four assignments in a row that name all corners, in any order."""
    run: list[tuple[int, re.Match[str]]] = []
    for match in _CORNER.finditer(text):
        name = match.group(1).lower().replace("_", "")
        axis = next(i for i, names in enumerate(_CORNER_NAMES) if name in names)
        if axis in [a for a, _ in run]:
            run = []
        run.append((axis, match))
        if len(run) == 4:
            values = [float(m.group(2)) for _, m in sorted(run, key=lambda entry: entry[0])]
            yield run[0][1].start(), match.end(), values
            run = []


def format_box(box: Box) -> str:
    """The canonical answer form, whole pixels."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return f"({x1},{y1}),({x2},{y2})"


def _box(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """The only box of the answer. One that whole pixels would make empty (coordinates from 0 to 1) keeps its
    decimals.
    """
    if not text.strip():
        return _EMPTY
    places = _boxes_at(text)
    boxes = list(dict.fromkeys(box for _, _, box in places))
    if len(boxes) != 1:
        return _AMBIGUOUS if boxes else _MISSING
    value = format_box(boxes[0])
    if not parse_boxes(value):
        x1, y1, x2, y2 = (repr(v).removesuffix(".0") for v in boxes[0])
        value = f"({x1},{y1}),({x2},{y2})"
    flat = unicodedata.normalize("NFKC", text)
    before = re.findall(r"\w+", flat[max(0, places[0][0] - 60) : places[0][0]].lower())[-3:]
    if _DENIAL.intersection(before):
        return _MISSING
    ends = [0, *(end for _, end, _ in places)]
    starts = [*(start for start, _, _ in places), len(flat)]
    rest = " ".join(flat[end:start] for end, start in zip(ends, starts, strict=True) if start > end)
    bare = _BARE.fullmatch(flat) is not None
    connected = any(re.search(r"\)\s*(?:to|->?)\s*\(", flat[start:end]) for start, end, _ in places)
    prose = bare or connected or re.search(r"\w", _BOX_FORM.sub(" ", rest)) is not None
    return Extraction(value, Outcome.REPAIRED, "mention") if prose else Extraction(value, Outcome.OK, "exact")


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two x1,y1,x2,y2 boxes in continuous coordinates (no +1; evaluation.md
    B5).
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


# --- Yes and no, numbers, open text ---

_YES_NO = AnswerSpec("label", ("yes", "no"), MappingProxyType(_YES_NO_ALIASES))


def _yes_no(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """Yes or no. "no" before a noun ("no fat remains") says nothing about the question."""
    return _label(text, _YES_NO, False)


_QUANTITY = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]+)?(?![\w]|\.[0-9])|[^\W\d_]+|-")
_VAGUE = re.compile(r"\b(?:or|least|most|than|about|around|approximately|over|up to|between|to)\b")


def _count(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    """One whole number, in digits or words up to twenty; "at least 2" and sums are ambiguous."""
    clean = normalise(text)
    if not clean:
        return _EMPTY
    if clean in _NUMBER_WORDS:
        return Extraction(_NUMBER_WORDS[clean], Outcome.OK, "alias")
    if (nothing := _nothing(clean)) and nothing.value:
        return Extraction("0", nothing.outcome, nothing.rung)
    head = _simple(_without_explanation(text))
    words = _QUANTITY.findall(head)
    lone = [w for w in words if _is_number(w)]
    if lone and _VAGUE.search(head):
        return _AMBIGUOUS
    given = [w for i, w in enumerate(words) if _is_number(w) and not _denied(words, i, i + 1)]
    wholes = {re.sub(r"\.0+$", "", _NUMBER_WORDS.get(w, w)).lstrip("0") or "0" for w in given}
    if len(wholes) > 1:
        return _AMBIGUOUS
    if not wholes or not next(iter(wholes)).isdigit():
        return _MISSING
    (value,) = wholes
    if len(lone) == 1 and normalise(text) == normalise(lone[0]):
        return Extraction(value, Outcome.OK, "exact" if lone[0] == value else "alias")
    return Extraction(value, Outcome.REPAIRED, "mention")


def _is_number(word: str) -> bool:
    return word in _NUMBER_WORDS or word.lstrip("-")[:1].isdigit()


def _text(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    if spec.options:
        return _label(text, spec, fuzzy)
    clean = normalise(text)
    return Extraction(clean, Outcome.OK, "exact") if clean else _EMPTY


_EXTRACTORS: Mapping[Kind, Callable[[str, AnswerSpec, bool], Extraction]] = MappingProxyType(
    {
        "label": _label,
        "labels": _labels,
        "triplets": _triplets,
        "box": _box,
        "yes_no": _yes_no,
        "count": _count,
        "text": _text,
    }
)


def same_answer(a: str | None, b: str, spec: AnswerSpec) -> bool:
    """Equality of canonical answers; lists are sets. Boxes must be equal to the pixel (IoU is the caller's
    business).
    """
    if a is None:
        return False
    if spec.kind in ("labels", "triplets"):
        separator = "; " if spec.kind == "triplets" else ", "
        return set(a.split(separator)) == set(b.split(separator))
    return a == b
