"""What has been asked of a Batch API, in the ledger's own file: which calls lie in which batch, and how far
each batch has got. Written before every step that costs something, so that a killed run knows what it may
have bought.
"""

import hashlib
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

State = Literal["planned", "uploading", "uploaded", "creating", "created", "done"]
"""`uploading` and `creating` are intents: the step was begun, and nobody knows yet whether it took place."""


class Line(NamedTuple):
    """Completion `k` of the request with this key (`ledger.request_key`), and the ledger's id of the call,
    which is the line's `custom_id` in the files; the tokens it may read and write at most.
    """

    id: str
    key: str
    k: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Batch:
    """One batch file. `name` is ours: the hash of its lines, and how many batches of the same lines there
    were before. `since`: when the state was entered, seconds since the epoch.
    """

    name: str
    base_url: str
    policy: str
    lines: int
    size: int
    state: State
    file_id: str
    batch_id: str
    since: float

    @property
    def filename(self) -> str:
        return f"surgr1-{self.name}.jsonl"


class BatchStore:
    """The tables `batches` and `batch_calls`; the calls of a finished batch are removed."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=60)
        # A power cut may not forget what was begun; there are few such rows.
        self._db.execute("PRAGMA synchronous=FULL")
        with self._db:
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS batches (name TEXT PRIMARY KEY, base_url TEXT, policy TEXT,"
                " lines INTEGER, size INTEGER, state TEXT, file_id TEXT, batch_id TEXT, since REAL)"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS batch_calls (id TEXT, key TEXT, k INTEGER, tokens_in INTEGER,"
                " tokens_out INTEGER, name TEXT, PRIMARY KEY (key, k)) WITHOUT ROWID"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS batch_calls_of ON batch_calls (name)")

    def name_of(self, lines: Sequence[Line]) -> str:
        """The name of a new batch of these lines."""
        digest = hashlib.sha256("\n".join(sorted(line.id for line in lines)).encode()).hexdigest()[:32]
        row = self._db.execute("SELECT COUNT(*) FROM batches WHERE name LIKE ?", (f"{digest}-%",)).fetchone()
        return f"{digest}-{row[0]}"

    def add(self, batch: Batch, lines: Sequence[Line]) -> None:
        """Write down a batch and its lines, none of which lies in an open one."""
        with self._db:
            self._db.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch.name,
                    batch.base_url,
                    batch.policy,
                    batch.lines,
                    batch.size,
                    batch.state,
                    batch.file_id,
                    batch.batch_id,
                    batch.since,
                ),
            )
            self._db.executemany(
                "INSERT INTO batch_calls VALUES (?, ?, ?, ?, ?, ?)", ((*line, batch.name) for line in lines)
            )

    def get(self, name: str) -> Batch:
        """The batch of this name, which exists."""
        return Batch(*self._db.execute("SELECT * FROM batches WHERE name = ?", (name,)).fetchone())

    def move(self, batch: Batch, state: State, *, file_id: str = "", batch_id: str = "") -> Batch:
        """Enter another state; ids that are not given stay."""
        with self._db:
            self._db.execute(
                "UPDATE batches SET state = ?, file_id = ?, batch_id = ?, since = ? WHERE name = ?",
                (state, file_id or batch.file_id, batch_id or batch.batch_id, time.time(), batch.name),
            )
            if state == "done":
                self._db.execute("DELETE FROM batch_calls WHERE name = ?", (batch.name,))
        return self.get(batch.name)

    def open(self) -> list[Batch]:
        """All that are not finished, the oldest first."""
        rows = self._db.execute("SELECT * FROM batches WHERE state != 'done' ORDER BY rowid").fetchall()
        return [Batch(*row) for row in rows]

    def of_request(self, key: str) -> dict[int, str]:
        """The open batch of each call of a request, by index."""
        return dict(self._db.execute("SELECT k, name FROM batch_calls WHERE key = ?", (key,)).fetchall())

    def lines(self, name: str) -> list[Line]:
        """The lines of an open batch."""
        rows = self._db.execute(
            "SELECT id, key, k, tokens_in, tokens_out FROM batch_calls WHERE name = ?", (name,)
        ).fetchall()
        return [Line(*row) for row in rows]

    def close(self) -> None:
        self._db.close()
