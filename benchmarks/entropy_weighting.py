"""What the entropy weight w_t costs: one GRPO update (forward, loss, backward) of our subclass against stock
TRL, in turn in one run.

    python benchmarks/entropy_weighting.py [--repeats 15]

Prints the median seconds of both and the median of the pairwise ratios. Same model, same batch of 32
completions, nano geometry.
"""

import argparse
import statistics
import tempfile
import time
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
from surgr1.training.nano import NanoConfig, build_nano
from surgr1.training.rewards import trl_rewards

PROMPT, COMPLETION, BATCH, SIZE = 24, 60, 32, (336, 168)


def batch(processor: Any) -> dict[str, Any]:
    """Random tokens behind real image placeholders, in TRL's keys."""
    torch.manual_seed(0)
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    tokens = SIZE[0] * SIZE[1] // 784
    text = torch.randint(20, 260, (BATCH, PROMPT))
    prompt = torch.cat([torch.full((BATCH, tokens), image_id), text], 1)
    completion = torch.randint(20, 260, (BATCH, COMPLETION))
    pictures = torch.randint(0, 255, (BATCH, 3, SIZE[1], SIZE[0]), dtype=torch.uint8)
    patches = processor.image_processor(list(pictures), return_tensors="pt", do_resize=False)
    types = torch.cat([(prompt == image_id).long(), torch.zeros_like(completion)], 1)
    return {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": torch.ones_like(completion),
        "advantages": torch.randn(BATCH),
        "num_items_in_batch": torch.tensor(BATCH * COMPLETION),
        "mm_token_type_ids": types,
        "num_images": [1] * BATCH,
        **patches,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = vocabulary("cholec80", "phase").names
        texts = [
            f"{a} {b} {k}" for a in names for b in vocabulary("cholect50", "triplet").names for k in range(3)
        ]
        model_dir = build_nano(
            folder / "model", texts, NanoConfig(vocab_size=600), min_tokens=4, max_tokens=84
        )
        Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(folder / "a.png")
        row = Conversation(
            "s",
            "sim-cholec80",
            "v",
            "phase_recognition",
            "?",
            "",
            str(folder / "a.png"),
            *SIZE,
            "t",
            names[0],
            "public",
            names,
        )
        write_conversations(folder / "c.parquet", [row])
        processor = load_processor(model_dir)
        stage = GRPOStage(steps=1, group_size=8, prompts_per_step=4, micro_batch=32)
        common = {
            "reward_funcs": trl_rewards(),
            "args": training_config(stage, folder),
            "train_dataset": prompt_dataset(folder / "c.parquet"),
            "processing_class": processor,
        }

        def policy() -> Any:
            return get_peft_model(load_model(model_dir), peft_config(Lora()))

        trainers = {
            "stock TRL GRPOTrainer": GRPOTrainer(model=policy(), **common),
            "surgr1 with w_t": make_trainer_class()(model=policy(), stage=stage, **common),
        }
        inputs = batch(processor)
        seconds: dict[str, list[float]] = {k: [] for k in trainers}
        for turn in range(repeats + 2):
            for label, trainer in trainers.items():
                trainer.current_gradient_accumulation_steps = 1
                start = time.perf_counter()
                trainer._compute_loss(trainer.model, inputs).backward()
                if turn >= 2:
                    seconds[label].append(time.perf_counter() - start)
                trainer.model.zero_grad()
    stock, ours = seconds.values()
    for label, values in seconds.items():
        print(f"{label:24} median {statistics.median(values):.4f} s over {repeats} updates")
    ratio = statistics.median(b / a for a, b in zip(stock, ours, strict=True))
    print(f"ratio (w_t / stock)      {ratio:.4f}")


if __name__ == "__main__":
    main()
