"""An OpenAI-compatible chat endpoint: bounded concurrency, Retry-After, back-off, deadline. Blocked is not an
error, an error is not text, and what is wrong with every request stops the run.
"""

import asyncio
import json
import queue
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

import httpx

from surgr1.engines.guard import AsyncDoor, chat_messages, check_policy, host_of
from surgr1.engines.types import Completion, FinishReason, Request, Sampling
from surgr1.ontology.errors import SurgR1Error

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
"""Fields of the request that a card may tell the client to omit."""

_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_LARGEST = 16 * 2**20
_LONGEST_PAUSE = 60.0
_KEY = 8
"""Shorter ones are placeholders ("none") of servers that ask for no key."""

_FINISHED: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
}
_BLOCKED = re.compile(r"content_filter|refusal|safety|prohibited_content|blocklist|recitation|spii", re.I)
_BLOCK_CODES = re.compile(r"content_filter|content_policy|moderation|responsibleai", re.I)
_UNKNOWN_FIELD = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra", re.I
)
# What providers add to a model's name in an answer: a date or number of the snapshot.
_SNAPSHOT = re.compile(r"([-@](\d{3,8}|\d{4}-\d\d-\d\d|\d\d-\d\d(\d\d)?|preview|exp))+")


class EndpointError(SurgR1Error):
    """An endpoint at which no request of this run can succeed: its address, key, model or settings."""


class _Again(Exception):
    """An attempt that failed in a way that may pass. `after`: seconds the server asks to wait. `limited`: it
    only asks for patience, which the deadline bounds, not the number of attempts.
    """

    def __init__(self, message: str, *, after: float = 0.0, limited: bool = False) -> None:
        super().__init__(message)
        self.after, self.limited = after, limited


class _Failed(Exception):
    """This request's own error: asking again would not help."""


class _Answer(NamedTuple):
    text: str
    reason: FinishReason
    tokens_in: int
    tokens_out: int
    note: str = ""


class OpenAIEngine:
    """Sends each request as one chat completion per sample, `concurrency` at a time.

    `timeout_s` bounds one attempt, `deadline_s` one completion with all its attempts and pauses;
    `max_attempts` counts failures other than being asked for patience (429). Every field of `Sampling` is
    sent, lest a server fills it from the model's own configuration, except those in `omit`; `top_k` and
    `repetition_penalty` are not OpenAI's and its own service refuses them. `extra_body` joins every request
    (thinking on or off, for instance); `limit_field` is what the endpoint calls the limit of tokens.
    `answers_as` is the model's name in answers where an alias or deployment has another. `api_key` leaves
    this process in the request's header alone.

    Public data for a remote endpoint goes through the environment's proxies; all else goes straight to a near
    address (`guard`). Redirects are not followed. Raises EndpointError, PolicyError.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
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
    ) -> None:
        host_of(base_url)
        key = api_key.strip()
        if not (key.isascii() and key.isprintable()):
            raise EndpointError(f"{base_url}: the API key has characters that no key has; copy it again")
        if strange := set(omit) - set(SAMPLING_FIELDS):
            raise EndpointError(f"omit: unknown {sorted(strange)}; one of {', '.join(SAMPLING_FIELDS)}")
        if taken := {"model", "messages", "n", "stream", *SAMPLING_FIELDS, limit_field} & set(
            extra_body or ()
        ):
            raise EndpointError(f"extra_body: {sorted(taken)} are set by the client; leave them out")
        self._base_url, self.model, self._key = base_url, model, key or "none"
        url = httpx.URL(base_url)
        self._url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions")
        self._headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        self._concurrency, self._timeout, self._attempts = concurrency, timeout_s, max_attempts
        self._deadline, self._backoff = deadline_s, backoff_s
        self._limit_field, self._omit, self._extra = limit_field, tuple(omit), dict(extra_body or {})
        self._answers_as = answers_as

    @property
    def identity(self) -> str:
        """The model for a ledger: with the settings that change its answers, if any. Not with the address, so
        that a server may move; a model that changes behind its name needs a new name (or ledger).
        """
        settings = {"omit": sorted(self._omit), "extra_body": self._extra}
        return (
            f"{self.model} {json.dumps(settings, sort_keys=True)}" if any(settings.values()) else self.model
        )

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
        if begun := next((r for r in requests if r.prefix), None):
            raise EndpointError(
                f"{self._base_url}: request {begun.request_id} gives the beginning of the answer, which chat"
                " endpoints do not continue; use a local engine (transformers or vllm)"
            )
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
        async with AsyncDoor(self._base_url, connections=self._concurrency) as door:

            async def work() -> None:
                for at, k in jobs:
                    completion = await self._ask(door, requests[at], sampling, k)
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

    async def _ask(
        self,
        door: AsyncDoor,
        request: Request,
        sampling: Sampling,
        k: int,
    ) -> Completion:
        start = time.monotonic()
        attempt = failures = 0
        error = ""
        answer: _Answer | None = None
        try:
            async with asyncio.timeout(self._deadline):
                while answer is None and failures < self._attempts:
                    attempt += 1
                    try:
                        answer = await self._attempt(door, request, sampling, k)
                    except _Again as trouble:
                        error = str(trouble)
                        failures += not trouble.limited
                        pause = min(self._backoff * 2.0 ** min(attempt - 1, 16), _LONGEST_PAUSE)
                        pause = trouble.after + pause * random.uniform(0.5, 1.5)
                        if time.monotonic() - start + trouble.after > self._deadline:
                            error = f"the deadline of {self._deadline:g} s is too short: {error}"
                            break
                        if failures < self._attempts:
                            await asyncio.sleep(pause)
        except _Failed as failure:
            error = str(failure)
        except TimeoutError:
            error = f"deadline of {self._deadline:g} s passed{f'; last: {error}' if error else ''}"
        elapsed = time.monotonic() - start
        if answer is None:
            return Completion("", "error", 0, 0, elapsed, attempt, self.name, self.model, error)
        text, reason, tokens_in, tokens_out, note = answer
        return Completion(text, reason, tokens_in, tokens_out, elapsed, attempt, self.name, self.model, note)

    async def _attempt(
        self,
        door: AsyncDoor,
        request: Request,
        sampling: Sampling,
        k: int,
    ) -> _Answer:
        """One request over the wire. Raises _Again, _Failed, and what stops the run."""
        body = await asyncio.to_thread(self._body, request, sampling, k)
        client = await door.client(request.policy)
        try:
            async with asyncio.timeout(self._timeout):
                async with client.stream("POST", self._url, content=body, headers=self._headers) as response:
                    data = bytearray()
                    async for chunk in response.aiter_bytes():
                        data += chunk
                        if len(data) > _LARGEST:
                            raise _Again(f"an answer of more than {_LARGEST} bytes")
        except TimeoutError:
            raise _Again(f"Timeout: no whole answer within {self._timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _Again(f"{type(error).__name__}: {str(error)[:200]}") from error
        return self._read(response.status_code, response.headers, bytes(data))

    def _body(self, request: Request, sampling: Sampling, k: int) -> bytes:
        """What is sent. The guard judges every attempt: the address behind a name may have changed since."""
        messages = chat_messages(
            request.policy,
            self._base_url,
            prompt=request.prompt,
            pictures=request.images,
            system=request.system,
        )
        fields = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # vLLM, SGLang and llama.cpp agree on -1 for all tokens, not on 0.
            "top_k": sampling.top_k or -1,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed + sampling.first + k,
        }
        body = {
            "model": self.model,
            "messages": messages,
            self._limit_field: sampling.max_new_tokens,
            **{name: value for name, value in fields.items() if name not in self._omit},
            **self._extra,
        }
        return json.dumps(body).encode()

    def _read(self, status: int, headers: httpx.Headers, data: bytes) -> _Answer:
        """A response as an answer. Raises _Again, _Failed, EndpointError."""
        if len(self._key) >= _KEY:
            # A server that repeats our key must not bring it into logs.
            data = data.replace(self._key.encode(), b"[key]")
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        trouble = body.get("error") if isinstance(body, dict) else None
        if 200 <= status < 300 and isinstance(trouble, dict) and not body.get("choices"):
            # A gateway that reports its provider's failure under status 200.
            status = code if isinstance(code := trouble.get("code"), int) and 400 <= code < 600 else 500
        if 200 <= status < 300:
            if not isinstance(body, dict):
                raise _Again(f"HTTP {status} without a JSON object: {_shortened(data)}")
            return self._answer(body)
        return self._refused(status, headers, trouble if isinstance(trouble, dict) else {}, _shortened(data))

    def _answer(self, body: dict[str, Any]) -> _Answer:
        """A body as an answer. One without the promised fields counts as a failed attempt."""
        usage = body.get("usage")
        counts = [
            usage.get(k) if isinstance(usage, dict) else None for k in ("prompt_tokens", "completion_tokens")
        ]
        tokens_in, tokens_out = (c if type(c) is int and c >= 0 else 0 for c in counts)
        choices = body.get("choices")
        feedback = body.get("prompt_feedback") or body.get("promptFeedback")
        if choices == [] or (feedback and not choices):
            return _Answer(
                "", "blocked", tokens_in, tokens_out, _shortened(json.dumps(feedback or "no choice"))
            )
        if not (isinstance(choices, list) and isinstance(choices[0], dict)):
            raise _Again(f"an answer without choices: {_shortened(json.dumps(body))}")
        message, reason = choices[0].get("message"), choices[0].get("finish_reason")
        if not isinstance(message, dict):
            message = {}
        if isinstance(reason, str) and _BLOCKED.match(reason):
            return _Answer("", "blocked", tokens_in, tokens_out, reason)
        if isinstance(refusal := message.get("refusal"), str) and refusal:
            return _Answer("", "blocked", tokens_in, tokens_out, refusal[:200])
        text = _text(message.get("content"))
        thought = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(thought, str) and thought.strip():
            # A draft of the answer inside the thought is not the answer.
            text = f"<think>{re.sub(r'</?(think|answer)>', '', thought).strip()}</think>{text}"
        self._check_model(body.get("model"))
        finished = _FINISHED.get(reason) if isinstance(reason, str) else None
        if finished is None:
            raise _Again(f"an answer with finish_reason {reason!r}")
        if not text.strip() and finished == "stop":
            raise _Again("an answer without text")
        if any(type(c) is not int or c < 0 for c in counts):
            raise _Again(f"an answer without its numbers of tokens: usage {_shortened(json.dumps(usage))}")
        return _Answer(text, finished, tokens_in, tokens_out)

    def _check_model(self, name: Any) -> None:
        """Raise when another model than the one asked for has answered. A snapshot's date is no
        difference.
        """
        if name is None or name == "":
            return
        wanted, found = (
            str(n).lower().rsplit("/", 1)[-1].split(":")[0].removesuffix("-latest")
            for n in (self._answers_as or self.model, name)
        )
        rest = found.removeprefix(wanted)
        if found != wanted and (rest == found or not _SNAPSHOT.fullmatch(rest)):
            raise _Again(
                f"asked {self._answers_as or self.model}, answered by {name!r}; if they are one model, say so"
                " with answers_as"
            )

    def _refused(self, status: int, headers: httpx.Headers, trouble: dict[str, Any], raw: str) -> _Answer:
        message = str(trouble.get("message") or raw)[:300]
        codes = " ".join(str(trouble.get(k, "")) for k in ("code", "type"))
        found = f"{self._base_url}: HTTP {status}: {message}"
        metadata = trouble.get("metadata")
        if status in (400, 403, 422) and (
            _BLOCK_CODES.search(codes) or (isinstance(metadata, dict) and "flagged_input" in metadata)
        ):
            return _Answer("", "blocked", 0, 0, message)
        if status < 200 or 300 <= status < 400:
            target = headers.get("location", "another address")
            raise EndpointError(
                f"{found}; it redirects to {target}, which is not followed: give that address"
            )
        if status in (401, 403):
            raise EndpointError(f"{found}; check the API key and what it may use")
        if status == 402 or "insufficient_quota" in codes:
            raise EndpointError(f"{found}; the account has no credit left")
        if status == 404:
            raise EndpointError(
                f"{found}; check that the address is right (most end in /v1) and serves {self.model!r}"
            )
        if status in (400, 422) and (field := self._unknown_field(trouble, message)):
            remedy = "name it in omit, or drop it from extra_body"
            if field == self._limit_field:
                remedy = "set limit_field to max_completion_tokens"
            raise EndpointError(f"{found}; the endpoint does not take {field!r}: {remedy}")
        if status in _RETRIED:
            after = _retry_after(headers)
            asked = f" (asks to wait {after:g} s)" if after else ""
            raise _Again(f"HTTP {status}: {message}{asked}", after=after, limited=status == 429)
        raise _Failed(f"HTTP {status}: {message}")

    def _unknown_field(self, trouble: dict[str, Any], message: str) -> str | None:
        """A field of ours that the endpoint says it does not know."""
        if not _UNKNOWN_FIELD.search(f"{message} {trouble.get('code', '')}"):
            return None
        sent = {self._limit_field, *SAMPLING_FIELDS, *self._extra} - set(self._omit)
        if isinstance(param := trouble.get("param"), str) and param in sent:
            return param
        return next((f for f in sorted(sent) if re.search(rf"\b{re.escape(f)}\b", message)), None)


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _text(content: Any) -> str:
    """A message's text: a string, or a list of parts of which the texts count."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(p, dict) for p in content):
        content = "".join(p.get("text", "") for p in content if p.get("type") == "text")
    if not isinstance(content, str):
        raise _Again(f"an answer whose content is {type(content).__name__}, not text")
    return content


def _retry_after(headers: httpx.Headers) -> float:
    """Seconds the server asks to wait; a date is read by the server's own clock. 0 if it does not say."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, min(float(value), 1e6)) if value else 0.0
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (_in_utc(until) - _in_utc(now)).total_seconds())
    except ValueError:
        return 0.0


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _shortened(data: bytes | str) -> str:
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    return " ".join(text.split())[:200]
