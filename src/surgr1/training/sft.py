"""Supervised fine-tuning (Eq. 1) with the loss on the completion alone: base pre-training of the nano model,
stage 1, stage 2 and the distillation of stage 4 are all this function with other conversations.

Checkpoints carry optimizer, scheduler and random state; a killed run continues from the last whole one with
the same order of data.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.conversations import read_conversations
from surgr1.training.interrupt import stop_on_sigterm
from surgr1.training.lora import Lora

Progress = Callable[[int, int], None]


class TrainingError(SurgR1Error):
    """A run that cannot go on: NaN loss, nothing to train on."""


class SFTStage(BaseModel):
    """Hyperparameters of one supervised stage. `full` trains every parameter (the nano base only); else the
    LoRA adapter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)
    batch_size: int = Field(32, ge=1)
    accumulation: int = Field(1, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon on the matrices, AdamW on the rest (`training.muon`)."""
    learning_rate: float = Field(5e-5, gt=0)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    weight_decay: float = Field(0.05, ge=0)
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    max_length: int = Field(1024, ge=8)
    save_steps: int = Field(200, ge=1)
    shared_images: bool = False
    """Questions about one picture are branches of it: encoded and prefilled once per micro-batch
    (`training.shared_prefix`). Batches then hold fewer pictures than samples.
    """
    gradient_checkpointing: bool = False
    full: bool = False
    lora: Lora = Lora()
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored weights; `autocast` computes in bfloat16 whatever it is."""
    autocast: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.shared_images and self.gradient_checkpointing:
            raise ValueError(
                "shared_images keeps the keys and values of a picture, gradient_checkpointing throws them"
                " away: choose one"
            )
        return self


@dataclass(frozen=True)
class TrainResult:
    """`model_dir` base and `adapter_dir` (None after full training) of the trained policy."""

    model_dir: Path
    adapter_dir: Path | None
    steps: int
    final_loss: float
    log: Path


def processes() -> tuple[int, int]:
    """(rank, number) of the processes that torchrun or accelerate started together; (0, 1) for one alone."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; half-written ones (killed while saving) are removed."""
    from safetensors import SafetensorError, safe_open

    found = None
    for path in sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True
    ):
        try:
            weights = next(path.glob("*.safetensors"))
            with safe_open(weights, framework="pt") as file:
                file.keys()
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            # Several processes write rng_state_<rank>.pth each.
            whole = all(any(path.glob(n)) for n in ("optimizer.pt", "scheduler.pt", "rng_state*.pth"))
        except (StopIteration, OSError, ValueError, SafetensorError):
            whole = False
        if whole and found is None:
            found = path
        elif not whole and processes()[0] == 0:
            shutil.rmtree(path)
    return found


def run_sft(
    stage: SFTStage,
    *,
    model_dir: Path,
    adapter_in: Path | None,
    conversations: Path,
    out: Path,
    progress: Progress | None = None,
) -> TrainResult:
    """Train and write `out`/model (full) or `out`/adapter, and `out`/log.jsonl. Continues a killed run found
    in `out`. Raises TrainingError; Stopped after SIGTERM.

    Under torchrun the processes share the stage's batch: `accumulation` is divided by their number, so the
    updates are those of one process.
    """
    import torch
    from peft import get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from surgr1.training.data import (
        BranchCollator,
        Collator,
        PicturesTogether,
        SortedBatches,
        TokenizedConversations,
    )
    from surgr1.training.loading import load_model, load_processor
    from surgr1.training.lora import check_gradients, count_per_tower, peft_config
    from surgr1.training.muon import MuonWithAdamW
    from surgr1.training.shared_prefix import install

    rank, world = processes()
    if stage.accumulation % world:
        raise TrainingError(
            f"accumulation {stage.accumulation} cannot be shared by {world} processes; batch_size x"
            " accumulation is the batch of all of them together"
        )
    out.mkdir(parents=True, exist_ok=True)
    processor = load_processor(model_dir)
    data = TokenizedConversations(
        list(read_conversations(conversations)), processor, max_length=stage.max_length
    )
    if not len(data):
        raise TrainingError(f"{conversations}: holds no conversation to train on")
    torch.manual_seed(stage.seed)
    resume = last_checkpoint(out / "checkpoints")
    # Trainer loads a full checkpoint by names that save_pretrained has renamed, finds none and goes on with
    # the fresh weights; so a resumed full training is loaded here.
    start = resume if resume and stage.full else model_dir
    model = load_model(start, adapter_dir=adapter_in, trainable=True, dtype=stage.dtype)
    if not stage.full and adapter_in is None:
        model = get_peft_model(model, peft_config(stage.lora))
    counts = count_per_tower(model)
    if stage.shared_images:
        install(model)
    log = out / "log.jsonl"

    def record(row: dict[str, Any]) -> None:
        if rank == 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    class Watch(TrainerCallback):
        """Writes the log, stops on NaN, proves at the first step that every adapter learns."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0 and not stage.full and adapter_in is None:
                norms = check_gradients(model)
                record({"step": 0, "trainable": counts, "gradient_norms": norms})

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                if not math.isfinite(logs["loss"]):
                    good = last_checkpoint(out / "checkpoints")
                    raise TrainingError(
                        f"loss is {logs['loss']} at step {state.global_step}; last good checkpoint:"
                        f" {good or 'none'}"
                    )
                record(
                    {"step": state.global_step, "loss": logs["loss"], "learning_rate": logs["learning_rate"]},
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if progress:
                progress(state.global_step, stage.steps)

    class SurgicalTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if stage.shared_images:
                return PicturesTogether(data.images, stage.seed)
            return SortedBatches(data.lengths, stage.batch_size * stage.accumulation, stage.seed)

        def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
            if not stage.full:
                super()._load_from_checkpoint(checkpoint, model)

    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulation // world,
        learning_rate=stage.learning_rate,
        warmup_steps=round(stage.warmup_ratio * stage.steps),
        weight_decay=stage.weight_decay,
        lr_scheduler_type=stage.scheduler,
        adam_beta2=0.95,
        logging_steps=min(10, stage.steps),
        save_steps=stage.save_steps,
        save_total_limit=2,
        seed=stage.seed,
        data_seed=stage.seed,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        bf16=stage.autocast,
        use_cpu=not torch.cuda.is_available(),
        ddp_backend=None if torch.cuda.is_available() or world == 1 else "gloo",
        gradient_checkpointing=stage.gradient_checkpointing,
        # The reentrant form gives adapters below the first trainable input no gradient.
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    optimizer = None
    if stage.optimizer == "muon":
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        optimizer = MuonWithAdamW(named, lr=stage.learning_rate, weight_decay=stage.weight_decay)
    with stop_on_sigterm(stage.steps) as stop:
        trainer = SurgicalTrainer(
            model=model,
            optimizers=(optimizer, None),
            args=arguments,
            train_dataset=data,
            data_collator=(BranchCollator if stage.shared_images else Collator)(processor),
            callbacks=[Watch(), stop],
        )
        trainer.remove_callback(_printer())
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    losses = [r["loss"] for r in trainer.state.log_history if "loss" in r][-5:]
    final = sum(losses) / len(losses)
    target = out / ("model" if stage.full else "adapter")
    if rank == 0:
        save_whole(model, target, processor if stage.full else None)
        shutil.rmtree(out / "checkpoints")
    trainer.accelerator.wait_for_everyone()
    return TrainResult(
        target if stage.full else model_dir, None if stage.full else target, stage.steps, final, log
    )


def save_whole(model: Any, target: Path, processor: Any = None) -> None:
    """Write weights (and a processor) so that `target` is the old folder or the whole new one."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, safe_serialization=True)
    if processor is not None:
        processor.save_pretrained(part)
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback
