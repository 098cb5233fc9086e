"""One `generate` of the batch engine: files are written, uploaded and made batches one after the other, while
those that are with the provider are looked at; each step of each batch is short, so that none waits for
another.
"""

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgr1.engines.batch_api import BatchApi, Gone, counts_of, errors_of, file_of, status_of
from surgr1.engines.batch_results import Failure, Results, read_results
from surgr1.engines.batch_store import Batch, BatchStore, Line
from surgr1.engines.budget import Account, Budget, BudgetError, Opened
from surgr1.engines.ledger import Ledger, request_key
from surgr1.engines.types import Completion, FinishReason, Request, Sampling
from surgr1.engines.wire import Again, EndpointError, Failed, Usage, Wire
from surgr1.ontology.errors import SurgR1Error

NAME = "openai-batch"

_ENDED = ("completed", "expired", "cancelled", "failed")
_SLOWEST = 300.0
"""Longest pause between two looks at a batch, seconds."""

# A new file that the provider does not know yet (OpenAI) or has not read yet (Azure).
_NOT_YET = re.compile(r"cannot find|not found|no such file|pending|not (yet )?(ready|processed)", re.I)
_QUOTA = re.compile(r"token_limit_exceeded|enqueued", re.I)


class BatchError(SurgR1Error):
    """A batch that cannot be had: refused, failed as a whole, or gone from the provider."""


@dataclass(frozen=True)
class Settings:
    """What a `BatchEngine` was given (its docstring says what each means), and where its files lie."""

    wire: Wire
    ledger: Ledger
    folder: Path
    budget: Budget
    poll_s: float
    max_bytes: int
    max_requests: int
    settle_s: float
    patience_s: float
    attempts: int
    say: Callable[[str], None]

    @property
    def base_url(self) -> str:
        return self.wire.base_url.rstrip("/")


@dataclass
class _Live:
    """A batch this run waits for. `due`: when to look at it next; `well`: when a step last succeeded (both
    monotonic). `tries` counts the failures in a row, `held` the refusals for lack of quota, `short` the
    looks at results that were not whole.
    """

    batch: Batch
    due: float = 0.0
    well: float = field(default_factory=time.monotonic)
    pause: float = 0.0
    seen: str = ""
    tries: int = 0
    held: int = 0
    short: int = 0


class _Ahead:
    """The calls that are in no batch yet, with a look at the next one; false when there are none."""

    def __init__(self, calls: Iterator[tuple[str, int]]) -> None:
        self._calls = calls
        self.next = next(calls, None)

    def __bool__(self) -> bool:
        return self.next is not None

    def step(self) -> None:
        self.next = next(self._calls, None)


class Run:
    """One `generate`: the requests that wait, by key, and the batches they wait for."""

    def __init__(
        self,
        settings: Settings,
        store: BatchStore,
        api: BatchApi,
        requests: Sequence[Request],
        sampling: Sampling,
    ) -> None:
        self._settings, self._store, self._api = settings, store, api
        self._wire, self._ledger, self._folder = settings.wire, settings.ledger, settings.folder
        self._account = Account(settings.ledger, settings.budget, batch=True)
        self._requests, self._sampling = requests, sampling
        self._wanted = range(sampling.first, sampling.first + sampling.n)
        self._waiting: dict[str, list[int]] = {}
        self._errors: dict[tuple[str, int], Completion] = {}
        self._live: list[_Live] = []
        self._broke: BudgetError | None = None
        self._lost: list[BatchError] = []

    def results(self) -> Iterator[tuple[Request, list[Completion]]]:
        """What `generate` yields. Batches whose answers are gone are reported when all others are in."""
        for at, request in enumerate(self._requests):
            key = request_key(self._wire.identity, request, self._sampling)
            known = self._ledger.known(key, self._sampling.n, self._sampling.first)
            if len(known) == self._sampling.n:
                yield request, [known[k] for k in self._wanted]
            else:
                self._waiting.setdefault(key, []).append(at)
        self._tidy()
        self._resume()
        calls = _Ahead(self._unasked())
        while True:
            if self._may_write(calls) and (batch := self._written(calls)):
                self._live.append(_Live(batch))
            if not self._live and not self._may_write(calls):
                break
            for live in [x for x in self._live if x.due <= time.monotonic()]:
                yield from self._step(live)
            if self._live and not self._may_write(calls):
                time.sleep(max(0.0, min(x.due for x in self._live) - time.monotonic()))
        # Another process may have answered a call in the meantime.
        yield from self._deliver(list(self._waiting))
        if trouble := self._broke or next(iter(self._lost), None):
            raise trouble

    def _may_write(self, calls: _Ahead) -> bool:
        """One file at a time is on its way. None is written while the provider has no room for the last one
        or the budget none for more.
        """
        return bool(calls) and not self._broke and all(x.batch.state == "created" for x in self._live)

    def _tidy(self) -> None:
        """Drop batches that were never sent and whose file is gone, and files that belong to no batch."""
        kept = {"lock"}
        for batch in self._store.open():
            if batch.state not in ("planned", "uploading"):
                continue
            path = self._folder / batch.filename
            if path.is_file() and path.stat().st_size == batch.size:
                kept.add(batch.filename)
            else:
                self._release(batch, "its file was removed before it was sent")
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()

    def _resume(self) -> None:
        """Take up the open batches that our requests wait for."""
        names = {n for key in self._waiting for n in self._store.of_request(key).values()}
        for batch in self._store.open():
            if batch.name not in names:
                continue
            if batch.base_url == self._settings.base_url:
                self._live.append(_Live(batch))
            elif batch.state in ("creating", "created"):
                raise BatchError(
                    f"{self._settings.base_url}: {batch.lines} of these requests are in batch"
                    f" {batch.batch_id or batch.name} at {batch.base_url} already; collect them there first,"
                    " or give that batch up (BatchEngine.forget)"
                )
            else:
                self._release(batch, f"it was meant for {batch.base_url}")

    # Files

    def _unasked(self) -> Iterator[tuple[str, int]]:
        """Key and index of each completion that is neither there nor in a batch; policies apart."""
        for key in sorted(self._waiting, key=lambda key: self._request(key).policy):
            asked = self._store.of_request(key)
            known = self._ledger.known(key, self._sampling.n, self._sampling.first)
            for k in self._wanted:
                if not (k in asked or k in known or (key, k) in self._errors):
                    yield key, k

    def _request(self, key: str) -> Request:
        """Of equal requests, one that must stay near, if there is any."""
        same = [self._requests[at] for at in self._waiting[key]]
        return min(same, key=lambda r: r.policy in ("public", "licence_restricted"))

    def _written(self, calls: _Ahead) -> Batch | None:
        """The next file, on disk and written down; None if none of the calls can be asked (now)."""
        path = self._folder / "next.jsonl"
        lines: list[Line] = []
        size, policy = 0, ""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            while calls.next and len(lines) < self._settings.max_requests:
                key, k = calls.next
                request = self._request(key)
                if policy not in ("", request.policy):
                    break
                policy = request.policy
                body = self._wire.body(request, self._sampling, k - self._sampling.first)
                try:
                    (call,) = self._account.open(
                        self._wire.identity, [(request, self._sampling, k - self._sampling.first)]
                    )
                except BudgetError as error:
                    self._broke = error
                    break
                if isinstance(call, Completion):
                    calls.step()
                    continue
                asked = {
                    "custom_id": call.name,
                    "method": "POST",
                    "url": f"/v1{self._wire.path}",
                    "body": body,
                }
                data = json.dumps(asked).encode() + b"\n"
                if size + len(data) > self._settings.max_bytes:
                    if not lines:
                        raise BatchError(
                            f"request {request.request_id} alone makes a line of {len(data):,} bytes, and a"
                            f" batch's file holds {self._settings.max_bytes:,}: make its pictures smaller"
                        )
                    break
                file.write(data)
                size += len(data)
                lines.append(Line(call.name, key, k, *call.most[:2]))
                calls.step()
            file.flush()
            os.fsync(file.fileno())
        if not lines:
            path.unlink()
            return None
        batch = Batch(
            self._store.name_of(lines),
            self._settings.base_url,
            policy,
            len(lines),
            size,
            "planned",
            "",
            "",
            time.time(),
        )
        path.rename(self._folder / batch.filename)
        self._store.add(batch, lines)
        return batch

    # One step of one batch

    def _step(self, live: _Live) -> Iterator[tuple[Request, list[Completion]]]:
        """Bring a batch one step further; what may pass is waited for."""
        before = live.batch.state
        try:
            if live.batch.state in ("planned", "uploading"):
                self._upload(live)
            elif live.batch.state in ("uploaded", "creating"):
                self._create(live)
            else:
                yield from self._look(live)
        except Again as trouble:
            now = time.monotonic()
            live.tries += 1
            if live.tries >= self._settings.attempts and now - live.well > self._settings.patience_s:
                raise BatchError(
                    f"{self._called(live.batch)} ({live.batch.state}): no use for"
                    f" {now - live.well:.0f} s, last: {trouble}; the same command goes on with it"
                ) from trouble
            pause = min(self._settings.poll_s, 2.0) * 2.0 ** min(live.tries - 1, 16)
            live.due = now + trouble.after + min(pause, _SLOWEST) * random.uniform(0.5, 1.5)
        else:
            if live.batch.state == "created" or live.batch.state != before:
                live.tries, live.well = 0, time.monotonic()

    def _upload(self, live: _Live) -> None:
        batch = live.batch
        if batch.state == "uploading":
            # Begun before: it may have arrived.
            found = self._api.find_file(batch.policy, batch.filename, batch.size)
            if found:
                self._uploaded(live, found)
                return
        live.batch = batch = self._store.move(batch, "uploading")
        try:
            found = self._api.upload(batch.policy, self._folder / batch.filename, batch.filename)
        except (Failed, Gone) as refusal:
            raise self._given_up(live, f"its file of {batch.size:,} bytes was refused: {refusal}") from None
        self._uploaded(live, found)

    def _uploaded(self, live: _Live, file_id: str) -> None:
        live.batch = self._store.move(live.batch, "uploaded", file_id=file_id)
        # Pictures do not stay in a second place.
        (self._folder / live.batch.filename).unlink(missing_ok=True)

    def _create(self, live: _Live) -> None:
        batch = live.batch
        if batch.state == "creating":
            # Begun before: it may exist, also where a list does not show it yet.
            try:
                found = self._api.find_batch(batch.policy, batch.file_id, batch.name)
            except (Failed, Gone) as refusal:
                raise BatchError(
                    f"{self._called(batch)}: it may have been created, and the endpoint does not list its"
                    f" batches ({refusal}). Look for a batch of file {batch.file_id} there; only if there is"
                    f" none, or you want to buy it again: BatchEngine.forget({batch.name!r})"
                ) from None
            if found:
                self._created(live, found)
                return
            if 0 <= time.time() - batch.since < self._settings.settle_s:
                live.due = time.monotonic() + min(self._settings.poll_s, self._settings.settle_s / 4)
                return
        live.batch = batch = self._store.move(batch, "creating")
        try:
            found = self._api.create(batch.policy, batch.file_id, batch.name, attempt=batch.batch_id)
        except Again as trouble:
            # 429 is surely not created; after anything else the wait for the list begins now.
            live.batch = self._store.move(batch, "uploaded" if trouble.limited else "creating")
            if trouble.limited and _QUOTA.search(str(trouble)):
                self._hold(live, str(trouble))
                return
            raise
        except EndpointError:
            self._store.move(batch, "uploaded")
            raise
        except (Failed, Gone) as refusal:
            live.batch = batch = self._store.move(batch, "uploaded")
            if _QUOTA.search(str(refusal)):
                self._hold(live, str(refusal))
                return
            live.held += 1
            if _NOT_YET.search(str(refusal)) and live.held < self._settings.attempts:
                raise Again(str(refusal)) from None
            raise self._given_up(live, f"it was refused: {refusal}") from None
        self._created(live, found)

    def _created(self, live: _Live, found: dict[str, Any]) -> None:
        live.batch = self._store.move(live.batch, "created", batch_id=str(found["id"]))
        live.due, live.pause = time.monotonic() + self._settings.poll_s, self._settings.poll_s
        self._settings.say(f"{self._called(live.batch)}: created, {live.batch.lines:,} requests")

    def _look(self, live: _Live) -> Iterator[tuple[Request, list[Completion]]]:
        batch = live.batch
        try:
            found = self._api.batch(batch.policy, batch.batch_id)
        except (Failed, Gone) as refusal:
            self._lose(
                live,
                f"it cannot be found ({refusal}). Providers keep batches for about 30 days, and show them to"
                " the account (the API key) that made them alone",
            )
            return
        status, counts = status_of(found), counts_of(found)
        if status in _ENDED:
            self._settings.say(f"{self._called(batch)}: {status}, {counts.get('completed', 0):,} completed")
            if status == "failed" and not (file_of(found, "output") or counts.get("completed")):
                self._invalid(live, found)
            else:
                yield from self._collect(live, found, status)
            return
        seen = f"{status}, {counts.get('completed', 0):,} of {counts.get('total') or batch.lines:,}"
        if seen != live.seen:
            self._settings.say(f"{self._called(batch)}: {seen}")
            live.seen, live.pause = seen, self._settings.poll_s
        live.due = time.monotonic() + live.pause
        live.pause = min(live.pause * 1.3, max(_SLOWEST, self._settings.poll_s))

    def _invalid(self, live: _Live, found: dict[str, Any]) -> None:
        """A batch that failed its validation: nothing of it was run."""
        told = errors_of(found)
        reason = "; ".join(told[:3]) or "without a reason"
        if _QUOTA.search(reason):
            live.batch = self._store.move(live.batch, "uploaded")
            self._hold(live, reason)
            return
        more = f" (and {len(told) - 3} more)" if len(told) > 3 else ""
        raise self._given_up(live, f"it failed its validation: {reason}{more}")

    def _hold(self, live: _Live, reason: str) -> None:
        """Wait until the provider has room for more waiting tokens."""
        others = any(x.batch.state == "created" for x in self._live)
        live.held += not others
        if live.held >= self._settings.attempts:
            raise self._given_up(
                live,
                f"the provider has no room for its {live.batch.lines:,} requests though no other batch of"
                f" ours is under way: {reason}. Make batches smaller (max_requests), or wait for the"
                " account's other batches",
            )
        pause = max(self._settings.poll_s, 1e-3) * 2.0 ** min(live.held, 16)
        live.due = time.monotonic() + min(pause, 2 * _SLOWEST)
        self._settings.say(f"{self._called(live.batch)}: waits for room ({reason})")

    # Results

    def _collect(
        self, live: _Live, found: dict[str, Any], status: str
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Take what a batch that has ended gives: every answer goes to the ledger before one is yielded, and
        the batch is done when all are yielded.
        """
        batch = live.batch
        lines = {line.id: line for line in self._store.lines(batch.name)}
        got = Results()
        paths = []
        for which in ("output", "error"):
            if not (file_id := file_of(found, which)):
                continue
            path = self._folder / f"{batch.name}.{which}"
            paths.append(path)
            try:
                self._api.download(batch.policy, file_id, path)
            except (Failed, Gone) as refusal:
                if self._again(live):
                    raise Again(f"its {which} file: {refusal}") from None
                self._lose(live, f"it is {status}, but its {which} file {file_id} cannot be had ({refusal})")
                return
            for name, answer in read_results(path, self._wire, lines, got):
                usage = Usage(answer.tokens_in, answer.tokens_out, answer.cached)
                completion = self._completion(batch, answer.text, answer.reason, usage, answer.note)
                self._account.answered(opened(lines[name]), completion, usage)
        missing = lines.keys() - got.answered - got.failures.keys()
        completed = counts_of(found).get("completed", 0)
        if missing and not file_of(found, "output") and completed:
            if self._again(live):
                raise Again(f"it is {status} with {completed} answers and names no file of them")
            self._lose(live, f"it is {status} with {completed} answers, but names no file of them")
            return
        if ((missing and status == "completed") or got.broken) and self._again(live):
            # Cut short on its way, perhaps.
            raise Again(f"{len(missing)} lines are missing, {got.broken} cannot be read")
        for name in missing:
            if status == "completed" or got.broken:
                reason = (
                    f"it is {status}, but has no line for this request ({got.broken} lines cannot be read,"
                    f" {got.strange} are not of this batch)"
                )
                got.failures[name] = Failure(f"{self._called(batch)}: {reason}", paid=True)
            else:
                got.failures[name] = Failure(
                    f"{self._called(batch)}: it ended ({status}) before this request was run"
                )
        for name, failure in got.failures.items():
            line = lines[name]
            if failure.paid:
                self._account.spoilt(opened(line), failure.message, failure.usage)
            else:
                self._account.refused(opened(line), failure.message)
            usage = failure.usage or Usage()
            self._errors[line.key, line.k] = self._completion(batch, "", "error", usage, failure.message)
        yield from self._deliver(dict.fromkeys(line.key for line in lines.values()))
        self._finish(live, paths)
        if got.endpoint and not got.answered:
            # Not one of its requests can succeed: neither can the next batch's.
            raise got.endpoint

    def _again(self, live: _Live) -> bool:
        """Whether results that are not whole are to be fetched once more."""
        live.short += 1
        return live.short < self._settings.attempts

    def _completion(
        self, batch: Batch, text: str, reason: FinishReason, usage: Usage, note: str
    ) -> Completion:
        """`latency_s` runs from the batch's creation to its collection."""
        seconds = max(0.0, time.time() - batch.since)
        return Completion(text, reason, *usage[:2], seconds, 1, NAME, self._wire.model, note)

    def _deliver(self, keys: Iterable[str]) -> Iterator[tuple[Request, list[Completion]]]:
        """Those of the requests with these keys that are complete."""
        for key in keys:
            if key not in self._waiting:
                continue
            found = {k: e for k in self._wanted if (e := self._errors.get((key, k)))}
            found |= self._ledger.known(key, self._sampling.n, self._sampling.first)
            if len(found) == self._sampling.n:
                for at in self._waiting.pop(key):
                    yield self._requests[at], [found[k] for k in self._wanted]

    def _finish(self, live: _Live, paths: Iterable[Path]) -> None:
        """The batch is done. Its file of requests is removed from the provider, if that can be had."""
        batch = live.batch
        self._store.move(batch, "done")
        self._live.remove(live)
        # Money that was held for it may do for others.
        self._broke = None
        for path in paths:
            path.unlink()
        self._remove_input(batch)

    def _given_up(self, live: _Live, reason: str) -> BatchError:
        """Release a batch that has bought nothing."""
        error = BatchError(
            f"{self._called(live.batch)}: {reason}. Nothing of it was bought; mend that and run the same"
            " command again"
        )
        self._release(live.batch, str(error))
        self._remove_input(live.batch)
        return error

    def _release(self, batch: Batch, reason: str) -> None:
        for line in self._store.lines(batch.name):
            self._account.refused(opened(line), reason)
        self._store.move(batch, "done")
        (self._folder / batch.filename).unlink(missing_ok=True)

    def _remove_input(self, batch: Batch) -> None:
        if batch.file_id:
            with suppress(Again, Failed, Gone, EndpointError):
                self._api.delete(batch.policy, batch.file_id)

    def _lose(self, live: _Live, reason: str) -> None:
        """Answers that are paid for and cannot be had: nobody but the user decides to buy them again."""
        self._live.remove(live)
        self._lost.append(
            BatchError(
                f"{self._called(live.batch)}: {reason}. Its {live.batch.lines:,} requests may be paid for; to"
                f" buy them again give it up: BatchEngine.forget({live.batch.batch_id!r})"
            )
        )

    def _called(self, batch: Batch) -> str:
        return f"{self._settings.base_url}: batch {batch.batch_id or batch.name}"


def opened(line: Line) -> Opened:
    """The line's call, as its account takes it back."""
    return Opened(line.id, Usage(line.tokens_in, line.tokens_out), 0.0)
