"""What was generated once is never generated again, and what was asked is known before it is sent: SQLite in
WAL mode, keyed by model, prompt, image content and sampling.
"""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

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


@dataclass(frozen=True)
class Call:
    """One completion to be asked for: completion `k` of a request with this key, and what it may cost at
    most.
    """

    key: str
    k: int
    tokens: int
    money: float


@dataclass(frozen=True)
class Spending:
    """What a ledger's calls took: `money` and `tokens` (read and written) of the ended ones, and what those
    that are open (under way, or cut off by a kill) may take at most.
    """

    money: float = 0.0
    tokens: int = 0
    open_money: float = 0.0
    open_tokens: int = 0


_TABLES = """
CREATE TABLE IF NOT EXISTS completions (key TEXT, k INTEGER, body TEXT, PRIMARY KEY (key, k));
CREATE TABLE IF NOT EXISTS failures (key TEXT, error TEXT, at TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE IF NOT EXISTS calls (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, k INTEGER NOT NULL, turn INTEGER NOT NULL, state TEXT NOT NULL,
    most_tokens INTEGER NOT NULL, most_money REAL NOT NULL,
    doubtful INTEGER DEFAULT 0, tokens_in INTEGER, tokens_out INTEGER, cached INTEGER, money REAL, error TEXT,
    begun TEXT DEFAULT CURRENT_TIMESTAMP, ended TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spending (
    one INTEGER PRIMARY KEY CHECK (one = 1), money REAL, tokens INTEGER, open_money REAL, open_tokens INTEGER
);
INSERT OR IGNORE INTO spending VALUES (1, 0, 0, 0, 0);
"""

State = Literal["answered", "spoilt", "refused"]
"""How a call ends: with an answer; with one that is paid for and of no use; without anything to pay for."""


class Ledger:
    """Completions by key and sample index. Failures are recorded as attempts and never returned.

    `calls` is written ahead: a call is there, open, before a byte of it is sent, and ends in the transaction
    that stores its answer. Calls that a kill left open are asked again under their id; nothing else is. Safe
    from several threads and processes.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing, a power cut at most the last answers; each commit is cheap.
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            raise LedgerError(
                f"{path}: not a usable ledger ({error}); move it away to start a new one"
            ) from error

    def known(self, key: str, n: int, first: int = 0) -> dict[int, Completion]:
        """Those of the `n` completions of a request from index `first` on that are there, by index."""
        with self._lock:
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
        with self._transaction() as db:
            for k, completion in enumerate(completions, start=first):
                if completion.finish_reason == "error":
                    db.execute("INSERT INTO failures (key, error) VALUES (?, ?)", (key, completion.error))
                else:
                    _store(db, key, k, completion)

    def begin(
        self, calls: Sequence[Call], affordable: Callable[[Spending, Call], None]
    ) -> list[str | Completion]:
        """Open calls, all in one transaction; for each its id, or its completion where that is there
        already. `affordable` sees what is spent and open with the call counted in, and raises where that is
        too much: then none is opened.

        A call that is open (from before a kill) or was refused keeps its id; one whose answer was of no use
        gets a new one, lest a server that honours the id repeats that answer. What was open is doubtful from
        then on: nobody knows what became of it the first time.
        """
        found: list[str | Completion] = []
        with self._transaction() as db:
            for call in calls:
                row = db.execute(
                    "SELECT body FROM completions WHERE key = ? AND k = ?", (call.key, call.k)
                ).fetchone()
                if row:
                    found.append(Completion(**json.loads(row[0])))
                    continue
                turn, name, state = 0, _call_id(call, 0), None
                while state_of := db.execute("SELECT state FROM calls WHERE id = ?", (name,)).fetchone():
                    state = state_of[0]
                    if state != "spoilt":
                        break
                    turn += 1
                    name, state = _call_id(call, turn), None
                if state == "open":
                    db.execute("UPDATE calls SET doubtful = 1 WHERE id = ?", (name,))
                else:
                    db.execute(
                        "INSERT OR REPLACE INTO calls (id, key, k, turn, state, most_tokens, most_money)"
                        " VALUES (?, ?, ?, ?, 'open', ?, ?)",
                        (name, call.key, call.k, turn, call.tokens, call.money),
                    )
                    db.execute(
                        "UPDATE spending SET open_money = open_money + ?, open_tokens = open_tokens + ?",
                        (call.money, call.tokens),
                    )
                affordable(_spending(db), call)
                found.append(name)
        return found

    def end(
        self,
        name: str,
        state: State,
        *,
        money: float = 0.0,
        tokens: tuple[int, int, int] = (0, 0, 0),
        completion: Completion | None = None,
        error: str = "",
    ) -> None:
        """End an open call with its tokens (read, written, of the read ones cached) and what they cost, and
        store its completion with it. A doubtful call that is refused stays open: only an answer settles it.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT key, k, most_tokens, most_money FROM calls WHERE id = ? AND state = 'open'"
                " AND NOT (doubtful AND ? = 'refused')",
                (name, state),
            ).fetchone()
            if row is None:
                # Doubtful, or another process was faster with the same call: its answer stands.
                return
            key, k, most_tokens, most_money = row
            db.execute(
                "UPDATE calls SET state = ?, tokens_in = ?, tokens_out = ?, cached = ?, money = ?, error = ?,"
                " ended = CURRENT_TIMESTAMP WHERE id = ?",
                (state, *tokens, money, error, name),
            )
            db.execute(
                "UPDATE spending SET money = money + ?, tokens = tokens + ?, open_money = open_money - ?,"
                " open_tokens = open_tokens - ?",
                (money, tokens[0] + tokens[1], most_money, most_tokens),
            )
            if completion is not None:
                _store(db, key, k, completion)

    def spending(self) -> Spending:
        """What all calls of this ledger took so far."""
        with self._lock:
            return _spending(self._db)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db


def _call_id(call: Call, turn: int) -> str:
    """Short enough for a batch's custom_id and any header."""
    return f"{call.key[:40]}-{call.k}" + (f"-{turn}" if turn else "")


def _store(db: sqlite3.Connection, key: str, k: int, completion: Completion) -> None:
    db.execute("INSERT OR IGNORE INTO completions VALUES (?, ?, ?)", (key, k, json.dumps(asdict(completion))))


def _spending(db: sqlite3.Connection) -> Spending:
    row = db.execute("SELECT money, tokens, open_money, open_tokens FROM spending").fetchone()
    return Spending(*row)


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
                    fresh = dict(enumerate(completions, start=first))
                    known = self._ledger.known(key, sampling.n, sampling.first)
                    if fresh.keys() - known.keys():
                        # An engine with an account has stored its answers already.
                        self._ledger.put(key, completions, first)
                    found = fresh | known
                    yield request, [found[k] for k in wanted]
            finally:
                if isinstance(answers, Generator):
                    # What is outstanding ends here, not when the garbage collector finds it.
                    answers.close()
