"""One training conversation: a picture on its final grid, a prompt, the completion to learn, and where it
came from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from surgr1.corpora.grid import PreparedImage, scale_boxes_in_text
from surgr1.corpora.questions import sample_prompt
from surgr1.corpora.schema import Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.reasoning.trace import Trace, render


class ConversationError(SurgR1Error):
    """A conversation file that cannot be read."""


@dataclass(frozen=True)
class Conversation:
    """`image` is the path of the prepared picture; `answer` the label, boxes in its pixels; `source` the
    teacher or "model/iteration"; `checks` the validator's findings by name."""

    sample_id: str
    dataset: str
    video: str
    task: str
    prompt: str
    completion: str
    image: str
    width: int
    height: int
    source: str
    answer: str
    policy: str
    options: tuple[str, ...] = ()
    checks: dict[str, bool] = field(default_factory=dict)


_SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("sample_id", "dataset", "video", "task", "prompt", "completion", "image")]
    + [("width", pa.int32()), ("height", pa.int32())]
    + [(n, pa.string()) for n in ("source", "answer", "policy")]
    + [("options", pa.list_(pa.string())), ("checks", pa.map_(pa.string(), pa.bool_()))]
)


def prepared_answer(sample: Sample, image: PreparedImage) -> str:
    """The sample's answer with boxes in pixels of the prepared picture."""
    return scale_boxes_in_text(
        sample.answer, (image.original_width, image.original_height), (image.width, image.height)
    )


def _conversation(
    sample: Sample, image: PreparedImage, prompt: str, completion: str, source: str, checks: dict[str, bool]
) -> Conversation:
    return Conversation(
        sample.sample_id,
        sample.dataset,
        sample.video,
        str(sample.task),
        prompt,
        completion,
        str(image.path),
        image.width,
        image.height,
        source,
        prepared_answer(sample, image),
        sample.policy,
        sample.options,
        checks,
    )


def vqa_conversation(sample: Sample, image: PreparedImage) -> Conversation:
    """Stage 1: the label as the answer, no reasoning."""
    completion = render(Trace({}, prepared_answer(sample, image)))
    return _conversation(sample, image, sample_prompt(sample, reasoning=False), completion, "label", {})


def trace_conversation(
    sample: Sample, image: PreparedImage, trace: Trace, *, source: str, checks: dict[str, bool]
) -> Conversation:
    """Stages 2 and 4: a three-level trace. `trace.answer` is in pixels of the prepared picture."""
    return _conversation(sample, image, sample_prompt(sample, reasoning=True), render(trace), source, checks)


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write a Parquet file atomically; returns the number of rows."""
    rows = [asdict(c) | {"checks": list(c.checks.items())} for c in conversations]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)
    return table.num_rows


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Conversations of a file, in order. Raises ConversationError naming the file."""
    try:
        table = pq.read_table(path, schema=_SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise ConversationError(f"{path}: not a conversation file: {error}") from error
    for row in table.to_pylist():
        row["options"] = tuple(row["options"] or ())
        row["checks"] = dict(row["checks"] or ())
        yield Conversation(**row)
