"""The Sample contract (design.md section 4): one question about one frame, and its pyarrow schema."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from surgr1.ontology.tasks import Task

Role = Literal["train", "validation", "test", "external"]
Policy = Literal["public", "licence_restricted", "local_only"]
Protocol = Literal["open", "options"]
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the stored image."""
_STRICTNESS: tuple[Policy, ...] = ("public", "licence_restricted", "local_only")


def strictest(*policies: Policy) -> Policy:
    """The policy that allows least."""
    return max(policies, key=_STRICTNESS.index)


@dataclass(frozen=True)
class LabelledBox:
    """A box of one named tool or tissue instance; `xyxy` in pixels of the stored image."""

    name: str
    xyxy: Box


@dataclass(frozen=True)
class Labels:
    """Everything the dataset says about the frame, in canonical ontology names (lower case, spaces).

    `None` means "this dataset does not label it"; an empty tuple means "labelled: none present". `triplets`
    are (tool, verb, target). `cvs` is (C1, C2, C3) in Endoscapes order: two structures, hepatocystic triangle
    cleared, cystic plate exposed; None for a criterion that was not assessed.
    """

    tools: tuple[str, ...] | None = None
    tissues: tuple[str, ...] | None = None
    verbs: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    triplets: tuple[tuple[str, str, str], ...] | None = None
    phase: str | None = None
    step: str | None = None
    action: str | None = None
    motion: str | None = None
    boxes: tuple[LabelledBox, ...] | None = None
    cvs: tuple[bool | None, bool | None, bool | None] | None = None


@dataclass(frozen=True)
class Sample:
    """One question about one frame.

    `frame` is the number in the dataset's own unit, `seconds` its time in the operation, `image` a path
    relative to the dataset root. `options` is the closed vocabulary of the answer (empty for open answers);
    `protocol` tells whether the question listed it. `focus` names the one entity the question is about (a
    tool to locate, a CVS criterion "C1") or is "".
    """

    dataset: str
    centre: str
    procedure: str
    canonical_video: str
    video: str
    frame: int
    seconds: float
    image: str
    width: int
    height: int
    task: Task
    question: str
    options: tuple[str, ...]
    protocol: Protocol
    focus: str
    answer: str
    labels: Labels
    split: str
    role: Role
    policy: Policy
    licence: str
    sample_id: str = field(default="")

    @property
    def level(self) -> int:
        return self.task.level

    def __post_init__(self) -> None:
        if not self.sample_id:
            name = sample_name(self.dataset, self.video, self.frame, self.task, self.focus, self.question)
            object.__setattr__(self, "sample_id", name)


def sample_name(dataset: str, video: str, frame: int, task: str, focus: str, question: str) -> str:
    """The stable id of a sample, derived from what is asked of which frame."""
    key = f"{dataset}|{video}|{frame}|{task}|{focus}|{question}"
    return hashlib.sha256(key.encode()).hexdigest()[:20]


_BOX = pa.struct([("name", pa.string()), ("xyxy", pa.list_(pa.float32(), 4))])
_LABELS = pa.struct(
    [
        ("tools", pa.list_(pa.string())),
        ("tissues", pa.list_(pa.string())),
        ("verbs", pa.list_(pa.string())),
        ("targets", pa.list_(pa.string())),
        ("triplets", pa.list_(pa.list_(pa.string(), 3))),
        ("phase", pa.string()),
        ("step", pa.string()),
        ("action", pa.string()),
        ("motion", pa.string()),
        ("boxes", pa.list_(_BOX)),
        ("cvs", pa.list_(pa.bool_(), 3)),
    ]
)
SAMPLE_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("dataset", pa.string()),
        ("centre", pa.string()),
        ("procedure", pa.string()),
        ("canonical_video", pa.string()),
        ("video", pa.string()),
        ("frame", pa.int64()),
        ("seconds", pa.float64()),
        ("image", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("task", pa.string()),
        ("level", pa.int8()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("protocol", pa.string()),
        ("focus", pa.string()),
        ("answer", pa.string()),
        ("labels", _LABELS),
        ("split", pa.string()),
        ("role", pa.string()),
        ("policy", pa.string()),
        ("licence", pa.string()),
    ]
)


def to_row(sample: Sample) -> dict[str, Any]:
    """The sample as a row of `SAMPLE_SCHEMA`."""
    row = asdict(sample)
    row["task"] = str(sample.task)
    row["level"] = sample.level
    return row


def _tuples(value: Any) -> tuple[Any, ...] | None:
    return None if value is None else tuple(value)


def from_row(row: dict[str, Any]) -> Sample:
    """The inverse of `to_row`."""
    row = dict(row)
    del row["level"]
    raw = dict(row.pop("labels"))
    for name in ("tools", "tissues", "verbs", "targets", "cvs"):
        raw[name] = _tuples(raw[name])
    if raw["triplets"] is not None:
        raw["triplets"] = tuple(tuple(t) for t in raw["triplets"])
    if raw["boxes"] is not None:
        raw["boxes"] = tuple(LabelledBox(b["name"], tuple(b["xyxy"])) for b in raw["boxes"])
    row["task"] = Task(row["task"])
    row["options"] = tuple(row["options"])
    return Sample(labels=Labels(**raw), **row)


def read_samples(path: Path) -> Iterator[Sample]:
    """Samples of one Parquet file of a corpus (`build`), in order."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield from_row(row)
