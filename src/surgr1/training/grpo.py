"""Stage 3: GRPO (Eqs. 2-7) as a subclass of TRL's trainer. The only module that imports TRL.

What is ours: the entropy weight w_t through TRL's own hook (`get_high_entropy_mask` may return floats, which
multiply the token losses), Eq. 3's advantages, the schedule of the reward weights, rollouts (`rollouts`) with
random numbers of their own, so that neither the number of processes nor a resumed run changes them, prompts
that are preprocessed, prefilled and trained on once per group (`shared_prefix`), and the log. Loss type
"luspo" at token level is the sum over tokens and mean over completions of Eq. 7; on-policy (one iteration)
the clipped ratio is 1 and its gradient that of A * log pi.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surgr1.engines.messages import chat_text
from surgr1.engines.types import Prompt, Sampled, Sampling
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import spec_for
from surgr1.synthesis.conversations import read_conversations
from surgr1.training.interrupt import stop_on_sigterm
from surgr1.training.objective import Scaling, entropy_weights, group_advantages
from surgr1.training.rewards import NAMES, RewardWeights, answer_reward, trl_rewards
from surgr1.training.rollouts import (
    Rollouts,
    Sampler,
    group_shares,
    is_mixed,
    open_sampler,
    write_completions,
)
from surgr1.training.stage import (
    Progress,
    Say,
    Stage,
    Tracking,
    TrainingError,
    TrainResult,
    common_arguments,
    continued,
    last_checkpoint,
    named_errors,
    processes,
    save_final,
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
    rollouts: Rollouts = Rollouts()
    resample: int = Field(0, ge=0)
    """How often a step may replace its dead groups (all answers right, or all wrong) by other prompts."""
    tau: float = Field(1.0, gt=0)
    scale_rewards: Scaling = "batch"
    rewards: RewardWeights = RewardWeights()
    keep_groups: int = Field(1, ge=0)
    """Groups of every step whose completions are kept, token by token, in `completions/`."""


PHASES = ("rollouts", "sync", "rewards", "preparation", "forward", "backward", "optimizer")
"""What a step's seconds are spent on: `sync` hands the weights to the sampler, `preparation` makes tensors of
prompts and pictures, `optimizer` is all that follows the backward pass.
"""


def make_trainer_class() -> type:
    """The subclass, built on demand so that importing this module costs no torch."""
    import numpy as np
    import torch
    from accelerate.utils import gather_object
    from transformers.integrations import is_deepspeed_zero3_enabled
    from trl import GRPOTrainer
    from trl.models.utils import unwrap_model_for_generation
    from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

    from surgr1.engines.transformers_engine import sample_branches
    from surgr1.training.lora import merged_weights
    from surgr1.training.shared_prefix import first_rows, install, patches_once, prompts_of

    class SurgicalGRPOTrainer(GRPOTrainer):
        """TRL's trainer with w_t, Eq. 3, scheduled reward weights, our rollouts and shared prefixes.
        `completions` is the folder for what is kept of them.
        """

        _buffered_inputs: Any

        def __init__(
            self,
            *args: Any,
            stage: GRPOStage,
            sampler: Sampler | None = None,
            completions: Path | None = None,
            **kwargs: Any,
        ) -> None:
            super().__init__(*args, **kwargs)
            self.stage, self._sampler, self._completions = stage, sampler, completions
            self._seconds: defaultdict[str, float] = defaultdict(float)
            self._since = time.perf_counter()
            self._loaded_step = -1
            self._names = list(self.train_dataset["sample_id"])
            if is_deepspeed_zero3_enabled():
                raise TrainingError(
                    "GRPO samples and shares prefixes on weights that ZeRO-3 takes apart: use"
                    " recipes/accelerate/ddp.yaml or fsdp2.yaml"
                )
            if self.processing_class.tokenizer.padding_side != "left":
                raise TrainingError(
                    "the processor pads on the right; 3-D rotary positions need padding_side='left'"
                )
            # Any value below 1 makes TRL call the hook; the threshold it passes is not used.
            self.top_entropy_quantile = 0.5
            if stage.shared_prefix:
                install(self.accelerator.unwrap_model(self.model))

        @contextmanager
        def _timed(self, phase: str) -> Iterator[None]:
            """Counts the seconds, less those of phases inside."""
            before, start = sum(self._seconds.values()), time.perf_counter()
            yield
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            inside = sum(self._seconds.values()) - before
            self._seconds[phase] += time.perf_counter() - start - inside

        def _note(self, name: str, value: float) -> None:
            self._metrics["train"][name].append(value)

        def get_high_entropy_mask(self, entropies: Any, mask: Any, threshold: float) -> Any:
            """w_t, times the bounded ratio to a sampler of its own: what multiplies the token losses."""
            stage = self.stage
            weights = mask.float()
            if stage.entropy_weighting:
                weights = entropy_weights(entropies, mask, stage.tau)
                valid = weights[mask.bool()]
                lengths = mask.sum(-1).clamp(min=1)
                self._note("w/min", valid.min().item())
                self._note("w/max", valid.max().item())
                ess = weights.sum(-1) ** 2 / (lengths * (weights**2).sum(-1)).clamp(min=1e-9)
                self._note("w/ess", ess.mean().item())
            self._weights, self._entropies = weights, entropies.detach()
            drawn = self._current.get("sampling_per_token_logps")
            if drawn is None:
                return weights
            gap = (self._logps - drawn) * mask
            mean = (gap.abs().sum() / mask.sum().clamp(min=1)).item()
            self._note("gap/mean", mean)
            self._note("gap/max", gap.abs().max().item())
            if not mean <= stage.rollouts.max_gap:
                raise TrainingError(
                    f"trainer and sampler differ by {mean:.3f} nats per token at step"
                    f" {self.state.global_step + 1} (allowed: rollouts.max_gap {stage.rollouts.max_gap}): the"
                    " sampler has other weights, another dtype or, of a server, no --logprobs-mode"
                    " processed_logprobs"
                )
            return weights * gap.exp().clamp(max=stage.rollouts.importance_cap)

        def _calculate_rewards(
            self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
        ) -> Any:
            with self._timed("rewards"):
                self.reward_weights = torch.tensor(self.stage.rewards.at(self.state.global_step))
                rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            self._step_rewards = rewards
            shares = group_shares(rewards[:, NAMES.index("answer")].tolist(), self.num_generations)
            for name, value in shares.items():
                self._note(name, value)
            self._texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
            size = self.num_generations
            groups = [self._texts[i : i + size] for i in range(0, len(self._texts), size)]
            self._note("distinct", sum(len(set(g)) / len(g) for g in groups) / len(groups))
            return rewards

        def _prepare_inputs(self, generation_batch: Any) -> Any:
            """TRL's, but for its shuffle: a micro-batch is cut from whole groups. Within one optimizer step
            the order of rollouts does not matter.
            """
            if not self.model.training:
                return super()._prepare_inputs(generation_batch)
            every = self.args.steps_per_generation
            if self._step % (every * self.num_iterations) == 0 or self._buffered_inputs is None:
                with self._timed("preparation"):
                    batch = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
                    self._buffered_inputs = [
                        unsplit_pixel_values_by_grid(part) for part in split_tensor_dict(batch, every)
                    ]
            return self._buffered_inputs[self._step % every]

        def _tokenize_prompts(self, prompts: Any) -> Any:
            first, owner = first_rows(self._groups)
            ids, images, fields = super()._tokenize_prompts([prompts[k] for k in first.tolist()])
            rows = owner.tolist()
            return [ids[k] for k in rows], [images[k] for k in rows], fields

        def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any, *rest: Any) -> Any:
            for mine, sampled in zip(prompt_ids, self._sampled, strict=True):
                if list(mine) != sampled.prompt:
                    raise TrainingError(
                        f"the sampler read a prompt as {len(sampled.prompt)} tokens, the trainer as"
                        f" {len(mine)}: it has another chat template, tokenizer or image size"
                    )
            logps = [s.logps for s in self._sampled] if self._sampler else None
            return [s.tokens for s in self._sampled], logps

        def _sample(self, rows: list[dict[str, Any]]) -> list[list[Sampled]]:
            """A group of completions for every row."""
            step, processor = self.state.global_step, self.processing_class
            prompts = []
            for row in rows:
                question = row["prompt"][-1]["content"]
                name, policy = f"{step}|{row['sample_id']}", row["policy"]
                prompts.append(Prompt(name, chat_text(question, processor), question, [row["image"]], policy))
            sampling = Sampling(
                max_new_tokens=self.stage.max_new_tokens,
                temperature=self.stage.temperature,
                n=self.num_generations,
                seed=self.stage.seed,
            )
            if self._sampler is None:
                with (
                    self._timed("rollouts"),
                    unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
                    self.accelerator.autocast(),
                ):
                    return sample_branches(model, processor, prompts, sampling)
            if self._loaded_step != step:
                with self._timed("sync"):
                    self._sampler.load(merged_weights(self.accelerator.unwrap_model(self.model)))
                self._loaded_step = step
            with self._timed("rollouts"):
                return self._sampler.sample(prompts, sampling)

        def _live_groups(self, rows: list[dict[str, Any]]) -> tuple[list[Any], list[list[Sampled]]]:
            """The rows (one per group) with their completions; dead groups replaced by other prompts, as
            often as `resample` says. What the last attempt leaves dead stays.
            """
            rows, found = list(rows), self._sample(rows)
            first, replaced = self.accelerator.process_index * len(rows), 0
            for attempt in range(self.stage.resample):
                # The groups of all processes, so that their number does not change the draw.
                step = gather_object(
                    [
                        (row["sample_id"], is_mixed(self._right(row, group)))
                        for row, group in zip(rows, found, strict=True)
                    ]
                )
                seed = (self.stage.seed, self.state.global_step, attempt)
                order = np.random.default_rng(seed).permutation(len(self._names)).tolist()
                taken = {name for name, _ in step}
                fresh = (k for k in order if self._names[k] not in taken)
                dead = [at for at, (_, alive) in enumerate(step) if not alive]
                drawn = dict(zip(dead, fresh, strict=False))
                mine = [k for k in range(len(rows)) if first + k in drawn]
                replaced += len(drawn)
                for k in mine:
                    rows[k] = self.train_dataset[drawn[first + k]]
                if not drawn:
                    break
                # A process without a dead group samples along: the parts of a sharded policy work together.
                for k, group in zip(mine, self._sample([rows[k] for k in mine or [0]]), strict=False):
                    found[k] = group
            if self.stage.resample:
                self._note("groups/resampled", replaced / (len(rows) * self.accelerator.num_processes))
            return rows, found

        def _right(self, row: dict[str, Any], group: list[Sampled]) -> list[float]:
            spec = spec_for(Task(row["task"]), row["options"], row["dataset"])
            texts = self.processing_class.batch_decode([s.tokens for s in group], skip_special_tokens=True)
            return [answer_reward(t, row["answer"], spec) for t in texts]

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            self._groups, self._current = inputs["group"], inputs
            with self._timed("forward"):
                loss = super()._compute_loss(model, inputs)
            first = self._step % self.args.steps_per_generation == 0
            if self._completions and self.stage.keep_groups and first and self.accelerator.is_main_process:
                self._keep(inputs, self._completions)
            return loss

        def _keep(self, inputs: Any, folder: Path) -> None:
            """Write the first groups of the step's first micro-batch, token by token."""
            decode = self.processing_class.tokenizer.batch_decode
            rows = []
            for k in range(min(len(inputs["row"]), self.stage.keep_groups * self.num_generations)):
                row, n = int(inputs["row"][k]), int(inputs["completion_mask"][k].sum())
                ids = inputs["completion_ids"][k, :n]
                rows.append(
                    {
                        "step": self.state.global_step + 1,
                        **{f: self._rows[row][f] for f in ("sample_id", "dataset", "task", "answer")},
                        "text": self._texts[row],
                        "tokens": decode([[t] for t in ids.tolist()]),
                        "entropies": self._entropies[k, :n].float().tolist(),
                        "weights": self._weights[k, :n].float().tolist(),
                        "logps": self._logps[k, :n].float().tolist(),
                        "advantage": float(inputs["advantages"][k]),
                        "rewards": dict(zip(NAMES, self._step_rewards[row].tolist(), strict=True)),
                    }
                )
            write_completions(folder, self.state.global_step + 1, rows)

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
                found = super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **inputs
                )
                self._logps = found[0].detach()
                return found
            tokens = {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "mm_token_type_ids": inputs["mm_token_type_ids"],
            }
            prompts = {k: v[:, :-logits_to_keep] for k, v in tokens.items()}
            pictures = {k: inputs[k] for k in ("pixel_values", "image_grid_thw", "num_images")}
            completions, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
            parts, entropies = [], []
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
                parts.append(found.log_probs)
                entropies.append(found.entropy)
            logps = torch.cat(parts)
            self._logps = logps.detach()
            return logps, torch.cat(entropies) if compute_entropy else None, None

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            size = self.num_generations
            with patches_once(self.processing_class.image_processor):
                rows, found = self._live_groups(inputs[::size])
                self._rows = [row for row in rows for _ in range(size)]
                self._sampled = [s for group in found for s in group]
                self._groups = torch.arange(len(rows), device=self.accelerator.device).repeat_interleave(size)
                output = super()._generate_and_score_completions(self._rows)
            output["group"] = self._groups
            output["row"] = torch.arange(len(self._rows), device=self._groups.device)
            total = (self._step_rewards * self.reward_weights.to(self._step_rewards.device)).sum(-1)
            advantages = group_advantages(total, size, self.stage.scale_rewards)
            start = self.accelerator.process_index * len(self._rows)
            output["advantages"] = advantages[start : start + len(self._rows)].to(self._groups.device)
            return output

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            with self._timed("backward"):
                return super().training_step(*args, **kwargs)

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                now = time.perf_counter()
                self._seconds["optimizer"] = now - self._since - sum(self._seconds.values())
                logs |= {f"seconds/{p}": self._seconds[p] for p in PHASES}
                self._seconds.clear()
                self._since = now
            super().log(logs, start_time)

    return SurgicalGRPOTrainer


def training_config(stage: GRPOStage, out: Path, tracking: Tracking = "none") -> Any:
    """The stage as TRL's configuration, every sampling field explicit. Several processes share the step's
    completions: `micro_batch` is that of each.
    """
    from trl import GRPOConfig

    world = processes()[1]
    batch = stage.prompts_per_step * stage.group_size
    if batch % (stage.micro_batch * world) or (batch // world) % stage.group_size:
        raise TrainingError(
            f"prompts_per_step * group_size = {batch} is not a multiple of micro_batch {stage.micro_batch}"
            f" * {world} processes, or leaves a process a part of a group"
        )
    return GRPOConfig(
        max_steps=stage.steps,
        per_device_train_batch_size=stage.micro_batch,
        gradient_accumulation_steps=batch // (stage.micro_batch * world),
        num_generations=stage.group_size,
        max_completion_length=stage.max_new_tokens,
        temperature=stage.temperature,
        max_grad_norm=stage.max_grad_norm,
        beta=0.0,
        num_iterations=1,
        loss_type="luspo",
        importance_sampling_level="token",
        scale_rewards="none",
        logging_steps=1,
        **common_arguments(stage, out, tracking),
    )


_COLUMNS = ("sample_id", "task", "dataset", "answer", "policy")


def prompt_dataset(path: Path) -> Any:
    """Conversations as TRL's prompt-only rows with image files and the columns that the rewards read."""
    from datasets import Dataset, Features, Image, List, Value

    rows = [
        {
            "prompt": [{"role": "user", "content": c.prompt}],
            "image": c.image,
            **{k: v for k, v in asdict(c).items() if k in _COLUMNS},
            "options": list(c.options),
        }
        for c in read_conversations(path)
    ]
    if not rows:
        raise TrainingError(f"{path}: holds no prompt to train on")
    strings = {k: Value("string") for k in _COLUMNS}
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
    say: Say | None = None,
    tracking: Tracking = "none",
) -> TrainResult:
    """Train the adapter and write `out`/adapter, `out`/log.jsonl and `out`/completions. Continues a killed
    run found in `out`. Raises TrainingError; Stopped after SIGTERM.

    Under torchrun the processes share the prompts of a step: the updates are those of one process.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback

    from surgr1.training.data import TokenizedConversations
    from surgr1.training.loading import load_model, load_processor
    from surgr1.training.lora import count_per_tower
    from surgr1.training.watch import watch

    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(stage.seed)
    model = load_model(model_dir, adapter_dir=adapter_in, trainable=True, dtype=stage.dtype)
    count_per_tower(model)
    processor, prompts = load_processor(model_dir), prompt_dataset(conversations)
    # Also refuses pictures off their grid, before anything is generated.
    lengths = TokenizedConversations(
        list(read_conversations(conversations)), processor, max_length=sys.maxsize
    ).prompt_lengths
    watcher = watch(model, out, prove=False, describe=_line, progress=progress, say=say)
    remedy = "lower micro_batch, or rollouts.memory where vLLM shares the device"
    # First the configuration, which brings the processes together: vLLM starts among them.
    arguments = training_config(stage, out, tracking)
    sampler = open_sampler(
        stage.rollouts,
        model_dir,
        processor,
        dtype=stage.dtype,
        max_model_len=max(lengths) + stage.max_new_tokens,
    )
    try:
        with stop_on_sigterm(stage.steps) as stop, named_errors(out / "checkpoints", remedy):
            trainer = make_trainer_class()(
                model=model,
                reward_funcs=trl_rewards(),
                args=arguments,
                train_dataset=prompts,
                processing_class=processor,
                callbacks=[watcher, stop],
                stage=stage,
                sampler=sampler,
                completions=out / "completions",
            )
            trainer.remove_callback(PrinterCallback)
            resume = last_checkpoint(out / "checkpoints")
            trainer.train(resume_from_checkpoint=continued(trainer, resume))
        save_final(trainer, out / "adapter")
    finally:
        if sampler is not None:
            sampler.close()
    rewards = [r["reward"] for r in trainer.state.log_history if "reward" in r][-5:]
    return TrainResult(
        model_dir, out / "adapter", stage.steps, sum(rewards) / max(1, len(rewards)), out / "log.jsonl"
    )


def _line(row: Any) -> str:
    return (
        f"reward {row['reward']:.3f}  answer {row['rewards/answer/mean']:.3f}  mixed"
        f" {row['groups/mixed']:.0%}  entropy {row['entropy']:.3f}  length"
        f" {row['completions/mean_length']:.0f}"
    )
