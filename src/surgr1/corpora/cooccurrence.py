"""What occurs together in labelled frames, counted: tool-verb-target, tools and targets of a phase, what
follows what.

One pass over frames, one table per procedure. Who feeds it decides which frames count: `training_frames`
streams a Parquet part of a built corpus by column; a list of samples does as well.

An operation that several datasets label (Cholec80 and CholecT50 share 45) counts once in every table, with
the labels of the dataset that comes first. A name outside a dataset's vocabulary was not labelled there: its
absence is no observation.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from surgr1.ontology.procedures import load_procedure, procedure_names
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary

ORDERED = ("phase", "step", "action")
"""Labels of which a frame has one, so that one follows another."""
Presence = Mapping[str, Mapping[str, tuple[int, int]]]
"""phase -> name -> (frames of the phase with it, frames of the phase on which it was labelled)."""


class FrameLabels(NamedTuple):
    """What is counted of one frame. `operation` is the canonical video, `seconds` the time in `video`; None:
    not labelled.
    """

    dataset: str
    procedure: str
    operation: str
    video: str
    seconds: float
    tools: tuple[str, ...] | None
    triplets: tuple[tuple[str, str, str], ...] | None
    phase: str | None
    step: str | None
    action: str | None


class Tables(BaseModel):
    """Counts of one procedure. `triplets` is tool -> verb -> target -> frames that hold it; `follows` kind ->
    name -> next name -> transitions between consecutive labelled frames of one operation, `stays` those from
    a name to itself, `frames_of` kind -> name -> frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int
    """Frames with at least one label that is counted, by the rule of the module."""
    operations: int
    triplet_frames: int
    """Frames on which triplets were labelled (none there included)."""
    triplets: Mapping[str, Mapping[str, Mapping[str, int]]]
    tool_phase: Presence
    target_phase: Presence
    frames_of: Mapping[str, Mapping[str, int]]
    follows: Mapping[str, Mapping[str, Mapping[str, int]]]
    stays: Mapping[str, Mapping[str, int]]


@lru_cache(maxsize=256)
def labelled_names(dataset: str, procedure: str, kind: Literal["tool", "target"]) -> frozenset[str]:
    """The tools or targets that the dataset can label: its vocabulary, or the procedure's list where it has
    none (hospital data); without "null target".
    """
    if has_vocabulary(dataset, kind):
        names = vocabulary(dataset, kind).names
    elif procedure in procedure_names():
        known = load_procedure(procedure)
        names = tuple(e.name for e in (known.tools if kind == "tool" else known.tissues))
    else:
        names = ()
    return frozenset(n for n in names if not n.startswith("null "))


def count_labels(frames: Iterable[FrameLabels]) -> dict[str, Tables]:
    """Tables by procedure. Each frame must come once; those of a video in order of time (for `follows`).

    What is kept grows with distinct names and with changes of phase, not with frames.
    """
    counting: defaultdict[str, _Counting] = defaultdict(_Counting)
    for frame in frames:
        counting[frame.procedure].add(frame)
    return {procedure: found.tables() for procedure, found in sorted(counting.items())}


@dataclass
class _Run:
    """Consecutive frames of one video with one name."""

    name: str
    first: float
    last: float
    frames: int = 1


@dataclass
class _Counting:
    """The tables of one procedure as they grow."""

    frames: int = 0
    operations: set[str] = field(default_factory=set)
    first: dict[tuple[str, str], str] = field(default_factory=dict)
    """(table, operation) -> the dataset whose labels count there."""
    triplet_frames: int = 0
    triplets: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tool_phase: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    target_phase: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    runs: dict[str, dict[str, dict[str, list[_Run]]]] = field(default_factory=dict)
    """kind -> operation -> video -> runs."""

    def add(self, frame: FrameLabels) -> None:
        counted = False
        if frame.triplets is not None and self._counts("triplets", frame):
            counted = True
            self.triplet_frames += 1
            self.triplets.update(set(frame.triplets))
        if frame.phase is not None and frame.tools is not None and self._counts("tool_phase", frame):
            counted = True
            names = labelled_names(frame.dataset, frame.procedure, "tool")
            _present(self.tool_phase, frame.phase, set(frame.tools), names)
        if frame.phase is not None and frame.triplets is not None and self._counts("target_phase", frame):
            names = labelled_names(frame.dataset, frame.procedure, "target")
            _present(self.target_phase, frame.phase, {t[2] for t in frame.triplets}, names)
        for kind, name in zip(ORDERED, (frame.phase, frame.step, frame.action), strict=True):
            if name is not None and self._counts(kind, frame):
                counted = True
                videos = self.runs.setdefault(kind, {}).setdefault(frame.operation, {})
                runs = videos.setdefault(frame.video, [])
                if runs and runs[-1].name == name:
                    runs[-1].last = frame.seconds
                    runs[-1].frames += 1
                else:
                    runs.append(_Run(name, frame.seconds, frame.seconds))
        if counted:
            self.frames += 1
            self.operations.add(frame.operation)

    def _counts(self, table: str, frame: FrameLabels) -> bool:
        return self.first.setdefault((table, frame.operation), frame.dataset) == frame.dataset

    def tables(self) -> Tables:
        triplets: dict[str, dict[str, dict[str, int]]] = {}
        for (tool, verb, target), n in sorted(self.triplets.items()):
            triplets.setdefault(tool, {}).setdefault(verb, {})[target] = n
        frames_of: dict[str, dict[str, int]] = {}
        follows: dict[str, dict[str, dict[str, int]]] = {}
        stays: dict[str, dict[str, int]] = {}
        for kind, operations in self.runs.items():
            counts: dict[str, Counter[str]] = defaultdict(Counter)
            frames: Counter[str] = Counter()
            for videos in operations.values():
                for runs in _takes(list(videos.values())):
                    for run in runs:
                        frames[run.name] += run.frames
                        counts[run.name][run.name] += run.frames - 1
                    for one, other in pairwise(runs):
                        counts[one.name][other.name] += 1
            frames_of[kind] = dict(sorted(frames.items()))
            stays[kind] = {name: counts[name][name] for name in frames_of[kind]}
            follows[kind] = {
                name: {other: n for other, n in sorted(after.items()) if other != name}
                for name, after in sorted(counts.items())
            }
        return Tables(
            frames=self.frames,
            operations=len(self.operations),
            triplet_frames=self.triplet_frames,
            triplets=triplets,
            tool_phase=_sorted(self.tool_phase),
            target_phase=_sorted(self.target_phase),
            frames_of=frames_of,
            follows=follows,
            stays=stays,
        )


def _present(
    table: dict[str, dict[str, tuple[int, int]]], phase: str, seen: set[str], names: frozenset[str]
) -> None:
    row = table.setdefault(phase, {})
    for name in names:
        present, frames = row.get(name, (0, 0))
        row[name] = (present + (name in seen), frames + 1)


def _sorted(table: Presence) -> dict[str, dict[str, tuple[int, int]]]:
    return {phase: dict(sorted(row.items())) for phase, row in sorted(table.items())}


def _takes(videos: list[list[_Run]]) -> list[list[_Run]]:
    """The videos of one operation, those that follow each other in time joined. Clips that each start their
    own clock overlap and stay apart: nothing is known of what lies between them.
    """
    takes: list[list[_Run]] = []
    for runs in sorted(videos, key=lambda runs: runs[0].first):
        if takes and runs[0].first > takes[-1][-1].last:
            takes[-1].extend(runs)
        else:
            takes.append(list(runs))
    return takes


_COLUMNS = [
    *("procedure", "canonical_video", "video", "frame", "seconds", "role"),
    *(f"labels.{name}" for name in ("tools", "triplets", *ORDERED)),
]


def training_frames(part: Path, dataset: str) -> Iterator[FrameLabels]:
    """Every training frame of one Parquet part of a corpus once, whole videos in order of time, however often
    and in whatever order its questions stand there.

    Holds the labels of one part (at most ten videos in a built corpus), each distinct one once. Raises
    pyarrow's errors on a damaged file.
    """
    videos: dict[str, dict[int, FrameLabels]] = {}
    shared: dict[Any, Any] = {}
    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(columns=_COLUMNS):
            batch = _first_of_frames(batch)
            labels = batch["labels"]
            columns = [batch[n].to_pylist() for n in _COLUMNS[:6]]
            columns += [labels.field(n).to_pylist() for n in ("tools", "triplets", *ORDERED)]
            for procedure, operation, video, frame, seconds, role, tools, triplets, *ordered in zip(
                *columns, strict=True
            ):
                if role != "train":
                    continue
                tools = None if tools is None else tuple(tools)
                triplets = None if triplets is None else tuple(tuple(t) for t in triplets)
                known = videos.setdefault(video, {})
                known.setdefault(
                    frame,
                    FrameLabels(
                        dataset,
                        procedure,
                        operation,
                        video,
                        seconds,
                        shared.setdefault(tools, tools),
                        shared.setdefault(triplets, triplets),
                        *(shared.setdefault(name, name) for name in ordered),
                    ),
                )
    for _, frames in sorted(videos.items()):
        yield from sorted(frames.values(), key=lambda f: f.seconds)


def _first_of_frames(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without rows that ask again about the frame of the row before: most of them, taken off by column."""
    if batch.num_rows < 2:
        return batch
    new = pc.or_(
        pc.not_equal(batch["video"].slice(1), batch["video"].slice(0, batch.num_rows - 1)),
        pc.not_equal(batch["frame"].slice(1), batch["frame"].slice(0, batch.num_rows - 1)),
    )
    return batch.filter(pa.concat_arrays([pa.array([True]), new]))
