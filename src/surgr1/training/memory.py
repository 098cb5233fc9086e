"""What an update costs in parameters, floating-point operations and memory, from a model's configuration:
counted on the meta device and measured on copies of one and two layers, without the weights.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgr1.training.lora import Lora, count_per_tower, peft_config
from surgr1.training.stage import Dtype

BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2}


def kept_bytes(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass of `forward`, parameters left
    out.
    """
    import torch

    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}
    alive = []

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
            # While it lives, no other storage gets its address.
            alive.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storages.values())


@dataclass(frozen=True)
class Counts:
    """Parameters: `text` the LLM's body, `head` its output layer, `vision` with the merger, `total` with the
    embedding, `adapter` per tower.
    """

    text: int
    head: int
    vision: int
    total: int
    adapter: dict[str, int]

    def forward_flops(self, tokens: int, patches: int, scored: int) -> float:
        """One forward: 2 per parameter and token (attention's own products, a few per cent, left out)."""
        return 2.0 * (self.text * tokens + self.head * scored + self.vision * patches)


def count(config: Any, lora: Lora) -> Counts:
    """Counts of a Qwen2.5-VL configuration, on the meta device."""
    import torch
    from peft import get_peft_model
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)

        def size(module: Any) -> int:
            return sum(p.numel() for p in module.parameters())

        embedding = size(model.get_input_embeddings())
        text = size(model.model.language_model) - embedding
        vision, total = size(model.model.visual), size(model)
        adapted = get_peft_model(model, peft_config(lora))
    return Counts(text, embedding, vision, total, count_per_tower(adapted))


@dataclass(frozen=True)
class Kept:
    """Bytes that LoRA training keeps for the backward pass, linear in tokens and patches (four patches to a
    picture's token). `layer` and `block` are those of one LLM layer and one vision block, `token` and `patch`
    what does not repeat with depth.
    """

    layer: float
    token: float
    block: float
    patch: float
    layers: int
    depth: int

    def total(self, tokens: int, patches: int) -> float:
        return tokens * (self.token + self.layers * self.layer) + patches * (
            self.patch + self.depth * self.block
        )

    def recomputed(self, tokens: int, patches: int, hidden: int, vision_hidden: int, dtype: Dtype) -> float:
        """With gradient checkpointing: every layer's input, and one layer and block in full."""
        inputs = BYTES[dtype] * (tokens * self.layers * hidden + patches * self.depth * vision_hidden)
        return inputs + tokens * (self.token + self.layer) + patches * (self.patch + self.block)


def measure_kept(config: Any, lora: Lora, dtype: Dtype, *, tokens: int, side: int = 336) -> Kept:
    """Measure on the CPU with one and two layers, on one square picture of `side` pixels and text up to
    `tokens`. The vocabulary is cut: the head is not part of this.
    """
    patches = (side // 14) ** 2

    def kept(layers: int, depth: int, text: int) -> int:
        return _kept_of(config, lora, dtype, layers, depth, text, side)

    text = max(16, tokens - patches // 4)
    one = kept(1, 1, text)
    layer = (kept(2, 1, text) - one) / (text + patches // 4)
    block = (kept(1, 2, text) - one) / patches
    # Twice the text: what a token keeps outside the layers.
    token = (kept(1, 1, 2 * text) - one) / text - layer
    patch = (one - (text + patches // 4) * (token + layer)) / patches - block
    return Kept(layer, token, block, patch, config.text_config.num_hidden_layers, config.vision_config.depth)


def _kept_of(config: Any, lora: Lora, dtype: Dtype, layers: int, depth: int, text: int, side: int) -> int:
    import torch
    from peft import get_peft_model
    from transformers import Qwen2_5_VLModel

    small = copy.deepcopy(config)
    small.text_config.num_hidden_layers = layers
    small.text_config.layer_types = ["full_attention"] * layers
    small.text_config.vocab_size, small.text_config.pad_token_id = 64, 0
    small.image_token_id, small.video_token_id, small.vision_start_token_id = 3, 4, 5
    small.vision_config.depth, small.vision_config.fullatt_block_indexes = depth, list(range(depth))
    small._attn_implementation = "sdpa"
    model = get_peft_model(Qwen2_5_VLModel(small).to(getattr(torch, dtype)), peft_config(lora)).train()
    edge = side // 14
    ids = torch.cat([torch.full((edge**2 // 4,), 3), torch.randint(8, 64, (text,))])[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 3).long(),
        "pixel_values": torch.randn(edge**2, 1176, dtype=getattr(torch, dtype)),
        "image_grid_thw": torch.tensor([[1, edge, edge]]),
        "use_cache": False,
    }
    return kept_bytes(model, lambda: model(**inputs).last_hidden_state)
