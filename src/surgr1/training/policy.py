"""A trained policy (base and adapter) as an engine that answers requests."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from surgr1.engines.transformers_engine import TransformersEngine
from surgr1.engines.types import Engine
from surgr1.engines.vllm_engine import VLLMEngine
from surgr1.training.loading import best_device, fingerprint, load_model, load_processor, release_memory
from surgr1.training.lora import merged_weights
from surgr1.training.stage import Dtype


class Generation(BaseModel):
    """What answers in refinement and SurgBench: `memory` is the share of a device that vLLM may fill,
    `replicas` the number of engines that Ray Data spreads requests over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["transformers", "vllm"] = "transformers"
    memory: float = Field(0.85, gt=0, lt=1)
    replicas: int = Field(1, ge=1)
    batch_size: int = Field(32, ge=1)
    """Completions decoded together by transformers."""


@contextmanager
def open_policy(
    base: Path, adapter: Path | None, generation: Generation, *, dtype: Dtype
) -> Iterator[Engine]:
    """The engine; leaving the block frees its device. Raises ModelError, VLLMError, ReplicasError."""
    if generation.replicas > 1:
        from surgr1.engines.replicas import ReplicatedEngine

        yield ReplicatedEngine(
            partial(_build, base, adapter, generation, dtype),
            name=generation.engine,
            model_id=fingerprint(base, adapter),
            replicas=generation.replicas,
            batch_size=generation.batch_size,
            gpus=1.0 if best_device() == "cuda" else 0.0,
        )
        return
    engine = _build(base, adapter, generation, dtype)
    try:
        yield engine
    finally:
        engine.close()
        release_memory()


def _build(
    base: Path, adapter: Path | None, generation: Generation, dtype: Dtype
) -> TransformersEngine | VLLMEngine:
    processor, model_id = load_processor(base), fingerprint(base, adapter)
    if generation.engine == "vllm":
        engine = VLLMEngine(base, processor, model_id=model_id, dtype=dtype, memory=generation.memory)
        if adapter is not None:
            engine.load(merged_weights(load_model(base, adapter_dir=adapter, dtype=dtype)))
        return engine
    model = load_model(base, adapter_dir=adapter, dtype=dtype, device=best_device())
    return TransformersEngine(model, processor, model_id=model_id, batch_size=generation.batch_size)
