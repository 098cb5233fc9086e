"""What one group keeps for the backward pass on each path: plain rows, plain rows with gradient
checkpointing, shared prefixes without it.

    python benchmarks/prefix_memory.py

Qwen2.5-VL-7B's geometry, bfloat16, LoRA r=32 on both towers, G = 8 completions of 350 tokens to a picture of
510 tokens and a question of 120 (reference training.md D3). Measured on one and two layers with random
weights and extrapolated over depth (`training.memory`); logits are left out, they are scored in tiles.
"""

from transformers import Qwen2_5_VLConfig

from surgr1.training.lora import Lora
from surgr1.training.memory import measure_kept

PICTURE, QUESTION, COMPLETION, G = 510, 120, 350, 8
GEOMETRY = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "tie_word_embeddings": False,
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "num_heads": 16,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
    },
}


def main() -> None:
    config = Qwen2_5_VLConfig(**GEOMETRY, tie_word_embeddings=False)
    kept = measure_kept(config, Lora(), "bfloat16", tokens=PICTURE + QUESTION + COMPLETION)
    rows, row, patches = G * (PICTURE + QUESTION + COMPLETION), PICTURE + QUESTION, 4 * PICTURE
    paths = {
        "plain rows": kept.total(rows, G * patches),
        "plain rows, gradient checkpointing": kept.recomputed(rows, G * patches, 3584, 1280, "bfloat16"),
        "shared prefix": kept.total(row + G * COMPLETION, patches),
    }
    print(f"one group: {G} completions of {COMPLETION} tokens, prompt {row} tokens, {patches} patches")
    for name, size in paths.items():
        print(f"  {name:36} {size / 2**30:6.1f} GiB, {size / paths['plain rows']:.3f} x plain rows")


if __name__ == "__main__":
    main()
