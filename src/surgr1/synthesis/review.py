"""What clinicians decide about traces: decisions in `reviews/<reviewer>.jsonl`, what they refuse, how far two
reviewers agree, and which traces are shown to whom.

A decision is one line, written and synced before the page says so. The last line of a reviewer on a sample
counts. Cohen's kappa: J. Cohen, Educational and Psychological Measurement 20 (1960) 37-46.
"""

import fcntl
import hashlib
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from surgr1.ontology.errors import SurgR1Error

Choice = Literal["accept", "reject"]
LONGEST_COMMENT = 4000
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_DRAWS = 4000
"""Drawn tables for an interval; its ends then move by under 0.01."""


class ReviewError(SurgR1Error):
    """A review file, a reviewer's name or a conversation file that a review cannot use."""


def reviewer_name(name: str) -> str:
    """The name, if it can name a file everywhere. Raises ReviewError."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise ReviewError(
            f"reviewer {name!r}: a name is 1 to 40 of a-z, 0-9, '.', '_' and '-', begins with a letter or"
            " digit and does not end with '.', since it names the file of the decisions"
        )
    return name


def fingerprint(completion: str) -> str:
    """What tells one trace of a sample from another: 16 hex digits of its text."""
    return hashlib.sha256(completion.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Review(BaseModel):
    """One reviewer's word on one trace. `trace` is the `fingerprint` of the text that was judged, `at` the
    time (ISO 8601, UTC).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: str
    reviewer: str
    verdict: Choice
    comment: str
    at: str
    trace: str = Field(pattern=r"^[0-9a-f]{16}$")

    @field_validator("reviewer")
    @classmethod
    def _named(cls, name: str) -> str:
        try:
            return reviewer_name(name)
        except ReviewError as error:
            raise ValueError(str(error)) from error

    @field_validator("comment")
    @classmethod
    def _written(cls, comment: str) -> str:
        # Half a character (JSON allows it) cannot be written; UnicodeEncodeError is a ValueError.
        comment.encode()
        return comment


def now() -> str:
    """The time of a decision."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_review(folder: Path, decision: Review) -> None:
    """Append a decision to the reviewer's file; it is on the disk when this returns. What a kill left of a
    line (never confirmed to anybody) is cut off first. Raises OSError with nothing written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{decision.reviewer}.jsonl"
    new = not path.exists()
    line = decision.model_dump_json().encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        # Two pages of one reviewer may write at once.
        fcntl.flock(file, fcntl.LOCK_EX)
        start = _mended(file, path)
        try:
            written = 0
            while written < len(line):
                written += os.write(file, line[written:])
            os.fsync(file)
        except OSError:
            os.ftruncate(file, start)
            raise
    finally:
        os.close(file)
    if new:
        _sync_folder(folder)


def _mended(file: int, path: Path) -> int:
    """The file's size after its last line was made whole: ended if it is a decision, else cut off."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    tail = path.read_bytes().rpartition(b"\n")[2]
    try:
        Review.model_validate_json(tail)
    except ValidationError:
        os.ftruncate(file, size - len(tail))
        return size - len(tail)
    os.write(file, b"\n")
    return size + 1


def _sync_folder(folder: Path) -> None:
    """A new file is only safe once its name is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_reviews(folder: Path) -> list[Review]:
    """The last word of every reviewer on every sample, by reviewer. A last line that a kill tore is left out.
    No folder: nobody has decided yet. Raises ReviewError naming file and line.
    """
    found: dict[tuple[str, str], Review] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for decision in _lines(path):
            found[(decision.reviewer, decision.sample_id)] = decision
    return list(found.values())


def _lines(path: Path) -> Iterable[Review]:
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ReviewError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate([*lines, last], 1):
        if not line.strip():
            continue
        try:
            decision = Review.model_validate_json(line)
        except ValidationError as error:
            if number > len(lines):
                return
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}"
            raise ReviewError(f"{path}:{number}: not a decision ({what}); mend or remove the line") from error
        if decision.reviewer != path.stem:
            raise ReviewError(
                f"{path}:{number}: a decision of {decision.reviewer!r} in the file of {path.stem!r}; move it"
                f" to {decision.reviewer}.jsonl"
            )
        yield decision


def refused(reviews: Iterable[Review]) -> dict[tuple[str, str], str]:
    """(sample_id, `fingerprint` of the trace) -> who rejected it and why. One rejection suffices; it is about
    that text alone.
    """
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for r in reviews:
        if r.verdict == "reject":
            comment = " ".join(r.comment.split())
            found[r.sample_id, r.trace].append(f"{r.reviewer}: {comment}" if comment else r.reviewer)
    return {key: "; ".join(said) for key, said in found.items()}


@dataclass(frozen=True)
class Kappa:
    """How far two reviewers agree on `n` traces that both judged. `both_accept` + `both_reject` +
    `first_only` + `second_only` (only the one accepts) = n. `kappa` lies in [-1, 1], `low` and `high` hold
    95 %; None where undefined, and `note` says why.
    """

    n: int
    both_accept: int
    both_reject: int
    first_only: int
    second_only: int
    observed: float | None
    kappa: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """Two reviewers; `groups` is the same for parts of what they judged ("dataset: cholec80")."""

    reviewers: tuple[str, str]
    overall: Kappa
    groups: Mapping[str, Kappa]


@dataclass(frozen=True)
class Agreement:
    """Every pair of reviewers, by name; `samples` is how many samples anybody judged, `shared` how many two
    or more did.
    """

    samples: int
    shared: int
    pairs: tuple[Pair, ...]


def agreement(decisions: Iterable[Review], groups: Mapping[str, Sequence[str]] | None = None) -> Agreement:
    """How far reviewers agree on the traces that they share; a sample whose text was written anew between
    the two counts for neither. `groups`: sample_id -> parts that it belongs to (`groups_of`).
    """
    by_reviewer: defaultdict[str, dict[tuple[str, str], bool]] = defaultdict(dict)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    for d in decisions:
        by_reviewer[d.reviewer][(d.sample_id, d.trace)] = d.verdict == "accept"
        seen[d.sample_id].add(d.reviewer)
    pairs = []
    for one, other in combinations(sorted(by_reviewer), 2):
        first, second = by_reviewer[one], by_reviewer[other]
        judged = {key[0]: (first[key], second[key]) for key in first if key in second}
        parts: defaultdict[str, list[tuple[bool, bool]]] = defaultdict(list)
        for sample_id, verdicts in judged.items():
            for part in (groups or {}).get(sample_id, ()):
                parts[part].append(verdicts)
        found = {part: cohen_kappa(parts[part]) for part in sorted(parts)}
        pairs.append(Pair((one, other), cohen_kappa(list(judged.values())), found))
    return Agreement(len(seen), sum(len(who) > 1 for who in seen.values()), tuple(pairs))


def cohen_kappa(verdicts: Sequence[tuple[bool, bool]]) -> Kappa:
    """Cohen's kappa of (first accepts, second accepts).

    The interval is that of tables drawn from the posterior of the observed one (Dirichlet, Jeffreys' prior of
    1/2 a cell), widened to hold the estimate: a bootstrap would call five agreements in five certain.
    """
    n = len(verdicts)
    both = sum(a and b for a, b in verdicts)
    neither = sum(not a and not b for a, b in verdicts)
    first = sum(a and not b for a, b in verdicts)
    second = n - both - neither - first
    counts = (n, both, neither, first, second)
    if n == 0:
        return Kappa(*counts, None, None, None, None, "no trace was judged by both")
    observed = (both + neither) / n
    kappa = float(_kappa(np.array([both, neither, first, second], dtype=float)))
    if math.isnan(kappa):
        said = "accepted" if both else "rejected"
        note = f"both {said} everything: chance alone would agree as often, so kappa is undefined"
        return Kappa(*counts, observed, None, None, None, note)
    cells = np.array([both, neither, first, second]) + 0.5
    drawn = _kappa(np.random.default_rng(0).dirichlet(cells, size=_DRAWS))
    low, high = (float(q) for q in np.quantile(drawn, (0.025, 0.975)))
    constant = 0 in (both + first, neither + second, both + second, neither + first)
    note = "one of the two gave one verdict only, so kappa is 0 whatever the other says" if constant else ""
    return Kappa(*counts, observed, kappa, min(low, kappa), max(high, kappa), note)


def _kappa(tables: Any) -> Any:
    """Kappa of tables [..., (both accept, both reject, first only, second only)]; NaN where chance alone
    agrees always.
    """
    shares = tables / tables.sum(axis=-1, keepdims=True)
    both, neither, first, second = np.moveaxis(shares, -1, 0)
    chance = (both + first) * (both + second) + (neither + second) * (neither + first)
    with np.errstate(invalid="ignore"):
        return np.where(chance < 1, (both + neither - chance) / np.where(chance < 1, 1 - chance, 1), np.nan)


_STRATA = ("dataset", "task", "source")


@dataclass(frozen=True)
class Queue:
    """What one reviewer is shown: `ids[k]` stands in row `rows[k]` of the Parquet file `path`. `shared` of
    them every reviewer is shown.
    """

    path: Path
    reviewer: str
    ids: tuple[str, ...]
    rows: tuple[int, ...]
    shared: int


def make_queue(
    path: Path,
    reviewer: str,
    *,
    reviewers: Sequence[str] = (),
    double: float = 0.1,
    limit: int | None = None,
    seed: int = 0,
) -> Queue:
    """What `reviewer` is shown of a file of conversations; the same for the same arguments.

    At most `limit` traces are drawn, in turn from every (dataset, task, source). The share `double` of them
    (rounded up), spread likewise, is shown to all of `reviewers`; each of the others to one of them, who
    keeps it when further reviewers join or leave (unless they take it over). A reviewer meets the shared ones
    evenly among the others. Raises ReviewError.
    """
    names = sorted({reviewer_name(r) for r in (reviewer, *reviewers)})
    if not 0 <= double <= 1:
        raise ReviewError(f"share of double review {double}: give a number from 0 to 1")
    if limit is not None and limit < 1:
        raise ReviewError(f"limit {limit}: a review needs at least one trace")
    drawn = _drawn(path, limit, seed)
    cut = math.ceil(double * len(drawn)) if len(names) > 1 else 0
    shared, others = drawn[:cut], drawn[cut:]
    mine = [
        (i, row) for i, row in others if reviewer == max(names, key=lambda name: _rank(f"{name}|{i}", seed))
    ]
    order = sorted(
        [
            ((k + 0.5) / len(part), at, *item)
            for at, part in enumerate((shared, mine))
            for k, item in enumerate(part)
        ]
    )
    return Queue(path, reviewer, tuple(o[2] for o in order), tuple(o[3] for o in order), cut)


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}|{name}".encode()).digest()[:8]


def _drawn(path: Path, limit: int | None, seed: int) -> list[tuple[str, int]]:
    """(sample_id, row) in drawn order: one of each stratum in turn."""
    strata: defaultdict[tuple[str, ...], list[tuple[bytes, str, int]]] = defaultdict(list)
    seen: set[str] = set()
    row = 0
    for batch in column_batches(path, ("sample_id", *_STRATA)):
        for sample_id, *stratum in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            if sample_id in seen:
                raise ReviewError(
                    f"{path}: sample {sample_id} stands in it twice; a decision names the sample alone, so"
                    " review a file with one trace a sample"
                )
            seen.add(sample_id)
            strata[tuple(stratum)].append((_rank(sample_id, seed), sample_id, row))
            row += 1
    if not row:
        raise ReviewError(f"{path}: holds no conversations, so there is nothing to review")
    groups = [sorted(strata[k]) for k in sorted(strata, key=lambda k: _rank("|".join(k), seed))]
    found: list[tuple[str, int]] = []
    for turn in range(max(map(len, groups))):
        groups = [g for g in groups if len(g) > turn]
        found += [(g[turn][1], g[turn][2]) for g in groups]
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


def column_batches(path: Path, columns: Sequence[str]) -> Iterable[Any]:
    """Record batches of some columns of a Parquet file of conversations. Raises ReviewError."""
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(columns) - set(file.schema_arrow.names))
            if missing:
                raise ReviewError(f"{path}: no file of conversations: it has no column {', '.join(missing)}")
            yield from (b.select(list(columns)) for b in file.iter_batches(columns=list(columns)))
    except (OSError, pa.ArrowException) as error:
        raise ReviewError(f"{path}: not a file of conversations: {error}") from error


def groups_of(path: Path, wanted: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The parts that samples belong to, for `agreement`: data set, task, and each check with how it ended.
    Only of the `wanted` sample ids. Raises ReviewError.
    """
    ids = set(wanted)
    found: dict[str, tuple[str, ...]] = {}
    for batch in column_batches(path, ("sample_id", "dataset", "task", "checks")):
        names = batch.column(0).to_pylist()
        for k in (k for k, name in enumerate(names) if name in ids):
            dataset, task, checks = (batch.column(c)[k].as_py() for c in (1, 2, 3))
            ended = [f"check: {n} {'passed' if ok else 'failed'}" for n, ok in sorted(checks or ())]
            found[names[k]] = (f"dataset: {dataset}", f"task: {task}", *ended)
    return found
