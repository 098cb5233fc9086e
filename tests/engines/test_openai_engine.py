"""The endpoint client against a real server that misbehaves."""

import asyncio
import base64
import io
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from mock_server import MockServer, completion, cut, flood, hang, refuses, reply, says, trickle
from PIL import Image

from surgr1.engines import openai_engine, wire
from surgr1.engines.guard import PictureError
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import EndpointError, OpenAIEngine
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
import sys
from pathlib import Path
from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.types import Request, Sampling
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
