"""What was generated once is never generated again: SQLite in WAL mode, keyed by model, prompt, image content
and sampling.
"""

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from surgr1.engines.types import Completion, Engine, Request, Sampling
from surgr1.ontology.errors import SurgR1Error


class LedgerError(SurgR1Error):
    """A ledger file that is not a readable database, or a picture that is not there."""


def _content(path: Path) -> str:
    try:
        stat = path.stat()
        return _hashed(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise LedgerError(f"picture {path} cannot be read ({error}); prepare the pictures again") from error


@lru_cache(maxsize=65536)
def _hashed(path: Path, changed: int, size: int) -> str:
    """Hash of a file's content, read again once the file has changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def request_key(model: str, request: Request, sampling: Sampling) -> str:
    """Hash of everything that decides the answer, except the sample index. Pictures count by content: they
    are on their final grid, so pixel settings are in it.
    """
    body = [
        model,
        request.system,
        request.prompt,
        [_content(p) for p in request.images],
        asdict(sampling) | {"n": 0, "first": 0},
    ]
    if request.prefix:
        # Only then: the keys of ledgers older than prefixes stay valid.
        body.append({"prefix": request.prefix})
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Ledger:
    """Completions by key and sample index. Failures are recorded as attempts and never returned."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing, a power cut at most the last answers; each commit is cheap.
            self._db.execute("PRAGMA synchronous=NORMAL")
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

    def known(self, key: str, n: int, first: int = 0) -> dict[int, Completion]:
        """Those of the `n` completions of a request from index `first` on that are there, by index."""
        rows = self._db.execute(
            "SELECT k, body FROM completions WHERE key = ? AND k >= ? AND k < ?", (key, first, first + n)
        ).fetchall()
        return {k: Completion(**json.loads(body)) for k, body in rows}

    def get(self, key: str, n: int, first: int = 0) -> list[Completion] | None:
        """All `n` completions of a request from index `first` on, or None."""
        found = self.known(key, n, first)
        return [found[k] for k in sorted(found)] if len(found) == n else None

    def put(self, key: str, completions: Sequence[Completion], first: int = 0) -> None:
        """Store the answers of one request in one transaction; errors go to the table of failures. An answer
        that is there already stays.
        """
        with self._db:
            for k, completion in enumerate(completions, start=first):
                if completion.finish_reason == "error":
                    self._db.execute(
                        "INSERT INTO failures (key, error) VALUES (?, ?)", (key, completion.error)
                    )
                else:
                    self._db.execute(
                        "INSERT OR IGNORE INTO completions VALUES (?, ?, ?)",
                        (key, k, json.dumps(asdict(completion))),
                    )

    def close(self) -> None:
        self._db.close()


class LedgerEngine:
    """Any engine with a ledger before it: known answers at once, the rest asked and written down as they
    arrive. An engine whose settings change its answers has them in `identity`, which then stands for its
    model in the keys.
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
        """As the engine's own, without asking twice: of a request's completions only those from the first to
        the last that lacks are asked for.
        """
        identity = getattr(self._engine, "identity", self.model)
        wanted = range(sampling.first, sampling.first + sampling.n)
        lacking: dict[tuple[int, int], list[Request]] = {}
        for request in requests:
            known = self._ledger.known(request_key(identity, request, sampling), sampling.n, sampling.first)
            missing = [k for k in wanted if k not in known]
            if missing:
                lacking.setdefault((missing[0], missing[-1]), []).append(request)
            else:
                yield request, [known[k] for k in wanted]
        for (first, last), group in lacking.items():
            part = replace(sampling, first=first, n=last - first + 1)
            answers = self._engine.generate(group, part)
            try:
                for request, completions in answers:
                    key = request_key(identity, request, sampling)
                    self._ledger.put(key, completions, first)
                    fresh = dict(enumerate(completions, start=first))
                    found = fresh | self._ledger.known(key, sampling.n, sampling.first)
                    yield request, [found[k] for k in wanted]
            finally:
                if isinstance(answers, Generator):
                    # What is outstanding ends here, not when the garbage collector finds it.
                    answers.close()
