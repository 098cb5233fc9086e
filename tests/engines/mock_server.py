"""A chat endpoint on 127.0.0.1 that behaves as badly as it is told to."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[[BaseHTTPRequestHandler, threading.Event], None]


def completion(text="ok", reason="stop", **other) -> dict:
    """The body of a good answer; `other` replaces fields, None drops them."""
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
    return {k: v for k, v in (body | other).items() if v is not None}


def says(message: dict, reason="stop", **other) -> Behaviour:
    """A good answer with this message."""
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant"} | message}
    return reply(completion(**({"choices": [choice]} | other)))


def response(*texts, status="completed", **other) -> dict:
    """The body of a good answer of the Responses API; `other` replaces fields, None drops them."""
    parts = [{"type": "output_text", "text": t, "annotations": []} for t in texts or ("ok",)]
    message = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": parts}
    body = {
        "id": "r",
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": "m",
        "output": [message],
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": 2,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 7,
        },
    }
    return {k: v for k, v in (body | other).items() if v is not None}


def reply(body, status=200, headers=()) -> Behaviour:
    """A whole response; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def behave(handler, closing) -> None:
        handler.send_response_only(status)
        kind = "text/html" if data.startswith(b"<") else "application/json"
        for name, value in {"content-type": kind, "content-length": str(len(data)), **dict(headers)}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def refuses(status, message="no", headers=(), **error) -> Behaviour:
    """An error in OpenAI's form."""
    return reply({"error": {"message": message} | error}, status, headers)


def cut(handler, closing) -> None:
    """Promises more than it sends and closes the connection."""
    handler.send_response_only(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang(handler, closing) -> None:
    """Never answers."""
    closing.wait()
    handler.close_connection = True


def trickle(handler, closing) -> None:
    """Sends one space after the other, for ever."""
    handler.send_response_only(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    while not closing.wait(0.02):
        handler.wfile.write(b"1\r\n \r\n")


def flood(handler, closing) -> None:
    """Sends as much as the other side takes."""
    handler.send_response_only(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    piece = b" " * 2**20
    while not closing.is_set():
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")


def prompt_of(body) -> str:
    """The text of the last turn, of either API."""
    return body["messages" if "messages" in body else "input"][-1]["content"][-1]["text"]


class Till:
    """A behaviour that bills: a key once, with 5 + 2 tokens, however often it is asked. `faults` is the share
    of requests that meet a 429, a 500 before or after the work, or no answer.
    """

    def __init__(self, faults=0.0, seed=0, latency=0.0) -> None:
        self.billed: list[str] = []
        self.faults, self.latency = faults, latency
        self._random, self._lock = random.Random(seed), threading.Lock()

    def __call__(self, handler, closing) -> None:
        with self._lock:
            fault = self._random.choice("abcd") if self._random.random() < self.faults else ""
            key = handler.headers["idempotency-key"]
            if fault not in ("a", "b") and key not in self.billed:
                self.billed.append(key)
        closing.wait(self.latency)
        if fault == "a":
            refuses(429, headers={"retry-after": "0.01"})(handler, closing)
        elif fault in ("b", "c"):
            refuses(500)(handler, closing)
        elif fault == "d":
            hang(handler, closing)
        else:
            reply(completion(f"bill {self.billed.index(key)}"))(handler, closing)


class MockServer:
    """Behaves by `script`: a list (the last entry repeats), or one such list for each prompt. `requests` are
    the bodies that arrived, `headers` theirs.
    """

    def __init__(self, script) -> None:
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.paths: list[str] = []
        self.asked: Counter = Counter()
        self._closing = threading.Event()
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = prompt_of(body)
                entries = script[prompt] if isinstance(script, dict) else script
                key = prompt if isinstance(script, dict) else ""
                with lock:
                    nth = outer.asked[key]
                    outer.asked[key] += 1
                    outer.requests.append(body)
                    outer.paths.append(self.path)
                    outer.headers.append({k.lower(): v for k, v in self.headers.items()})
                entries[min(nth, len(entries) - 1)](self, outer._closing)

            def log_message(self, *args) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 64
            daemon_threads = True

            def handle_error(self, request, address) -> None:
                """A client that hung up is what some tests are about."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def prompts(self) -> list[str]:
        """The texts that arrived, in order."""
        return [prompt_of(r) for r in self.requests]

    def wait_for(self, count: int) -> None:
        """Until so many requests have arrived."""
        until = time.monotonic() + 60
        while len(self.requests) < count:
            assert time.monotonic() < until, f"{len(self.requests)} of {count} requests arrived"
            time.sleep(0.005)

    def close(self) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *raised) -> None:
        self.close()
