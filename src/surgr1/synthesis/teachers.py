"""Who writes traces: an offline teacher from labels and the procedure's knowledge, or a vision-language model
behind an engine.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.questions import quadrant
from surgr1.corpora.schema import Sample
from surgr1.engines.types import Engine, FinishReason, Request, Sampling
from surgr1.ontology.procedures import Procedure, load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.trace import Trace, render
from surgr1.synthesis.conversations import prepared_answer
from surgr1.synthesis.prompts import knowledge_version, prompt_version, teacher_prompt
from surgr1.synthesis.statistics import Statistics


@dataclass(frozen=True)
class Written:
    """What a teacher wrote for a sample: a trace as text, or the error instead of one."""

    sample: Sample
    text: str
    finish_reason: FinishReason = "stop"
    error: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


class Teacher(Protocol):
    """Writes one trace per sample. `at_once` is how many samples it is given together."""

    @property
    def name(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    def traces(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, PreparedImage],
        attempt: int,
        failed: Mapping[str, Sequence[str]],
    ) -> Iterator[Written]:
        """In any order. `failed` holds the reasons for which a sample's last trace was rejected."""
        ...


class _Voice:
    """Deterministic variety: each call of `pick` draws the next wording from a hash of sample and attempt."""

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()
        self._at = 0

    def pick(self, wordings: Sequence[str]) -> str:
        self._at = (self._at + 1) % len(self._digest)
        return wordings[self._digest[self._at] % len(wordings)]


_ORDINAL = {
    "grasp": "grasps",
    "retract": "retracts",
    "dissect": "dissects",
    "coagulate": "coagulates",
    "clip": "clips",
    "cut": "cuts",
    "aspirate": "aspirates",
    "irrigate": "irrigates",
    "pack": "packs",
}


class OfflineTeacher:
    """Forward reasoning from labels: what is seen, what it does, what that means. Says nothing the labels or
    the label's own cues do not support.

    It cannot see the picture. Where a dataset labels only the phase or the action, Level 1 and 2 hold the
    ontology's visual cues of that label: a description of what such a frame shows, not of this frame. `name`
    says so in every conversation.
    """

    name = "offline-labels-v1"
    at_once = 4096

    def traces(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, PreparedImage],
        attempt: int,
        failed: Mapping[str, Sequence[str]],
    ) -> Iterator[Written]:
        for sample in samples:
            text = render(self.trace(sample, images[sample.sample_id], attempt))
            versions = {"knowledge": knowledge_version(sample.procedure, None)}
            yield Written(sample, text, provenance=versions)

    def trace(self, sample: Sample, image: PreparedImage, attempt: int = 0) -> Trace:
        """The trace of one sample, levels 1 to the task's own."""
        voice = _Voice(f"{sample.sample_id}|{attempt}")
        procedure = load_procedure(sample.procedure)
        one, two, three = _write(sample, procedure, voice)
        levels = {1: one, 2: two, 3: three}
        return Trace({k: levels[k] for k in range(1, sample.level + 1)}, prepared_answer(sample, image))


def aspects(sample: Sample, variant: int = 0) -> dict[str, tuple[str, ...]]:
    """What the labels of the sample's frame support, aspect -> sentences: what a pretrained model would
    already be able to say. "critical view" has one sentence per criterion. `variant` draws other wordings.
    """
    labels, procedure = sample.labels, load_procedure(sample.procedure)
    voice = _Voice(f"describe|{sample.dataset}|{sample.video}|{sample.frame}|{variant}")
    found: dict[str, tuple[str, ...]] = {}
    if labels.tools is not None:
        found["instruments"] = (_tools(sample, procedure, voice),)
    if labels.triplets is not None:
        found["actions"] = (_deeds(sample, voice),)
    if labels.tissues is not None:
        tissues = set(labels.tissues)
        places = [
            f"the {b.name} at the {quadrant(b.xyxy, sample.width, sample.height)}"
            for b in labels.boxes or ()
            if b.name in tissues
        ]
        found["structures"] = (f"Structures: {', '.join(places) or 'none'}.",)
    if labels.cvs is not None:
        found["critical view"] = tuple(
            _capital(voice.pick(c.met if m else c.unmet))
            for c, m in zip(procedure.criteria, labels.cvs, strict=True)
            if m is not None
        )
    activity = procedure.activity(labels.phase or labels.action or "")
    if activity:
        found["activity"] = (_capital(voice.pick(activity.cues)),)
    return found


def _entity(procedure: Procedure, name: str, voice: _Voice) -> str:
    """ "a grasper with two long fenestrated jaws"."""
    found = procedure.entity(name)
    article = "an" if name[0] in "aeiou" else "a"
    return f"{article} {name}" + (
        f" with {voice.pick((found.shape, found.shape, found.texture))}" if found else ""
    )


def _tools(sample: Sample, procedure: Procedure, voice: _Voice) -> str:
    """The visible tools, where boxes allow with their quadrant."""
    labels = sample.labels
    if labels.boxes:
        tools = set(labels.tools or ())
        parts = [
            f"{_entity(procedure, b.name, voice)} at the {quadrant(b.xyxy, sample.width, sample.height)}"
            for b in labels.boxes
            if b.name in tools
        ]
    else:
        parts = [_entity(procedure, t, voice) for t in labels.tools or ()]
    if not parts:
        return voice.pick(("No instrument is in view.", "I see no instrument."))
    lead = voice.pick(("I see", "In view:", "Visible:"))
    return f"{lead} {', '.join(parts)}."


def _deeds(sample: Sample, voice: _Voice) -> str:
    """Who does what to what."""
    sentences = []
    for tool, verb, target in sample.labels.triplets or ():
        if verb == "null verb":
            sentences.append(voice.pick((f"The {tool} is idle.", f"The {tool} touches nothing.")))
        else:
            sentences.append(f"The {tool} {_ORDINAL[verb]} the {target}.")
    return " ".join(sentences) or "Nothing acts on tissue."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _write(sample: Sample, procedure: Procedure, voice: _Voice) -> tuple[str, str, str]:
    labels, task = sample.labels, sample.task
    if task is Task.CVS_CRITERIA_ASSESSMENT:
        criterion = next(c for c in procedure.criteria if c.id == sample.focus)
        met = sample.answer == "yes"
        ending = f"The criterion {criterion.name} is {'met' if met else 'not met'}."
        return f"{_capital(voice.pick(criterion.met if met else criterion.unmet))} {ending}", "", ""
    if task is Task.OVERALL_CVS_ASSESSMENT and labels.cvs:
        seen = [
            _capital(voice.pick(c.met if m else c.unmet))
            for c, m in zip(procedure.criteria, labels.cvs, strict=True)
        ]
        met_names = [c.name for c, m in zip(procedure.criteria, labels.cvs, strict=True) if m]
        relation = f"Met: {', '.join(met_names)}." if met_names else "No criterion is met."
        verdict = "All three hold." if all(labels.cvs) else f"Only {len(met_names)} of three hold."
        return " ".join(seen), relation, verdict
    if task in (Task.TOOL_LOCALIZATION, Task.TISSUE_LOCALIZATION, Task.GRID_POSITION_RECOGNITION):
        box = next(b for b in labels.boxes or () if b.name == sample.focus)
        where = quadrant(box.xyxy, sample.width, sample.height)
        return (
            (
                f"The {sample.focus} is"
                f" {_entity(procedure, sample.focus, voice).partition(' with ')[2] or 'visible'}, at the"
                f" {where}."
            ),
            "",
            "",
        )
    if task is Task.TISSUE_RECOGNITION:
        names = labels.tissues or ()
        return (
            (f"I see {', '.join('the ' + n for n in names)}." if names else "No named structure stands out."),
            "",
            "",
        )
    activity = procedure.activity(labels.phase or labels.action or "")
    cue = _capital(voice.pick(activity.cues)) if activity else ""
    if labels.tools is not None:
        one = _tools(sample, procedure, voice)
        two = _deeds(sample, voice) if labels.triplets is not None else cue
        three_cue = cue if labels.triplets is not None else ""
    else:
        one, two, three_cue = cue, (activity.definition if activity else ""), ""
    if task is Task.TOOL_COUNTING:
        three = f"That makes {sample.answer}."
    elif task is Task.STEP_RECOGNITION:
        three = f"The phase is {labels.phase}, the step {labels.step}."
    else:
        three = (
            f"{three_cue} {voice.pick(('This is', 'This fits', 'So the phase is'))} {labels.phase}.".strip()
        )
    return one, two, three


class ModelTeacher:
    """A vision-language model behind an engine (an endpoint, its batch API, or a model on this machine),
    asked under the paper's surgery-wise constraints (Methods, "Surgery-Aware CoT Synthesis").
    """

    def __init__(
        self,
        engine: Engine,
        *,
        statistics: Mapping[str, Statistics],
        max_new_tokens: int = 1024,
        temperature: float = 0.7,
        at_once: int = 4096,
    ) -> None:
        self._engine, self._statistics, self.at_once = engine, statistics, at_once
        self._sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)

    @property
    def name(self) -> str:
        return self._engine.model

    def requests(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, PreparedImage],
        failed: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> list[Request]:
        """What the model is asked."""
        return [
            Request(
                s.sample_id,
                teacher_prompt(
                    s,
                    prepared_answer(s, images[s.sample_id]),
                    statistics=self._statistics.get(s.procedure),
                    failed=failed.get(s.sample_id, ()),
                ),
                (images[s.sample_id].path,),
                s.policy,
            )
            for s in samples
        ]

    def sampling(self, attempt: int) -> Sampling:
        """How it is sampled: another seed for every attempt."""
        return replace(self._sampling, seed=attempt)

    def traces(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, PreparedImage],
        attempt: int,
        failed: Mapping[str, Sequence[str]],
    ) -> Iterator[Written]:
        by_id = {s.sample_id: s for s in samples}
        requests = self.requests(samples, images, failed)
        for request, (completion,) in self._engine.generate(requests, self.sampling(attempt)):
            sample = by_id[request.request_id]
            error = completion.error or "no answer"
            yield Written(
                sample,
                completion.text,
                completion.finish_reason,
                error if completion.finish_reason in ("error", "blocked") else "",
                {
                    "prompt": prompt_version(),
                    "knowledge": knowledge_version(sample.procedure, self._statistics.get(sample.procedure)),
                    "tokens": f"{completion.tokens_in}+{completion.tokens_out}",
                },
            )
