"""Near-duplicate pictures between the training and the evaluation videos of a built corpus: the second check
beside the registry of operations (`corpora.near_duplicates`).
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from surgr1.corpora.build import BuildError, corpus_parts, statistics_of
from surgr1.corpora.near_duplicates import NearDuplicates, near_duplicates, phash
from surgr1.corpora.processes import interrupts_blocked
from surgr1.ontology.errors import SurgR1Error

_CHUNK = 64


def corpus_duplicates(
    corpus: Path,
    *,
    every: int = 10,
    distance: int,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> NearDuplicates:
    """Compare every `every`-th labelled picture of each video, training against all others. Names are
    "dataset video image". Hashes are kept in `corpus`/hashes, dataset by dataset, so that a stopped run
    continues. Raises BuildError where nothing is built, ImageError.
    """
    names = sorted(p.parent.name for p in corpus.glob("*/source.json"))
    if not names:
        raise BuildError(f"{corpus}: no built corpus; make one with `surgr1 data build`")
    sides: dict[bool, list[tuple[str, int | None]]] = {True: [], False: []}
    for done, name in enumerate(names, start=1):
        for row in _hashes(corpus, name, every, workers):
            sides[row["role"] == "train"].append((f"{name} {row['video']} {row['image']}", row["hash"]))
        if progress:
            progress(done, len(names))
    return near_duplicates(sides[True], sides[False], distance)


def _hashes(corpus: Path, name: str, every: int, workers: int) -> list[dict[str, Any]]:
    """The hashed pictures of a dataset, from the file of an earlier run where the dataset is the same."""
    body = statistics_of(corpus, name)
    assert body is not None
    path = corpus / "hashes" / f"{name}.json"
    stamp = f"{body['fingerprint']}|{every}"
    with suppress(OSError, ValueError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            rows: list[dict[str, Any]] = kept["rows"]
            return rows
    root = Path(body["pictures"])
    rows = list(_frames(corpus, name, every))
    pictures = [root / r["image"] for r in rows]
    if len(rows) > _CHUNK:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            with interrupts_blocked():
                coming = pool.map(_hash, pictures, chunksize=_CHUNK)
            hashes = list(coming)
    else:
        hashes = [_hash(path) for path in pictures]
    for row, (value, problem) in zip(rows, hashes, strict=True):
        if problem:
            raise BuildError(problem)
        row["hash"] = value
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"stamp": stamp, "rows": rows}), encoding="utf-8")
    part.replace(path)
    return rows


def _hash(path: Path) -> tuple[int | None, str]:
    """(hash, "") or (None, what is wrong): errors of ours do not survive the way between processes whole."""
    try:
        return phash(path), ""
    except SurgR1Error as error:
        return None, str(error)


def _frames(corpus: Path, name: str, every: int) -> Iterator[dict[str, Any]]:
    """Every k-th labelled picture of each video, once."""
    last: tuple[str, str] | None = None
    counts: dict[str, int] = {}
    for part in corpus_parts(corpus, name):
        for batch in pq.ParquetFile(part).iter_batches(columns=["video", "image", "role"]):
            for row in batch.to_pylist():
                # A frame's questions follow each other.
                key = (row["video"], row["image"])
                if key == last:
                    continue
                last = key
                seen = counts[row["video"]] = counts.get(row["video"], -1) + 1
                if seen % every == 0:
                    yield row
