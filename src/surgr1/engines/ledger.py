"""What was generated once is never generated again: SQLite in WAL mode, keyed by model, prompt, image content
and sampling.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from surgr1.engines.types import Completion, Engine, Request, Sampling
from surgr1.ontology.errors import SurgR1Error


class LedgerError(SurgR1Error):
    """A ledger file that is not a readable database."""


@lru_cache(maxsize=65536)
def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def request_key(model: str, request: Request, sampling: Sampling) -> str:
    """Hash of everything that decides the answer, except the sample index."""
    body = [
        model,
        request.system,
        request.prompt,
        [_content(p) for p in request.images],
        asdict(sampling) | {"n": 0, "first": 0},
    ]
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Ledger:
    """Completions by key and sample index. Failures are recorded as attempts and never returned."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS completions (key TEXT, k INTEGER, body TEXT, PRIMARY KEY"
                " (key, k))"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS failures (key TEXT, error TEXT, at TEXT DEFAULT"
                " CURRENT_TIMESTAMP)"
            )
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path}: not a usable ledger ({error}); move it away to start a new one"
            ) from error

    def get(self, key: str, n: int, first: int = 0) -> list[Completion] | None:
        """All `n` completions of a request from index `first` on, or None."""
        rows = self._db.execute(
            "SELECT body FROM completions WHERE key = ? AND k >= ? AND k < ? ORDER BY k",
            (key, first, first + n),
        ).fetchall()
        return [Completion(**json.loads(b)) for (b,) in rows] if len(rows) == n else None

    def put(self, key: str, completions: Sequence[Completion], first: int = 0) -> None:
        """Store the answers of one request in one transaction; errors go to the table of failures."""
        with self._db:
            for k, completion in enumerate(completions, start=first):
                if completion.finish_reason == "error":
                    self._db.execute(
                        "INSERT INTO failures (key, error) VALUES (?, ?)", (key, completion.error)
                    )
                else:
                    self._db.execute(
                        "INSERT OR REPLACE INTO completions VALUES (?, ?, ?)",
                        (key, k, json.dumps(asdict(completion))),
                    )

    def close(self) -> None:
        self._db.close()


class LedgerEngine:
    """Any engine with a ledger before it: known answers at once, the rest asked and written down as they
    arrive.
    """

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self._engine, self._ledger = engine, ledger

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def model(self) -> str:
        return self._engine.model

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """As the engine's own, without asking twice."""
        unknown = []
        for request in requests:
            known = self._ledger.get(request_key(self.model, request, sampling), sampling.n, sampling.first)
            if known is None:
                unknown.append(request)
            else:
                yield request, known
        for request, completions in self._engine.generate(unknown, sampling) if unknown else ():
            self._ledger.put(request_key(self.model, request, sampling), completions, sampling.first)
            yield request, completions
