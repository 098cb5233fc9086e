"""`generate()` over an OpenAI-compatible Batch API: half the price, an answer within a day.

Requests become files of at most 50,000 lines and 200 MB (pictures are base64 in the lines), each file becomes
a batch, and what a batch has finished is collected when it ends, also when it expired or was cancelled. How
far each has got is written down before every step (`batch_store`), so that a run that is killed at any point
and started again buys nothing twice: a batch that may have been created is looked for before it is created
again.

A run that ends early leaves its batches with the provider; the same command collects them.
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from surgr1.engines.batch_api import BatchApi, Gone
from surgr1.engines.batch_run import NAME, BatchError, Run, Settings, opened
from surgr1.engines.batch_store import BatchStore
from surgr1.engines.budget import Account, Budget
from surgr1.engines.guard import check_policy
from surgr1.engines.ledger import Ledger
from surgr1.engines.types import Completion, Request, Sampling
from surgr1.engines.wire import Again, EndpointError, Failed, Wire
from surgr1.ontology.errors import Stopped

__all__ = ["BatchEngine", "BatchError"]

MAX_REQUESTS = 50_000
MAX_BYTES = 190_000_000
"""OpenAI's limits of a file: 50,000 requests and 200 MB (read as the smaller 200,000,000, with a margin)."""


class BatchEngine:
    """Sends requests as batches of files and waits for them.

    `poll_s` is the pause between two looks at a batch, growing while nothing changes. `settle_s`: how long
    after an unanswered request for a batch the provider's list is believed to lack it. `patience_s`: how
    long an endpoint may fail in a row; `attempts`: how often a refusal that may pass is asked again.
    `timeout_s` bounds each wait for bytes. `say` is told what happens to the batches.

    One process works on a ledger's batches at a time. The files lie beside the ledger (`<ledger>.batches/`,
    readable by their owner alone) until they are uploaded. Raises BatchError, EndpointError,
    PolicyError; Stopped after Ctrl-C.
    """

    name = NAME

    def __init__(
        self,
        wire: Wire,
        ledger: Ledger,
        *,
        budget: Budget = Budget(),  # noqa: B008
        poll_s: float = 30.0,
        max_bytes: int = MAX_BYTES,
        max_requests: int = MAX_REQUESTS,
        settle_s: float = 60.0,
        patience_s: float = 3600.0,
        attempts: int = 6,
        timeout_s: float = 120.0,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.model = wire.model
        self._settings = Settings(
            wire,
            ledger,
            ledger.path.with_name(f"{ledger.path.name}.batches"),
            budget,
            poll_s,
            max_bytes,
            max_requests,
            settle_s,
            patience_s,
            attempts,
            say,
        )
        self._wire, self._ledger, self._timeout = wire, ledger, timeout_s
        self._base_url = self._settings.base_url

    @property
    def identity(self) -> str:
        """The model for a ledger: the same as the live engine's, so that they share their answers."""
        return self._wire.identity

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield requests as their batches end. Nothing is written or sent when one of them may not go to this
        endpoint, or has a prefix. What failed is a completion with finish_reason "error", and is asked anew
        when it is asked for again.
        """
        for policy in {r.policy for r in requests}:
            check_policy(policy, self._base_url)
        if begun := next((r for r in requests if r.prefix), None):
            raise EndpointError(
                f"{self._base_url}: request {begun.request_id} gives the beginning of the answer, which"
                " batches do not continue; use a local engine (transformers or vllm)"
            )
        with self._alone() as (store, api):
            try:
                yield from Run(self._settings, store, api, requests, sampling).results()
            except KeyboardInterrupt:
                raise Stopped(self._farewell(store)) from None

    def cancel(self) -> list[str]:
        """Ask the provider to stop every batch of this ledger; `generate` then collects what they finished.
        Returns their ids.
        """
        with self._alone() as (store, api):
            mine = [b for b in store.open() if b.state == "created" and b.base_url == self._base_url]
            for batch in mine:
                try:
                    api.cancel(batch.policy, batch.batch_id)
                except (Again, Failed, Gone) as error:
                    raise BatchError(
                        f"{self._base_url}: batch {batch.batch_id} was not cancelled ({error}); try again"
                    ) from error
            return [b.batch_id for b in mine]

    def forget(self, batch: str) -> None:
        """Give up on a batch (its id, or our name where it has none) whose answers cannot be had: its
        requests will be bought again when they are asked for.
        """
        with self._alone() as (store, _):
            found = next((b for b in store.open() if batch in (b.batch_id, b.name)), None)
            if found is None:
                names = ", ".join(b.batch_id or b.name for b in store.open()) or "none"
                raise BatchError(f"{self._ledger.path}: no open batch {batch!r}; there are: {names}")
            account = Account(self._ledger, self._settings.budget, batch=True)
            for line in store.lines(found.name):
                # It may be paid for.
                account.spoilt(opened(line), f"batch {batch} was given up", None)
            store.move(found, "done")

    @contextmanager
    def _alone(self) -> Iterator[tuple[BatchStore, BatchApi]]:
        """Nobody else works on these batches in here. A killed process leaves no lock behind."""
        self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._settings.folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BatchError(
                    f"{self._ledger.path}: another process is at work on its batches; wait for it, or end it"
                ) from None
            store, api = BatchStore(self._ledger.path), BatchApi(self._wire, timeout_s=self._timeout)
            try:
                yield store, api
            finally:
                api.close()
                store.close()

    def _farewell(self, store: BatchStore) -> str:
        names = [b.batch_id for b in store.open() if b.state == "created" and b.base_url == self._base_url]
        if not names:
            return f"{self._base_url}: stopped; no batch is running; the same command begins them"
        return (
            f"{self._base_url}: stopped; {len(names)} batch(es) go on at the provider: {', '.join(names)}."
            f" The same command collects them. To end one: POST {self._base_url}/batches/ID/cancel, then the"
            " same command for what it has finished"
        )
