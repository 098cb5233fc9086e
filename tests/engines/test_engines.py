"""The privacy guard, the ledger, and the endpoint client against a misbehaving local server."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from surgr1.engines.guard import PolicyError, check_policy, is_local
from surgr1.engines.ledger import Ledger, LedgerEngine, LedgerError
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.types import Completion, Request, Sampling


def answer(text: str, reason: str = "stop") -> dict:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


class Server:
    """Serves a script of (status, headers, body); the last entry repeats. `requests` records what arrived."""

    def __init__(self, script):
        self.requests: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                status, headers, body = script[min(len(outer.requests) - 1, len(script) - 1)]
                if body is None:
                    threading.Event().wait(3)
                    return
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for k, v in {
                    **headers,
                    "content-type": "application/json",
                    "content-length": str(len(data)),
                }.items():
                    self.send_header(k, v)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (28, 28)).save(path)
    return path


def ask(server: Server, picture, policy: str = "public", n: int = 1, **kwargs) -> list[Completion]:
    engine = OpenAIEngine(server.url, "m", backoff_s=0.01, **kwargs)
    ((_, found),) = engine.generate([Request("1", "What?", (picture,), policy)], Sampling(n=n))
    return found


def test_a_good_answer_carries_the_picture_and_the_cost(picture) -> None:
    server = Server([(200, {}, answer("<answer>x</answer>"))])
    (found,) = ask(server, picture)
    assert (found.text, found.finish_reason, found.tokens_in, found.tokens_out, found.attempts) == (
        "<answer>x</answer>",
        "stop",
        5,
        2,
        1,
    )
    content = server.requests[0]["messages"][0]["content"]
    assert (
        content[0]["image_url"]["url"].startswith("data:image/png;base64,") and content[1]["text"] == "What?"
    )


@pytest.mark.parametrize(
    "trouble",
    [
        (429, {"retry-after": "0.05"}, {"error": {"message": "slow"}}),
        (500, {}, {"error": {"message": "oops"}}),
        (200, {}, b"<html>garbage"),
        (200, {}, {"choices": "no"}),
    ],
)
def test_trouble_is_retried(picture, trouble) -> None:
    server = Server([trouble, (200, {}, answer("ok"))])
    (found,) = ask(server, picture)
    assert (found.text, found.attempts) == ("ok", 2)


def test_lasting_trouble_is_an_error_and_never_text(picture) -> None:
    (found,) = ask(Server([(500, {}, {"error": {"message": "down"}})]), picture, max_attempts=3)
    assert (found.finish_reason, found.text, found.attempts) == ("error", "", 3) and "500" in found.error
    (found,) = ask(Server([(401, {}, {"error": {"message": "key"}})]), picture)
    assert found.attempts == 1 and "401" in found.error
    (found,) = ask(Server([(200, {}, None)]), picture, max_attempts=1, timeout_s=0.3)
    assert found.finish_reason == "error" and "Timeout" in found.error


def test_blocked_is_not_an_error(picture) -> None:
    (found,) = ask(Server([(200, {}, answer("", "content_filter"))]), picture)
    assert found.finish_reason == "blocked"
    (found,) = ask(Server([(200, {}, answer("x") | {"choices": []})]), picture)
    assert found.finish_reason == "blocked"


def test_local_only_data_never_reaches_a_remote_host(picture, monkeypatch) -> None:
    server = Server([(200, {}, answer("x"))])
    assert ask(server, picture, policy="local_only")[0].text == "x"
    real = socket.getaddrinfo
    # A name that sounds local but resolves to a public address.
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *a, **k: real("8.8.8.8" if host == "model.local" else host, *a, **k),
    )
    before = len(server.requests)
    engine = OpenAIEngine(f"http://model.local:{server.http.server_port}/v1", "m")
    requests = [Request("1", "a", (picture,), "public"), Request("2", "b", (picture,), "local_only")]
    with pytest.raises(PolicyError, match=r"model\.local"):
        list(engine.generate(requests, Sampling()))
    assert len(server.requests) == before, "not even the public request went out"


def test_what_counts_as_local(monkeypatch) -> None:
    assert (
        is_local("http://127.0.0.1:8000/v1")
        and is_local("http://10.1.2.3/v1")
        and is_local("http://[::1]/v1")
    )
    assert not is_local("http://8.8.8.8/v1") and not is_local("http://169.254.1.1/v1")
    # One public address among several is enough to refuse.
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("10.0.0.1", 0)), (2, 1, 6, "", ("1.1.1.1", 0))]
    )
    with pytest.raises(PolicyError):
        check_policy("local_only", "http://mixed.example/v1")
    check_policy("public", "http://mixed.example/v1")


class Counting:
    """An engine that counts and fails on demand."""

    name, model = "counting", "m"

    def __init__(self, fail: bool = False):
        self.asked, self.fail = 0, fail

    def generate(self, requests, sampling):
        for request in requests:
            self.asked += 1
            reason = "error" if self.fail else "stop"
            yield (
                request,
                [
                    Completion(f"{request.request_id}-{k}", reason, 1, 1, 0.0, 1, "counting", "m")
                    for k in range(sampling.first, sampling.first + sampling.n)
                ],
            )


def test_the_ledger_never_asks_twice_and_never_keeps_a_failure(tmp_path, picture) -> None:
    requests = [Request(str(i), f"q{i}", (picture,), "public") for i in range(3)]
    path = tmp_path / "ledger.sqlite"
    broken = Counting(fail=True)
    list(LedgerEngine(broken, Ledger(path)).generate(requests, Sampling(n=2)))
    good = Counting()
    first = {r.request_id: c for r, c in LedgerEngine(good, Ledger(path)).generate(requests, Sampling(n=2))}
    again = {r.request_id: c for r, c in LedgerEngine(good, Ledger(path)).generate(requests, Sampling(n=2))}
    assert good.asked == 3 and first == again and len(first["0"]) == 2
    list(LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=2, temperature=0.5)))
    assert good.asked == 4, "another temperature is another question"
    more = LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=1, first=2))
    assert [c.text for _, found in more for c in found] == ["0-2"] and good.asked == 5
    list(LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=3)))
    assert good.asked == 5, "one by one or together: the same three"


def test_a_damaged_ledger_is_named(tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        Ledger(path)
