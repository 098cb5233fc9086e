"""A chat endpoint on 127.0.0.1 that answers as the offline teacher would, and keeps the books."""

import base64
import json
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.reasoning.trace import render
from surgr1.synthesis.offline import OfflineTeacher

World = tuple[list[Sample], dict[str, PreparedImage]]


class Stub:
    """A chat endpoint that writes the offline teacher's trace for what it is asked. A key is billed once and
    answered the same however often it is asked. `moods`: sample id -> "good", "mends" (the first trace leaks
    the answer, the next does not), "never", "half" (every trace ends with half a character). `faults` is
    the share of requests that meet a 429, a 500 before or a 500 after the work. After `stays` answers it is
    away (503), for ever. What arrives after the first `limit` requests waits until that is raised; whoever
    asked may be gone by then.
    """

    def __init__(self, world: World, moods=None, *, faults=0.0, latency=0.0, stays=10**9, seed=0) -> None:
        self.bills: dict[str, tuple[str, str]] = {}
        self.arrived, self.limit = 0, 10**9
        self._moods, self._faults, self._latency, self._stays = moods or {}, faults, latency, stays
        self._random, self._lock = random.Random(seed), threading.Lock()
        samples, self._images = world
        self._by_picture: dict[str, list[Sample]] = {}
        for s in samples:
            self._by_picture.setdefault(_shown(self._images[s.sample_id]), []).append(s)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, body = outer._serve(asked, self.headers["idempotency-key"])
                data = json.dumps(body).encode()
                self.send_response_only(status)
                if status == 429:
                    self.send_header("retry-after", "0.01")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request, address) -> None:
                """A client that was killed is what this file is about."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _serve(self, asked: dict, key: str) -> tuple[int, dict]:
        with self._lock:
            self.arrived += 1
            number = self.arrived
        while number > self.limit:
            time.sleep(0.002)
        with self._lock:
            fault = self._random.choice("abc") if self._random.random() < self._faults else ""
            if len(self.bills) >= self._stays and key not in self.bills:
                return 503, {"error": {"message": "away"}}
            if fault not in ("a", "b") and key not in self.bills:
                self.bills[key] = self.written(asked["messages"][-1]["content"])
            text = self.bills[key][1] if key in self.bills else ""
        time.sleep(self._latency)
        if fault:
            return (429 if fault == "a" else 500), {"error": {"message": "no"}}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return 200, {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}

    def written(self, content: list[dict]) -> tuple[str, str]:
        """The sample that is asked about, and what is said of it."""
        shown = next(p["image_url"]["url"] for p in content if p["type"] == "image_url")
        prompt = next(p["text"] for p in content if p["type"] == "text")
        (sample,) = (s for s in self._by_picture[shown] if f"Question: {s.question.strip()}\n" in prompt)
        text = render(OfflineTeacher().trace(sample, self._images[sample.sample_id]))
        mood = self._moods.get(sample.sample_id, "good")
        if mood == "never" or (mood == "mends" and "REJECTED" not in prompt):
            text = text.replace("Level 1:", "Level 1: The ground truth is clear.")
        if mood == "half":
            text = text[: len(text) // 2] + "\ud83d"
        return sample.sample_id, text

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def __enter__(self) -> "Stub":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _shown(image: PreparedImage) -> str:
    return f"data:image/png;base64,{base64.b64encode(image.path.read_bytes()).decode()}"
