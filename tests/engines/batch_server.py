"""A Batch API on 127.0.0.1 that behaves as badly as it is told to, and keeps the books.

Shapes after OpenAI's reference (files, batches, the lines of output and error files). Every line of a batch
that was run is billed under its custom_id, whether or not anybody ever reads the answer.
"""

import json
import re
import threading
from collections import Counter, deque
from collections.abc import Callable
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STEPS = ("upload", "list_files", "create", "list_batches", "poll", "download", "delete", "cancel")


def answer(text="ok", **other) -> dict:
    """The body of a good chat completion."""
    body = {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57},
    }
    return body | other


def prompt_of(line: dict) -> str:
    """The text that a line of a batch file asks."""
    return line["body"]["messages"][-1]["content"][-1]["text"]


def served(line: dict) -> dict:
    """The default answer: the prompt, repeated."""
    return {"status_code": 200, "request_id": "r", "body": answer(f"re: {prompt_of(line)}")}


def refused(status: int, message: str, **error) -> dict:
    """A line that failed at the model."""
    return {"status_code": status, "request_id": "r", "body": {"error": {"message": message} | error}}


class Refusal:
    """Answers a step with this status and does nothing else."""

    def __init__(self, status: int, message="no", headers=(), body: bytes | None = None, **error) -> None:
        self.status, self.headers = status, dict(headers)
        self.body = json.dumps({"error": {"message": message} | error}).encode() if body is None else body


LOST = "does it, and the connection ends without an answer"
HOLD_BEFORE = "waits before doing it; the client is gone when it goes on, and it is not done"
HOLD_AFTER = "does it, then waits with the answer"
CUT = "does it, and sends half of the answer"


class BatchServer:
    """`faults[step]` is a queue of what befalls the next requests of this step (None: nothing). `outcomes` is
    one of the next batches each: "completed" (the default), "expired", "cancelled" or a dict, the error with
    which validation fails. `respond` makes a line's response; None leaves the line undone. `tamper` and
    `tamper_errors` change the files on their way out. `polls` is how often a batch is asked for before it
    ends; `lag` how many listings do not show a new batch yet; `page` the listings' largest page.
    """

    def __init__(self, *, polls=1) -> None:
        self.faults: dict[str, deque] = {step: deque() for step in STEPS}
        self.outcomes: deque = deque()
        self.respond: Callable[[dict], dict | None] = served
        self.tamper: Callable[[bytes], bytes] = lambda data: data
        self.tamper_errors: Callable[[bytes], bytes] = lambda data: data
        self.shown: Callable[[dict], dict] = lambda batch: batch
        self.polls, self.lag, self.page = polls, 0, 100
        self.files: dict[str, dict] = {}
        self.batches: dict[str, dict] = {}
        self.billed: Counter = Counter()
        self.calls: Counter = Counter()
        self.headers: list[dict] = []
        self.held, self.release = threading.Event(), threading.Event()
        self._lock = threading.RLock()
        self._made = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._serve(self, "GET")

            def do_POST(self) -> None:
                outer._serve(self, "POST")

            def do_DELETE(self) -> None:
                outer._serve(self, "DELETE")

            def log_message(self, *args) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address) -> None:
                """A client that hung up is what some tests are about."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    # What the tests look at

    @property
    def lines(self) -> dict[str, list[dict]]:
        """The lines of each batch, by batch id."""
        return {
            name: [json.loads(line) for line in batch["data"].splitlines()]
            for name, batch in self.batches.items()
        }

    def billed_prompts(self) -> dict[str, int]:
        """How often each prompt was paid for."""
        prompts = {x["custom_id"]: prompt_of(x) for lines in self.lines.values() for x in lines}
        found: Counter = Counter()
        for custom_id, times in self.billed.items():
            found[prompts[custom_id]] += times
        return dict(found)

    def close(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *raised) -> None:
        self.close()

    # What the client meets

    def _serve(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        data = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        url = urlsplit(handler.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        step, act = self._route(method, url.path.removeprefix("/v1"), query, handler, data)
        with self._lock:
            self.calls[step] += 1
            self.headers.append({"step": step} | {k.lower(): v for k, v in handler.headers.items()})
            fault = self.faults[step].popleft() if self.faults[step] else None
        if isinstance(fault, Refusal):
            self._reply(handler, fault.status, fault.body, fault.headers)
            return
        if fault == HOLD_BEFORE:
            self.held.set()
            self.release.wait()
            handler.close_connection = True
            return
        with self._lock:
            status, body = act()
        out = body if isinstance(body, bytes) else json.dumps(body).encode()
        if fault == HOLD_AFTER:
            self.held.set()
            self.release.wait()
        if fault in (LOST, HOLD_AFTER):
            handler.close_connection = True
            return
        self._reply(handler, status, out, {}, cut=fault == CUT)

    @staticmethod
    def _reply(
        handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict, *, cut=False
    ) -> None:
        handler.send_response_only(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if cut else body)
        handler.close_connection = cut

    def _route(self, method: str, path: str, query: dict, handler: BaseHTTPRequestHandler, data: bytes):
        """The step's name, and what it does."""
        if path == "/files":
            if method == "POST":
                return "upload", lambda: self._upload(handler.headers["content-type"], data)
            kept = query.get("purpose")
            shown = lambda: [f for f in self.files.values() if kept in (None, f["purpose"])]  # noqa: E731
            return "list_files", lambda: self._listing([_public(f) for f in shown()], query)
        if path == "/batches":
            if method == "POST":
                return "create", lambda: self._create(json.loads(data))
            return "list_batches", lambda: self._list_batches(query)
        if found := re.fullmatch(r"/batches/([^/]+)(/cancel)?", path):
            name = found[1]
            if found[2]:
                return "cancel", lambda: self._cancel(name)
            return "poll", lambda: self._poll(name)
        if found := re.fullmatch(r"/files/([^/]+)(/content)?", path):
            name = found[1]
            if method == "DELETE":
                return "delete", lambda: self._delete(name)
            if found[2]:
                return "download", lambda: self._download(name)
        return "poll", lambda: (404, {"error": {"message": f"no such path {path}"}})

    def _upload(self, kind: str, data: bytes) -> tuple[int, dict]:
        form = message_from_bytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + data)
        parts = {p.get_param("name", header="content-disposition"): p for p in form.get_payload()}
        content = parts["file"].get_payload(decode=True)
        purpose = parts["purpose"].get_payload(decode=True).decode()
        return 200, _public(self._file(parts["file"].get_filename(), content, purpose))

    def _file(self, name: str, data: bytes, purpose: str) -> dict:
        self._made += 1
        made = {
            "id": f"file-{self._made}",
            "object": "file",
            "bytes": len(data),
            "created_at": self._made,
            "filename": name,
            "purpose": purpose,
            "data": data,
        }
        self.files[made["id"]] = made
        return made

    def _create(self, asked: dict) -> tuple[int, dict]:
        source = self.files.get(asked["input_file_id"])
        if source is None:
            return 400, {"error": {"message": "Cannot find file", "param": "input_file_id"}}
        self._made += 1
        outcome = self.outcomes.popleft() if self.outcomes else "completed"
        batch = {
            "id": f"batch_{self._made}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": source["id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": self._made,
            "metadata": asked.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "outcome": outcome,
            "data": source["data"],
            "polls": 0,
            "unseen": self.lag,
        }
        self.batches[batch["id"]] = batch
        return 200, self.shown(_public(batch))

    def _poll(self, name: str) -> tuple[int, dict]:
        batch = self.batches.get(name)
        if batch is None:
            return 404, {"error": {"message": f"No batch found with id '{name}'."}}
        batch["polls"] += 1
        if batch["status"] in ("validating", "in_progress", "cancelling"):
            batch["status"] = "in_progress"
            if isinstance(batch["outcome"], dict):
                batch["status"] = "failed"
                batch["errors"] = {"object": "list", "data": [batch["outcome"]]}
            elif batch["polls"] >= self.polls:
                self._end(batch)
        return 200, self.shown(_public(batch))

    def _end(self, batch: dict) -> None:
        """Run the lines and bill them."""
        done, failed = [], []
        for line in map(json.loads, batch["data"].splitlines()):
            found = {"id": "batch_req", "custom_id": line["custom_id"], "response": None, "error": None}
            response = self.respond(line)
            if response is None:
                code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(
                    batch["outcome"], "lost"
                )
                failed.append(found | {"error": {"code": code, "message": f"the line is {code}"}})
            elif response["status_code"] == 200:
                self.billed[line["custom_id"]] += 1
                done.append(found | {"response": response})
            else:
                failed.append(found | {"response": response})
        batch["status"] = batch["outcome"]
        counts = {"total": len(done) + len(failed), "completed": len(done), "failed": len(failed)}
        batch["request_counts"] = counts
        for field, lines, change in (
            ("output_file_id", done, self.tamper),
            ("error_file_id", failed, self.tamper_errors),
        ):
            if lines:
                data = change("".join(json.dumps(x) + "\n" for x in lines).encode())
                batch[field] = self._file(f"{batch['id']}.jsonl", data, "batch_output")["id"]

    def _list_batches(self, query: dict) -> tuple[int, dict]:
        seen = []
        for batch in self.batches.values():
            if batch["unseen"]:
                batch["unseen"] -= 1
            else:
                seen.append(self.shown(_public(batch)))
        return self._listing(seen, query)

    def _listing(self, items: list[dict], query: dict) -> tuple[int, dict]:
        """Newest first, in pages."""
        items = items[::-1]
        if "after" in query:
            at = next(k for k, x in enumerate(items) if x["id"] == query["after"])
            items = items[at + 1 :]
        page = items[: min(int(query.get("limit", 20)), self.page)]
        return 200, {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > len(page),
        }

    def _cancel(self, name: str) -> tuple[int, dict]:
        self.batches[name] |= {"status": "cancelling", "outcome": "cancelled"}
        return 200, _public(self.batches[name])

    def _download(self, name: str) -> tuple[int, dict | bytes]:
        if name not in self.files:
            return 404, {"error": {"message": f"No such File object: {name}"}}
        return 200, self.files[name]["data"]

    def _delete(self, name: str) -> tuple[int, dict]:
        self.files.pop(name, None)
        return 200, {"id": name, "object": "file", "deleted": True}


def _public(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("data", "outcome", "polls", "unseen")}
