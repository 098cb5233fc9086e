"""What the nano base owes to its initialisation and its optimizer: held-out loss of frame descriptions after
the same few steps from the same data.

    python benchmarks/nano_base.py recipes/demo.yaml runs/demo [--steps 60]

Needs a run whose data are built. Prints the mean token loss on descriptions of test frames for AdamW with
Qwen's initializer_range of 0.02, AdamW with the nano's own, and Muon with the nano's own.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from surgr1.pipeline.recipe import load_recipe
from surgr1.pipeline.stages import Run
from surgr1.synthesis.conversations import Conversation, write_conversations
from surgr1.synthesis.pretraining import descriptions
from surgr1.training.data import Collator, TokenizedConversations
from surgr1.training.loading import load_model, load_processor
from surgr1.training.nano import build_nano
from surgr1.training.sft import SFTStage, run_sft

HELD_OUT = 240


def loss(model: Any, data: TokenizedConversations, collate: Collator) -> float:
    """Mean loss per completion token."""
    total = tokens = 0.0
    with torch.inference_mode():
        for at in range(0, len(data), 32):
            batch = collate([data[i] for i in range(at, min(at + 32, len(data)))])
            count = int((batch["labels"] != -100).sum())
            total += float(model(**batch).loss) * count
            tokens += count
    return total / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, run_dir=args.run.resolve())
    assert recipe.model.nano is not None
    run = Run(recipe, args.run.resolve(), Console(stderr=True))
    test = [s for s in run.samples if s.role == "test"]

    def described(samples: list[Any]) -> list[Conversation]:
        return list(descriptions(samples, run.images(samples)))

    train, held_out = described(run.train), described(test)
    held_out = held_out[:: max(1, len(held_out) // HELD_OUT)]
    own, muon = recipe.model.nano.config, recipe.model.nano.pretrain.learning_rate
    arms = (
        ("AdamW 0.002, initializer_range 0.02", 0.02, "adamw", 0.002),
        (f"AdamW 0.002, initializer_range {own.initializer_range}", own.initializer_range, "adamw", 0.002),
        (f"Muon {muon}, initializer_range {own.initializer_range}", own.initializer_range, "muon", muon),
    )
    print(f"{args.steps} steps of 32 descriptions; held-out token loss on {len(held_out)} test frames")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "descriptions.parquet"
        write_conversations(path, train)
        for k, (title, spread, optimizer, rate) in enumerate(arms):
            folder = Path(name) / str(k)
            build_nano(
                folder / "init",
                [f"{c.prompt}\n{c.completion}" for c in train],
                own.model_copy(update={"initializer_range": spread}),
                min_tokens=recipe.images.min_tokens,
                max_tokens=recipe.images.max_tokens,
            )
            stage = SFTStage.model_validate(
                recipe.model.nano.pretrain.model_dump()
                | {"steps": args.steps, "optimizer": optimizer, "learning_rate": rate}
            )
            run_sft(stage, model_dir=folder / "init", adapter_in=None, conversations=path, out=folder)
            processor = load_processor(folder / "model")
            data = TokenizedConversations(held_out, processor, max_length=stage.max_length)
            print(
                f"{title:40} {loss(load_model(folder / 'model'), data, Collator(processor)):.3f}", flush=True
            )


if __name__ == "__main__":
    main()
