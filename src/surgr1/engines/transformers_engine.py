"""Local generation with transformers: greedy or sampled, several samples per prompt from one prefill, every
sampling field explicit.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from surgr1.engines.messages import user_messages
from surgr1.engines.types import Completion, FinishReason, Request, Sampling


def backbone_of(model: Any) -> Any:
    """The Qwen2.5-VL backbone (without its output layer) of a model, plain or inside PEFT."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model


def generate_branches(model: Any, inputs: Any, owner: Any, config: Any, **settings: Any) -> Any:
    """`model.generate` for several completions per prompt from one prefill: token ids (B, prompt + new).

    `inputs` are those of U left-padded prompts that end with text, `owner` (B,) names the prompt of every
    completion, `settings` go to `generate`. transformers' own `num_return_sequences` would encode every
    picture and prompt B times. The same random state gives the same tokens.
    """
    import torch

    backbone = backbone_of(model)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    # All but the last token: `generate` wants something left to run, and its logits.
    prefill = {
        k: v[:, :-1] if k in ("input_ids", "attention_mask", "mm_token_type_ids") else v
        for k, v in inputs.items()
    }
    with torch.no_grad():
        prefix = backbone(**prefill, use_cache=True)
    cache = prefix.past_key_values
    cache.batch_select_indices(owner)
    backbone.rope_deltas = prefix.rope_deltas[owner]
    return model.generate(
        input_ids=ids[owner],
        attention_mask=mask[owner],
        past_key_values=cache,
        generation_config=config,
        **settings,
    )


class OwnNoise:
    """A logits processor that makes the greedy choice a draw from the distribution (the Gumbel-max trick),
    each row with the random numbers of its name alone.
    """

    def __init__(self, names: Sequence[str], device: str) -> None:
        import torch

        seeds = [int.from_bytes(hashlib.sha256(n.encode()).digest()[:7], "big") for n in names]
        self._generators = [torch.Generator(device).manual_seed(s) for s in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        noise = torch.stack(
            [
                torch.empty(scores.shape[1], device=scores.device).exponential_(generator=g)
                for g in self._generators
            ]
        )
        return scores - noise.log()


class TransformersEngine:
    """Answers requests with a loaded model. `model_id` names the policy in ledgers (base and adapter
    fingerprint).

    Requests are answered in batches of similar prompt length. With temperature > 0 every completion has its
    own random numbers, from `Sampling.seed`, the request's id and the completion's index: it does not matter
    what else is in the batch (up to rounding). Images must be on the final grid: the processor is told not to
    resize. The model stays on the device where it is.
    """

    name = "transformers"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        model_id: str,
        batch_size: int = 32,
        autocast: bool = False,
    ) -> None:
        if hasattr(model, "merge_and_unload"):
            # Merged weights decode faster, and this copy of the model is the engine's own.
            model = model.merge_and_unload()
        self._model = model.eval()
        self._processor, self._device, self._autocast = processor, model.device.type, autocast
        self._batch_size = batch_size
        self.model = model_id

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield each request with its `sampling.n` completions, batch by batch."""
        tokenizer = self._processor.tokenizer
        texts = [
            self._processor.apply_chat_template(
                user_messages(r.prompt, len(r.images)), add_generation_prompt=True, tokenize=False
            )
            for r in requests
        ]
        order = sorted(range(len(requests)), key=lambda i: (len(texts[i]), requests[i].request_id))
        rows = max(1, self._batch_size // sampling.n)
        for at in range(0, len(order), rows):
            chosen = order[at : at + rows]
            batch = [requests[i] for i in chosen]
            start = time.monotonic()
            sequences, width = self._decode(batch, [texts[i] for i in chosen], sampling)
            elapsed = time.monotonic() - start
            for k, request in enumerate(batch):
                found = []
                for row in sequences[k * sampling.n : (k + 1) * sampling.n]:
                    tokens = row[width:].tolist()
                    ends = [p for p, t in enumerate(tokens) if t in self._stops]
                    kept = tokens[: ends[0]] if ends else tokens
                    text = tokenizer.decode(kept, skip_special_tokens=True)
                    reason: FinishReason = "stop" if ends else "length"
                    found.append(
                        Completion(
                            text, reason, width, len(kept), elapsed / len(batch), 1, self.name, self.model
                        )
                    )
                yield request, found

    @property
    def _stops(self) -> list[int]:
        ends = self._model.generation_config.eos_token_id
        return list(ends) if isinstance(ends, list) else [ends]

    def _decode(self, batch: list[Request], texts: list[str], sampling: Sampling) -> tuple[Any, int]:
        """Token ids (len(batch) * n, T) and the prompt width."""
        import torch
        from PIL import Image
        from transformers import (
            GenerationConfig,
            LogitsProcessorList,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        pictures = []
        for request in batch:
            for path in request.images:
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
        inputs = self._processor(
            text=texts, images=pictures, return_tensors="pt", padding=True, images_kwargs={"do_resize": False}
        ).to(self._device)
        tokenizer = self._processor.tokenizer
        never = [[tokenizer.convert_tokens_to_ids(t)] for t in ("<|image_pad|>", "<|video_pad|>")]
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._stops,
            pad_token_id=tokenizer.pad_token_id,
            bad_words_ids=never,
            use_cache=True,
        )
        drawn = LogitsProcessorList()
        if sampling.temperature > 0:
            drawn.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                drawn.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1:
                drawn.append(TopPLogitsWarper(sampling.top_p))
            indices = range(sampling.first, sampling.first + sampling.n)
            names = [f"{sampling.seed}|{r.request_id}|{k}" for r in batch for k in indices]
            drawn.append(OwnNoise(names, self._device))
        with (
            torch.inference_mode(),
            torch.autocast(self._device, torch.bfloat16, enabled=self._autocast),
        ):
            owner = torch.arange(len(batch), device=self._device).repeat_interleave(sampling.n)
            sequences = generate_branches(self._model, inputs, owner, config, logits_processor=drawn)
        return sequences, inputs["input_ids"].shape[1]
