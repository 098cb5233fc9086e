"""Frames to tables of samples (`schema.SAMPLE_SCHEMA`) by column, without an object per sample: a corpus of
millions is built in minutes.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import SAMPLE_SCHEMA, Labels, sample_name

_PER_QUESTION = ("sample_id", "task", "level", "question", "options", "protocol", "focus", "answer")
_PER_FRAME = tuple(n for n in SAMPLE_SCHEMA.names if n not in (*_PER_QUESTION, "labels"))
COUNTED = ("dataset", "task", "level", "role", "centre", "procedure", "policy", "licence")
"""Columns whose values `Columns` counts over samples."""


class Columns:
    """Collects frames; `table()` gives their samples and forgets them.

    `counts` and `frames` (labelled frames by role) go on over all tables. Questions asked twice of one frame
    are left out and returned by `add`.
    """

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        self.frames: Counter[str] = Counter()
        self._clear()

    def _clear(self) -> None:
        self._frame: dict[str, list[Any]] = {name: [] for name in _PER_FRAME}
        self._question: dict[str, list[Any]] = {
            name: [] for name in ("sample_id", "task", "level", "question", "protocol", "focus", "answer")
        }
        self._frame_of: list[int] = []
        self._labels: dict[Labels, int] = {}
        self._labels_of: list[int] = []
        self._options: dict[tuple[str, ...], int] = {}
        self._options_of: list[int] = []

    def __len__(self) -> int:
        return len(self._labels_of)

    def add(self, frame: Frame) -> list[str]:
        """Take a frame's samples; returns what was asked twice ("task focus")."""
        questions, common = frame.ask(), frame.common()
        dataset, video, number = common["dataset"], common["video"], common["frame"]
        columns, options = self._question, self._options
        index = len(self._labels_of)
        ids: set[str] = set()
        twice: list[str] = []
        for task, question, choices, protocol, focus, answer in questions:
            name = sample_name(dataset, video, number, task, focus, question)
            if name in ids:
                twice.append(f"{task} {focus}".strip())
                continue
            ids.add(name)
            columns["sample_id"].append(name)
            columns["task"].append(task.value)
            columns["level"].append(task.level)
            columns["question"].append(question)
            columns["protocol"].append(protocol)
            columns["focus"].append(focus)
            columns["answer"].append(answer)
            self._options_of.append(options.setdefault(choices, len(options)))
            self._frame_of.append(index)
        labels = common.pop("labels")
        self._labels_of.append(self._labels.setdefault(labels, len(self._labels)))
        for key, value in common.items():
            self._frame[key].append(value)
        self.frames[frame.role] += 1
        return twice

    def table(self) -> pa.Table:
        """The samples collected since the last call."""
        frame_of = pa.array(np.asarray(self._frame_of, np.int64))
        found: dict[str, Any] = {}
        for name in SAMPLE_SCHEMA.names:
            kind = SAMPLE_SCHEMA.field(name).type
            if name == "labels":
                unique = pa.array([_row(x) for x in self._labels], type=kind)
                found[name] = unique.take(pa.array(np.asarray(self._labels_of)[self._frame_of]))
            elif name == "options":
                found[name] = pa.array(list(self._options), type=kind).take(pa.array(self._options_of))
            elif name in self._question:
                found[name] = pa.array(self._question[name], type=kind)
            else:
                found[name] = pa.array(self._frame[name], type=kind).take(frame_of)
        self._clear()
        table = pa.table(found, schema=SAMPLE_SCHEMA)
        for name, counter in self.counts.items():
            for value in pc.value_counts(table[name]).to_pylist():
                counter[str(value["values"])] += value["counts"]
        return table


def _row(labels: Labels) -> dict[str, Any]:
    row = {name: getattr(labels, name) for name in Labels.__dataclass_fields__}
    if labels.boxes is not None:
        row["boxes"] = [{"name": b.name, "xyxy": b.xyxy} for b in labels.boxes]
    return row
