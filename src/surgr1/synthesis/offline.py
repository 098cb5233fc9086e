"""The offline teacher: three levels from a frame's labels and the procedure's knowledge, without a model.

It cannot see the picture. Where a dataset labels only the phase or the action, Levels 1 and 2 hold the
ontology's visual cues of that label: a description of what such a frame shows, not of this frame. Its name
says so in every conversation.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.questions import quadrant
from surgr1.corpora.schema import LabelledBox, Sample
from surgr1.ontology.procedures import Procedure, load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.lexicon import NULL, lexicon, sentences
from surgr1.reasoning.prose import TRACE_WORDS
from surgr1.reasoning.statements import read_text
from surgr1.reasoning.trace import Trace, render
from surgr1.synthesis.conversations import prepared_answer
from surgr1.synthesis.prompts import knowledge_version
from surgr1.synthesis.teachers import Written


class _Voice:
    """Deterministic variety: each call of `pick` draws the next wording from a hash of sample and attempt."""

    def __init__(self, key: str) -> None:
        self._digest = hashlib.sha256(key.encode()).digest()
        self._at = 0

    def pick(self, wordings: Sequence[str]) -> str:
        self._at = (self._at + 1) % len(self._digest)
        return wordings[self._digest[self._at] % len(wordings)]


class OfflineTeacher:
    """Forward reasoning from labels: what is seen, what it does, what that means. Says nothing the labels or
    the label's own cues do not support.
    """

    name = "offline-labels-v2"
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
        levels = dict(enumerate(_levels(sample, procedure, voice)[: sample.level], start=1))
        if sum(len(text.split()) for text in levels.values()) < TRACE_WORDS[0]:
            levels[1] += " This can be seen in this frame."
        return Trace(levels, prepared_answer(sample, image))


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
        places = [f"the {b.name} at the {_where(b, sample)}" for b in labels.boxes or () if b.name in tissues]
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


def _where(box: LabelledBox, sample: Sample) -> str:
    return quadrant(box.xyxy, sample.width, sample.height)


def _entity(procedure: Procedure, name: str, voice: _Voice) -> str:
    """ "a grasper with two long fenestrated jaws"."""
    found = procedure.entity(name)
    article = "an" if name[0] in "aeiou" else "a"
    look = f" with {voice.pick((found.shape, found.shape, found.texture))}" if found else ""
    return f"{article} {name}{look}"


_MORE = ("another", "one more", "yet another", "still another")


def _tools(sample: Sample, procedure: Procedure, voice: _Voice) -> str:
    """The visible tools, where boxes allow with their quadrant."""
    labels = sample.labels
    tools = set(labels.tools or ())
    boxed = [b for b in labels.boxes or () if b.name in tools]
    told: Counter[str] = Counter()
    parts = []
    for b in boxed:
        # How it looks is said once.
        more = _MORE[min(told[b.name], len(_MORE)) - 1]
        what = f"{more} {b.name}" if told[b.name] else _entity(procedure, b.name, voice)
        told[b.name] += 1
        parts.append(f"{what} at the {_where(b, sample)}")
    parts += [_entity(procedure, t, voice) for t in labels.tools or () if t not in told]
    if not parts:
        return voice.pick(("No instrument is in view.", "I see no instrument."))
    lead = voice.pick(("I see", "In view:", "Visible:"))
    return f"{lead} {', '.join(parts)}."


_PRESENT = {
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


def _present(verb: str) -> str:
    """ "dissects", of EndoVis' states "is cutting"."""
    if verb in _PRESENT:
        return _PRESENT[verb]
    if verb.endswith("ing"):
        return f"is {verb}"
    return f"{verb}es" if re.search(r"(?:s|x|ch|sh)$", verb) else f"{verb}s"


def _deeds(sample: Sample, voice: _Voice) -> str:
    """Who does what to what."""
    sentences_ = []
    for tool, verb, target in dict.fromkeys(sample.labels.triplets or ()):
        if verb == NULL:
            sentences_.append(voice.pick((f"The {tool} is idle.", f"The {tool} touches nothing.")))
        else:
            sentences_.append(f"The {tool} {_present(verb)} the {target}.")
    return " ".join(dict.fromkeys(sentences_)) or "Nothing acts on tissue."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _listed(names: Sequence[str]) -> str:
    """ "the liver, the gallbladder and the fluid"."""
    *first, last = [f"the {n}" for n in names]
    return f"{', '.join(first)} and {last}" if first else last


def _structures(names: Sequence[str], voice: _Voice) -> str:
    """ "The liver and the gallbladder are in view."."""
    if not names:
        return ""
    seen = _listed(names)
    be = "are" if len(names) > 1 else "is"
    return _capital(voice.pick((f"{seen} {be} in view", f"{seen} can be seen", f"{seen} {be} visible")))


def _levels(sample: Sample, procedure: Procedure, voice: _Voice) -> tuple[str, str, str]:
    """All three levels, of which the task takes its own."""
    task = sample.task
    if task in (Task.CVS_CRITERIA_ASSESSMENT, Task.OVERALL_CVS_ASSESSMENT) and sample.labels.cvs:
        return _critical_view(sample, procedure, voice)
    if task in (Task.TOOL_LOCALIZATION, Task.TISSUE_LOCALIZATION, Task.GRID_POSITION_RECOGNITION):
        return _place(sample, procedure, voice), "", ""
    if task is Task.TOOL_RECOGNITION:
        return _tools(sample, procedure, voice), "", ""
    if task is Task.TISSUE_RECOGNITION:
        names = sample.labels.tissues or ()
        seen = f"I see {_listed(names)}." if names else "No named structure stands out."
        return seen, "", ""
    return _scene(sample, procedure, voice)


def _critical_view(sample: Sample, procedure: Procedure, voice: _Voice) -> tuple[str, str, str]:
    judged = list(zip(procedure.criteria, sample.labels.cvs or (), strict=True))
    if sample.task is Task.CVS_CRITERIA_ASSESSMENT:
        criterion, met = next((c, m) for c, m in judged if c.id == sample.focus)
        verdict = f"The criterion {criterion.name} is {'met' if met else 'not met'}."
        return f"{_capital(voice.pick(criterion.met if met else criterion.unmet))} {verdict}", "", ""
    seen = " ".join(_capital(voice.pick(c.met if m else c.unmet)) for c, m in judged)
    names = [c.name for c, m in judged if m]
    relation = f"Met: {', '.join(names)}." if names else "No criterion is met."
    return seen, relation, "All three hold." if len(names) == 3 else f"Only {len(names)} of three hold."


def _place(sample: Sample, procedure: Procedure, voice: _Voice) -> str:
    box = next(b for b in sample.labels.boxes or () if b.name == sample.focus)
    look = _entity(procedure, sample.focus, voice).partition(" with ")[2] or "visible"
    return f"The {sample.focus} is {look}, at the {_where(box, sample)}."


def _scene(sample: Sample, procedure: Procedure, voice: _Voice) -> tuple[str, str, str]:
    """Questions about the whole frame: instruments and structures, what they do, what it means. Level 1 names
    what Level 2 works on: what the labels hold and what the chosen cue speaks of.
    """
    labels = sample.labels
    activity = procedure.activity(labels.phase or labels.action or labels.step or "")
    cues = [_capital(c) for c in activity.cues] if activity else []
    parts = []
    if labels.tools is not None:
        parts.append(_tools(sample, procedure, voice))
        cues = [c for c in cues if _named(c, procedure) <= set(labels.tools)]
    elif labels.tissues is None and (seen := [c for c in cues if not _claims(c, procedure)]):
        # Nothing but the activity is labelled: one cue is what is seen, the other what is done.
        parts.append(voice.pick(seen))
        cues = [c for c in cues if c not in parts and _named(c, procedure) <= _named(parts[0], procedure)]
    cue = voice.pick(cues) if cues else ""
    names = [target for _, _, target in labels.triplets or () if target != "null target"]
    names += labels.tissues or ()
    names += [] if labels.triplets is not None else _worked_on(cue, procedure)
    if sample.task is Task.SURGICAL_VQA and procedure.entity(sample.answer):
        names.append(sample.answer)
    parts.append(_structures([n for n in dict.fromkeys(names) if n not in (labels.tools or ())], voice))
    one = " ".join(p for p in parts if p) or "The operative field is in view, nothing in it is named."
    if labels.triplets is not None:
        two, meaning = _deeds(sample, voice), cue
    else:
        means = activity.definition if activity and labels.tools is None else ""
        two, meaning = means if _follows(means, one, procedure) else cue, ""
        two = two or "What is done shows no more than that."
    return one, _with_motion(sample, two), f"{meaning} {_conclusion(sample, voice)}".strip()


def _follows(text: str, one: str, procedure: Procedure) -> bool:
    """Whether Level 1 has established the tools that a text names and what it says is worked on."""
    known = lexicon(procedure)
    seen = {t.value for s in sentences(one) for t in known.tokens(s)} | {
        t.entity for s in sentences(one) for t in known.tokens(s)
    }
    return bool(text) and _named(text, procedure) <= seen and set(_worked_on(text, procedure)) <= seen


def _claims(text: str, procedure: Procedure) -> bool:
    """Whether a cue is the name of its activity in other words."""
    return any(s.kind in ("phase", "step", "action") for s in read_text(text, 1, procedure))


def _worked_on(text: str, procedure: Procedure) -> list[str]:
    """The structures that a cue says something is done to."""
    found = [s.object for s in read_text(text, 2, procedure) if s.kind == "deed" and not s.negated]
    return [n for n in found if n not in ("", "null target")]


def _named(text: str, procedure: Procedure) -> set[str]:
    """The tools that a text names."""
    known = lexicon(procedure)
    return {t.value for s in sentences(text) for t in known.tokens(s) if t.type == "tool"}


def _with_motion(sample: Sample, two: str) -> str:
    if sample.task is not Task.MOTION_RECOGNITION:
        return two
    return f"{two} The camera's own movement is {sample.answer}."


def _conclusion(sample: Sample, voice: _Voice) -> str:
    """What the question asks for."""
    labels, task = sample.labels, sample.task
    if task is Task.TOOL_COUNTING:
        return f"That makes {sample.answer}."
    if task is Task.STEP_RECOGNITION:
        phase = f"The phase is {labels.phase} and the" if labels.phase else "The"
        return f"{phase} step is {labels.step}."
    if task is Task.PHASE_RECOGNITION:
        return f"{voice.pick(('This is', 'This fits', 'So the phase is'))} {labels.phase}."
    if len(sample.answer.split()) > 6 or re.search(r"\d", sample.answer):
        return "What was asked follows from just this."
    # "Would": the answer may be another phase than this one ("what comes next?").
    return f"What was asked would be called: {sample.answer}."
