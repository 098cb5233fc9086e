"""The routes of an OpenAI-compatible Batch API that are used: files are uploaded, listed, read and deleted,
batches created, listed, asked for and cancelled.

https://platform.openai.com/docs/api-reference/batch and .../files. What other servers do differently: an
empty string for a file that is not there, no metadata in answers, statuses in capitals, a file that is
"pending" for a while after its upload (Azure).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from surgr1.engines.guard import Door
from surgr1.engines.wire import Again, Failed, Wire

_LARGEST = 64 * 2**20
"""Of an answer other than a file: a page of a listing is far below."""

METADATA = "surgr1_batch"


class Gone(Exception):
    """What was asked for is not there (404), or the server has no such route (405)."""


class BatchApi:
    """One endpoint's files and batches. Every method takes the policy of the data it is about, which decides
    the connection (`guard.Door`). Raises Again for what may pass, Failed for what is refused, Gone,
    EndpointError, PolicyError.
    """

    def __init__(self, wire: Wire, *, timeout_s: float) -> None:
        self._wire = wire
        self._door = Door(wire.base_url, timeout_s=timeout_s)

    def upload(self, policy: str, path: Path, filename: str) -> str:
        """Send a file of requests, streamed from disk. Returns its id."""
        with path.open("rb") as file:
            answer = self._ask(
                "POST",
                "/files",
                policy,
                data={"purpose": "batch"},
                files={"file": (filename, file, "application/jsonl")},
            )
        return _id(answer)

    def find_file(self, policy: str, filename: str, size: int) -> str | None:
        """The id of an uploaded file of this name and size (bytes), if there is one."""
        try:
            for file in self._listed("/files", policy, purpose="batch"):
                if file.get("filename") == filename and file.get("bytes") in (None, size):
                    return _id(file)
        except Gone:
            # No listing: it is uploaded again, which buys nothing.
            return None
        return None

    def create(self, policy: str, file_id: str, name: str, *, attempt: str) -> dict[str, Any]:
        """Begin a batch: this is what costs money. `attempt` tells this attempt from one that has failed.
        Returns the batch.
        """
        asked = {
            "input_file_id": file_id,
            "endpoint": f"/v1{self._wire.path}",
            "completion_window": "24h",
            "metadata": {METADATA: name},
        }
        answer = self._ask(
            "POST", "/batches", policy, json=asked, headers={"idempotency-key": name + attempt}
        )
        _id(answer)
        return answer

    def find_batch(self, policy: str, file_id: str, name: str) -> dict[str, Any] | None:
        """The batch that was created under our name (by its input file where a server keeps no metadata). One
        that failed its validation has bought nothing and does not count. Raises Gone where batches cannot be
        listed.
        """
        for batch in self._listed("/batches", policy):
            if status_of(batch) == "failed":
                continue
            metadata = batch.get("metadata")
            ours = metadata.get(METADATA) if isinstance(metadata, dict) else None
            if ours == name or (ours is None and batch.get("input_file_id") == file_id):
                return batch
        return None

    def batch(self, policy: str, batch_id: str) -> dict[str, Any]:
        """A batch as it is now."""
        return self._ask("GET", f"/batches/{batch_id}", policy)

    def cancel(self, policy: str, batch_id: str) -> None:
        """Ask the provider to stop a batch; what it has finished stays."""
        self._ask("POST", f"/batches/{batch_id}/cancel", policy)

    def download(self, policy: str, file_id: str, path: Path) -> None:
        """Write a file's content to `path`."""
        with self._sent("GET", f"/files/{file_id}/content", policy) as response, path.open("wb") as out:
            try:
                for chunk in response.iter_bytes():
                    out.write(chunk)
            except httpx.HTTPError as error:
                raise _silent(error) from error

    def delete(self, policy: str, file_id: str) -> None:
        """Remove a file from the provider."""
        self._ask("DELETE", f"/files/{file_id}", policy)

    def _listed(self, path: str, policy: str, **query: str) -> Iterator[dict[str, Any]]:
        """Everything that a listing has, newest first, over all its pages."""
        after = ""
        while True:
            asked = {**query, "limit": "100", **({"after": after} if after else {})}
            answer = self._ask("GET", path, policy, params=asked)
            items = answer.get("data")
            if not isinstance(items, list) or not all(isinstance(x, dict) for x in items):
                raise Again(f"a listing of {path} without its data")
            yield from items
            if not (items and answer.get("has_more")):
                return
            last = str(answer.get("last_id") or items[-1].get("id") or "")
            if last in ("", after):
                raise Failed(f"the listing of {path} does not get beyond {after or 'its first page'}")
            after = last

    def _ask(self, method: str, path: str, policy: str, **sent: Any) -> dict[str, Any]:
        """One request whose answer is a JSON object."""
        with self._sent(method, path, policy, **sent) as response:
            data = self._body(response)
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Again(f"{method} {path}: an answer that is no JSON object: {data[:200]!r}", silent=True)
        return answer

    def _sent(self, method: str, path: str, policy: str, **sent: Any) -> "_Open":
        """One request whose answer has a good status. The door judges the address of each anew."""
        url = httpx.URL(self._wire.base_url)
        url = url.copy_with(path=url.path.rstrip("/") + path)
        headers = {"authorization": self._wire.headers["authorization"], **sent.pop("headers", {})}
        client = self._door.client(policy)
        request = client.build_request(method, url, headers=headers, **sent)
        try:
            response = client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _silent(error) from error
        if response.is_success:
            return _Open(response)
        with _Open(response):
            data = self._body(response)
        if response.status_code in (404, 405):
            raise Gone(
                f"{method} {path}: HTTP {response.status_code}: {data[:200].decode('utf-8', 'replace')}"
            )
        self._wire.read(response.status_code, response.headers, data)
        raise Failed(f"{method} {path}: HTTP {response.status_code}: refused by the provider's own rules")

    @staticmethod
    def _body(response: httpx.Response) -> bytes:
        data = bytearray()
        try:
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > _LARGEST:
                    raise Again(f"an answer of more than {_LARGEST} bytes", silent=True)
        except httpx.HTTPError as error:
            raise _silent(error) from error
        return bytes(data)

    def close(self) -> None:
        """End the connections."""
        self._door.close()


class _Open:
    """A response that is closed when its block ends."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __enter__(self) -> httpx.Response:
        return self._response

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()


def status_of(batch: dict[str, Any]) -> str:
    """validating, in_progress, finalizing, completed, failed, expired, cancelling or cancelled."""
    return str(batch.get("status", "")).lower()


def file_of(batch: dict[str, Any], which: str) -> str:
    """The id of a batch's output or error file; "" if there is none."""
    return str(batch.get(f"{which}_file_id") or "")


def counts_of(batch: dict[str, Any]) -> dict[str, int]:
    """Its request_counts (total, completed, failed), as far as they are numbers."""
    counts = batch.get("request_counts")
    return {k: v for k, v in counts.items() if type(v) is int} if isinstance(counts, dict) else {}


def errors_of(batch: dict[str, Any]) -> list[str]:
    """What its validation found, an entry each."""
    errors = batch.get("errors")
    entries = errors.get("data") if isinstance(errors, dict) else None
    return [_told(e) for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _told(error: dict[str, Any]) -> str:
    """One of a batch's errors."""
    line = f"line {error['line']}: " if error.get("line") is not None else ""
    return f"{line}{error.get('message') or 'no message'} ({error.get('code') or 'no code'})"[:300]


def _id(answer: dict[str, Any]) -> str:
    if not (isinstance(name := answer.get("id"), str) and name):
        raise Again(f"an answer without an id: {json.dumps(answer)[:200]}", silent=True)
    return name


def _silent(error: httpx.HTTPError) -> Again:
    return Again(f"{type(error).__name__}: {str(error)[:200]}", silent=True)
