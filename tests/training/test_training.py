"""The objective by hand and against TRL's gradients, rewards that cannot be gamed, completion-only labels,
exact resume.
"""

import json
import math
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from peft import LoraModel, get_peft_model
from pydantic import ValidationError
from safetensors.torch import load_file

from surgr1.bench.report import read_log
from surgr1.engines.messages import picture_tokens, rendered
from surgr1.engines.transformers_engine import OwnNoise, TransformersEngine, sample_branches
from surgr1.engines.types import Request, Sampling
from surgr1.ontology.errors import Stopped
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.answers import spec_for
from surgr1.synthesis.conversations import read_conversations, write_conversations
from surgr1.training.data import (
    IGNORE,
    BranchCollator,
    Collator,
    PicturesTogether,
    SortedBatches,
    TokenError,
    TokenizedConversations,
)
from surgr1.training.export import export_merged
from surgr1.training.grpo import (
    PHASES,
    GRPOStage,
    make_trainer_class,
    prompt_dataset,
    run_grpo,
    training_config,
)
from surgr1.training.launch import train
from surgr1.training.loading import ModelError, fingerprint, load_model, load_processor
from surgr1.training.lora import (
    Lora,
    LoraError,
    check_gradients,
    count_per_tower,
    gradient_norms,
    merged_weights,
    peft_config,
)
from surgr1.training.muon import MuonWithAdamW
from surgr1.training.objective import entropy_weights, group_advantages, grpo_loss, token_entropy
from surgr1.training.page import StageLog, phases, read_completions, write_page
from surgr1.training.refine import is_hard
from surgr1.training.rewards import RewardWeights, answer_reward, format_reward, structure_reward, trl_rewards
from surgr1.training.rollouts import Rollouts, group_shares
from surgr1.training.sft import SFTStage, run_sft
from surgr1.training.shared_prefix import SharedPrefixError, install
from surgr1.training.stage import TrainingError, last_checkpoint

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]


def test_entropy_by_hand() -> None:
    assert token_entropy(torch.zeros(1, 1, 8)).item() == pytest.approx(math.log(8))
    assert token_entropy(torch.tensor([[[0.0, -1e9]]])).item() == pytest.approx(0)


def test_entropy_weights_follow_eq_6() -> None:
    h = torch.tensor([[1.0, 2.0, 0.5, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    raw = torch.exp(h[0, :3] / 0.7)
    assert torch.allclose(entropy_weights(h, mask, 0.7)[0, :3], raw / raw.mean())
    assert entropy_weights(h, mask, 0.7)[0, 3] == 0
    assert torch.allclose(entropy_weights(h, mask, 1e9)[0, :3], torch.ones(3))
    # exp(11.9 / 0.1) overflows; the weights must not.
    steep = entropy_weights(torch.tensor([[11.9, 0.0, 0.0]]), torch.ones(1, 3), 0.1)
    assert torch.allclose(steep, torch.tensor([[3.0, 0.0, 0.0]]))
    assert not entropy_weights(h.requires_grad_(), mask, 1.0).requires_grad


def test_entropy_weights_do_not_depend_on_the_micro_batch() -> None:
    h, mask = torch.rand(8, 20) * 5, (torch.rand(8, 20) > 0.2).long()
    whole = entropy_weights(h, mask, 0.5)
    parts = torch.cat([entropy_weights(h[i : i + 2], mask[i : i + 2], 0.5) for i in range(0, 8, 2)])
    assert torch.equal(whole, parts)


def test_advantages_follow_eq_3_and_the_choice_of_scaling() -> None:
    r = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    a = group_advantages(r, 4, "group")
    assert a[0].item() == pytest.approx(0.75 / (math.sqrt(3) / 4 + 1e-4)) and torch.all(a[4:] == 0)

    # In an all-wrong group where one rollout breaks the format, lambda_f is void under "group" and counts
    # under "batch".
    def one(weight: float, scaling: str) -> float:
        wrong = torch.tensor([0.0] + [weight] * 7)
        other = torch.tensor([1.0, 0.0] * 4)
        return group_advantages(torch.cat([wrong, other]), 8, scaling)[0].item()

    assert one(0.5, "group") == pytest.approx(one(0.05, "group"), rel=0.02)
    assert abs(one(0.5, "batch")) > 5 * abs(one(0.05, "batch"))
    assert one(0.5, "none") == pytest.approx(-0.5 * 7 / 8)


def test_reward_weights_are_a_function_of_the_step() -> None:
    weights = RewardWeights(format=0.2, answer=1.0, structure=0.3, structure_steps=5)
    assert weights.at(4) == (0.2, 1.0, 0.3) and weights.at(5) == (0.2, 1.0, 0.0)


PHASE = spec_for(Task.PHASE_RECOGNITION, vocabulary("cholec80", "phase").names, "cholec80")
GOOD = "<think>Level 1: a\nLevel 2: b\nLevel 3: c</think><answer>preparation</answer>"


def test_a_right_and_well_formed_answer_earns_everything() -> None:
    assert (
        format_reward(GOOD, Task.PHASE_RECOGNITION),
        answer_reward(GOOD, "preparation", PHASE),
        structure_reward(GOOD),
    ) == (1, 1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        "<answer>preparation or gallbladder dissection</answer>",
        "<answer>preparation</answer><answer>gallbladder dissection</answer>",
        "<answer>gallbladder dissection</answer><answer>preparation</answer>",
        "preparation",
        "<answer></answer>",
        "<answer>it may be preparation, I think</answer>",
        "<answer>preparation; calot triangle dissection</answer>",
        "<answer>" + "; ".join(vocabulary("cholec80", "phase").names) + "</answer>",
    ],
)
def test_answers_that_hedge_or_hide_earn_nothing(answer) -> None:
    assert (
        answer_reward(f"<think>Level 1: a\nLevel 2: b\nLevel 3: c</think>{answer}", "preparation", PHASE) == 0
    )


@pytest.mark.parametrize(
    "text",
    [
        GOOD + " extra",
        GOOD.replace("Level 2: b\n", ""),
        GOOD.replace("Level 1: a\nLevel 2: b", "Level 2: b\nLevel 1: a"),
        GOOD.replace("Level 2: b", "Level 2:"),
        GOOD.replace("</think>", ""),
        GOOD + GOOD,
        GOOD.replace("<think>", ""),
        "<answer>preparation</answer>",
    ],
)
def test_broken_forms_earn_no_format(text) -> None:
    assert format_reward(text, Task.PHASE_RECOGNITION) == 0


def test_the_opener_alone_is_no_structure() -> None:
    assert structure_reward("<think>This is a Level 1 task.</think><answer>no</answer>") == 0
    assert structure_reward("<think>Level 1:</think><answer>no</answer>") == 0


def test_boxes_are_rewarded_by_overlap() -> None:
    spec = spec_for(Task.TOOL_LOCALIZATION)
    text = "<think>Level 1: a</think><answer>({},0),(100,100)</answer>"
    assert (
        answer_reward(text.format(10), "(0,0),(100,100)", spec) == 1
        and answer_reward(text.format(60), "(0,0),(100,100)", spec) == 0
    )


def test_dead_groups_and_hard_samples() -> None:
    shares = group_shares([1, 1, 0, 0, 1, 0], 2)
    assert shares == pytest.approx(
        {"groups/all_right": 1 / 3, "groups/all_wrong": 1 / 3, "groups/mixed": 1 / 3}
    )
    assert is_hard([False, False, False]) and not is_hard([False, True, False])


def test_only_the_completion_is_supervised(tiny, conversations) -> None:
    processor = load_processor(tiny)
    rows = list(read_conversations(conversations))
    data = TokenizedConversations(rows, processor, max_length=400)
    batch = Collator(processor)([data[0], data[1]])
    for k in range(2):
        kept = batch["labels"][k][batch["labels"][k] != IGNORE]
        assert processor.tokenizer.decode(kept) == rows[k].completion + "<|im_end|>"
        tokens = int(
            (batch["input_ids"][k] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum()
        )
        assert tokens == rows[k].width * rows[k].height // 784 == int(batch["image_grid_thw"][k].prod()) // 4
    with pytest.raises(TokenError, match="max_length 20"):
        TokenizedConversations(rows, processor, max_length=20)


def policy(tiny):
    torch.manual_seed(0)
    model = get_peft_model(load_model(tiny), peft_config(Lora(r=4, alpha=8)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_lora_reaches_every_tower_and_a_dead_adapter_is_refused(tiny, conversations) -> None:
    processor = load_processor(tiny)
    data = TokenizedConversations(list(read_conversations(conversations)), processor, max_length=400)
    model = get_peft_model(load_model(tiny), peft_config(Lora(r=4, alpha=8)))
    assert set(count_per_tower(model)) == {"vision", "merger", "language"}
    model(**Collator(processor)([data[0]])).loss.backward()
    check_gradients(model)
    assert set(gradient_norms(model)) == {"vision", "merger", "language"}
    next(p for n, p in model.named_parameters() if "visual" in n and "lora_B" in n).grad = None
    with pytest.raises(LoraError, match="visual"):
        check_gradients(model)


def test_a_merger_may_stay_frozen(tiny, conversations, tmp_path) -> None:
    stage = SFTStage(steps=2, batch_size=4, lora=Lora(r=4, alpha=8, merger=False))
    found = run_sft(stage, model_dir=tiny, adapter_in=None, conversations=conversations, out=tmp_path)
    trainable = json.loads(found.log.read_text().splitlines()[0])["trainable"]
    assert trainable["merger"] == 0 and min(trainable["vision"], trainable["language"]) > 0
    weights = load_file(found.adapter_dir / "adapter_model.safetensors")
    assert weights and not any("merger" in name for name in weights)


def trainer_for(tiny, conversations, out, **changes):
    stage = GRPOStage(steps=1, group_size=2, prompts_per_step=2, micro_batch=4, max_new_tokens=16, **changes)
    return make_trainer_class()(
        model=policy(tiny),
        reward_funcs=trl_rewards(),
        args=training_config(stage, out),
        train_dataset=prompt_dataset(conversations),
        processing_class=load_processor(tiny),
        stage=stage,
    )


def grpo_batch(tiny, conversations, rows):
    """Prompt and completion halves of a collated batch, in TRL's keys."""
    processor = load_processor(tiny)
    everything = list(read_conversations(conversations))
    data = TokenizedConversations([everything[r] for r in rows], processor, max_length=400)
    batch = Collator(processor)([data[i] for i in range(len(rows))])
    width = max(int((x != IGNORE).sum()) for x in batch["labels"])
    ids, labels = batch["input_ids"], batch["labels"]
    prompts, completions = [], []
    for k in range(len(rows)):
        n = int((labels[k] != IGNORE).sum())
        prompts.append(ids[k][batch["attention_mask"][k].bool()][:-n])
        completions.append(ids[k][-n:])
    pad = processor.tokenizer.pad_token_id
    longest = max(map(len, prompts))
    prompt_ids = torch.stack([torch.cat([torch.full((longest - len(p),), pad), p]) for p in prompts])
    completion_ids = torch.stack([torch.cat([c, torch.full((width - len(c),), pad)]) for c in completions])
    completion_mask = torch.stack([torch.arange(width) < len(c) for c in completions]).long()
    prompt_mask = torch.stack([torch.arange(longest) >= longest - len(p) for p in prompts]).long()
    types = torch.cat(
        [
            (prompt_ids == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).long(),
            torch.zeros_like(completion_ids),
        ],
        1,
    )
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([1.3, -0.7, 0.4, -1.1, 0.9, -0.2])[: len(rows)],
        "num_items_in_batch": completion_mask.sum(),
        "pixel_values": batch["pixel_values"],
        "image_grid_thw": batch["image_grid_thw"],
        "mm_token_type_ids": types,
        "num_images": [1] * len(rows),
        "group": torch.tensor([rows.index(r) for r in rows]),
    }


def gradients(model):
    return torch.cat(
        [
            p.grad.flatten()
            for n, p in sorted(model.named_parameters())
            if p.requires_grad and p.grad is not None
        ]
    )


def reference_gradient(tiny, batch, temperature, tau):
    """Eqs. 5-7 in plain torch on the same policy and batch."""
    model = policy(tiny)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    kwargs = {k: batch[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}
    t = batch["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask, **kwargs).logits[:, -t - 1 : -1] / temperature
    logps = logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
    weights = None if tau is None else entropy_weights(token_entropy(logits), batch["completion_mask"], tau)
    grpo_loss(logps, batch["advantages"], batch["completion_mask"], weights).backward()
    return gradients(model)


@pytest.mark.parametrize(
    ("changes", "tau"), [({"tau": 0.5}, 0.5), ({"tau": 1e8}, None), ({"entropy_weighting": False}, None)]
)
def test_gradients_equal_the_specification(tiny, conversations, tmp_path, changes, tau) -> None:
    """The TRL subclass against Eqs. 5-7, LoRA on both towers, mixed image sizes; tau to infinity is plain
    GRPO.
    """
    batch = grpo_batch(tiny, conversations, [0, 1, 2, 3])
    trainer = trainer_for(tiny, conversations, tmp_path, **changes)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer._compute_loss(trainer.model, batch).backward()
    found, wanted = gradients(trainer.model), reference_gradient(tiny, batch, 0.9, tau)
    assert found.shape == wanted.shape
    assert ((found - wanted).norm() / wanted.norm()).item() < 1e-5
    if tau == 0.5:
        plain = reference_gradient(tiny, batch, 0.9, None)
        assert ((plain - wanted).norm() / wanted.norm()).item() > 1e-3, "the weights must matter in this test"


def with_own_completions(batch):
    """Another completion of another length in every row."""
    ids, mask = batch["completion_ids"], batch["completion_mask"]
    rows, width = ids.shape
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, 260, ids.shape, generator=generator)
    mask = (torch.arange(width) < (width - torch.arange(rows) * 3)[:, None]).long()
    return batch | {"completion_ids": ids * mask, "completion_mask": mask, "num_items_in_batch": mask.sum()}


@pytest.mark.parametrize("rows", [[0, 0, 0, 0], [0, 1, 0, 1, 1, 3], [0, 1, 2, 3]])
def test_shared_prefixes_give_the_loss_and_gradients_of_separate_rows(
    tiny, conversations, tmp_path, rows
) -> None:
    """Mixed picture sizes (so prompts of mixed length), mixed completions, groups of any size and order."""
    batch = with_own_completions(grpo_batch(tiny, conversations, rows))
    found = {}
    for shared in (False, True):
        trainer = trainer_for(tiny, conversations, tmp_path, tau=0.5, shared_prefix=shared)
        trainer.current_gradient_accumulation_steps = 1
        trainer.model.train()
        calls = []
        trainer.model.get_base_model().model.visual.register_forward_hook(
            lambda module, inputs, output, calls=calls: calls.append(len(inputs[0]))
        )
        loss = trainer._compute_loss(trainer.model, batch)
        loss.backward()
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        pictures = {
            k: batch[k] for k in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        }
        width = batch["completion_ids"].shape[1]
        with torch.no_grad():
            whole, parts = (
                trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, mask, width, size, compute_entropy=True, **pictures
                )
                for size in (None, 2)
            )
        for a, b in zip(whole[:2], parts[:2], strict=True):
            assert torch.allclose(a * batch["completion_mask"], b * batch["completion_mask"], atol=1e-5)
        found[shared] = loss.item(), gradients(trainer.model), whole[0] * batch["completion_mask"], calls[0]
    plain, ours = found[False], found[True]
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    assert ((ours[1] - plain[1]).norm() / plain[1].norm()).item() < 1e-5
    assert torch.allclose(ours[2], plain[2], atol=1e-5)
    patches = batch["image_grid_thw"].prod(-1)
    assert plain[3] == patches.sum()
    assert ours[3] == sum(patches[rows.index(r)] for r in set(rows)), "the encoder must see a picture once"


def test_old_and_reference_log_probs_share_prefixes_too(tiny, conversations, tmp_path) -> None:
    """Computed while generating, where TRL would ask for them: off-policy steps, beta > 0."""
    rows = list(prompt_dataset(conversations))
    found = []
    for shared in (False, True):
        trainer = trainer_for(tiny, conversations, tmp_path, shared_prefix=shared)
        trainer.model.train()
        # Two steps of updates per generation; the reference is the base without its adapter.
        trainer.args.steps_per_generation, trainer.beta = 2, 0.1
        batch = trainer._generate_and_score_completions([rows[k] for k in (0, 0, 1, 1)])
        mask = batch["completion_mask"]
        found.append([batch[f"{k}_per_token_logps"] * mask for k in ("old", "ref")])
    for plain, ours in zip(*found, strict=True):
        assert torch.allclose(plain, ours, atol=1e-5)
    old, reference = found[1]
    assert not torch.allclose(old, reference, atol=1e-2), "the adapter must matter in this test"


def test_shared_prefixes_in_bfloat16_stay_within_its_noise(tiny, conversations, tmp_path) -> None:
    """Both paths against the float32 gradient: sharing may not add to what rounding does to the plain one."""
    batch = with_own_completions(grpo_batch(tiny, conversations, [0, 1, 0, 1, 1, 3]))

    def gradient(shared: bool, dtype: str):
        trainer = trainer_for(tiny, conversations, tmp_path, tau=0.5, shared_prefix=shared, dtype=dtype)
        trainer.current_gradient_accumulation_steps = 1
        for parameter in trainer.model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(getattr(torch, dtype))
        trainer.model.train()
        trainer._compute_loss(trainer.model, batch).backward()
        return gradients(trainer.model).double()

    exact = gradient(False, "float32")
    noise, ours = ((gradient(s, "bfloat16") - exact).norm() / exact.norm() for s in (False, True))
    assert 1e-4 < noise < 0.2 and ours < 1.5 * noise


def test_rollouts_prefill_and_preprocess_once_per_prompt(tiny, conversations, tmp_path, monkeypatch) -> None:
    """Counted against TRL's own trainer: 1 preprocessing per prompt against 2G, 1 pass of the encoder against
    G.
    """
    from transformers import Qwen2VLImageProcessor
    from trl import GRPOTrainer

    pictures: list[int] = []
    plain = Qwen2VLImageProcessor._preprocess

    def counted(self, images, **settings):
        pictures.append(len(images))
        return plain(self, images, **settings)

    monkeypatch.setattr(Qwen2VLImageProcessor, "_preprocess", counted)
    rows = list(prompt_dataset(conversations))
    inputs = [rows[k] for k in (0, 0, 1, 1)]
    ours = trainer_for(tiny, conversations, tmp_path)
    stock = GRPOTrainer(
        model=policy(tiny),
        reward_funcs=trl_rewards(),
        args=ours.args,
        train_dataset=prompt_dataset(conversations),
        processing_class=load_processor(tiny),
    )
    found = []
    for trainer in (stock, ours):
        trainer.model.train()
        seen: list[int] = []
        trainer.model.get_base_model().model.visual.register_forward_hook(
            lambda module, inputs, output, seen=seen: seen.append(len(inputs[0]))
        )
        pictures.clear()
        batch = trainer._generate_and_score_completions(inputs)
        found.append((sum(pictures), seen, batch))
    patches = sum(int(g.prod()) for g in found[1][2]["image_grid_thw"][[0, 2]])
    assert [f[0] for f in found] == [8, 2]
    assert [f[1] for f in found] == [[2 * patches], [patches]]
    for key in ("prompt_ids", "prompt_mask", "pixel_values", "image_grid_thw"):
        assert torch.equal(found[0][2][key], found[1][2][key]), key


def prompts_of_rows(processor, rows):
    requests = [Request(r.sample_id, r.prompt, (Path(r.image),), r.policy) for r in rows]
    return [rendered(r, processor) for r in requests]


def test_branches_of_one_prefill_are_what_generate_draws(tiny, conversations) -> None:
    """Every completion against `generate` on its prompt alone, under the same noise."""
    from transformers import GenerationConfig, LogitsProcessorList, TemperatureLogitsWarper

    model, processor = load_model(tiny).eval(), load_processor(tiny)
    prompts = prompts_of_rows(processor, list(read_conversations(conversations))[:3])
    sampling = Sampling(max_new_tokens=12, temperature=0.9, n=2, seed=7)
    found = sample_branches(model, processor, prompts, sampling)
    never = [[t] for t in picture_tokens(processor)]
    for prompt, group in zip(prompts, found, strict=True):
        inputs = processor(
            text=[prompt.text],
            images=prompt.pictures,
            return_tensors="pt",
            images_kwargs={"do_resize": False},
        )
        for k, sampled in enumerate(group):
            config = GenerationConfig(
                max_new_tokens=12,
                do_sample=False,
                bad_words_ids=never,
                pad_token_id=0,
                eos_token_id=model.generation_config.eos_token_id,
            )
            drawn = LogitsProcessorList(
                [TemperatureLogitsWarper(0.9), OwnNoise([f"7|{prompt.name}|{k}"], "cpu")]
            )
            alone = model.generate(**inputs, generation_config=config, logits_processor=drawn)[0]
            assert sampled.prompt == inputs["input_ids"][0].tolist()
            assert sampled.tokens == alone[len(sampled.prompt) :].tolist()
    assert len({tuple(s.tokens) for g in found for s in g}) == 6


class Echo:
    """A sampler that is the policy itself, or (`stale`) the policy before it was trained."""

    def __init__(self, model, processor, *, stale=False):
        self.model, self.processor, self.stale, self.loads = model, processor, stale, 0

    def load(self, weights):
        self.loads += 1
        weights = dict(weights)
        if not self.stale:
            missing, unexpected = self.model.load_state_dict(weights, strict=False)
            assert not unexpected and set(missing) <= {"lm_head.weight"}

    def sample(self, prompts, sampling):
        groups = sample_branches(self.model, self.processor, prompts, sampling)
        return [[self._with_logps(p, s, sampling) for s in g] for p, g in zip(prompts, groups, strict=True)]

    def _with_logps(self, prompt, sampled, sampling):
        inputs = self.processor(
            text=[prompt.text],
            images=prompt.pictures,
            return_tensors="pt",
            images_kwargs={"do_resize": False},
        )
        n = len(sampled.tokens)
        tokens = torch.tensor([sampled.tokens])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, n))
        with torch.no_grad():
            logits = self.model(**inputs).logits[0, -n - 1 : -1] / sampling.temperature
        return replace(sampled, logps=logits.log_softmax(-1).gather(-1, tokens[0][:, None])[:, 0].tolist())


def test_a_sampler_of_its_own_gets_the_weights_and_is_compared(tiny, conversations, tmp_path) -> None:
    """The gap is rounding where the sampler follows, and ends the training where it does not."""
    processor = load_processor(tiny)
    rows = list(prompt_dataset(conversations))
    inputs = [rows[k] for k in (0, 0, 1, 1)]
    trainer = trainer_for(tiny, conversations, tmp_path)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    trainer._sampler = Echo(load_model(tiny), processor)
    batch = trainer._generate_and_score_completions(inputs)
    trainer._compute_loss(trainer.model, batch)
    assert trainer._metrics["train"]["gap/max"][-1] < 1e-4 and trainer._sampler.loads == 1
    assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters()), (
        "the base must not move"
    )
    trainer._sampler = Echo(load_model(tiny), processor, stale=True)
    trainer._loaded_step = -1
    batch = trainer._generate_and_score_completions(inputs)
    with pytest.raises(TrainingError, match="nats per token at step 1"):
        trainer.stage = trainer.stage.model_copy(update={"rollouts": Rollouts(max_gap=1e-3)})
        trainer._compute_loss(trainer.model, batch)


def test_the_difference_to_a_sampler_is_corrected_and_bounded(tiny, conversations, tmp_path) -> None:
    """Token losses are multiplied by min(pi_trainer / pi_sampler, cap)."""
    batch = grpo_batch(tiny, conversations, [0, 1])
    trainer = trainer_for(tiny, conversations, tmp_path, entropy_weighting=False)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    mask = batch["completion_mask"]
    trainer._compute_loss(trainer.model, batch)
    logps = trainer._logps
    drift = torch.linspace(-0.5, 0.5, logps.numel()).view_as(logps) * 0.3
    drift[0, 0] = 5.0
    trainer.stage = trainer.stage.model_copy(update={"rollouts": Rollouts(max_gap=9)})
    found = trainer._compute_loss(trainer.model, batch | {"sampling_per_token_logps": logps - drift})
    ratios = drift.exp().clamp(max=2.0) * mask
    # On-policy the token loss is -A.
    wanted = -(batch["advantages"][:, None] * ratios).sum(-1).mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_sampler_that_reads_another_prompt_is_refused(tiny, conversations, tmp_path) -> None:
    class Other(Echo):
        def sample(self, prompts, sampling):
            return [[replace(s, prompt=s.prompt[1:]) for s in g] for g in super().sample(prompts, sampling)]

    trainer = trainer_for(tiny, conversations, tmp_path)
    trainer.model.train()
    trainer._sampler = Other(load_model(tiny), load_processor(tiny))
    row = prompt_dataset(conversations)[0]
    with pytest.raises(TrainingError, match="chat template, tokenizer or image size"):
        trainer._generate_and_score_completions([row, row])


def test_dead_groups_are_replaced(tiny, conversations, tmp_path, monkeypatch) -> None:
    """By prompts not yet in the step, as often as the stage says, the same ones in every run."""
    trainer = trainer_for(tiny, conversations, tmp_path, resample=2)
    trainer.model.train()
    rows = list(prompt_dataset(conversations))
    asked: list[list[str]] = []
    alive = {"s3", "s7", "s8"}

    def right(row, group):
        return [1.0, 0.0] if row["sample_id"] in alive else [0.0, 0.0]

    monkeypatch.setattr(trainer, "_right", right)
    plain = trainer._sample
    monkeypatch.setattr(
        trainer, "_sample", lambda rows: asked.append([r["sample_id"] for r in rows]) or plain(rows)
    )
    inputs = [rows[k] for k in (3, 3, 0, 0)]
    first = trainer._generate_and_score_completions(inputs)
    assert asked[0] == ["s3", "s0"] and len(asked) in (2, 3) and all(len(a) == 1 for a in asked[1:])
    assert not {"s3", "s0"} & {a[0] for a in asked[1:]}
    assert [r["sample_id"] for r in trainer._rows] == ["s3", "s3", asked[-1][0], asked[-1][0]]
    assert trainer._metrics["train"]["groups/resampled"] == [(len(asked) - 1) / 2]
    again = trainer._generate_and_score_completions(inputs)
    assert torch.equal(first["completion_ids"], again["completion_ids"])


@pytest.fixture()
def frames(conversations, tmp_path):
    """Three questions about one picture, two about a larger one, one about a third; answers of mixed
    length.
    """
    rows = list(read_conversations(conversations))[:6]
    pictures = [rows[k] for k in (0, 0, 1, 0, 1, 2)]
    rows = [
        replace(
            r,
            image=p.image,
            width=p.width,
            height=p.height,
            prompt="Which phase?" + " assistant" * k,
            completion=r.completion + " user" * (5 - k),
        )
        for k, (r, p) in enumerate(zip(rows, pictures, strict=True))
    ]
    write_conversations(tmp_path / "frames.parquet", rows)
    return tmp_path / "frames.parquet"


def test_questions_about_one_picture_are_branches_of_it(tiny, frames) -> None:
    """The loss and gradients of separate samples, the picture encoded once."""
    processor = load_processor(tiny)
    data = TokenizedConversations(list(read_conversations(frames)), processor, max_length=400)
    items = [data[k] for k in range(len(data))]
    found = []
    for collator in (Collator(processor), BranchCollator(processor)):
        model = policy(tiny)
        install(model)
        batch = collator(items)
        loss = model(**batch).loss
        loss.backward()
        found.append((loss.item(), gradients(model), len(batch["pixel_values"]), batch["labels"]))
    (plain, wanted, patches, labels), (ours, got, once, branch_labels) = found
    assert ours == pytest.approx(plain, rel=1e-5)
    assert ((got - wanted).norm() / wanted.norm()).item() < 1e-5
    assert once < patches and (labels != IGNORE).sum() == (branch_labels != IGNORE).sum()


def test_sft_on_shared_pictures_has_the_loss_of_separate_samples(tiny, frames, tmp_path) -> None:
    """One step over all samples, in two micro-batches."""
    loss = {}
    for shared in (False, True):
        result = run_sft(
            SFTStage(steps=1, batch_size=3, accumulation=2, lora=Lora(r=4, alpha=8), shared_images=shared),
            model_dir=tiny,
            adapter_in=None,
            conversations=frames,
            out=tmp_path / str(shared),
        )
        loss[shared] = result.final_loss
    assert loss[True] == pytest.approx(loss[False], rel=1e-5)
    order = list(PicturesTogether(["a", "b", "a", "c", "b", "a"], 0))
    assert sorted(order) == list(range(6)) and order != sorted(order)
    assert len([k for k, _ in groupby("abacba"[k] for k in order)]) == 3


def test_a_rollout_depends_on_its_own_name_alone(tiny, conversations) -> None:
    """Not on the batch, nor on being asked for together or one by one."""
    rows = list(read_conversations(conversations))[:5]
    requests = [Request(r.sample_id, r.prompt, (Path(r.image),), r.policy) for r in rows]
    model, processor = load_model(tiny), load_processor(tiny)

    def texts(batch_size, *samplings):
        engine = TransformersEngine(model, processor, model_id="m", batch_size=batch_size)
        found: dict[str, list[str]] = {r.request_id: [] for r in requests}
        for sampling in samplings:
            for request, answers in engine.generate(requests, sampling):
                found[request.request_id] += [a.text for a in answers]
        return found

    base = Sampling(max_new_tokens=12, temperature=0.9, seed=5)
    together = texts(64, replace(base, n=3))
    assert together == texts(2, base, replace(base, n=2, first=1))
    assert together != texts(64, replace(base, n=3, seed=6))
    assert len({t for found in together.values() for t in found}) > 10


def test_own_noise_draws_from_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, float("-inf"), 2.0])
    n = 20000
    drawn = OwnNoise([str(k) for k in range(n)], "cpu")(None, logits.expand(n, -1)).argmax(-1)
    shares = torch.bincount(drawn, minlength=5) / n
    # Four standard errors.
    assert torch.allclose(shares, logits.softmax(-1), atol=4 * 0.5 / n**0.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputation_and_a_bfloat16_base_teach_every_adapter(tiny, conversations, tmp_path, dtype) -> None:
    """The adapters stay in float32, learn at the first step, and recomputing changes nothing."""
    weights = {}
    for checkpointing in (False, True):
        result = run_sft(
            SFTStage(
                steps=2,
                batch_size=4,
                learning_rate=1e-3,
                lora=Lora(r=4, alpha=8),
                dtype=dtype,
                gradient_checkpointing=checkpointing,
            ),
            model_dir=tiny,
            adapter_in=None,
            conversations=conversations,
            out=tmp_path / str(checkpointing),
        )
        row = json.loads(result.log.read_text().splitlines()[-1])
        norms = [row[f"gradient_norm/{t}"] for t in ("vision", "merger", "language")]
        assert min(norms) > 0 and math.hypot(*norms) == pytest.approx(row["grad_norm"], rel=1e-3)
        weights[checkpointing] = load_file(result.adapter_dir / "adapter_model.safetensors")
    for name, value in weights[False].items():
        assert value.dtype == torch.float32
        assert torch.allclose(weights[True][name], value, atol=1e-6), name


def test_what_cannot_go_together_is_refused() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        SFTStage(steps=1, shared_images=True, gradient_checkpointing=True)
    with pytest.raises(ValidationError, match="choose one"):
        GRPOStage(steps=1, gradient_checkpointing=True)
    GRPOStage(steps=1, shared_prefix=False, gradient_checkpointing=True)


def test_shared_prefixes_refuse_gradient_checkpointing(tiny, conversations, tmp_path) -> None:
    trainer = trainer_for(tiny, conversations, tmp_path)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(SharedPrefixError, match="gradient checkpointing"):
        trainer._compute_loss(trainer.model, grpo_batch(tiny, conversations, [0, 0]))


def test_gradients_do_not_depend_on_the_micro_batch(tiny, conversations, tmp_path) -> None:
    whole = grpo_batch(tiny, conversations, [0, 0, 2, 2])
    trainer = trainer_for(tiny, conversations, tmp_path, tau=0.5)
    trainer.current_gradient_accumulation_steps = 1
    trainer._compute_loss(trainer.model, whole).backward()
    first = gradients(trainer.model)
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 2
    patches = int(whole["image_grid_thw"][0].prod())
    for half in (slice(0, 2), slice(2, 4)):
        part = {
            k: v[half] if isinstance(v, torch.Tensor) and v.dim() and len(v) == 4 else v
            for k, v in whole.items()
        }
        part["num_images"] = [1, 1]
        part["pixel_values"] = whole["pixel_values"][half.start * patches : half.stop * patches]
        trainer._compute_loss(trainer.model, part).backward()
    assert ((gradients(trainer.model) - first).norm() / first.norm()).item() < 1e-5


@pytest.mark.parametrize(
    ("full", "optimizer"), [(False, "adamw"), (True, "adamw"), (True, "muon")], ids=["lora", "full", "muon"]
)
def test_sft_resumes_to_the_same_weights(tiny, conversations, tmp_path, full, optimizer) -> None:
    stage = SFTStage(
        steps=6,
        batch_size=4,
        learning_rate=1e-3,
        lora=Lora(r=4, alpha=8),
        save_steps=2,
        max_length=400,
        full=full,
        optimizer=optimizer,
    )
    whole = run_sft(
        stage, model_dir=tiny, adapter_in=None, conversations=conversations, out=tmp_path / "whole"
    )

    class Killed(Exception):
        pass

    def kill(step: int, total: int) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        run_sft(
            stage,
            model_dir=tiny,
            adapter_in=None,
            conversations=conversations,
            out=tmp_path / "cut",
            progress=kill,
        )
    # A checkpoint that was being written when the process died is dropped.
    broken = tmp_path / "cut" / "checkpoints" / "checkpoint-5"
    broken.mkdir()
    (broken / "adapter_model.safetensors").write_bytes(b"half")
    assert last_checkpoint(tmp_path / "cut" / "checkpoints").name == "checkpoint-4" and not broken.exists()
    run_sft(stage, model_dir=tiny, adapter_in=None, conversations=conversations, out=tmp_path / "cut")
    name = "model/model.safetensors" if full else "adapter/adapter_model.safetensors"
    a, b = (load_file(tmp_path / run / name) for run in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    if full:
        return
    first = json.loads(whole.log.read_text().splitlines()[0])
    assert set(first["trainable"]) == {"vision", "merger", "language"}
    assert fingerprint(tiny, whole.adapter_dir) != fingerprint(tiny, None)


def test_sigterm_ends_training_in_order(tiny, conversations, tmp_path) -> None:
    """After the running step, with a checkpoint no save_steps asked for; continued, the weights are those of
    an undisturbed run.
    """
    stage = SFTStage(steps=4, batch_size=4, learning_rate=1e-3, lora=Lora(r=4, alpha=8), save_steps=100)
    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    whole = run_sft(stage, **places, out=tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)

    def terminate(step: int, total: int) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match=r"after step [23] of 4, checkpoint written"):
        run_sft(stage, **places, out=tmp_path / "cut", progress=terminate)
    assert signal.getsignal(signal.SIGTERM) is before
    assert last_checkpoint(tmp_path / "cut" / "checkpoints") is not None
    assert not (tmp_path / "cut" / "adapter").exists()
    again = run_sft(stage, **places, out=tmp_path / "cut")
    a, b = (load_file(r.adapter_dir / "adapter_model.safetensors") for r in (whole, again))
    assert all(torch.equal(a[k], b[k]) for k in a)


def losses_of(folder: Path, key: str = "loss") -> list[float]:
    rows = [json.loads(x) for x in (folder / "log.jsonl").read_text().splitlines()]
    return [r[key] for r in rows if key in r]


TWO = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2 --standalone"


@pytest.fixture()
def two_processes(monkeypatch) -> str:
    """A launcher of two processes that meet over gloo."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return TWO


def test_two_processes_give_the_updates_of_one(tiny, conversations, tmp_path, two_processes) -> None:
    """Same losses (rounding apart), over more than one epoch; a checkpoint of two is continued by one."""
    stage = SFTStage(
        steps=6, batch_size=2, accumulation=2, learning_rate=1e-3, lora=Lora(r=4, alpha=8), save_steps=2
    )
    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    run_sft(stage, **places, out=tmp_path / "one")
    two = train(stage, **places, out=tmp_path / "two", launcher=two_processes)
    assert two.adapter_dir == tmp_path / "two" / "adapter" and two.log.is_file()
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    # A rank that dies in the fifth step takes the run with it; one process continues.
    (tmp_path / "dies.py").write_text(DIES)
    with pytest.raises(TrainingError, match="last checkpoint"):
        train(stage, **places, out=tmp_path / "cut", launcher=f"{two_processes} {tmp_path / 'dies.py'}")
    assert last_checkpoint(tmp_path / "cut" / "checkpoints").name == "checkpoint-4"
    run_sft(stage, **places, out=tmp_path / "cut")
    whole, two, cut = (
        load_file(tmp_path / out / "adapter" / "adapter_model.safetensors") for out in ("one", "two", "cut")
    )
    for name, value in whole.items():
        assert torch.allclose(two[name], value, atol=2e-5), name
        assert torch.allclose(cut[name], value, atol=2e-5), name


@pytest.mark.parametrize("whom", ["launcher", "one process"])
def test_sigterm_ends_the_processes_of_a_launcher_together(
    tiny, conversations, tmp_path, two_processes, whom
) -> None:
    """They finish the same step and write a checkpoint, also where the signal reaches one of them alone."""
    stage = SFTStage(
        steps=400, batch_size=1, accumulation=2, learning_rate=1e-4, lora=Lora(r=4, alpha=8), save_steps=1000
    )
    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    log = tmp_path / "log.jsonl"

    def terminate() -> None:
        while not log.is_file() or '"step": 20' not in log.read_text():
            time.sleep(0.05)
        if whom == "launcher":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        below = psutil.Process().children(recursive=True)
        (second,) = [p for p in below if p.environ().get("RANK") == "1" and str(tmp_path) in str(p.cmdline())]
        second.terminate()

    thread = threading.Thread(target=terminate, daemon=True)
    thread.start()
    with pytest.raises(Stopped, match="run the same command again"):
        train(stage, **places, out=tmp_path, launcher=two_processes)
    found = last_checkpoint(tmp_path / "checkpoints")
    assert found is not None and 20 <= int(found.name.rpartition("-")[2]) < 400
    assert not (tmp_path / "adapter").exists()


DIES = """
import os, runpy, sys
from transformers import Trainer
step = Trainer.training_step
def training_step(self, *args, **kwargs):
    if self.state.global_step == 4 and os.environ["RANK"] == "1":
        os._exit(3)
    return step(self, *args, **kwargs)
Trainer.training_step = training_step
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="session")
def answering(tiny, conversations, tmp_path_factory) -> tuple[Path, Path]:
    """A policy whose answers have the form and are right now and then: base, adapter."""
    folder = tmp_path_factory.mktemp("answering")
    stage = SFTStage(steps=90, batch_size=12, learning_rate=1e-2, full=True, save_steps=1000)
    base = run_sft(stage, model_dir=tiny, adapter_in=None, conversations=conversations, out=folder)
    policy(base.model_dir).save_pretrained(folder / "adapter")
    return base.model_dir, folder / "adapter"


def test_grpo_in_two_processes_gives_the_updates_of_one(
    answering, conversations, tmp_path, two_processes
) -> None:
    """The same rollouts, rewards, replaced groups and weights (rounding apart)."""
    model, adapter = answering
    stage = GRPOStage(
        steps=3,
        group_size=2,
        prompts_per_step=4,
        micro_batch=4,
        max_new_tokens=40,
        resample=1,
        learning_rate=1e-3,
        save_steps=10,
    )
    places = {"model_dir": model, "adapter_in": adapter, "conversations": conversations}
    run_grpo(stage, **places, out=tmp_path / "one")
    train(stage, **places, out=tmp_path / "two", launcher=two_processes)
    for key in ("rewards/answer/mean", "groups/resampled", "completions/mean_length", "grad_norm"):
        assert losses_of(tmp_path / "two", key) == pytest.approx(losses_of(tmp_path / "one", key), rel=1e-3)
    assert min(losses_of(tmp_path / "one", "grad_norm")) > 0
    assert max(losses_of(tmp_path / "one", "groups/resampled")) > 0
    one, two = (load_file(tmp_path / k / "adapter" / "adapter_model.safetensors") for k in ("one", "two"))
    start = load_file(adapter / "adapter_model.safetensors")
    assert any(not torch.allclose(start[n], v, atol=1e-3) for n, v in one.items())
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=2e-5), name
    with pytest.raises(TrainingError, match="part of a group"):
        training_config(GRPOStage(steps=1, group_size=16, prompts_per_step=3, micro_batch=32), tmp_path)


FSDP2 = """
# accelerate shards over devices only; here it is told that the two gloo processes are some.
import runpy, sys
import accelerate.state as state
from accelerate.utils import DistributedType
plain = state.AcceleratorState.__init__
def init(self, *args, **kwargs):
    if not state.AcceleratorState._shared_state:
        state.PartialState(cpu=True)
        state.PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    plain(self, *args, **kwargs)
    assert self.distributed_type == DistributedType.FSDP
state.AcceleratorState.__init__ = init
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture()
def two_shards(two_processes, tmp_path) -> str:
    """A launcher with the settings that recipes/accelerate/fsdp2.yaml hands to accelerate."""
    config = yaml.safe_load((ROOT / "recipes" / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    layers = config.pop("fsdp_transformer_layer_cls_to_wrap")
    variables = {"ACCELERATE_USE_FSDP": "true", "FSDP_TRANSFORMER_CLS_TO_WRAP": layers}
    variables |= {key.upper(): value for key, value in config.items()}
    (tmp_path / "fsdp2.py").write_text(FSDP2)
    settings = " ".join(f"{key}={value}" for key, value in variables.items())
    return f"env {settings} {two_processes} {tmp_path / 'fsdp2.py'}"


def test_two_shards_give_the_updates_of_one(tiny, conversations, tmp_path, two_shards) -> None:
    stage = SFTStage(steps=4, batch_size=2, accumulation=2, learning_rate=1e-3, lora=Lora(r=4, alpha=8))
    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    train(stage, **places, out=tmp_path / "two", launcher=two_shards)
    run_sft(stage, **places, out=tmp_path / "one")
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-4)
    for tower in ("vision", "merger", "language"):
        key = f"gradient_norm/{tower}"
        assert losses_of(tmp_path / "two", key) == pytest.approx(losses_of(tmp_path / "one", key), rel=1e-3)
    one, two = (load_file(tmp_path / k / "adapter" / "adapter_model.safetensors") for k in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=2e-5), name


def test_grpo_in_two_shards_gives_the_updates_of_one(answering, conversations, tmp_path, two_shards) -> None:
    """Rollouts of different lengths included."""
    model, adapter = answering
    stage = GRPOStage(
        steps=2,
        group_size=2,
        prompts_per_step=4,
        micro_batch=4,
        max_new_tokens=40,
        temperature=1.7,
        resample=1,
        learning_rate=1e-3,
    )
    places = {"model_dir": model, "adapter_in": adapter, "conversations": conversations}
    train(stage, **places, out=tmp_path / "two", launcher=two_shards)
    run_grpo(stage, **places, out=tmp_path / "one")
    for key in ("completions/mean_length", "reward", "grad_norm"):
        assert losses_of(tmp_path / "two", key) == pytest.approx(losses_of(tmp_path / "one", key), rel=1e-3)
    assert max(losses_of(tmp_path / "one", "grad_norm")) > 0
    one, two = (load_file(tmp_path / k / "adapter" / "adapter_model.safetensors") for k in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=2e-5), name


def test_merged_weights_are_the_merged_model_and_leave_the_base(tiny) -> None:
    """In bfloat16: merging and unmerging in place would move the base a little every time."""
    model = policy(tiny).to(torch.bfloat16)
    before = {n: p.clone() for n, p in model.named_parameters()}
    for _ in range(20):
        found = dict(merged_weights(model))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    plain = load_model(tiny, dtype="bfloat16")
    assert found.keys() == dict(plain.named_parameters()).keys()
    wanted = dict(policy(tiny).merge_and_unload().named_parameters())
    moved = 0
    for name, value in found.items():
        assert value.dtype == torch.bfloat16 and torch.allclose(value.float(), wanted[name], atol=2e-2), name
        moved += not torch.equal(value, plain.get_parameter(name))
    assert moved > 10


def test_a_checkpoint_that_changed_is_dropped(tiny, conversations, tmp_path) -> None:
    """One flipped byte, one file cut short: the checkpoint before is the last good one."""
    stage = SFTStage(steps=7, batch_size=4, lora=Lora(r=4, alpha=8), save_steps=2)

    class Killed(Exception):
        pass

    def kill(step: int, total: int) -> None:
        if step == 5:
            raise Killed

    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    with pytest.raises(Killed):
        run_sft(stage, **places, out=tmp_path, progress=kill)
    folder = tmp_path / "checkpoints"
    assert last_checkpoint(folder).name == "checkpoint-4"
    path = folder / "checkpoint-4" / "optimizer.pt"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    assert last_checkpoint(folder).name == "checkpoint-2" and not (folder / "checkpoint-4").exists()
    path = folder / "checkpoint-2" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert last_checkpoint(folder) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device", "x"), "the disk is full; free some space"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of device memory.*lower batch_size"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "fewer `workers`"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory.*lower"),
    ],
)
def test_what_long_runs_die_of_is_named(tiny, conversations, tmp_path, error, message) -> None:
    """With what to do and the checkpoint it goes on from."""

    def die(step: int, total: int) -> None:
        if step == 3:
            raise error

    stage = SFTStage(steps=5, batch_size=4, lora=Lora(r=4, alpha=8), save_steps=2)
    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    with pytest.raises(TrainingError, match=message) as caught:
        run_sft(stage, **places, out=tmp_path, progress=die)
    assert str(tmp_path / "checkpoints" / "checkpoint-2") in str(caught.value)


def test_pictures_made_by_workers_train_alike(tiny, conversations, tmp_path) -> None:
    places = {"model_dir": tiny, "adapter_in": None, "conversations": conversations}
    found = []
    for workers in (0, 2):
        stage = SFTStage(steps=3, batch_size=4, lora=Lora(r=4, alpha=8), workers=workers)
        found.append(run_sft(stage, **places, out=tmp_path / str(workers)).final_loss)
    assert found[0] == found[1]


def test_the_training_page_shades_tokens_by_weight(answering, conversations, tmp_path) -> None:
    model, adapter = answering
    stage = GRPOStage(steps=2, group_size=2, prompts_per_step=2, micro_batch=4, max_new_tokens=30)
    said: list[str] = []
    run_grpo(
        stage,
        model_dir=model,
        adapter_in=adapter,
        conversations=conversations,
        out=tmp_path / "grpo",
        say=said.append,
        tracking="tensorboard",
    )
    assert len(said) == 2 and "reward" in said[0] and "s/step" in said[0]
    assert list((tmp_path / "grpo" / "tensorboard").glob("events.*"))
    kept = read_completions(tmp_path / "grpo" / "completions")
    assert [c["step"] for c in kept] == [1, 1, 2, 2]
    for c in kept:
        assert "".join(c["tokens"]).startswith(c["text"])
        assert len(c["tokens"]) == len(c["weights"]) == len(c["entropies"]) == len(c["logps"])
        # Eq. 6: the weights of a completion have mean 1.
        assert sum(c["weights"]) / len(c["weights"]) == pytest.approx(1, rel=1e-3)
        wanted = entropy_weights(torch.tensor([c["entropies"]]), torch.ones(1, len(c["tokens"])), stage.tau)
        assert torch.allclose(torch.tensor([c["weights"]]), wanted, atol=1e-4)
    rows = read_log(tmp_path / "grpo" / "log.jsonl")
    spent = phases(rows)
    assert set(spent) == set(PHASES) and min(spent.values()) >= 0 and spent["rollouts"] > 0
    assert sum(spent.values()) == pytest.approx(rows[1]["seconds/step"], rel=0.2)
    page = write_page(
        "a <run>", [StageLog("Stage 3", tmp_path / "grpo")], tmp_path / "t.html", simulated=True
    )
    text = page.read_text()
    assert "SIMULATED DATA" in text and "not for clinical use" in text and "a &lt;run&gt;" in text
    assert text.count('class="tokens"') == len(kept) and "entropy (nats)" in text


def test_muon_moves_matrices_and_adamw_the_rest_at_the_scheduled_rate() -> None:
    torch.manual_seed(0)
    layer, embedding = torch.nn.Linear(6, 4), torch.nn.Embedding(5, 6)
    named = [*layer.named_parameters(), ("embed_tokens.weight", embedding.weight)]
    before = {n: p.detach().clone() for n, p in named}
    optimizer = MuonWithAdamW(named, lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    layer(embedding(torch.arange(5))).square().sum().backward()
    gradient = layer.weight.grad.clone()
    optimizer.step()
    assert schedule.get_last_lr() == [0.05, 0.05]
    # AdamW's first step is the rate times the sign of the gradient.
    moved = before["embed_tokens.weight"] - embedding.weight
    assert torch.allclose(moved.abs(), torch.full_like(moved, 0.05), atol=1e-5)
    # Muon's is the polar factor of the (Nesterov) gradient, scaled by 0.2 * sqrt(longer side): its five
    # Newton-Schulz steps bring every singular value near 1.
    step = (before["weight"] - layer.weight) / (0.05 * 0.2 * 6**0.5)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.linalg.svdvals(step).min() > 0.6 and torch.linalg.svdvals(step).max() < 1.3
    assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0) > 0.95
    again = MuonWithAdamW(named, lr=0.1, weight_decay=0.0)
    again.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in again.param_groups] == [0.05, 0.05]
    with pytest.raises(ValueError, match="no matrix"):
        MuonWithAdamW([("bias", layer.bias)], lr=0.1, weight_decay=0.0)


def test_batches_are_random_and_sorted_inside() -> None:
    lengths = [int(x) for x in np.random.default_rng(0).integers(10, 99, 50)]
    order = SortedBatches(lengths, 8, seed=1)
    first = list(order)
    assert sorted(first) == list(range(50)) and list(order) == first
    for i in range(0, 50, 8):
        assert [lengths[k] for k in first[i : i + 8]] == sorted(lengths[k] for k in first[i : i + 8])
    order.set_epoch(1)
    assert list(order) != first and len(order) == 50


def test_grpo_runs_logs_and_writes_an_adapter(tiny, conversations, tmp_path) -> None:
    start = run_sft(
        SFTStage(steps=1, batch_size=4, lora=Lora(r=4, alpha=8)),
        model_dir=tiny,
        adapter_in=None,
        conversations=conversations,
        out=tmp_path / "sft",
    )
    stage = GRPOStage(
        steps=2, group_size=2, prompts_per_step=2, micro_batch=4, max_new_tokens=8, save_steps=1
    )
    result = run_grpo(
        stage,
        model_dir=tiny,
        adapter_in=start.adapter_dir,
        conversations=conversations,
        out=tmp_path / "grpo",
    )
    rows = [json.loads(x) for x in result.log.read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2]
    assert {
        "groups/all_wrong",
        "groups/mixed",
        "distinct",
        "w/ess",
        "w/max",
        "entropy",
        "rewards/answer/mean",
    } <= set(rows[0])
    assert (result.adapter_dir / "adapter_model.safetensors").is_file()
    with pytest.raises(TrainingError, match="micro_batch 3"):
        training_config(GRPOStage(steps=1, micro_batch=3), tmp_path)


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_the_merged_export_says_what_base_and_adapter_say(tiny, tmp_path, dtype, allowed) -> None:
    policy(tiny).save_pretrained(tmp_path / "adapter")
    report = export_merged(tiny, tmp_path / "adapter", tmp_path / "merged", dtype=dtype)
    assert 0 < report.relative_difference < allowed and report.same_top1 > 0.9
    merged = load_model(tmp_path / "merged", dtype=dtype)
    assert not any("lora" in n for n, _ in merged.named_parameters())
    assert {p.dtype for p in merged.parameters()} == {getattr(torch, dtype)}
    assert load_processor(tmp_path / "merged").tokenizer.padding_side == "left"
    with pytest.raises(ModelError, match="not empty"):
        export_merged(tiny, tmp_path / "adapter", tmp_path / "merged")


def test_an_export_that_changed_is_refused(tiny, tmp_path, monkeypatch) -> None:
    policy(tiny).save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(LoraModel, "merge_and_unload", lambda self: self.unload())
    with pytest.raises(ModelError, match="logits differ"):
        export_merged(tiny, tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_model_folder_without_safetensors_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match="safetensors"):
        load_model(tmp_path)
