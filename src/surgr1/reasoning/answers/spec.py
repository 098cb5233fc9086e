"""What counts as an answer to a task, and what comes out of reading one."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.reasoning.answers.spelling import Lexicon, lexicon_of
from surgr1.reasoning.trace import Outcome

Kind = Literal["label", "labels", "triplets", "box", "yes_no", "count", "text"]

_KINDS: Mapping[Task, Kind] = MappingProxyType(
    {
        Task.TOOL_RECOGNITION: "labels",
        Task.TISSUE_RECOGNITION: "labels",
        Task.TOOL_LOCALIZATION: "box",
        Task.TISSUE_LOCALIZATION: "box",
        Task.GRID_POSITION_RECOGNITION: "label",
        Task.CVS_CRITERIA_ASSESSMENT: "yes_no",
        Task.ACTION_RECOGNITION: "label",
        Task.MOTION_RECOGNITION: "label",
        Task.TRIPLET_EXTRACTION: "triplets",
        Task.TOOL_COUNTING: "count",
        Task.STEP_RECOGNITION: "label",
        Task.PHASE_RECOGNITION: "label",
        Task.OVERALL_CVS_ASSESSMENT: "label",
        Task.SURGICAL_VQA: "text",
    }
)
VOCABULARY_KIND: Mapping[Task, str] = MappingProxyType(
    {
        Task.TOOL_RECOGNITION: "tool",
        Task.TISSUE_RECOGNITION: "tissue",
        Task.ACTION_RECOGNITION: "action",
        Task.MOTION_RECOGNITION: "motion",
        Task.TRIPLET_EXTRACTION: "triplet",
        Task.STEP_RECOGNITION: "step",
        Task.PHASE_RECOGNITION: "phase",
    }
)
"""The kind of vocabulary that a task's answers come from."""
_GRID_ALIASES = {
    f"{a} {b}": f"{side}-{height}"
    for side in ("left", "right")
    for height, other in (("top", "upper"), ("bottom", "lower"))
    for word in (height, other)
    for a, b in ((word, side), (side, word))
    if (a, b) != (side, height)
}
_CVS_ALIASES = {
    "yes": "achieved",
    "true": "achieved",
    "fully achieved": "achieved",
    "no": "not achieved",
    "false": "not achieved",
    "is not achieved": "not achieved",
}


@dataclass(frozen=True)
class AnswerSpec:
    """What counts as an answer. `options` is the closed vocabulary in canonical spelling; `letters` whether
    the prompt offered A, B, …
    """

    kind: Kind
    options: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    letters: bool = False

    @cached_property
    def lexicon(self) -> Lexicon:
        """Spellings of the options and aliases."""
        return lexicon_of(self.options, tuple(sorted(self.aliases.items())))

    @property
    def separator(self) -> str:
        """What stands between the items of a canonical list."""
        return "; " if self.kind == "triplets" else ", "

    def listing(self, names: Collection[str]) -> str:
        """The canonical list of those options that are among `names`."""
        return self.separator.join(o for o in self.options if o in names)


@dataclass(frozen=True)
class Extraction:
    """`value` is the canonical answer (same form as `Sample.answer`) or None; `rung` says which step of the
    ladder found it.
    """

    value: str | None
    outcome: Outcome
    rung: str = ""


MISSING = Extraction(None, Outcome.OOV)
AMBIGUOUS = Extraction(None, Outcome.AMBIGUOUS)
EMPTY = Extraction(None, Outcome.EMPTY)


def spec_for(
    task: Task, options: Iterable[str] = (), dataset: str = "", *, letters: bool = False
) -> AnswerSpec:
    """The specification of a task's answers in a dataset."""
    kind = _KINDS[task]
    aliases: dict[str, str] = {}
    if task is Task.GRID_POSITION_RECOGNITION:
        aliases = _GRID_ALIASES
    elif task is Task.OVERALL_CVS_ASSESSMENT:
        aliases = _CVS_ALIASES
    elif dataset and task in VOCABULARY_KIND and has_vocabulary(dataset, VOCABULARY_KIND[task]):
        aliases = dict(vocabulary(dataset, VOCABULARY_KIND[task]).aliases)
    return AnswerSpec(kind, tuple(options), MappingProxyType(aliases), letters)
