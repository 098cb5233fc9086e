"""The output and error files of a batch: one line a call, in any order, read as answers and failures."""

import json
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgr1.engines.wire import Again, Answer, EndpointError, Failed, Usage, Wire

_LONGEST_LINE = 16 * 2**20


@dataclass(frozen=True)
class Failure:
    """A line without an answer; `paid`: it was run, and is on the bill."""

    message: str
    paid: bool = False
    usage: Usage | None = None


@dataclass
class Results:
    """What a batch's files hold, by call id; `broken` lines are no JSON, `strange` ones of another batch."""

    answered: set[str] = field(default_factory=set)
    failures: dict[str, Failure] = field(default_factory=dict)
    broken: int = 0
    strange: int = 0
    endpoint: EndpointError | None = None


def read_results(
    path: Path, wire: Wire, calls: Container[str], found: Results
) -> Iterator[tuple[str, Answer]]:
    """The answers in a file, by call id (those of `calls`), once each; all else is written down in `found`.
    An answer counts more than a failure, the first more than the next.
    """
    for entry in _entries(path):
        if entry is None:
            found.broken += 1
            continue
        name = str(entry.get("custom_id"))
        if name not in calls:
            found.strange += 1
            continue
        if name in found.answered:
            continue
        try:
            answer = wire.read(*_response(entry))
        except Again as trouble:
            failure = Failure(str(trouble), paid=trouble.answered, usage=trouble.usage)
            found.failures.setdefault(name, failure)
        except Failed as trouble:
            found.failures.setdefault(name, Failure(str(trouble)))
        except EndpointError as trouble:
            found.endpoint = found.endpoint or trouble
            found.failures.setdefault(name, Failure(str(trouble)))
        else:
            found.answered.add(name)
            found.failures.pop(name, None)
            yield name, answer


def _entries(path: Path) -> Iterator[dict[str, Any] | None]:
    """The objects of a file of lines; None for a line that is none."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST_LINE):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            yield entry if isinstance(entry, dict) else None


def _response(entry: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """A line's answer as a response: status, headers, body. Raises Failed for a line that was never run."""
    response, error = entry.get("response"), entry.get("error")
    if not isinstance(response, dict):
        if isinstance(error, dict):
            raise Failed(f"{error.get('code') or 'error'}: {error.get('message') or 'no message'}"[:300])
        raise Failed(f"a line with neither a response nor an error: {json.dumps(entry)[:200]}")
    # vLLM's documentation has the completion itself there.
    enveloped = "status_code" in response or "body" in response
    status = response.get("status_code", 200)
    body = response.get("body") if enveloped else response
    if isinstance(error, dict) and not body:
        body = {"error": error}
    return status if type(status) is int else 500, {}, json.dumps(body).encode()
