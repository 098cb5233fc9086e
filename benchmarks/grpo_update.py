"""One GRPO update (forward, loss, backward) on the same rollouts: stock TRL, our subclass with w_t on TRL's
own path, and with shared prefixes; in turn in one run.

    python benchmarks/grpo_update.py [--repeats 9] [--prefix 1 2 3]

Nano geometry, LoRA on both towers, 4 prompts x 8 completions of 80 tokens; the prompt is about `--prefix`
times as long as a completion, most of it picture. Prints the median seconds, the median of the pairwise
ratios, and the bytes kept for the backward pass. The cost of w_t is the second against the first, the gain of
shared prefixes the third against the first.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from PIL import Image
from trl import GRPOTrainer

from surgr1.ontology.vocabularies import vocabulary
from surgr1.synthesis.conversations import Conversation, write_conversations
from surgr1.training.grpo import GRPOStage, make_trainer_class, prompt_dataset, training_config
from surgr1.training.loading import load_model, load_processor
from surgr1.training.lora import Lora, peft_config
from surgr1.training.memory import kept_bytes
from surgr1.training.nano import NanoConfig, build_nano
from surgr1.training.rewards import trl_rewards

GROUPS, G, COMPLETION = 4, 8, 80
PICTURES = {1: (224, 196), 2: (392, 280), 3: (560, 308)}
"""Width and height by prefix ratio; a picture of w x h has w * h / 784 tokens."""
TEXT = 24
STOCK, WEIGHTED, SHARED = "stock TRL GRPOTrainer", "surgr1 with w_t", "surgr1, shared prefix"


def batch(processor: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Random tokens behind real image placeholders, in TRL's keys; the rows of a group share the prompt."""
    torch.manual_seed(0)
    rows = GROUPS * G
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    tokens = size[0] * size[1] // 784
    text = torch.randint(20, 260, (GROUPS, TEXT))
    prompt = torch.cat([torch.full((GROUPS, tokens), image_id), text], 1).repeat_interleave(G, 0)
    completion = torch.randint(20, 260, (rows, COMPLETION))
    pictures = torch.randint(0, 255, (GROUPS, 3, size[1], size[0]), dtype=torch.uint8)
    patches = processor.image_processor(
        [p for p in pictures for _ in range(G)], return_tensors="pt", do_resize=False
    )
    types = torch.cat([(prompt == image_id).long(), torch.zeros_like(completion)], 1)
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "advantages": torch.randn(rows),
        "num_items_in_batch": torch.tensor(rows * COMPLETION),
        "mm_token_type_ids": types,
        "num_images": [1] * rows,
        "group": torch.arange(GROUPS).repeat_interleave(G),
        **patches,
    }


def trainers_for(folder: Path) -> dict[str, Any]:
    """The three trainers on one nano model."""
    names = vocabulary("cholec80", "phase").names
    texts = [
        f"{a} {b} {k}" for a in names for b in vocabulary("cholect50", "triplet").names for k in range(3)
    ]
    model_dir = build_nano(folder / "model", texts, NanoConfig(vocab_size=600), min_tokens=4, max_tokens=300)
    Image.fromarray(np.zeros((56, 56, 3), np.uint8)).save(folder / "a.png")
    row = Conversation(
        "s",
        "sim-cholec80",
        "v",
        "phase_recognition",
        "?",
        "",
        str(folder / "a.png"),
        56,
        56,
        "t",
        names[0],
        "public",
        names,
    )
    write_conversations(folder / "c.parquet", [row])
    stage = GRPOStage(
        steps=1, group_size=G, prompts_per_step=GROUPS, micro_batch=GROUPS * G, shared_prefix=False
    )
    common = {
        "reward_funcs": trl_rewards(),
        "args": training_config(stage, folder),
        "train_dataset": prompt_dataset(folder / "c.parquet"),
        "processing_class": load_processor(model_dir),
    }

    def policy() -> Any:
        torch.manual_seed(0)
        return get_peft_model(load_model(model_dir), peft_config(Lora()))

    ours = make_trainer_class()
    return {
        STOCK: GRPOTrainer(model=policy(), **common),
        WEIGHTED: ours(model=policy(), stage=stage, **common),
        SHARED: ours(model=policy(), stage=stage.model_copy(update={"shared_prefix": True}), **common),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--prefix", type=int, nargs="+", default=list(PICTURES), choices=list(PICTURES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trainers = trainers_for(Path(name))
        for ratio in args.prefix:
            inputs = batch(trainers[STOCK].processing_class, PICTURES[ratio])
            seconds: dict[str, list[float]] = {k: [] for k in trainers}
            for turn in range(args.repeats + 1):
                for label, trainer in trainers.items():
                    trainer.current_gradient_accumulation_steps = 1
                    start = time.perf_counter()
                    trainer._compute_loss(trainer.model, inputs).backward()
                    if turn:
                        seconds[label].append(time.perf_counter() - start)
                    trainer.model.zero_grad()
            print(f"prompt {inputs['prompt_ids'].shape[1]} tokens, completion {COMPLETION}")
            for label, values in seconds.items():
                speed = statistics.median(a / b for a, b in zip(seconds[STOCK], values, strict=True))
                trainer = trainers[label]
                kept = (
                    kept_bytes(trainer.model, partial(trainer._compute_loss, trainer.model, inputs)) / 2**20
                )
                print(
                    f"  {label:22} median {statistics.median(values):.3f} s over {args.repeats} updates,"
                    f" {speed:.3f} x stock, {kept:.0f} MiB kept for backward"
                )


if __name__ == "__main__":
    main()
