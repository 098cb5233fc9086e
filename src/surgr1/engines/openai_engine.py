"""An OpenAI-compatible endpoint: bounded concurrency, Retry-After, back-off, deadline, rate limits and a
write-ahead account of calls. Blocked is not an error, an error is not text, and what is wrong with every
request stops the run.
"""

import asyncio
import json
import queue
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import httpx

from surgr1.engines.budget import Account, BudgetError, Opened, most_usage
from surgr1.engines.guard import AsyncDoor, check_policy
from surgr1.engines.pace import Pace
from surgr1.engines.types import Completion, Request, Sampling
from surgr1.engines.wire import SAMPLING_FIELDS, Again, Answer, Api, EndpointError, Failed, Usage, Wire
from surgr1.ontology.errors import SurgR1Error

__all__ = ["SAMPLING_FIELDS", "EndpointError", "OpenAIEngine"]

_LARGEST = 16 * 2**20
_LONGEST_PAUSE = 60.0


class OpenAIEngine:
    """Sends each request as one call per sample, `concurrency` at a time.

    `timeout_s` bounds one attempt, `deadline_s` one completion with all its attempts and pauses (not the
    time for which `pace` holds it back); `max_attempts` counts failures other than being asked for patience
    (429). What is sent and how answers are read is `wire.Wire`'s; the settings are explained there.

    `pace` keeps rate limits, and lets everybody wait when one is told to. With an `account`, each call is in
    its ledger before it is sent, with an `Idempotency-Key` that stays the same over attempts and restarts,
    and ends there with its answer and cost; a call that does not fit its budget raises BudgetError after
    what is under way has ended.

    Public data for a remote endpoint goes through the environment's proxies; all else goes straight to a near
    address (`guard`). Redirects are not followed. Raises EndpointError, PolicyError, BudgetError.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api: Api = "chat",
        api_key: str = "none",
        concurrency: int = 8,
        timeout_s: float = 180,
        max_attempts: int = 5,
        deadline_s: float = 600,
        backoff_s: float = 0.5,
        limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        omit: Sequence[str] = (),
        extra_body: Mapping[str, Any] | None = None,
        answers_as: str = "",
        revision: str = "",
        pace: Pace | None = None,
        account: Account | None = None,
    ) -> None:
        self._wire = Wire(
            base_url,
            model,
            api,
            api_key,
            limit_field,
            tuple(omit),
            dict(extra_body or {}),
            answers_as,
            revision,
        )
        self._base_url, self.model = base_url, model
        url = httpx.URL(base_url)
        self._url = url.copy_with(path=url.path.rstrip("/") + self._wire.path)
        self._concurrency, self._timeout, self._attempts = concurrency, timeout_s, max_attempts
        self._deadline, self._backoff = deadline_s, backoff_s
        self._pace, self._account = pace, account

    @property
    def identity(self) -> str:
        """The model for a ledger (`Wire.identity`)."""
        return self._wire.identity

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield requests as they finish. Nothing is sent when one of them may not go to this endpoint, or
        has a prefix.

        Closing the generator ends what is outstanding. An interrupt (Ctrl-C) while it waits is raised after
        everything that has arrived was yielded.
        """
        for policy in {r.policy for r in requests}:
            check_policy(policy, self._base_url)
        for request in requests:
            self._wire.check(request)
        done: queue.SimpleQueue[tuple[Request, list[Completion]] | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        work = asyncio.run_coroutine_threadsafe(self._all(requests, sampling, done), loop)
        work.add_done_callback(lambda _: done.put(None))
        try:
            while (item := done.get()) is not None:
                yield item
            work.result()
        except KeyboardInterrupt:
            while not done.empty() and (item := done.get()) is not None:
                yield item
            raise
        finally:
            asyncio.run_coroutine_threadsafe(_end_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _all(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: "queue.SimpleQueue[tuple[Request, list[Completion]] | None]",
    ) -> None:
        """Workers that take one completion after the other: no more request bodies exist than workers."""
        jobs = ((at, k) for at in range(len(requests)) for k in range(sampling.n))
        found: dict[int, dict[int, Completion]] = {}
        spent: list[BudgetError] = []
        under_way, ends, ended = 0, 0, asyncio.Event()

        async def within_budget(door: AsyncDoor, at: int, k: int) -> Completion | None:
            """A call that does not fit waits for the others, which may take less than they hold. None when
            there is nobody left to wait for.
            """
            nonlocal under_way, ends
            while not spent:
                under_way, before = under_way + 1, ends
                try:
                    completion = await self._ask(door, requests[at], sampling, k)
                except BudgetError as error:
                    under_way -= 1
                    if ends != before:
                        # One has ended since: it may fit now.
                        continue
                    if under_way:
                        ended.clear()
                        await ended.wait()
                    else:
                        spent.append(error)
                        ended.set()
                else:
                    under_way, ends = under_way - 1, ends + 1
                    ended.set()
                    return completion
            return None

        async def work() -> None:
            # A pool of one connection for each worker: httpcore looks through a whole pool several times a
            # request, and asks the system about each idle connection.
            async with AsyncDoor(self._base_url, connections=1) as door:
                for at, k in jobs:
                    completion = await within_budget(door, at, k)
                    if completion is None:
                        break
                    answers = found.setdefault(at, {})
                    answers[k] = completion
                    if len(answers) == sampling.n:
                        done.put((requests[at], [answers[i] for i in range(sampling.n)]))
                        del found[at]

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(work())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        if spent:
            raise spent[0]

    async def _ask(self, door: AsyncDoor, request: Request, sampling: Sampling, k: int) -> Completion:
        """One completion with all its attempts. What it raises stops the run."""
        turn = _Turn(self._account)
        start = time.monotonic()
        attempt = failures = 0
        waited, asking, error = 0.0, False, ""
        answer: Answer | None = None
        try:
            async with asyncio.timeout(self._deadline) as deadline:
                while answer is None and failures < self._attempts:
                    if self._pace:
                        waited += await self._admitted(self._pace, request, sampling, deadline)
                    attempt += 1
                    asking = True
                    try:
                        answer = await self._attempt(door, request, sampling, k, turn)
                    except Again as trouble:
                        asking, error = False, str(trouble)
                        turn.failed(trouble)
                        failures += not trouble.limited
                        pause = min(self._backoff * 2.0 ** min(attempt - 1, 16), _LONGEST_PAUSE)
                        pause = trouble.after + pause * random.uniform(0.5, 1.5)
                        if time.monotonic() - start - waited + trouble.after > self._deadline:
                            error = f"the deadline of {self._deadline:g} s is too short: {error}"
                            break
                        if self._pace:
                            self._pace.hold(trouble.after)
                        if failures < self._attempts:
                            await asyncio.sleep(pause)
        except Failed as failure:
            error = str(failure)
        except TimeoutError:
            turn.unknown = turn.unknown or asking
            error = f"deadline of {self._deadline:g} s passed{f'; last: {error}' if error else ''}"
        except _Known as known:
            return known.completion
        except SurgR1Error as stop:
            turn.given_up(str(stop))
            raise
        elapsed = time.monotonic() - start - waited
        if answer is None:
            turn.given_up(error)
            return Completion("", "error", 0, 0, elapsed, attempt, self.name, self.model, error)
        text, reason, tokens_in, tokens_out, note, cached = answer
        completion = Completion(
            text, reason, tokens_in, tokens_out, elapsed, attempt, self.name, self.model, note
        )
        turn.answered(completion, Usage(tokens_in, tokens_out, cached))
        return completion

    async def _admitted(
        self, pace: Pace, request: Request, sampling: Sampling, deadline: asyncio.Timeout
    ) -> float:
        """Wait until the rate allows this request; the deadline moves by what was waited, in seconds."""
        tokens = 0
        if pace.tokens_per_minute:
            price = self._account.price if self._account else None
            most = await asyncio.to_thread(most_usage, request, sampling, price)
            tokens = most.tokens_in + most.tokens_out
        until = deadline.when()
        deadline.reschedule(None)
        waited = await pace.admit(tokens)
        if until is not None:
            deadline.reschedule(until + waited)
        return waited

    async def _attempt(
        self, door: AsyncDoor, request: Request, sampling: Sampling, k: int, turn: "_Turn"
    ) -> Answer:
        """One request over the wire. Raises Again, Failed, _Known, and what stops the run."""

        def prepare() -> tuple[bytes, dict[str, str]]:
            # Opened last: what cannot be sent (a lost picture, a policy) is no call.
            body = json.dumps(self._wire.body(request, sampling, k)).encode()
            return body, self._wire.headers | turn.opened(self.identity, request, sampling, k)

        client, (body, headers) = await door.prepared(request.policy, prepare)
        try:
            async with asyncio.timeout(self._timeout):
                async with client.stream("POST", self._url, content=body, headers=headers) as response:
                    data = bytearray()
                    async for chunk in response.aiter_bytes():
                        data += chunk
                        if len(data) > _LARGEST:
                            raise Again(f"an answer of more than {_LARGEST} bytes", silent=True)
        except TimeoutError:
            raise Again(f"Timeout: no whole answer within {self._timeout:g} s", silent=True) from None
        except httpx.HTTPError as error:
            raise Again(f"{type(error).__name__}: {str(error)[:200]}", silent=True) from error
        return self._wire.read(response.status_code, response.headers, bytes(data))


class _Known(Exception):
    """The completion that was to be asked for is in the ledger: another run was faster, or it stands between
    others that lack.
    """

    def __init__(self, completion: Completion) -> None:
        super().__init__()
        self.completion = completion


class _Turn:
    """One completion's call in the account, if there is one: the same over its attempts, until an answer
    spoils it. `unknown`: an attempt ended in a way that leaves open whether the server did the work; then
    the call stays open when it is given up, and keeps what it may have cost.
    """

    def __init__(self, account: Account | None) -> None:
        self._account, self.unknown = account, False
        self._call: Opened | None = None

    def opened(self, identity: str, request: Request, sampling: Sampling, k: int) -> dict[str, str]:
        """The call's header; it is opened first where it is not. Raises BudgetError, _Known."""
        if self._account is None:
            return {}
        if self._call is None:
            (found,) = self._account.open(identity, [(request, sampling, k)])
            if isinstance(found, Completion):
                raise _Known(found)
            self._call = found
        return {"idempotency-key": self._call.name}

    def failed(self, trouble: Again) -> None:
        """An attempt failed."""
        if trouble.answered and self._account and self._call:
            self._account.spoilt(self._call, str(trouble), trouble.usage)
            # Asked again, it is another call.
            self._call, self.unknown = None, False
        self.unknown = self.unknown or trouble.silent

    def given_up(self, error: str) -> None:
        if self._account and self._call and not self.unknown:
            self._account.refused(self._call, error)

    def answered(self, completion: Completion, usage: Usage) -> None:
        if self._account and self._call:
            self._account.answered(self._call, completion, usage)


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
