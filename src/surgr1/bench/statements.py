"""Statements of traces against the truth of simulated frames: what is supported, refuted, or cannot be
checked, and what of the scene is left unsaid.

Ours (evaluation.md B8 knows only the labels of a frame). The truth is the simulator's scene graph, written
beside the native trees; real data has none, and every number here is of simulated data.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from surgr1.bench.metrics.base import Array, defined
from surgr1.bench.truth import CONDITIONS, Key, TruthRow
from surgr1.corpora.questions import quadrant
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.lexicon import ANY, NULL
from surgr1.reasoning.statements import KINDS, Statement, read
from surgr1.reasoning.trace import parse

Result = Literal["supported", "refuted", "uncheckable"]
LEVELS = (1, 2, 3)
NOT_DRAWN = frozenset({"peritoneum", "blood vessel", "cystic pedicle"})
"""Tissues of the ontology that the renderer has no mask for."""


@dataclass(frozen=True)
class Verdict:
    """`reason` says why a statement is refuted or cannot be checked."""

    statement: Statement
    result: Result
    reason: str = ""


def check(statements: Iterable[Statement], truth: TruthRow) -> list[Verdict]:
    """One verdict per statement, in order."""
    return [_verdict(s, truth) for s in statements]


_Finding = tuple[bool | None, str]
"""Whether the claim (before negation) holds, None if that is unknown; what the scene says instead."""


def _verdict(statement: Statement, truth: TruthRow) -> Verdict:
    if statement.kind == "other":
        return Verdict(statement, "uncheckable", "not read")
    holds, reason = _CHECKS[statement.kind](statement, truth)
    if holds is None:
        return Verdict(statement, "uncheckable", reason)
    if holds != statement.negated:
        return Verdict(statement, "supported")
    return Verdict(statement, "refuted", f"denied, but so in the scene: {reason}" if holds else reason)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"


def _tool(s: Statement, t: TruthRow) -> _Finding:
    tools = [i.tool for i in t.instruments]
    holds = bool(tools) if s.subject == ANY else t.shows(s.subject)
    return holds, f"tools seen: {_listed(tools)}"


def _tissue(s: Statement, t: TruthRow) -> _Finding:
    drawn = [n for n, _ in t.tissues]
    if s.subject == ANY:
        # What tissue questions ask for; liver and wall are always there.
        named = set(vocabulary("endoscapes", "tissue").names) & set(drawn)
        return bool(named), f"structures drawn: {_listed(named)}"
    if s.subject in NOT_DRAWN:
        return None, f"the simulation draws no {s.subject}"
    # Fat is drawn as part of the omentum where the ontology has no fat.
    name = "omentum" if s.subject == "fat" and t.acts else s.subject
    return t.shows(name), f"drawn: {_listed(drawn)}"


def _place(s: Statement, t: TruthRow) -> _Finding:
    boxes = [i.box for i in t.instruments] if s.subject == ANY else t.boxes(s.subject)
    if s.subject in NOT_DRAWN:
        return None, f"the simulation draws no {s.subject}"
    if s.object == "centre":
        return (None, "no rule says how large the centre is") if boxes else (False, f"no {s.subject} is seen")
    found = [quadrant(b, t.width, t.height) for b in boxes]
    # Label files round boxes: within a pixel of a middle line both sides are right.
    close = [
        quadrant((b[0] + dx, b[1] + dy, b[2] + dx, b[3] + dy), t.width, t.height)
        for b in boxes
        for dx in (-0.5, 0.5)
        for dy in (-0.5, 0.5)
    ]
    holds = any(s.object in (q, *q.split("-")) for q in (*found, *close))
    return holds, f"{s.subject} is at: {_listed(found)}"


def _deed(s: Statement, t: TruthRow) -> _Finding:
    deeds = [(i.tool, i.verb, i.target) for i in t.instruments]
    said = _listed(f"{tool} {verb} {target}" for tool, verb, target in deeds if verb)
    if s.subject == ANY:
        if not t.acts:
            return None, "the simulation gives this procedure no deeds"
        return any(v != NULL for _, v, _ in deeds), f"deeds: {said}"
    if s.subject and not t.shows(s.subject):
        return False, f"no {s.subject} is seen"
    if not t.acts:
        return None, "the simulation gives this procedure no deeds"
    if s.predicate == "touch":
        acting = [d for d in deeds if d[1] != NULL and s.subject in ("", d[0]) and s.object in ("", d[2])]
        return (True if acting else None), f"deeds: {said}"
    holds = any(
        s.subject in ("", tool) and s.predicate == verb and s.object in ("", target)
        for tool, verb, target in deeds
    )
    return holds, f"deeds: {said}"


def _activity(s: Statement, t: TruthRow) -> _Finding:
    true = {"phase": t.phase, "step": t.step, "action": t.action}[s.kind]
    if true is None:
        return None, f"the simulation gives this frame no {s.kind}"
    return s.subject == true, f"{s.kind}: {true}"


def _criterion(s: Statement, t: TruthRow) -> _Finding:
    if t.cvs is None:
        return None, "the frame has no criteria"
    reason = f"criteria met: {_listed(f'C{k + 1}' for k, met in enumerate(t.cvs) if met)}"
    if s.subject in ("C1", "C2", "C3"):
        return t.cvs[int(s.subject[1]) - 1], reason
    return (all(t.cvs) if s.subject == "all" else any(t.cvs)), reason


def _count(s: Statement, t: TruthRow) -> _Finding:
    if s.subject == "criteria":
        if t.cvs is None:
            return None, "the frame has no criteria"
        return sum(t.cvs) == int(s.object), f"criteria met: {sum(t.cvs)}"
    count = len(t.instruments) if s.subject == "instrument" else len(t.boxes(s.subject))
    return count == int(s.object), f"{s.subject}: {count} seen"


def _cue(s: Statement, t: TruthRow) -> _Finding:
    condition = CONDITIONS[s.subject]
    absent = [n for n in condition.needs if not t.shows(n)]
    if absent:
        return False, f"{s.subject}: not drawn: {', '.join(absent)}"
    holds = condition.holds(t)
    said = {True: "so in the scene", False: "not so", None: "the scene leaves it open"}[holds]
    return holds, f"{s.subject}: {said}"


_CHECKS: Mapping[str, Callable[[Statement, TruthRow], _Finding]] = {
    "tool": _tool,
    "tissue": _tissue,
    "place": _place,
    "deed": _deed,
    "phase": _activity,
    "step": _activity,
    "action": _activity,
    "criterion": _criterion,
    "count": _count,
    "cue": _cue,
}

_PAIRS = [(kind, level) for kind in KINDS for level in LEVELS]
NAMES = (
    *(f"{kind}/{level}/{result}" for kind, level in _PAIRS for result in ("supported", "refuted", "unknown")),
    *("traces", "unread", "traces_refuted", "tools_true", "tools_said", "deeds_true", "deeds_said"),
)
"""The statistics of a row; sums over rows are those of a video, sums over videos those of a data set."""
_AT = {name: k for k, name in enumerate(NAMES)}


def statistics(verdicts: Sequence[Verdict], truth: TruthRow) -> Array:
    """(D,) counts of one trace in the order of `NAMES`."""
    s = np.zeros(len(NAMES))
    for v in verdicts:
        if v.statement.kind == "other":
            s[_AT["unread"]] += 1
        else:
            result = {"uncheckable": "unknown"}.get(v.result, v.result)
            s[_AT[f"{v.statement.kind}/{v.statement.level}/{result}"]] += 1
    s[_AT["traces"]] = 1
    s[_AT["traces_refuted"]] = any(v.result == "refuted" for v in verdicts)
    early = [v.statement for v in verdicts if v.statement.level <= 2 and not v.statement.negated]
    tools = {i.tool for i in truth.instruments}
    said = {x.subject for x in early if x.kind in ("tool", "place", "deed", "count")}
    s[_AT["tools_true"]], s[_AT["tools_said"]] = len(tools), len(tools & said)
    if truth.acts:
        deeds = {(i.tool, i.verb, i.target) for i in truth.instruments}
        told = {(x.subject, x.predicate, x.object) for x in early if x.kind == "deed"}
        s[_AT["deeds_true"]], s[_AT["deeds_said"]] = len(deeds), len(deeds & told)
    return s


def _sum(
    s: Array, results: Sequence[str], kinds: Sequence[str] = KINDS, levels: Sequence[int] = LEVELS
) -> Array:
    at = [_AT[f"{k}/{v}/{r}"] for k in kinds for v in levels for r in results]
    total: Array = s[..., at].sum(-1)
    return total


def _precision(kinds: Sequence[str] = KINDS, levels: Sequence[int] = LEVELS) -> Callable[[Array], Array]:
    return lambda s: defined(
        _sum(s, ["supported"], kinds, levels), _sum(s, ["supported", "refuted"], kinds, levels)
    )


def _share(part: str, whole: str) -> Callable[[Array], Array]:
    return lambda s: defined(s[..., _AT[part]], s[..., _AT[whole]])


_EVERY = ("supported", "refuted", "unknown")
METRICS: Mapping[str, Callable[[Array], Array]] = {
    # Supported share of the statements that can be checked.
    "precision": _precision(),
    **{f"precision_{kind}": _precision([kind]) for kind in KINDS},
    **{f"precision_level_{level}": _precision(levels=[level]) for level in LEVELS},
    # Of the statements that were read, how many the scene decides.
    "checkable": lambda s: defined(_sum(s, _EVERY[:2]), _sum(s, _EVERY)),
    # Of all clauses that say something, how many were read.
    "read": lambda s: defined(_sum(s, _EVERY), _sum(s, _EVERY) + s[..., _AT["unread"]]),
    "statements_per_trace": lambda s: defined(_sum(s, _EVERY), s[..., _AT["traces"]]),
    "refuted_per_trace": lambda s: defined(_sum(s, ["refuted"]), s[..., _AT["traces"]]),
    "traces_with_refuted": _share("traces_refuted", "traces"),
    # What of the scene Levels 1 and 2 state.
    "tool_recall": _share("tools_said", "tools_true"),
    "deed_recall": _share("deeds_said", "deeds_true"),
}
"""Functions of additive statistics (..., D) -> (...), as in `bench.metrics`: shares, but for `_COUNTS`."""
_COUNTS = ("statements_per_trace", "refuted_per_trace")


def shown(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """What has a value of the metrics of `score_rows`: shares in percent, numbers per trace as they are."""
    told = {n: v for n, v in metrics.items() if v is not None}
    return {n: v if n in _COUNTS else 100 * v for n, v in told.items()}


def score_rows(rows: Iterable[Mapping[str, Any]], truth: Mapping[Key, TruthRow]) -> dict[str, Any]:
    """Scores of prediction rows (bench/predictions.py) whose frames have a truth.

    {"simulated": true, "rows", "without_truth", "without_trace" (no reasoning in the text), "traces",
     "metrics": {name: share or None}, "videos": {"dataset/video": {name: share or None}},
     "statistics": {"dataset/video": [counts in the order of NAMES]},
     "refuted": [{"kind", "reason", "n", "example", "sample_id"}], the most frequent first,
     "unchecked": {reason: n}}
    """
    sums: dict[str, Array] = defaultdict(lambda: np.zeros(len(NAMES)))
    refuted: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, str]] = {}
    unchecked: Counter[str] = Counter()
    seen = without_truth = without_trace = 0
    for row in rows:
        seen += 1
        key = (str(row["dataset"]), str(row["video"]), int(row["frame"]))
        if key not in truth:
            without_truth += 1
            continue
        parsed = parse(row.get("text") or "", finish_reason=row.get("finish_reason", "stop"))
        # Without a heading and without think tags there is only an answer.
        if not (parsed.headed or parsed.opener or parsed.has_think):
            without_trace += 1
            continue
        frame = truth[key]
        verdicts = check(read(parsed, load_procedure(frame.procedure)), frame)
        sums[f"{key[0]}/{key[1]}"] += statistics(verdicts, frame)
        for v in verdicts:
            if v.result == "refuted":
                why = (v.statement.kind, _cause(v))
                refuted[why] += 1
                examples.setdefault(why, (v.statement.text, str(row.get("sample_id", ""))))
            elif v.result == "uncheckable":
                unchecked[v.reason] += 1
    total = np.sum(list(sums.values()), axis=0) if sums else np.zeros(len(NAMES))
    return {
        "simulated": True,
        "rows": seen,
        "without_truth": without_truth,
        "without_trace": without_trace,
        "traces": int(total[_AT["traces"]]),
        "metrics": _metrics(total),
        "videos": {video: _metrics(s) for video, s in sorted(sums.items())},
        "statistics": {video: s.tolist() for video, s in sorted(sums.items())},
        "refuted": [
            {
                "kind": kind,
                "reason": reason,
                "n": n,
                "example": examples[kind, reason][0],
                "sample_id": examples[kind, reason][1],
            }
            for (kind, reason), n in refuted.most_common()
        ],
        "unchecked": dict(unchecked.most_common()),
    }


def _cause(v: Verdict) -> str:
    """What was refuted, without the frame's own details, so that equal causes add up."""
    s = v.statement
    if s.kind == "cue":
        return f"{'not ' if s.negated else ''}{v.reason}"
    return f"{'not ' if s.negated else ''}{' '.join(p for p in (s.subject, s.predicate, s.object) if p)}"


def _metrics(s: Array) -> dict[str, float | None]:
    values = {name: float(metric(s)) for name, metric in METRICS.items()}
    return {name: None if np.isnan(v) else v for name, v in values.items()}
