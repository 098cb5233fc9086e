"""Supervised training on several questions per picture: TRL's SFTTrainer against branches of one picture; in
turn in one run.

    python benchmarks/shared_images.py [--repeats 9] [--questions 5]

Nano geometry, LoRA on both towers, 4 pictures of 200 tokens with `--questions` questions of about 12 tokens
and answers of about 15. Prints the median seconds per update (forward, loss, backward), samples per second
and the median of the pairwise ratios.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from PIL import Image
from trl import SFTConfig, SFTTrainer

from surgr1.ontology.vocabularies import vocabulary
from surgr1.synthesis.conversations import Conversation
from surgr1.training.data import BranchCollator, Collator, TokenizedConversations
from surgr1.training.loading import load_model, load_processor
from surgr1.training.lora import Lora, peft_config
from surgr1.training.nano import NanoConfig, build_nano
from surgr1.training.shared_prefix import install

PICTURES, SIZE = 4, (560, 280)


def conversations(folder: Path, questions: int) -> list[Conversation]:
    """`questions` triplet questions about each of four random pictures."""
    triplets = vocabulary("cholect50", "triplet").names
    rng = np.random.default_rng(0)
    rows = []
    for k in range(PICTURES):
        path = folder / f"{k}.png"
        Image.fromarray(rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)).save(path)
        for q in range(questions):
            label = triplets[(7 * k + q) % len(triplets)]
            rows.append(
                Conversation(
                    f"{k}-{q}",
                    "sim-cholect50",
                    "v",
                    "triplet_extraction",
                    f"Which tool does what to which tissue? {triplets[q]}",
                    f"<answer>{label}</answer>",
                    str(path),
                    *SIZE,
                    "t",
                    label,
                    "public",
                    (),
                )
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--questions", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = conversations(folder, args.questions)
        texts = [f"{r.prompt} {r.completion}" for r in rows for _ in range(3)]
        model_dir = build_nano(
            folder / "model", texts, NanoConfig(vocab_size=600), min_tokens=4, max_tokens=300
        )
        processor = load_processor(model_dir)
        data = TokenizedConversations(rows, processor, max_length=1024)
        items = [data[k] for k in range(len(data))]

        def policy() -> Any:
            torch.manual_seed(0)
            return get_peft_model(load_model(model_dir), peft_config(Lora()))

        taught = policy()
        install(taught)
        trainer = SFTTrainer(
            model=policy(),
            args=SFTConfig(
                output_dir=str(folder / "out"),
                report_to=[],
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                gradient_checkpointing=False,
                remove_unused_columns=False,
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            # Only its loss is used, on the batch below.
            train_dataset=Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[1, 2]]}),
            data_collator=Collator(processor),
            processing_class=processor,
        )
        plain, branched = Collator(processor)(items), BranchCollator(processor)(items)

        def stock() -> Any:
            trainer.model.train()
            return trainer.compute_loss(trainer.model, dict(plain))

        seconds: dict[str, list[float]] = {"TRL SFTTrainer": [], "shared pictures": []}
        for turn in range(args.repeats + 1):
            for label, run in zip(seconds, (stock, lambda: taught(**branched).loss), strict=True):
                start = time.perf_counter()
                loss = run()
                loss.backward()
                if turn:
                    seconds[label].append(time.perf_counter() - start)
                else:
                    print(f"{label:16} loss {loss.item():.6f}")
        print(f"{PICTURES} pictures x {args.questions} questions, {plain['input_ids'].shape[1]} tokens each")
        for label, values in seconds.items():
            middle = statistics.median(values)
            speed = statistics.median(a / b for a, b in zip(seconds["TRL SFTTrainer"], values, strict=True))
            print(
                f"{label:16} median {middle:.3f} s over {args.repeats} updates, {len(rows) / middle:.1f}"
                f" samples/s, {speed:.3f} x"
            )


if __name__ == "__main__":
    main()
