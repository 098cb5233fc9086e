"""Is a trace true to the frame, and to its own answer? (evaluation.md B8.) Pure functions of prediction rows.

    row -> `trace_features` -> additive statistics per video -> `SCHEME` -> `reasoning_scores`

Everything is read with word lists and negation ("no clipper", "the hook is not visible"; `trace_words`), no
judge model: a trace that paraphrases a tool away counts as not naming it. Three rules hold for every rate:
- its denominator is reported as `n`, and a row that it cannot apply to is in neither number;
- a label that is None (not labelled) takes the row out, an empty tuple (labelled: none there) keeps it in;
- a tool or target is looked for only where the dataset's vocabulary has it, so that a bag seen in CholecT50,
  which does not label bags as tools, is no hallucination.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from math import log
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.bench.metrics.base import Metric, Scheme, defined
from surgr1.bench.predictions import main_rows
from surgr1.bench.statistics import (
    DRAWS,
    Resampled,
    clusters,
    interval,
    interval_warning,
    jackknife,
    resampled_sums,
)
from surgr1.bench.trace_words import (
    LexiconKind,
    Mention,
    affirmed_names,
    claims,
    find_names,
    lexicon,
    sentences,
    split_words,
)
from surgr1.corpora.cooccurrence import FrameLabels, count_labels
from surgr1.corpora.schema import Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.answers import (
    extract,
    iou,
    normalise,
    parse_boxes,
    parse_triplets,
    same_answer,
    spec_for,
)
from surgr1.reasoning.answers.spelling import word_set
from surgr1.reasoning.trace import Outcome, ParsedTrace, parse

Row = Mapping[str, Any]
Array = NDArray[np.float64]
Triplet = tuple[str, str, str]


# --- One row ---

_SCENE_TASKS = frozenset(
    (
        Task.TOOL_RECOGNITION,
        Task.TOOL_COUNTING,
        Task.TRIPLET_EXTRACTION,
        Task.MOTION_RECOGNITION,
        Task.ACTION_RECOGNITION,
        Task.STEP_RECOGNITION,
        Task.PHASE_RECOGNITION,
    )
)
"""Questions about the whole scene. A trace about one named thing (a box, a criterion) owes no other tool."""
_LABEL_KINDS: Mapping[Task, LexiconKind] = MappingProxyType(
    {
        Task.PHASE_RECOGNITION: "phase",
        Task.STEP_RECOGNITION: "step",
        Task.ACTION_RECOGNITION: "action",
    }
)
_HOLDS = {normalise(s): "achieved" for s in ("achieved", "all three hold", "all three criteria are met")} | {
    f"only {n} of three hold": "not achieved" for n in (0, 1, 2)
}


@dataclass(frozen=True)
class TraceFeatures:
    """What one row's trace says, against its labels and its answer. None: does not apply to this row.

    Form: `expected_levels` is exactly Level 1 to the task's own, each with heading and text (an opener "This
    is a Level 2 task" is neither); `ordered` that the headings ascend; `level1` that there is Level-1 text,
    the headless text after an opener included. Grounding: names of Level 1 and of the labels. Chain: `c12`
    tools of Level 2 stand in Level 1 (None: Level 2 names none); `c1a` and `c2a` tools and triplets of the
    answer stand in Level 1 and 2 (None: the answer has none); `stated` the deepest level claims the answer;
    `contradiction` Level 2 or 3 claims another label than the answer; `aside` a claim about a label that was
    not asked for, `aside_wrong` that the frame's labels say otherwise. Plausibility: see `Cooccurrence`.
    """

    sample_id: str
    video: str
    answered: bool
    correct: bool
    has_think: bool
    has_answer: bool
    ordered: bool
    expected_levels: bool
    level1: bool
    trailing: bool
    truncated: bool
    scene: bool
    named_tools: frozenset[str]
    true_tools: frozenset[str] | None
    named_targets: frozenset[str]
    true_targets: frozenset[str] | None
    other_tissues: frozenset[str]
    c12: bool | None
    c1a: bool | None
    c2a: bool | None
    stated: bool | None
    contradiction: bool | None
    aside: bool | None
    aside_wrong: bool | None
    log_odds: float | None
    label_log_odds: float | None

    @property
    def consistent(self) -> bool | None:
        """Every chain check that applies holds. None without an answer or without an applicable check."""
        against = None if self.contradiction is None else not self.contradiction
        verdicts = [v for v in (self.c12, self.c1a, self.c2a, against) if v is not None]
        return all(verdicts) if verdicts and self.answered else None

    @property
    def wrong_reason(self) -> bool | None:
        """Level 1 names none of the tools that are there, or the trace contradicts the answer."""
        blind = None
        if self.scene and self.true_tools:
            blind = not self.named_tools & self.true_tools
        if blind is None and self.contradiction is None:
            return None
        return bool(blind) or bool(self.contradiction)


def is_answered(row: Row) -> bool:
    """Whether the row carries an answer that counts (outcome ok or repaired)."""
    return row["outcome"] in (Outcome.OK, Outcome.REPAIRED) and row["prediction"] is not None


def agree(a: str | None, b: str | None, task: Task) -> bool:
    """Whether two canonical answers are the same under the rule of the cards: equal; lists as sets; boxes
    with IoU >= 0.5. None agrees with nothing.
    """
    if a is None or b is None:
        return False
    spec = spec_for(task)
    if spec.kind == "box":
        left, right = parse_boxes(a), parse_boxes(b)
        return bool(left and right) and iou(left[0], right[0]) >= 0.5
    return same_answer(a, b, spec)


def is_correct(row: Row) -> bool:
    """Whether the row's answer counts and agrees with the label."""
    return is_answered(row) and agree(row["prediction"], row["answer"], Task(row["task"]))


def has_trace(row: Row) -> bool:
    """Whether the row belongs here: levels were asked for and the text was kept."""
    return bool(row["reasoning"]) and row["text"] is not None


def trace_features(row: Row, table: "Cooccurrence | None" = None) -> TraceFeatures:
    """Read one row of `predictions.read_predictions` that `has_trace`. `table` is the training
    co-occurrence.
    """
    task = Task(row["task"])
    dataset, procedure = row["dataset"], row["procedure"]
    labels: Mapping[str, Any] = row["labels"]
    parsed = parse(row["text"], finish_reason=row["finish_reason"])
    one, two, three = (parsed.levels.get(k, "") for k in (1, 2, 3))
    tools = lexicon(dataset, procedure, "tool")
    targets = lexicon(dataset, procedure, "target")
    answer = row["prediction"] if is_answered(row) else None
    triplets = (
        frozenset(parse_triplets(answer)) if answer and task is Task.TRIPLET_EXTRACTION else frozenset()
    )
    named = affirmed_names(one, tools)
    named_two = affirmed_names(two, tools)
    named_targets = affirmed_names(one, targets)
    true_tools, true_targets = _true_tools(labels), _true_targets(labels)
    answer_tools = frozenset(t for t, _, _ in triplets)
    if answer and task is Task.TOOL_RECOGNITION and answer != "none":
        answer_tools = frozenset(answer.split(", "))
    deeds = _deeds(two, dataset, procedure)
    phase = answer if task is Task.PHASE_RECOGNITION else None
    asides = _asides(task, dataset, procedure, f"{one}\n{two}\n{three}")
    labelled_asides = [(kind, said) for kind, said in asides if labels[kind] is not None]
    return TraceFeatures(
        sample_id=row["sample_id"],
        video=row["video"],
        answered=answer is not None,
        correct=is_correct(row),
        has_think=parsed.has_think,
        has_answer=parsed.answer_blocks > 0,
        ordered=bool(parsed.headed) and all(a < b for a, b in pairwise(parsed.headed)),
        expected_levels=set(parsed.headed) == set(range(1, task.level + 1))
        and all(parsed.levels[k] for k in parsed.headed),
        level1=bool(one),
        trailing=bool(parsed.trailing),
        truncated=row["outcome"] == Outcome.TRUNCATED or row["finish_reason"] == "length",
        scene=task in _SCENE_TASKS,
        named_tools=named,
        true_tools=true_tools if tools else None,
        named_targets=named_targets,
        true_targets=true_targets if targets else None,
        other_tissues=frozenset(labels["tissues"] or ()),
        c12=named_two <= named if named_two else None,
        c1a=answer_tools <= named if answer_tools else None,
        c2a=all(_named(t, deeds, named_two) for t in triplets) if triplets else None,
        stated=_stated(task, dataset, procedure, parsed, answer),
        contradiction=_contradiction(task, dataset, procedure, (two, three), answer, deeds),
        aside=bool(asides) if parsed.levels else None,
        aside_wrong=any(said != labels[kind] for kind, said in labelled_asides) if labelled_asides else None,
        log_odds=table.log_odds(procedure, phase, named) if table and phase else None,
        label_log_odds=(
            table.log_odds(procedure, labels["phase"], true_tools)
            if table and phase and true_tools and labels["phase"]
            else None
        ),
    )


def _true_tools(labels: Mapping[str, Any]) -> frozenset[str] | None:
    if labels["tools"] is not None:
        return frozenset(labels["tools"])
    return None if labels["triplets"] is None else frozenset(t[0] for t in labels["triplets"])


def _true_targets(labels: Mapping[str, Any]) -> frozenset[str] | None:
    if labels["triplets"] is None:
        return None
    return frozenset(t[2] for t in labels["triplets"]) - {"null target"}


@dataclass(frozen=True)
class _Deed:
    """Tools, verbs and targets that a clause names together; `nouns` are verbs named only as "retraction"."""

    tools: frozenset[str]
    verbs: frozenset[str]
    nouns: frozenset[str]
    targets: frozenset[str]


_CONNECTIVES = word_set("and while whereas whilst as but with")
_PRONOUNS = word_set("it its they their")


def _deeds(text: str, dataset: str, procedure: str) -> list[_Deed]:
    """The text in clauses, a new one at each connective or comma that leads to a tool and verb of its own.

    Enough to see whether a triplet is named together or only in pieces; not a reading of who does what
    (`reasoning.statements` is).
    """
    kinds: tuple[LexiconKind, ...] = ("phase", "target", "verb", "tool")
    tables = {kind: lexicon(dataset, procedure, kind) for kind in kinds}
    # One pass over all, so that the phase "gallbladder dissection" is no verb and no target.
    joint = {s: kind for kind in kinds for s in tables[kind]}
    found: list[_Deed] = []
    subject: list[Mention] = []
    for sentence in sentences(text):
        words = split_words(sentence)
        named = [m for m in find_names(words, joint) if not m.denied]
        pieces: list[list[Mention]] = [[]]
        starts = [i for i, w in enumerate(words) if w.comma or w.text in _CONNECTIVES]
        for m in named:
            while starts and starts[0] <= m.start:
                starts.pop(0)
                pieces.append([])
            pieces[-1].append(m)
        groups: list[list[Mention]] = []
        # "The grasper is in place. It retracts the gallbladder."
        pending = list(subject) if words and words[0].text in _PRONOUNS else []
        subject = [m for m in named if m.name == "tool"][-1:] or subject
        for piece in pieces:
            if {"tool", "verb"} <= {m.name for m in (*pending, *piece)}:
                groups.append([*pending, *piece])
                pending = []
            elif groups:
                groups[-1] += piece
            else:
                pending += piece
        for group in groups:
            names = {
                kind: frozenset(tables[kind][m.spelling] for m in group if m.name == kind) for kind in kinds
            }
            plain = frozenset(
                tables["verb"][m.spelling]
                for m in group
                if m.name == "verb" and not m.spelling.endswith("ion")
            )
            found.append(_Deed(names["tool"], plain, names["verb"] - plain, names["target"]))
    return found


def _named(triplet: Triplet, deeds: Iterable[_Deed], tools: frozenset[str]) -> bool:
    """Whether a clause names the triplet's three parts. An idle tool (null verb) needs only its name."""
    tool, verb, target = triplet
    if verb == "null verb":
        return tool in tools
    return any(tool in d.tools and verb in d.verbs | d.nouns and target in d.targets for d in deeds)


@lru_cache
def _classes() -> frozenset[str]:
    return frozenset(vocabulary("cholect50", "triplet").names)


def _contradiction(
    task: Task,
    dataset: str,
    procedure: str,
    levels: tuple[str, str],
    answer: str | None,
    deeds: Iterable[_Deed],
) -> bool | None:
    """Whether Level 2 or 3 (`levels`) concludes otherwise than the answer. None where neither was written or
    the kind of answer has no such check.

    Triplets: a clause whose tool, verb and target form known classes, none of them in the answer.
    """
    upper = "\n".join(levels)
    if answer is None or not upper.strip():
        return None
    if task in _LABEL_KINDS:
        return bool(claims(upper, lexicon(dataset, procedure, _LABEL_KINDS[task])) - {answer})
    if task is Task.TRIPLET_EXTRACTION:
        given = {" ".join(t) for t in parse_triplets(answer)}
        stated = [{" ".join(t) for t in product(d.tools, d.verbs, d.targets)} & _classes() for d in deeds]
        return any(s and not s & given for s in stated)
    if task is Task.OVERALL_CVS_ASSESSMENT:
        other = {"achieved": "not achieved", "not achieved": "achieved"}
        said = {
            other[m.name] if m.denied else m.name
            for s in sentences(upper)
            for m in find_names(split_words(s), _HOLDS)
        }
        return bool(said - {answer})
    if task is Task.TOOL_COUNTING:
        number = extract(f"<answer>{levels[1]}</answer>", spec_for(task)).value
        return None if number is None else number != answer
    return None


def _stated(task: Task, dataset: str, procedure: str, parsed: ParsedTrace, answer: str | None) -> bool | None:
    if answer is None or task not in _LABEL_KINDS:
        return None
    return answer in claims(
        parsed.levels.get(task.level, ""), lexicon(dataset, procedure, _LABEL_KINDS[task])
    )


def _asides(task: Task, dataset: str, procedure: str, text: str) -> list[tuple[LexiconKind, str]]:
    """Claims about labels that the question did not ask for, as (kind, name)."""
    kinds = [k for k in _LABEL_KINDS.values() if k != _LABEL_KINDS.get(task)]
    return [(k, name) for k in kinds for name in sorted(claims(text, lexicon(dataset, procedure, k)))]


# --- Plausibility from training co-occurrence ---


class CooccurrenceError(SurgR1Error):
    """A co-occurrence file that cannot be read."""


@dataclass(frozen=True)
class Cooccurrence:
    """How often training frames of a phase show a tool: counts[procedure][phase][tool] = (frames with it,
    frames on which it was labelled).
    """

    counts: Mapping[str, Mapping[str, Mapping[str, tuple[int, int]]]]

    def log_odds(self, procedure: str, phase: str, tools: Collection[str]) -> float | None:
        """Mean over `tools` of log(p / (1 - p)) in nats, p = (with + 1) / (frames + 2) (Laplace): below 0 a
        tool is rather not seen in that phase. None where the phase or every tool is unknown.
        """
        known = self.counts.get(procedure, {}).get(phase, {})
        odds = [log((known[t][0] + 1) / (known[t][1] - known[t][0] + 1)) for t in sorted(tools) if t in known]
        return sum(odds) / len(odds) if odds else None

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.counts, indent=1, sort_keys=True), encoding="utf-8")
        part.replace(path)


def count_cooccurrence(samples: Iterable[Sample]) -> Cooccurrence:
    """The table of the *training* frames among `samples` that label tools and phase; each frame counts once,
    however many questions it has (`corpora.cooccurrence`).
    """
    frames: dict[tuple[str, str, int], Sample] = {}
    for s in samples:
        if s.role == "train":
            frames.setdefault((s.dataset, s.video, s.frame), s)
    found = count_labels(
        FrameLabels(
            s.dataset,
            s.procedure,
            f"{s.dataset}/{s.canonical_video}",
            s.video,
            s.seconds,
            s.labels.tools,
            None,
            s.labels.phase,
            None,
            None,
        )
        for s in frames.values()
    )
    return Cooccurrence({p: t.tool_phase for p, t in found.items() if t.tool_phase})


def read_cooccurrence(path: Path) -> Cooccurrence:
    """Read what `Cooccurrence.write` wrote. Raises CooccurrenceError naming the file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Cooccurrence(
            {
                procedure: {
                    phase: {tool: (int(n), int(of)) for tool, (n, of) in tools.items()}
                    for phase, tools in phases.items()
                }
                for procedure, phases in raw.items()
            }
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CooccurrenceError(
            f"{path}: not a co-occurrence table ({error}); write it again with `count_cooccurrence`"
        ) from error


# --- Rates and their intervals ---

Part = tuple[float, float] | None
"""What one row adds to numerator and denominator of a rate; None: the rate does not apply to it."""


def _flag(value: bool | None) -> Part:
    return None if value is None else (float(value), 1.0)


def _when(condition: object, value: bool | None) -> Part:
    return _flag(value) if condition else None


def _overlap(named: frozenset[str], truth: frozenset[str] | None, *, of: frozenset[str]) -> Part:
    return None if truth is None else (float(len(named & truth)), float(len(of)))


RATES: Mapping[str, Callable[[TraceFeatures], Part]] = MappingProxyType(
    {
        # Form. Denominator: rows.
        "has_think": lambda f: _flag(f.has_think),
        "has_answer": lambda f: _flag(f.has_answer),
        "levels_in_order": lambda f: _flag(f.ordered),
        "expected_levels": lambda f: _flag(f.expected_levels),
        "has_level1": lambda f: _flag(f.level1),
        "text_after_answer": lambda f: _flag(f.trailing),
        "truncated": lambda f: _flag(f.truncated),
        # Grounding. Denominators: names in Level 1; labelled names (questions about the whole scene); rows.
        "tool_precision": lambda f: _overlap(f.named_tools, f.true_tools, of=f.named_tools),
        "tool_recall": lambda f: (
            _overlap(f.named_tools, f.true_tools, of=f.true_tools or frozenset()) if f.scene else None
        ),
        "hallucinated_tool": lambda f: (
            None if f.true_tools is None else _flag(bool(f.named_tools - f.true_tools))
        ),
        # Anatomy in view that nothing acts on is no target: this precision is a lower bound of the truth.
        "target_precision": lambda f: (
            None
            if f.true_targets is None
            else _overlap(f.named_targets, f.true_targets | f.other_tissues, of=f.named_targets)
        ),
        "target_recall": lambda f: (
            _overlap(f.named_targets, f.true_targets, of=f.true_targets or frozenset()) if f.scene else None
        ),
        # Chain. Denominators: rows to which the check applies.
        "c12": lambda f: _flag(f.c12),
        "c1A": lambda f: _flag(f.c1a),
        "c2A": lambda f: _flag(f.c2a),
        "answer_stated": lambda f: _flag(f.stated),
        "contradiction": lambda f: _flag(f.contradiction),
        "aside": lambda f: _flag(f.aside),
        "aside_wrong": lambda f: _flag(f.aside_wrong),
        # Reasons. Denominators: correct rows; rows with a consistent / an inconsistent trace.
        "right_for_wrong_reason": lambda f: _when(f.correct, f.wrong_reason),
        "accuracy": lambda f: _flag(f.correct),
        "consistent": lambda f: _flag(f.consistent),
        "accuracy_consistent": lambda f: _when(f.consistent is True, f.correct),
        "accuracy_inconsistent": lambda f: _when(f.consistent is False, f.correct),
        # Plausibility in nats; denominators: rows. The second is that of the frame's own labels, to compare.
        "phase_plausibility": lambda f: None if f.log_odds is None else (f.log_odds, 1.0),
        "phase_plausibility_labels": lambda f: None if f.label_log_odds is None else (f.label_log_odds, 1.0),
    }
)
"""Every metric as numerator over denominator, added up over rows."""
IN_NATS = frozenset(("phase_plausibility", "phase_plausibility_labels"))


def statistics(features: Iterable[TraceFeatures]) -> Array:
    """Additive statistics of some rows: (2 * len(RATES),), numerator and denominator of each rate in turn."""
    total = np.zeros((len(RATES), 2))
    for f in features:
        for k, rate in enumerate(RATES.values()):
            part = rate(f)
            if part is not None:
                total[k] += part
    return total.ravel()


def _ratio(k: int) -> Metric:
    return lambda s: defined(s[..., 2 * k], s[..., 2 * k + 1])


SCHEME = Scheme({name: _ratio(k) for k, name in enumerate(RATES)}, {}, 2 * len(RATES))
"""The rates as functions of summed statistics: shares (nats for `IN_NATS`), NaN where nothing was counted."""


def reasoning_scores(
    rows: Iterable[Row], table: Cooccurrence | None = None, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """All metrics per dataset and task, with intervals from resampled videos (evaluation.md B9).

    {"draws", "seed", "rows", "groups": [{"dataset", "task", "n", "videos", "warnings",
      "metrics": {name: {"value", "low", "high", "n"}}}]}
    in percent (`IN_NATS`: nats), null where `n`, the rate's denominator, is 0. Rows without a trace (direct
    answers) are left out.
    """
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    kept = [r for r in main_rows(rows) if has_trace(r)]
    for row in kept:
        groups[row["dataset"], str(row["task"])].append(row)
    body = []
    for (dataset, task), mine in sorted(groups.items()):
        videos, strata, stamp = per_cluster(mine, [statistics([trace_features(r, table)]) for r in mine])
        resampled = resampled_sums(videos, draws, seed, strata)
        warning = interval_warning(len(videos), stamp)
        body.append(
            {
                "dataset": dataset,
                "task": task,
                "n": len(mine),
                "videos": len(videos),
                "warnings": [warning] if warning else [],
                "metrics": {
                    name: summary(metric, videos, resampled, strata, 1 if name in IN_NATS else 100)
                    | {"n": int(videos[:, 2 * k + 1].sum())}
                    for k, (name, metric) in enumerate(SCHEME.metrics.items())
                },
            }
        )
    return {"draws": draws, "seed": seed, "rows": len(kept), "groups": body}


def per_cluster(
    rows: Sequence[Row], parts: Sequence[Array]
) -> tuple[Array, list[tuple[str, str]], Resampled]:
    """Statistics of rows (D,) summed per video: (V, D), each video's dataset and centre, and the stamp. A
    video's name counts within its dataset.
    """
    names = [f"{r['dataset']}|{r['video']}" if r["video"] else "" for r in rows]
    found = clusters(names)
    sums: dict[str, Array] = {}
    strata: dict[str, tuple[str, str]] = {}
    for name, row, part in zip(found.labels, rows, parts, strict=True):
        sums[name] = sums[name] + part if name in sums else part
        strata.setdefault(name, (row["dataset"], row["centre"]))
    ordered = sorted(sums)
    return np.stack([sums[v] for v in ordered]), [strata[v] for v in ordered], found.stamp


def summary(
    metric: Metric, videos: Array, resampled: Array, strata: Sequence[tuple[str, str]], scale: float = 100
) -> dict[str, float | None]:
    """{"value", "low", "high"} of a metric of (V, D) statistics and their resampled sums (draws, D), times
    `scale`; null where undefined.
    """
    value = float(metric(videos.sum(0)))
    found = interval(metric(resampled), value, jackknife(videos, metric), strata)
    values = {"value": value, "low": found.low, "high": found.high}
    return {key: None if np.isnan(v) else scale * v for key, v in values.items()}
