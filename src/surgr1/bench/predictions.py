"""The prediction row: what was asked, what came back, and what the one parser reads from it.

A predictions file holds one row per line (JSON Lines, written as answers arrive) or the same columns as
Parquet. Rows of other programs may hold only what `Row` requires: what they leave out has defaults, and what
is read from the text is filled in by `judge`, which needs nothing but the row.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgr1.bench.cards import card_of, digest
from surgr1.bench.coordinates import Coordinates, to_stored
from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Policy, Protocol, Sample
from surgr1.engines.types import Completion, FinishReason, Request
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import AnswerSpec, extract, format_box, parse_boxes, spec_for
from surgr1.reasoning.trace import Outcome, parse

API_ERRORS = 0.005
"""A larger share of failed requests makes a result not final (evaluation.md B0)."""


Form = Literal["plain", "one-shot", "native"]
"""Our prompt, ours after an example of the answer's form, or a fine-tuned model's own."""


class PredictionError(SurgR1Error):
    """A predictions file that cannot be read."""


_Size = Annotated[tuple[int, int], Field(description="width, height in pixels")]


class Labels(BaseModel):
    """`corpora.schema.Labels` as JSON: None where the data set does not label."""

    model_config = ConfigDict(extra="forbid")

    tools: list[str] | None = None
    tissues: list[str] | None = None
    verbs: list[str] | None = None
    targets: list[str] | None = None
    triplets: list[tuple[str, str, str]] | None = None
    phase: str | None = None
    step: str | None = None
    action: str | None = None
    motion: str | None = None
    boxes: list[dict[str, Any]] | None = None
    cvs: tuple[bool | None, bool | None, bool | None] | None = None


class Row(BaseModel):
    """One answer to one question about one frame.

    Facts of the sample: `size` is the stored picture, `grid` the one that the model was shown, `options` the
    answers in the order in which they were offered (protocol "options") or the closed list (protocol "open"),
    `letters` whether they were offered as A, B, ... `labels` are the frame's ground truth, `answer` its
    canonical answer to the question (boxes in pixels of the stored picture).

    Generated: `text` is the completion, None in a foreign row that only has a `prediction`; `sample_index`
    counts several completions of one question; `reasoning` tells whether levels were asked for; `prompt_sha`
    is a hash of all text that was sent, `form` the kind of prompt; `coordinates` the frame in which the model
    writes boxes.

    Read: `prediction` is the canonical answer or None, boxes in pixels of the stored picture; `given` the box
    as the model wrote it, in its own frame. Only the outcomes ok and repaired with a prediction count as an
    answer; everything else is wrong and stays in N.
    """

    model_config = ConfigDict(extra="forbid")

    sample_id: str
    dataset: str
    video: str
    frame: int
    task: Task
    answer: str
    centre: str = ""
    procedure: str = ""
    seconds: float = 0.0
    focus: str = ""
    question: str = ""
    options: list[str] = []
    letters: bool = False
    protocol: Protocol = "open"
    labels: Labels = Field(default_factory=Labels)
    policy: Policy = "licence_restricted"
    image: str = ""
    size: _Size | None = None
    grid: _Size | None = None

    text: str | None = None
    finish_reason: FinishReason = "stop"
    error: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    latency_s: float = 0.0
    attempts: int = 1
    engine: str = ""
    model: str = ""
    reasoning: bool = False
    prompt_sha: str = ""
    form: Form = "plain"
    coordinates: Coordinates = "stored"
    sample_index: int = 0

    prediction: str | None = None
    outcome: Outcome | None = None
    rung: Literal["exact", "alias", "letter", "mention", "fuzzy", ""] = ""
    valid_format: bool = False
    given: tuple[float, float, float, float] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.text is None and self.prediction is None and self.outcome is None:
            raise ValueError("give text (the completion), prediction (the answer) or an outcome without one")
        return self


def prediction_row(
    sample: Sample,
    image: PreparedImage,
    request: Request,
    completion: Completion,
    *,
    reasoning: bool,
    coordinates: Coordinates = "grid",
    letters: bool = False,
    form: Form = "plain",
    sample_index: int = 0,
) -> dict[str, Any]:
    """The row of one completion: `sample` as it was asked (options in the order offered), `image` as it was
    shown.
    """
    labels = json.loads(json.dumps(asdict(sample.labels)))
    return judge(
        {
            "sample_id": sample.sample_id,
            "dataset": sample.dataset,
            "centre": sample.centre,
            "procedure": sample.procedure,
            "video": sample.video,
            "frame": sample.frame,
            "seconds": sample.seconds,
            "task": str(sample.task),
            "focus": sample.focus,
            "question": sample.question,
            "options": list(sample.options),
            "letters": letters,
            "protocol": sample.protocol,
            "answer": sample.answer,
            "labels": labels,
            "policy": sample.policy,
            "image": str(image.path),
            "size": [image.original_width, image.original_height],
            "grid": [image.width, image.height],
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "error": completion.error,
            "tokens_in": completion.tokens_in,
            "tokens_out": completion.tokens_out,
            "latency_s": completion.latency_s,
            "attempts": completion.attempts,
            "engine": completion.engine,
            "model": completion.model,
            "reasoning": reasoning,
            "prompt_sha": prompt_sha(request),
            "form": form,
            "coordinates": coordinates,
            "sample_index": sample_index,
        }
    )


def completion_of(row: Mapping[str, Any]) -> Completion:
    """The completion that a row was made from."""
    return Completion(
        row["text"],
        row["finish_reason"],
        row["tokens_in"],
        row["tokens_out"],
        row["latency_s"],
        row["attempts"],
        row["engine"],
        row["model"],
        row["error"],
    )


def prompt_sha(request: Request) -> str:
    """Hash of all text that a model is given: system, prompt, begun answer."""
    return digest([request.system, request.prompt, request.prefix])


def spec_of(row: Mapping[str, Any]) -> AnswerSpec:
    """What counts as an answer to a row's question: its card's list where it has a card, its own options
    otherwise; letters name the options in the order offered.
    """
    card = card_of(row["dataset"], row["task"])
    options = tuple(row["options"])
    spec = card.spec if card else spec_for(Task(row["task"]), options, row["dataset"])
    return replace(spec, options=options, letters=True) if row["letters"] else spec


def judge(row: Mapping[str, Any], *, fuzzy: bool = False) -> dict[str, Any]:
    """The row with prediction, outcome, rung, valid_format and given read anew from its text. `fuzzy` admits
    near spellings.

    A row without text keeps its prediction, brought into the vocabulary's spelling; its boxes are taken to be
    in pixels of the stored picture already. Never raises on what a model wrote.
    """
    spec = spec_of(row)
    text, coordinates = row["text"], row["coordinates"]
    valid, level = False, Task(row["task"]).level
    if text is not None:
        parsed = parse(text, finish_reason=row["finish_reason"])
        valid = parsed.is_format(level) if row["reasoning"] else _is_direct(parsed)
    elif row["prediction"] is not None:
        parsed, coordinates = parse(f"<answer>{row['prediction']}</answer>"), "stored"
    else:
        return {**row, "rung": "", "valid_format": False, "given": None}
    found = extract(parsed, spec, fuzzy=fuzzy)
    value, outcome, rung, given = found.value, found.outcome, found.rung, None
    if value is not None and spec.kind == "box":
        (written,) = parse_boxes(parsed.answer or "")
        given, value = list(written), _stored(written, coordinates, row)
        if value is None:
            outcome, rung = Outcome.OOV, ""
    return {
        **row,
        "prediction": value,
        "outcome": str(outcome),
        "rung": rung,
        "valid_format": valid,
        "given": given,
    }


def _is_direct(parsed: Any) -> bool:
    """The form of an answer without reasoning: one answer block and nothing after."""
    return bool(parsed.answer_blocks == 1 and not parsed.trailing)


def _stored(
    box: tuple[float, float, float, float], coordinates: Coordinates, row: Mapping[str, Any]
) -> str | None:
    """The canonical box, None when nothing of it lies in the picture. A row without sizes can only hold
    pixels of the stored picture, which then bound nothing.
    """
    if row["size"] is None:
        return format_box(box)
    size, grid = tuple(row["size"]), tuple(row["grid"] or row["size"])
    found = to_stored(box, coordinates, size=size, grid=grid)
    return format_box(found) if found else None


def read_predictions(path: Path) -> Iterator[dict[str, Any]]:
    """Every row of a predictions file: defaults filled in, and judged anew, so that one parser reads the rows
    of every program and version. A last line cut off by a kill is left out.

    Raises PredictionError naming file, line (JSON Lines) or row (Parquet) and field.
    """
    if not path.is_file():
        raise PredictionError(
            f"{path}: no such predictions; run `surgr1 bench run` or `surgr1 bench ask` first"
        )
    seen: dict[tuple[str, int], int] = {}
    for number, raw in _raw_rows(path):
        row = _checked(path, number, raw)
        key = (row["sample_id"], row["sample_index"])
        if key in seen:
            raise PredictionError(
                f"{path}:{number}: sample_id {key[0]!r} with sample_index {key[1]} stands on {seen[key]}"
                " already; keep one row of each"
            )
        seen[key] = number
        yield row


def _raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or row number from 1, mapping) of either format."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                batches = (row for batch in file.iter_batches() for row in batch.to_pylist())
                yield from enumerate(batches, start=1)
        except pa.ArrowException as error:
            raise PredictionError(f"{path}: not a readable Parquet file: {error}") from error
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise PredictionError(f"{path}:{number}: not JSON: {error}") from error


def _checked(path: Path, number: int, raw: Any) -> dict[str, Any]:
    """A raw row with its defaults, judged."""
    if isinstance(raw, Mapping):
        # Parquet has a value in every column: null means that the row does not say.
        raw = {k: v for k, v in raw.items() if v is not None}
    try:
        row = Row.model_validate(raw).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "row"
        known = f"; known fields: {', '.join(Row.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise PredictionError(f"{path}:{number}: {place}: {first['msg']}{known}") from error
    if row["text"] is not None and spec_of(row).kind == "box":
        frame = row["coordinates"]
        for field in {"stored": (), "grid": ("size", "grid")}.get(frame, ("size",)):
            if row[field] is None:
                raise PredictionError(f"{path}:{number}: {field}: boxes in coordinates {frame!r} need it")
    return judge(row)


def main_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that are scored: the first completion of every question."""
    return [r for r in rows if r["sample_index"] == 0]


def is_final(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether few enough requests failed for a final result: at most `API_ERRORS` of N."""
    failed = sum(r["outcome"] == Outcome.API_ERROR for r in rows)
    return failed <= API_ERRORS * len(rows)


def letter_counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How often each letter was chosen and how often it was right, over rows that offered letters: a model
    that leans on a place in the list shows here (B10).
    """
    chosen: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for row in rows:
        if row["letters"]:
            names = {name: chr(65 + k) for k, name in enumerate(row["options"])}
            right.update(names[x] for x in (row["answer"],) if x in names)
            chosen.update(names[x] for x in (row["prediction"],) if x in names)
    return {x: {"chosen": chosen[x], "right": right[x]} for x in sorted(chosen | right)}


def usage(
    rows: Sequence[Mapping[str, Any]], price: tuple[float, float] | None = None
) -> dict[str, float | None]:
    """What answers cost: requests, attempts, tokens, seconds per answer (nearest-rank percentiles over what
    was answered), failures and blocked answers. `price` is US dollars per million tokens in and out.
    """
    answered = sorted(r["latency_s"] for r in rows if r["finish_reason"] != "error")
    tokens_in = sum(r["tokens_in"] for r in rows)
    tokens_out = sum(r["tokens_out"] for r in rows)

    def percentile(share: float) -> float | None:
        return answered[math.ceil(share * len(answered)) - 1] if answered else None

    return {
        "requests": len(rows),
        "attempts": sum(r["attempts"] for r in rows),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "latency_p50": percentile(0.5),
        "latency_p95": percentile(0.95),
        "cost_usd": (tokens_in * price[0] + tokens_out * price[1]) / 1e6 if price else None,
        "failures": sum(r["finish_reason"] == "error" for r in rows),
        "blocked": sum(r["finish_reason"] == "blocked" for r in rows),
    }
