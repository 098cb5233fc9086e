"""Answers inside code fences, LaTeX and JSON."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surgr1.reasoning.answers.spec import Kind
from surgr1.reasoning.answers.spelling import normalise, word_set

_FENCE = re.compile(r"```[a-zA-Z]{0,12}[ \t]{0,4}\n?(.*?)```", re.DOTALL)
_BOXED = re.compile(r"\\boxed ?\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf) ?\{([^{}]*)\}")
_JSON_LENGTH = 4000
"""No JSON answer is longer; a repair of more would be slow."""
_ANSWER_KEYS = word_set(
    "answer prediction label result response output value class choice option phase step action tool tools"
    " instrument instruments tissue tissues structure structures triplet triplets count number position"
    " quadrant location"
)
TOOL_KEYS = ("tool", "instrument")
VERB_KEYS = ("verb", "action")
TARGET_KEYS = ("target", "tissue", "organ", "anatomy", "structure")


def unwrap(text: str, kind: Kind) -> tuple[str, bool]:
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
        parts = [_of_key(entries, keys) for keys in (TOOL_KEYS, VERB_KEYS, TARGET_KEYS)]
        if kind == "triplets" and sum(p is not None for p in parts) >= 2:
            yield "(" + ", ".join(p or "?" for p in parts) + ")"
        elif len(value) > 1 and all(isinstance(v, bool) for v in value.values()):
            yield from (str(k) for k, v in value.items() if v)
        else:
            chosen = [v for k, v in entries.items() if not _ANSWER_KEYS.isdisjoint(k.split()[-1:])]
            if not chosen and len(entries) == 1:
                chosen = list(entries.values())
            for one in chosen:
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
