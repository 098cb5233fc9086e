"""Does a trace agree with its frame's labels, and each level with those before it? Named checks, each with
what was found. Used on teachers' traces and on the model's own; how the text is written is checked by
`prose`, whose findings are among these.

What a level claims is read by `statements` and held against the labels by `support`. A level may build only
on what an earlier one established: the tools it names and the targets of what they do.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import Box, normalise
from surgr1.reasoning.lexicon import (
    ANY,
    COMPARED,
    COUNTERFACTUAL,
    ELSEWHEN,
    HEDGES,
    NULL,
    UNREAD,
    Token,
    lexicon,
    sentences,
)
from surgr1.reasoning.prose import Finding, check_prose, sentences_of
from surgr1.reasoning.statements import Kind, Statement, read, read_text
from surgr1.reasoning.support import HOLDING, Judged, Seen, judge, same_thing
from surgr1.reasoning.trace import ParsedTrace

_SUPPORT: Mapping[str, tuple[Kind, ...]] = {
    "tools_supported": ("tool",),
    "tissues_supported": ("tissue",),
    "deeds_supported": ("deed",),
    "activity_supported": ("phase", "step", "action"),
    "criteria_supported": ("criterion",),
    "cues_supported": ("cue",),
    "places_supported": ("place",),
    "numbers_supported": ("count",),
}
_ASKED: Mapping[Task, Kind] = {
    Task.PHASE_RECOGNITION: "phase",
    Task.STEP_RECOGNITION: "step",
    Task.ACTION_RECOGNITION: "action",
    Task.CVS_CRITERIA_ASSESSMENT: "criterion",
    Task.OVERALL_CVS_ASSESSMENT: "criterion",
}
"""What a question asks for, as the kind of statement that answers it."""
_COMMON = frozenset({"fat", "fluid", "blood vessel", "adhesion", "thread", "needle", "suture"})
"""Of any operation, and in no need of being established before something is said of them."""
_WHOLE_SCENE = (Task.TRIPLET_EXTRACTION, Task.TOOL_RECOGNITION, Task.TOOL_COUNTING)


def check_trace(
    parsed: ParsedTrace, *, task: Task, seen: Seen, boxes: Sequence[Box], allowed: Iterable[str]
) -> list[Finding]:
    """Every check that applies to this task and these labels, each once. `boxes` are the labelled ones in the
    pixels that the trace speaks of; `allowed` are names that may be said beside those of the procedure: the
    dataset's own vocabulary, the question's options.
    """
    statements = read(parsed, seen.procedure)
    judged = judge(statements, seen)
    findings = [
        Finding(
            "format",
            parsed.is_format(task.level),
            f"levels {parsed.headed}, expected 1-{task.level}, tags {parsed.has_think}",
        ),
        _concludes_late(parsed, task, seen),
        _vocabulary(statements, seen, allowed),
        *(
            _supported(name, kinds, judged, seen.labels.triplets is not None)
            for name, kinds in _SUPPORT.items()
        ),
        *check_prose(parsed.levels, boxes),
    ]
    if seen.labels.tools is not None:
        findings.append(_mentioned(parsed, seen))
        if task in _WHOLE_SCENE:
            findings.append(_grounded(parsed, seen))
    if seen.labels.triplets is not None and task is Task.TRIPLET_EXTRACTION:
        findings.append(_relations(parsed, statements, seen, seen.labels.triplets))
    findings += [_built_on(parsed, statements, seen, level) for level in (2, 3) if level <= task.level]
    return _merged(findings)


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding per check: what is read as statements and what is found in the wording may share one."""
    found: dict[str, Finding] = {}
    for f in findings:
        earlier = found.get(f.check)
        if earlier is None or (earlier.ok and not f.ok):
            found[f.check] = f
        elif not f.ok:
            found[f.check] = Finding(f.check, False, f"{earlier.detail}; {f.detail}")
    return list(found.values())


def _kind(statement: Statement) -> Kind:
    """A count of criteria is a claim about criteria, every other one about tools."""
    return "criterion" if (statement.kind, statement.subject) == ("count", "criteria") else statement.kind


def _supported(name: str, kinds: tuple[Kind, ...], judged: Sequence[Judged], acts: bool) -> Finding:
    """The claims of these kinds that the labels refute. `acts`: whether deeds are labelled."""
    wrong = [j for j in judged if j.verdict == "refuted" and _kind(j.statement) in kinds]
    if name == "deeds_supported":
        # Where deeds are not labelled, only the tool is wrong.
        wrong = [j for j in wrong if acts or not j.by_tools]
    if name == "tools_supported":
        # What acts is there: a tool that the labels exclude is as wrong in a deed as in a list.
        wrong += [j for j in judged if j.verdict == "refuted" and j.by_tools]
    said = "; ".join(dict.fromkeys(f"{j.statement.text!r} ({j.reason})" for j in wrong))
    return Finding(name, not wrong, said)


def _concludes_late(parsed: ParsedTrace, task: Task, seen: Seen) -> Finding:
    """The first sentence of Level 1 does not conclude what was asked."""
    first = next(iter(sentences_of(parsed.levels.get(1, ""))), "")
    kind = _ASKED.get(task)
    early = bool(kind) and any(s.kind == kind for s in read_text(first, 1, seen.procedure))
    answer = normalise(parsed.answer or "")
    if kind in ("phase", "step", "action") and answer and not seen.procedure.entity(answer):
        # A phase may be called after an organ, which one may see.
        early = early or _named(answer, first)
    return Finding("observes_first", not early, f"the first sentence, {first!r}, is the conclusion")


def _named(answer: str, sentence: str) -> bool:
    """Whether a sentence holds the answer; one of a single word ("preparation", "other") only where it is
    said to be it.
    """
    if " " in answer:
        return f" {answer} " in f" {normalise(sentence)} "
    return bool(
        re.search(
            rf"\b(?:is|be|like|clearly|obviously|surely)\s+(?:the\s+)?{re.escape(answer)}\s*"
            r"(?:$|[.,;:!?-]|(?:phase|step|stage|action|here|because|as|since)\b)",
            sentence.lower(),
        )
    )


def _vocabulary(statements: Iterable[Statement], seen: Seen, allowed: Iterable[str]) -> Finding:
    """No instrument or structure of another kind of operation is said to be there."""
    known = {e.name for e in (*seen.procedure.tools, *seen.procedure.tissues)} | set(allowed) | _COMMON
    said = [
        name
        for s in statements
        if not s.negated
        for name in ((s.subject, s.object) if s.kind == "deed" else (s.subject,) if s.kind in _THINGS else ())
        if name not in ("", ANY, "null target", "instrument", "criteria")
    ]
    strange = sorted({n for n in said if not any(same_thing(n, k) for k in known)})
    return Finding(
        "vocabulary", not strange, f"{', '.join(strange)}: not among the {seen.procedure.name}'s own"
    )


_THINGS = ("tool", "tissue", "place", "count")


def _mentioned(parsed: ParsedTrace, seen: Seen) -> Finding:
    """No tool that the labels exclude stands anywhere in a sentence that denies, compares and supposes
    nothing ("smoke is cleared by the suction instrument").
    """
    wrong = []
    for level, text in parsed.levels.items():
        for tokens in _now(text, seen):
            if any(t.type == "negator" or t.value in COMPARED for t in tokens):
                continue
            words = " ".join(t.value for t in tokens)
            claims = [
                Statement("tool", level, t.value, "seen", text=words) for t in tokens if t.type == "tool"
            ]
            wrong += [j for j in judge(claims, seen) if j.verdict == "refuted"]
    said = "; ".join(dict.fromkeys(f"names {j.statement.subject} ({j.reason})" for j in wrong))
    return Finding("tools_supported", not wrong, said)


def _grounded(parsed: ParsedTrace, seen: Seen) -> Finding:
    named = _established(parsed, seen, (1,))
    # Not a class such as EndoVis17's "other", which is no thing one can name.
    known = [t for t in seen.labels.tools or () if seen.procedure.entity(t)]
    missing = [t for t in known if not any(same_thing(n, t) for n in named)]
    return Finding("tools_grounded", not missing, f"Level 1 does not establish {', '.join(missing)}")


def _relations(
    parsed: ParsedTrace, statements: Iterable[Statement], seen: Seen, triplets: Iterable[tuple[str, str, str]]
) -> Finding:
    """Level 2 states every labelled triplet; of what is idle nothing. A deed may have its tool in another
    sentence ("its jaws", "the former"), so a sentence with verb and target states it unless it names another
    tool, or denies it.
    """
    told = [s for s in statements if s.kind == "deed" and s.level == 2]
    clauses = _now(parsed.levels.get(2, ""), seen)

    def stated(tool: str, verb: str, target: str) -> bool:
        same = [d for d in told if d.predicate == verb and d.object and same_thing(d.object, target)]
        mine = [d for d in same if d.subject and same_thing(d.subject, tool)]
        if mine:
            return not any(d.negated for d in mine)
        if any(d.subject not in ("", ANY) for d in same):
            # Another tool does it.
            return False
        for tokens in clauses:
            tools = {t.value for t in tokens if t.type == "tool"}
            names = {t.value for t in tokens if t.type == "tissue"} | {t.entity for t in tokens if t.entity}
            verbs = {
                "clip" if t.value == "clips set" else t.value for t in tokens if t.type in ("verb", "finding")
            }
            if "specimen bag" in names and any(t.value == "into" for t in tokens):
                verbs.add("pack")
            named = any(same_thing(n, target) for n in names) or (not names and len(told) <= 1)
            if verb in verbs and named and (not tools or any(same_thing(t, tool) for t in tools)):
                return True
        return False

    missing = [" ".join(t) for t in triplets if t[1] != NULL and not stated(*t)]
    return Finding("relations_stated", not missing, f"Level 2 does not state {'; '.join(missing)}")


def _now(text: str, seen: Seen) -> list[list[Token]]:
    """The tokens of each sentence of what is said of this moment: without clauses of time, and no sentence
    that supposes, hedges or tells of another time.
    """
    found = []
    for sentence in sentences(text):
        read: list[Token] = []
        skipping = False
        for token in lexicon(seen.procedure).tokens(sentence):
            if token.type == "separator" and (token.value in UNREAD or token.value == ","):
                skipping = token.value != ","
            if not skipping:
                read.append(token)
        if not {t.value for t in read} & _UNREAL:
            found.append(read)
    return found


_UNREAL = (COUNTERFACTUAL | ELSEWHEN | HEDGES) - {"other", "own"}


_GUESSED = frozenset(("may", "might", "could", "possibly", "perhaps", "maybe"))


def _established(parsed: ParsedTrace, seen: Seen, levels: Iterable[int]) -> set[str]:
    """Every tool and structure that these levels name and do not only deny or guess. Wider than what they
    claim: a landmark or the agent of a purpose has been seen too.
    """
    known = lexicon(seen.procedure)
    named: set[str] = set()
    denied: set[str] = set()
    for level in levels:
        text = parsed.levels.get(level, "")
        for sentence in sentences(text):
            for separated, clause in groupby(known.tokens(sentence), lambda t: t.type == "separator"):
                tokens = list(clause)
                if separated or any(t.value in _GUESSED for t in tokens):
                    continue
                named |= {t.value for t in tokens if t.type in ("tool", "tissue")}
                named |= {t.entity for t in tokens if t.type == "finding" and t.entity}
        claims = [
            s for s in read_text(text, level, seen.procedure) if s.kind in ("tool", "tissue", "deed", "place")
        ]
        affirmed = {n for s in claims if not s.negated for n in (s.subject, s.object)}
        denied |= {s.subject for s in claims if s.negated and s.kind in ("tool", "tissue")} - affirmed
    return named - denied


def _built_on(parsed: ParsedTrace, statements: Sequence[Statement], seen: Seen, level: int) -> Finding:
    """Level 2 acts with what Level 1 established, Level 3 concludes from what Levels 1 and 2 did."""
    name = "level2_from_level1" if level == 2 else "level3_from_levels"
    before = range(1, level)
    known = _established(parsed, seen, before)
    mine = [s for s in statements if s.level == level and not s.negated]
    things = {s.subject for s in mine if s.kind in ("tool", "deed", "place", "count")} | {
        # "The dissection of Calot's triangle", without a doer, is the name of a phase.
        s.object
        for s in mine
        if s.kind == "deed" and (level == 2 or s.subject)
    }
    # Also a tool that is only part of a phrase ("into the jaws of a stapler"), where nothing is denied.
    things |= {
        t.value
        for tokens in _now(parsed.levels.get(level, ""), seen)
        if not any(t.type == "negator" for t in tokens)
        for t in tokens
        if t.type == "tool"
    }
    things -= {"", ANY, "null target", "instrument", "criteria", *_COMMON}
    new = sorted(n for n in things if not any(same_thing(n, k) or same_thing(k, n) for k in known))
    told = [s for s in statements if s.kind == "deed" and s.level in before and not s.negated]
    deeds = [
        f"{s.subject} {s.predicate} {s.object}"
        for s in mine
        if level == 3
        and s.kind == "deed"
        and s.subject not in ("", ANY)
        and s.predicate != NULL
        and s.object not in ("", *_COMMON)
        and not _told(s, told)
    ]
    what = [*new, *deeds]
    return Finding(name, not what, f"Level {level} brings in what was not established: {', '.join(what)}")


def _told(deed: Statement, told: Iterable[Statement]) -> bool:
    """Whether the same agent did the same before, to the same where both say to what."""
    return any(
        t.subject in (deed.subject, "")
        and (t.predicate == deed.predicate or (deed.predicate, t.predicate) in HOLDING)
        and (not t.object or same_thing(deed.object, t.object) or same_thing(t.object, deed.object))
        for t in told
    )
