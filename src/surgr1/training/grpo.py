"""Stage 3: GRPO (Eqs. 2-7) as a thin subclass of TRL's trainer. The only module that imports TRL.

What is ours: the entropy weight w_t through TRL's own hook (`get_high_entropy_mask` may return floats, which
multiply the token losses), Eq. 3's advantages, the schedule of the reward weights, and the log. Loss type
"luspo" at token level is the sum over tokens and mean over completions of Eq. 7; on-policy (one iteration)
the clipped ratio is 1 and its gradient that of A * log pi.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from surgr1.synthesis.conversations import read_conversations
from surgr1.training.objective import Scaling, entropy_weights, group_advantages
from surgr1.training.rewards import NAMES, RewardWeights, trl_rewards
from surgr1.training.sft import Progress, TrainingError, TrainResult, last_checkpoint, save_whole


class GRPOStage(BaseModel):
    """Hyperparameters. `scale_rewards` defaults to "batch": "group" is Eq. 3 to the letter, but voids the
    lambdas in groups whose answers are all wrong (one broken format there earns an advantage of -2.6 whatever
    lambda_f is). tau and the group size are not in the paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    group_size: int = Field(8, ge=2)
    prompts_per_step: int = Field(4, ge=1)
    micro_batch: int = Field(32, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    scheduler: Literal["cosine", "linear", "constant"] = "constant"
    max_grad_norm: float = Field(1.0, gt=0)
    temperature: float = Field(0.9, gt=0)
    max_new_tokens: int = Field(1024, ge=8)
    entropy_weighting: bool = True
    tau: float = Field(1.0, gt=0)
    scale_rewards: Scaling = "batch"
    rewards: RewardWeights = RewardWeights()
    save_steps: int = Field(50, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    autocast: bool = False
    seed: int = 0


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

    class SurgicalGRPOTrainer(GRPOTrainer):
        """TRL's trainer with w_t, Eq. 3 and scheduled reward weights."""

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

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
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
        gradient_checkpointing=False,
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
    `out`.
    """
    import torch
    from transformers import TrainerCallback

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
            if not math.isfinite(logs.get("loss", 0.0)):
                raise TrainingError(
                    f"loss is {logs['loss']} at step {state.global_step}; last good checkpoint:"
                    f" {last_checkpoint(out / 'checkpoints') or 'none'}"
                )
            with log.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps(
                        {
                            "step": state.global_step,
                            **{k: v for k, v in logs.items() if isinstance(v, int | float)},
                        }
                    )
                    + "\n"
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(state.global_step, stage.steps)

    trainer = make_trainer_class()(
        model=model,
        reward_funcs=trl_rewards(),
        args=training_config(stage, out),
        train_dataset=prompt_dataset(conversations),
        processing_class=load_processor(model_dir),
        callbacks=[Watch()],
        stage=stage,
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    resume = last_checkpoint(out / "checkpoints")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    rewards = [r["reward"] for r in trainer.state.log_history if "reward" in r]
    save_whole(trainer.model, out / "adapter")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return TrainResult(
        model_dir, out / "adapter", stage.steps, sum(rewards[-5:]) / max(1, len(rewards[-5:])), log
    )
