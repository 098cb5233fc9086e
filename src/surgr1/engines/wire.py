"""What goes over the wire to an OpenAI-compatible endpoint and what comes back, without any connection: one
place for the live and the batch engine. Two APIs: Chat Completions, and Responses (`/responses`:
instructions, input_text and input_image parts, max_output_tokens, store false).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from surgr1.engines.guard import chat_messages, host_of, response_input
from surgr1.engines.replies import (
    SNAPSHOT,
    Again,
    Answer,
    Failed,
    Usage,
    chat_answer,
    read_usage,
    responses_answer,
    shortened,
)
from surgr1.engines.types import Request, Sampling
from surgr1.ontology.errors import SurgR1Error

__all__ = ["SAMPLING_FIELDS", "Again", "Answer", "Api", "EndpointError", "Failed", "Usage", "Wire"]

Api = Literal["chat", "responses"]

SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
"""Fields of the request that a card may tell the client to omit."""

_OURS = {
    "chat": {"model", "messages", "n", "stream"},
    "responses": {"model", "input", "instructions", "stream", "store", "background"},
}
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_KEY = 8
"""Shorter ones are placeholders ("none") of servers that ask for no key."""

_BLOCK_CODES = re.compile(r"content_filter|content_policy|moderation|responsibleai", re.I)
_UNKNOWN_FIELD = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra", re.I
)
# How a failed response (status 200, "failed") names what others say by their HTTP status.
_FAILED_AS = {"server_error": 500, "rate_limit_exceeded": 429, "vector_store_timeout": 504}


class EndpointError(SurgR1Error):
    """An endpoint at which no request of this run can succeed: its address, key, model or settings."""


@dataclass(frozen=True)
class Wire:
    """One model at one endpoint. Every field of `Sampling` is sent, lest a server fills it from the model's
    own configuration, except those in `omit`: `top_k` and `repetition_penalty` are not OpenAI's and its own
    service refuses them, and its Responses API has no `seed`. `extra_body` joins every request (thinking on
    or off, for instance); `limit_field` is what a chat endpoint calls the limit of tokens. `answers_as` is
    the model's name in answers where an alias or deployment has another. `revision` names the weights where
    a server swaps them under one name. `key` leaves this process in the request's header alone.

    Raises EndpointError and PolicyError for settings that make no sense.
    """

    base_url: str
    model: str
    api: Api = "chat"
    key: str = field(default="none", repr=False)
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit: Sequence[str] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    answers_as: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        host_of(self.base_url)
        key = self.key.strip()
        if not (key.isascii() and key.isprintable()):
            raise EndpointError(f"{self.base_url}: the API key has characters that no key has; copy it again")
        object.__setattr__(self, "key", key or "none")
        if self.api not in _OURS:
            raise EndpointError(f"api: unknown {self.api!r}; one of {', '.join(_OURS)}")
        if strange := set(self.omit) - set(SAMPLING_FIELDS):
            raise EndpointError(f"omit: unknown {sorted(strange)}; one of {', '.join(SAMPLING_FIELDS)}")
        if taken := {*_OURS[self.api], *SAMPLING_FIELDS, self.limit} & set(self.extra_body):
            raise EndpointError(f"extra_body: {sorted(taken)} are set by the client; leave them out")

    @property
    def path(self) -> str:
        """The route below the base address."""
        return "/chat/completions" if self.api == "chat" else "/responses"

    @property
    def limit(self) -> str:
        """What this API calls the limit of tokens."""
        return self.limit_field if self.api == "chat" else "max_output_tokens"

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json"}

    @property
    def identity(self) -> str:
        """The model for a ledger: with the settings that change its answers, if any. Not with the address, so
        that a server may move, nor with the API; a model that changes behind its name needs a `revision`.
        """
        settings: dict[str, Any] = {"omit": sorted(self.omit), "extra_body": dict(self.extra_body)}
        if self.revision:
            # Only then: the keys of ledgers older than revisions stay valid.
            settings["revision"] = self.revision
        if not any(settings.values()):
            return self.model
        return f"{self.model} {json.dumps(settings, sort_keys=True)}"

    def check(self, request: Request) -> None:
        """Raise EndpointError for a request with a beginning of the answer, which neither API continues."""
        if request.prefix:
            raise EndpointError(
                f"{self.base_url}: request {request.request_id} gives the beginning of the answer, which chat"
                " endpoints do not continue; use a local engine (transformers or vllm)"
            )

    def body(self, request: Request, sampling: Sampling, k: int) -> dict[str, Any]:
        """What is sent for completion `k` of a request. The guard judges every attempt: the address behind a
        name may have changed since. Raises PolicyError, PictureError, EndpointError.
        """
        self.check(request)
        fields = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # vLLM, SGLang and llama.cpp agree on -1 for all tokens, not on 0.
            "top_k": sampling.top_k or -1,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed + sampling.first + k,
        }
        return {
            "model": self.model,
            **self._asked(request),
            self.limit: sampling.max_new_tokens,
            **{name: value for name, value in fields.items() if name not in self.omit},
            **self.extra_body,
        }

    def _asked(self, request: Request) -> dict[str, Any]:
        """The request's own fields."""
        if self.api == "chat":
            return {
                "messages": chat_messages(
                    request.policy,
                    self.base_url,
                    prompt=request.prompt,
                    pictures=request.images,
                    system=request.system,
                )
            }
        asked = response_input(request.policy, self.base_url, prompt=request.prompt, pictures=request.images)
        system = {"instructions": request.system} if request.system else {}
        # Nothing stays on the server: pictures and answers are not kept for later turns.
        return {"input": asked, **system, "store": False}

    def read(self, status: int, headers: Mapping[str, str], data: bytes) -> Answer:
        """A response as an answer. Raises Again, Failed, EndpointError."""
        if len(self.key) >= _KEY:
            # A server that repeats our key must not bring it into logs.
            data = data.replace(self.key.encode(), b"[key]")
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        trouble = body.get("error") if isinstance(body, dict) else None
        content = "choices" if self.api == "chat" else "output"
        if 200 <= status < 300 and isinstance(trouble, dict):
            if body.get("status") == "failed":
                status = _FAILED_AS.get(str(trouble.get("code")), 400)
            elif not body.get(content):
                # A gateway that reports its provider's failure under status 200.
                status = code if isinstance(code := trouble.get("code"), int) and 400 <= code < 600 else 500
        if 200 <= status < 300:
            if not isinstance(body, dict):
                raise Again(f"HTTP {status} without a JSON object: {shortened(data)}", silent=True)
            answer = (chat_answer if self.api == "chat" else responses_answer)(body)
            if answer.reason != "blocked":
                self._check_model(body)
            return answer
        return self._refused(status, headers, trouble if isinstance(trouble, dict) else {}, shortened(data))

    def _check_model(self, body: Mapping[str, Any]) -> None:
        """Raise when another model than the one asked for has answered. A snapshot's date is no
        difference.
        """
        name = body.get("model")
        if name is None or name == "":
            return
        asked = self.answers_as or self.model
        wanted, found = (
            str(n).lower().rsplit("/", 1)[-1].split(":")[0].removesuffix("-latest") for n in (asked, name)
        )
        rest = found.removeprefix(wanted)
        if found != wanted and (rest == found or not SNAPSHOT.fullmatch(rest)):
            raise Again(
                f"asked {asked}, answered by {name!r}; if they are one model, say so with answers_as",
                answered=True,
                usage=read_usage(body),
            )

    def _refused(self, status: int, headers: Mapping[str, str], trouble: dict[str, Any], raw: str) -> Answer:
        message = str(trouble.get("message") or raw)[:300]
        codes = " ".join(str(trouble.get(k, "")) for k in ("code", "type"))
        found = f"{self.base_url}: HTTP {status}: {message}"
        metadata = trouble.get("metadata")
        if status in (400, 403, 422) and (
            _BLOCK_CODES.search(codes)
            or (isinstance(metadata, dict) and "flagged_input" in metadata)
            or ("invalid_prompt" in codes and "usage policy" in message)
        ):
            return Answer("", "blocked", 0, 0, message)
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
        if status in (400, 422) and (name := self._unknown_field(trouble, message)):
            remedy = "name it in omit, or drop it from extra_body"
            if name == self.limit_field:
                remedy = "set limit_field to max_completion_tokens"
            raise EndpointError(f"{found}; the endpoint does not take {name!r}: {remedy}")
        if status in _RETRIED:
            after = _retry_after(headers)
            asked = f" (asks to wait {after:g} s)" if after else ""
            limited = status == 429
            # Behind a gateway that gave up, the server may have done the work.
            raise Again(f"HTTP {status}: {message}{asked}", after=after, limited=limited, silent=not limited)
        raise Failed(f"HTTP {status}: {message}")

    def _unknown_field(self, trouble: dict[str, Any], message: str) -> str | None:
        """A field of ours that the endpoint says it does not know."""
        if not _UNKNOWN_FIELD.search(f"{message} {trouble.get('code', '')}"):
            return None
        sent = {self.limit, *SAMPLING_FIELDS, *self.extra_body} - set(self.omit)
        if isinstance(param := trouble.get("param"), str) and param in sent:
            return param
        return next((f for f in sorted(sent) if re.search(rf"\b{re.escape(f)}\b", message)), None)


def _retry_after(headers: Mapping[str, str]) -> float:
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
