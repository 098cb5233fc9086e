"""What every training stage has in common: settings, errors, checkpoints, the log, saving. Imports without
torch.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.ontology.errors import SurgR1Error

Progress = Callable[[int, int], None]
Dtype = Literal["float32", "bfloat16"]


class TrainingError(SurgR1Error):
    """A run that cannot go on: NaN loss, nothing to train on."""


class Stage(BaseModel):
    """Hyperparameters that the supervised stages and GRPO share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sharing: ClassVar[str]
    """The field that lets samples share picture or prompt (`training.shared_prefix`)."""

    steps: int = Field(ge=1)
    warmup_ratio: float = Field(0.05, ge=0, le=1)
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


def save_whole(model: Any, target: Path, processor: Any = None) -> None:
    """Write weights (and a processor) so that `target` is the old folder or the whole new one."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part, safe_serialization=True)
    if processor is not None:
        processor.save_pretrained(part)
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
