"""What an endpoint's answers say: Chat Completions and Responses bodies read as text, reason and numbers of
tokens. Blocked is not an error, an error is not text, and a body without the promised fields is a failed
attempt.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from surgr1.engines.types import FinishReason

_FINISHED: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    # The Responses API's own words.
    "completed": "stop",
    "max_output_tokens": "length",
}
SNAPSHOT = re.compile(r"([-@](\d{3,8}|\d{4}-\d\d-\d\d|\d\d-\d\d(\d\d)?|preview|exp))+")
"""What providers add to a model's name in an answer: a date or number of the snapshot."""

_BLOCKED = re.compile(r"content_filter|refusal|safety|prohibited_content|blocklist|recitation|spii", re.I)


class Usage(NamedTuple):
    """Tokens of one call: read (`cached` of them from the provider's cache) and written."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0


class Again(Exception):
    """An attempt that failed in a way that may pass. `after`: seconds the server asks to wait. `limited`: it
    only asks for patience, which the deadline bounds, not the number of attempts. `answered`: a whole answer
    came (and is paid for), but it cannot be used; `usage` is what it says it took, if it does. `silent`: no
    answer came, and nobody knows whether the server did the work.
    """

    def __init__(
        self,
        message: str,
        *,
        after: float = 0.0,
        limited: bool = False,
        answered: bool = False,
        silent: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.after, self.limited, self.answered, self.silent = after, limited, answered, silent
        self.usage = usage


class Failed(Exception):
    """This request's own error: asking again would not help."""


class Answer(NamedTuple):
    """One completion as the endpoint gave it; `note` says why it was blocked."""

    text: str
    reason: FinishReason
    tokens_in: int
    tokens_out: int
    note: str = ""
    cached: int = 0


def read_usage(body: Mapping[str, Any]) -> Usage | None:
    """The numbers of tokens in either API's words, or None where they are missing."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    for tokens_in, tokens_out in (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens")):
        read, written = _count(usage.get(tokens_in)), _count(usage.get(tokens_out))
        if read is not None and written is not None:
            details = usage.get(f"{tokens_in}_details")
            cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
            return Usage(read, written, min(cached or 0, read))
    return None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def chat_answer(body: dict[str, Any]) -> Answer:
    """A Chat Completions body. Raises Again."""
    choices = body.get("choices")
    feedback = body.get("prompt_feedback") or body.get("promptFeedback")
    if choices == [] or (feedback and not choices):
        return _blocked(body, shortened(json.dumps(feedback or "no choice")))
    if not (isinstance(choices, list) and isinstance(choices[0], dict)):
        raise _unusable(body, f"an answer without choices: {shortened(json.dumps(body))}")
    message, reason = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict):
        message = {}
    if isinstance(reason, str) and _BLOCKED.match(reason):
        return _blocked(body, reason)
    if isinstance(refusal := message.get("refusal"), str) and refusal:
        return _blocked(body, refusal[:200])
    thought = message.get("reasoning_content") or message.get("reasoning")
    text = _text(body, message.get("content"))
    return _finished(body, text, thought if isinstance(thought, str) else "", reason, "finish_reason")


def responses_answer(body: dict[str, Any]) -> Answer:
    """A Responses body: output items of which messages and thoughts count. Raises Again."""
    output, status = body.get("output"), body.get("status")
    if not (isinstance(output, list) and all(isinstance(item, dict) for item in output)):
        raise _unusable(body, f"an answer without output: {shortened(json.dumps(body))}")
    details = body.get("incomplete_details")
    reason = details.get("reason") if status == "incomplete" and isinstance(details, dict) else status
    if isinstance(reason, str) and _BLOCKED.match(reason):
        return _blocked(body, reason)
    texts, thoughts = [], []
    for item in output:
        if item.get("type") == "message":
            for part in _parts(body, item.get("content")):
                if part.get("type") == "refusal":
                    return _blocked(body, str(part.get("refusal") or "refusal")[:200])
                if part.get("type") == "output_text":
                    texts.append(_string(body, part.get("text")))
        elif item.get("type") == "reasoning":
            # Open models give their thoughts whole (`content`), others at most a summary of them.
            thoughts += [
                _string(body, part.get("text"))
                for part in _parts(body, item.get("content") or item.get("summary"))
            ]
    return _finished(body, "".join(texts), "\n".join(thoughts), reason, "status")


def _finished(body: Mapping[str, Any], text: str, thought: str, reason: object, field: str) -> Answer:
    if thought.strip():
        # A draft of the answer inside the thought is not the answer.
        text = f"<think>{re.sub(r'</?(think|answer)>', '', thought).strip()}</think>{text}"
    finished = _FINISHED.get(reason) if isinstance(reason, str) else None
    if finished is None:
        raise _unusable(body, f"an answer with {field} {reason!r}")
    if not text.strip() and finished == "stop":
        raise _unusable(body, "an answer without text")
    usage = read_usage(body)
    if usage is None:
        said = shortened(json.dumps(body.get("usage")))
        raise _unusable(body, f"an answer without its numbers of tokens: usage {said}")
    return Answer(text, finished, usage.tokens_in, usage.tokens_out, cached=usage.cached)


def _blocked(body: Mapping[str, Any], note: str) -> Answer:
    usage = read_usage(body) or Usage()
    return Answer("", "blocked", usage.tokens_in, usage.tokens_out, note, usage.cached)


def _unusable(body: Mapping[str, Any], message: str) -> Again:
    return Again(message, answered=True, usage=read_usage(body))


def _text(body: Mapping[str, Any], content: object) -> str:
    """A chat message's text: a string, or a list of parts of which the texts count."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(p, dict) for p in content):
        content = "".join(p.get("text", "") for p in content if p.get("type") == "text")
    return _string(body, content)


def _parts(body: Mapping[str, Any], content: object) -> list[dict[str, Any]]:
    if content is None:
        return []
    if isinstance(content, list) and all(isinstance(p, dict) for p in content):
        return content
    raise _unusable(body, f"an answer whose content is {type(content).__name__}, not parts")


def _string(body: Mapping[str, Any], content: object) -> str:
    if not isinstance(content, str):
        raise _unusable(body, f"an answer whose content is {type(content).__name__}, not text")
    return content


def shortened(data: bytes | str) -> str:
    """The beginning of a text on one line."""
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    return " ".join(text.split())[:200]
