"""Sampling from a vLLM server whose weights follow a trainer's, through a folder both machines see.

Start it from the base model, with the routes that replace weights and reset caches:
`VLLM_SERVER_DEV_MODE=1 python -m vllm.entrypoints.openai.api_server --model BASE --served-model-name policy
--logprobs-mode processed_logprobs --limit-mm-per-prompt '{"image":1,"video":0}'`
"""

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgr1.engines.guard import Door, chat_messages
from surgr1.engines.messages import picture_tokens
from surgr1.engines.types import Prompt, Sampled, Sampling
from surgr1.engines.vllm_engine import VLLMError, seed_of

if TYPE_CHECKING:
    from torch import Tensor

_SHARD = 4 * 2**30


class VLLMServer:
    """`base_url` without /v1; `shared` a folder that trainer and server reach under the same name. Raises
    VLLMError, and PolicyError before a byte of a picture that may not go there is sent.
    """

    def __init__(
        self, base_url: str, processor: Any, *, shared: Path, concurrency: int = 32, timeout_s: float = 600
    ) -> None:
        self._base_url, self._processor, self._shared = base_url.rstrip("/"), processor, shared
        self._door = Door(self._base_url, timeout_s=timeout_s)
        self._pool = ThreadPoolExecutor(concurrency)
        self._version = 0

    def load(self, weights: "Iterable[tuple[str, Tensor]]") -> None:
        """Write the weights (names as in a checkpoint) as safetensors, let the server read them and forget
        prefixes and encoded pictures.
        """
        self._version += 1
        folder = self._shared / f"policy-{self._version}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_shards(weights, folder)
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        self._post("/reset_prefix_cache", None)
        self._post("/reset_encoder_cache", None)
        shutil.rmtree(folder)

    def sample(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Sampled]]:
        """`sampling.n` completions for every prompt, drawn as `VLLMEngine.sample` draws them."""
        return list(self._pool.map(lambda prompt: self._ask(prompt, sampling), prompts))

    def close(self) -> None:
        """End the connections."""
        self._pool.shutdown()
        self._door.close()

    def _ask(self, prompt: Prompt, sampling: Sampling) -> list[Sampled]:
        if prompt.prefix:
            raise VLLMError(
                f"{prompt.name}: a server continues no prefix; use the engine vllm or transformers"
            )
        body = {
            "model": "policy",
            # The server renders the chat itself; the trainer compares the prompt's tokens with its own.
            "messages": chat_messages(
                prompt.policy,
                self._base_url,
                prompt=prompt.question,
                pictures=prompt.pictures,
                system=prompt.system,
            ),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "repetition_penalty": sampling.repetition_penalty,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed_of(sampling, prompt),
            "logit_bias": {str(t): -100 for t in picture_tokens(self._processor)},
            "logprobs": True,
            "return_token_ids": True,
        }
        answer = self._post("/v1/chat/completions", body, prompt.policy)
        try:
            return [
                Sampled(
                    list(c["token_ids"]),
                    [step["logprob"] for step in c["logprobs"]["content"]],
                    list(answer["prompt_token_ids"]),
                    "length" if c["finish_reason"] == "length" else "stop",
                )
                for c in sorted(answer["choices"], key=lambda c: c["index"])
            ]
        except (KeyError, TypeError) as error:
            raise VLLMError(
                f"{self._base_url}: an answer without tokens or log-probabilities ({error}); is it vLLM?"
            ) from error

    def _post(self, route: str, body: Any, policy: str = "public") -> Any:
        """Without `policy` nothing but names of files goes out."""
        import httpx

        try:
            answer = self._door.client(policy).post(self._base_url + route, json=body)
            answer.raise_for_status()
            return answer.json() if answer.content else None
        except httpx.HTTPStatusError as error:
            status, text = error.response.status_code, error.response.text[:300]
            hint = "; start it with VLLM_SERVER_DEV_MODE=1" if status == 404 else ""
            raise VLLMError(f"{self._base_url}{route}: HTTP {status}: {text}{hint}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise VLLMError(f"{self._base_url}{route}: {type(error).__name__}: {error}") from error


def _write_shards(weights: "Iterable[tuple[str, Tensor]]", folder: Path) -> None:
    from safetensors.torch import save_file

    shard: dict[str, Tensor] = {}
    size = number = 0

    def flush() -> None:
        nonlocal shard, size, number
        if shard:
            save_file(shard, folder / f"model-{number:05d}.safetensors")
            shard, size, number = {}, 0, number + 1

    for name, tensor in weights:
        if size + tensor.nbytes > _SHARD:
            flush()
        shard[name] = tensor.cpu().contiguous()
        size += tensor.nbytes
    flush()
