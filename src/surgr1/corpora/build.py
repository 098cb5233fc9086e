"""Sources to a corpus: sharded Parquet, statistics, quarantine and a dataset card.

    out/
      <dataset>/part-00000-of-00003.parquet   samples (`schema.SAMPLE_SCHEMA`), whole videos per part
      <dataset>/source.json                   counts and fingerprint, written last
      <dataset>/quarantine.jsonl              rows that could not be used, with the reason
      statistics.json, README.md              the whole corpus

The same input gives the same bytes. A dataset whose fingerprint is unchanged is not read again; a killed
build continues with the parts it has.
"""

import json
import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from surgr1.corpora.card import dataset_card
from surgr1.corpora.columns import COUNTED, Columns
from surgr1.corpora.files import LabelError, Rejects
from surgr1.corpora.fingerprint import fingerprint
from surgr1.corpora.processes import interrupts_blocked
from surgr1.corpora.registry import Isolation, Member, held_out
from surgr1.corpora.schema import SAMPLE_SCHEMA, Sample, read_samples
from surgr1.corpora.sources import Source, Tree, open_source
from surgr1.ontology.errors import SurgR1Error

_VIDEOS_PER_PART = 10
_FRAMES_PER_GROUP = 10_000
"""Labelled frames of one Parquet row group: what one process holds in memory."""
_FEW_VIDEOS = 40
"""Corpora this small are read in this process: starting others takes longer than reading."""


class BuildError(SurgR1Error):
    """A corpus that cannot be built: too many bad rows, a killed process, a full disk."""


@dataclass(frozen=True)
class _Part:
    """Some videos of one source, in order, that make one Parquet file."""

    source: Source
    videos: tuple[str, ...]
    path: Path


def build(
    sources: Iterable[Source],
    out: Path,
    *,
    isolation: Isolation | None = None,
    max_rejects: float = 0.01,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read every source and write the corpus; returns its statistics.

    `max_rejects` is the share of a dataset's labelled frames that may be unusable. `progress` gets (videos
    done, videos). Raises LayoutError, LabelError, ImageError from the datasets, LeakError where a training
    operation is in an evaluation set, BuildError.
    """
    sources, isolation = list(sources), isolation or Isolation()
    out.mkdir(parents=True, exist_ok=True)
    # What an earlier build in this process has opened may have changed since.
    _opened.clear()
    trees: dict[str, Tree] = {}
    opening: dict[str, Rejects] = {}
    for source in sources:
        opening[source.dataset] = rejects = Rejects(strict=False)
        trees[source.dataset] = open_source(source, rejects)
        if not trees[source.dataset].roles:
            raise LabelError(
                f"{source.dataset}: {source.root} has no video of split {source.split!r} or of the lists"
            )
    members = [Member(d, v, r) for d, tree in trees.items() for v, r in tree.roles.items()]
    excluded = held_out(members, isolation)

    _remove_others(out, set(trees))
    todo: list[tuple[Source, str, list[_Part]]] = []
    for source in sources:
        stamp = fingerprint(source) + repr(sorted(v for d, v in excluded if d == source.dataset))
        if _finished(out / source.dataset, stamp) is None:
            taken = [v for v in trees[source.dataset].videos if (source.dataset, v) not in excluded]
            todo.append((source, stamp, _parts(source, taken, _prepare(out, source.dataset, stamp))))
    parts = [p for _, _, ps in todo for p in ps]
    videos = sum(len(p.videos) for p in parts)
    done = 0
    for part in _each_done(parts, workers if videos > _FEW_VIDEOS else 0):
        done += len(part.videos)
        if progress:
            progress(done, videos)
    for source, stamp, mine in todo:
        lost = sorted(v for d, v in excluded if d == source.dataset)
        _finish(out, source, stamp, mine, opening[source.dataset], lost, max_rejects)
    return _summary(out, sources, isolation)


def corpus_parts(folder: Path, dataset: str) -> list[Path]:
    """The Parquet files of a built dataset, in order."""
    return sorted((folder / dataset).glob("part-*.parquet"))


def corpus_samples(folder: Path, dataset: str) -> Iterator[Sample]:
    """The samples of a built dataset, in order."""
    for path in corpus_parts(folder, dataset):
        yield from read_samples(path)


def statistics_of(folder: Path, dataset: str) -> dict[str, Any] | None:
    """A finished dataset's `source.json`, None where the build has not finished it. Raises BuildError."""
    path = folder / dataset / "source.json"
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BuildError(f"{path}: damaged: {error}; delete {path.parent} and build again") from error
    return found


def _finished(folder: Path, stamp: str) -> dict[str, Any] | None:
    found = statistics_of(folder.parent, folder.name)
    return found if found is not None and found["fingerprint"] == stamp else None


def _remove_others(out: Path, datasets: set[str]) -> None:
    """Datasets of an earlier build that this one does not read would be loaded with it."""
    for folder in out.iterdir():
        built = (folder / "source.json").is_file() or (folder / "fingerprint").is_file()
        if built and folder.name.removesuffix(".part") not in datasets:
            shutil.rmtree(folder)


def _prepare(out: Path, dataset: str, stamp: str) -> Path:
    """The folder a dataset is built in; parts of an interrupted build are kept if nothing changed."""
    folder = out / f"{dataset}.part"
    marker = folder / "fingerprint"
    if folder.is_dir() and not (marker.is_file() and marker.read_text(encoding="utf-8") == stamp):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(stamp, encoding="utf-8")
    return folder


def _parts(source: Source, videos: Sequence[str], folder: Path) -> list[_Part]:
    groups = [tuple(videos[i : i + _VIDEOS_PER_PART]) for i in range(0, len(videos), _VIDEOS_PER_PART)]
    return [
        _Part(source, group, folder / f"part-{k:05d}-of-{len(groups):05d}.parquet")
        for k, group in enumerate(groups)
    ]


def _each_done(parts: list[_Part], workers: int) -> Iterator[_Part]:
    """Write every part that is not there yet; yields each as it is done."""
    todo = [p for p in parts if not _notes(p).is_file()]
    yield from (p for p in parts if p not in todo)
    if workers < 2 or len(todo) < 2:
        for part in todo:
            _write_part(part)
            yield part
        return
    # Spawned, not forked: the parent may hold other libraries' threads.
    pool = ProcessPoolExecutor(min(workers, len(todo)), mp_context=multiprocessing.get_context("spawn"))
    waiting: dict[Future[None], _Part] = {}
    try:
        with interrupts_blocked():
            for part in todo:
                waiting[pool.submit(_write_part, part)] = part
        while waiting:
            finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                yield waiting.pop(future)
    except BrokenProcessPool as error:
        raise BuildError(
            "a reading process was killed (out of memory?); run again to continue with what is written"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_opened: dict[str, tuple[Tree, Rejects]] = {}
"""The tree that this process reads: parts of one source follow each other, and opening one may mean reading
a label file of 100 MB.
"""


def _tree(source: Source) -> tuple[Tree, Rejects]:
    key = source.model_dump_json()
    if key not in _opened:
        _opened.clear()
        rejects = Rejects(strict=False)
        tree = open_source(source, rejects)
        # The caller has the rows that opening rejects.
        rejects.rows.clear()
        _opened[key] = tree, rejects
    return _opened[key]


def _notes(part: _Part) -> Path:
    return part.path.with_suffix(".json")


def _write_part(part: _Part) -> None:
    tree, rejects = _tree(part.source)
    columns = Columns()
    temporary = part.path.with_suffix(".tmp")
    try:
        with pq.ParquetWriter(temporary, SAMPLE_SCHEMA, compression="zstd") as writer:
            for video in part.videos:
                before = columns.frames.total()
                for frame in tree.frames(video):
                    for what in columns.add(frame):
                        rejects.add(
                            f"{part.source.dataset}: {video} frame {frame.frame}", f"{what} stands twice"
                        )
                    if len(columns) >= _FRAMES_PER_GROUP:
                        writer.write_table(columns.table())
                if columns.frames.total() == before:
                    rejects.add(f"{part.source.dataset}: {video}", "no labelled frame")
            if len(columns):
                writer.write_table(columns.table())
        notes = {
            "counts": {k: dict(v) for k, v in columns.counts.items()},
            "frames": dict(columns.frames),
            "rejects": [[r.where, r.reason] for r in rejects.rows],
        }
        rejects.rows.clear()
        temporary.replace(part.path)
        _notes(part).write_text(json.dumps(notes), encoding="utf-8")
    except OSError as error:
        raise BuildError(f"{part.path}: cannot be written: {error}; free space and run again") from error


def _finish(
    out: Path,
    source: Source,
    stamp: str,
    parts: Sequence[_Part],
    opening: Rejects,
    excluded: list[str],
    max_rejects: float,
) -> None:
    """Add the parts' counts up, judge the quarantine, and put the dataset in its place."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    frames: Counter[str] = Counter()
    rejected = [[r.where, r.reason] for r in opening.rows]
    for part in parts:
        notes = json.loads(_notes(part).read_text(encoding="utf-8"))
        for name, values in notes["counts"].items():
            counts[name].update(values)
        frames.update(notes["frames"])
        rejected += notes["rejects"]
    folder = out / f"{source.dataset}.part"
    with (folder / "quarantine.jsonl").open("w", encoding="utf-8") as file:
        for where, reason in rejected:
            file.write(json.dumps({"where": where, "reason": reason}, ensure_ascii=False) + "\n")
    total = sum(frames.values())
    if len(rejected) > max_rejects * (total + len(rejected)):
        raise BuildError(
            f"{source.dataset}: {len(rejected)} rows cannot be used beside {total} labelled frames, more than"
            f" the share of {max_rejects:g} allowed (max_rejects); first: {rejected[0][0]}:"
            f" {rejected[0][1]}; all: {folder / 'quarantine.jsonl'}"
        )
    if not total and not excluded:
        raise LabelError(f"{source.dataset}: {source.root} gave no labelled frame of split {source.split!r}")
    for part in parts:
        _notes(part).unlink()
    (folder / "fingerprint").unlink()
    body = {
        "dataset": source.dataset,
        "layout": source.layout if source.format == "native" else "generic",
        "split": source.split,
        "pictures": str(source.picture_root.resolve()),
        "samples": sum(counts["dataset"].values()),
        "frames": dict(sorted(frames.items())),
        "counts": {k: dict(sorted(v.items())) for k, v in counts.items()},
        "rejected": len(rejected),
        "excluded": excluded,
        "fingerprint": stamp,
    }
    (folder / "source.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    target = out / source.dataset
    if target.is_dir():
        shutil.rmtree(target)
    folder.replace(target)


def _summary(out: Path, sources: Sequence[Source], isolation: Isolation) -> dict[str, Any]:
    """Statistics over all sources, in `statistics.json` and `README.md`."""
    bodies = [b for s in sources if (b := statistics_of(out, s.dataset)) is not None]
    totals: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    for body in bodies:
        for name, values in body["counts"].items():
            totals[name].update(values)
    found: dict[str, Any] = {k: dict(sorted(v.items())) for k, v in totals.items()}
    found["frames"] = {b["dataset"]: sum(b["frames"].values()) for b in bodies}
    found["rejected"] = {b["dataset"]: b["rejected"] for b in bodies if b["rejected"]}
    found["excluded"] = {b["dataset"]: b["excluded"] for b in bodies if b["excluded"]}
    found["isolation"] = isolation.model_dump(mode="json")
    (out / "statistics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "README.md").write_text(dataset_card(bodies, isolation), encoding="utf-8")
    return found
