"""The endpoint client against a real server that misbehaves."""

import asyncio
import base64
import io
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from mock_server import (
    MockServer,
    Till,
    completion,
    cut,
    flood,
    hang,
    refuses,
    reply,
    response,
    says,
    trickle,
)
from PIL import Image

from surgr1.engines import openai_engine, wire
from surgr1.engines.budget import Account, Budget, BudgetError
from surgr1.engines.guard import PictureError, PolicyError, response_input
from surgr1.engines.ledger import Ledger, LedgerEngine, Spending
from surgr1.engines.openai_engine import EndpointError, OpenAIEngine
from surgr1.engines.pace import Pace
from surgr1.engines.types import Completion, Request, Sampling

GOOD = reply(completion())


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "a.png"
    Image.new("RGB", (28, 28)).save(path)
    return path


def engine_at(server, **settings) -> OpenAIEngine:
    return OpenAIEngine(server.url, "m", **{"backoff_s": 0.001, **settings})


def asking(*prompts, images=(), policy="public", **fields) -> list[Request]:
    return [Request(str(k), p, tuple(images), policy, **fields) for k, p in enumerate(prompts)]


def ask(script, *, images=(), sampling=Sampling(), **settings) -> tuple[Completion, MockServer]:  # noqa: B008
    with MockServer(script) as server:
        ((_, found),) = engine_at(server, **settings).generate(asking("What?", images=images), sampling)
    return found[0], server


def test_a_good_answer_carries_its_numbers_of_tokens(picture) -> None:
    found, server = ask([reply(completion("<answer>x</answer>"))], images=[picture], api_key="sk-1\n")
    assert (found.text, found.finish_reason, found.error) == ("<answer>x</answer>", "stop", "")
    assert (found.tokens_in, found.tokens_out, found.attempts, found.model) == (5, 2, 1, "m")
    assert server.headers[0]["authorization"] == "Bearer sk-1"


def test_pictures_keep_their_bytes_and_have_the_type_of_their_content(tmp_path) -> None:
    """Also where the name says something else."""
    for kind, name in (("PNG", "a.jpg"), ("JPEG", "b.png"), ("WEBP", "c.png"), ("GIF", "d.png")):
        Image.new("RGB", (28, 28), "red").save(tmp_path / name, kind)
        _, server = ask([GOOD], images=[tmp_path / name])
        picture, text = server.requests[0]["messages"][0]["content"]
        head, data = picture["image_url"]["url"].split(",")
        assert head == f"data:image/{kind.lower()};base64" and text == {"type": "text", "text": "What?"}
        sent = base64.b64decode(data)
        assert sent == (tmp_path / name).read_bytes() and Image.open(io.BytesIO(sent)).format == kind


def test_a_picture_that_cannot_be_sent_is_named(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(b"BM not a picture")
    with MockServer([GOOD]) as server:
        for path, message in (
            (tmp_path / "a.png", r"a\.png is no PNG"),
            (tmp_path / "no.png", "cannot be read"),
        ):
            with pytest.raises(PictureError, match=message):
                list(engine_at(server).generate(asking("q", images=[path]), Sampling()))
        assert not server.requests


def test_every_sampling_field_is_sent_unless_it_is_omitted() -> None:
    sampling = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3, first=2)
    _, server = ask([GOOD], sampling=sampling)
    body = server.requests[0]
    body.pop("messages")
    assert body == {
        "model": "m",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "repetition_penalty": 1.0,
        "seed": 5,
    }
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    _, server = ask(
        [GOOD],
        sampling=sampling,
        omit=("temperature", "seed", "top_k", "repetition_penalty"),
        extra_body=thinking,
        limit_field="max_completion_tokens",
    )
    body = server.requests[0]
    body.pop("messages")
    assert body == {"model": "m", "max_completion_tokens": 9, "top_p": 0.9, **thinking}


def test_the_system_turn_comes_first() -> None:
    with MockServer([GOOD]) as server:
        list(engine_at(server).generate(asking("q", system="Be brief."), Sampling()))
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "q"}]},
    ]


def test_a_given_beginning_is_refused() -> None:
    with MockServer([GOOD]) as server:
        with pytest.raises(EndpointError, match=r"request 0 .*local engine"):
            list(engine_at(server).generate(asking("q", prefix="<think>"), Sampling()))
        assert not server.requests


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"omit": ("max_tokens",)}, "omit"),
        ({"extra_body": {"messages": []}}, "extra_body"),
        ({"extra_body": {"temperature": 1}}, "temperature"),
        ({"api_key": "sk\u2013x"}, "API key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message) -> None:
    with pytest.raises(EndpointError, match=message):
        OpenAIEngine("http://127.0.0.1:1/v1", "m", **settings)


def test_a_query_in_the_address_stays_behind_the_route() -> None:
    engine = OpenAIEngine("https://x.example/v1/?api-version=3", "m")
    assert str(engine._url) == "https://x.example/v1/chat/completions?api-version=3"


def test_samples_have_their_own_seeds_and_stay_in_order() -> None:
    with MockServer([GOOD]) as server:
        ((_, found),) = engine_at(server).generate(asking("q"), Sampling(n=5, seed=7, first=1))
    assert len(found) == 5 and sorted(r["seed"] for r in server.requests) == [8, 9, 10, 11, 12]


# What passes: asked again, and the answer counts.
PASSING = {
    "busy": refuses(429, headers={"retry-after": "0.01"}),
    "server error": refuses(500),
    "overloaded": refuses(529),
    "page": reply(b"<html>Bad gateway</html>"),
    "empty body": reply(b""),
    "truncated": reply(b'{"choices": [{"index": 0, "mess'),
    "not an object": reply([1, 2]),
    "choices of another type": reply({"choices": "no"}),
    "choice of another type": reply({"choices": [3]}),
    "content of another type": says({"content": 3}),
    "parts of another type": says({"content": ["a"]}),
    "no message": reply(completion(choices=[{"index": 0, "finish_reason": "stop"}])),
    "no text": says({"content": None}),
    "blank text": says({"content": " \n"}),
    "no reason": says({"content": "x"}, reason=None),
    "unknown reason": says({"content": "x"}, reason="error"),
    "tool call": says({"content": None, "tool_calls": []}, reason="tool_calls"),
    "no usage": reply(completion(usage=None)),
    "usage of another type": reply(completion(usage={"prompt_tokens": "5", "completion_tokens": True})),
    "another model": reply(completion(model="other")),
    "model of another type": reply(completion(model=[3])),
    "gateway error": reply({"error": {"code": 502, "message": "provider"}}),
    "gateway error without code": reply({"error": {"message": "provider"}, "choices": []}),
    "cut": cut,
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again(name) -> None:
    found, _ = ask([PASSING[name], GOOD])
    assert (found.text, found.finish_reason, found.attempts, found.error) == ("ok", "stop", 2, "")


LASTING = {
    "server error": "HTTP 500",
    "page": "without a JSON object: <html>",
    "truncated": "without a JSON object",
    "choices of another type": "without choices",
    "content of another type": "content is int",
    "blank text": "without text",
    "unknown reason": "finish_reason 'error'",
    "no usage": "usage null",
    "another model": "answered by 'other'",
    "gateway error": "HTTP 502: provider",
    "cut": "RemoteProtocolError",
}


def test_a_run_goes_on_beside_lasting_errors_which_are_never_text() -> None:
    """Everything at once: each bad request is an error with its reason, each good one is answered."""
    script = {name: [PASSING[name]] for name in LASTING}
    script |= {"bad request": [refuses(400, "too long")], "too large": [refuses(413)], "flood": [flood]}
    script |= {f"good {k}": [GOOD] for k in range(8)}
    wanted = LASTING | {"bad request": "HTTP 400: too long", "too large": "HTTP 413", "flood": "more than"}
    with MockServer(script) as server:
        found = {
            r.prompt: c for r, (c,) in engine_at(server, max_attempts=2).generate(asking(*script), Sampling())
        }
    assert set(found) == set(script)
    for prompt, answer in found.items():
        if prompt.startswith("good"):
            assert (answer.text, answer.finish_reason) == ("ok", "stop")
        else:
            assert (answer.text, answer.finish_reason) == ("", "error"), prompt
            assert wanted[prompt] in answer.error, prompt
            once = prompt in ("bad request", "too large")
            assert answer.attempts == server.asked[prompt] == (1 if once else 2), prompt


@pytest.mark.parametrize("behaviour", [hang, trickle])
def test_a_server_that_never_ends_its_answer_is_an_error(behaviour) -> None:
    found, _ = ask([behaviour], timeout_s=0.1, max_attempts=2)
    assert (found.finish_reason, found.attempts) == ("error", 2) and "Timeout" in found.error
    found, _ = ask([behaviour], timeout_s=60, deadline_s=0.1)
    assert (found.finish_reason, found.attempts) == ("error", 1) and "deadline of 0.1 s" in found.error


def test_nobody_listening_is_an_error(picture) -> None:
    with MockServer([GOOD]) as server:
        pass
    ((_, (found,)),) = engine_at(server, max_attempts=2).generate(asking("q"), Sampling())
    assert (found.finish_reason, found.attempts) == ("error", 2) and "ConnectError" in found.error


def test_a_rate_limit_is_waited_out_until_the_deadline_and_not_longer() -> None:
    """Being asked for patience does not use attempts up."""
    busy = refuses(429, headers={"retry-after": "0"})
    found, _ = ask([*[busy] * 9, GOOD], max_attempts=2)
    assert (found.text, found.attempts) == ("ok", 10)
    with MockServer({"busy": [busy], "good": [GOOD]}) as server:
        engine = engine_at(server, max_attempts=1, deadline_s=0.3)
        found = {r.prompt: c for r, (c,) in engine.generate(asking("busy", "good"), Sampling())}
    assert found["good"].text == "ok"
    assert found["busy"].finish_reason == "error" and "deadline" in found["busy"].error
    assert "429" in found["busy"].error


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    found, server = ask([refuses(429, headers={"retry-after": "3600"}), GOOD], deadline_s=600)
    assert found.finish_reason == "error" and len(server.requests) == 1
    assert "deadline of 600 s" in found.error and "3600 s" in found.error


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses between attempts, which are not waited for."""
    found: list[float] = []

    async def sleep(seconds) -> None:
        found.append(seconds)

    monkeypatch.setattr(openai_engine, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    return found


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7.5"}, 7.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:09 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 9),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "nan"}, 0),
        ({}, 0),
    ],
)
def test_the_wait_is_what_the_server_asks_for_and_a_little_of_our_own(pauses, headers, seconds) -> None:
    """In seconds or as a date, by the server's clock."""
    for status in (429, 503):
        found, _ = ask([refuses(status, headers=headers), GOOD], backoff_s=0.5)
        assert found.text == "ok" and seconds + 0.25 <= pauses.pop() <= seconds + 0.75 and not pauses


def test_pauses_double_with_jitter_up_to_a_minute(pauses) -> None:
    found, _ = ask([refuses(500)], backoff_s=1, max_attempts=10)
    assert found.attempts == 10 and len(pauses) == 9, "no pause after the last attempt"
    for k, pause in enumerate(pauses):
        assert 0.5 * min(2**k, 60) <= pause <= 1.5 * min(2**k, 60)
    assert len({p / min(2**k, 60) for k, p in enumerate(pauses)}) == 9


BLOCKED = {
    "filter": says({"content": ""}, reason="content_filter"),
    "filter with text": says({"content": "partial"}, reason="content_filter"),
    "gemini's filter": says({}, reason="content_filter: PROHIBITED_CONTENT"),
    "safety": says({"content": None}, reason="SAFETY"),
    "no candidates": reply(completion(choices=[])),
    "no candidates, no usage": reply(completion(choices=[], usage=None)),
    "gemini's prompt block": reply({"promptFeedback": {"blockReason": "SAFETY"}}),
    "compatible prompt block": reply({"choices": None, "prompt_feedback": {"block_reason": "OTHER"}}),
    "refusal": says({"content": None, "refusal": "I cannot look at this."}),
    "azure": refuses(400, code="content_filter"),
    "policy": refuses(400, code="content_policy_violation"),
    "moderation": refuses(403, metadata={"flagged_input": "x"}),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_blocked_is_not_an_error_and_not_asked_again(name) -> None:
    found, server = ask([BLOCKED[name], GOOD])
    assert (found.finish_reason, found.text, len(server.requests)) == ("blocked", "", 1)
    assert found.error, "why it was blocked"


def test_what_was_cut_off_says_so() -> None:
    for reason in ("length", "max_tokens", "model_length"):
        found, _ = ask([says({"content": "half an"}, reason=reason)])
        assert (found.text, found.finish_reason) == ("half an", "length")
    found, _ = ask([says({"content": None}, reason="length")])
    assert (found.text, found.finish_reason) == ("", "length"), "all tokens went into hidden thoughts"


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_separate_thoughts_stand_before_the_answer(field) -> None:
    found, _ = ask([says({"content": "<answer>b</answer>", field: "Maybe <answer>a</answer>?\n"})])
    assert found.text == "<think>Maybe a?</think><answer>b</answer>", "a draft is not the answer"
    found, _ = ask([says({"content": None, field: "Hmm"})])
    assert (found.text, found.finish_reason) == ("<think>Hmm</think>", "stop")
    found, _ = ask([says({"content": "x", field: None})])
    assert found.text == "x"


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "thinking"}, {"type": "text", "text": "b"}]
    found, _ = ask([says({"content": parts})])
    assert found.text == "ab"


@pytest.mark.parametrize(
    "asked, answered, same",
    [
        ("gpt-5.1", "gpt-5.1", True),
        ("gpt-5.1", "gpt-5.1-2025-11-13", True),
        ("openai/gpt-5.1", "gpt-5.1-20251113", True),
        ("models/gemini-2.5-pro", "gemini-2.5-pro", True),
        ("claude-x-latest", "claude-x-20251101", True),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen/qwen2.5-vl-7b-instruct:free", True),
        ("gpt-4-0613", "gpt-4-0613", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4-32k", False),
        ("gpt-5.1", "gpt-5", False),
        ("Qwen2.5-VL-7B", "Qwen2.5-VL-72B", False),
        ("gemini-2", "gemini-2.5", False),
    ],
)
def test_another_model_is_told_from_a_snapshot(asked, answered, same) -> None:
    with MockServer([reply(completion(model=answered))]) as server:
        engine = OpenAIEngine(server.url, asked, max_attempts=1)
        ((_, (found,)),) = engine.generate(asking("q"), Sampling())
        assert (found.finish_reason == "stop") is same and (found.text == "ok") is same
        named = OpenAIEngine(server.url, asked, answers_as=answered, max_attempts=1)
        ((_, (found,)),) = named.generate(asking("q"), Sampling())
        assert found.text == "ok"


STOPPING = {
    "no key": (refuses(401, "key"), "check the API key"),
    "forbidden": (refuses(403, "no"), "check the API key"),
    "no such model": (refuses(404, "no model m"), r"ends? in /v1.*'m'"),
    "no credit": (refuses(402), "no credit"),
    "redirect": (reply(b"", 307, {"location": "http://203.0.113.7/v1"}), "not followed"),
    "unknown field": (
        refuses(400, "Unrecognized request argument supplied: top_k"),
        "'top_k': name it in omit",
    ),
    "no temperature": (
        refuses(400, "Not supported", param="temperature", code="unsupported_value"),
        "'temperature': name it in omit",
    ),
    "another limit": (
        refuses(400, "Unsupported parameter: 'max_tokens' is not supported with it"),
        "max_completion_tokens",
    ),
    "no quota": (refuses(429, code="insufficient_quota"), "no credit"),
}


@pytest.mark.parametrize("name", STOPPING)
def test_what_is_wrong_with_every_request_stops_the_run(name) -> None:
    """At once, with the address and the remedy; what was answered before is yielded."""
    behaviour, message = STOPPING[name]
    prompts = ["good", *(f"bad {k}" for k in range(200))]
    with MockServer({p: [behaviour] for p in prompts} | {"good": [GOOD]}) as server:
        found = []
        with pytest.raises(EndpointError, match=message) as raised:
            for request, _ in engine_at(server, concurrency=1).generate(asking(*prompts), Sampling()):
                found.append(request.prompt)
        assert server.url in str(raised.value) and found == ["good"] and server.prompts == prompts[:2]


def test_a_server_that_repeats_the_key_does_not_bring_it_into_messages() -> None:
    key = "sk-very-secret"
    with MockServer([refuses(401, f"wrong key {key}")]) as server:
        with pytest.raises(EndpointError) as raised:
            list(engine_at(server, api_key=key).generate(asking("q"), Sampling()))
        assert "wrong key" in str(raised.value) and key not in str(raised.value)
    found, _ = ask([refuses(400, f"bad {key}")], api_key=key)
    assert "bad" in found.error and key not in found.error


def test_no_more_bodies_are_built_than_are_under_way(monkeypatch) -> None:
    """Of many requests with pictures only those that are being sent are in memory."""
    built = []
    real = wire.chat_messages
    monkeypatch.setattr(wire, "chat_messages", lambda *a, **k: (built.append(k["prompt"]), real(*a, **k))[1])
    script = {f"q{k}": [GOOD if k < 6 else hang] for k in range(500)}
    with MockServer(script) as server:
        answers = engine_at(server, concurrency=4).generate(asking(*script), Sampling())
        assert sorted(next(answers)[0].prompt for _ in range(6)) == [f"q{k}" for k in range(6)]
        server.wait_for(10)
        assert len(built) == 10 == len(server.requests)
        answers.close()
        assert len(built) == 10 == len(server.requests), "closing ends what is outstanding"


def test_closing_leaves_no_thread_behind() -> None:
    before = set(threading.enumerate())
    script = {f"q{k}": [GOOD if k == 0 else hang] for k in range(9)}
    with MockServer(script) as server:
        answers = engine_at(server).generate(asking(*script), Sampling())
        next(answers)
        ours = {t for t in threading.enumerate() if "run_forever" in t.name} - before
        assert len(ours) == 1
        answers.close()
        assert not any(t.is_alive() for t in ours)


def test_an_interrupt_loses_nothing_that_has_arrived(monkeypatch) -> None:
    class Interrupted(queue.Queue):
        def get(self):
            if not self.interrupted:
                while self.qsize() < 3:
                    threading.Event().wait(0.005)
                self.interrupted = True
                raise KeyboardInterrupt
            return super().get()

        interrupted = False

    monkeypatch.setattr(openai_engine, "queue", SimpleNamespace(SimpleQueue=Interrupted))
    found = []
    script = {f"q{k}": [GOOD if k < 3 else hang] for k in range(9)}
    with MockServer(script) as server, pytest.raises(KeyboardInterrupt):
        for request, _ in engine_at(server).generate(asking(*script), Sampling()):
            found.append(request.prompt)
    assert sorted(found) == ["q0", "q1", "q2"]


def test_an_engine_answers_inside_a_running_event_loop() -> None:
    """As in a notebook."""

    async def main() -> list[Completion]:
        with MockServer([GOOD]) as server:
            return [c for _, (c,) in engine_at(server).generate(asking("q"), Sampling())]

    assert asyncio.run(main())[0].text == "ok"


RUN = """
import signal
import sys
from pathlib import Path
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.types import Request, Sampling
# A shell in the background leaves it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
endpoint = OpenAIEngine(sys.argv[1], "m", backoff_s=0.001, max_attempts=2)
engine = LedgerEngine(endpoint, Ledger(Path(sys.argv[2])))
requests = [Request(str(k), f"q{k}", (), "local_only") for k in range(12)]
for request, (answer,) in engine.generate(requests, Sampling()):
    print(request.prompt, answer.finish_reason, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_after_a_kill_only_what_is_missing_is_asked(tmp_path, how) -> None:
    """Failures are missing, too."""
    command = [sys.executable, "-c", RUN]
    kinds = {k: GOOD if k < 4 else refuses(500) if k == 4 else hang for k in range(12)}
    with MockServer({f"q{k}": [kind] for k, kind in kinds.items()}) as server:
        process = subprocess.Popen(
            [*command, server.url, str(tmp_path / "l.sqlite")], stdout=subprocess.PIPE, text=True
        )
        lines = [process.stdout.readline().split() for _ in range(5)]
        process.send_signal(how)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert sorted(lines) == [*([f"q{k}", "stop"] for k in range(4)), ["q4", "error"]]
    with MockServer([GOOD]) as server:
        done = subprocess.run(
            [*command, server.url, str(tmp_path / "l.sqlite")], capture_output=True, text=True, timeout=60
        )
        assert sorted(server.prompts) == sorted(f"q{k}" for k in range(4, 12))
    assert done.returncode == 0 and done.stdout.count("stop") == 12


def test_settings_that_change_answers_are_another_model_to_the_ledger(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    with MockServer([GOOD]) as server:
        for settings, asked in (
            ({}, 1),
            ({}, 1),
            ({"extra_body": {"thinking": True}}, 2),
            ({"extra_body": {"thinking": False}}, 3),
            ({"extra_body": {"thinking": True}, "concurrency": 2}, 3),
            ({"omit": ("top_k",)}, 4),
        ):
            list(LedgerEngine(engine_at(server, **settings), Ledger(path)).generate(asking("q"), Sampling()))
            assert len(server.requests) == asked, settings
    assert engine_at(server).identity == "m", "ledgers from before stay valid"


def test_of_several_samples_only_the_failed_one_is_asked_again(tmp_path) -> None:
    """By its own seed."""
    broken = [GOOD, refuses(400), GOOD]
    with MockServer(broken) as server:
        engine = LedgerEngine(engine_at(server, concurrency=1), Ledger(tmp_path / "l.sqlite"))
        ((_, found),) = engine.generate(asking("q"), Sampling(n=3, seed=4))
        assert [c.finish_reason for c in found] == ["stop", "error", "stop"]
        ((_, found),) = engine.generate(asking("q"), Sampling(n=3, seed=4))
        assert [c.finish_reason for c in found] == ["stop"] * 3
        assert [r["seed"] for r in server.requests] == [4, 5, 6, 5]


# --- the Responses API


def respond(body, status=200, **settings) -> tuple[Completion, MockServer]:
    behaviour = body if callable(body) else reply(body, status)
    settings = {"max_attempts": 1} | settings
    return ask([behaviour], api="responses", **settings)


def test_a_request_in_the_form_of_the_responses_api(picture) -> None:
    """The whole body, as OpenAI's reference describes it; nothing is stored there."""
    sampling = Sampling(max_new_tokens=90, temperature=0.5, top_p=0.9)
    request = Request("1", "What?", (picture,), "public", system="Be brief.")
    settings = {
        "omit": ("top_k", "repetition_penalty", "seed"),
        "extra_body": {"reasoning": {"effort": "low"}},
    }
    with MockServer([reply(response("<answer>x</answer>"))]) as server:
        ((_, (found,)),) = engine_at(server, api="responses", **settings).generate([request], sampling)
    url = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": "What?"}]
    assert server.paths == ["/v1/responses"]
    assert server.requests == [
        {
            "model": "m",
            "instructions": "Be brief.",
            "input": [{"role": "user", "content": content}],
            "max_output_tokens": 90,
            "temperature": 0.5,
            "top_p": 0.9,
            "store": False,
            "reasoning": {"effort": "low"},
        }
    ]
    assert (found.text, found.finish_reason, found.error) == ("<answer>x</answer>", "stop", "")
    assert (found.tokens_in, found.tokens_out) == (5, 2)


def test_items_of_an_output_are_read_by_their_kind() -> None:
    """Texts of messages are joined, thoughts stand before them, calls of tools do not count."""
    (message,) = response("b", "c")["output"]
    summary = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "Maybe <answer>a</answer>?"}],
    }
    whole = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hmm"}]}
    other = {"type": "web_search_call", "status": "completed"}
    found, _ = respond(response(output=[summary, other, message]))
    assert found.text == "<think>Maybe a?</think>bc"
    found, _ = respond(response(output=[whole, message, message]))
    assert found.text == "<think>Hmm</think>bcbc"
    found, _ = respond(response(output=[{"type": "reasoning", "summary": []}, message]))
    assert found.text == "bc"


def test_a_response_that_is_cut_off_says_so() -> None:
    cut_off = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    found, _ = respond(response("half an") | cut_off)
    assert (found.text, found.finish_reason) == ("half an", "length")
    found, _ = respond(response(output=[{"type": "reasoning", "summary": []}]) | cut_off)
    assert (found.text, found.finish_reason) == ("", "length"), "all tokens went into hidden thoughts"


REFUSAL = [{"type": "message", "content": [{"type": "refusal", "refusal": "I cannot look at this."}]}]
RESPONSES_BLOCKED = {
    "refusal": response(output=REFUSAL),
    "filter": response("part", status="incomplete", incomplete_details={"reason": "content_filter"}),
    "failed": response(output=[], status="failed", error={"code": "image_content_policy_violation"}),
}


@pytest.mark.parametrize("name", RESPONSES_BLOCKED)
def test_a_blocked_response_is_not_an_error(name) -> None:
    found, server = respond(RESPONSES_BLOCKED[name], max_attempts=3)
    assert (found.finish_reason, found.text, len(server.requests)) == ("blocked", "", 1) and found.error
    found, _ = respond(refuses(400, "flagged as violating our usage policy", code="invalid_prompt"))
    assert found.finish_reason == "blocked"


RESPONSES_PASSING = {
    "still running": (response(output=[], status="in_progress"), "status 'in_progress'"),
    "cancelled": (response(status="cancelled"), "status 'cancelled'"),
    "unknown reason": (response(status="incomplete", incomplete_details={"reason": "x"}), "status 'x'"),
    "no output": (response(output=None), "without output"),
    "output of another type": (response(output=["a"]), "without output"),
    "content of another type": (response(output=[{"type": "message", "content": "a"}]), "content is str"),
    "text of another type": (
        response(output=[{"type": "message", "content": [{"type": "output_text", "text": 3}]}]),
        "content is int",
    ),
    "no text": (response(""), "without text"),
    "no usage": (response(usage=None), "usage null"),
    "another model": (response(model="other"), "answered by 'other'"),
    "server error": (response(output=[], status="failed", error={"code": "server_error"}), "HTTP 500"),
    "busy": (response(output=[], status="failed", error={"code": "rate_limit_exceeded"}), "HTTP 429"),
    "gateway error": ({"error": {"code": 502, "message": "provider"}}, "HTTP 502: provider"),
}


@pytest.mark.parametrize("name", RESPONSES_PASSING)
def test_a_response_that_may_pass_is_asked_again(name) -> None:
    body, message = RESPONSES_PASSING[name]
    found, _ = ask([reply(body), reply(response())], api="responses")
    assert (found.text, found.attempts) == ("ok", 2)
    found, _ = respond(body, deadline_s=0.5)
    assert found.finish_reason == "error" and message in found.error


def test_a_response_that_failed_for_its_own_reasons_is_not_asked_again() -> None:
    failed = response(output=[], status="failed", error={"code": "invalid_image", "message": "broken"})
    found, server = respond(failed, max_attempts=3)
    assert (found.finish_reason, found.error, len(server.requests)) == ("error", "HTTP 400: broken", 1)


def test_a_field_that_the_responses_api_does_not_know_is_named() -> None:
    unknown = refuses(400, "Unknown parameter: 'seed'.", param="seed", code="unknown_parameter")
    with pytest.raises(EndpointError, match="'seed': name it in omit"):
        respond(unknown)
    with pytest.raises(EndpointError, match="extra_body"):
        OpenAIEngine("http://127.0.0.1:1/v1", "m", api="responses", extra_body={"store": True})
    with pytest.raises(EndpointError, match="unknown 'completions'"):
        OpenAIEngine("http://127.0.0.1:1/v1", "m", api="completions")


def test_nothing_of_a_response_is_made_of_what_may_not_leave(tmp_path) -> None:
    """The picture is not there: had it been opened, that would be the error."""
    with pytest.raises(PolicyError):
        response_input("local_only", "http://203.0.113.7/v1", prompt="q", pictures=[tmp_path / "none.png"])


def test_the_api_and_an_empty_revision_are_not_in_the_identity() -> None:
    def identity(**settings) -> str:
        return OpenAIEngine("http://127.0.0.1:1/v1", "m", **settings).identity

    assert identity() == identity(api="responses") == identity(revision="") == "m"
    assert identity(omit=("top_k",)) == 'm {"extra_body": {}, "omit": ["top_k"]}', "as version 0.1.0 wrote it"
    assert len({identity(), identity(revision="a"), identity(revision="b")}) == 3


def test_a_key_is_not_in_what_is_printed_of_a_wire() -> None:
    assert "sk-secret-1" not in repr(wire.Wire("http://127.0.0.1:1/v1", "m", key="sk-secret-1"))


# --- the account


def calls_of(path) -> list[tuple[str, str]]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT id, state FROM calls ORDER BY id").fetchall()
    db.close()
    return found


def accounted(path, server, budget=Budget(), **settings) -> LedgerEngine:  # noqa: B008
    ledger = Ledger(path)
    return LedgerEngine(engine_at(server, account=Account(ledger, budget), **settings), ledger)


def test_each_call_has_its_row_before_it_is_sent_and_one_name_over_its_attempts(tmp_path) -> None:
    path, seen = tmp_path / "l.sqlite", []

    def looks(handler, closing) -> None:
        seen.append((handler.headers["idempotency-key"], dict(calls_of(path))))
        (refuses(500) if len(seen) < 3 else GOOD)(handler, closing)

    with MockServer([looks]) as server:
        ((_, (found,)),) = accounted(path, server).generate(asking("q"), Sampling())
    (name,) = {name for name, _ in seen}
    assert found.text == "ok" and [rows for _, rows in seen] == [{name: "open"}] * 3
    assert calls_of(path) == [(name, "answered")]
    assert Ledger(path).spending() == Spending(0, 7, 0, 0)


def test_without_an_account_there_is_no_key() -> None:
    _, server = ask([GOOD])
    assert "idempotency-key" not in server.headers[0]


def test_an_answer_of_no_use_is_asked_again_under_another_name(tmp_path) -> None:
    """A server that honours the name would say the same again."""
    path = tmp_path / "l.sqlite"
    with MockServer([says({"content": ""}), GOOD]) as server:
        ((_, (found,)),) = accounted(path, server).generate(asking("q"), Sampling())
    first, second = [h["idempotency-key"] for h in server.headers]
    assert found.text == "ok" and first != second
    assert dict(calls_of(path)) == {first: "spoilt", second: "answered"}
    assert Ledger(path).spending().tokens == 14, "both are paid for"


@pytest.mark.parametrize(
    "behaviour, state, settings",
    [
        (refuses(400, "too long"), "refused", {}),
        (refuses(429, headers={"retry-after": "3600"}), "refused", {}),
        (refuses(500), "open", {}),
        (reply(b"<html>"), "open", {}),
        (cut, "open", {}),
        (hang, "open", {"timeout_s": 0.05}),
        (hang, "open", {"deadline_s": 0.05}),
        (says({"content": None}), "spoilt", {"max_attempts": 1}),
        (says({}, reason="content_filter"), "answered", {}),
    ],
)
def test_how_a_call_ends_that_brings_no_text(tmp_path, behaviour, state, settings) -> None:
    """Open where the server may have done the work, so that it counts until it is asked again."""
    path = tmp_path / "l.sqlite"
    with MockServer([behaviour]) as server:
        list(accounted(path, server, **{"max_attempts": 2} | settings).generate(asking("q"), Sampling()))
    assert [s for _, s in calls_of(path)] == [state]


def test_what_stops_the_run_leaves_nothing_to_pay(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    with MockServer([refuses(401)]) as server, pytest.raises(EndpointError):
        list(accounted(path, server).generate(asking("q"), Sampling()))
    assert [s for _, s in calls_of(path)] == ["refused"]


def test_a_picture_that_cannot_be_sent_is_no_call(tmp_path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"BM not a picture")
    with MockServer([GOOD]) as server, pytest.raises(PictureError):
        list(accounted(tmp_path / "l", server).generate(asking("q", images=[picture]), Sampling()))
    assert not server.requests and not calls_of(tmp_path / "l")


def test_the_budget_stops_the_run_after_what_is_under_way(tmp_path) -> None:
    """Room for 2 calls at their worst (13 + 87 tokens) at a time, and for more as answers take less. All of
    them are yielded, and a larger budget goes on from there.
    """
    path = tmp_path / "l.sqlite"
    requests, sampling = asking(*(f"q{k:02}"[:3] for k in range(40))), Sampling(max_new_tokens=87)
    with MockServer([GOOD]) as server:
        found = []
        with pytest.raises(BudgetError, match="raise the budget"):
            for request, _ in accounted(path, server, Budget(tokens=240)).generate(requests, sampling):
                found.append(request.prompt)
        # An answer takes 7 tokens: a last one at its worst fits beside 20 of them.
        assert len(found) == len(set(found)) == len(server.requests) == 21
        assert Ledger(path).spending() == Spending(0, 21 * 7, 0, 0)
        rest = list(accounted(path, server, Budget(tokens=10**6)).generate(requests, sampling))
        assert len(rest) == 40 and len(server.requests) == 40, "nothing is asked twice"


def test_what_stands_between_two_that_lack_is_not_bought_again(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    with MockServer([GOOD]) as server:
        list(accounted(path, server).generate(asking("q"), Sampling(first=1)))
        ((_, found),) = accounted(path, server).generate(asking("q"), Sampling(n=3))
        assert len(found) == 3 and len(server.requests) == 3


def test_the_rate_is_kept_and_its_waits_are_not_the_servers(tmp_path) -> None:
    """The deadline does not count them, nor does an answer's latency; one that is told to wait holds all."""
    waits: list[float] = []

    class Held(Pace):
        async def admit(self, tokens) -> float:
            waits.append(tokens)
            await asyncio.sleep(0.2)
            return 1000.0

        def hold(self, seconds) -> None:
            waits.append(seconds)

    script = [refuses(429, headers={"retry-after": "0.01"}), GOOD]
    with MockServer(script) as server:
        engine = engine_at(server, pace=Held(tokens_per_minute=1), deadline_s=0.05)
        ((_, (found,)),) = engine.generate(asking("12345"), Sampling(max_new_tokens=50))
    assert found.text == "ok" and found.latency_s < 0, "2,000 s were waited by what the rate says"
    assert waits == [64, 0.01, 64], "2 tokens of text, 12 around them and 50 at most for the answer"


PAID = """
import sys
from pathlib import Path
from surgr1.engines.budget import Account, Budget
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.types import Request, Sampling
ledger = Ledger(Path(sys.argv[2]))
settings = {"backoff_s": 0.001, "max_attempts": 20, "timeout_s": 0.5}
endpoint = OpenAIEngine(sys.argv[1], "m", **settings, account=Account(ledger))
requests = [Request(str(k), f"q{k}", (), "local_only") for k in range(150)]
for request, (answer,) in LedgerEngine(endpoint, ledger).generate(requests, Sampling()):
    print(request.prompt, answer.text.replace(" ", "-"), flush=True)
"""


def test_after_kills_and_faults_all_is_asked_and_billed_once(tmp_path) -> None:
    """Killed three times in the middle of its work, with 5 % of the requests refused, failed or left."""
    path, till = tmp_path / "l.sqlite", Till(faults=0.05, latency=0.02)
    with MockServer([till]) as server:
        command = [sys.executable, "-c", PAID, server.url, str(path)]
        for kill in (30, 60, 90, None):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            if kill is None:
                lines = process.communicate(timeout=100)[0].splitlines()
                break
            for _ in range(kill):
                process.stdout.readline()
            process.kill()
            process.communicate()
        names = [name for name, state in calls_of(path) if state == "answered"]
    assert sorted(names) == sorted(till.billed) and len(names) == len(set(names)) == 150
    assert len(calls_of(path)) == 150, "no call is left open, none was made beside them"
    assert len(server.requests) > 150, "some were asked again, under the same name"
    assert sorted(line.split()[0] for line in lines) == sorted(f"q{k}" for k in range(150))
    assert sorted(line.split()[1] for line in lines) == sorted(f"bill-{k}" for k in range(150))
    assert Ledger(path).spending() == Spending(0, 150 * 7, 0, 0)
