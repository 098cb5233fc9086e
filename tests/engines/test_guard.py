"""What counts as near, and that nothing else is ever connected to with data that must stay: watched inside
httpx, and from below, at the sockets of a process of its own.
"""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from mock_server import MockServer, completion, refuses, reply
from PIL import Image

from surgr1.engines import (
    batch_api,
    batch_engine,
    budget,
    guard,
    ledger,
    openai_engine,
    pace,
    prices,
    replies,
    vllm_engine,
    vllm_server,
)
from surgr1.engines import wire as wire_module
from surgr1.engines.guard import PolicyError, chat_messages, check_policy, is_local
from surgr1.engines.openai_engine import EndpointError, OpenAIEngine
from surgr1.engines.types import Prompt, Request, Sampling
from surgr1.engines.vllm_server import VLLMServer

REMOTE = "203.0.113.7"  # TEST-NET-3: nobody's.


@pytest.fixture
def names(monkeypatch):
    """Names of our own, each with its addresses; a list of lists is gone through call by call."""
    real, table, calls = socket.getaddrinfo, {}, {}

    def resolve(host, port, *args, **kwargs):
        if host not in table:
            # Numbers only: no test asks a name server.
            return real(host, port, *args, **kwargs | {"flags": socket.AI_NUMERICHOST})
        found = table[host]
        if isinstance(found[0], list):
            nth = calls[host] = calls.get(host, -1) + 1
            found = found[nth % len(found)]
        return [i for a in found for i in real(a, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return table


NEAR = [
    "127.0.0.1",
    "127.8.8.8",
    "10.255.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "[::1]",
    "[fc00::1]",
    "[fdff::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:127.0.0.1]",
    # Other spellings of 127.0.0.1 and 10.0.0.1.
    "2130706433",
    "0x7f000001",
    "0xa.1",
]
FAR = [
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.169.0.1",
    "11.0.0.1",
    "126.255.255.255",
    "128.0.0.1",
    # Unspecified, carrier-grade, link-local (metadata services), documentation, multicast, broadcast.
    "0.0.0.0",
    "100.64.0.1",
    "169.254.169.254",
    "203.0.113.7",
    "224.0.0.1",
    "255.255.255.255",
    "[::]",
    "[2001:4860:4860::8888]",
    "[fe80::1]",
    "[fec0::1]",
    "[::ffff:8.8.8.8]",
    "[::127.0.0.1]",
    # NAT64, 6to4 and Teredo lead elsewhere, whatever they hold.
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::10.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    # Other spellings of 8.8.8.8.
    "134744072",
    "0x8080808",
    "8.8.2056",
]


@pytest.mark.parametrize("host", NEAR)
def test_addresses_of_the_machine_and_its_private_networks_are_near(names, host) -> None:
    assert is_local(f"http://{host}:8000/v1") and is_local(f"https://{host}/v1")
    check_policy("local_only", f"http://{host}:8000/v1")


@pytest.mark.parametrize("host", FAR)
def test_all_other_addresses_are_not(names, host) -> None:
    assert not is_local(f"http://{host}:8000/v1")
    with pytest.raises(PolicyError, match="local_only data"):
        check_policy("local_only", f"http://{host}/v1")
    check_policy("public", f"http://{host}/v1")
    check_policy("licence_restricted", f"http://{host}/v1")


def test_a_name_is_what_it_resolves_to(names) -> None:
    names |= {
        "localhost": [REMOTE],
        "gpu.local": [REMOTE],
        "gpu.example.com": ["10.0.0.5"],
        "gpu.example.com.": ["10.0.0.5", "fd00::5"],
        "mixed": ["10.0.0.5", REMOTE],
        "mixed6": ["127.0.0.1", "2001:db8::1"],
        "mapped": ["::ffff:203.0.113.7"],
    }
    near = {h: is_local(f"http://{h}/v1") for h in names}
    assert near == {h: h.startswith("gpu.example") for h in names}
    assert guard.near_addresses("http://gpu.example.com./v1") == ("10.0.0.5", "fd00::5")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1@203.0.113.7/v1",
        "http://127.0.0.1:80@evil.example/v1",
        "http://127.0.0.1\\@evil.example/v1",
        "http://user:password@127.0.0.1/v1",
        "http://[fe80::1%25lo]/v1",
        "http://[fe80::1%lo]/v1",
        "http://[fc00::1%25lo]/v1",
        "http://0177.0.0.1/v1",
        "http:///v1",
        "127.0.0.1:8000/v1",
        "localhost",
        "",
        "ftp://127.0.0.1/v1",
        "file:///v1",
        "http://127.0.0.1:port/v1",
        "http://127.0.0.1 .evil.example/v1",
        "http://nowhere.invalid/v1",
        "http://" + "a" * 70 + ".example/v1",
    ],
)
def test_an_address_that_hides_or_lacks_its_host_is_refused(names, url) -> None:
    with pytest.raises(PolicyError):
        check_policy("local_only", url)
    with pytest.raises(PolicyError):
        is_local(url)


def test_an_address_with_a_password_does_not_repeat_it() -> None:
    with pytest.raises(PolicyError) as raised:
        OpenAIEngine("http://user:secret@127.0.0.1/v1", "m")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("policy", ["local_only", "local-only", "LOCAL_ONLY", "Public", ""])
def test_only_data_known_to_be_free_may_leave(policy) -> None:
    """A policy that is misspelt stays, too."""
    with pytest.raises(PolicyError):
        check_policy(policy, f"http://{REMOTE}/v1")


def test_nothing_is_read_of_what_may_not_leave(tmp_path) -> None:
    """The picture is not there: had it been opened, that would be the error."""
    with pytest.raises(PolicyError):
        chat_messages("local_only", f"http://{REMOTE}/v1", prompt="q", pictures=[tmp_path / "none.png"])


def test_no_parameter_turns_the_guard_off() -> None:
    suspicious = re.compile(
        r"guard|allow|force|trust|insecure|unsafe|local|remote|skip|check|privacy|transport|proxy|redirect|client"
    )
    seen = []
    modules = (
        guard,
        openai_engine,
        vllm_server,
        vllm_engine,
        ledger,
        wire_module,
        replies,
        pace,
        budget,
        prices,
    )
    for module in (*modules, batch_engine, batch_api):
        for name, thing in vars(module).items():
            if getattr(thing, "__module__", "") != module.__name__ or not callable(thing):
                continue
            functions = (
                [thing] if inspect.isfunction(thing) else [f for f in vars(thing).values() if callable(f)]
            )
            for function in filter(inspect.isfunction, functions):
                for parameter in inspect.signature(function).parameters:
                    seen.append(parameter)
                    assert not suspicious.search(parameter), (name, function.__name__, parameter)
    assert {"policy", "base_url", "api_key", "extra_body"} <= set(seen)


def test_only_the_guard_opens_connections_and_encodes_pictures_for_endpoints() -> None:
    """Another client in the package would be a door without a guard."""
    clients = re.compile(
        r"httpx2?\.(Async)?(Client|HTTPTransport|get|post|request|stream)\b|\b(Async)?OpenAI\(|import aiohttp"
        r"|import requests|urllib\.request|http\.client|image_url"
    )
    package = Path(guard.__file__).parents[1]
    found = {p.name for p in package.rglob("*.py") if clients.search(p.read_text(encoding="utf-8"))}
    assert found == {"guard.py"}


@pytest.fixture
def wire(monkeypatch) -> list[httpx.Request]:
    """Every request that httpx would put on a wire, of either client; all are answered well."""
    sent: list[httpx.Request] = []

    async def handle(self, request):
        sent.append(request)
        await request.aread()
        return httpx.Response(200, json=completion())

    def handle_now(self, request):
        sent.append(request)
        return httpx.Response(200, json={"prompt_token_ids": [], "choices": []})

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", handle_now)
    return sent


def ask(url, policy, *, images=(), **settings) -> str:
    engine = OpenAIEngine(url, "m", **{"backoff_s": 0.001, "max_attempts": 2} | settings)
    ((_, (found,)),) = engine.generate([Request("1", "q", images, policy)], Sampling())
    return found.text


PROCESSOR = SimpleNamespace(tokenizer=SimpleNamespace(convert_tokens_to_ids=len))


def roll_out(url, policy, tmp_path, system="") -> None:
    server = VLLMServer(url, PROCESSOR, shared=tmp_path)
    prompt = Prompt("1", "", "q", [Image.new("RGB", (28, 28))], policy, system)
    try:
        server.sample([prompt], Sampling())
    finally:
        server.close()


def test_local_only_data_is_sent_to_the_judged_address_and_nowhere_else(names, wire, tmp_path) -> None:
    """Models, text that only derives from data (a judge), samplers: no request leaves. Public data does."""
    names |= {"far.example": [REMOTE], "near.example": ["10.0.0.5"]}
    picture = tmp_path / "a.png"
    Image.new("RGB", (28, 28)).save(picture)
    for images in ((picture,), ()):
        with pytest.raises(PolicyError, match=r"far\.example"):
            ask("https://far.example/v1", "local_only", images=images)
    with pytest.raises(PolicyError):
        roll_out("https://far.example", "local_only", tmp_path)
    assert wire == []
    ask("https://far.example/v1", "public", images=(picture,))
    roll_out("https://far.example", "public", tmp_path)
    assert [r.url.host for r in wire] == ["far.example"] * 2
    wire.clear()
    ask("https://near.example:8443/v1", "local_only", images=(picture,))
    roll_out("https://near.example:8443", "local_only", tmp_path, system="s")
    assert [r.url.host for r in wire] == ["10.0.0.5"] * 2, "an address, not a name"
    for request in wire:
        assert request.url.path == "/v1/chat/completions" and request.url.port == 8443
        assert request.headers["host"] == "near.example:8443"
        assert request.extensions["sni_hostname"] == "near.example", "whose certificate is asked for"
    assert json.loads(wire[1].read())["messages"][0] == {"role": "system", "content": "s"}


def test_one_request_that_may_not_go_stops_all_before_the_first(names, wire) -> None:
    names["far.example"] = [REMOTE]
    requests = [Request("1", "a", (), "public"), Request("2", "b", (), "local_only")]
    with pytest.raises(PolicyError):
        list(OpenAIEngine("http://far.example/v1", "m").generate(requests, Sampling()))
    assert wire == []


@pytest.mark.parametrize("turn", range(6))
def test_a_name_that_moves_between_check_and_connection_leads_nowhere(names, wire, turn, tmp_path) -> None:
    """The name is near for `turn` look-ups and then remote, and the other way round on each one."""
    names["moves.example"] = [["10.0.0.5"]] * turn + [[REMOTE]] * 50
    with pytest.raises(PolicyError):
        for _ in range(turn + 1):
            ask("http://moves.example/v1", "local_only")
    assert {r.url.host for r in wire} <= {"10.0.0.5"} and len(wire) <= turn
    names["flips.example"] = [["10.0.0.5"]] * (turn + 1) + [[REMOTE]]
    wire.clear()
    for _ in range(8):
        for send in (
            lambda: ask("http://flips.example/v1", "local_only"),
            lambda: roll_out("http://flips.example", "local_only", tmp_path),
        ):
            try:
                send()
            except PolicyError:
                continue
    assert {r.url.host for r in wire} <= {"10.0.0.5"}


def test_a_move_after_the_first_check_is_caught_at_the_connection(names, wire, monkeypatch) -> None:
    """As if every check but the transport's own had been passed."""
    names["far.example"] = [REMOTE]
    monkeypatch.setattr(openai_engine, "check_policy", lambda *a: None)
    monkeypatch.setattr(guard, "check_policy", lambda *a: None)
    with pytest.raises(PolicyError, match="any more"):
        ask("http://far.example/v1", "local_only")
    assert wire == []


def test_the_next_address_is_tried_when_one_refuses(names) -> None:
    """A name that is both ::1 and 127.0.0.1, as localhost often is, with a server on one of them."""
    with MockServer([reply(completion())]) as server:
        names["both.example"] = ["127.0.0.2", "127.0.0.1"]
        assert ask(f"http://both.example:{server.port}/v1", "local_only", max_attempts=1) == "ok"
        assert server.headers[0]["host"] == f"both.example:{server.port}"


def test_proxies_in_the_environment_are_for_data_that_may_leave(names, monkeypatch, tmp_path) -> None:
    names |= {"far.example": [REMOTE], "near.example": ["127.0.0.1"]}
    sampled = reply({"prompt_token_ids": [], "choices": []})
    script = [refuses(500), reply(completion()), reply(completion()), sampled]
    with MockServer([reply(completion())]) as proxy, MockServer(script) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        near = f"http://near.example:{server.port}"
        assert ask(f"{near}/v1", "local_only") == ask(f"{near}/v1", "public") == "ok"
        roll_out(near, "local_only", tmp_path)
        assert len(server.requests) == 4 and not proxy.requests
        assert ask("http://far.example/v1", "public") == "ok"
        assert len(proxy.requests) == 1, "the proxies do work"


def test_a_redirect_is_not_followed(names) -> None:
    names["near.example"] = ["127.0.0.1"]
    with MockServer([reply(completion())]) as other:
        for status in (301, 302, 307, 308):
            with MockServer([reply(b"", status, {"location": f"{other.url}/chat/completions"})]) as server:
                for policy in ("local_only", "public"):
                    with pytest.raises(EndpointError, match="not followed"):
                        ask(f"http://near.example:{server.port}/v1", policy)
        assert not other.requests


WATCHED = """
import json, os, socket, sys, warnings
from pathlib import Path
from types import SimpleNamespace

reached = []

def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        reached.append(args[1][0])
        if not args[1][0].startswith("127."):
            raise ConnectionRefusedError("the test goes no further")

sys.addaudithook(watch)
near_port, remote = int(sys.argv[1]), sys.argv[2]
names = {"near.example": "127.0.0.1", "far.example": remote}
real, calls = socket.getaddrinfo, []

def resolve(host, port, *args, **kwargs):
    host = host.decode() if isinstance(host, bytes) else host
    if host == "flips.example":
        calls.append(host)
        host = "127.0.0.1" if len(calls) % 3 else remote
    return real(names.get(host, host), port, *args, **kwargs)

socket.getaddrinfo = resolve

from PIL import Image
from surgr1.engines.openai_engine import OpenAIEngine
from surgr1.engines.types import Prompt, Request, Sampling
from surgr1.engines.vllm_server import VLLMServer
from surgr1.ontology.errors import SurgR1Error

folder = Path(sys.argv[3])
Image.new("RGB", (28, 28)).save(folder / "a.png")

def ask(name, policy, *prompts, images=(folder / "a.png",)):
    engine = OpenAIEngine(f"http://{name}:{near_port}/v1", "m", backoff_s=0.001, max_attempts=2)
    requests = [Request(str(k), p, images, policy) for k, p in enumerate(prompts)]
    return sorted(c.text or c.finish_reason for _, (c,) in engine.generate(requests, Sampling()))

def roll_out(name, policy):
    processor = SimpleNamespace(tokenizer=SimpleNamespace(convert_tokens_to_ids=len))
    server = VLLMServer(f"http://{name}:{near_port}", processor, shared=folder)
    return server.sample([Prompt("1", "", "sampled", [Image.open(folder / "a.png")], policy)], Sampling())

def watched(call, *args, **kwargs):
    reached.clear()
    try:
        outcome = call(*args, **kwargs)
    except SurgR1Error as error:
        outcome = type(error).__name__
    return [outcome, sorted(set(reached))]

found = {
    "model": watched(ask, "far.example", "local_only", "q"),
    "judge": watched(ask, "far.example", "local_only", "text derived from a picture", images=()),
    "sampler": watched(roll_out, "far.example", "local_only"),
    "retries": watched(ask, "near.example", "local_only", "good", "flaky", "broken"),
    "redirect": watched(ask, "near.example", "local_only", "moved"),
    "near sampler": watched(roll_out, "near.example", "local_only"),
    "flips": [watched(ask, "flips.example", "local_only", *["good"] * 3) for _ in range(9)],
    "public, proxied": watched(ask, "far.example", "public", "q"),
}
for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
    del os.environ[name]
found["public"] = watched(ask, "far.example", "public", "q")
print(json.dumps(found))
"""


def test_sockets_of_a_process_with_local_only_data_reach_near_addresses_alone(tmp_path) -> None:
    """Watched by an audit hook under httpx: with proxies in the environment, retries, redirects to a remote
    host and a name whose address keeps changing. The same calls with public data do reach the remote hosts.
    """
    proxy = "203.0.113.9"
    script = {
        "good": [reply(completion())],
        "flaky": [refuses(500), reply(completion())],
        "broken": [refuses(500)],
        "moved": [reply(b"", 307, {"location": f"http://{REMOTE}/v1/chat/completions"})],
        "sampled": [reply({"prompt_token_ids": [], "choices": []})],
    }
    proxies = {f"{kind}_PROXY": f"http://{proxy}:3128" for kind in ("HTTP", "HTTPS", "ALL")}
    proxies |= {k.lower(): v for k, v in proxies.items()}
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | proxies
    with MockServer(script) as server:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, str(server.port), REMOTE, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    flips = found.pop("flips")
    assert all(set(reached) <= {"127.0.0.1"} for _, reached in flips)
    assert "PolicyError" in [outcome for outcome, _ in flips], "the change was met"
    assert found == {
        "model": ["PolicyError", []],
        "judge": ["PolicyError", []],
        "sampler": ["PolicyError", []],
        "retries": [["error", "ok", "ok"], ["127.0.0.1"]],
        "redirect": ["EndpointError", ["127.0.0.1"]],
        "near sampler": [[[]], ["127.0.0.1"]],
        "public, proxied": [["error"], [proxy]],
        "public": [["error"], [REMOTE]],
    }
