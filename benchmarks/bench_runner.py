"""Questions answered per second: our runner (ledger, predictions file and all) against a bare `LLM.chat` over
the same prompts and pictures; in turn in one process on one vLLM engine.

    python benchmarks/bench_runner.py [--questions 256] [--repeats 5] [--tokens 48]

Nano model with random weights, greedy, every answer of `--tokens` tokens or less. Before every turn vLLM's
caches of prefixes and pictures are emptied, and our runner starts without a ledger. Prints the median rate of
both, the median of the ratios of each pair, and what preparing the pictures took, once.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from surgr1.bench.runner import Asking, request_of
from surgr1.corpora.schema import Labels, Sample
from surgr1.engines.messages import picture_tokens
from surgr1.engines.vllm_engine import VLLMEngine
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.pipeline.evaluate import ask, card_of_run, shown_images
from surgr1.training.loading import load_processor
from surgr1.training.nano import NanoConfig, build_nano

PHASES = vocabulary("cholec80", "phase").names
SIZE = (448, 252)
"""A simulated frame; shown as it is, 144 tokens."""


def questions(count: int, pictures: Path) -> list[Sample]:
    """One question about each of `count` pictures of noise."""
    rng = np.random.default_rng(0)
    pictures.mkdir()
    found = []
    for k in range(count):
        noise = rng.integers(0, 255, (SIZE[1] // 28, SIZE[0] // 28, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).save(pictures / f"{k}.png")
        found.append(
            Sample(
                dataset="sim-cholec80",
                centre="c",
                procedure="laparoscopic cholecystectomy",
                canonical_video="sim:cholec/41",
                video="video41",
                frame=k,
                seconds=float(k),
                image=f"{k}.png",
                width=SIZE[0],
                height=SIZE[1],
                task=Task.PHASE_RECOGNITION,
                question="Which surgical phase is being performed?",
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
        )
    return found


def bare(llm: Any, prompts: list[tuple[str, Path]], tokens: int, never: dict[int, float]) -> int:
    """Answers of a plain loop: open the pictures, one call of `LLM.chat`."""
    from vllm import SamplingParams

    conversations = []
    for prompt, path in prompts:
        with Image.open(path) as picture:
            image = picture.convert("RGB")
        content = [{"type": "image_pil", "image_pil": image}, {"type": "text", "text": prompt}]
        conversations.append([{"role": "user", "content": content}])
    settings = SamplingParams(temperature=0, max_tokens=tokens, logit_bias=never)
    answers = llm.chat(conversations, settings, use_tqdm=False)
    return sum(len(a.outputs[0].token_ids) for a in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = questions(args.questions, folder / "pictures")
        budget = {"min_tokens": 4, "max_tokens": 300}
        model = build_nano(
            folder / "run" / "base" / "model", list(PHASES), NanoConfig(vocab_size=600), **budget
        )
        processor = load_processor(model)
        engine = VLLMEngine(model, processor, model_id="nano", max_model_len=1024)
        llm = engine._llm
        never = dict.fromkeys(picture_tokens(processor), -100.0)
        card = card_of_run(folder / "run", "base", engine="vllm")
        roots = {"sim-cholec80": folder / "pictures"}
        start = time.perf_counter()
        images = shown_images(samples, roots, card, folder / "out" / "images")
        preparing = time.perf_counter() - start
        prompts = [
            (request_of(s, images[s.sample_id], Asking(), reasoning=False).prompt, images[s.sample_id].path)
            for s in samples
        ]
        seconds: dict[str, list[float]] = {"bare LLM.chat": [], "surgr1 bench ask": []}
        # The first pair warms up and does not count.
        for turn in range(args.repeats + 1):
            for way, times in seconds.items():
                llm.reset_prefix_cache()
                llm.reset_mm_cache()
                llm.llm_engine.reset_encoder_cache()
                for file in ("ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "predictions.jsonl"):
                    (folder / "out" / file).unlink(missing_ok=True)
                start = time.perf_counter()
                if way.startswith("bare"):
                    bare(llm, prompts, args.tokens, never)
                else:
                    found = ask(
                        samples,
                        roots,
                        card,
                        folder / "out",
                        reasoning=False,
                        max_new_tokens=args.tokens,
                        engine=engine,
                    )
                    assert found.rows == len(samples) and found.final
                if turn:
                    times.append(time.perf_counter() - start)
        engine.close()
    for way, times in seconds.items():
        print(f"{way:18} {len(samples) / statistics.median(times):7.1f} questions/s")
    plain, ours = seconds.values()
    print(f"pictures           {len(samples) / preparing:7.1f} prepared/s, once")
    print(f"ratio              {statistics.median(a / b for a, b in zip(plain, ours, strict=True)):7.3f}")


if __name__ == "__main__":
    main()
