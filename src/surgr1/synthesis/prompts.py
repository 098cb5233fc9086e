"""What a teacher model is told (paper, Methods, "Surgery-Aware CoT Synthesis"): knowledge as reference,
observation first, the label as a target that must be reached, a level for each kind of reasoning.

The wording is in `templates/*.txt.j2`: `base.txt.j2` is every prompt's frame, one small file per kind of task
fills its blocks. What is told of the operation depends on the question alone, never on the label, so that the
choice of knowledge gives nothing away. What belongs to one sample stands last: prompts of one task share
their beginning, which endpoints that cache prefixes charge once.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from surgr1.corpora.cooccurrence import ORDERED, Tables
from surgr1.corpora.schema import Sample
from surgr1.ontology.procedures import Activity, Verb, load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.prose import LEVEL_WORDS, TRACE_WORDS
from surgr1.synthesis.statistics import Statistics

VERSION = "2"
_LISTABLE = 20
"""Longer answer vocabularies (100 triplets) are not listed; their parts are."""
_ENOUGH, _USUAL = 50, 0.05
"""Statistics of fewer frames, and what is seen in a smaller share of them, are not told."""
_TEMPLATES = {
    Task.TOOL_RECOGNITION: "entities",
    Task.TISSUE_RECOGNITION: "entities",
    Task.TOOL_LOCALIZATION: "place",
    Task.TISSUE_LOCALIZATION: "place",
    Task.GRID_POSITION_RECOGNITION: "place",
    Task.CVS_CRITERIA_ASSESSMENT: "cvs_criterion",
    Task.ACTION_RECOGNITION: "action",
    Task.MOTION_RECOGNITION: "motion",
    Task.TRIPLET_EXTRACTION: "triplet",
    Task.TOOL_COUNTING: "entities",
    Task.STEP_RECOGNITION: "workflow",
    Task.PHASE_RECOGNITION: "workflow",
    Task.OVERALL_CVS_ASSESSMENT: "cvs",
    Task.SURGICAL_VQA: "vqa",
}
_KIND = {
    Task.TOOL_RECOGNITION: "tool",
    Task.TISSUE_RECOGNITION: "tissue",
    Task.TOOL_COUNTING: "tool",
    Task.ACTION_RECOGNITION: "action",
    Task.STEP_RECOGNITION: "step",
    Task.PHASE_RECOGNITION: "phase",
}


def teacher_prompt(
    sample: Sample, answer: str, *, statistics: Statistics | None = None, failed: Sequence[str] = ()
) -> str:
    """The whole instruction for one sample. `answer` is the label with boxes in pixels of the picture that is
    sent; `statistics` are those of the sample's procedure; `failed` are the reasons for which the last
    attempt was rejected: names of checks, or "name: detail".
    """
    procedure = load_procedure(sample.procedure)
    task, kind = sample.task, _KIND.get(sample.task, "")
    every = {"phase": procedure.phases, "step": procedure.steps, "action": procedure.actions}.get(kind, ())
    offered = sample.options or _names(sample.dataset, kind)
    activities = [a for a in every if not offered or a.name in offered]
    names = [a.name for a in activities]
    known = {v.name: v for v in procedure.verbs}
    verbs = [known.get(n) or Verb(name=n) for n in _names(sample.dataset, "verb") or known]
    targets = _names(sample.dataset, "target") or tuple(t.name for t in procedure.tissues)
    return _render(
        _TEMPLATES[task],
        procedure=procedure,
        level=sample.level,
        kind=kind,
        activities=activities,
        names=names,
        verbs=verbs,
        shown={*names, *(v.name for v in verbs)},
        targets=targets,
        criteria=[c for c in procedure.criteria if sample.focus in ("", c.id)],
        focus=sample.focus,
        boxed=task in (Task.TOOL_LOCALIZATION, Task.TISSUE_LOCALIZATION),
        options=sample.options if len(sample.options) <= _LISTABLE else (),
        usual_lines=_usual(task, kind, names, statistics),
        statistics=statistics,
        level_words=LEVEL_WORDS[1],
        total_words=TRACE_WORDS[1],
        failed=[_plain(reason) for reason in failed],
        question=sample.question.strip(),
        answer=answer,
    )


def knowledge_text(procedure: str, statistics: Statistics | None = None) -> str:
    """All that the teacher can be told of an operation, with the sources. Raises ProcedureError."""
    known = load_procedure(procedure)
    lines = [
        line
        for task, kind, told in (
            (Task.TRIPLET_EXTRACTION, "", ()),
            (Task.PHASE_RECOGNITION, "phase", known.phases),
            (Task.STEP_RECOGNITION, "step", known.steps),
            (Task.ACTION_RECOGNITION, "action", known.actions),
        )
        for line in _usual(task, kind, [a.name for a in told], statistics)
    ]
    parts: tuple[Verb | Activity, ...] = (*known.verbs, *known.phases, *known.steps, *known.actions)
    return _render(
        "all_knowledge",
        procedure=known,
        version=knowledge_version(procedure, statistics),
        shown={p.name for p in parts},
        usual_lines=lines,
        statistics=statistics,
    )


def prompt_version() -> str:
    """The version and a hash of the templates' content, "2+0a1b2c3d"."""
    return f"{VERSION}+{_templates_hash()}"


def knowledge_version(procedure: str, statistics: Statistics | None) -> str:
    """Eight hex digits of what can be told of an operation: its knowledge file and the counts."""
    digest = hashlib.sha256(load_procedure(procedure).model_dump_json().encode())
    if statistics is not None:
        digest.update(f"|{statistics.simulated}|{statistics.tables.model_dump_json()}".encode())
    return digest.hexdigest()[:8]


@lru_cache
def _templates_hash() -> str:
    digest = hashlib.sha256()
    folder = Path(str(files("surgr1.synthesis"))) / "templates"
    for path in sorted(folder.glob("*.txt.j2")):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


@lru_cache
def _environment() -> Any:
    """The jinja2 environment of the prompts: plain text, a missing name is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("surgr1.synthesis"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, **names: Any) -> str:
    text: str = _environment().get_template(f"{template}.txt.j2").render(**names)
    return text.strip() + "\n"


def _plain(reason: str) -> str:
    """ "no_leak: ..." in plain words."""
    meaning: Mapping[str, str] = _environment().get_template("retry.txt.j2").module.MEANING
    name, _, detail = (part.strip() for part in reason.partition(":"))
    if name not in meaning:
        return reason
    # What else the frame's labels hold is not for the teacher to read off a rejection.
    detail = re.sub(r" ?\([^()]*labelled[^()]*\)", "", detail)
    return f"{meaning[name]} ({detail})" if detail else meaning[name]


def _names(dataset: str, kind: str) -> tuple[str, ...]:
    """The dataset's vocabulary of a kind, () where it has none."""
    return vocabulary(dataset, kind).names if kind and has_vocabulary(dataset, kind) else ()


# --- Statistics as lines ---


def _usual(task: Task, kind: str, names: Sequence[str], statistics: Statistics | None) -> list[str]:
    """What is usual, as far as it bears on the task."""
    if statistics is None:
        return []
    tables = statistics.tables
    if task in (Task.TRIPLET_EXTRACTION, Task.SURGICAL_VQA):
        return _deeds(tables)
    lines = []
    if kind == "phase":
        lines = [
            line
            for phase in names
            for what, table in (("in view", tables.tool_phase), ("acted on", tables.target_phase))
            if (line := _presence(phase, what, table.get(phase, {})))
        ]
    if kind in ORDERED:
        lines += [line for name in names if (line := _next(name, tables.follows.get(kind, {}).get(name, {})))]
    return lines


def _deeds(tables: Tables) -> list[str]:
    """ "hook (n = 2,000 deeds): dissect gallbladder 61%, ..." """
    lines = []
    for tool, verbs in tables.triplets.items():
        counts = {f"{verb} {target}": n for verb, targets in verbs.items() for target, n in targets.items()}
        total = sum(counts.values())
        shares = _shares((name, n / total) for name, n in counts.items())
        if total >= _ENOUGH and shares:
            lines.append(f"{tool} (n = {total:,} deeds): {shares}")
    return lines


def _presence(phase: str, what: str, row: Mapping[str, tuple[int, int]]) -> str:
    """ "preparation, in view (n = 500 frames): grasper 93%" """
    shares = _shares((name, present / of) for name, (present, of) in row.items() if of >= _ENOUGH)
    n = max((of for _, of in row.values()), default=0)
    return f"{phase}, {what} (n = {n:,} frames): {shares}" if shares else ""


def _next(name: str, row: Mapping[str, int]) -> str:
    """ "after preparation (n = 40 changes): calot triangle dissection 95%" """
    total = sum(row.values())
    shares = _shares((other, n / total) for other, n in row.items())
    return f"after {name} (n = {total:,} changes): {shares}" if shares else ""


def _shares(found: Iterable[tuple[str, float]]) -> str:
    usual = sorted(((share, name) for name, share in found if share >= _USUAL), key=lambda x: (-x[0], x[1]))
    return ", ".join(f"{name} {share:.0%}" for share, name in usual)
