"""A model as teacher when things go wrong: a process that is killed at random moments, an endpoint that is
away, a budget that is spent, data that may not leave. What was paid is never paid again, what was not
answered is not decided.
"""

import hashlib
import json
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from teacher_stub import Stub, World

from surgr1.corpora.grid import prepare_image
from surgr1.corpora.sources import Source, read_source
from surgr1.engines.budget import Account, Budget, BudgetError, most_usage
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.simulator.world import SimPlan, Tree, simulate
from surgr1.synthesis import synthesize as module
from surgr1.synthesis.conversations import read_conversations
from surgr1.synthesis.store import TraceStore
from surgr1.synthesis.synthesize import SynthesisError, synthesize
from surgr1.synthesis.teachers import ModelTeacher, teacher_requests, teacher_sampling

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


def engine(url: str, ledger: Ledger, budget: Budget = Budget(), **settings) -> LedgerEngine:  # noqa: B008
    settings = {"concurrency": 4, "max_attempts": 5, "backoff_s": 0.005} | settings
    return LedgerEngine(OpenAIEngine(url, "m", account=Account(ledger, budget), **settings), ledger)


def answered(folder: Path) -> list[str]:
    """Ids of the calls that the ledger holds an answer of."""
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as db:
        return sorted(i for (i,) in db.execute("SELECT id FROM calls WHERE state = 'answered'"))


# SIGKILL

CHILD = """
import pickle, sys
from pathlib import Path
from surgr1.engines.budget import Account
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.synthesis import synthesize as module
from surgr1.synthesis.teachers import ModelTeacher

module._AT_ONCE = 4
folder, url = Path(sys.argv[1]), sys.argv[2]
samples, images = pickle.loads((folder / "world.pickle").read_bytes())
ledger = Ledger(folder / "ledger.sqlite")
live = OpenAIEngine(url, "m", concurrency=4, backoff_s=0.005, account=Account(ledger))
teacher = ModelTeacher(LedgerEngine(live, ledger), statistics={}, at_once=16)
module.synthesize(samples, images, teacher, folder / "traces")
"""


def mood_of(sample_id: str) -> str:
    """For one in six the first trace is bad, for another one every trace."""
    return {0: "mends", 1: "never"}.get(hashlib.sha256(sample_id.encode()).digest()[0] % 6, "good")


def test_a_synthesis_killed_four_times_decides_every_sample_once_and_pays_every_call_once(
    small, tmp_path
) -> None:
    """60 samples at an endpoint that fails one request in ten, before or after it has done the work."""
    samples, images = small[0][:60], small[1]
    moods = {s.sample_id: mood_of(s.sample_id) for s in samples}
    assert Counter(moods.values()).keys() == {"good", "mends", "never"}
    (tmp_path / "world.pickle").write_bytes(
        pickle.dumps((samples, {s.sample_id: images[s.sample_id] for s in samples}))
    )
    draw, stored = random.Random(7), [0]
    with Stub((samples, images), moods, faults=0.1, latency=0.01, seed=3) as stub:
        command = [sys.executable, "-c", CHILD, str(tmp_path), stub.url]
        for _ in range(4):
            # Some 80 calls are needed; each kill comes somewhere after the next eight to twelve requests,
            # however slow this process is.
            until = stub.arrived + draw.randrange(8, 13)
            stub.limit = until + 6
            child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            while stub.arrived < until and child.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.random() * 0.02)
            child.send_signal(signal.SIGKILL)
            _, errors = child.communicate()
            assert child.returncode == -signal.SIGKILL, errors
            with TraceStore(tmp_path / "traces") as store:
                rows = list(store.every())
            assert len({(d.sample_id, d.attempt) for d in rows}) == len(rows) >= stored[-1]
            stored.append(len(rows))
            # Paid calls whose answer a kill cut off are open, not forgotten.
            assert set(answered(tmp_path)) <= set(stub.bills)
        assert 0 < stored[-1] < 60, "the kills came in the middle"
        stub.limit = 10**9
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        arrived = stub.arrived
        with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
            teacher = ModelTeacher(engine(stub.url, ledger), statistics={})
            report = synthesize(samples, images, teacher, tmp_path / "traces")
        assert stub.arrived == arrived, "nothing is asked of what is decided"
    accepted = {c.sample_id: c for c in read_conversations(tmp_path / "traces" / "accepted.parquet")}
    lines = (tmp_path / "traces" / "rejected.jsonl").read_text("utf-8").splitlines()
    rejected = [json.loads(line)["sample_id"] for line in lines]
    assert sorted([*accepted, *rejected]) == sorted(moods), "each exactly once"
    assert sorted(rejected) == sorted(i for i, m in moods.items() if m == "never")
    assert (report.accepted, report.rejected) == (len(accepted), len(rejected))
    assert report.reasons == {"no_leak": len(rejected)}
    with TraceStore(tmp_path / "traces") as store:
        found = {i: [(d.attempt, d.accepted) for d in ds] for i, ds in store.of(moods).items()}
    ends = {"good": [(0, True)], "mends": [(0, False), (1, True)], "never": [(0, False), (1, False)]}
    assert found == {i: ends[m] for i, m in moods.items()}
    assert {i: c.provenance["attempt"] for i, c in accepted.items()} == {
        i: "1" if m == "mends" else "0" for i, m in moods.items() if m != "never"
    }
    # Billed = answered in the ledger = traces that were decided; nothing is left open.
    assert answered(tmp_path) == sorted(stub.bills)
    assert Counter(i for i, _ in stub.bills.values()) == {i: len(f) for i, f in found.items()}
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        spent = ledger.spending()
    assert (spent.tokens, spent.open_tokens) == (7 * len(stub.bills), 0)


# An endpoint that is away


def teacher_at(url: str, ledger: Ledger, budget: Budget = Budget(), **settings) -> ModelTeacher:  # noqa: B008
    return ModelTeacher(engine(url, ledger, budget, **settings), statistics={}, at_once=50)


def test_an_endpoint_that_goes_away_stops_the_synthesis_and_decides_nothing_unanswered(
    small, tmp_path, monkeypatch
) -> None:
    """It answers 30 of 150, then never again: after 100 errors in a row the synthesis stops. When it is back
    only what lacks is asked.
    """
    monkeypatch.setattr(module, "_AT_ONCE", 8)
    samples, images = small[0][:150], small[1]
    with (
        closing(Ledger(tmp_path / "ledger.sqlite")) as ledger,
        Stub((samples, images), stays=30) as stub,
    ):
        teacher = teacher_at(stub.url, ledger, max_attempts=1)
        with pytest.raises(SynthesisError, match=r"m left 100 requests in a row unanswered.*HTTP 503: away"):
            synthesize(samples, images, teacher, tmp_path)
        assert stub.arrived >= 130
        written = {sample for sample, _ in stub.bills.values()}
    with TraceStore(tmp_path) as store:
        rows = list(store.every())
    # An error may overtake the last answers; it is decided then, as one of those between answers.
    overtaken = {d.sample_id for d in rows} - written
    assert len(overtaken) < 8 and len(written) == 30
    assert len(rows) >= 24 and all(d.accepted for d in rows if d.sample_id in written)
    assert not (tmp_path / "accepted.parquet").exists()

    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger, Stub((samples, images)) as stub:
        report = synthesize(samples, images, teacher_at(stub.url, ledger), tmp_path)
        assert (report.accepted, report.rejected) == (150, 0)
        assert Counter(i for i, _ in stub.bills.values()) == Counter(
            s.sample_id for s in samples if s.sample_id not in written
        )
    assert len(answered(tmp_path)) == 150


def test_nobody_at_the_address_decides_nothing(small, tmp_path) -> None:
    samples, images = small[0][:110], small[1]
    with Stub((samples, images)) as stub:
        url = stub.url
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for _ in range(2):
            with pytest.raises(SynthesisError, match=r"100 requests in a row unanswered.*run again"):
                synthesize(samples, images, teacher_at(url, ledger, max_attempts=1), tmp_path)
    with TraceStore(tmp_path) as store:
        assert list(store.every()) == []
    assert answered(tmp_path) == []


def test_some_unanswered_requests_among_answered_ones_are_tried_again_like_rejected_traces(
    small, tmp_path
) -> None:
    """One attempt a call, so that each fault of the endpoint becomes an error; the second pass mends them."""
    samples, images = small[0][:60], small[1]
    with (
        closing(Ledger(tmp_path / "ledger.sqlite")) as ledger,
        Stub((samples, images), faults=0.1, seed=1) as stub,
    ):
        report = synthesize(
            samples, images, teacher_at(stub.url, ledger, max_attempts=1), tmp_path, max_attempts=6
        )
    assert (report.accepted, report.rejected) == (60, 0)
    with TraceStore(tmp_path) as store:
        rows = list(store.every())
    lost = [d for d in rows if not d.accepted]
    assert lost and all(d.reasons[0].startswith("no trace: HTTP 500") and d.text == "" for d in lost)
    assert Counter(d.sample_id for d in rows if d.accepted) == Counter(s.sample_id for s in samples)


def test_half_a_character_in_an_answer_costs_that_trace_and_not_the_synthesis(small, tmp_path) -> None:
    """JSON allows half of a surrogate pair: an answer cut at its limit of tokens may end so."""
    samples, images = small[0][:5], small[1]
    with (
        closing(Ledger(tmp_path / "ledger.sqlite")) as ledger,
        Stub((samples, images), {samples[2].sample_id: "half"}) as stub,
    ):
        report = synthesize(samples, images, teacher_at(stub.url, ledger), tmp_path)
    assert (report.accepted, report.rejected) == (4, 1)
    with TraceStore(tmp_path) as store:
        kept = store.of([samples[2].sample_id])[samples[2].sample_id]
    assert len(kept) == 2 and all(d.text.startswith("<think>Level 1:") for d in kept)


# A budget


def test_a_spent_budget_keeps_what_was_decided_and_more_of_it_goes_on(small, tmp_path, monkeypatch) -> None:
    """Enough for 21 calls of 7 tokens, and for what a twenty-second may take at most less one token."""
    monkeypatch.setattr(module, "_AT_ONCE", 8)
    samples, images = small[0][:40], small[1]
    requests = teacher_requests(samples, images, {}, {})
    sampling = teacher_sampling(1024, 0.7, attempt=0)
    mosts = [sum(most_usage(r, sampling, None)[:2]) for r in requests]
    budget = Budget(tokens=21 * 7 + min(mosts) - 1)
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger, Stub((samples, images)) as stub:
        for _ in range(2):
            with pytest.raises(BudgetError, match="raise the budget and start again"):
                synthesize(samples, images, teacher_at(stub.url, ledger, budget), tmp_path)
            assert 0 < len(stub.bills) <= 21
            bills = len(stub.bills)
            with TraceStore(tmp_path) as store:
                stored = list(store.every())
            assert all(d.accepted for d in stored) and bills - len(stored) < 8
            assert ledger.spending().tokens == 7 * bills <= budget.tokens
        report = synthesize(samples, images, teacher_at(stub.url, ledger), tmp_path)
        assert (report.accepted, report.rejected) == (40, 0)
        assert Counter(i for i, _ in stub.bills.values()) == Counter(s.sample_id for s in samples)
        assert stub.arrived == 40, "what was answered is not asked again"


# Data that may not leave

WATCHED = """
import json, pickle, socket, sys
from pathlib import Path

reached = []

def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        reached.append(args[1][0])
        if not args[1][0].startswith("127."):
            raise ConnectionRefusedError("the test goes no further")

sys.addaudithook(watch)
folder, live_url, batch_url, remote = Path(sys.argv[1]), *sys.argv[2:]
real = socket.getaddrinfo
names = {"far.example": remote, "near.example": "127.0.0.1"}
socket.getaddrinfo = lambda host, *a, **k: real(names.get(host, host), *a, **k)

from surgr1.engines.batch_engine import BatchEngine
from surgr1.engines.budget import Account
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.wire import Wire
from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.synthesize import synthesize
from surgr1.synthesis.teachers import ModelTeacher

worlds = pickle.loads((folder / "world.pickle").read_bytes())

def tried(name, world, url, batch=False):
    out = folder / name
    samples, images = worlds[world]
    ledger = Ledger(out / "ledger.sqlite")
    if batch:
        engine = BatchEngine(Wire(url, "m"), ledger, poll_s=0.01, patience_s=0.05, attempts=1)
    else:
        live = OpenAIEngine(url, "m", backoff_s=0.001, max_attempts=1, account=Account(ledger))
        engine = LedgerEngine(live, ledger)
    reached.clear()
    try:
        report = synthesize(samples, images, ModelTeacher(engine, statistics={}), out, max_attempts=1)
        outcome = [report.accepted, report.rejected]
    except SurgR1Error as error:
        outcome = type(error).__name__
    files = sorted(p.name for p in out.glob("ledger.sqlite.batches/**/*") if p.is_file() and p.stat().st_size)
    with ledger._lock:
        calls = ledger._db.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
    return [outcome, sorted(set(reached)), calls, files]

port = live_url.split(":")[2]
print(json.dumps({
    "api, far": tried("a", "mixed", f"http://{remote}/v1"),
    "api, far by name": tried("b", "mixed", f"http://far.example:{port}"),
    "batch, far": tried("c", "mixed", f"https://{remote}/v1", batch=True),
    "batch, far by name": tried("d", "mixed", "https://far.example/v1", batch=True),
    "api, near": tried("e", "mixed", live_url),
    "api, near by name": tried("f", "mixed", f"http://near.example:{port}"),
    "batch, near": tried("g", "mixed", batch_url, batch=True),
    "public, far": tried("h", "public", f"http://{remote}/v1"),
}))
"""


def test_local_only_samples_reach_a_teacher_on_this_machine_and_no_other(
    small, tmp_path, monkeypatch
) -> None:
    """One sample in six is local_only: nothing of the six is sent far away, by no kind of teacher. Watched at
    the sockets of a process of its own, where the same call with public samples does reach the far address.
    """
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "engines")
    from batch_server import BatchServer, answer

    public, images = small[0][:6], small[1]
    mixed = [*public[:3], replace(public[3], policy="local_only"), *public[4:]]
    worlds = {"public": (public, images), "mixed": (mixed, images)}
    (tmp_path / "world.pickle").write_bytes(pickle.dumps(worlds))
    with Stub((public, images)) as stub, BatchServer() as batches:
        batches.respond = lambda line: {
            "status_code": 200,
            "request_id": "r",
            "body": answer(stub.written(line["body"]["messages"][-1]["content"])[1]),
        }
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, str(tmp_path), stub.url, batches.url, REMOTE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    refused = ["PolicyError", [], 0, []]
    assert json.loads(done.stdout) == {
        "api, far": refused,
        "api, far by name": refused,
        "batch, far": refused,
        "batch, far by name": refused,
        "api, near": [[6, 0], ["127.0.0.1"], 6, []],
        "api, near by name": [[6, 0], ["127.0.0.1"], 6, []],
        "batch, near": [[6, 0], ["127.0.0.1"], 6, []],
        # Six errors are no hundred: the samples are rejected.
        "public, far": ["SynthesisError", [REMOTE], 6, []],
    }
    for name in "abcd":
        with TraceStore(tmp_path / name) as store:
            assert list(store.every()) == [], "nothing is decided"
