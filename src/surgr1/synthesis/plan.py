"""Which samples go to the teacher: quotas as in Table 3 of the paper, each drawn from the training samples of
a built corpus so that little is asked twice and nothing rare is left out.

Inside a quota the next sample is always taken for the task that has the fewest so far, there for the class
that has the fewest, the rarest first where several have as many. A class with fewer samples than its share so
gives all it has, and the rest is shared among the others. The order inside a class is fixed: its centres take
turns, in each centre its videos (operations), in each video times far apart from those before.

The class of a sample is its answer, with these exceptions: for sets (triplets, lists of tools or tissues) the
set's rarest element, by the number of the pool's samples that hold it; for boxes what is to be located; for
CVS criteria and quadrants what is asked about, with the answer.

A picture within `distance` bits of one already taken in the same quota (`corpora.near_duplicates`) is left
out and the next sample of its class takes its place. The same picture may be asked another question. Pictures
are hashed only when their turn comes. Flat pictures (black, out of the body) have no hash: all but the first
of a quota count as near-duplicates.

The corpus is read twice: light columns into arrays, then the rows that were chosen. The result depends on the
samples and the seed alone, not on the order of datasets or on the Parquet parts; a quota's draw depends on no
other quota.
"""

import heapq
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgr1.corpora.build import corpus_parts, statistics_of
from surgr1.corpora.near_duplicates import DISTANCE, phash
from surgr1.corpora.schema import SAMPLE_SCHEMA, Sample, read_samples
from surgr1.corpora.select import _rank as rank
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import layout_of

ROWS, REPORT = "plan.parquet", "plan.json"
_SETS = {Task.TRIPLET_EXTRACTION: "; ", Task.TOOL_RECOGNITION: ", ", Task.TISSUE_RECOGNITION: ", "}
"""Tasks whose answer is a set, and what stands between its elements (`corpora.questions`)."""
_BOXES = (Task.TOOL_LOCALIZATION, Task.TISSUE_LOCALIZATION)
_ABOUT = (Task.CVS_CRITERIA_ASSESSMENT, Task.GRID_POSITION_RECOGNITION)
_COLUMNS = (
    "sample_id",
    "centre",
    "canonical_video",
    "frame",
    "seconds",
    "image",
    "task",
    "focus",
    "answer",
    "role",
)
_BATCH = 1 << 16
_LOOKAHEAD = 256
"""Pictures of one class hashed at once, at most, beyond those of the coming turns."""


class PlanError(SurgR1Error):
    """Quotas, a corpus or a plan that cannot be used."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quota(_Part):
    """At most `limit` samples of some datasets and tasks.

    `datasets` are layouts: simulated and hospital twins match by theirs ("sim-cholec80" is "cholec80").
    `only` names the tasks of a dataset that gives fewer than all `tasks`.
    """

    name: str = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    limit: int = Field(ge=1)
    only: Mapping[str, tuple[Task, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for dataset in self.datasets:
            if dataset != layout_of(dataset):
                raise ValueError(f"datasets: {dataset}: expected the layout, {layout_of(dataset)}")
        for dataset, tasks in self.only.items():
            if dataset not in self.datasets or not tasks or not set(tasks) <= set(self.tasks):
                raise ValueError(f"only: {dataset}: expected one of `datasets` with some of `tasks`")
        return self

    def tasks_of(self, dataset: str) -> tuple[Task, ...]:
        """The tasks that a dataset id gives, () where it is no part of this quota."""
        layout = layout_of(dataset)
        if layout not in self.datasets:
            return ()
        return self.only.get(layout, self.tasks)


class Count(_Part):
    """Samples there were, taken, and passed over as near-duplicates. What is left was not needed."""

    pool: int
    taken: int
    duplicates: int


class QuotaReport(_Part):
    """What a quota took. `classes` by task, `videos` are operations (`canonical_video`), `hashed` the number
    of pictures looked at, `flat` the near-duplicates that are flat pictures, `reason` why fewer than `asked`
    were taken ("" where they were not).
    """

    name: str
    asked: int
    pool: int
    taken: int
    duplicates: int
    flat: int
    hashed: int
    shortfall: int
    reason: str
    datasets: Mapping[str, Count]
    classes: Mapping[str, Mapping[str, Count]]
    centres: Mapping[str, Count]
    videos: Mapping[str, Count]


class DatasetReport(_Part):
    """A dataset of the plan. `fingerprint` is the build's (`source.json`)."""

    layout: str
    simulated: bool
    fingerprint: str
    quotas: tuple[str, ...]
    taken: int


class Plan(_Part):
    """What `plan.json` holds. `not_checked` are sentences."""

    seed: int
    distance: int
    asked: int
    taken: int
    quotas: tuple[QuotaReport, ...]
    datasets: Mapping[str, DatasetReport]
    not_checked: tuple[str, ...]


def read_quotas(path: Path) -> tuple[Quota, ...]:
    """The quotas of a YAML file (`quotas:`, a list). Raises PlanError naming the file."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or list(raw) != ["quotas"] or not isinstance(raw["quotas"], list):
            raise PlanError(f"{path}: expected one entry, `quotas`, with a list")
        quotas = tuple(Quota.model_validate(q) for q in raw["quotas"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise PlanError(f"{path}: not a file of quotas: {error}") from error
    try:
        _check_quotas(quotas)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    return quotas


def table_3() -> tuple[Quota, ...]:
    """The paper's quotas: 40,875 samples of seven datasets."""
    return read_quotas(Path(str(files("surgr1.synthesis"))) / "quotas" / "table-3.yaml")


def _check_quotas(quotas: Sequence[Quota]) -> None:
    """A sample must not be drawn twice."""
    owner: dict[tuple[str, Task], str] = {}
    names: set[str] = set()
    if not quotas:
        raise PlanError("quotas: none given")
    for quota in quotas:
        if quota.name in names:
            raise PlanError(f"quota {quota.name!r} stands twice; give each its own name")
        names.add(quota.name)
        for layout in set(quota.datasets):
            for task in set(quota.tasks_of(layout)):
                other = owner.setdefault((layout, task), quota.name)
                if other != quota.name:
                    raise PlanError(
                        f"quotas {other!r} and {quota.name!r} both take {task} of {layout}: its samples could"
                        " be drawn twice; leave it out of one (`only`)"
                    )


class _Codes:
    """Texts as numbers, in order of appearance."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def encode(self, column: Any) -> NDArray[np.int32]:
        """The codes of a pyarrow string array."""
        column = column.dictionary_encode()
        known = [self.of.setdefault(text, len(self.of)) for text in column.dictionary.to_pylist()]
        return np.array(known, np.int32)[column.indices.to_numpy()]

    @property
    def names(self) -> list[str]:
        return list(self.of)


@dataclass(frozen=True)
class _Pool:
    """The samples that a quota may take, an array element each. `file`, `class_`, `centre`, `video` index
    the lists below; `row` is the row in the file; `tie` orders samples of one class and moment.
    """

    file: NDArray[np.int32]
    row: NDArray[np.int64]
    class_: NDArray[np.int32]
    centre: NDArray[np.int32]
    video: NDArray[np.int32]
    seconds: NDArray[np.float64]
    frame: NDArray[np.int64]
    tie: NDArray[np.uint64]
    images: Any
    """Pyarrow strings; None where no picture is looked at."""
    files: list[tuple[str, Path]]
    """(dataset, part)."""
    classes: list[tuple[str, str]]
    """(task, class)."""
    centres: list[str]
    videos: list[str]

    def __len__(self) -> int:
        return len(self.row)


def _read_pool(corpus: Path, datasets: Sequence[str], quota: Quota, seed: int, *, images: bool) -> _Pool:
    """The training samples of a quota. Raises PlanError."""
    codes = {name: _Codes() for name in ("centre", "canonical_video", "task", "focus", "answer")}
    found: dict[str, list[NDArray[Any]]] = {
        name: [np.empty(0, kind)]
        for name, kind in (
            *dict.fromkeys(codes, np.int32).items(),
            ("file", np.int32),
            ("row", np.int64),
            ("seconds", np.float64),
            ("frame", np.int64),
            ("tie", np.uint64),
        )
    }
    shown: list[Any] = []
    parts: list[tuple[str, Path]] = []
    for dataset in datasets:
        tasks = pa.array([str(t) for t in quota.tasks_of(dataset)], pa.string())
        for path in corpus_parts(corpus, dataset) if len(tasks) else ():
            for first, batch in _batches(path):
                wanted = pc.and_(pc.equal(batch["role"], "train"), pc.is_in(batch["task"], value_set=tasks))
                rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
                batch = batch.take(pa.array(rows))
                # What a box says is no class, and there are as many as samples.
                boxed = pc.is_in(batch["task"], value_set=pa.array([str(t) for t in _BOXES]))
                columns = {name: batch[name] for name in codes}
                columns["answer"] = pc.if_else(boxed, "", batch["answer"])
                for name, table in codes.items():
                    found[name].append(table.encode(columns[name]))
                found["file"].append(np.full(len(rows), len(parts), np.int32))
                found["row"].append(first + rows)
                for name in ("seconds", "frame"):
                    found[name].append(batch[name].to_numpy(zero_copy_only=False))
                ids = batch["sample_id"].to_pylist()
                found["tie"].append(np.array([int(rank(i, seed)[:16], 16) for i in ids], np.uint64))
                if images:
                    shown.append(batch["image"].cast(pa.large_string()))
            parts.append((dataset, path))
    columns = {name: np.concatenate(arrays) for name, arrays in found.items()}
    class_, classes = _classes(codes, columns)
    return _Pool(
        **{name: columns[name] for name in ("file", "row", "centre", "seconds", "frame", "tie")},
        class_=class_,
        video=columns["canonical_video"],
        images=pa.concat_arrays(shown) if shown else pa.array([], pa.large_string()) if images else None,
        files=parts,
        classes=classes,
        centres=codes["centre"].names,
        videos=codes["canonical_video"].names,
    )


def _batches(path: Path) -> Iterable[tuple[int, Any]]:
    """(row of the first, light columns) of a Parquet part, piece by piece. Raises PlanError."""
    first = 0
    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in SAMPLE_SCHEMA.names if name not in file.schema_arrow.names]
            if missing:
                raise PlanError(f"{path}: no column {', '.join(missing)}; build the corpus again")
            for batch in file.iter_batches(batch_size=_BATCH, columns=list(_COLUMNS)):
                yield first, batch
                first += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise PlanError(f"{path}: not a whole part of a corpus ({error}); build it again") from error


def _classes(
    codes: Mapping[str, _Codes], columns: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.int32], list[tuple[str, str]]]:
    """(class of each sample, the classes by number as (task, class))."""
    tasks, focuses, answers = (codes[name].names for name in ("task", "focus", "answer"))
    key = columns["task"].astype(np.int64)
    for name, values in (("focus", focuses), ("answer", answers)):
        key = key * max(1, len(values)) + columns[name]
    distinct, which, sizes = np.unique(key, return_inverse=True, return_counts=True)
    asked: list[tuple[Task, str, str]] = []
    for value in distinct.tolist():
        value, answer = divmod(value, len(answers))
        task, focus = divmod(value, len(focuses))
        asked.append((Task(tasks[task]), focuses[focus], answers[answer]))
    holders: dict[tuple[Task, str], int] = {}
    for (task, _, answer), size in zip(asked, sizes.tolist(), strict=True):
        for element in set(answer.split(_SETS[task])) if task in _SETS else ():
            holders[task, element] = holders.get((task, element), 0) + size
    number: dict[tuple[str, str], int] = {}
    of_distinct = [
        number.setdefault((str(task), _class_of(task, focus, answer, holders)), len(number))
        for task, focus, answer in asked
    ]
    return np.array(of_distinct, np.int32)[which.ravel()], list(number)


def _class_of(task: Task, focus: str, answer: str, holders: Mapping[tuple[Task, str], int]) -> str:
    if task in _SETS:
        return min(answer.split(_SETS[task]), key=lambda element: (holders[task, element], element))
    if task in _BOXES:
        return focus
    return f"{focus} {answer}" if task in _ABOUT else answer


def _in_order(pool: _Pool, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the samples class by class, each class in the order it is taken in; where each class begins)."""
    leaf = _numbered(pool.class_, pool.centre, pool.video)
    leaves = np.unique(leaf, return_index=True)[1]
    in_time = np.lexsort((pool.tie, pool.frame, pool.seconds, leaf))
    # A video's samples of one class: the number of each is counted from one that the seed chooses, and its
    # bits are reversed. Of any first 2**k of these, every two lie equally far apart.
    sizes = np.bincount(leaf, minlength=len(leaves))
    drawn = [int(rank(_leaf_name(pool, i), seed)[:16], 16) for i in leaves.tolist()]
    shifts = np.array([d % n for d, n in zip(drawn, sizes.tolist(), strict=True)], np.int64)
    position = np.empty(len(pool), np.int64)
    position[in_time] = np.arange(len(pool)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = _reversed_bits((position + shifts[leaf]) % np.maximum(sizes[leaf], 1))
    turn = _turns(leaf, position)
    # Videos of a centre take turns, then centres of a class. Who begins is drawn.
    of_video = np.argsort(np.argsort(np.array(drawn, np.uint64), kind="stable"), kind="stable")[leaf]
    centre = _numbered(pool.class_, pool.centre)
    turn = _turns(centre, turn, of_video)
    centres = np.unique(centre, return_index=True)[1]
    names = [f"{pool.classes[pool.class_[i]]}|{pool.centres[pool.centre[i]]}" for i in centres.tolist()]
    of_centre = np.argsort(np.argsort([rank(n, seed) for n in names], kind="stable"), kind="stable")
    order = np.lexsort((of_centre[centre], turn, pool.class_)) if len(pool) else np.empty(0, np.int64)
    many = np.bincount(pool.class_, minlength=len(pool.classes))
    return order, np.cumsum(many) - many


def _leaf_name(pool: _Pool, sample: int) -> str:
    centre, video = pool.centres[pool.centre[sample]], pool.videos[pool.video[sample]]
    return f"{pool.classes[pool.class_[sample]]}|{centre}|{video}"


def _numbered(*columns: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number for each combination that occurs, 0, 1, 2, ..."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        key = key * (int(column.max(initial=0)) + 1) + column
        key = np.unique(key, return_inverse=True)[1].ravel().astype(np.int64)
    return key


def _turns(group: NDArray[np.int64], *keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each element within its group (0, 1, 2, ...), sorted by `keys`, the first most."""
    order = np.lexsort((*reversed(keys), group))
    sizes = np.bincount(group)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def _reversed_bits(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest 32 bits of each, in reverse."""
    left = values.astype(np.uint32)
    for bits, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        left = ((left >> np.uint32(bits)) & np.uint32(mask)) | ((left & np.uint32(mask)) << np.uint32(bits))
    return left.astype(np.int64)


class _Turns:
    """Whose turn it is: the task with the fewest taken, in it the class with the fewest; where several have
    as many, the one with the smaller pool.
    """

    def __init__(self, classes: Sequence[tuple[str, str]], sizes: Sequence[int], seed: int) -> None:
        self.sizes = list(sizes)
        self.left = list(sizes)
        by_task: dict[str, list[tuple[int, int, str, int]]] = {}
        for number, (task, name) in enumerate(classes):
            by_task.setdefault(task, []).append((0, sizes[number], rank(f"{task}|{name}", seed), number))
        self.tasks = [(0, sum(c[1] for c in heap), rank(t, seed), heap) for t, heap in by_task.items()]
        heapq.heapify(self.tasks)
        for heap in by_task.values():
            heapq.heapify(heap)

    def copy(self) -> "_Turns":
        other = _Turns((), (), 0)
        other.sizes, other.left = self.sizes, self.left.copy()
        other.tasks = [(taken, size, drawn, heap.copy()) for taken, size, drawn, heap in self.tasks]
        return other

    @property
    def current(self) -> int | None:
        """The class whose turn it is, None when all samples have had theirs."""
        return self.tasks[0][3][0][3] if self.tasks else None

    def place(self, class_: int) -> int:
        """How many samples of a class have had their turn."""
        return self.sizes[class_] - self.left[class_]

    def advance(self, taken: bool) -> None:
        """The next sample of the current class has had its turn."""
        many, size, drawn, heap = self.tasks[0]
        count, pool, key, class_ = heap[0]
        self.left[class_] -= 1
        if not self.left[class_]:
            heapq.heappop(heap)
        elif taken:
            heapq.heapreplace(heap, (count + 1, pool, key, class_))
        if not heap:
            heapq.heappop(self.tasks)
        elif taken:
            heapq.heapreplace(self.tasks, (many + 1, size, drawn, heap))


class _Pictures:
    """The pictures of the samples taken so far in one quota. Datasets without a root are not looked at."""

    def __init__(
        self, pool: _Pool, roots: Mapping[str, Path], distance: int, limit: int, workers: ThreadPoolExecutor
    ) -> None:
        self._pool, self._distance, self._workers = pool, distance, workers
        self._roots = [roots.get(dataset) for dataset, _ in pool.files]
        self.hashes: dict[Path, int | None] = {}
        self._taken: set[Path] = set()
        self._codes = np.empty(min(limit, len(pool)), np.uint64)
        self._filled = 0
        self._flat = False

    def of(self, sample: int) -> Path | None:
        root = self._roots[self._pool.file[sample]]
        return None if root is None else root / self._pool.images[sample].as_py()

    def known(self, sample: int) -> bool:
        picture = self.of(sample)
        return picture is None or picture in self.hashes

    def hash(self, samples: Iterable[int]) -> None:
        """Raises ImageError naming the picture."""
        pictures = {p: None for s in samples if (p := self.of(s)) is not None and p not in self.hashes}
        # Decoding and scaling leave the interpreter to other threads.
        self.hashes.update(zip(pictures, self._workers.map(phash, pictures), strict=True))

    def take(self, sample: int) -> bool:
        """False where the picture resembles one that was taken; otherwise it is taken."""
        picture = self.of(sample)
        if picture is None or picture in self._taken:
            return True
        code = self.hashes[picture]
        if code is None:
            if self._flat:
                return False
            self._flat = True
        else:
            value = np.uint64(code)
            if (np.bitwise_count(self._codes[: self._filled] ^ value) <= self._distance).any():
                return False
            self._codes[self._filled] = value
            self._filled += 1
        self._taken.add(picture)
        return True

    def flat(self, sample: int) -> bool:
        picture = self.of(sample)
        return picture is not None and self.hashes[picture] is None


def _draw(
    pool: _Pool, limit: int, seed: int, pictures: _Pictures | None, tick: Callable[[int], None]
) -> tuple[list[int], list[int]]:
    """(samples taken, in drawn order; samples passed over as near-duplicates)."""
    order, starts = _in_order(pool, seed)
    turns = _Turns(pool.classes, np.bincount(pool.class_, minlength=len(pool.classes)).tolist(), seed)
    taken: list[int] = []
    passed: list[int] = []
    ahead = dict.fromkeys(range(len(pool.classes)), 2)
    stalled: int | None = None
    while len(taken) < limit and turns.current is not None:
        if pictures is not None:
            coming = _coming(turns.copy(), limit - len(taken), order, starts)
            if stalled is not None:
                # More of this class were near-duplicates than foreseen: look further each time.
                ahead[stalled] = min(2 * ahead[stalled], _LOOKAHEAD)
                first = starts[stalled] + turns.place(stalled)
                coming += order[first : first + min(ahead[stalled], turns.left[stalled])].tolist()
            pictures.hash(coming)
        while len(taken) < limit and (class_ := turns.current) is not None:
            sample = int(order[starts[class_] + turns.place(class_)])
            if pictures is not None and not pictures.known(sample):
                stalled = class_
                break
            fresh = pictures is None or pictures.take(sample)
            (taken if fresh else passed).append(sample)
            turns.advance(fresh)
        tick(len(taken))
    return taken, passed


def _coming(turns: _Turns, need: int, order: NDArray[np.int64], starts: NDArray[np.int64]) -> list[int]:
    """The samples whose turn comes if none of them is a near-duplicate. Uses `turns` up."""
    found: list[int] = []
    while len(found) < need and (class_ := turns.current) is not None:
        found.append(int(order[starts[class_] + turns.place(class_)]))
        turns.advance(True)
    return found


def make_plan(
    corpus: Path,
    datasets: Sequence[str],
    quotas: Sequence[Quota],
    out: Path,
    *,
    pictures: Mapping[str, Path] | None,
    seed: int,
    distance: int = DISTANCE,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Choose samples of role "train" of a built corpus and write `out`/plan.parquet (`schema.SAMPLE_SCHEMA`)
    and `out`/plan.json (the report, written last).

    The rows stand in drawn order: in each quota as they were taken, quotas mixed in proportion, so that any
    first part of the plan is a small plan. `pictures` maps datasets to their picture roots (`source.json`'s
    "pictures"); None, or a dataset without one: near-duplicates are not looked for there, and the report says
    so. `workers` are threads that hash pictures. `progress` gets (samples taken, samples asked). Raises
    PlanError, and ImageError where a picture is missing or broken.
    """
    _check_quotas(quotas)
    roots = _picture_roots(pictures, datasets)
    if not 0 <= distance <= 64:
        raise PlanError(f"distance {distance}: expected 0-64 bits")
    builds = {d: _build_of(corpus, d) for d in sorted(set(datasets))}
    asked, done = sum(q.limit for q in quotas), 0
    reports: list[QuotaReport] = []
    rows: list[tuple[float, int, Path, int]] = []
    of_dataset: dict[str, int] = dict.fromkeys(builds, 0)
    with ThreadPoolExecutor(workers) as threads:
        for number, quota in enumerate(quotas):
            mine = [d for d in builds if quota.tasks_of(d)]
            looked = any(d in roots for d in mine)
            pool = _read_pool(corpus, mine, quota, seed, images=looked)
            seen = _Pictures(pool, roots, distance, quota.limit, threads) if looked else None

            def tick(taken: int, before: int = done) -> None:
                if progress:
                    progress(before + taken, asked)

            taken, passed = _draw(pool, quota.limit, seed, seen, tick)
            reports.append(_report(quota, mine, pool, taken, passed, seen))
            done += len(taken)
            for place, sample in enumerate(taken):
                dataset, path = pool.files[pool.file[sample]]
                rows.append(((place + 0.5) / len(taken), number, path, int(pool.row[sample])))
                of_dataset[dataset] += 1
    plan = Plan(
        seed=seed,
        distance=distance,
        asked=asked,
        taken=len(rows),
        quotas=tuple(reports),
        datasets={
            d: DatasetReport(
                layout=layout_of(d),
                simulated=d.startswith("sim-"),
                fingerprint=fingerprint,
                quotas=tuple(q.name for q in quotas if q.tasks_of(d)),
                taken=of_dataset[d],
            )
            for d, fingerprint in builds.items()
        },
        not_checked=_not_checked(builds, quotas, roots),
    )
    rows.sort(key=lambda r: r[:2])
    _write(out, _materialise([(path, row) for _, _, path, row in rows]), plan)
    return plan


def read_plan(out: Path) -> list[Sample]:
    """The chosen samples, in drawn order. Raises PlanError where there is no whole plan."""
    report, path = read_report(out), out / ROWS
    try:
        samples = list(read_samples(path))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise PlanError(f"{path}: not the rows of a plan ({error}); make the plan again") from error
    if len(samples) != report.taken:
        raise PlanError(f"{path}: {len(samples)} rows, {REPORT} says {report.taken}; make the plan again")
    return samples


def read_report(out: Path) -> Plan:
    """What `plan.json` says. Raises PlanError."""
    path = out / REPORT
    if not path.is_file():
        raise PlanError(f"{path}: no such file; the plan was not made or not finished: make it again")
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise PlanError(f"{path}: not the report of a plan ({error}); make the plan again") from error


def _picture_roots(pictures: Mapping[str, Path] | None, datasets: Iterable[str]) -> dict[str, Path]:
    roots = {d: pictures[d] for d in set(datasets) if d in pictures} if pictures is not None else {}
    for dataset, root in sorted(roots.items()):
        if not root.is_dir():
            raise PlanError(f"pictures of {dataset}: no folder {root}")
    return roots


def _build_of(corpus: Path, dataset: str) -> str:
    """The fingerprint of a finished dataset. Raises PlanError, BuildError."""
    body = statistics_of(corpus, dataset)
    if body is None or not corpus_parts(corpus, dataset):
        raise PlanError(f"{corpus / dataset}: no built dataset; make it with `surgr1 data build`")
    return str(body["fingerprint"])


def _not_checked(
    datasets: Iterable[str], quotas: Sequence[Quota], roots: Mapping[str, Path]
) -> tuple[str, ...]:
    found = []
    for dataset in datasets:
        if not any(q.tasks_of(dataset) for q in quotas):
            found.append(f"{dataset}: no quota takes it")
        elif dataset not in roots:
            found.append(f"{dataset}: near-duplicates were not looked for, no folder of pictures was given")
    if roots and len(quotas) > 1:
        found.append("near-duplicates between quotas")
    return tuple(found)


def _report(
    quota: Quota,
    datasets: Sequence[str],
    pool: _Pool,
    taken: Sequence[int],
    passed: Sequence[int],
    pictures: _Pictures | None,
) -> QuotaReport:
    def counts(of: NDArray[np.int32], names: Sequence[str]) -> dict[str, Count]:
        found = [
            np.bincount(column, minlength=len(names)).tolist()
            for column in (of, of[list(taken)], of[list(passed)])
        ]
        each = zip(names, *found, strict=True)
        return {n: Count(pool=p, taken=t, duplicates=d) for n, p, t, d in sorted(each)}

    by_class = counts(pool.class_, [f"{task}|{name}" for task, name in pool.classes])
    classes: dict[str, dict[str, Count]] = {str(t): {} for t in quota.tasks}
    for key, count in by_class.items():
        task, _, name = key.partition("|")
        classes[task][name] = count
    dataset_of = {d: i for i, d in enumerate(datasets)}
    part_of = np.array([dataset_of[d] for d, _ in pool.files], np.int32)
    short = quota.limit - len(taken)
    return QuotaReport(
        name=quota.name,
        asked=quota.limit,
        pool=len(pool),
        taken=len(taken),
        duplicates=len(passed),
        flat=sum(pictures.flat(s) for s in passed) if pictures is not None else 0,
        hashed=len(pictures.hashes) if pictures is not None else 0,
        shortfall=short,
        reason=_reason(quota, datasets, len(pool), len(passed)) if short else "",
        datasets=counts(part_of[pool.file] if len(pool) else pool.file, datasets),
        classes=classes,
        centres=counts(pool.centre, pool.centres),
        videos=counts(pool.video, pool.videos),
    )


def _reason(quota: Quota, datasets: Sequence[str], pool: int, passed: int) -> str:
    """Why a quota is not full."""
    missing = sorted(set(quota.datasets) - {layout_of(d) for d in datasets})
    reasons = [f"not among the datasets: {', '.join(missing)}"] if missing else []
    if datasets:
        reasons.append(f"{pool} training samples of its tasks in {', '.join(datasets)}")
    if passed:
        reasons.append(f"{passed} of them near-duplicates")
    return "; ".join(reasons)


def _materialise(chosen: Sequence[tuple[Path, int]]) -> Any:
    """The rows (part, row) as a table, in the given order. Raises PlanError."""
    by_part: dict[Path, list[tuple[int, int]]] = {}
    for place, (path, row) in enumerate(chosen):
        by_part.setdefault(path, []).append((row, place))
    tables = [SAMPLE_SCHEMA.empty_table()]
    places: list[int] = []
    for path, wanted in by_part.items():
        wanted.sort()
        places += [place for _, place in wanted]
        rows = np.array([row for row, _ in wanted])
        try:
            with pq.ParquetFile(path) as file:
                first = 0
                for group in range(file.num_row_groups):
                    many = file.metadata.row_group(group).num_rows
                    low, high = np.searchsorted(rows, (first, first + many))
                    if low < high:
                        table = file.read_row_group(group, columns=SAMPLE_SCHEMA.names)
                        tables.append(table.take(pa.array(rows[low:high] - first)).cast(SAMPLE_SCHEMA))
                    first += many
        except (OSError, pa.ArrowException) as error:
            raise PlanError(f"{path}: not a whole part of a corpus ({error}); build it again") from error
    return pa.concat_tables(tables).take(pa.array(np.argsort(np.array(places, np.int64))))


def _write(out: Path, rows: Any, plan: Plan) -> None:
    """Both files atomically; without the report there is no plan."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT).unlink(missing_ok=True)
        part = out / f"{ROWS}.part"
        pq.write_table(rows, part, compression="zstd")
        _settle(part, out / ROWS)
        part = out / f"{REPORT}.part"
        part.write_text(json.dumps(plan.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        _settle(part, out / REPORT)
    except OSError as error:
        raise PlanError(f"{out}: the plan cannot be written: {error}; free space and run again") from error


def _settle(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
