"""A model as teacher when things go wrong: a process that is killed at random moments, an endpoint that is
away, a budget that is spent, data that may not leave. What was paid is never paid again, what was not
answered is not decided.
"""

import base64
import hashlib
import json
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from surgr1.corpora.grid import PreparedImage, prepare_image
from surgr1.corpora.schema import Sample
from surgr1.corpora.sources import Source, read_source
from surgr1.engines.budget import Account, Budget, BudgetError, most_usage
from surgr1.engines.guard import PolicyError
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.reasoning.trace import render
from surgr1.simulator.world import SimPlan, Tree, simulate
from surgr1.synthesis import synthesize as module
from surgr1.synthesis.conversations import read_conversations
from surgr1.synthesis.offline import OfflineTeacher
from surgr1.synthesis.store import TraceStore
from surgr1.synthesis.synthesize import SynthesisError, synthesize
from surgr1.synthesis.teachers import ModelTeacher, teacher_requests, teacher_sampling

World = tuple[list[Sample], dict[str, PreparedImage]]
TREES = (
    Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, train=(1,)),
    Tree(dataset="sim-endoscapes", centre="sim-london-public", seconds=24, train=(11,)),
)
REMOTE = "203.0.113.7"  # TEST-NET-3: nobody's.


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> World:
    """Some 160 samples of two simulated operations."""
    out = tmp_path_factory.mktemp("small")
    simulate(out, SimPlan(trees=TREES), workers=1)
    samples, images = [], {}
    for tree in TREES:
        root = out / tree.dataset
        for s in read_source(Source(dataset=tree.dataset, root=root, policy="public")):
            samples.append(s)
            images[s.sample_id] = prepare_image(root / s.image, out / "images", min_tokens=4, max_tokens=24)
    return samples, images


class Stub:
    """A chat endpoint that writes the offline teacher's trace for what it is asked. A key is billed once and
    answered the same however often it is asked. `moods`: sample id -> "good", "mends" (the first trace leaks
    the answer, the next does not), "never". `faults` is the share of requests that meet a 429, a 500 before
    or a 500 after the work. After `stays` answers it is away (503), for ever.
    """

    def __init__(self, world: World, moods=None, *, faults=0.0, latency=0.0, stays=10**9, seed=0) -> None:
        self.bills: dict[str, tuple[str, str]] = {}
        self.arrived = 0
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
            fault = self._random.choice("abc") if self._random.random() < self._faults else ""
            if len(self.bills) >= self._stays and key not in self.bills:
                return 503, {"error": {"message": "away"}}
            if fault not in ("a", "b") and key not in self.bills:
                self.bills[key] = self._written(asked["messages"][-1]["content"])
            text = self.bills[key][1] if key in self.bills else ""
        time.sleep(self._latency)
        if fault:
            return (429 if fault == "a" else 500), {"error": {"message": "no"}}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return 200, {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}

    def _written(self, content: list[dict]) -> tuple[str, str]:
        """The sample that is asked about, and what is said of it."""
        shown = next(p["image_url"]["url"] for p in content if p["type"] == "image_url")
        prompt = next(p["text"] for p in content if p["type"] == "text")
        told = [s for s in self._by_picture[shown] if s.question in prompt]
        sample = max(told, key=lambda s: len(s.question))
        text = render(OfflineTeacher().trace(sample, self._images[sample.sample_id]))
        mood = self._moods.get(sample.sample_id, "good")
        if mood == "never" or (mood == "mends" and "no_leak" not in prompt):
            text = text.replace("Level 1:", "Level 1: The ground truth is clear.")
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


def engine(url: str, ledger: Ledger, budget: Budget = Budget(), **settings) -> LedgerEngine:  # noqa: B008
    settings = {"concurrency": 4, "max_attempts": 5, "backoff_s": 0.005} | settings
    return LedgerEngine(OpenAIEngine(url, "m", account=Account(ledger, budget), **settings), ledger)


def answered(folder: Path) -> list[str]:
    """Ids of the calls that the ledger holds an answer of."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        return sorted(i for (i,) in db.execute("SELECT id FROM calls WHERE state = 'answered'"))
