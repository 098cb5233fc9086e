"""Supervised fine-tuning (Eq. 1) with the loss on the completion alone: base pre-training of the nano model,
stage 1, stage 2 and the distillation of stage 4 are all this function with other conversations.

Checkpoints carry optimizer, scheduler and random state; a killed run continues from the last whole one with
the same order of data.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surgr1.synthesis.conversations import read_conversations
from surgr1.training.interrupt import stop_on_sigterm
from surgr1.training.lora import Lora
from surgr1.training.stage import (
    Progress,
    Say,
    Stage,
    Tracking,
    TrainingError,
    TrainResult,
    append_row,
    common_arguments,
    continued,
    last_checkpoint,
    named_errors,
    processes,
    save_final,
)


class SFTStage(Stage):
    """Hyperparameters of one supervised stage. `full` trains every parameter (the nano base only); else the
    LoRA adapter.
    """

    sharing = "shared_images"

    batch_size: int = Field(32, ge=1)
    accumulation: int = Field(1, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon on the matrices, AdamW on the rest (`training.muon`)."""
    learning_rate: float = Field(5e-5, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    max_length: int = Field(1024, ge=8)
    shared_images: bool = False
    """Questions about one picture are branches of it: encoded and prefilled once per micro-batch
    (`training.shared_prefix`). Batches then hold fewer pictures than samples.
    """
    full: bool = False
    lora: Lora = Lora()


def run_sft(
    stage: SFTStage,
    *,
    model_dir: Path,
    adapter_in: Path | None,
    conversations: Path,
    out: Path,
    progress: Progress | None = None,
    say: Say | None = None,
    tracking: Tracking = "none",
) -> TrainResult:
    """Train and write `out`/model (full) or `out`/adapter, and `out`/log.jsonl. Continues a killed run found
    in `out`. Raises TrainingError; Stopped after SIGTERM.

    Under torchrun the processes share the stage's batch: `accumulation` is divided by their number, so the
    updates are those of one process.
    """
    import torch
    from peft import get_peft_model
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from surgr1.training.data import (
        BranchCollator,
        Collator,
        PicturesTogether,
        SortedBatches,
        TokenizedConversations,
    )
    from surgr1.training.loading import load_model, load_processor
    from surgr1.training.lora import count_per_tower, peft_config
    from surgr1.training.muon import MuonWithAdamW
    from surgr1.training.shared_prefix import install
    from surgr1.training.watch import watch

    world = processes()[1]
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
    if resume is None:
        append_row(log, {"step": 0, "trainable": counts})
    # Every adapter of a fresh one must learn.
    watcher = watch(
        model,
        out,
        prove=not stage.full and adapter_in is None,
        describe=lambda row: f"loss {row['loss']:.4f}  lr {row['learning_rate']:.1e}",
        progress=progress,
        say=say,
    )

    class SurgicalTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if stage.shared_images:
                return PicturesTogether(data.images, stage.seed)
            return SortedBatches(data.lengths, stage.batch_size * stage.accumulation, stage.seed)

        def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
            if not stage.full:
                super()._load_from_checkpoint(checkpoint, model)

    arguments = TrainingArguments(
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulation // world,
        adam_beta2=0.95,
        logging_steps=min(10, stage.steps),
        **common_arguments(stage, out, tracking),
    )
    optimizer = None
    if stage.optimizer == "muon":
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        optimizer = MuonWithAdamW(named, lr=stage.learning_rate, weight_decay=stage.weight_decay)
    remedy = "lower batch_size and raise accumulation, or set gradient_checkpointing"
    with stop_on_sigterm(stage.steps) as stop, named_errors(out / "checkpoints", remedy):
        trainer = SurgicalTrainer(
            model=model,
            optimizers=(optimizer, None),
            args=arguments,
            train_dataset=data,
            data_collator=(BranchCollator if stage.shared_images else Collator)(processor),
            callbacks=[watcher, stop],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=continued(trainer, resume))
    losses = [r["loss"] for r in trainer.state.log_history if "loss" in r][-5:]
    final = sum(losses) / len(losses)
    target = out / ("model" if stage.full else "adapter")
    save_final(trainer, target, processor if stage.full else None)
    return TrainResult(
        target if stage.full else model_dir, None if stage.full else target, stage.steps, final, log
    )
