"""Does a trace agree with the labels? Named checks, each with what was found. Used on teachers' traces and on
the model's own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from surgr1.ontology.procedures import Procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import mentions, normalise
from surgr1.reasoning.trace import ParsedTrace


class LabelView(Protocol):
    """The part of `corpora.schema.Labels` that is checked here (reasoning may not import corpora)."""

    @property
    def tools(self) -> tuple[str, ...] | None: ...
    @property
    def triplets(self) -> tuple[tuple[str, str, str], ...] | None: ...
    @property
    def phase(self) -> str | None: ...
    @property
    def action(self) -> str | None: ...


@dataclass(frozen=True)
class Finding:
    """One check's verdict; `detail` says what was wrong."""

    check: str
    ok: bool
    detail: str = ""


_NEGATION = re.compile(r"\b(?:no|not|without|neither|nor|absent|never|nothing)\b(?:\W+\w+){0,3}\W*$")
_LEAK = re.compile(
    r"ground truth|correct answer is given|answer (?:was|is) (?:given|known|provided)|as"
    r" (?:given|provided|stated) in the (?:label|prompt|question)|the label (?:is|says)|must arrive at",
    re.IGNORECASE,
)


def affirmed(text: str, table: Mapping[str, str]) -> list[str]:
    """Canonical names that the text mentions and does not negate within the same clause."""
    found: list[str] = []
    for clause in re.split(r"[.;,\n]", text):
        clean = normalise(clause)
        for name in mentions(clean, table):
            spellings = [s for s, n in table.items() if n == name and f" {s} " in f" {clean} "]
            before = clean[: min(clean.find(s) for s in spellings)]
            if not _NEGATION.search(before + " ") and name not in found:
                found.append(name)
    return found


def _spellings(entries: Iterable[tuple[str, Sequence[str]]]) -> dict[str, str]:
    return {normalise(s): name for name, aliases in entries for s in (name, *aliases)}


def check_trace(
    parsed: ParsedTrace, *, task: Task, labels: LabelView, procedure: Procedure, answer_ok: bool
) -> list[Finding]:
    """Every check that applies to this task and these labels. `answer_ok` is the caller's comparison of
    answer and label.
    """
    findings = [
        Finding(
            "format",
            parsed.is_format(task.level),
            f"levels {parsed.headed}, expected 1-{task.level}, tags {parsed.has_think}",
        ),
        Finding("answer", answer_ok, f"answer {parsed.answer!r} is not the label"),
        Finding("no_leak", not _LEAK.search(parsed.text), "mentions that the answer was given"),
    ]
    text = " ".join(parsed.levels.get(k, "") for k in (1, 2, 3))
    tools = _spellings((t.name, t.aliases) for t in procedure.tools)
    if labels.tools is not None:
        extra = [t for t in affirmed(text, tools) if t not in labels.tools and t != "specimen bag"]
        findings.append(
            Finding(
                "tools_supported",
                not extra,
                f"names {', '.join(extra)}, which the frame's labels do not hold",
            )
        )
        if task in (Task.TRIPLET_EXTRACTION, Task.TOOL_RECOGNITION, Task.TOOL_COUNTING):
            missing = [t for t in labels.tools if t not in affirmed(parsed.levels.get(1, ""), tools)]
            findings.append(
                Finding("tools_grounded", not missing, f"Level 1 does not establish {', '.join(missing)}")
            )
    if labels.triplets is not None and task is Task.TRIPLET_EXTRACTION:
        level2 = normalise(parsed.levels.get(2, ""))
        missing = [
            " ".join(t)
            for t in labels.triplets
            if t[1] != "null verb" and not (t[0] in level2 and t[2] in level2 and t[1][:5] in level2)
        ]
        findings.append(
            Finding("relations_stated", not missing, f"Level 2 does not state {'; '.join(missing)}")
        )
    for kind, activities, truth in (
        ("phase", procedure.phases, labels.phase),
        ("action", procedure.actions, labels.action),
    ):
        if truth is not None and task in (Task.PHASE_RECOGNITION, Task.ACTION_RECOGNITION):
            named = affirmed(parsed.levels.get(task.level, ""), _spellings((a.name, ()) for a in activities))
            other = [n for n in named if n != truth]
            findings.append(
                Finding(
                    f"{kind}_consistent", not other, f"concludes {', '.join(other)} but the label is {truth}"
                )
            )
    return findings
