"""How each task is asked. Several wordings per task, chosen by a hash of the frame, so that a model cannot
lean on one.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from surgr1.corpora.registry import canonical_video
from surgr1.corpora.schema import Box, LabelledBox, Labels, Policy, Protocol, Role, Sample
from surgr1.corpora.sources import Source
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.answers import VOCABULARY_KIND, format_box
from surgr1.reasoning.prompt import build_prompt

_LISTABLE = 20
"""A longer vocabulary (CholecT50's 100 triplets, 46 steps) is never listed in a prompt."""
GRID = ("left-top", "right-top", "left-bottom", "right-bottom")

_WORDINGS: Mapping[Task, tuple[str, ...]] = {
    Task.TOOL_RECOGNITION: (
        "Which surgical tools are visible?",
        "List the instruments in this {procedure} image.",
        "What instruments can be seen?",
    ),
    Task.TISSUE_RECOGNITION: (
        "Which anatomical structures are visible?",
        "List the tissues in this {procedure} image.",
    ),
    Task.TOOL_LOCALIZATION: (
        "Where is the {focus}? Give its box.",
        "Locate the {focus} with a bounding box.",
    ),
    Task.TISSUE_LOCALIZATION: (
        "Where is the {focus}? Give its box.",
        "Locate the {focus} with a bounding box.",
    ),
    Task.GRID_POSITION_RECOGNITION: (
        "In which quadrant is the {focus}?",
        "Which part of the image holds the {focus}?",
    ),
    Task.ACTION_RECOGNITION: (
        "What action is being performed?",
        "What action related to the needle and suture is the surgeon focusing on right now?",
    ),
    Task.TRIPLET_EXTRACTION: (
        "Describe the complete surgical action in terms of tool, action, and tissue.",
        "Which tool does what to which tissue?",
    ),
    Task.MOTION_RECOGNITION: (
        "How does the camera move in this clip?",
        "Which motion of the laparoscope follows?",
    ),
    Task.TOOL_COUNTING: ("How many instruments are visible?", "Count the instruments in view."),
    Task.STEP_RECOGNITION: (
        "Which surgical step is being performed?",
        "Name the current step of the {procedure}.",
    ),
    Task.PHASE_RECOGNITION: (
        "Which surgical phase is being performed?",
        "What is the current phase of this {procedure}?",
        "Name the surgical phase.",
    ),
    Task.OVERALL_CVS_ASSESSMENT: (
        "Is the critical view of safety achieved?",
        "Has the critical view of safety been achieved in this image?",
    ),
}


_FIXED_OPTIONS: Mapping[Task, tuple[str, ...]] = {
    Task.GRID_POSITION_RECOGNITION: GRID,
    Task.OVERALL_CVS_ASSESSMENT: ("achieved", "not achieved"),
}


def quadrant(box: Box, width: int, height: int) -> str:
    """The quadrant of a box's centre."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return f"{'left' if x < width / 2 else 'right'}-{'top' if y < height / 2 else 'bottom'}"


class Question(NamedTuple):
    """One question that a frame's labels answer."""

    task: Task
    question: str
    options: tuple[str, ...]
    protocol: Protocol
    focus: str
    answer: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One labelled frame of a source.

    `frame` is the number in the dataset's own unit, `image` relative to the source's picture root, `size`
    (width, height) in pixels, `tool_count` the number of instrument instances where the dataset labels
    instances. `options` are vocabularies by kind that go before the ontology's, `questions` open (question,
    answer) pairs; `centre`, `policy` and `licence` go before the source's.
    """

    source: Source
    _: KW_ONLY
    procedure: str
    video: str
    frame: int
    seconds: float
    image: str
    size: tuple[int, int]
    labels: Labels
    role: Role
    centre: str = ""
    tool_count: int | None = None
    policy: Policy | None = None
    licence: str = ""
    options: Mapping[str, tuple[str, ...]] | None = None
    questions: tuple[tuple[str, str], ...] = ()
    cvs_achieved: bool | None = None
    """The dataset's own verdict on the critical view of safety, where it is not "all criteria met"."""
    asks_places: bool = True
    """False where the dataset has questions about places of its own: none is derived from boxes then, since
    the two may contradict each other (datasets-b.md 12.5).
    """

    def common(self) -> dict[str, Any]:
        """What all samples of this frame share, by the names of `Sample`."""
        source = self.source
        return {
            "dataset": source.dataset,
            "centre": self.centre or source.centre,
            "procedure": self.procedure,
            "canonical_video": canonical_video(source.dataset, self.video),
            "video": self.video,
            "frame": self.frame,
            "seconds": self.seconds,
            "image": self.image,
            "width": self.size[0],
            "height": self.size[1],
            "labels": self.labels,
            "split": self.role,
            "role": self.role,
            "policy": self.policy or source.data_policy,
            "licence": self.licence or source.data_licence,
        }

    def samples(self) -> list[Sample]:
        """Every question this frame's labels answer, as samples."""
        common = self.common()
        return [Sample(**q._asdict(), **common) for q in self.ask()]

    def ask(self) -> list[Question]:
        """Every question this frame's labels answer."""
        labels = self.labels
        found: list[Question] = []
        if labels.tools is not None:
            found.append(self._ask(Task.TOOL_RECOGNITION, ", ".join(labels.tools) or "none"))
        if labels.tissues is not None and self._vocabulary("tissue"):
            found.append(self._ask(Task.TISSUE_RECOGNITION, ", ".join(labels.tissues) or "none"))
        for task, names in (
            (Task.TOOL_LOCALIZATION, labels.tools),
            (Task.TISSUE_LOCALIZATION, labels.tissues),
        ):
            for box in _single(labels.boxes or (), names or ()):
                found.append(self._ask(task, format_box(box.xyxy), box.name))
                if task is Task.TOOL_LOCALIZATION and self.asks_places:
                    found.append(
                        self._ask(Task.GRID_POSITION_RECOGNITION, quadrant(box.xyxy, *self.size), box.name)
                    )
        if labels.triplets is not None:
            answer = "; ".join(" ".join(t) for t in labels.triplets) or "none"
            found.append(self._ask(Task.TRIPLET_EXTRACTION, answer))
        if labels.action is not None:
            found.append(self._ask(Task.ACTION_RECOGNITION, labels.action))
        if labels.motion is not None:
            found.append(self._ask(Task.MOTION_RECOGNITION, labels.motion))
        if self.tool_count is not None:
            found.append(self._ask(Task.TOOL_COUNTING, str(self.tool_count)))
        if labels.step is not None:
            found.append(self._ask(Task.STEP_RECOGNITION, labels.step))
        if labels.phase is not None:
            found.append(self._ask(Task.PHASE_RECOGNITION, labels.phase))
        if labels.cvs is not None:
            found += self._ask_cvs(labels.cvs)
        found += [self._ask(Task.SURGICAL_VQA, answer, question=q) for q, answer in self.questions]
        return found

    def _ask_cvs(self, cvs: tuple[bool | None, bool | None, bool | None]) -> list[Question]:
        found = []
        for criterion, met in zip(load_procedure(self.procedure).criteria, cvs, strict=True):
            if met is not None:
                pick = self._draw(criterion.id) % len(criterion.questions)
                found.append(
                    self._ask(
                        Task.CVS_CRITERIA_ASSESSMENT,
                        "yes" if met else "no",
                        criterion.id,
                        criterion.questions[pick],
                    )
                )
        if None not in cvs:
            met = all(cvs) if self.cvs_achieved is None else self.cvs_achieved
            verdict = "achieved" if met else "not achieved"
            found.append(self._ask(Task.OVERALL_CVS_ASSESSMENT, verdict))
        return found

    def _draw(self, salt: str, before: str = "") -> int:
        """A number in 0-255 that depends on the frame and the salt alone."""
        key = f"{before}{self.source.dataset}|{self.video}|{self.frame}|{salt}"
        return hashlib.sha256(key.encode()).digest()[0]

    def _vocabulary(self, kind: str) -> tuple[str, ...]:
        """The closed vocabulary of a kind, () where there is none."""
        return (self.options or {}).get(kind) or _names(self.source.dataset, kind)

    def _ask(self, task: Task, answer: str, focus: str = "", question: str = "") -> Question:
        if not question:
            wordings = _WORDINGS[task]
            pick = self._draw(f"{task}|{focus}") % len(wordings)
            question = wordings[pick].format(focus=focus, procedure=self.procedure)
        kind = VOCABULARY_KIND.get(task, "")
        options = (self.options or {}).get(kind) or answer_options(self.source.dataset, task)
        share = self.source.options_share
        offered = (
            share > 0
            and 0 < len(options) <= _LISTABLE
            and self._draw(f"{task}|{focus}", "options|") / 256 < share
        )
        return Question(task, question, options, "options" if offered else "open", focus, answer)


def answer_options(dataset: str, task: Task) -> tuple[str, ...]:
    """The closed vocabulary of a dataset's answers to a task, () where answers are open."""
    return _FIXED_OPTIONS.get(task) or _names(dataset, VOCABULARY_KIND.get(task, ""))


@lru_cache(maxsize=1024)
def _names(dataset: str, kind: str) -> tuple[str, ...]:
    return vocabulary(dataset, kind).names if kind and has_vocabulary(dataset, kind) else ()


def _single(boxes: tuple[LabelledBox, ...], names: tuple[str, ...]) -> list[LabelledBox]:
    """Boxes of the named entities that occur exactly once: only then "where is the X" has one answer."""
    every = [b.name for b in boxes]
    return [b for b in boxes if b.name in names and every.count(b.name) == 1]


def sample_prompt(sample: Sample, *, reasoning: bool) -> str:
    """The prompt of a sample under its protocol."""
    options = sample.options if sample.protocol == "options" else ()
    return build_prompt(sample.question, task=sample.task, options=options, reasoning=reasoning)
