"""How a quota's samples are drawn (`plan` says by which rules): the pool as arrays, turns of tasks and
classes, pictures hashed when their turn comes.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from surgr1.corpora.build import corpus_parts
from surgr1.corpora.near_duplicates import phash
from surgr1.corpora.schema import SAMPLE_SCHEMA
from surgr1.corpora.select import rank
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task

if TYPE_CHECKING:
    from surgr1.synthesis.plan import Quota

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
class Pool:
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


def read_pool(corpus: Path, datasets: Sequence[str], quota: "Quota", seed: int, *, images: bool) -> Pool:
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
    return Pool(
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


def _in_order(pool: Pool, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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


def _leaf_name(pool: Pool, sample: int) -> str:
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


class Pictures:
    """The pictures of the samples taken so far in one quota. Datasets without a root are not looked at."""

    def __init__(
        self, pool: Pool, roots: Mapping[str, Path], distance: int, limit: int, workers: ThreadPoolExecutor
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


def draw(
    pool: Pool, limit: int, seed: int, pictures: Pictures | None, tick: Callable[[int], None]
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
