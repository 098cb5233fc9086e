"""A tiny Qwen2.5-VL of the real class, with a few conversations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgr1.ontology.vocabularies import vocabulary
from surgr1.synthesis.conversations import Conversation, write_conversations
from surgr1.training.nano import NanoConfig, build_nano

TINY = NanoConfig(
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


@pytest.fixture(scope="session")
def conversations(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conversations")
    rng = np.random.default_rng(0)
    names = vocabulary("cholec80", "phase").names
    rows = []
    for k in range(12):
        path = folder / f"{k}.png"
        size = (84, 56) if k % 2 else (56, 56)
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        label = names[k % 7]
        text = f"<think>Level 1: a\nLevel 2: b\nLevel 3: c {label}</think><answer>{label}</answer>"
        rows.append(
            Conversation(
                f"s{k}",
                "sim-cholec80",
                "v",
                "phase_recognition",
                "Which phase?",
                text,
                str(path),
                *size,
                "t",
                label,
                "public",
                names,
            )
        )
    write_conversations(folder / "c.parquet", rows)
    return folder / "c.parquet"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    texts = [
        "<think>Level 1: a</think><answer>preparation</answer>",
        "Which phase?",
        "assistant user",
        *vocabulary("cholec80", "phase").names,
    ]
    return build_nano(tmp_path_factory.mktemp("tiny") / "model", texts, TINY, min_tokens=2, max_tokens=16)
