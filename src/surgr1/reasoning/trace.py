"""`<think>Level 1: … Level 2: … Level 3: …</think><answer>…</answer>`: rendering and total parsing (design.md
section 4).
"""

import re
from bisect import bisect
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
    r"(?:^|(?<=[\n.!?>]))[ \t]{0,8}[*#_]{0,8}[ \t]{0,8}level[ \t]{0,8}([123])\b[ \t]{0,8}"
    r"(?:\([^)\n]{0,60}\))?[*_]{0,8}[ \t]{0,8}[:\-–—.][*_]*",
    re.IGNORECASE,
)
_THINK = re.compile(r"<(/?)think>", re.IGNORECASE)
_THINK_TAG = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<[ \t]{0,3}(/?)[ \t]{0,3}answer[ \t]{0,3}>", re.IGNORECASE)
# "Answer: …", "**Final answer:** …", "### Final Answer" on a line of its own.
_ANSWER_LINE = re.compile(
    r"(?:^|\n)[ \t✓✗*_#>-]{0,12}(?:the |my )?(?:final |correct )?answer[*_]{0,3}[ \t]{0,8}"
    r"(?::[*_]{0,3}|(?=\n))",
    re.IGNORECASE,
)


def parse(text: str, *, finish_reason: str = "stop") -> ParsedTrace:
    """Take a completion apart. Total: any string gives a result, in linear time (B10 steps 1 and 2).

    Reasoning is what stands between the think tags; of several closing ones the last ends it. The answer is
    the last `<answer>` block outside the reasoning; else what follows an unclosed `<answer>`; else an
    "Answer:" line and its paragraph (the form of the paper's Figures 3-13) after the reasoning; else all text
    after the reasoning, without the Level blocks before the last. All but the first are `repaired`.

    Judgement calls: a block inside closed reasoning is a draft and no answer, unless it is the very end of a
    completion (then `repaired`). What was cut off (`finish_reason` "length") only counts where the answer had
    ended: a closed block or an answer line followed by a blank line; anything else may be half an answer, or
    reasoning that would have gone on, and is `truncated`.
    """
    if finish_reason == "blocked":
        return ParsedTrace({}, None, Outcome.BLOCKED, text=text)
    if finish_reason == "error":
        return ParsedTrace({}, None, Outcome.API_ERROR, text=text)
    cut_off = finish_reason == "length"
    if not text.strip():
        return ParsedTrace({}, None, Outcome.TRUNCATED if cut_off else Outcome.EMPTY, text=text)
    tags = [(m.start(), m.group(1)) for m in _THINK.finditer(text)]
    opened = next((at for at, slash in tags if not slash), -1)
    closed = next((at for at, slash in reversed(tags) if slash), -1)
    blocks, unclosed = _blocks(text)
    answer, outcome = _answer(text, blocks, unclosed, cut_off)
    if not answer and outcome is not Outcome.TRUNCATED:
        outcome = Outcome.TRUNCATED if cut_off else Outcome.EMPTY

    trailing = text[blocks[-1][2] :].strip() if blocks else ""
    if closed != -1:
        reasoning_end = closed
    elif blocks:
        reasoning_end = blocks[0][0]
    else:
        lines = list(_ANSWER_LINE.finditer(text))
        reasoning_end = lines[-1].start() if lines else len(text) if opened != -1 else 0
    start = opened + len("<think>") if opened != -1 else 0
    reasoning = text[start : max(start, reasoning_end)]
    reasoning = re.sub(r"^\s*thinking\s*:", "", reasoning, flags=re.IGNORECASE)
    levels, headed, opener = _levels(reasoning)
    return ParsedTrace(
        levels,
        answer or None,
        outcome,
        headed,
        opener,
        opened != -1 and closed > opened,
        len(blocks),
        trailing,
        text,
    )


def _thoughts(text: str) -> tuple[list[tuple[int, int]], bool]:
    """Spans of closed reasoning in order, and whether more was begun after them and not closed.

    Reasoning without an opening tag starts with the text. A second closing tag extends a span: what stood
    between the two was reasoning as well.
    """
    spans: list[tuple[int, int]] = []
    start, end, begun = 0, -1, False
    for tag in _THINK_TAG.finditer(text):
        if tag.group(1):
            end, begun = tag.end(), False
        elif not begun:
            if end != -1:
                spans.append((start, end))
            start, end, begun = tag.start(), -1, True
    if end != -1:
        spans.append((start, end))
    return spans, begun


def _blocks(text: str) -> tuple[list[tuple[int, str, int]], int]:
    """Answer blocks (start, text, end) and where an unclosed one after them starts (-1: none). Of tags opened
    twice the inner counts.
    """
    blocks: list[tuple[int, str, int]] = []
    tag_start = inside = -1
    for tag in _ANSWER_TAG.finditer(text):
        if not tag.group(1):
            # `<answer>x<answer>`: the second is a closing tag without its slash when nothing follows.
            if inside != -1 and not text[tag.end() :].strip():
                break
            tag_start, inside = tag.start(), tag.end()
        elif inside != -1:
            blocks.append((tag_start, text[inside : tag.start()].strip(), tag.end()))
            inside = -1
    return blocks, inside


def _answer(
    text: str, blocks: list[tuple[int, str, int]], unclosed: int, cut_off: bool
) -> tuple[str, Outcome]:
    """The answer text and how it was given."""
    thoughts, thinking = _thoughts(text)
    after = thoughts[-1][1] if thoughts else 0

    def free(position: int) -> bool:
        before = bisect(thoughts, (position, len(text)))
        return before == 0 or thoughts[before - 1][1] <= position

    if unclosed != -1 and free(unclosed) and (answer := _untagged(text[unclosed:])):
        return ("", Outcome.TRUNCATED) if cut_off else (answer, Outcome.REPAIRED)
    outside = next((b for b in reversed(blocks) if free(b[0])), None)
    if outside:
        # Reasoning that went on after a draft and was cut off.
        if cut_off and thinking and text[outside[2] :].strip():
            return "", Outcome.TRUNCATED
        return outside[1], Outcome.OK
    rest = text[after:]
    lines = list(_ANSWER_LINE.finditer(rest))
    if lines:
        answer, stop, _ = rest[lines[-1].end() :].lstrip().partition("\n\n")
        return ("", Outcome.TRUNCATED) if cut_off and not stop else (_untagged(answer), Outcome.REPAIRED)
    if thinking:
        return "", Outcome.TRUNCATED
    if rest := _untagged(rest):
        headings = list(_HEADING.finditer(rest))
        rest = rest[headings[-1].end() if headings else 0 :].strip()
        return ("", Outcome.TRUNCATED) if cut_off else (rest, Outcome.REPAIRED)
    if blocks and not _THINK_TAG.sub("", text[blocks[-1][2] :]).strip():
        return blocks[-1][1], Outcome.REPAIRED
    return "", Outcome.EMPTY


def _untagged(text: str) -> str:
    return _ANSWER_TAG.sub(" ", text).strip()


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
    parts: dict[int, list[str]] = {}
    for here, following in zip(headings, [*headings[1:], None], strict=True):
        end = following.start() if following else len(body)
        parts.setdefault(int(here.group(1)), []).append(body[here.end() : end].strip())
    levels = {number: " ".join(filter(None, texts)) for number, texts in parts.items()}
    return levels, tuple(int(h.group(1)) for h in headings), opener
