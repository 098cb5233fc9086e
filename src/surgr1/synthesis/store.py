"""Where every trace that was written or rolled out ends up, with what the checks found: one SQLite file per
synthesis or iteration of refinement, for both pathways.

A row is one trace of one sample: `attempt` counts what the same pathway tried, rows are never changed. What a
killed process had not stored is asked again; a model's answers are in the request ledger, so that asking
again costs nothing.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.conversations import in_batches

Pathway = Literal["teacher", "self"]
"""A teacher's trace, from labels; or the policy's own, by rejection sampling (Table 3's two columns)."""
NAME = "traces.sqlite"


class StoreError(SurgR1Error):
    """A store that is not readable as one."""


@dataclass(frozen=True)
class Decision:
    """One trace and its verdict. `text` is what was written, verbatim ("" where nothing came); `reasons` say
    why it was rejected, `check: detail` or what the teacher's engine reported; `right` whether the answer is;
    `source` names who wrote it, `provenance` how (versions of prompt and knowledge, tokens).
    """

    sample_id: str
    dataset: str
    task: str
    pathway: Pathway
    attempt: int
    source: str
    text: str
    accepted: bool
    right: bool
    checks: Mapping[str, bool]
    reasons: tuple[str, ...]
    provenance: Mapping[str, str] = field(default_factory=dict)


_COLUMNS = (
    *("sample_id", "pathway", "attempt", "dataset", "task", "source", "text"),
    *("accepted", "answered_right", "checks", "reasons", "provenance"),
)
_AT_ONCE = 500
"""Samples looked up together; SQLite takes at most 999 parameters in older builds."""


class TraceStore:
    """`out`/traces.sqlite, opened or begun. Close it, or use it as a context. Raises StoreError."""

    def __init__(self, out: Path) -> None:
        self.path = out / NAME
        out.mkdir(parents=True, exist_ok=True)
        with self._named():
            self._db = sqlite3.connect(self.path)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing that was committed.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS traces (sample_id TEXT, pathway TEXT, attempt INTEGER,"
                " dataset TEXT, task TEXT, source TEXT, text TEXT, accepted INTEGER,"
                " answered_right INTEGER, checks TEXT, reasons TEXT, provenance TEXT,"
                " PRIMARY KEY (sample_id, pathway, attempt)) WITHOUT ROWID"
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the file in what SQLite says of it."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path}: not a store of traces ({error}); move it away to start a new one"
            ) from error

    def _rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        with self._named():
            yield from self._db.execute(query, values)

    def put(self, decisions: Iterable[Decision]) -> None:
        """Store decisions in one transaction. What is there already stays."""
        places = ", ".join("?" for _ in _COLUMNS)
        with self._named(), self._db:
            self._db.executemany(
                f"INSERT OR IGNORE INTO traces ({', '.join(_COLUMNS)}) VALUES ({places})",
                map(_row, decisions),
            )

    def of(self, sample_ids: Iterable[str], pathway: Pathway | None = None) -> dict[str, list[Decision]]:
        """What is stored of these samples (of one pathway or both), by sample: the policy's own first, then
        by attempt. Samples without a trace are left out.
        """
        found: dict[str, list[Decision]] = {}
        for part in in_batches(sample_ids, _AT_ONCE):
            marks = ", ".join("?" for _ in part)
            wanted = " AND pathway = ?" if pathway else ""
            rows = self._rows(
                f"SELECT {', '.join(_COLUMNS)} FROM traces WHERE sample_id IN ({marks}){wanted}"
                " ORDER BY pathway, attempt",
                (*part, pathway) if pathway else part,
            )
            for row in rows:
                decision = _decision(row)
                found.setdefault(decision.sample_id, []).append(decision)
        return found

    def states(self, sample_ids: Sequence[str], pathway: Pathway) -> dict[str, tuple[int, bool]]:
        """Sample -> (number of attempts, whether one was accepted), without reading texts."""
        found: dict[str, tuple[int, bool]] = {}
        for part in in_batches(sample_ids, _AT_ONCE):
            marks = ", ".join("?" for _ in part)
            rows = self._rows(
                "SELECT sample_id, MAX(attempt) + 1, MAX(accepted) FROM traces"
                f" WHERE sample_id IN ({marks}) AND pathway = ? GROUP BY sample_id",
                (*part, pathway),
            )
            found |= {sample: (attempts, bool(accepted)) for sample, attempts, accepted in rows}
        return found

    def every(self) -> Iterator[Decision]:
        """Every stored trace, by sample."""
        for row in self._rows(
            f"SELECT {', '.join(_COLUMNS)} FROM traces ORDER BY sample_id, pathway, attempt"
        ):
            yield _decision(row)

    def close(self) -> None:
        """End the connection."""
        self._db.close()

    def __enter__(self) -> "TraceStore":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _row(d: Decision) -> tuple[Any, ...]:
    return (
        *(d.sample_id, d.pathway, d.attempt, d.dataset, d.task, d.source, d.text),
        *(int(d.accepted), int(d.right), json.dumps(dict(d.checks))),
        *(json.dumps(d.reasons), json.dumps(dict(d.provenance))),
    )


def _decision(row: Sequence[Any]) -> Decision:
    raw = dict(zip(_COLUMNS, row, strict=True))
    return Decision(
        **{k: raw[k] for k in ("sample_id", "pathway", "attempt", "dataset", "task", "source", "text")},
        accepted=bool(raw["accepted"]),
        right=bool(raw["answered_right"]),
        checks=json.loads(raw["checks"]),
        reasons=tuple(json.loads(raw["reasons"])),
        provenance=json.loads(raw["provenance"]),
    )
