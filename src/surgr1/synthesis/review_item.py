"""One trace as the review page shows it: read from the file on demand, taken apart, held against its labels.

Nothing but the queue's ids stays in memory: a row is decoded when it is asked for, a small batch at a time.
"""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from surgr1.corpora.schema import Labels, Sample
from surgr1.reasoning.answers import parse_boxes
from surgr1.reasoning.trace import parse
from surgr1.synthesis.review import Queue, ReviewError, fingerprint
from surgr1.synthesis.review_marks import MarkedLevel, Piece, mark_level
from surgr1.synthesis.validate import seen_of

_BATCH = 256
"""Rows decoded at once; the file's own row groups may hold all of it."""
_COLUMNS = (
    *("sample_id", "dataset", "video", "task", "prompt", "completion", "image", "width", "height"),
    *("source", "answer", "policy", "options", "checks"),
)
Row = Mapping[str, Any]
"""A row of a file of conversations, by column; maps are lists of pairs."""


class Rows:
    """The rows of a queue. Not for two threads at once. Raises ReviewError."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        try:
            self._file = pq.ParquetFile(queue.path)
        except (OSError, pa.ArrowException) as error:
            raise ReviewError(f"{queue.path}: not a file of conversations: {error}") from error
        missing = sorted(set(_COLUMNS) - set(self._file.schema_arrow.names))
        if missing:
            self._file.close()
            raise ReviewError(
                f"{queue.path}: no file of conversations: it has no column {', '.join(missing)}"
            )
        counts = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self._starts = [0, *accumulate(counts)]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __getitem__(self, k: int) -> Row:
        """The row of the queue's trace number k."""
        wanted, row = self._queue.rows[k], None
        group = max(g for g, start in enumerate(self._starts) if start <= wanted)
        at = self._starts[group]
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH, row_groups=[group]):
                if wanted < at + batch.num_rows:
                    row = batch.slice(wanted - at, 1).to_pylist()[0]
                    break
                at += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise ReviewError(f"{self._queue.path}: row {wanted} cannot be read: {error}") from error
        if row is None or row["sample_id"] != self._queue.ids[k]:
            raise ReviewError(
                f"{self._queue.path}: row {wanted} is not sample {self._queue.ids[k]} any more: the file was"
                " written anew; start the review again"
            )
        return row


def picture_of(row: Row) -> Path:
    """The prepared picture."""
    return Path(row["image"])


def page_data(row: Row, sample: Sample | None) -> dict[str, Any]:
    """What the page shows of a trace, as JSON values. Boxes are [x, y, width, height] in pixels of the
    prepared picture.
    """
    parsed = parse(row["completion"])
    notices = []
    if sample is None:
        notices.append("The labels of this sample were not found: nothing could be checked against them.")
        levels = [MarkedLevel(k, (Piece(t),), ()) for k, t in sorted(parsed.levels.items())]
    else:
        if not parsed.is_format(sample.level):
            notices.append(
                f"Not in the form of a Level {sample.level} trace: compare the text as written, below."
            )
        seen = seen_of(sample)
        levels = [mark_level(t, k, seen) for k, t in sorted(parsed.levels.items())]
    return {
        "id": row["sample_id"],
        "trace": fingerprint(row["completion"]),
        "simulated": row["dataset"].startswith("sim-"),
        "local": row["policy"] == "local_only",
        "question": sample.question if sample else row["prompt"],
        "label": row["answer"],
        "answer": parsed.answer or "",
        "width": row["width"],
        "height": row["height"],
        "boxes": _boxes(row, sample, parsed.answer or ""),
        "levels": [_level(level) for level in levels],
        "checks": sorted((name, bool(ok)) for name, ok in row["checks"] or ()),
        "labels": _told(sample.labels) if sample else [],
        "facts": _facts(row, sample),
        "options": list(row["options"] or ()),
        "notices": notices,
        "raw": row["completion"],
        "prompt": row["prompt"],
    }


def _level(level: MarkedLevel) -> dict[str, Any]:
    claims = [
        {
            "kind": j.statement.kind,
            "claim": _said(j.statement.subject, j.statement.predicate, j.statement.object),
            "denied": j.statement.negated,
            "verdict": j.verdict,
            "reason": j.reason,
        }
        for j in level.judged
    ]
    pieces = [{"text": p.text, "verdict": p.verdict, "reason": p.reason} for p in level.pieces]
    return {"level": level.level, "pieces": pieces, "claims": claims}


def _said(*words: str) -> str:
    return " ".join(filter(None, words))


def _boxes(row: Row, sample: Sample | None, answer: str) -> list[dict[str, Any]]:
    """The labelled boxes and the one that the trace answers with."""
    found: list[dict[str, Any]] = []
    if sample:
        sx, sy = row["width"] / sample.width, row["height"] / sample.height
        for box in sample.labels.boxes or ():
            x1, y1, x2, y2 = box.xyxy
            found.append(
                {
                    "name": box.name,
                    "kind": "label",
                    "xywh": [x1 * sx, y1 * sy, (x2 - x1) * sx, (y2 - y1) * sy],
                }
            )
    if row["task"].endswith("localization"):
        given = {"answered": answer} if found else {"asked for": row["answer"], "answered": answer}
        for name, text in given.items():
            for x1, y1, x2, y2 in parse_boxes(text)[:1]:
                kind = "answer" if name == "answered" else "label"
                found.append({"name": name, "kind": kind, "xywh": [x1, y1, x2 - x1, y2 - y1]})
    return found


_CRITERIA = ("C1", "C2", "C3")


def _told(labels: Labels) -> list[tuple[str, str]]:
    """What the frame's labels say, and last what they leave open."""
    found = []
    for name in ("phase", "step", "action", "motion"):
        if (value := getattr(labels, name)) is not None:
            found.append((name, value))
    for name in ("tools", "tissues", "verbs", "targets"):
        if (values := getattr(labels, name)) is not None:
            found.append((name, ", ".join(values) or "none"))
    if labels.triplets is not None:
        found.append(("triplets", "; ".join(" ".join(t) for t in labels.triplets) or "none"))
    if labels.boxes is not None:
        found.append(("boxes", ", ".join(b.name for b in labels.boxes) or "none"))
    if labels.cvs is not None:
        words = {True: "met", False: "not met", None: "not assessed"}
        told = (f"{c} {words[met]}" for c, met in zip(_CRITERIA, labels.cvs, strict=True))
        found.append(("criteria", ", ".join(told)))
    absent = [
        n for n in ("tools", "tissues", "triplets", "phase", "boxes", "cvs") if getattr(labels, n) is None
    ]
    if absent:
        found.append(("not labelled", ", ".join(absent).replace("cvs", "criteria")))
    return found


def _facts(row: Row, sample: Sample | None) -> list[tuple[str, str]]:
    """Where the trace comes from."""
    found = [(n, str(row[n])) for n in ("dataset", "task", "video")]
    if sample:
        found += [("frame", f"{sample.frame} ({sample.seconds:.0f} s)"), ("operation", sample.procedure)]
        found.append(("focus", sample.focus))
    found += [("written by", str(row["source"])), ("sample", str(row["sample_id"]))]
    found += sorted((str(k), str(v)) for k, v in row.get("provenance") or ())
    return [(name, value) for name, value in found if value]
