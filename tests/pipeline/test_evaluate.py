"""Asking a model end to end without a network or device: privacy before pictures, kill and resume, failures,
a real endpoint on this machine, a trained nano model.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from surgr1.bench.model_cards import ModelCard, ModelCardError, load_model_card
from surgr1.bench.predictions import read_predictions
from surgr1.bench.scoring import score
from surgr1.corpora.grid import ImageError
from surgr1.corpora.schema import Labels, Sample
from surgr1.engines.guard import PolicyError
from surgr1.engines.types import Completion
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.pipeline.evaluate import (
    EvaluateError,
    address_of,
    ask,
    card_of_run,
    folder_samples,
    folder_sources,
    frame_lists,
    open_engine,
    shown_images,
    weights_of,
)
from surgr1.simulator.world import SimPlan, Tree, simulate

PHASES = vocabulary("cholec80", "phase").names
N = 24


def phase_sample(k: int, **changes) -> Sample:
    one = Sample(
        dataset="sim-cholec80",
        centre="c",
        procedure="laparoscopic cholecystectomy",
        canonical_video=f"sim:cholec/{41 + k % 3}",
        video=f"video{41 + k % 3}",
        frame=k,
        seconds=float(k),
        image=f"{k % N}.png",
        width=200,
        height=100,
        task=Task.PHASE_RECOGNITION,
        question="Which phase?",
        options=PHASES,
        protocol="open",
        focus="",
        answer=PHASES[k % 7],
        labels=Labels(phase=PHASES[k % 7]),
        split="test",
        role="test",
        policy="public",
        licence="",
    )
    return replace(one, sample_id="", **changes)


def box_sample(k: int) -> Sample:
    changes = {"task": Task.TOOL_LOCALIZATION, "focus": "hook", "answer": "(20,10),(100,50)", "options": ()}
    return phase_sample(k, dataset="sim-cholect50", question="Where is the hook? Give its box.", **changes)


def make_pictures(folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(N):
        Image.fromarray(rng.integers(0, 255, (100, 200, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return dict.fromkeys(("sim-cholec80", "sim-cholect50"), folder)


@pytest.fixture
def roots(tmp_path) -> dict[str, Path]:
    return make_pictures(tmp_path / "pictures")


def endpoint(**changes) -> ModelCard:
    body = {
        "id": "far",
        "name": "Far",
        "engine": "endpoint",
        "api_model": "far-1",
        "base_url": "http://127.0.0.1:9/v1",
        "coordinates": "thousand_yx",
        "picture": "stored",
        "box_instruction": "[ymin, xmin, ymax, xmax] from 0 to 1000",
        "published": {"protocol": "open", "source": "test"},
        "licence": "test",
    }
    return ModelCard.model_validate(body | changes)


GRID = {
    "coordinates": "grid",
    "picture": "grid",
    "min_pixels": 3136,
    "max_pixels": 7840,
    "box_instruction": "",
}


class Mock:
    """Names a phase by a hash of the sample; every `fail`-th request fails; hangs after `hang` answers."""

    name, model = "mock", "mock-1"

    def __init__(self, *, fail: int = 0, hang: int = N + 1, blocked: bool = False):
        self.fail, self.hang, self.blocked, self.asked = fail, hang, blocked, []

    def generate(self, requests, sampling):
        for at, request in enumerate(requests, start=1):
            time.sleep(600 if at > self.hang else 0)
            self.asked.append(request)
            found = []
            for k in range(sampling.first, sampling.first + sampling.n):
                failed = self.fail and at % self.fail == 0
                pick = sum(request.request_id.encode()) + k
                text = f"<answer>{PHASES[pick % 7]}</answer>"
                reason = "error" if failed else "blocked" if self.blocked else "stop"
                text = text if reason == "stop" else ""
                found.append(Completion(text, reason, 5, 2, 0.25, 1, self.name, self.model))
            yield request, found


def test_a_mock_model_is_asked_end_to_end(tmp_path, roots) -> None:
    samples = [phase_sample(k) for k in range(N)]
    seen: list[tuple[int, int]] = []
    found = ask(
        samples,
        roots,
        endpoint(**GRID, price={"input": 10, "output": 100}),
        tmp_path / "out",
        reasoning=False,
        engine=Mock(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (found.rows, found.final, found.note, found.withheld) == (N, True, "", ())
    assert seen[-1] == (N, N) and len(seen) == N
    rows = list(read_predictions(found.predictions))
    assert {tuple(r["size"]) for r in rows} == {(200, 100)} and {tuple(r["grid"]) for r in rows} == {
        (112, 56)
    }
    assert {r["question"] for r in rows} == {"Which surgical phase is being performed?"}, "the card's wording"
    assert all(Image.open(r["image"]).size == (112, 56) for r in rows)
    usage = json.loads(found.usage.read_text())
    assert usage["cards"]["cholec80-phase"]["requests"] == N and usage["served"] == ["mock-1"]
    assert usage["total"]["cost_usd"] == pytest.approx((N * 5 * 10 + N * 2 * 100) / 1e6)
    (card,) = [c for c in score(rows, name="x", draws=20)["cards"] if c["n"]]
    right = sum(r["prediction"] == r["answer"] for r in rows)
    assert card["n"] == N and card["metrics"]["accuracy"]["value"] == pytest.approx(100 * right / N)


def test_equal_pictures_are_prepared_once_and_missing_ones_are_named(tmp_path, roots) -> None:
    """Black frames are all alike: threads must not write the same file at once."""
    folder = tmp_path / "black"
    folder.mkdir()
    for k in range(40):
        Image.new("RGB", (200, 100)).save(folder / f"{k}.png")
    samples = [replace(phase_sample(k), image=f"{k}.png") for k in range(40)]
    found = shown_images(samples, {"sim-cholec80": folder}, endpoint(**GRID), tmp_path / "cache")
    assert len(found) == 40 and len({i.path for i in found.values()}) == 1
    (folder / "7.png").unlink()
    with pytest.raises(ImageError, match=r"7\.png"):
        shown_images(samples, {"sim-cholec80": folder}, endpoint(**GRID), tmp_path / "cache")


def test_local_only_pictures_are_not_even_opened_for_a_remote_model(tmp_path, roots) -> None:
    far = endpoint(base_url="http://8.8.8.8:9/v1")
    hospital = [phase_sample(k, dataset="renji", image="none.png") for k in range(5)]
    engine = Mock()
    found = ask(
        [*[phase_sample(k) for k in range(3)], *hospital],
        roots | {"renji": tmp_path / "no such folder"},
        far,
        tmp_path / "out",
        engine=engine,
    )
    assert found.rows == 3 and found.final
    (withheld,) = found.withheld
    assert (withheld.dataset, withheld.questions) == ("renji", 5) and "8.8.8.8" in withheld.reason
    assert {r.policy for r in engine.asked} == {"public"}, "the task card made the hospital's local_only"
    assert json.loads(found.usage.read_text())["withheld"][0]["dataset"] == "renji"
    with pytest.raises(PolicyError, match=r"not evaluable: policy\. renji \(5 questions\)"):
        ask(hospital, roots, far, tmp_path / "other", engine=Mock())
    assert not (tmp_path / "other").exists()
    with pytest.raises(PolicyError, match="no question"):
        ask([], roots, far, tmp_path / "other", engine=Mock())


SLOW = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_evaluate import Mock, N, ask, endpoint, make_pictures, phase_sample, GRID
root = Path({root!r})
ask([phase_sample(k) for k in range(N)], make_pictures(root / "pictures"), endpoint(**GRID), root / "out",
    reasoning=False, engine=Mock(hang=7))
"""


def test_a_run_killed_with_sigkill_ends_with_the_bytes_of_a_whole_one(tmp_path) -> None:
    script = SLOW.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    out = tmp_path / "out" / "predictions.jsonl"
    deadline = time.monotonic() + 120
    while not (out.is_file() and out.read_bytes().count(b"\n") == 7):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    # The worst place for a kill: a line half written.
    with out.open("ab") as file:
        file.write(b'{"sample_id": "ha')
    assert len(list(read_predictions(out))) == 7
    roots = make_pictures(tmp_path / "pictures")
    samples, engine = [phase_sample(k) for k in range(N)], Mock()
    resumed = ask(samples, roots, endpoint(**GRID), tmp_path / "out", reasoning=False, engine=engine)
    assert len(engine.asked) == N - 7
    # The same folder again from the start: rows name their pictures.
    kept = out.read_bytes()
    scores = json.dumps(score(list(read_predictions(resumed.predictions)), name="x", draws=50))
    usage = resumed.usage.read_text()
    shutil.rmtree(tmp_path / "out")
    whole = ask(samples, roots, endpoint(**GRID), tmp_path / "out", reasoning=False, engine=Mock())
    assert sorted(kept.splitlines()) == sorted(whole.predictions.read_bytes().splitlines())
    assert json.dumps(score(list(read_predictions(whole.predictions)), name="x", draws=50)) == scores
    assert whole.usage.read_text() == usage


def test_failures_are_never_reused_and_make_the_result_not_final(tmp_path, roots) -> None:
    samples = [phase_sample(k) for k in range(N)]
    broken = ask(samples, roots, endpoint(), tmp_path / "out", engine=Mock(fail=6))
    assert not broken.final and "4 of 24 requests failed" in broken.note and broken.rows == N
    rows = list(read_predictions(broken.predictions))
    assert sum(r["outcome"] == "api_error" for r in rows) == 4, "they stay in N"
    second = Mock()
    mended = ask(samples, roots, endpoint(), tmp_path / "out", engine=second)
    assert len(second.asked) == 4 and mended.final and mended.rows == N
    third = Mock()
    ask(samples, roots, endpoint(), tmp_path / "out", engine=third)
    assert not third.asked
    (tmp_path / "out" / "predictions.jsonl").unlink()
    ask(samples, roots, endpoint(), tmp_path / "out", engine=third)
    assert not third.asked, "every answer is in the ledger"
    blocked = ask(samples, roots, endpoint(), tmp_path / "blocked", engine=Mock(blocked=True))
    assert blocked.final, "blocked is what the model does"
    assert json.loads(blocked.usage.read_text())["total"]["blocked"] == N


def test_a_folder_holds_one_form_of_asking(tmp_path, roots) -> None:
    samples = [phase_sample(k) for k in range(4)]
    ask(samples, roots, endpoint(), tmp_path / "out", engine=Mock())
    ask(samples[:2], roots, endpoint(price={"input": 1, "output": 1}), tmp_path / "out", engine=Mock())
    for change, field in (
        ({"protocol": "options"}, "letters: False -> True"),
        ({"temperature": 0.7}, "sampling: "),
        ({"reasoning": False}, "reasoning: True -> False"),
        ({"one_shot": True}, "one_shot"),
        ({"card": endpoint(extra_body={"effort": "high"})}, r"card\.extra_body"),
    ):
        arguments = {"card": endpoint()} | change
        with pytest.raises(EvaluateError, match=f"give another --out(.|\n)*{field}"):
            ask(samples, roots, arguments.pop("card"), tmp_path / "out", engine=Mock(), **arguments)


def test_several_completions_need_a_temperature(tmp_path, roots) -> None:
    samples = [phase_sample(k) for k in range(2)]
    with pytest.raises(EvaluateError, match="temperature over 0"):
        ask(samples, roots, endpoint(), tmp_path / "out", k=3, engine=Mock())
    found = ask(samples, roots, endpoint(), tmp_path / "out", k=3, temperature=1.0, engine=Mock())
    rows = list(read_predictions(found.predictions))
    assert found.rows == 6 and sorted(r["sample_index"] for r in rows) == [0, 0, 1, 1, 2, 2]
    # A model that takes no temperature draws by its own.
    fixed = endpoint(omit=["temperature"])
    assert ask(samples, roots, fixed, tmp_path / "fixed", k=2, engine=Mock()).rows == 4


def test_native_prompts_ask_only_what_they_cover(tmp_path, roots) -> None:
    samples = [phase_sample(0), box_sample(1)]
    card = endpoint(native_prompts={"phase_recognition": "Phase?"}, system="You see surgery.")
    engine = Mock()
    ask(samples, roots, card, tmp_path / "out", native=True, engine=engine)
    assert [(r.prompt, r.system) for r in engine.asked] == [("Phase?", "You see surgery.")]
    with pytest.raises(EvaluateError, match="native_prompts"):
        ask(samples, roots, endpoint(), tmp_path / "other", native=True, engine=Mock())


@pytest.fixture
def server():
    """An endpoint that answers boxes with y before x and phases with a letter; keeps what it was sent."""
    bodies: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            bodies.append(body)
            question = json.dumps(body["messages"])
            text = "[100, 100, 500, 500]" if "hook" in question else "<answer>C</answer>"
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            data = json.dumps(
                {"model": "far-1", "choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
            ).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", bodies
    http.shutdown()
    http.server_close()


def test_an_endpoint_near_by_is_asked_for_everything(tmp_path, roots, server, monkeypatch) -> None:
    url, bodies = server
    monkeypatch.setenv("FAR_URL", url)
    thinking = {"default": True, "enabled": {"effort": "high"}, "disabled": {"effort": "none"}}
    card = endpoint(base_url_env="FAR_URL", thinking=thinking, omit=["top_k", "repetition_penalty"])
    samples = [phase_sample(0, policy="local_only"), phase_sample(1), box_sample(2)]
    found = ask(
        samples,
        roots,
        card,
        tmp_path / "out",
        reasoning=False,
        protocol="options",
        shuffle_options=5,
        thinking=False,
    )
    rows = {r["sample_id"]: r for r in read_predictions(found.predictions)}
    box = rows[samples[2].sample_id]
    assert (box["prediction"], box["outcome"]) == ("(20,10),(100,50)", "repaired")
    assert (box["given"], box["protocol"]) == ([100, 100, 500, 500], "open")
    for sample in samples[:2]:
        row = rows[sample.sample_id]
        assert row["prediction"] == row["options"][2] and row["options"] != list(PHASES)
        assert (row["rung"], row["tokens_in"], row["letters"]) == ("letter", 7, True)
    assert all(b["effort"] == "none" and "top_k" not in b and b["temperature"] == 0 for b in bodies)
    assert json.loads(found.usage.read_text())["total"]["tokens_out"] == 9


def test_addresses_keys_and_weights_that_are_missing_are_named_with_the_remedy(tmp_path, monkeypatch) -> None:
    for name in ("SURGR1_SERVER_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelCardError, match=r"vllm serve google/gemma-3-27b-it.* set SURGR1_SERVER_URL"):
        address_of(load_model_card("gemma3-27b"))
    assert address_of(load_model_card("gpt-4o")) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with (
        pytest.raises(ModelCardError, match="set OPENAI_API_KEY to the key of http://127"),
        open_engine(load_model_card("gpt-4o")),
    ):
        pass
    with pytest.raises(ModelCardError, match="no weights are known to be public; copy the card"):
        weights_of(load_model_card("surg-r1"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    absent = load_model_card("qwen2.5-vl-7b").model_copy(
        update={"huggingface": "nobody/none", "revision": "abc"}
    )
    with pytest.raises(ModelCardError, match="hf download nobody/none --revision abc"):
        weights_of(absent)
    mine = absent.model_copy(update={"huggingface": "", "revision": "", "path": tmp_path / "w"})
    with pytest.raises(ModelCardError, match="is no folder"):
        weights_of(mine)
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text(
        '{"model_type": "minicpmv", "auto_map": {"AutoModel": "x.Y"}}'
    )
    with pytest.raises(ModelCardError, match=r"holds a 'minicpmv' model.*never runs code"):
        weights_of(mine)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A training and a test video in Cholec80's layout, which the hospital of Strasbourg's data has too."""
    out = tmp_path_factory.mktemp("world")
    tree = Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=12, train=(1,), test=(41,))
    simulate(out, SimPlan(trees=(tree,)), workers=1)
    return out / "sim-cholec80"


def test_folders_give_the_cards_questions_about_test_videos_and_all_of_a_hospitals(world) -> None:
    folders = {"sim-cholec80": world, "sim-strasbourg": world}
    samples = folder_samples(folder_sources(folders))
    assert {(s.dataset, s.video) for s in samples} == {
        ("sim-cholec80", "video41"),
        ("sim-strasbourg", "video01"),
        ("sim-strasbourg", "video41"),
    }
    tasks = {
        "sim-cholec80": {"phase_recognition", "tool_recognition"},
        "sim-strasbourg": {"phase_recognition"},
    }
    assert {d: {str(s.task) for s in samples if s.dataset == d} for d in folders} == tasks
    few = folder_samples(folder_sources(folders), limit=4)
    assert len(few) == 12 and few == folder_samples(folder_sources(folders), limit=4)
    assert {s.sample_id for s in few} == {s.sample_id for s in frame_lists(samples, limit=4)}
    assert few != folder_samples(folder_sources(folders), limit=4, seed=1)
    with pytest.raises(EvaluateError, match="--data cholec99"):
        folder_samples(folder_sources({"cholec99": world}))


def test_a_folder_without_a_test_video_is_refused(world, tmp_path) -> None:
    """Training videos are never asked about for want of others."""
    shutil.copytree(world, tmp_path / "t")
    for path in sorted((tmp_path / "t").rglob("*video4*"), reverse=True):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(EvaluateError, match="no question of a task card about a test video"):
        folder_samples(folder_sources({"sim-cholec80": tmp_path / "t"}))


def test_a_trained_run_is_asked_through_transformers(tmp_path, roots) -> None:
    from surgr1.training.nano import NanoConfig, build_nano

    config = NanoConfig(
        vocab_size=420,
        hidden=48,
        layers=2,
        heads=3,
        kv_heads=1,
        intermediate=64,
        vision_depth=2,
        vision_hidden=32,
        vision_heads=2,
        vision_intermediate=48,
    )
    build_nano(tmp_path / "run" / "base" / "model", list(PHASES), config, min_tokens=4, max_tokens=10)
    card = card_of_run(tmp_path / "run", "base")
    assert (card.min_pixels, card.max_pixels, card.coordinates) == (3136, 7840, "grid")
    samples = [phase_sample(k) for k in range(4)]
    arguments = {"reasoning": False, "max_new_tokens": 8, "k": 2, "temperature": 1.0}
    found = ask(samples, roots, card, tmp_path / "out", **arguments)
    rows = list(read_predictions(found.predictions))
    assert found.rows == 8 and found.final and {r["engine"] for r in rows} == {"transformers"}
    assert all(tuple(r["grid"]) == (112, 56) and 0 < r["tokens_out"] <= 8 for r in rows)
    # Eight tokens of picture and the words around them.
    assert min(r["tokens_in"] for r in rows) > 8
    again = ask(samples, roots, card, tmp_path / "out", **arguments)
    assert sorted(again.predictions.read_bytes().splitlines()) == sorted(
        found.predictions.read_bytes().splitlines()
    )
    other = tmp_path / "other.yaml"
    other.write_text(
        yaml.safe_dump(card.model_dump(mode="json", exclude={"adapter"}) | {"path": "run/base/model"})
    )
    drawn = ask(samples, roots, load_model_card(str(other)), tmp_path / "out2", **arguments)
    texts = [
        {(r["sample_id"], r["sample_index"]): r["text"] for r in read_predictions(f.predictions)}
        for f in (found, drawn)
    ]
    assert texts[0] == texts[1], "one's own card gives what the run gives"
