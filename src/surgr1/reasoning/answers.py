"""From an answer text to a canonical answer, or to the reason why there is none (evaluation.md B10, steps
3-8).
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

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
    "top left": "left-top",
    "top right": "right-top",
    "bottom left": "left-bottom",
    "bottom right": "right-bottom",
    "upper left": "left-top",
    "upper right": "right-top",
    "lower left": "left-bottom",
    "lower right": "right-bottom",
}
_CVS_ALIASES = {
    "yes": "achieved",
    "no": "not achieved",
    "fully achieved": "achieved",
    "is not achieved": "not achieved",
}
_NUMBER_WORDS = {
    w: str(i)
    for i, w in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
}
_REFUSAL = re.compile(
    r"\b(i(?:'m| am) (?:sorry|unable|not able)|i can(?:no|')t"
    r" (?:assist|help|answer|determine|provide|see|view)|as an ai|unable to (?:assist|answer|provide))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AnswerSpec:
    """What counts as an answer. `options` is the closed vocabulary in canonical spelling; `letters` whether
    the prompt offered A, B, …
    """

    kind: Kind
    options: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    letters: bool = False


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


def normalise(text: str) -> str:
    """NFKC, lower case, underscores and hyphens to spaces, markdown and punctuation away, articles and
    lead-ins away.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    text = re.sub(r"[_\-/‐-―]", " ", text).replace("'", "")
    text = re.sub(r"[^\w\s&]", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(
        r"^(?:the )?(?:final )?(?:answer|(?:current )?(?:surgical )?(?:phase|step|action|triplet))"
        r" (?:is|being performed is) ",
        "",
        text,
    )
    return re.sub(r"\b(?:a|an|the)\b ?", "", text).strip()


@lru_cache(maxsize=256)
def _lexicon(options: tuple[str, ...], aliases: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Normalised spelling -> canonical option. Only aliases of listed options count."""
    table = {normalise(alias): name for alias, name in aliases if name in options}
    table.update({normalise(option): option for option in options})
    return table


def _table(spec: AnswerSpec) -> dict[str, str]:
    return _lexicon(spec.options, tuple(sorted(spec.aliases.items())))


def mentions(text: str, table: Mapping[str, str]) -> list[str]:
    """Canonical names whose spelling occurs as whole words in normalised `text`, longest spelling first, each
    stretch counted once.
    """
    found: dict[int, str] = {}
    rest = f" {text} "
    for spelling in sorted(table, key=len, reverse=True):
        needle = f" {spelling} "
        while (at := rest.find(needle)) != -1:
            found[at] = table[spelling]
            rest = rest[:at] + " " + "\0" * len(spelling) + rest[at + len(needle) - 1 :]
    ordered = [found[at] for at in sorted(found)]
    return list(dict.fromkeys(ordered))


def extract(
    answer: str | ParsedTrace, spec: AnswerSpec, *, finish_reason: str = "stop", fuzzy: bool = False
) -> Extraction:
    """Climb the ladder. Never raises, never draws, has no default. `fuzzy` admits the near-spelling rung
    (score >= 90, margin >= 5).
    """
    parsed = parse(answer, finish_reason=finish_reason) if isinstance(answer, str) else answer
    if parsed.answer is None:
        return Extraction(None, parsed.outcome)
    found = _EXTRACTORS[spec.kind](parsed.answer, spec, fuzzy)
    if found.value is None:
        if found.outcome is Outcome.OOV and _REFUSAL.search(parsed.answer):
            return Extraction(None, Outcome.REFUSED)
        return found
    if parsed.outcome is Outcome.REPAIRED:
        return Extraction(found.value, Outcome.REPAIRED, found.rung)
    return found


def _label(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    clean, table = normalise(text), _table(spec)
    if not clean:
        return Extraction(None, Outcome.EMPTY)
    if clean in table:
        exact = clean in {normalise(o) for o in spec.options}
        return Extraction(table[clean], Outcome.OK, "exact" if exact else "alias")
    if spec.letters:
        letter = re.match(r"^\(?([a-z])\b(?:[).:]|$|\s)", text.strip().lower())
        if letter and ord(letter.group(1)) - 97 < len(spec.options):
            named = mentions(clean, table)
            chosen = spec.options[ord(letter.group(1)) - 97]
            if not named or named == [chosen]:
                return Extraction(chosen, Outcome.OK, "letter")
            return Extraction(None, Outcome.AMBIGUOUS)
    named = mentions(clean, table)
    if len(named) == 1:
        return Extraction(named[0], Outcome.REPAIRED, "mention")
    if len(named) > 1:
        return Extraction(None, Outcome.AMBIGUOUS)
    if fuzzy:
        best: dict[str, float] = {}
        for spelling, name in table.items():
            best[name] = max(best.get(name, 0.0), fuzz.ratio(clean, spelling))
        scores = sorted(best.items(), key=lambda kv: -kv[1])
        if scores and scores[0][1] >= 90 and (len(scores) == 1 or scores[0][1] - scores[1][1] >= 5):
            return Extraction(scores[0][0], Outcome.REPAIRED, "fuzzy")
    return Extraction(None, Outcome.OOV)


def _items(text: str) -> list[str]:
    """Split a list answer at ; , newlines and " and "."""
    return [part for part in re.split(r"[;,\n]|\band\b", text) if normalise(part)]


def _is_none(text: str) -> bool:
    return normalise(text) in {
        "none",
        "no instrument",
        "no instruments",
        "no tool",
        "no tools",
        "no tools visible",
    }


def _labels(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    if not normalise(text):
        return Extraction(None, Outcome.EMPTY)
    if _is_none(text):
        return Extraction("none", Outcome.OK, "exact")
    found: list[str] = []
    rung, outcome = "exact", Outcome.OK
    for part in _items(text):
        one = _label(part, AnswerSpec("label", spec.options, spec.aliases), fuzzy)
        if one.value is None:
            return one
        if one.outcome is Outcome.REPAIRED:
            outcome, rung = Outcome.REPAIRED, one.rung
        found.append(one.value)
    ordered = [o for o in spec.options if o in found]
    return Extraction(", ".join(ordered), outcome, rung)


def parse_triplets(text: str) -> list[tuple[str, str, str]]:
    """(tool, verb, target) of every item whose parts are in CholecT50's vocabularies, whether or not the
    triplet is one of the 100 classes.
    """
    parts = []
    tables = [
        _lexicon(v.names, tuple(sorted(v.aliases.items())))
        for v in (vocabulary("cholect50", kind) for kind in ("tool", "verb", "target"))
    ]
    for item in re.split(r"[;\n]", text):
        clean = normalise(item)
        for tool_len in range(1, 4):
            words = clean.split()
            tool = tables[0].get(" ".join(words[:tool_len]))
            if tool is None:
                continue
            for verb_len in (2, 1):
                verb = tables[1].get(" ".join(words[tool_len : tool_len + verb_len]))
                target = tables[2].get(" ".join(words[tool_len + verb_len :]))
                if verb and target:
                    parts.append((tool, verb, target))
    return list(dict.fromkeys(parts))


def _triplets(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    if not normalise(text):
        return Extraction(None, Outcome.EMPTY)
    if _is_none(text):
        return Extraction("none", Outcome.OK, "exact")
    flat = re.sub(r"[()<>]", " ", re.sub(r"\(([^()]*)\)", lambda m: m.group(1).replace(",", " ") + ";", text))
    separator = r"[;\n]" if ";" in flat or "\n" in flat.strip() else r"[;,\n]"
    known, found = set(spec.options), []
    for item in re.split(separator, flat):
        clean = normalise(item.replace(",", " "))
        if not clean:
            continue
        parts = parse_triplets(clean)
        if len(parts) != 1 or " ".join(parts[0]) not in known:
            return Extraction(None, Outcome.OOV)
        found.append(" ".join(parts[0]))
    ordered = [o for o in spec.options if o in found]
    return Extraction("; ".join(ordered), Outcome.OK, "exact") if ordered else Extraction(None, Outcome.OOV)


_NUMBER = r"-?\d+(?:\.\d+)?"
_CORNERS = re.compile(
    rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*,?\s*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
)
_LIST = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")


def parse_boxes(text: str) -> list[Box]:
    """Boxes written `(x1,y1),(x2,y2)`, `[x1, y1, x2, y2]` or JSON `"bbox_2d": […]`. Corners are put in order;
    zero area is dropped.
    """
    boxes = []
    for match in sorted([*_CORNERS.finditer(text), *_LIST.finditer(text)], key=lambda m: m.start()):
        a, b, c, d = (float(g) for g in match.groups())
        box = (min(a, c), min(b, d), max(a, c), max(b, d))
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
    return list(dict.fromkeys(boxes))


def format_box(box: Box) -> str:
    """The canonical answer form, whole pixels."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return f"({x1},{y1}),({x2},{y2})"


def _box(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    boxes = parse_boxes(text)
    if len(boxes) == 1:
        return Extraction(format_box(boxes[0]), Outcome.OK, "exact")
    return Extraction(None, Outcome.AMBIGUOUS if boxes else Outcome.OOV)


def _yes_no(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    clean = normalise(text)
    if clean in ("yes", "no"):
        return Extraction(clean, Outcome.OK, "exact")
    named = {w for w in clean.split() if w in ("yes", "no")}
    if len(named) == 1 and clean.split()[0] in named:
        return Extraction(named.pop(), Outcome.REPAIRED, "mention")
    return Extraction(None, Outcome.AMBIGUOUS if len(named) > 1 else Outcome.OOV)


def _count(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    words = [_NUMBER_WORDS.get(w, w) for w in normalise(text).split()]
    numbers = {w.lstrip("0") or "0" for w in words if w.isascii() and w.isdigit()}
    if len(numbers) == 1:
        return Extraction(
            numbers.pop(),
            Outcome.OK if len(words) == 1 else Outcome.REPAIRED,
            "exact" if len(words) == 1 else "mention",
        )
    return Extraction(None, Outcome.AMBIGUOUS if numbers else Outcome.OOV)


def _text(text: str, spec: AnswerSpec, fuzzy: bool) -> Extraction:
    if spec.options:
        return _label(text, spec, fuzzy)
    clean = normalise(text)
    return Extraction(clean, Outcome.OK, "exact") if clean else Extraction(None, Outcome.EMPTY)


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


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two x1,y1,x2,y2 boxes in continuous coordinates (no +1; evaluation.md
    B5).
    """
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0
