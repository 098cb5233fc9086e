"""Checks of how a trace is written, whatever it says of the picture: does it betray that the answer was
given, does it answer before it looks, does it invent measurements, repeat itself, run too long or leave
English.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgr1.reasoning.answers import Box, iou


@dataclass(frozen=True)
class Finding:
    """One check's verdict; `detail` says what was wrong."""

    check: str
    ok: bool
    detail: str = ""


LEVEL_WORDS = (3, 160)
TRACE_WORDS = (8, 420)
"""Shortest and longest, both allowed. The paper's examples (Figures 3-13) have levels of 40 to 110 words."""

_KNOWN = r"(?:given|known|provided|supplied|told|specified|stated|annotated|labell?ed|stipulated|established)"
_ANSWERS = r"(?:answer|label|annotation|solution|result|class|response|conclusion|target)s?"
_LEAK = re.compile(
    "|".join(
        (
            r"ground[\s-]*truths?\b",
            # Nobody who describes a picture speaks of labels, annotations or prompts.
            r"\bannotat\w*|\bpre-?labell?ed\b|\blabell?(?:ed|ing)?\b|\blabels\b|\bprompts?\b|\bmetadata\b"
            r"|\binstructions?\b|\banswer key\b|\btarget answer\b|\bdata ?set\b|\bgold standard\b",
            rf"\b(?:as|which|that)\s+(?:was\s+|is\s+|has been\s+|i was\s+)?{_KNOWN}\s+(?:in|by|with|to)\s+"
            rf"(?:the\s+|this\s+|my\s+)?(?:{_ANSWERS}|question|task|user|reference|key)",
            rf"\b{_ANSWERS}\s+(?:(?:to|for|of)\s+(?:\w+\s+){{1,3}})?(?:is|was|are|were|has been|had been)\s+"
            rf"(?:already\s+)?{_KNOWN}\b",
            rf"\bbox(?:es)?\s+(?:is|was|are|were|has been|had been)\s+(?:already\s+)?{_KNOWN}\b",
            r"\b(?:the|this)\s+key\s+(?:for|of|to)\s+(?:the|this)\b",
            rf"\b{_ANSWERS}\s+(?:that\s+(?:was|is|were)\s+)?{_KNOWN}\b",
            r"\b(?:provided|supplied|given|reference|known|accompanying|official|expert|assigned|expected|desired"
            r"|required|stored|intended)\s+(?:\w+\s+)?(?:answers?|solutions?|results?|outputs?|class)\b",
            r"\b(?:according to|based on|matches|matching|agrees? with|in line with|consistent with)\s+"
            r"(?:the|its|this|our|my)\s+(?:\w+\s+){0,2}answers?\b",
            rf"\b(?:i|we)\s+(?:was|were|am|are|have been|had been)\s+(?:already\s+)?{_KNOWN}\b",
            r"\b(?:i|we)\s+(?:already\s+)?(?:know|knew)\b[^.]{0,60}\b(?:answer|in advance|beforehand)\b",
            r"\b(?:must|has to|have to|need(?:s)? to|should)\s+(?:arrive at|lead to|justify|end with|match)\b"
            r"[^.]{0,40}\b(?:answer|expected|given)\b",
            r"\b(?:given|provided|supplied|specified)\s+(?:triplets?|phases?|actions?|steps?|box(?:es)?|category|list"
            r"|verdict|criteri(?:on|a)|terms?)\b",
            r"\bwork(?:ing|ed)?\s+backwards?\b",
            r"\b(?:question|task)\s+(?:\w+\s+)?(?:says?|states?|tells?|gives?|told|indicates?|specifies|already)\b",
            r"\b(?:answer|solution)s?\s+(?:already\s+)?(?:says?|said|stat(?:es?|ed)|confirm(?:s|ed)?)\b",
            r"\bknowing\s+(?:\w+\s+){0,3}(?:answer|solution|verdict)\b",
            r"\bknow(?:s|ing)?\b[^.]{0,60}\b(?:in advance|beforehand|ahead of time)\b",
            r"\bhint(?:s|ed)?\s+(?:in|by|from|of)\s+the\s+(?:question|task|file|user)\b",
            r"\bfile ?name\b",
        )
    ),
    re.IGNORECASE,
)

_TELLTALE = (
    *(
        "truth",
        "annot",
        "label",
        "prompt",
        "metadata",
        "instruction",
        "answer",
        "dataset",
        "data set",
        "gold",
    ),
    *("solution", "result", "class", "response", "conclusion", "target", "key", "box", "known", "given"),
    *("provided", "supplied", "told", "knew", "know", "expected", "backward", "question", "task", "hint"),
    *("filename", "file name", "specified", "stated", "reference", "output", "stipulated", "established"),
    "user",
)
"""One of these is in every leak."""

_ANSWER_FIRST = re.compile(
    r"^\W*(?:yes|no)\b\s*[,.:;-]|\b(?:the\s+)?(?:correct\s+|final\s+|right\s+)?answer\s+(?:here\s+"
    r"|to this\s+|is\b|must\b|would\b|should\b|will\b|has\b)|^\W*answer\s*:",
    re.IGNORECASE,
)

# Each pattern takes linear time on any text: a number is begun at its first digit alone, and no two runs of
# spaces stand side by side.
_NUMBER = r"(?<!\d)\d+(?:[.,]\d+)?"
_MEASURE = re.compile(
    rf"(?:{_NUMBER}|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty"
    r"|forty-five|fifty|sixty|seventy|eighty|ninety|hundred)\b)[\s-]*(?:to[\s-]+\d+[\s-]*)?"
    r"(?:%|‰|°|(?:percent|per cent|mm|cm|ml|cc|millimet(?:er|re)s?|centimet(?:er|re)s?|inch(?:es)?|pixels?|px"
    r"|degrees?|seconds?|secs?|minutes?|mins?|hours?|fps|mmhg|watts?|french|hz|bpm|millilit(?:er|re)s?)\b)",
    re.IGNORECASE,
)
_UNITS = (
    *(
        "percent",
        "per cent",
        "mm",
        "cm",
        "ml",
        "cc",
        "meter",
        "metre",
        "inch",
        "pixel",
        "px",
        "degree",
        "sec",
    ),
    *("min", "hour", "fps", "watt", "french", "hz", "bpm", "liter", "litre", "%", "‰", "°"),
)
"""One of these is in every measurement."""
_FRAME = re.compile(
    r"\b(?:frame|timestamp|time|t|pixels?)(?:\s*(?:number|no\.?|#|=|:))?\s*\d[\d:]*\b", re.IGNORECASE
)
_CLOCK = re.compile(r"\b\d{1,2}:\d{2}(?::\d{2})?\b(?!\s*o'clock)")
_CORNERS = re.compile(
    rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])](?:\s*(?:to|and|,|-|–))?\s*"
    rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]"
)
_COORDINATES = re.compile(r"[\[(]\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?)+\s*[\])]")
_POINT = re.compile(r"\b[xy]\s*[=:~≈]\s*\d+", re.IGNORECASE)

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_ENGLISH = frozenset(
    re.split(
        r"\s+",
        "the a an is are was were be been being to of in on at by with and or but not no this that these"
        " those it its from for as which where while into near beside between through under over above below"
        " than then so there has have had does do can could may might will would i we they he she one two"
        " both each all only still now",
    )
)
_MARKUP = re.compile(
    r"[<>{}`\\|$~]|\*\*|__|^[^\S\n]*(?:#{1,6}\s|[-*+•]\s|\d{1,2}[.)]\s)|https?://|\[[^\[\]]*\]\(|&\w{2,8};"
    # Code: an assignment, a call, a definition.
    r"|=\s*[\['\"(]|\w\(\)|\bdef \w+\(|[\u2190-\u2bff\U0001f000-\U0001faff]",
    re.MULTILINE,
)
_FOREIGN = frozenset(
    re.split(
        r"\s+",
        "und ist nicht der das mit ein eine einer wird auf dem den von zum zur sich sind im bei le la les des"
        " est une dans avec sur pas qui du et aux sont el los las una con por que está del esta il lo gli è"
        " nel della che di os uma não com ao het een van op de en niet zijn sie er nach oben aus durch hat"
        " einen einem dal alla verso su hacia ella sobre vers elle ses",
    )
)
"""Function words of other languages that English has not; three in a sentence are no name, and two are none
where no English one stands beside them.
"""
_PHRASE = 10
"""Words in a row that no writer uses twice in one level."""
_FOREIGN_LETTERS, _FOREIGN_WORDS = 3, 3
_ENGLISH_SHARE = 0.12
"""Of a level's words, from twelve words on."""


def sentences_of(text: str) -> list[str]:
    """A level's sentences as written."""
    return [s.strip() for s in _SENTENCE.split(text) if s.strip()]


_Sentences = list[tuple[str, list[str]]]
"""Sentences as written, each with its words in lower case."""


def check_prose(levels: Mapping[int, str], boxes: Sequence[Box]) -> list[Finding]:
    """The checks on the wording of a trace's levels. `boxes` are the labelled ones, in the pixels the trace
    speaks of.
    """
    text = "\n".join(levels[k] for k in sorted(levels))
    split = {
        k: [(s, [w.lower() for w in _WORD.findall(s)]) for s in sentences_of(levels[k])]
        for k in sorted(levels)
    }
    told = [s for said in split.values() for s, _ in said]
    # A sentence may be wrapped over two lines.
    told += [" ".join(t.split()) for t in levels.values() if "\n" in t.strip()]
    leak = next((found for s in told if (found := _leak(s))), "")
    first = split[1][0][0] if split.get(1) else ""
    early = _ANSWER_FIRST.search(first)
    invented = _invented(text, boxes)
    repeated = _repeated(split)
    length = _length(levels)
    foreign = _foreign(levels, split)
    return [
        Finding("no_leak", not leak, f"{leak!r} betrays that the answer was given"),
        Finding("observes_first", not early, "the first sentence answers before anything is observed"),
        Finding("numbers_supported", not invented, f"{invented!r} is a measurement nobody made"),
        Finding("not_repetitive", not repeated, f"says twice: {repeated!r}"),
        Finding("length", not length, length),
        Finding("language", not foreign, foreign),
    ]


def _invented(text: str, boxes: Sequence[Box]) -> str:
    """The first number that no label and no eye could have given, "" where there is none."""
    low = text.lower()
    numeric = re.search(r"\d", low) is not None
    for pattern in (_MEASURE, _FRAME, _CLOCK, _POINT):
        if not numeric and (pattern is not _MEASURE or not any(unit in low for unit in _UNITS)):
            continue
        if match := pattern.search(text):
            return match.group().strip()
    # Two corners, "(10,20) to (30,40)", are a box like "[10, 20, 30, 40]".
    text = _CORNERS.sub(r"[\1, \2, \3, \4]", text)
    for match in _COORDINATES.finditer(text):
        values = [float(v) for v in re.findall(r"-?\d+(?:\.\d+)?", match.group())]
        if len(values) == 4:
            box = (values[0], values[1], values[2], values[3])
            if any(iou(box, known) >= 0.5 for known in boxes):
                continue
        return match.group()
    return ""


def _leak(sentence: str) -> str:
    """What betrays in a sentence that the answer was given, "" where nothing does."""
    low = sentence.lower()
    # Most sentences hold none of the words that a leak needs; looking for those is far quicker.
    if not any(word in low for word in _TELLTALE):
        return ""
    match = _LEAK.search(sentence)
    return match.group() if match else ""


def _repeated(split: Mapping[int, _Sentences]) -> str:
    """A sentence of four words or more that comes twice, or a phrase that loops; "" where there is none."""
    seen: set[str] = set()
    for said in split.values():
        for sentence, words in said:
            if len(words) >= 4:
                clean = " ".join(words)
                if clean in seen:
                    return sentence
                seen.add(clean)
    for said in split.values():
        words = [w for _, words in said for w in words]
        if loop := _loop(words):
            return loop
        phrases = list(zip(*(words[k:] for k in range(_PHRASE)), strict=False))
        if len(set(phrases)) < len(phrases):
            return " ".join(Counter(phrases).most_common(1)[0][0])
    return ""


def _loop(words: Sequence[str]) -> str:
    """A phrase of two to eight words that stands three times in a row, "" where there is none."""
    for size in range(2, 9):
        run = 0
        for k in range(len(words) - size):
            run = run + 1 if words[k] == words[k + size] else 0
            if run == 2 * size:
                return " ".join(words[k - size + 1 : k + 1])
    return ""


def _length(levels: Mapping[int, str]) -> str:
    counts = {k: len(text.split()) for k, text in levels.items()}
    for level, n in sorted(counts.items()):
        if not LEVEL_WORDS[0] <= n <= LEVEL_WORDS[1]:
            return f"Level {level} has {n} words, not {LEVEL_WORDS[0]} to {LEVEL_WORDS[1]}"
    total = sum(counts.values())
    if not TRACE_WORDS[0] <= total <= TRACE_WORDS[1]:
        return f"the levels have {total} words, not {TRACE_WORDS[0]} to {TRACE_WORDS[1]}"
    return ""


def _foreign(levels: Mapping[int, str], split: Mapping[int, _Sentences]) -> str:
    for level, text in sorted(levels.items()):
        if mark := _MARKUP.search(text):
            return f"Level {level} holds markup: {mark.group()!r}"
        others = [] if text.isascii() else [c for c in text if c.isalpha() and ord(c) > 0x24F]
        if len(others) >= _FOREIGN_LETTERS or any(
            0x400 <= ord(c) < 0x1E00 or ord(c) >= 0x2E80 for c in others
        ):
            # Greek letters are symbols, one of another script (Cyrillic, Arabic, Chinese ...) is none.
            return f"Level {level} is in another script: {''.join(others[:12])!r}"
        for sentence, words in split[level]:
            foreign = len(_FOREIGN.intersection(words))
            if foreign >= _FOREIGN_WORDS or (
                foreign == _FOREIGN_WORDS - 1 and not _ENGLISH.intersection(words)
            ):
                return f"Level {level} is not in English: {sentence[:60]!r}"
        words = [w for _, words in split[level] for w in words]
        if len(words) >= 12 and sum(w in _ENGLISH for w in words) < _ENGLISH_SHARE * len(words):
            return f"Level {level} is not in English: {text[:60]!r}"
    return ""
