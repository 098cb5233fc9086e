"""How good the checks are: traces labelled by hand with the checks they violate, against what is found.

A file is a YAML list; every entry has the sample's `dataset`, `procedure`, `task`, `question`, `answer`,
`labels`, `size` (width, height in pixels, of the stored and the prepared picture alike) and perhaps `focus`
and `options` (the answers' closed vocabulary, by default the dataset's); `text`, `violates` (names of
`validate.CHECKS`, none for a good trace) and `why`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.questions import answer_options
from surgr1.corpora.schema import LabelledBox, Labels, Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import VOCABULARY_KIND
from surgr1.synthesis.validate import CHECKS, validate


class LabelledError(SurgR1Error):
    """A file of labelled traces that cannot be read."""


class Labelled(NamedTuple):
    """One trace with the checks that it violates, by hand."""

    name: str
    sample: Sample
    image: PreparedImage
    text: str
    violates: frozenset[str]


@dataclass(frozen=True)
class CheckScore:
    """One check over the traces it applies to, or "any": whether a trace was rejected at all."""

    check: str
    violated: int
    found: int
    true: int
    missed: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def precision(self) -> float | None:
        return self.true / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        return self.true / self.violated if self.violated else None


def read_labelled(path: Path) -> Iterator[Labelled]:
    """The traces of a file. Raises LabelledError naming file and entry."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LabelledError(f"{path}: cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise LabelledError(f"{path}: expected a list of traces, found {type(rows).__name__}")
    for k, row in enumerate(rows):
        try:
            yield _labelled(row)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise LabelledError(
                f"{path}: entry {k} ({row.get('id') if isinstance(row, dict) else row!r}): {error!r}"
            ) from error


def _labelled(row: dict[str, Any]) -> Labelled:
    width, height = row["size"]
    raw: dict[str, Any] = dict(row["labels"])
    boxes = raw.pop("boxes", None)
    triplets = raw.pop("triplets", None)
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    labels = Labels(
        boxes=None if boxes is None else tuple(LabelledBox(b["name"], tuple(b["xyxy"])) for b in boxes),
        triplets=None if triplets is None else tuple((t[0], t[1], t[2]) for t in triplets),
        **listed,
    )
    violates = frozenset(row["violates"])
    if strange := violates - set(CHECKS):
        raise ValueError(f"unknown checks {', '.join(sorted(strange))}")
    sample = Sample(
        dataset=row["dataset"],
        centre="",
        procedure=row["procedure"],
        canonical_video="",
        video="labelled",
        frame=0,
        seconds=0.0,
        image="",
        width=width,
        height=height,
        task=Task(row["task"]),
        question=row["question"],
        options=tuple(row.get("options") or ()) or _options(row, labels),
        protocol="open",
        focus=row.get("focus") or "",
        answer=str(row["answer"]),
        labels=labels,
        split="train",
        role="train",
        policy="public",
        licence="Apache-2.0",
    )
    image = PreparedImage(Path(), width, height, width, height)
    return Labelled(str(row["id"]), sample, image, row["text"], violates)


def _options(row: dict[str, Any], labels: Labels) -> tuple[str, ...]:
    """The dataset's vocabulary of answers; of a user's own data set, which has none here, the procedure's
    names, and for triplets the labelled ones.
    """
    task = Task(row["task"])
    found = answer_options(row["dataset"], task)
    if found or task not in VOCABULARY_KIND:
        return found
    known = load_procedure(row["procedure"])
    names: dict[Task, tuple[str, ...]] = {
        Task.TRIPLET_EXTRACTION: tuple(" ".join(t) for t in labels.triplets or ()),
        Task.TOOL_RECOGNITION: tuple(e.name for e in known.tools),
        Task.TISSUE_RECOGNITION: tuple(e.name for e in known.tissues),
        Task.PHASE_RECOGNITION: tuple(a.name for a in known.phases),
        Task.STEP_RECOGNITION: tuple(a.name for a in known.steps),
        Task.ACTION_RECOGNITION: tuple(a.name for a in known.actions),
    }
    return names.get(task, ())


def score_checks(path: Path) -> list[CheckScore]:
    """Every check's score on a labelled file, then "any": rejected or accepted as a whole."""
    violated: dict[str, set[str]] = {name: set() for name in CHECKS}
    found: dict[str, set[str]] = {name: set() for name in CHECKS}
    for entry in read_labelled(path):
        findings, _ = validate(entry.text, entry.sample, entry.image)
        for name in entry.violates:
            violated[name].add(entry.name)
        for finding in findings:
            if not finding.ok:
                found[finding.check].add(entry.name)
    scores = [_score(name, violated[name], found[name]) for name in CHECKS]
    return [*scores, _score("any", set().union(*violated.values()), set().union(*found.values()))]


def _score(check: str, violated: set[str], found: set[str]) -> CheckScore:
    return CheckScore(
        check,
        len(violated),
        len(found),
        len(violated & found),
        tuple(sorted(violated - found)),
        tuple(sorted(found - violated)),
    )


def checks_table(scores: Sequence[CheckScore]) -> str:
    """The scores as Markdown, with 95 % Wilson intervals."""
    lines = ["| check | violated | found | precision | recall |", "| --- | --: | --: | --: | --: |"]
    for s in scores:
        precision, recall = _share(s.true, s.found), _share(s.true, s.violated)
        lines.append(f"| {s.check} | {s.violated} | {s.found} | {precision} | {recall} |")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    """A share with its Wilson interval, in percent."""
    from scipy.stats import binomtest

    if not whole:
        return "-"
    low, high = binomtest(part, whole).proportion_ci(method="wilson")
    return f"{100 * part / whole:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def counts(path: Path) -> dict[str, int]:
    """How many traces a labelled file holds, and how many of them are good."""
    kinds = Counter("bad" if entry.violates else "good" for entry in read_labelled(path))
    return {"traces": kinds.total(), "good": kinds["good"]}
