"""One training conversation: a picture on its final grid, a prompt, the completion to learn, and where it
came from.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

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
    teacher or "model/iteration"; `checks` the validator's findings by name; `provenance` how it was written:
    pathway, attempt, versions of prompt and knowledge."""

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
    provenance: dict[str, str] = field(default_factory=dict)


_SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("sample_id", "dataset", "video", "task", "prompt", "completion", "image")]
    + [("width", pa.int32()), ("height", pa.int32())]
    + [(n, pa.string()) for n in ("source", "answer", "policy")]
    + [("options", pa.list_(pa.string())), ("checks", pa.map_(pa.string(), pa.bool_()))]
    + [("provenance", pa.map_(pa.string(), pa.string()))]
)
_ROWS = 4096
_T = TypeVar("_T")


def in_batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of at most `size` items in order (itertools.batched, which Python 3.11 lacks)."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


def prepared_answer(sample: Sample, image: PreparedImage) -> str:
    """The sample's answer with boxes in pixels of the prepared picture."""
    return scale_boxes_in_text(
        sample.answer, (image.original_width, image.original_height), (image.width, image.height)
    )


def _conversation(
    sample: Sample, image: PreparedImage, prompt: str, completion: str, source: str
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
    )


def vqa_conversation(sample: Sample, image: PreparedImage) -> Conversation:
    """Stage 1: the label as the answer, no reasoning."""
    completion = render(Trace({}, prepared_answer(sample, image)))
    return _conversation(sample, image, sample_prompt(sample, reasoning=False), completion, "label")


def trace_conversation(
    sample: Sample,
    image: PreparedImage,
    trace: Trace,
    *,
    source: str,
    checks: Mapping[str, bool],
    provenance: Mapping[str, str] = MappingProxyType({}),
) -> Conversation:
    """Stages 2 and 4: a three-level trace. `trace.answer` is in pixels of the prepared picture."""
    made = _conversation(sample, image, sample_prompt(sample, reasoning=True), render(trace), source)
    return replace(made, checks=dict(checks), provenance=dict(provenance))


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write a Parquet file atomically, a row group at a time; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, written = path.with_suffix(".part"), 0
    with pq.ParquetWriter(part, _SCHEMA, compression="zstd") as writer:
        for batch in in_batches(conversations, _ROWS):
            rows = [
                vars(c) | {"checks": list(c.checks.items()), "provenance": list(c.provenance.items())}
                for c in batch
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
            written += len(rows)
    part.replace(path)
    return written


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Conversations of a file, in order, a row group at a time. Raises ConversationError naming the file."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    row["options"] = tuple(row["options"] or ())
                    row["checks"] = dict(row["checks"] or ())
                    row["provenance"] = dict(row.get("provenance") or ())
                    yield Conversation(**row)
    except (OSError, pa.ArrowException, TypeError) as error:
        raise ConversationError(f"{path}: not a conversation file: {error}") from error
