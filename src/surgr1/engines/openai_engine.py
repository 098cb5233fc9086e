"""An OpenAI-compatible chat endpoint: bounded concurrency, Retry-After, back-off, deadline; blocked is not an
error, an error is not text.
"""

import asyncio
import base64
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from surgr1.engines.guard import check_policy
from surgr1.engines.types import Completion, FinishReason, Request, Sampling
from surgr1.ontology.errors import SurgR1Error

_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)


class OpenAIEngine:
    """Sends each request as one chat completion per sample. `deadline_s` bounds one request with all its
    attempts.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "none",
        concurrency: int = 8,
        timeout_s: float = 60,
        max_attempts: int = 5,
        deadline_s: float = 300,
        backoff_s: float = 0.5,
    ) -> None:
        self._base_url, self.model, self._api_key = base_url, model, api_key
        self._concurrency, self._timeout, self._attempts = concurrency, timeout_s, max_attempts
        self._deadline, self._backoff = deadline_s, backoff_s

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield requests as they finish. Raises PolicyError before anything is sent when one of them may not
        go to this endpoint.
        """
        for request in requests:
            check_policy(request.policy, self._base_url)
        done: queue.Queue[tuple[Request, list[Completion]] | BaseException | None] = queue.Queue()

        def work() -> None:
            try:
                asyncio.run(self._all(requests, sampling, done))
            except (SurgR1Error, OSError) as error:
                done.put(error)
            finally:
                done.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while (item := done.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        thread.join()

    async def _all(self, requests: Sequence[Request], sampling: Sampling, done: "queue.Queue[Any]") -> None:
        from openai import AsyncOpenAI

        gate = asyncio.Semaphore(self._concurrency)
        async with AsyncOpenAI(
            base_url=self._base_url, api_key=self._api_key, max_retries=0, timeout=self._timeout
        ) as client:

            async def one(request: Request) -> None:
                async with gate:
                    answers = [await self._ask(client, request, sampling, k) for k in range(sampling.n)]
                done.put((request, answers))

            async with asyncio.TaskGroup() as group:
                for request in requests:
                    group.create_task(one(request))

    def _body(self, request: Request) -> list[dict[str, Any]]:
        """Serialise text and images. The guard is asked again here: the address behind a name may have
        changed since.
        """
        check_policy(request.policy, self._base_url)
        content: list[dict[str, Any]] = []
        for path in request.images:
            data = base64.b64encode(path.read_bytes()).decode()
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        content.append({"type": "text", "text": request.prompt})
        system = [{"role": "system", "content": request.system}] if request.system else []
        return [*system, {"role": "user", "content": content}]

    async def _ask(self, client: Any, request: Request, sampling: Sampling, k: int) -> Completion:
        import openai

        start = time.monotonic()
        error = ""
        attempt = 0
        while attempt < self._attempts and time.monotonic() - start < self._deadline:
            attempt += 1
            wait = self._backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            try:
                answer = await client.chat.completions.create(
                    model=self.model,
                    messages=self._body(request),
                    max_tokens=sampling.max_new_tokens,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=sampling.seed + sampling.first + k,
                )
                return self._read(answer, start, attempt)
            except openai.APIStatusError as failure:
                error = f"HTTP {failure.status_code}: {str(failure)[:200]}"
                if failure.status_code not in _RETRIED:
                    break
                after = failure.response.headers.get("retry-after", "")
                if after.replace(".", "", 1).isdigit():
                    wait = max(wait, float(after))
            except (openai.APIError, ValueError, TypeError, AttributeError) as failure:
                # Time-outs, broken connections and bodies that are not what the protocol promises.
                error = f"{type(failure).__name__}: {str(failure)[:200]}"
            await asyncio.sleep(min(wait, max(0.0, self._deadline - (time.monotonic() - start))))
        return Completion(
            "",
            "error",
            0,
            0,
            time.monotonic() - start,
            attempt,
            self.name,
            self.model,
            error or "deadline passed",
        )

    def _read(self, answer: Any, start: float, attempt: int) -> Completion:
        """A response as a completion. Raises on a body without the promised fields, which counts as a failed
        attempt.
        """
        latency = time.monotonic() - start
        usage = answer.usage
        tokens_in, tokens_out = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        if not isinstance(answer.choices, list):
            raise ValueError(f"response without choices: {str(answer)[:120]}")
        if not answer.choices or answer.choices[0].finish_reason == "content_filter":
            return Completion("", "blocked", tokens_in, tokens_out, latency, attempt, self.name, self.model)
        choice = answer.choices[0]
        if not isinstance(choice.message.content, str):
            raise ValueError("response without text")
        reason: FinishReason = "length" if choice.finish_reason == "length" else "stop"
        return Completion(
            choice.message.content, reason, tokens_in, tokens_out, latency, attempt, self.name, self.model
        )
