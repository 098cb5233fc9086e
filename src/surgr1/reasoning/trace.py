"""`<think>Level 1: … Level 2: … Level 3: …</think><answer>…</answer>`: rendering and total parsing (design.md
section 4).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one completion (evaluation.md B0). Only `ok` and `repaired` carry an answer that
    counts.
    """

    OK = "ok"
    REPAIRED = "repaired"
    AMBIGUOUS = "ambiguous"
    OOV = "oov"
    REFUSED = "refused"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    BLOCKED = "blocked"
    API_ERROR = "api_error"


@dataclass(frozen=True)
class Trace:
    """A well-formed trace: level number -> text, in order 1..k, and the answer. No levels: a direct
    answer.
    """

    levels: Mapping[int, str]
    answer: str


@dataclass(frozen=True)
class ParsedTrace:
    """What was found in a completion.

    `outcome` judges the form alone: `ok` with answer tags, `repaired` without, else why there is no answer
    text. `headed` are the levels that had their own "Level k" heading, in order of appearance; `opener` a
    leading sentence such as "This is a Level 2 task …"; `trailing` any text after the last `</answer>`.
    """

    levels: dict[int, str]
    answer: str | None
    outcome: Outcome
    headed: tuple[int, ...] = ()
    opener: str = ""
    has_think: bool = False
    answer_blocks: int = 0
    trailing: str = ""
    text: str = field(default="", repr=False)

    def is_format(self, level: int) -> bool:
        """The format of the paper: closed think tags, exactly levels 1..`level` in order and not empty, one
        answer block, nothing after.
        """
        return (
            self.has_think
            and self.answer_blocks == 1
            and self.outcome is Outcome.OK
            and not self.trailing
            and self.headed == tuple(range(1, level + 1))
            and all(self.levels[k].strip() for k in self.headed)
        )


def render(trace: Trace) -> str:
    """The trace as text. Without levels only the answer block is written (stage 1's VQA form)."""
    answer = f"<answer>{trace.answer}</answer>"
    if not trace.levels:
        return answer
    blocks = "\n".join(f"Level {k}: {trace.levels[k].strip()}" for k in sorted(trace.levels))
    return f"<think>{blocks}</think>{answer}"


_OPENER = re.compile(r"^\s*This is a Level [123] task\b[^\n.]*\.?", re.IGNORECASE)
# A heading starts a line (or the text, or follows a sentence end) and is followed by punctuation: "Level 2:",
# "**Level 2 (…)**:", "Level 2 -".
_HEADING = re.compile(
    r"(?:^|(?<=[\n.!?>]))[ \t]*[*#_]*[ \t]*level[ \t]*([123])\b[ \t]*(?:\([^)\n]{0,60}\))?[*_]*["
    r" \t]*[:\-–—.][*_]*",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_PLAIN_ANSWER = re.compile(r"(?:^|\n)[ \t✓✗*_]*(?:final )?answer[*_]*[ \t]*:[ \t]*(.+)", re.IGNORECASE)


def parse(text: str, *, finish_reason: str = "stop") -> ParsedTrace:
    """Take a completion apart. Total: any string gives a result (B10 steps 1 and 2).

    The last `</think>` ends the reasoning, the last `<answer>` block is the answer; else the text after the
    reasoning; else an "Answer:" line (the form of the paper's Figures 3-13); else the whole text.
    `finish_reason` "length" with no answer is `truncated`.
    """
    if finish_reason == "blocked":
        return ParsedTrace({}, None, Outcome.BLOCKED, text=text)
    if finish_reason == "error":
        return ParsedTrace({}, None, Outcome.API_ERROR, text=text)
    if not text.strip():
        return ParsedTrace({}, None, Outcome.EMPTY, text=text)
    lowered = text.lower()
    opened, closed = lowered.find("<think>"), lowered.rfind("</think>")
    has_think = opened != -1 and closed > opened
    blocks = list(_ANSWER.finditer(text))
    trailing = text[blocks[-1].end() :].strip() if blocks else ""

    answer: str | None
    if blocks:
        answer, outcome = blocks[-1].group(1).strip(), Outcome.OK
        reasoning_end = blocks[0].start()
    elif closed != -1:
        answer, outcome, reasoning_end = (
            re.sub(r"</?answer>", " ", text[closed + 8 :], flags=re.I).strip(),
            Outcome.REPAIRED,
            closed,
        )
    else:
        plain = list(_PLAIN_ANSWER.finditer(text))
        if plain:
            answer, outcome, reasoning_end = plain[-1].group(1).strip(), Outcome.REPAIRED, plain[-1].start()
        elif opened != -1:
            answer, outcome, reasoning_end = None, Outcome.TRUNCATED, len(text)
        else:
            answer, outcome, reasoning_end = text.strip(), Outcome.REPAIRED, 0
    if not answer:
        outcome = Outcome.TRUNCATED if finish_reason == "length" or answer is None else Outcome.EMPTY
        answer = None
    elif outcome is Outcome.REPAIRED and finish_reason == "length" and _HEADING.search(answer):
        # Cut off inside the reasoning: what is left is no answer.
        answer, outcome = None, Outcome.TRUNCATED

    if closed != -1:
        reasoning_end = min(reasoning_end, closed) if blocks else closed
    start = opened + 7 if opened != -1 else 0
    reasoning = text[start : max(start, reasoning_end)]
    reasoning = re.sub(r"^\s*thinking\s*:", "", reasoning, flags=re.IGNORECASE)
    levels, headed, opener = _levels(reasoning)
    return ParsedTrace(levels, answer, outcome, headed, opener, has_think, len(blocks), trailing, text)


def _levels(reasoning: str) -> tuple[dict[int, str], tuple[int, ...], str]:
    """Split reasoning into levels. Headless text after the opener counts as Level 1 (the paper's Figures 3
    and 8).
    """
    opener_match = _OPENER.match(reasoning)
    opener = opener_match.group(0).strip() if opener_match else ""
    body = reasoning[opener_match.end() :] if opener_match else reasoning
    headings = list(_HEADING.finditer(body))
    if not headings:
        return ({1: body.strip()} if body.strip() else {}), (), opener
    levels: dict[int, str] = {}
    for here, following in zip(headings, [*headings[1:], None], strict=True):
        end = following.start() if following else len(body)
        number = int(here.group(1))
        levels[number] = (levels.get(number, "") + " " + body[here.end() : end].strip()).strip()
    return levels, tuple(int(h.group(1)) for h in headings), opener
