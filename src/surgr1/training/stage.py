"""What every training stage has in common: settings, errors, checkpoints, the log, saving. Imports without
torch.
"""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.ontology.errors import SurgR1Error

Progress = Callable[[int, int], None]
Say = Callable[[str], None]
"""Called with a line a person can read, once per logged step."""
Dtype = Literal["float32", "bfloat16"]
Tracking = Literal["none", "tensorboard", "trackio", "wandb"]
_SEAL = "sealed.json"


class TrainingError(SurgR1Error):
    """A run that cannot go on: NaN loss, nothing to train on, no memory, no disk."""


class Stage(BaseModel):
    """Hyperparameters that the supervised stages and GRPO share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sharing: ClassVar[str]
    """The field that lets samples share picture or prompt (`training.shared_prefix`)."""

    steps: int = Field(ge=1)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
    save_steps: int = Field(50, ge=1)
    workers: int = Field(0, ge=0)
    """Processes that decode pictures and make their patches."""
    gradient_checkpointing: bool = False
    dtype: Dtype = "float32"
    """Type of the stored weights; `autocast` computes in bfloat16 whatever it is."""
    autocast: bool = False
    seed: int = 0

    @property
    def computed_in(self) -> Dtype:
        """The type that products are computed in."""
        return "bfloat16" if self.autocast else self.dtype

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if getattr(self, self.sharing) and self.gradient_checkpointing:
            raise ValueError(
                f"{self.sharing} keeps keys and values that gradient_checkpointing throws away: choose one"
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


def seal(checkpoint: Path) -> None:
    """Write down size and hash of every file of a finished checkpoint, but for the random states that the
    other processes may still be writing.
    """
    files = [f for f in sorted(checkpoint.rglob("*")) if f.is_file() and not f.name.startswith("rng_state")]
    body = {str(f.relative_to(checkpoint)): [f.stat().st_size, _sha256(f)] for f in files}
    part = checkpoint / (_SEAL + ".part")
    part.write_text(json.dumps(body), encoding="utf-8")
    part.replace(checkpoint / _SEAL)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole(checkpoint: Path) -> bool:
    try:
        body = json.loads((checkpoint / _SEAL).read_text(encoding="utf-8"))
        return any(checkpoint.glob("rng_state*.pth")) and all(
            (checkpoint / name).stat().st_size == size and _sha256(checkpoint / name) == digest
            for name, (size, digest) in body.items()
        )
    except (OSError, ValueError):
        return False


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. Those that are not (killed while saving, disk full, changed since) are
    removed.
    """
    found = None
    for path in sorted(
        folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True
    ):
        whole = _whole(path)
        if whole and found is None:
            found = path
        elif not whole and processes()[0] == 0:
            shutil.rmtree(path)
    return found


@contextmanager
def named_errors(checkpoints: Path, remedy: str) -> Iterator[None]:
    """Turns what a long run dies of into TrainingError: what happened, what to do, where it goes on from."""
    import torch
    from safetensors import SafetensorError

    def error(what: str) -> TrainingError:
        found = last_checkpoint(checkpoints)
        return TrainingError(f"{what}; last good checkpoint: {found or 'none'}")

    try:
        yield
    except torch.OutOfMemoryError as cause:
        raise error(f"out of device memory: {str(cause).splitlines()[0][:200]}; {remedy}") from cause
    except (OSError, SafetensorError, RuntimeError) as cause:
        text = str(cause)
        free = shutil.disk_usage(checkpoints.parent).free
        if getattr(cause, "errno", None) == errno.ENOSPC or "No space left" in text or free < 2**20:
            raise error(f"{checkpoints}: the disk is full; free some space and run again") from cause
        if "DefaultCPUAllocator" in text:
            raise error(f"out of memory: {text.splitlines()[0][:200]}; {remedy}") from cause
        if "DataLoader worker" in text:
            raise error(
                f"a data loading process died ({text.splitlines()[0][:200]}), most often for lack of memory;"
                " set fewer `workers`"
            ) from cause
        raise


def common_arguments(stage: Any, out: Path, tracking: Tracking) -> dict[str, Any]:
    """The fields of transformers' TrainingArguments that do not depend on the kind of training."""
    import torch

    on_device = torch.cuda.is_available()
    if tracking == "tensorboard":
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    return {
        "output_dir": str(out / "checkpoints"),
        "run_name": out.name,
        "learning_rate": stage.learning_rate,
        "warmup_steps": round(stage.warmup_ratio * stage.steps),
        "weight_decay": stage.weight_decay,
        "lr_scheduler_type": stage.scheduler,
        "save_steps": stage.save_steps,
        "save_total_limit": 2,
        "seed": stage.seed,
        "data_seed": stage.seed,
        "report_to": [] if tracking == "none" else [tracking],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": stage.workers,
        "bf16": stage.autocast,
        "use_cpu": not on_device,
        "ddp_backend": None if on_device or processes()[1] == 1 else "gloo",
        # Every sample has a picture, so every adapter is in every loss.
        "ddp_find_unused_parameters": False,
        "gradient_checkpointing": stage.gradient_checkpointing,
        # The reentrant form gives adapters below the first trainable input no gradient.
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


def append_row(log: Path, row: dict[str, Any]) -> None:
    """One line of a training log; of several processes, the first writes."""
    if processes()[0] == 0:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def check_finite(loss: float, step: int, checkpoints: Path) -> None:
    """Raises TrainingError naming the last good checkpoint when the loss is no number."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"loss is {loss} at step {step}; last good checkpoint: {last_checkpoint(checkpoints) or 'none'}"
        )


def continued(trainer: Any, checkpoint: Path | None) -> str | None:
    """The checkpoint as transformers' Trainer takes it. Raises TrainingError where its optimizer would be
    left out without a word: it was written by a sharded run, or by one that was not.
    """
    if checkpoint is None:
        return None
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if sharded == (checkpoint / "optimizer.pt").is_file():
        raise TrainingError(
            f"{checkpoint}: written by a run that was {'not ' if sharded else ''}sharded (FSDP, DeepSpeed);"
            " continue it with the launcher that began it, or delete the stage's folder"
        )
    return str(checkpoint)


def save_final(trainer: Any, target: Path, processor: Any = None) -> None:
    """Write the trained weights (of a LoRA policy the adapter) and a processor, so that `target` is the old
    folder or the whole new one; then the checkpoints are gone. All processes call this, the first writes.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if processes()[0] == 0:
        model = trainer.accelerator.unwrap_model(trainer.model)
        save_whole(model, target, processor, weights)
        shutil.rmtree(trainer.args.output_dir, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def save_whole(model: Any, target: Path, processor: Any = None, weights: Any = None) -> None:
    """Write a model's weights (its own, or those given) so that `target` is the old folder or the new one."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, safe_serialization=True, state_dict=weights)
    if processor is not None:
        processor.save_pretrained(part)
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
