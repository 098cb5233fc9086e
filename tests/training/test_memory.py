"""Counts against the published sizes of Qwen2.5-VL-7B; the extrapolation against the whole model."""

import pytest
import torch
from peft import get_peft_model
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from surgr1.training.lora import Lora, peft_config
from surgr1.training.memory import count, kept_bytes, measure_kept


def test_counts_of_the_7b_geometry() -> None:
    """8.29 billion parameters: text body 6.53, embedding and head 0.545 each, vision 0.677 (reference
    training.md D3); r=16 on all linear layers is 11.5 + 40.4 million (training.md C).
    """
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
        },
        tie_word_embeddings=False,
    )
    found = count(config, Lora(r=16, alpha=32))
    assert found.total / 1e9 == pytest.approx(8.29, abs=0.005)
    assert found.text / 1e9 == pytest.approx(6.53, abs=0.005)
    assert found.head / 1e9 == pytest.approx(0.545, abs=0.001)
    assert found.vision / 1e9 == pytest.approx(0.677, abs=0.001)
    assert found.adapter["language"] / 1e6 == pytest.approx(40.4, abs=0.05)
    assert (found.adapter["vision"] + found.adapter["merger"]) / 1e6 == pytest.approx(11.5, abs=0.05)
    # training.md D3: 980 tokens of which 350 are scored, 2040 patches: 1.59e13.
    assert found.forward_flops(980, 2040, 350) == pytest.approx(1.59e13, rel=0.005)


def test_kept_memory_is_extrapolated_to_the_whole_model(tiny) -> None:
    """Measured on one layer and two; the whole (three each) is measured here, on another picture and text."""
    config = Qwen2_5_VLConfig.from_pretrained(tiny)
    config.text_config.num_hidden_layers, config.text_config.layer_types = 3, ["full_attention"] * 3
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 3, [0, 1, 2]
    lora = Lora(r=4, alpha=8)
    found = measure_kept(config, lora, "float32", tokens=200)
    model = get_peft_model(Qwen2_5_VLForConditionalGeneration(config), peft_config(lora)).train()
    image = config.image_token_id
    ids = torch.cat([torch.full((36,), image), torch.randint(20, 200, (80,))])[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).long(),
        "pixel_values": torch.randn(144, 1176),
        "image_grid_thw": torch.tensor([[1, 12, 12]]),
        "use_cache": False,
    }
    backbone = model.get_base_model().model
    whole = kept_bytes(backbone, lambda: backbone(**inputs).last_hidden_state)
    assert found.total(116, 144) == pytest.approx(whole, rel=0.02)
    assert found.recomputed(116, 144, 48, 32, "float32") < 0.6 * whole


def test_kept_bytes_by_hand() -> None:
    layer = torch.nn.Linear(10, 20, bias=False)
    x = torch.randn(5, 10, requires_grad=True)
    # The product keeps x (5 x 10), exp its result (5 x 20); the weight is a parameter.
    assert kept_bytes(layer, lambda: layer(x).exp()) == 4 * (50 + 100)
