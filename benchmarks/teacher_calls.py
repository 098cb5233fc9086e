"""Calls to a teacher: how many a second, and that none is paid twice or lost.

    python benchmarks/teacher_calls.py [--calls 3000] [--repeats 3] [--api chat]
    python benchmarks/teacher_calls.py --faults [--calls 4000] [--kills 20]

A stub endpoint in a process of its own answers after 50 ms. Pictures (PNG and JPEG, 480 x 270) come from
disk. The first form prints the rate of our engine (guard, ledger, account, pace), and of a bare httpx loop
with the same concurrency and without any of that, in turn in one run. With `--faults` 5 % of the calls meet
429, 500 (before and after the work is done) or no answer at all, and the process that asks is killed at
random moments; at the end the stub's bills, the ledger's calls and its answers must be the same.
"""

import argparse
import asyncio
import base64
import json
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from surgr1.engines.budget import Account, Budget
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.pace import Pace
from surgr1.engines.prices import read_prices
from surgr1.engines.types import Request, Sampling

LATENCY = 0.05
SIZE = (480, 270)
PICTURES = 200
PROMPT = "What each level may say, what the operation knows, and how the answer is written. " * 50
SAMPLING = Sampling(max_new_tokens=600)
TEXT = "Level 1: A grasper holds the gallbladder. " * 12


class Stub:
    """The endpoint. It honours the Idempotency-Key: a key is billed once, and answered the same again."""

    def __init__(self, faults: float, seed: int) -> None:
        self.faults, self.random = faults, random.Random(seed)
        self.billed: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connection, "127.0.0.1", 0, limit=2**22)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if head.startswith("get"):
                    status, answer = 200, json.dumps([list(self.billed), dict(self.counts)]).encode()
                else:
                    status, answer = await self.answer(head, fields.get("idempotency-key", ""), len(body))
                if not status:
                    break
                waiting = "retry-after: 0.2\r\n" if status == 429 else ""
                writer.write(f"HTTP/1.1 {status} -\r\n{waiting}content-length: {len(answer)}\r\n".encode())
                writer.write(b"content-type: application/json\r\n\r\n" + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, head: str, key: str, length: int) -> tuple[int, bytes]:
        self.counts["requests"] += 1
        fault = ""
        if self.random.random() < self.faults:
            fault = self.random.choice(["429", "500 before", "500 after", "timeout"])
            self.counts[fault] += 1
        if fault in ("429", "500 before"):
            return int(fault[:3]), b'{"error": {"message": "no"}}'
        if key not in self.billed:
            self.counts["billed"] += 1
            number = len(self.billed)
            self.billed[key or str(self.counts["requests"])] = self.body(head, number, length)
        else:
            self.counts["repeated"] += 1
        await asyncio.sleep(LATENCY)
        if fault == "500 after":
            return 500, b'{"error": {"message": "lost"}}'
        if fault == "timeout":
            await asyncio.sleep(5)
            return 0, b""
        return 200, self.billed[key] if key else self.body(head, 0, length)

    def body(self, head: str, number: int, length: int) -> bytes:
        text = f"{TEXT}{number}"
        if "/responses" in head.split("\r\n")[0]:
            part = {"type": "output_text", "text": text, "annotations": []}
            output = [{"type": "message", "role": "assistant", "content": [part]}]
            usage = {"input_tokens": 1500, "output_tokens": 120}
            return json.dumps(
                {"status": "completed", "model": "m", "output": output, "usage": usage}
            ).encode()
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 1500, "completion_tokens": 120}
        return json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode()


def start_stub(faults: float = 0.0, seed: int = 0) -> tuple[subprocess.Popen[str], int]:
    """The stub's process and port."""
    stub = subprocess.Popen(
        [sys.executable, __file__, "--stub", str(faults), str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert stub.stdout
    return stub, int(stub.stdout.readline())


def make_pictures(folder: Path) -> list[Path]:
    """Smooth noise, half of it PNG and half JPEG."""
    rng, found = np.random.default_rng(0), []
    for k in range(PICTURES):
        noise = Image.fromarray(rng.integers(0, 255, (9, 16, 3), dtype=np.uint8))
        path = folder / f"{k}.{'jpg' if k % 2 else 'png'}"
        noise.resize(SIZE, Image.Resampling.BICUBIC).save(path)
        found.append(path)
    return found


def make_requests(pictures: list[Path], calls: int) -> list[Request]:
    return [Request(str(k), f"{PROMPT}{k}", (pictures[k % PICTURES],), "local_only") for k in range(calls)]


def our_engine(
    port: int, ledger: Ledger, api: str, concurrency: int, host: str = "127.0.0.1"
) -> LedgerEngine:
    """All that a real run has."""
    account = Account(ledger, Budget(money=1e6, price=read_prices()["gpt-5.1"]))
    engine = OpenAIEngine(
        f"http://{host}:{port}/v1",
        "m",
        api=api,
        api_key="sk-benchmark",
        concurrency=concurrency,
        timeout_s=1,
        max_attempts=10,
        backoff_s=0.05,
        pace=Pace(),
        account=account,
    )
    return LedgerEngine(engine, ledger)


def ours(
    port: int, requests: list[Request], folder: Path, api: str, concurrency: int, host: str = "127.0.0.1"
) -> int:
    ledger = Ledger(folder / "ledger.sqlite")
    engine = our_engine(port, ledger, api, concurrency, host)
    good = sum(c.finish_reason == "stop" for _, (c,) in engine.generate(requests, SAMPLING))
    ledger.close()
    return good


def bare(port: int, requests: list[Request], folder: Path, api: str, concurrency: int) -> int:
    """A plain loop: read the picture, send, keep the text; neither guard nor ledger."""
    kinds = {".png": "image/png", ".jpg": "image/jpeg"}

    def body(request: Request) -> dict[str, object]:
        data = base64.b64encode(request.images[0].read_bytes()).decode()
        url = f"data:{kinds[request.images[0].suffix]};base64,{data}"
        if api == "responses":
            parts = [
                {"type": "input_image", "image_url": url},
                {"type": "input_text", "text": request.prompt},
            ]
            return {"model": "m", "input": [{"role": "user", "content": parts}], "max_output_tokens": 600}
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": request.prompt}]
        return {"model": "m", "messages": [{"role": "user", "content": parts}], "max_tokens": 600}

    async def run() -> int:
        path = "/responses" if api == "responses" else "/chat/completions"
        rest, texts = iter(requests), []
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        async with httpx.AsyncClient(limits=limits, trust_env=False, timeout=None) as client:

            async def work() -> None:
                for request in rest:
                    answer = await client.post(f"http://127.0.0.1:{port}/v1{path}", json=body(request))
                    texts.append(answer.json())

            await asyncio.gather(*(work() for _ in range(concurrency)))
        return len(texts)

    return asyncio.run(run())


def rates(args: argparse.Namespace) -> None:
    stub, port = start_stub()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            requests = make_requests(make_pictures(folder), args.calls)
            ways = {
                "bare httpx loop": bare,
                "surgr1 engine, ledger on": ours,
                "the same, host by its name": partial(ours, host="localhost"),
            }
            found: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(args.repeats):
                for way, ask in ways.items():
                    out = folder / f"{turn} {way}"
                    out.mkdir()
                    start = time.perf_counter()
                    assert ask(port, requests, out, args.api, args.concurrency) == args.calls
                    found[way].append(args.calls / (time.perf_counter() - start))
    finally:
        stub.kill()
        stub.wait()
    for way, values in found.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"{way:28} {statistics.median(values):7.0f} requests/s ({spread})")
    base, *others = found
    for way in others:
        ratio = statistics.median(b / a for a, b in zip(found[base], found[way], strict=True))
        print(f"{way} / {base}: {ratio:.2f}")
    print(f"{args.api}, concurrency {args.concurrency}, latency 50 ms, {args.calls} calls")


def child(port: int, folder: Path, calls: int, api: str, concurrency: int) -> None:
    """Ask for what lacks. Says when the first answer has come, and at the end how each request ended."""
    ledger = Ledger(folder / "ledger.sqlite")
    pictures = sorted(folder.glob("[0-9]*.*g"))
    ended: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    answers = our_engine(port, ledger, api, concurrency).generate(make_requests(pictures, calls), SAMPLING)
    for request, (completion,) in answers:
        if not ended:
            print("begun", flush=True)
        ended[request.request_id] += 1
        reasons[completion.finish_reason] += 1
    print(json.dumps([len(ended), max(ended.values()), dict(reasons)]), flush=True)


def faults(args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    stub, port = start_stub(0.05, args.seed)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_pictures(folder)
            command = [sys.executable, __file__, "--child", str(port), name, str(args.calls), args.api]
            killed = 0
            while True:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                assert process.stdout
                first = process.stdout.readline()
                if killed == args.kills or first != "begun\n":
                    break
                time.sleep(rng.uniform(0, 2 * args.calls / 400 / args.kills * 0.8))
                process.send_signal(signal.SIGKILL)
                process.communicate()
                killed += 1
            last = process.communicate()[0].strip().splitlines()[-1]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/bills") as answer:
                billed, counts = json.load(answer)
            db = sqlite3.connect(folder / "ledger.sqlite")
            states = Counter(dict(db.execute("SELECT state, COUNT(*) FROM calls GROUP BY state").fetchall()))
            calls = {i for (i,) in db.execute("SELECT id FROM calls WHERE state = 'answered'")}
            answers = db.execute("SELECT COUNT(*) FROM completions").fetchone()[0]
            spent = db.execute("SELECT tokens, open_tokens FROM spending").fetchone()
    finally:
        stub.kill()
        stub.wait()
    ended, most, reasons = json.loads(last)
    print(f"kills {killed}; the stub met {counts}")
    print(f"requests {args.calls}: ended {ended}, each {most} time, as {reasons}")
    print(f"billed {len(billed)}, calls in the ledger {dict(states)}, answers {answers}")
    print(f"tokens billed {counts['billed'] * 1620}, spent by the ledger {spent[0]}, open {spent[1]}")
    assert killed == args.kills, "too few kills: ask for more calls"
    assert (ended, most, reasons) == (args.calls, 1, {"stop": args.calls})
    assert set(billed) == calls and len(billed) == answers == args.calls == counts["billed"]
    assert states == {"answered": args.calls} and spent == (args.calls * 1620, 0)
    print("every request ended once, and what was billed is what was asked and answered")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--api", choices=["chat", "responses"], default="chat")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stub", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stub:
        asyncio.run(Stub(float(args.stub[0]), int(args.stub[1])).serve())
    elif args.child:
        port, folder, calls, api = args.child
        child(int(port), Path(folder), int(calls), api, args.concurrency)
    elif args.faults:
        args.calls = args.calls or 4000
        faults(args)
    else:
        args.calls = args.calls or 3000
        rates(args)


if __name__ == "__main__":
    main()
