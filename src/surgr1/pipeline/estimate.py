"""What a recipe's training stages will take, before a device is touched: samples, tokens, steps, memory,
time. Needs the built data, the tokenizer and the configuration of the base, not its weights.
"""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import FACTOR, PreparedImage, fit_grid
from surgr1.corpora.schema import Sample
from surgr1.pipeline.recipe import RecipeError
from surgr1.pipeline.stages import SALTS, Run
from surgr1.synthesis.conversations import Conversation, trace_conversation, vqa_conversation
from surgr1.synthesis.offline import OfflineTeacher
from surgr1.training.grpo import GRPOStage
from surgr1.training.lora import Lora
from surgr1.training.memory import BYTES, Counts, Kept, count, measure_kept
from surgr1.training.sft import SFTStage
from surgr1.training.stage import Dtype

MOST = 1000
"""Samples whose tokens are counted; more change the quantiles little."""


@dataclass(frozen=True)
class StageEstimate:
    """One stage on one device. `tokens` are quantiles per sample, prompt with picture and completion (of
    GRPO, the longest that is allowed); `histogram` counts samples by tokens up to each bound; the memory is
    what is held at the end of the forward pass of the longest samples (kernels need some more); the time is
    that of the updates alone, without rollouts.
    """

    stage: str
    samples: int
    steps: int
    samples_per_step: int
    epochs: float
    tokens: dict[str, int]
    histogram: dict[int, int]
    adapter_parameters: dict[str, int]
    memory_gib: dict[str, float]
    flops_per_step: float
    update_hours: float


def estimate(run: Run, *, flops_per_second: float) -> list[StageEstimate]:
    """Estimates of the recipe's LoRA stages. Raises RecipeError when the base's files are not there,
    TokenError when a sample is over a stage's max_length.
    """
    from transformers import Qwen2_5_VLConfig

    from surgr1.training.loading import load_processor

    base = run.base
    if not (base / "config.json").is_file() and run.recipe.model.nano:
        base = run.folder / "base" / "init"
    if not (base / "config.json").is_file():
        raise RecipeError(
            f"{base}: no config.json of the base model; download it, or run the base stage first"
        )
    config, processor = Qwen2_5_VLConfig.from_pretrained(base, local_files_only=True), load_processor(base)
    found = []
    lora = run.recipe.sft.stage.lora if run.recipe.sft else Lora()
    counts = count(config, lora)
    kept: dict[Dtype, Kept] = {}
    for name, salt in SALTS.items():
        section = getattr(run.recipe, name)
        if section is None:
            continue
        stage: SFTStage | GRPOStage = section.stage
        samples = run.coldstart_samples() if name == "coldstart" else run.select(section.select, salt)
        shown = samples[:: max(1, math.ceil(len(samples) / MOST))]
        rows = [_conversation(run, s, name) for s in shown]
        lengths = _lengths(rows, processor, stage)
        dtype = stage.computed_in
        if dtype not in kept:
            kept[dtype] = measure_kept(config, lora, dtype, tokens=max(lengths))
        found.append(
            _estimate(name, stage, samples, rows, lengths, config, counts, kept[dtype], flops_per_second)
        )
    return found


def _conversation(run: Run, sample: Sample, stage: str) -> Conversation:
    """The sample as the stage will see it; the picture is not opened."""
    budget = run.recipe.images
    w, h = fit_grid(sample.width, sample.height, min_tokens=budget.min_tokens, max_tokens=budget.max_tokens)
    image = PreparedImage(Path(sample.image), w, h, sample.width, sample.height)
    if stage == "sft":
        return vqa_conversation(sample, image)
    return trace_conversation(
        sample, image, OfflineTeacher().trace(sample, image), source="offline", checks={}
    )


def _lengths(rows: list[Conversation], processor: Any, stage: SFTStage | GRPOStage) -> list[int]:
    from surgr1.training.data import TokenizedConversations

    if isinstance(stage, SFTStage):
        return TokenizedConversations(rows, processor, max_length=stage.max_length).lengths
    data = TokenizedConversations(rows, processor, max_length=sys.maxsize)
    return [n + stage.max_new_tokens for n in data.prompt_lengths]


def _estimate(
    name: str,
    stage: SFTStage | GRPOStage,
    samples: list[Sample],
    rows: list[Conversation],
    lengths: list[int],
    config: Any,
    counts: Counts,
    kept: Kept,
    flops_per_second: float,
) -> StageEstimate:
    ordered = sorted(lengths)
    # The micro-batch that must fit: its longest samples together.
    patches = max(4 * r.width * r.height // FACTOR**2 for r in rows)
    if isinstance(stage, GRPOStage):
        drawn, answers, micro = stage.prompts_per_step, stage.group_size, stage.micro_batch
        scored = branch = stage.max_new_tokens
        sharing = float(answers) if stage.shared_prefix else 1.0
        # TRL scores in tiles: no logits are kept.
        logits = 0.0
    else:
        drawn, answers, micro = stage.batch_size * stage.accumulation, 1, stage.batch_size
        scored, branch = ordered[-1], ordered[-1] - patches // 4
        pictures = {(s.dataset, s.image) for s in samples}
        sharing = len(samples) / len(pictures) if stage.shared_images else 1.0
        logits = micro * ordered[-1] * config.text_config.vocab_size * (BYTES[stage.dtype] + 8.0)
    per_step = drawn * answers
    # `sharing` branches to a prefix, which is kept once.
    prefixes = math.ceil(micro / sharing)
    tokens, pixels = prefixes * (ordered[-1] - branch) + micro * branch, prefixes * patches
    hidden, vision_hidden = config.text_config.hidden_size, config.vision_config.hidden_size
    activations = (
        kept.recomputed(tokens, pixels, hidden, vision_hidden, stage.computed_in)
        if stage.gradient_checkpointing
        else kept.total(tokens, pixels)
    )
    adapter = sum(counts.adapter.values())
    memory = {
        "weights": counts.total * BYTES[stage.dtype] / 2**30,
        # float32 weights, gradients and two moments.
        "adapter_and_optimizer": 16 * adapter / 2**30,
        "activations": activations / 2**30,
        "logits": logits / 2**30,
    }
    share = per_step / micro
    forward = counts.forward_flops(round(tokens * share), round(pixels * share), per_step * scored)
    # Forward and the gradients of the activations; frozen weights get none. Recomputation adds a forward.
    flops = forward * (3 if stage.gradient_checkpointing else 2)
    bounds = sorted({64 * math.ceil(n / 64) for n in lengths})
    return StageEstimate(
        name,
        len(samples),
        stage.steps,
        per_step,
        stage.steps * drawn / len(samples),
        {
            "least": ordered[0],
            "median": ordered[len(ordered) // 2],
            "p95": ordered[int(0.95 * (len(ordered) - 1))],
            "most": ordered[-1],
        },
        {b: sum(b - 64 < n <= b for n in lengths) for b in bounds},
        counts.adapter,
        {k: round(v, 2) for k, v in memory.items()} | {"total": round(sum(memory.values()), 2)},
        flops,
        stage.steps * flops / flops_per_second / 3600,
    )


def measured_flops() -> float:
    """Multiply-adds per second times two of a matrix product on this machine's best device."""
    import torch

    from surgr1.training.loading import best_device

    device = best_device()
    n, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        float((a @ a)[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best
