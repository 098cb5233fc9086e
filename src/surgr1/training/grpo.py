"""Stage 3: GRPO (Eqs. 2-7) as a thin subclass of TRL's trainer. The only module that imports TRL.

What is ours: the entropy weight w_t through TRL's own hook (`get_high_entropy_mask` may return floats, which
multiply the token losses), Eq. 3's advantages, the schedule of the reward weights, prompts that are
preprocessed, prefilled and trained on once per group (`shared_prefix`), and the log. Loss type
"luspo" at token level is the sum over tokens and mean over completions of Eq. 7; on-policy (one iteration)
the clipped ratio is 1 and its gradient that of A * log pi.
"""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surgr1.synthesis.conversations import read_conversations
from surgr1.training.interrupt import stop_on_sigterm
from surgr1.training.objective import Scaling, entropy_weights, group_advantages
from surgr1.training.rewards import NAMES, RewardWeights, trl_rewards
from surgr1.training.stage import (
    Progress,
    Stage,
    TrainingError,
    TrainResult,
    append_row,
    check_finite,
    last_checkpoint,
    save_whole,
)


class GRPOStage(Stage):
    """Hyperparameters. `scale_rewards` defaults to "batch": "group" is Eq. 3 to the letter, but voids the
    lambdas in groups whose answers are all wrong (one broken format there earns an advantage of -2.6 whatever
    lambda_f is). tau and the group size are not in the paper."""

    sharing = "shared_prefix"

    group_size: int = Field(8, ge=2)
    prompts_per_step: int = Field(4, ge=1)
    micro_batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    scheduler: Literal["cosine", "linear", "constant"] = "constant"
    max_grad_norm: float = Field(1.0, gt=0)
    temperature: float = Field(0.9, gt=0)
    max_new_tokens: int = Field(1024, ge=8)
    entropy_weighting: bool = True
    shared_prefix: bool = True
    """One forward of picture and prompt per group (`training.shared_prefix`); else TRL's own path."""
    tau: float = Field(1.0, gt=0)
    scale_rewards: Scaling = "batch"
    rewards: RewardWeights = RewardWeights()
    save_steps: int = Field(50, ge=1)


def group_shares(right: list[float], group_size: int) -> dict[str, float]:
    """Shares of groups whose answers are all right, all wrong, mixed. Only mixed groups teach the answer."""
    groups = [right[i : i + group_size] for i in range(0, len(right), group_size)]
    all_right = sum(all(g) for g in groups) / len(groups)
    all_wrong = sum(not any(g) for g in groups) / len(groups)
    return {
        "groups/all_right": all_right,
        "groups/all_wrong": all_wrong,
        "groups/mixed": 1 - all_right - all_wrong,
    }


def make_trainer_class() -> type:
    """The subclass, built on demand so that importing this module costs no torch."""
    import torch
    from trl import GRPOTrainer
    from trl.models.utils import unwrap_model_for_generation
    from trl.trainer.utils import (
        pad,
        split_pixel_values_by_grid,
        split_tensor_dict,
        unsplit_pixel_values_by_grid,
    )

    from surgr1.engines.transformers_engine import generate_branches
    from surgr1.training.shared_prefix import first_rows, install, patches_once, prompts_of

    class SurgicalGRPOTrainer(GRPOTrainer):
        """TRL's trainer with w_t, Eq. 3, scheduled reward weights and shared prefixes."""

        _buffered_inputs: Any

        def __init__(self, *args: Any, stage: GRPOStage, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.stage = stage
            if self.processing_class.tokenizer.padding_side != "left":
                raise TrainingError(
                    "the processor pads on the right; 3-D rotary positions need padding_side='left'"
                )
            if stage.entropy_weighting:
                # Any value below 1 makes TRL call the hook; the threshold it passes is not used.
                self.top_entropy_quantile = 0.5
            if stage.shared_prefix:
                install(self.accelerator.unwrap_model(self.model))

        def get_high_entropy_mask(self, entropies: Any, mask: Any, threshold: float) -> Any:
            weights = entropy_weights(entropies, mask, self.stage.tau)
            valid = weights[mask.bool()]
            lengths = mask.sum(-1).clamp(min=1)
            self._metrics["train"]["w/min"].append(valid.min().item())
            self._metrics["train"]["w/max"].append(valid.max().item())
            self._metrics["train"]["w/ess"].append(
                (weights.sum(-1) ** 2 / (lengths * (weights**2).sum(-1)).clamp(min=1e-9)).mean().item()
            )
            return weights

        def _calculate_rewards(
            self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
        ) -> Any:
            self.reward_weights = torch.tensor(self.stage.rewards.at(self.state.global_step))
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            self._step_rewards = rewards
            for name, value in group_shares(
                rewards[:, NAMES.index("answer")].tolist(), self.num_generations
            ).items():
                self._metrics["train"][name].append(value)
            texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
            groups = [texts[i : i + self.num_generations] for i in range(0, len(texts), self.num_generations)]
            self._metrics["train"]["distinct"].append(sum(len(set(g)) / len(g) for g in groups) / len(groups))
            return rewards

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            """TRL's, but for its shuffle: a micro-batch is cut from whole groups. Within one optimizer step
            the order of rollouts does not matter.
            """
            if not self.model.training:
                return super()._prepare_inputs(generation_batch)
            every = self.args.steps_per_generation
            if self._step % (every * self.num_iterations) == 0 or self._buffered_inputs is None:
                batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
                self._buffered_inputs = [
                    unsplit_pixel_values_by_grid(part) for part in split_tensor_dict(batch, every)
                ]
            return self._buffered_inputs[self._step % every]

        def _tokenize_prompts(self, prompts: Any) -> Any:
            if not self.stage.shared_prefix:
                return super()._tokenize_prompts(prompts)
            first, owner = first_rows(self._groups)
            ids, images, fields = super()._tokenize_prompts([prompts[k] for k in first.tolist()])
            rows = owner.tolist()
            # The fields stay one per prompt: they are for the generation below.
            return [ids[k] for k in rows], [images[k] for k in rows], fields

        def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *rest: Any) -> Any:
            if not self.stage.shared_prefix:
                return super()._generate_single_turn(prompt_ids, images, fields, *rest)
            first, owner = first_rows(self._groups)
            ids = [torch.tensor(prompt_ids[k]) for k in first.tolist()]
            fill = self.processing_class.tokenizer.pad_token_id
            inputs = {
                "input_ids": pad(ids, padding_value=fill, padding_side="left"),
                "attention_mask": pad([torch.ones_like(i) for i in ids], padding_side="left"),
                "mm_token_type_ids": pad(
                    [torch.tensor(t) for t in fields["mm_token_type_ids"]], padding_side="left"
                ),
                "pixel_values": fields["pixel_values"],
                "image_grid_thw": fields["image_grid_thw"],
            }
            inputs = {k: v.to(self.accelerator.device) for k, v in inputs.items()}
            with (
                unwrap_model_for_generation(
                    self.model_wrapped, self.accelerator, generation_kwargs=self.generation_kwargs
                ) as model,
                self.accelerator.autocast(),
            ):
                rows = generate_branches(model, inputs, owner, self.generation_config)
            completions = []
            for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
                end = next((k for k, t in enumerate(row) if t in self.eos_token_ids), len(row) - 1)
                completions.append(row[: end + 1])
            return completions, None

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            self._groups = inputs["group"]
            return super()._compute_loss(model, inputs)

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Any,
            attention_mask: Any,
            logits_to_keep: int,
            batch_size: int | None = None,
            compute_entropy: bool = False,
            **inputs: Any,
        ) -> Any:
            if not self.stage.shared_prefix:
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **inputs
                )
            tokens = {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "mm_token_type_ids": inputs["mm_token_type_ids"],
            }
            prompts = {k: v[:, :-logits_to_keep] for k, v in tokens.items()}
            pictures = {k: inputs[k] for k in ("pixel_values", "image_grid_thw", "num_images")}
            completions, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
            logps, entropies = [], []
            size = batch_size or len(input_ids)
            for start in range(0, len(input_ids), size):
                part = slice(start, start + size)
                first, owner = first_rows(self._groups[part])
                with self.accelerator.autocast():
                    found = model(
                        **prompts_of(first + start, **prompts, **pictures),
                        owner=owner,
                        completion_ids=completions[part],
                        completion_mask=mask[part],
                        shift_labels=completions[part].masked_fill(mask[part] == 0, -100),
                        fused_lm_head=True,
                    )
                logps.append(found.log_probs)
                entropies.append(found.entropy)
            return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            names = [row["sample_id"] for row in inputs]
            self._groups = torch.tensor([names.index(n) for n in names], device=self.accelerator.device)
            shared = self.stage.shared_prefix
            with patches_once(self.processing_class.image_processor) if shared else nullcontext():
                output = super()._generate_and_score_completions(inputs)
            output["group"] = self._groups
            total = (self._step_rewards * self.reward_weights.to(self._step_rewards.device)).sum(-1)
            advantages = group_advantages(total, self.num_generations, self.stage.scale_rewards)
            size = len(inputs)
            start = self.accelerator.process_index * size
            output["advantages"] = advantages[start : start + size].to(output["advantages"].device)
            return output

    return SurgicalGRPOTrainer


def training_config(stage: GRPOStage, out: Path) -> Any:
    """The stage as TRL's configuration, every sampling field explicit."""
    import torch
    from trl import GRPOConfig

    batch = stage.prompts_per_step * stage.group_size
    if batch % stage.micro_batch:
        raise TrainingError(
            f"prompts_per_step * group_size = {batch} is not a multiple of micro_batch {stage.micro_batch}"
        )
    return GRPOConfig(
        output_dir=str(out / "checkpoints"),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.micro_batch,
        gradient_accumulation_steps=batch // stage.micro_batch,
        num_generations=stage.group_size,
        max_completion_length=stage.max_new_tokens,
        temperature=stage.temperature,
        top_p=1.0,
        top_k=0,
        repetition_penalty=1.0,
        learning_rate=stage.learning_rate,
        warmup_steps=round(stage.warmup_ratio * stage.steps),
        lr_scheduler_type=stage.scheduler,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        beta=0.0,
        num_iterations=1,
        loss_type="luspo",
        importance_sampling_level="token",
        scale_rewards="none",
        logging_steps=1,
        save_steps=stage.save_steps,
        save_total_limit=2,
        seed=stage.seed,
        data_seed=stage.seed,
        report_to=[],
        disable_tqdm=True,
        bf16=stage.autocast,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=stage.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=0,
    )


def prompt_dataset(path: Path) -> Any:
    """Conversations as TRL's prompt-only rows with image files and the columns that the rewards read."""
    from datasets import Dataset, Features, Image, List, Value

    rows = [
        {
            "prompt": [{"role": "user", "content": c.prompt}],
            "image": c.image,
            **{k: v for k, v in asdict(c).items() if k in ("sample_id", "task", "dataset", "answer")},
            "options": list(c.options),
        }
        for c in read_conversations(path)
    ]
    if not rows:
        raise TrainingError(f"{path}: holds no prompt to train on")
    strings = {k: Value("string") for k in ("sample_id", "task", "dataset", "answer")}
    features = Features(
        {
            "prompt": List({"role": Value("string"), "content": Value("string")}),
            "image": Image(),
            **strings,
            "options": List(Value("string")),
        }
    )
    return Dataset.from_list(rows, features=features)


def run_grpo(
    stage: GRPOStage,
    *,
    model_dir: Path,
    adapter_in: Path,
    conversations: Path,
    out: Path,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the adapter and write `out`/adapter and `out`/log.jsonl. Continues a killed run found in
    `out`. Raises TrainingError; Stopped after SIGTERM.
    """
    import torch
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    from surgr1.training.loading import load_model, load_processor
    from surgr1.training.lora import count_per_tower

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(stage.seed)
    model = load_model(model_dir, adapter_dir=adapter_in, trainable=True, dtype=stage.dtype)
    count_per_tower(model)
    log = out / "log.jsonl"
    on_step: Callable[[int, int], None] = progress or (lambda done, total: None)

    class Watch(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not logs or "reward" not in logs:
                return
            check_finite(logs.get("loss", 0.0), state.global_step, out / "checkpoints")
            numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
            append_row(log, {"step": state.global_step, **numbers})

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(state.global_step, stage.steps)

    with stop_on_sigterm(stage.steps) as stop:
        trainer = make_trainer_class()(
            model=model,
            reward_funcs=trl_rewards(),
            args=training_config(stage, out),
            train_dataset=prompt_dataset(conversations),
            processing_class=load_processor(model_dir),
            callbacks=[Watch(), stop],
            stage=stage,
        )
        trainer.remove_callback(PrinterCallback)
        resume = last_checkpoint(out / "checkpoints")
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    rewards = [r["reward"] for r in trainer.state.log_history if "reward" in r]
    save_whole(trainer.model, out / "adapter")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return TrainResult(
        model_dir, out / "adapter", stage.steps, sum(rewards[-5:]) / max(1, len(rewards[-5:])), log
    )
