"""Co-occurrence statistics of the training labels, with where they come from: what a teacher may be told of
how usual a tool, a deed or a transition is (paper, Methods, "Surgery-Aware CoT Synthesis"). They are counted
from a built corpus (`corpora.cooccurrence` has the rules), never typed.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from surgr1 import __version__
from surgr1.corpora.build import corpus_parts, statistics_of
from surgr1.corpora.cooccurrence import FrameLabels, Tables, count_labels, training_frames
from surgr1.ontology.errors import SurgR1Error


class StatisticsError(SurgR1Error):
    """Statistics that cannot be computed or read."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Part):
    """One dataset behind the counts: its fingerprint and split as in the corpus' source.json, and the
    training frames and videos of this procedure that were read.
    """

    dataset: str
    fingerprint: str
    split: str
    frames: int
    videos: int

    @property
    def simulated(self) -> bool:
        return self.dataset.startswith("sim-")


class Statistics(_Part):
    """Counts of one procedure's training labels. `simulated`: at least one dataset is; `version` is that of
    the package that counted.
    """

    procedure: str
    simulated: bool
    version: str
    provenance: tuple[Provenance, ...]
    tables: Tables

    @property
    def frames(self) -> int:
        """Labelled training frames."""
        return self.tables.frames

    @property
    def videos(self) -> int:
        """Operations (canonical videos)."""
        return self.tables.operations


class _File(_Part):
    version: str
    simulated: bool
    procedures: Mapping[str, Statistics]


def compute_statistics(
    corpus: Path, datasets: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> dict[str, Statistics]:
    """Statistics by procedure over the training frames of some datasets of a built corpus.

    Memory is that of one part file, however many there are. `progress` gets (part files read, part files).
    Raises StatisticsError where a dataset is not built or a part file is damaged, BuildError where a
    source.json is.
    """
    repeated = sorted({d for d in datasets if list(datasets).count(d) > 1})
    if repeated:
        raise StatisticsError(f"datasets names {', '.join(repeated)} more than once; name each dataset once")
    parts: list[tuple[str, Path]] = []
    sources: dict[str, tuple[str, str]] = {}
    for dataset in datasets:
        body = statistics_of(corpus, dataset)
        if body is None:
            raise StatisticsError(
                f"{corpus / dataset}: no source.json: this dataset is not built, or its build was"
                " interrupted; run `surgr1 data build` first"
            )
        sources[dataset] = str(body["fingerprint"]), str(body["split"])
        parts += [(dataset, path) for path in corpus_parts(corpus, dataset)]
    read: dict[tuple[str, str], int] = {}
    videos: dict[tuple[str, str], dict[str, Path]] = {}

    def frames() -> Iterator[FrameLabels]:
        for done, (dataset, path) in enumerate(parts, 1):
            for frame in _frames(path, dataset):
                key = (frame.procedure, dataset)
                read[key] = read.get(key, 0) + 1
                other = videos.setdefault(key, {}).setdefault(frame.video, path)
                if other != path:
                    raise StatisticsError(
                        f"{path}: video {frame.video} is in {other.name} too, where a built corpus keeps a"
                        " video in one file; build the corpus again"
                    )
                yield frame
            if progress:
                progress(done, len(parts))

    found = {}
    for procedure, tables in count_labels(frames()).items():
        provenance = tuple(
            Provenance(
                dataset=dataset,
                fingerprint=sources[dataset][0],
                split=sources[dataset][1],
                frames=read[procedure, dataset],
                videos=len(videos[procedure, dataset]),
            )
            for dataset in datasets
            if (procedure, dataset) in read
        )
        found[procedure] = Statistics(
            procedure=procedure,
            simulated=any(p.simulated for p in provenance),
            version=__version__,
            provenance=provenance,
            tables=tables,
        )
    return found


def _frames(path: Path, dataset: str) -> Iterator[FrameLabels]:
    try:
        yield from training_frames(path, dataset)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StatisticsError(
            f"{path}: not a part of a built corpus ({error}); delete {path.parent} and build it again"
        ) from error


def write_statistics(path: Path, found: Mapping[str, Statistics]) -> None:
    """Write as JSON, atomically: a reader sees the old file or the new one. Raises StatisticsError."""
    body = _File(
        version=__version__,
        simulated=any(s.simulated for s in found.values()),
        procedures=dict(sorted(found.items())),
    )
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(body.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise StatisticsError(f"{path}: cannot be written: {error}") from error


def read_statistics(path: Path) -> dict[str, Statistics]:
    """What `write_statistics` wrote, by procedure. Raises StatisticsError naming the file."""
    try:
        return dict(_File.model_validate_json(path.read_bytes()).procedures)
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise StatisticsError(
            f"{path}: no co-occurrence statistics ({reason}); compute them again from the corpus"
        ) from error
