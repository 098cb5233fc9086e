"""How each task is asked. Several wordings per task, chosen by a hash of the frame, so that a model cannot
lean on one.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

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


def quadrant(box: Box, width: int, height: int) -> str:
    """The quadrant of a box's centre."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return f"{'left' if x < width / 2 else 'right'}-{'top' if y < height / 2 else 'bottom'}"


class Frame:
    """One labelled frame of a source and the samples its labels support.

    `frame` is the number in the dataset's own unit, `image` relative to the source's root, `size` (width,
    height) in pixels, `tool_count` the number of instrument instances where the dataset labels instances.
    `options` are vocabularies by kind that go before the ontology's, `questions` open (question, answer)
    pairs; `centre`, `policy` and `licence` go before the source's.
    """

    def __init__(
        self,
        source: Source,
        *,
        procedure: str,
        video: str,
        frame: int,
        seconds: float,
        image: str,
        size: tuple[int, int],
        labels: Labels,
        role: Role,
        centre: str = "",
        tool_count: int | None = None,
        policy: Policy | None = None,
        licence: str = "",
        options: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        questions: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.labels, self.size, self.tool_count = labels, size, tool_count
        self._options, self._questions = options, questions
        self._options_share = source.options_share
        self._common: dict[str, Any] = {
            "dataset": source.dataset,
            "centre": centre or source.centre,
            "procedure": procedure,
            "canonical_video": canonical_video(source.dataset, video),
            "video": video,
            "frame": frame,
            "seconds": seconds,
            "image": image,
            "width": size[0],
            "height": size[1],
            "labels": labels,
            "split": role,
            "role": role,
            "policy": policy or source.data_policy,
            # The licence of all five public datasets.
            "licence": licence or source.licence or "CC BY-NC-SA 4.0",
        }
        self._dataset, self._procedure = source.dataset, procedure
        self._key = f"{source.dataset}|{video}|{frame}"

    def _sample(self, task: Task, answer: str, focus: str = "", question: str = "") -> Sample:
        if not question:
            wordings = _WORDINGS[task]
            pick = hashlib.sha256(f"{self._key}|{task}|{focus}".encode()).digest()[0] % len(wordings)
            question = wordings[pick].format(focus=focus, procedure=self._procedure)
        options: tuple[str, ...] = GRID if task is Task.GRID_POSITION_RECOGNITION else ()
        if task is Task.OVERALL_CVS_ASSESSMENT:
            options = ("achieved", "not achieved")
        kind = VOCABULARY_KIND.get(task)
        if kind and kind in self._options:
            options = self._options[kind]
        elif kind and has_vocabulary(self._dataset, kind):
            options = vocabulary(self._dataset, kind).names
        draw = hashlib.sha256(f"options|{self._key}|{task}|{focus}".encode()).digest()[0] / 256
        offered = 0 < len(options) <= _LISTABLE and draw < self._options_share
        protocol: Protocol = "options" if offered else "open"
        return Sample(
            task=task,
            question=question,
            options=options,
            protocol=protocol,
            focus=focus,
            answer=answer,
            **self._common,
        )

    def samples(self) -> list[Sample]:
        """Every question this frame's labels answer."""
        labels = self.labels
        found: list[Sample] = []
        if labels.tools is not None:
            found.append(self._sample(Task.TOOL_RECOGNITION, ", ".join(labels.tools) or "none"))
        if labels.tissues is not None and (
            "tissue" in self._options or has_vocabulary(self._dataset, "tissue")
        ):
            found.append(self._sample(Task.TISSUE_RECOGNITION, ", ".join(labels.tissues) or "none"))
        for task, names in (
            (Task.TOOL_LOCALIZATION, labels.tools),
            (Task.TISSUE_LOCALIZATION, labels.tissues),
        ):
            for box in _single(labels.boxes or (), names or ()):
                found.append(self._sample(task, format_box(box.xyxy), box.name))
                if task is Task.TOOL_LOCALIZATION:
                    found.append(
                        self._sample(Task.GRID_POSITION_RECOGNITION, quadrant(box.xyxy, *self.size), box.name)
                    )
        if labels.triplets is not None:
            found.append(
                self._sample(
                    Task.TRIPLET_EXTRACTION, "; ".join(" ".join(t) for t in labels.triplets) or "none"
                )
            )
        if labels.action is not None:
            found.append(self._sample(Task.ACTION_RECOGNITION, labels.action))
        if self.tool_count is not None:
            found.append(self._sample(Task.TOOL_COUNTING, str(self.tool_count)))
        if labels.step is not None:
            found.append(self._sample(Task.STEP_RECOGNITION, labels.step))
        if labels.phase is not None:
            found.append(self._sample(Task.PHASE_RECOGNITION, labels.phase))
        if labels.cvs is not None:
            for criterion, met in zip(load_procedure(self._procedure).criteria, labels.cvs, strict=True):
                if met is None:
                    continue
                pick = hashlib.sha256(f"{self._key}|{criterion.id}".encode()).digest()[0] % len(
                    criterion.questions
                )
                found.append(
                    self._sample(
                        Task.CVS_CRITERIA_ASSESSMENT,
                        "yes" if met else "no",
                        criterion.id,
                        criterion.questions[pick],
                    )
                )
            if None not in labels.cvs:
                verdict = "achieved" if all(labels.cvs) else "not achieved"
                found.append(self._sample(Task.OVERALL_CVS_ASSESSMENT, verdict))
        found += [self._sample(Task.SURGICAL_VQA, answer, question=q) for q, answer in self._questions]
        return found


def _single(boxes: tuple[LabelledBox, ...], names: tuple[str, ...]) -> list[LabelledBox]:
    """Boxes of the named entities that occur exactly once: only then "where is the X" has one answer."""
    every = [b.name for b in boxes]
    return [b for b in boxes if b.name in names and every.count(b.name) == 1]


def sample_prompt(sample: Sample, *, reasoning: bool) -> str:
    """The prompt of a sample under its protocol."""
    options = sample.options if sample.protocol == "options" else ()
    return build_prompt(sample.question, task=sample.task, options=options, reasoning=reasoning)
