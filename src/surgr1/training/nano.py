"""A nano Qwen2.5-VL: the real classes with a few million parameters, a byte-level BPE trained on the
project's own text, the real processor.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2.5-VL's chat form: system turn only if given, images as <|vision_start|><|image_pad|><|vision_end|>.
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{"
    " message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image'"
    " %}<|vision_start|><|image_pad|><|vision_end|>{% elif part['type'] == 'text' %}{{ part['text'] }}{%"
    " endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt"
    " %}<|im_start|>assistant\n{% endif %}"
)


class NanoConfig(BaseModel):
    """Geometry. Defaults give about 3 million parameters; patch 14 and merge 2 are Qwen2.5-VL's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(1200, ge=300)
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    vision_depth: int = 3
    vision_hidden: int = 128
    vision_heads: int = 4
    vision_intermediate: int = 256
    initializer_range: float = Field(0.06, gt=0)
    """Standard deviation of fresh weights. Qwen's 0.02 is meant for thousands of dimensions; at this width it
    leaves attention flat for hundreds of steps (1/sqrt(hidden) is 0.07).
    """


def build_nano(
    out: Path, texts: Iterable[str], config: NanoConfig, *, min_tokens: int, max_tokens: int, seed: int = 0
) -> Path:
    """Write a randomly initialised model, tokenizer and processor to `out`, loadable with `from_pretrained`
    like any other.

    `texts` train the tokenizer. `min_tokens`/`max_tokens` are the image budget in merged tokens, so that
    prepared images are never resized.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        GenerationConfig,
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    bpe = Tokenizer(models.BPE())
    # Digits one by one, as in Qwen: coordinates must not become single tokens.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        additional_special_tokens=list(_SPECIAL),
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )
    tokenizer.chat_template = _TEMPLATE
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in _SPECIAL}
    budget = {"shortest_edge": min_tokens * 784, "longest_edge": max_tokens * 784}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=14, merge_size=2, temporal_patch_size=2, size=budget
        ),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=14, merge_size=2, temporal_patch_size=2),
        chat_template=_TEMPLATE,
    )
    head = config.hidden // config.heads
    sections = [head // 2 // 4, 0, 0]
    sections[1] = (head // 2 - sections[0]) // 2
    sections[2] = head // 2 - sections[0] - sections[1]
    model_config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.hidden,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "intermediate_size": config.intermediate,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "initializer_range": config.initializer_range,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
            "use_sliding_window": False,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_hidden,
            "num_heads": config.vision_heads,
            "intermediate_size": config.vision_intermediate,
            "out_hidden_size": config.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            # Pictures this small fit one window: full attention in every block.
            "fullatt_block_indexes": list(range(config.vision_depth)),
            "tokens_per_second": 2,
            "initializer_range": config.initializer_range,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(model_config)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, safe_serialization=True)
    processor.save_pretrained(out)
    (out / "nano.json").write_text(
        json.dumps({**config.model_dump(), "parameters": sum(p.numel() for p in model.parameters())}),
        encoding="utf-8",
    )
    return out
