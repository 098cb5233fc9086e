"""The batch engine against a real server that misbehaves; what was bought is what the server's books say."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from batch_server import (
    CUT,
    HOLD_AFTER,
    HOLD_BEFORE,
    LOST,
    BatchServer,
    Refusal,
    answer,
    prompt_of,
    refused,
    served,
)
from PIL import Image

from surgr1.engines import batch_run, guard
from surgr1.engines.batch_engine import BatchEngine, BatchError
from surgr1.engines.batch_results import Results, read_results
from surgr1.engines.budget import Budget, BudgetError
from surgr1.engines.guard import PolicyError
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.types import Completion, Request, Sampling
from surgr1.engines.wire import EndpointError, Wire
from surgr1.ontology.errors import Stopped

QUICK = {"poll_s": 0.004, "settle_s": 0.04, "patience_s": 0.0, "attempts": 4}


@pytest.fixture(autouse=True)
def ctrl_c():
    """Also where the tests run in the background, which ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def server():
    with BatchServer() as running:
        yield running


def engine_at(url: str, ledger: Path, *, wire=(), **settings) -> BatchEngine:
    return BatchEngine(Wire(url, "m", **dict(wire)), Ledger(ledger), **QUICK | settings)


def asking(*prompts: str, policy="public", **fields) -> list[Request]:
    return [Request(p, p, (), policy, **fields) for p in prompts]


def texts(found) -> dict[str, list[str]]:
    """Prompt to the texts of its completions; an error as "! " and its message."""
    return {
        r.prompt: [f"! {c.error}" if c.finish_reason == "error" else c.text for c in cs] for r, cs in found
    }


def ask(server, tmp_path, *prompts: str, sampling=Sampling(), **settings) -> dict[str, Completion]:  # noqa: B008
    found = engine_at(server.url, tmp_path / "l.db", **settings).generate(asking(*prompts), sampling)
    return {r.prompt: cs[0] for r, cs in found}


def left_in(tmp_path: Path) -> set[str]:
    return {p.name for p in (tmp_path / "l.db.batches").iterdir()}


# The way it should be


def test_answers_carry_their_tokens_and_the_price_is_paid_once(server, tmp_path) -> None:
    found = ask(server, tmp_path, "a", "b")
    assert [found[p].text for p in "ab"] == ["re: a", "re: b"]
    one = found["a"]
    assert (one.finish_reason, one.tokens_in, one.tokens_out, one.attempts) == ("stop", 50, 7, 1)
    assert (one.engine, one.model, one.error) == ("openai-batch", "m", "")
    assert server.billed_prompts() == {"a": 1, "b": 1}
    spending = Ledger(tmp_path / "l.db").spending()
    assert (spending.tokens, spending.open_tokens) == (2 * 57, 0)


def test_a_batch_file_has_the_lines_that_the_reference_asks_for(server, tmp_path) -> None:
    """custom_id (unique, at most 64 characters), method, url, body; purpose batch; the batch's own fields."""
    picture = tmp_path / "p.png"
    Image.new("RGB", (28, 28), "red").save(picture)
    requests = [Request("r", "What?", (picture,), "public", system="You look.")]
    engine = engine_at(server.url, tmp_path / "l.db", wire={"key": "sk-12345678"})
    ((_, found),) = engine.generate(
        requests, Sampling(max_new_tokens=9, temperature=0.5, n=3, seed=4, first=2)
    )
    assert [c.text for c in found] == ["re: What?"] * 3
    ((name, lines),) = server.lines.items()
    assert len({x["custom_id"] for x in lines}) == 3 and all(len(x["custom_id"]) <= 64 for x in lines)
    assert {(x["method"], x["url"]) for x in lines} == {("POST", "/v1/chat/completions")}
    assert [x["body"]["seed"] for x in lines] == [6, 7, 8]
    body = lines[0]["body"]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 9, 0.5)
    system, turn = body["messages"]
    assert system == {"role": "system", "content": "You look."}
    assert turn["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    batch = server.batches[name]
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    assert list(batch["metadata"]) == ["surgr1_batch"]
    assert {h["authorization"] for h in server.headers} == {"Bearer sk-12345678"}


def test_the_responses_api_goes_through_batches_as_well(server, tmp_path) -> None:
    def respond(line: dict) -> dict:
        text = line["body"]["input"][0]["content"][-1]["text"]
        output = [{"type": "message", "content": [{"type": "output_text", "text": f"re: {text}"}]}]
        usage = {"input_tokens": 5, "output_tokens": 2}
        return {"status_code": 200, "body": {"status": "completed", "output": output, "usage": usage}}

    server.respond = respond
    found = ask(server, tmp_path, "a", wire={"api": "responses"})
    assert (found["a"].text, found["a"].tokens_in, found["a"].tokens_out) == ("re: a", 5, 2)
    ((_, lines),) = server.lines.items()
    assert lines[0]["url"] == "/v1/responses" and lines[0]["body"]["store"] is False
    assert next(iter(server.batches.values()))["endpoint"] == "/v1/responses"


def test_files_are_split_by_the_number_of_lines(server, tmp_path) -> None:
    found = ask(server, tmp_path, *"abcdefg", max_requests=3)
    assert {p: c.text for p, c in found.items()} == {p: f"re: {p}" for p in "abcdefg"}
    assert [len(lines) for lines in server.lines.values()] == [3, 3, 1]


def test_files_are_split_by_their_bytes(server, tmp_path) -> None:
    prompts = [c * 2000 for c in "abcdefg"]
    found = ask(server, tmp_path, *prompts, max_bytes=5000)
    assert {p: c.text for p, c in found.items()} == {p: f"re: {p}" for p in prompts}
    sizes = [len(batch["data"]) for batch in server.batches.values()]
    assert [len(lines) for lines in server.lines.values()] == [2, 2, 2, 1] and max(sizes) <= 5000


def test_a_line_that_fits_no_file_is_named_before_anything_is_bought(server, tmp_path) -> None:
    with pytest.raises(BatchError, match=r"request x+ alone makes a line of 2,\d+ bytes.* holds 1,000"):
        ask(server, tmp_path, "x" * 2000, max_bytes=1000)
    assert not server.calls


def test_equal_requests_are_bought_once_and_answered_each(server, tmp_path) -> None:
    requests = [Request("1", "a", (), "public"), Request("2", "a", (), "public")]
    found = list(engine_at(server.url, tmp_path / "l.db").generate(requests, Sampling()))
    assert {r.request_id: c[0].text for r, c in found} == {"1": "re: a", "2": "re: a"}
    assert server.billed_prompts() == {"a": 1}


def test_what_was_answered_is_not_asked_again_and_what_lacks_is(server, tmp_path) -> None:
    ask(server, tmp_path, "a", "b")
    engine = engine_at(server.url, tmp_path / "l.db")
    assert texts(engine.generate(asking("b", "a", "c"), Sampling(n=2))) == {
        p: [f"re: {p}"] * 2 for p in "abc"
    }
    assert server.billed_prompts() == {"a": 2, "b": 2, "c": 2}
    before = dict(server.calls)
    assert texts(engine.generate(asking("a"), Sampling(n=2))) == {"a": ["re: a"] * 2}
    assert dict(server.calls) == before


def test_batches_are_yielded_as_they_end(server, tmp_path) -> None:
    """The second one is held back until the first one's answers are here."""
    engine = engine_at(server.url, tmp_path / "l.db", max_requests=1)
    slow = threading.Event()
    server.shown = lambda batch: (
        batch | ({} if slow.is_set() or batch["id"] == "batch_2" else {"status": "in_progress"})
    )
    answers = engine.generate(asking("a", "b"), Sampling())
    assert next(answers)[0].prompt == "a"
    slow.set()
    assert [r.prompt for r, _ in answers] == ["b"]


def test_no_file_of_requests_stays_here_or_with_the_provider(server, tmp_path) -> None:
    ask(server, tmp_path, "a", "b", max_requests=1)
    assert left_in(tmp_path) == {"lock"}
    assert {f["purpose"] for f in server.files.values()} == {"batch_output"}


# What goes wrong at the provider and passes


BUSY = Refusal(503, "busy")
PASSING = [
    Refusal(500),
    BUSY,
    Refusal(429, headers={"retry-after": "0.01"}),
    LOST,
    CUT,
    Refusal(200, body=b"<html>"),
]


@pytest.mark.parametrize("step", ["upload", "create", "poll", "download"])
def test_failures_that_pass_at_any_step_cost_nothing_twice(server, tmp_path, step) -> None:
    """A failure each time, up to the last attempt, at every route on the way. A page that is no JSON is an
    answer's content only where a file is downloaded: there it is a line that cannot be read.
    """
    for fault in PASSING:
        for also in ("list_files", "list_batches"):
            server.faults[also].append(BUSY)
        server.faults[step] += [fault, fault, None]
        prompt = f"{PASSING.index(fault)}"
        assert ask(server, tmp_path, prompt)[prompt].text == f"re: {prompt}"
    assert set(server.billed_prompts().values()) == {1}
    assert left_in(tmp_path) == {"lock"}


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept, self.time = 0.0, [], time.time

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def test_a_pause_that_the_server_asks_for_is_kept(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(batch_run, "time", clock := Clock())
    server.faults["poll"].append(Refusal(429, headers={"retry-after": "500"}))
    ask(server, tmp_path, "a")
    assert 500 < max(clock.slept) < 501


def test_looks_at_a_batch_grow_rarer_while_nothing_changes(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(batch_run, "time", clock := Clock())
    server.polls = 30
    ask(server, tmp_path, "a", poll_s=30)
    pauses = [s for s in clock.slept if s]
    assert pauses[:2] == [30, 30] and pauses == pytest.approx(sorted(pauses))
    assert pauses[-1] == pytest.approx(300)


def test_an_upload_whose_answer_was_lost_is_found_by_its_name(server, tmp_path) -> None:
    server.page = 1
    server.faults["upload"].append(LOST)
    server._file("other.jsonl", b"x", "batch")
    assert ask(server, tmp_path, "a")["a"].text == "re: a"
    assert server.calls["upload"] == 1 and server.calls["list_files"] == 1
    ask(server, tmp_path, "b")
    assert server.calls["upload"] == 2


def test_a_file_of_our_name_with_other_bytes_is_not_used(server, tmp_path) -> None:
    """The upload broke off, and the provider kept the half of it."""
    server.faults["upload"].append(CUT)
    whole = server._file
    server._file = lambda name, data, purpose: whole(name, data[:20], purpose)
    engine = engine_at(server.url, tmp_path / "l.db", say=lambda _: None)
    answers = engine.generate(asking("a"), Sampling())
    listed = server._listing

    def mended(items, query):
        server._file = whole
        return listed(items, query)

    server._listing = mended
    assert texts(answers) == {"a": ["re: a"]}
    assert server.calls["upload"] == 2 and server.billed_prompts() == {"a": 1}


def test_a_batch_whose_answer_was_lost_is_found_among_many(server, tmp_path) -> None:
    ask(server, tmp_path, *"abcde", max_requests=1)
    server.page = 2
    server.faults["create"].append(LOST)
    ask(server, tmp_path, "f")
    assert len(server.batches) == 6 and server.billed_prompts() == dict.fromkeys("abcdef", 1)


def test_a_batch_that_the_list_shows_late_is_waited_for(server, tmp_path) -> None:
    server.lag = 3
    server.faults["create"].append(LOST)
    assert ask(server, tmp_path, "a", settle_s=5.0)["a"].text == "re: a"
    assert len(server.batches) == 1 and server.calls["list_batches"] == 4


def test_a_batch_is_found_by_its_file_where_no_metadata_is_kept(server, tmp_path) -> None:
    server.shown = lambda batch: {k: v for k, v in batch.items() if k != "metadata"}
    server.faults["create"].append(LOST)
    ask(server, tmp_path, "a")
    assert len(server.batches) == 1 and server.billed_prompts() == {"a": 1}


@pytest.mark.parametrize("status", [404, 405])
def test_an_endpoint_that_lists_no_batches_is_not_guessed_at(server, tmp_path, status) -> None:
    """Until the user says that the batch is not there."""
    server.faults["create"].append(LOST)
    server.faults["list_batches"] += [Refusal(status)] * 2
    with pytest.raises(BatchError, match=r"may have been created.* does not list its batches") as raised:
        ask(server, tmp_path, "a")
    with pytest.raises(BatchError, match="may have been created"):
        ask(server, tmp_path, "a")
    assert len(server.batches) == 1
    name = str(raised.value).split("forget('")[1].split("'")[0]
    engine_at(server.url, tmp_path / "l.db").forget(name)
    assert ask(server, tmp_path, "a")["a"].text == "re: a"
    assert len(server.batches) == 2


def test_a_listing_that_never_ends_is_not_believed(server, tmp_path) -> None:
    ask(server, tmp_path, "a")
    server.lag = 9
    server.faults["create"].append(LOST)
    listed = server._listing
    server._listing = lambda items, query: (200, listed(items, {})[1] | {"has_more": True})
    with pytest.raises(BatchError, match=r"may have been created.* does not get beyond batch_2"):
        ask(server, tmp_path, "b")


@pytest.mark.parametrize(
    "message",
    [
        "Cannot find file file-1, or project does not have access to it.",
        "The input file 'file-1' is in 'pending' state. Only files with status 'Processed' are accepted",
    ],
)
def test_a_file_that_the_provider_has_not_read_yet_is_waited_for(server, tmp_path, message) -> None:
    server.faults["create"] += [Refusal(400, message)] * 2
    assert ask(server, tmp_path, "a")["a"].text == "re: a"
    server.faults["create"] += [Refusal(400, message)] * 9
    with pytest.raises(BatchError, match=r"was refused.*Nothing of it was bought"):
        ask(server, tmp_path, "b")
    server.faults["create"].clear()
    assert ask(server, tmp_path, "b")["b"].text == "re: b"
    assert server.billed_prompts() == {"a": 1, "b": 1}


NO_ROOM = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m", "line": None}


def test_a_batch_for_which_there_is_no_room_waits_and_no_more_are_written(server, tmp_path) -> None:
    server.outcomes += ["completed", NO_ROOM, NO_ROOM]
    server.polls = 3
    found = ask(server, tmp_path, *"abcd", max_requests=1)
    assert {p: c.text for p, c in found.items()} == {p: f"re: {p}" for p in "abcd"}
    assert server.billed_prompts() == dict.fromkeys("abcd", 1)
    assert len(server.files) == 4 and server.calls["upload"] == 4


@pytest.mark.parametrize("status", [400, 429, None])
def test_a_batch_that_never_finds_room_is_given_up_unpaid(server, tmp_path, status) -> None:
    """Some providers say so when the batch is created, others when it is validated."""
    if status:
        server.faults["create"] += [Refusal(status, "Enqueued token limit reached")] * 9
    else:
        server.outcomes += [NO_ROOM] * 9
    with pytest.raises(BatchError, match=r"no room for its 2 requests.*Enqueued token limit.*max_requests"):
        ask(server, tmp_path, "a", "b")
    server.outcomes.clear()
    server.faults["create"].clear()
    found = ask(server, tmp_path, "a", "b", max_requests=1)
    assert {c.text for c in found.values()} == {"re: a", "re: b"}
    assert server.billed_prompts() == {"a": 1, "b": 1}


def test_a_failed_batch_is_not_taken_for_the_one_whose_answer_was_lost(server, tmp_path) -> None:
    """The list shows the first attempt, for which there was no room, and not yet the second one."""
    server.outcomes.append(NO_ROOM)
    server.faults["create"] += [None, LOST]
    real = server._create

    def create(asked: dict):
        server.lag = 2 * len(server.batches)
        return real(asked)

    server._create = create
    assert ask(server, tmp_path, "a", settle_s=5.0)["a"].text == "re: a"
    assert server.billed_prompts() == {"a": 1} and len(server.batches) == 2
    keys = [h["idempotency-key"] for h in server.headers if h["step"] == "create"]
    assert len(set(keys)) == 2


def test_a_batch_that_was_refused_for_haste_is_not_looked_for(server, tmp_path) -> None:
    server.faults["create"] += [Refusal(429), Refusal(429)]
    ask(server, tmp_path, "a")
    assert server.calls["create"] == 3 and server.calls["list_batches"] == 0


def test_an_output_file_that_is_not_there_yet_is_waited_for(server, tmp_path) -> None:
    server.faults["download"] += [Refusal(404), Refusal(404)]
    assert ask(server, tmp_path, "a")["a"].text == "re: a"


def test_other_servers_words_for_the_same_are_understood(server, tmp_path) -> None:
    """Capitals, and empty names for files that are not there."""
    server.shown = lambda b: b | {"status": b["status"].upper(), "error_file_id": b["error_file_id"] or ""}
    assert ask(server, tmp_path, "a")["a"].text == "re: a"


# Lines that failed, and batches that did not finish


def only(*prompts: str, otherwise=None):
    """Responses: good ones for these prompts, `otherwise` for the rest (None: not run)."""
    return lambda line: served(line) if prompt_of(line) in prompts else otherwise


def test_lines_that_failed_are_errors_and_can_be_asked_again(server, tmp_path) -> None:
    server.respond = only("a", otherwise=refused(500, "the model fell over"))
    found = ask(server, tmp_path, "a", "b")
    assert found["a"].text == "re: a"
    assert (found["b"].finish_reason, found["b"].text, found["b"].error) == (
        "error",
        "",
        "HTTP 500: the model fell over",
    )
    assert (found["b"].tokens_in, found["b"].tokens_out) == (0, 0)
    server.respond = served
    assert ask(server, tmp_path, "a", "b")["b"].text == "re: b"
    assert server.billed_prompts() == {"a": 1, "b": 1}


def test_a_batch_of_which_every_line_failed_has_an_error_file_alone(server, tmp_path) -> None:
    server.respond = only(otherwise=refused(400, "the picture is too large"))
    found = ask(server, tmp_path, "a", "b")
    assert {c.error for c in found.values()} == {"HTTP 400: the picture is too large"}
    assert server.calls["download"] == 1 and left_in(tmp_path) == {"lock"}


def test_a_refusal_by_the_provider_is_blocked_not_an_error(server, tmp_path) -> None:
    server.respond = only("a", otherwise=refused(400, "no", code="content_filter"))
    found = ask(server, tmp_path, "a", "b")["b"]
    assert (found.finish_reason, found.error) == ("blocked", "no")
    server.respond = served
    assert ask(server, tmp_path, "b")["b"].finish_reason == "blocked"


def test_an_answer_that_is_of_no_use_is_paid_for_and_asked_under_a_new_id(server, tmp_path) -> None:
    empty = {"status_code": 200, "body": answer("")}
    server.respond = only("a", otherwise=empty)
    found = ask(server, tmp_path, "a", "b")["b"]
    assert (found.error, found.tokens_in, found.tokens_out) == ("an answer without text", 50, 7)
    server.respond = served
    assert ask(server, tmp_path, "b")["b"].text == "re: b"
    names = [x["custom_id"] for lines in server.lines.values() for x in lines]
    assert len(set(names)) == 3
    assert Ledger(tmp_path / "l.db").spending().tokens == 3 * 57


@pytest.mark.parametrize("outcome", ["expired", "cancelled"])
def test_what_a_batch_finished_before_it_ended_is_collected(server, tmp_path, outcome) -> None:
    server.respond = only("a", "c")
    server.outcomes.append(outcome)
    found = texts(engine_at(server.url, tmp_path / "l.db").generate(asking(*"abcd"), Sampling()))
    assert (found["a"], found["c"]) == (["re: a"], ["re: c"])
    assert found["b"] == [f"! batch_{outcome}: the line is batch_{outcome}"] == found["d"]
    server.respond = served
    assert {c.text for c in ask(server, tmp_path, *"abcd").values()} == {f"re: {p}" for p in "abcd"}
    assert server.billed_prompts() == dict.fromkeys("abcd", 1)


def test_lines_of_an_expired_batch_that_no_file_names_were_not_run(server, tmp_path) -> None:
    server.respond = only("a")
    server.outcomes.append("expired")
    server.tamper_errors = lambda data: b""
    found = ask(server, tmp_path, "a", "b")
    assert found["a"].text == "re: a"
    assert found["b"].error.endswith("batch batch_2: it ended (expired) before this request was run")


def test_a_batch_without_any_result_is_all_errors(server, tmp_path) -> None:
    """Cancelled before it began."""
    server.outcomes.append("cancelled")
    server.respond = only()
    server.shown = lambda b: b | {"error_file_id": None}
    assert ask(server, tmp_path, "a")["a"].finish_reason == "error"


def test_an_output_file_in_another_order_with_strangers_and_doubles_is_read_right(server, tmp_path) -> None:
    def tamper(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)[::-1]
        stranger = json.loads(lines[0]) | {"custom_id": "somebody-else-0"}
        double = json.loads(lines[0])
        double["response"]["body"] = answer("another answer for the same line")
        nameless = {"response": {"status_code": 200, "body": answer("nobody's")}}
        return b"".join(
            [b"\n", *lines, *((json.dumps(x) + "\n").encode() for x in (stranger, double, nameless))]
        )

    server.tamper = tamper
    found = ask(server, tmp_path, *"abc")
    assert {p: c.text for p, c in found.items()} == {p: f"re: {p}" for p in "abc"}


def test_an_answer_counts_more_than_an_error_for_the_same_line(server, tmp_path) -> None:
    """In whichever file it stands, and in whichever order."""

    def tamper(data: bytes) -> bytes:
        first = json.loads(data.splitlines()[0])
        return json.dumps(first | {"response": refused(500, "oh")}).encode() + b"\n" + data

    server.tamper = tamper
    assert ask(server, tmp_path, "a")["a"].text == "re: a"


def test_answers_are_read_once_each(tmp_path) -> None:
    """Failures of a line that has an answer do not stay."""
    good, bad = {"status_code": 200, "body": answer()}, refused(500, "oh")
    lines = [
        {"custom_id": name, "response": r} for name, r in (("a", bad), ("a", good), ("a", good), ("a", bad))
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    results = Results()
    found = list(read_results(tmp_path / "x.jsonl", Wire("http://127.0.0.1", "m"), {"a"}, results))
    assert [(name, x.text) for name, x in found] == [("a", "ok")]
    assert (results.answered, results.failures) == ({"a"}, {})


BROKEN = {
    "no JSON": lambda line: b"{not json",
    "no object": lambda line: b"[1, 2]",
    "cut": lambda line: line[: len(line) // 2],
    "gone": lambda line: b"",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_line_that_cannot_be_read_is_fetched_again(server, tmp_path, how) -> None:
    """The next download is whole; then all is well."""
    fetched = []
    real = server._download

    def download(name: str):
        status, data = real(name)
        fetched.append(name)
        lines = data.splitlines()
        return status, data if len(fetched) > 2 else b"\n".join([lines[0], BROKEN[how](lines[1]), *lines[2:]])

    server._download = download
    found = ask(server, tmp_path, *"abc")
    assert {p: c.text for p, c in found.items()} == {p: f"re: {p}" for p in "abc"} and len(fetched) == 3


@pytest.mark.parametrize("how", BROKEN)
def test_a_line_that_stays_broken_is_an_error_that_is_paid_for(server, tmp_path, how) -> None:
    def tamper(data: bytes) -> bytes:
        lines = data.splitlines()
        return b"\n".join([lines[0], BROKEN[how](lines[1]), *lines[2:]])

    server.tamper = tamper
    found = ask(server, tmp_path, *"abc")
    broken = int(how != "gone")
    assert (found["a"].text, found["c"].text) == ("re: a", "re: c")
    assert f"has no line for this request ({broken} lines cannot be read, 0 are not" in found["b"].error
    most = Ledger(tmp_path / "l.db").spending().tokens - 2 * 57
    assert most > Sampling().max_new_tokens


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            {"response": None, "error": {"code": "request_timeout", "message": "slow"}},
            "request_timeout: slow",
        ),
        ({"response": None, "error": None}, "neither a response nor an error"),
        ({"response": {"status_code": "?", "body": {}}, "error": None}, "HTTP 500"),
        ({"response": {"status_code": 400}, "error": {"message": "bad"}}, "HTTP 400: bad"),
        ({"response": {"status_code": 200, "body": "text"}}, "HTTP 200 without a JSON object"),
    ],
)
def test_strange_forms_of_a_failed_line_are_errors(server, tmp_path, line, error) -> None:
    def tamper(data: bytes) -> bytes:
        first, *rest = data.splitlines()
        return b"\n".join([json.dumps(json.loads(first) | line).encode(), *rest])

    server.tamper = tamper
    found = ask(server, tmp_path, "a", "b")
    assert found["b"].text == "re: b" and error in found["a"].error


def test_a_response_without_an_envelope_is_read(server, tmp_path) -> None:
    """vLLM's documented output has the completion itself there."""
    server.respond = lambda line: served(line)
    server.tamper = lambda data: b"\n".join(
        json.dumps((x := json.loads(line)) | {"response": x["response"]["body"]}).encode()
        for line in data.splitlines()
    )
    assert ask(server, tmp_path, "a")["a"].text == "re: a"


# What does not pass


def test_a_batch_that_fails_its_validation_names_its_reasons_and_buys_nothing(server, tmp_path) -> None:
    server.outcomes.append(
        {"code": "invalid_json_line", "message": "This line is not valid JSON.", "line": 2}
    )
    with pytest.raises(BatchError) as raised:
        ask(server, tmp_path, "a", "b")
    assert str(raised.value).startswith(
        f"{server.url}: batch batch_2: it failed its validation: line 2: This"
    )
    assert "(invalid_json_line)" in str(raised.value) and "run the same command again" in str(raised.value)
    assert ask(server, tmp_path, "a", "b")["a"].text == "re: a"
    assert server.billed_prompts() == {"a": 1, "b": 1}
    assert Ledger(tmp_path / "l.db").spending().open_tokens == 0


@pytest.mark.parametrize("errors", [None, [], {"data": None}, {"data": ["x"]}])
def test_a_batch_that_fails_without_a_word_is_named(server, tmp_path, errors) -> None:
    server.outcomes.append({})
    server.shown = lambda b: b | {"errors": errors}
    with pytest.raises(BatchError, match="batch batch_2: it failed its validation: without a reason"):
        ask(server, tmp_path, "a")


@pytest.mark.parametrize(
    ("step", "refusal", "kind", "message"),
    [
        ("upload", Refusal(413, "too large"), BatchError, "its file of .* bytes was refused: HTTP 413"),
        ("upload", Refusal(401, "no key"), EndpointError, "check the API key"),
        ("upload", Refusal(404, "nothing here"), BatchError, "refused: POST /files: HTTP 404"),
        ("upload", Refusal(307, headers={"location": "http://8.8.8.8/"}), EndpointError, "not followed"),
        (
            "create",
            Refusal(400, "unknown endpoint"),
            BatchError,
            "it was refused: HTTP 400: unknown endpoint",
        ),
        ("create", Refusal(404, "no route"), BatchError, "it was refused: POST /batches: HTTP 404"),
        ("create", Refusal(402, "pay"), EndpointError, "no credit left"),
        ("poll", Refusal(403, "not yours"), EndpointError, "check the API key"),
    ],
)
def test_a_refusal_at_a_route_says_what_to_do_and_a_rerun_goes_on(
    server, tmp_path, step, refusal, kind, message
) -> None:
    server.faults[step].append(refusal)
    with pytest.raises(kind, match=message):
        ask(server, tmp_path, "a")
    assert ask(server, tmp_path, "a")["a"].text == "re: a"
    assert server.billed_prompts() == {"a": 1} and left_in(tmp_path) == {"lock"}


@pytest.mark.parametrize("step", ["upload", "create", "poll", "download"])
def test_an_endpoint_that_stays_away_ends_the_run_and_a_rerun_goes_on(server, tmp_path, step) -> None:
    server.faults[step] += [BUSY] * 20
    with pytest.raises(BatchError, match=r"no use for .* last: .*HTTP 503.* same command goes on with it"):
        ask(server, tmp_path, "a")
    server.faults[step].clear()
    assert ask(server, tmp_path, "a")["a"].text == "re: a"
    assert server.billed_prompts() == {"a": 1} and len(server.batches) == 1


def test_what_is_wrong_with_every_line_stops_the_run(server, tmp_path) -> None:
    """After the other lines' results were given out; the next file is not sent."""
    server.respond = only(otherwise=refused(400, "Unsupported parameter: 'top_k'", param="top_k"))
    answers = engine_at(server.url, tmp_path / "l.db", max_requests=2).generate(asking(*"abcd"), Sampling())
    found = []
    with pytest.raises(EndpointError, match="does not take 'top_k': name it in omit"):
        found.extend(answers)
    assert all(c.finish_reason == "error" for _, cs in found for c in cs)
    server.respond = served
    assert len(ask(server, tmp_path, *"abcd", wire={"omit": ("top_k",)})) == 4


def test_a_batch_that_is_gone_is_not_bought_again_unless_the_user_says_so(server, tmp_path) -> None:
    """All others are collected before that is told."""
    gone = []
    real = server._end

    def end(batch: dict) -> None:
        real(batch)
        if prompt_of(json.loads(batch["data"])) == "a":
            server.files.pop(batch["output_file_id"])
            gone.append(batch["id"])

    server._end = end
    for _ in range(2):
        found = []
        with pytest.raises(BatchError, match=r"its output file .* cannot be had.*may be paid for") as raised:
            found.extend(
                engine_at(server.url, tmp_path / "l.db", max_requests=1).generate(
                    asking("a", "b"), Sampling()
                )
            )
        assert texts(found) == {"b": ["re: b"]} and gone[0] in str(raised.value)
    assert server.billed_prompts() == {"a": 1, "b": 1}
    engine = engine_at(server.url, tmp_path / "l.db")
    with pytest.raises(BatchError, match=f"no open batch 'batch_0'; there are: {gone[0]}"):
        engine.forget("batch_0")
    engine.forget(gone[0])
    server._end = real
    assert ask(server, tmp_path, "a", "b")["a"].text == "re: a"
    assert sum(server.billed.values()) == 3


def test_a_batch_of_another_account_is_named(server, tmp_path) -> None:
    server.faults["poll"].append(Refusal(404, "No batch found"))
    with pytest.raises(BatchError, match=r"batch batch_2: it cannot be found .*the account \(the API key\)"):
        ask(server, tmp_path, "a")
    assert ask(server, tmp_path, "a")["a"].text == "re: a"
    assert server.billed_prompts() == {"a": 1}


def test_a_batch_that_counts_answers_and_names_no_file_is_not_bought_again(server, tmp_path) -> None:
    server.shown = lambda b: b | {"output_file_id": ""}
    with pytest.raises(BatchError, match="is completed with 1 answers, but names no file"):
        ask(server, tmp_path, "a")
    server.shown = lambda b: b
    assert ask(server, tmp_path, "a")["a"].text == "re: a" and server.billed_prompts() == {"a": 1}


def test_requests_that_lie_with_another_endpoint_are_not_bought_here(server, tmp_path) -> None:
    server.polls = 10**9
    engine = engine_at(server.url, tmp_path / "l.db", say=_interrupted_by("validating|in_progress"))
    with pytest.raises(Stopped):
        list(engine.generate(asking("a"), Sampling()))
    with BatchServer() as other:
        with pytest.raises(BatchError, match=f"are in batch batch_2 at {server.url} already"):
            ask(other, tmp_path, "a")
        assert ask(other, tmp_path, "b")["b"].text == "re: b" and other.billed_prompts() == {"b": 1}


# Privacy


def test_data_that_must_stay_is_refused_before_a_byte_is_written_or_sent(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(guard.socket, "getaddrinfo", lambda *a, **k: [(0, 0, 0, "", ("8.8.8.8", 0))])
    engine = engine_at("https://batches.example/v1", tmp_path / "l.db")
    requests = asking("public") + asking("secret", policy="local_only")
    with pytest.raises(PolicyError, match="local_only data may not be sent"):
        list(engine.generate(requests, Sampling()))
    assert not (tmp_path / "l.db.batches").exists()
    assert Ledger(tmp_path / "l.db").spending().open_tokens == 0


def test_data_that_must_stay_goes_to_a_near_server_in_files_of_its_own(server, tmp_path) -> None:
    requests = asking("a", "b") + asking("c", "d", policy="local_only")
    found = texts(engine_at(server.url, tmp_path / "l.db").generate(requests, Sampling()))
    assert found == {p: [f"re: {p}"] for p in "abcd"}
    assert sorted(sorted(map(prompt_of, lines)) for lines in server.lines.values()) == [
        ["a", "b"],
        ["c", "d"],
    ]


def test_an_endpoint_that_moves_away_gets_nothing_more_of_what_must_stay(
    server, tmp_path, monkeypatch
) -> None:
    """Near when the run begins, remote when the file is to be sent."""
    engine = engine_at(server.url, tmp_path / "l.db")
    begin = Ledger.begin

    def begin_and_move(*args):
        monkeypatch.setattr(guard, "near_addresses", lambda url: ())
        return begin(*args)

    monkeypatch.setattr(Ledger, "begin", begin_and_move)
    with pytest.raises(PolicyError):
        list(engine.generate(asking("a", policy="local_only"), Sampling()))
    assert not server.calls


def test_files_of_requests_are_readable_by_their_owner_alone(server, tmp_path) -> None:
    modes = []
    real = server._upload

    def upload(kind: str, data: bytes):
        modes.extend(p.stat().st_mode & 0o077 for p in (tmp_path / "l.db.batches").glob("*.jsonl"))
        return real(kind, data)

    server._upload = upload
    ask(server, tmp_path, "a")
    assert modes == [0] and (tmp_path / "l.db.batches").stat().st_mode & 0o077 == 0


def test_the_key_stays_out_of_errors(server, tmp_path) -> None:
    server.faults["upload"].append(Refusal(401, "wrong key sk-verysecret"))
    with pytest.raises(EndpointError) as raised:
        ask(server, tmp_path, "a", wire={"key": "sk-verysecret"})
    assert "verysecret" not in str(raised.value)


def _interrupted_by(pattern: str):
    """Ctrl-C as soon as a message matches."""

    def say(message: str) -> None:
        if re.search(pattern, message):
            signal.raise_signal(signal.SIGINT)

    return say


# Ctrl-C, other processes, budgets


def test_ctrl_c_leaves_the_batches_running_and_says_how_to_go_on(server, tmp_path) -> None:
    server.polls = 10**9
    engine = engine_at(server.url, tmp_path / "l.db", max_requests=1, say=_interrupted_by("batch_4: in_p"))
    with pytest.raises(Stopped) as stopped:
        list(engine.generate(asking("a", "b"), Sampling()))
    said = str(stopped.value)
    assert "2 batch(es) go on at the provider: batch_2, batch_4." in said
    assert "The same command collects them" in said and f"POST {server.url}/batches/ID/cancel" in said
    assert server.calls["cancel"] == 0
    server.polls = 1
    assert {c.text for c in ask(server, tmp_path, "a", "b").values()} == {"re: a", "re: b"}
    assert server.billed_prompts() == {"a": 1, "b": 1}


def test_ctrl_c_before_a_batch_exists_says_so(server, tmp_path) -> None:
    engine = engine_at(server.url, tmp_path / "l.db")
    real = server._upload

    def upload(kind: str, data: bytes):
        os.kill(os.getpid(), signal.SIGINT)
        return real(kind, data)

    server._upload = upload
    with pytest.raises(Stopped, match="no batch is running"):
        list(engine.generate(asking("a"), Sampling()))
    server._upload = real
    assert ask(server, tmp_path, "a")["a"].text == "re: a" and len(server.batches) == 1


def test_cancelled_batches_give_what_they_finished(server, tmp_path) -> None:
    server.polls, server.respond = 10**9, only("a")
    engine = engine_at(server.url, tmp_path / "l.db", say=_interrupted_by("in_progress"))
    with pytest.raises(Stopped):
        list(engine.generate(asking("a", "b"), Sampling()))
    server.faults["cancel"].append(BUSY)
    with pytest.raises(BatchError, match=r"batch batch_2 was not cancelled .*try again"):
        engine.cancel()
    assert engine.cancel() == ["batch_2"]
    server.polls = 1
    found = ask(server, tmp_path, "a", "b")
    assert found["a"].text == "re: a" and found["b"].error.startswith("batch_cancelled")
    assert engine.cancel() == []


def test_two_runs_at_once_do_not_buy_the_same(server, tmp_path) -> None:
    answers = engine_at(server.url, tmp_path / "l.db", max_requests=1).generate(asking("a", "b"), Sampling())
    next(answers)
    with pytest.raises(BatchError, match="another process is at work"):
        ask(server, tmp_path, "a", "b")
    answers.close()
    assert len(ask(server, tmp_path, "a", "b")) == 2
    assert server.billed_prompts() == {"a": 1, "b": 1}


def test_a_budget_that_is_too_small_buys_what_fits_and_then_stops(server, tmp_path) -> None:
    """The most a call may take is held; what it did not take is free for the next file."""
    found = []
    with pytest.raises(BudgetError, match="of 300 tokens are left"):
        for item in engine_at(server.url, tmp_path / "l.db", budget=Budget(tokens=300)).generate(
            asking(*"abcdefgh"), Sampling(max_new_tokens=100)
        ):
            found.append(item)
    spent = Ledger(tmp_path / "l.db").spending()
    assert 2 <= len(found) <= 4 and spent.tokens == 57 * len(found) <= 300 and spent.open_tokens == 0
    assert len(server.batches) > 1 and sum(server.billed.values()) == len(found)
    sampling = Sampling(max_new_tokens=100)
    assert len(ask(server, tmp_path, *"abcdefgh", sampling=sampling)) == 8
    assert server.billed_prompts() == dict.fromkeys("abcdefgh", 1)


def test_a_request_with_the_beginning_of_its_answer_is_refused(server, tmp_path) -> None:
    with pytest.raises(EndpointError, match="request a gives the beginning of the answer"):
        list(engine_at(server.url, tmp_path / "l.db").generate(asking("a", prefix="So"), Sampling()))
    assert not server.calls


# Death at any point


NURSERY = """
import json, os, signal, sys
sys.path[:0] = {path!r}
from surgr1.engines import batch_api, batch_store, ledger
from surgr1.engines.batch_engine import BatchEngine
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.types import Request, Sampling
from surgr1.engines.wire import Wire

STEPS = [(batch_store.BatchStore, ("add", "move")), (ledger.Ledger, ("begin", "end", "put")),
         (batch_api.BatchApi, ("upload", "create", "batch", "download", "delete"))]

def dying(at):
    # Before and after every step that leaves a trace here or there, the process dies when `at` have passed.
    passed = 0
    def tick():
        nonlocal passed
        passed += 1
        if passed == at:
            os.kill(os.getpid(), signal.SIGKILL)
    def wrap(real):
        def step(*args, **kw):
            tick()
            result = real(*args, **kw)
            tick()
            return result
        return step
    for owner, names in STEPS:
        for name in names:
            setattr(owner, name, wrap(getattr(owner, name)))

def run(job):
    if job["at"]:
        dying(job["at"])
    book = Ledger(job["ledger"])
    engine = BatchEngine(Wire(job["url"], "m"), book, max_requests=2, **job["settings"])
    requests = [Request(p, p, (), "public") for p in job["prompts"]]
    for request, _ in LedgerEngine(engine, book).generate(requests, Sampling()):
        if job["stops"]:
            print("stopped", flush=True)
            signal.pause()

from pathlib import Path
for line in sys.stdin:
    job = json.loads(line)
    job["ledger"] = Path(job["ledger"])
    if not (pid := os.fork()):
        run(job)
        os._exit(0)
    print(pid, flush=True)
    print("ended", os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    """A process that forks clients, so that each costs no imports."""
    code = NURSERY.format(path=[p for p in sys.path if p])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        yield running
        running.stdin.close()


class Client:
    """One forked client; a rerun is another one."""

    def __init__(self, nursery, server, ledger: Path, *prompts: str, at=0, stops=False) -> None:
        job = {"url": server.url, "ledger": str(ledger), "prompts": prompts, "settings": QUICK}
        nursery.stdin.write(json.dumps(job | {"at": at, "stops": stops}) + "\n")
        nursery.stdin.flush()
        self._out = nursery.stdout
        self.pid = int(self._out.readline())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.ended() == signal.SIGKILL

    def said(self) -> str:
        return self._out.readline().strip()

    def ended(self) -> int:
        """How it ended, as os.waitpid says."""
        word, status = self.said().split()
        assert word == "ended"
        return int(status)


HELD = [
    *(
        (step, hold)
        for step in ("upload", "create", "poll", "download")
        for hold in (HOLD_BEFORE, HOLD_AFTER)
    ),
    ("delete", HOLD_AFTER),
]


@pytest.mark.parametrize(("step", "hold"), HELD)
def test_a_client_killed_while_it_waits_for_an_answer_buys_nothing_twice(
    server, tmp_path, nursery, step, hold
) -> None:
    """Whether the provider did what was asked or not."""
    server.faults[step] += [None, hold]
    client = Client(nursery, server, tmp_path / "l.db", *"abcde")
    assert server.held.wait(60)
    client.kill()
    server.release.set()
    assert {c.text for c in ask(server, tmp_path, *"abcde").values()} == {f"re: {p}" for p in "abcde"}
    assert server.billed_prompts() == dict.fromkeys("abcde", 1) and len(server.batches) == 3
    assert left_in(tmp_path) == {"lock"} and Ledger(tmp_path / "l.db").spending().open_tokens == 0


def test_a_file_that_vanished_with_a_dead_client_is_written_again(server, tmp_path, nursery) -> None:
    """Half a file, too."""
    for prompt, change in (("a", Path.unlink), ("b", lambda path: path.write_bytes(b"{"))):
        server.faults["upload"].append(HOLD_BEFORE)
        client = Client(nursery, server, tmp_path / "l.db", prompt)
        assert server.held.wait(60)
        client.kill()
        server.held.clear()
        server.release.set()
        (left,) = (tmp_path / "l.db.batches").glob("*.jsonl")
        change(left)
        assert ask(server, tmp_path, prompt)[prompt].text == f"re: {prompt}"
        server.release.clear()
    assert server.billed_prompts() == {"a": 1, "b": 1}


def test_a_client_killed_before_any_step_buys_nothing_twice(tmp_path, nursery) -> None:
    """One after the other at every place where something is written down or sent, until one lives."""
    at = deaths = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        with BatchServer() as server:
            status = Client(nursery, server, folder / "l.db", "a", "b", at=at).ended()
            found = ask(server, folder, "a", "b")
            assert {c.text for c in found.values()} == {"re: a", "re: b"}, at
            assert server.billed_prompts() == {"a": 1, "b": 1}, at
            assert left_in(folder) == {"lock"}, at
            assert Ledger(folder / "l.db").spending().open_tokens == 0, at
        if status == 0:
            break
        assert status == signal.SIGKILL
        deaths += 1
    # Two calls begun, a batch added and moved five times, five requests sent, two calls ended: twice each.
    assert deaths >= 2 * (2 + 1 + 5 + 5 + 2)


def test_a_client_killed_between_two_answers_pays_once_for_other_requests_too(
    server, tmp_path, nursery
) -> None:
    """The rerun asks for fewer requests, in another order; what the dead one bought is not lost."""
    client = Client(nursery, server, tmp_path / "l.db", *"abcd", stops=True)
    assert client.said() == "stopped"
    client.kill()
    engine = engine_at(server.url, tmp_path / "l.db")
    found = LedgerEngine(engine, Ledger(tmp_path / "l.db")).generate(asking("d", "b"), Sampling())
    assert texts(found) == {"b": ["re: b"], "d": ["re: d"]}
    assert len(ask(server, tmp_path, *"dcba")) == 4
    assert server.billed_prompts() == dict.fromkeys("abcd", 1)


def test_clients_killed_one_after_the_other_end_with_every_answer_once(server, tmp_path, nursery) -> None:
    prompts = [f"prompt {k}" for k in range(12)]
    server.polls = 3
    for at in (9, 21, 17, 13, 30, 11, 25, 19):
        Client(nursery, server, tmp_path / "l.db", *prompts, at=at).ended()
    found = ask(server, tmp_path, *prompts)
    assert {p: c.text for p, c in found.items()} == {p: f"re: {p}" for p in prompts}
    assert server.billed_prompts() == dict.fromkeys(prompts, 1)
