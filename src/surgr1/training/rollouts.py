"""Where GRPO's completions come from (the policy itself, vLLM beside it, a vLLM server), which prompts are
worth them, and what is kept of them to look at.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.engines.types import Prompt, Sampled, Sampling
from surgr1.training.stage import Dtype, TrainingError, processes

if TYPE_CHECKING:
    from torch import Tensor


class Rollouts(BaseModel):
    """The sampler. `transformers`: the trained model itself. `vllm`: colocated, one engine beside every
    training process, with the share `memory` of its device. `server`: a vLLM server at `base_url` that reads
    the policy's weights from the folder `shared` (`engines.vllm_server`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    memory: float = Field(0.3, gt=0, lt=1)
    base_url: str = ""
    shared: Path | None = None
    max_gap: float = Field(0.2, gt=0)
    """Training ends when the log-probabilities of trainer and sampler differ by more than this on average
    (nats per token): then the sampler draws from another policy.
    """
    importance_cap: float = Field(2.0, ge=1)
    """A token counts with min(pi_trainer / pi_sampler, cap): the difference that rounding leaves, corrected
    and bounded (TRL's `token_truncate`).
    """

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.engine == "server") != bool(self.base_url and self.shared):
            raise ValueError("the engine server, and only it, needs base_url and shared")
        return self


class Sampler(Protocol):
    """A sampler outside the trainer: it gets the policy's weights before it is asked."""

    def load(self, weights: "Iterable[tuple[str, Tensor]]") -> None: ...

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sampled]]: ...

    def close(self) -> None: ...


def open_sampler(
    settings: Rollouts, model_dir: Path, processor: Any, *, dtype: Dtype, max_model_len: int
) -> Sampler | None:
    """The sampler, None where the policy samples itself. Raises VLLMError, and TrainingError where several
    processes would share one server.
    """
    if settings.engine == "transformers":
        return None
    if settings.engine == "vllm":
        from surgr1.engines.vllm_engine import VLLMEngine

        return VLLMEngine(
            model_dir,
            processor,
            model_id="policy",
            dtype=dtype,
            memory=settings.memory,
            max_model_len=max_model_len,
        )
    if processes()[1] > 1:
        raise TrainingError(
            "a server samples for one training process; several take the engine vllm, one beside each"
        )
    from surgr1.engines.vllm_server import VLLMServer

    assert settings.shared is not None
    return VLLMServer(settings.base_url, processor, shared=settings.shared)


def is_mixed(right: Sequence[float]) -> bool:
    """Whether a group has right and wrong answers. All others are dead: equal rewards teach nothing."""
    return 0 < sum(right) < len(right)


def group_shares(right: Sequence[float], group_size: int) -> dict[str, float]:
    """Shares of groups whose answers are all right, all wrong, mixed."""
    groups = [right[i : i + group_size] for i in range(0, len(right), group_size)]
    mixed = sum(map(is_mixed, groups)) / len(groups)
    all_right = sum(all(g) for g in groups) / len(groups)
    return {
        "groups/all_right": all_right,
        "groups/all_wrong": 1 - all_right - mixed,
        "groups/mixed": mixed,
    }


def write_completions(folder: Path, step: int, rows: Sequence[dict[str, Any]]) -> None:
    """`folder`/step-NNNNNN.parquet, one row per completion; a step that is run again after a kill writes the
    same file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.parquet"
    part = path.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(list(rows)), part)
    part.replace(path)
