"""Local generation with transformers: greedy or sampled, several samples per prompt from one prefill, every
sampling field explicit.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from surgr1.engines.messages import picture_tokens, rendered
from surgr1.engines.types import Completion, Prompt, Request, Sampled, Sampling


def backbone_of(model: Any) -> Any:
    """The Qwen2.5-VL backbone (without its output layer) of a model, plain or inside PEFT."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).model


def sample_branches(
    model: Any, processor: Any, prompts: Sequence[Prompt], sampling: Sampling
) -> list[list[Sampled]]:
    """`sampling.n` completions for every prompt, all from one prefill (transformers' own
    `num_return_sequences` would encode every picture and prompt n times).

    With a temperature, a completion is drawn with random numbers from `sampling.seed`, its prompt's name and
    its index alone: it does not matter what else is in the batch (up to rounding).
    """
    import torch
    from transformers import (
        GenerationConfig,
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    inputs = processor(
        text=[p.text for p in prompts],
        images=[picture for p in prompts for picture in p.pictures],
        return_tensors="pt",
        padding=True,
        images_kwargs={"do_resize": False},
    ).to(model.device)
    ends = model.generation_config.eos_token_id
    stops = ends if isinstance(ends, list) else [ends]
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=stops,
        pad_token_id=processor.tokenizer.pad_token_id,
        bad_words_ids=[[t] for t in picture_tokens(processor)],
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
        names = [f"{sampling.seed}|{p.name}|{k}" for p in prompts for k in indices]
        drawn.append(OwnNoise(names, model.device.type))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    # All but the last token: `generate` wants something left to run, and its logits.
    prefill = {
        k: v[:, :-1] if k in ("input_ids", "attention_mask", "mm_token_type_ids") else v
        for k, v in inputs.items()
    }
    owner = torch.arange(len(prompts), device=model.device).repeat_interleave(sampling.n)
    with torch.no_grad():
        # Through the outermost module, whose hooks gather the parts of a sharded model.
        prefix = model(**prefill, use_cache=True, logits_to_keep=1)
        cache = prefix.past_key_values
        cache.batch_select_indices(owner)
        backbone_of(model).rope_deltas = prefix.rope_deltas[owner]
        sequences = model.generate(
            input_ids=ids[owner],
            attention_mask=mask[owner],
            past_key_values=cache,
            generation_config=config,
            logits_processor=drawn,
            # The processes of a sharded model step together until the longest completion of all ends.
            synced_gpus=any(hasattr(p, "full_tensor") for p in model.parameters()) or None,
        )
    seen = [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True)]
    found: list[list[Sampled]] = [[] for _ in prompts]
    for k, tokens in zip(owner.tolist(), sequences[:, ids.shape[1] :].tolist(), strict=True):
        end = next((at for at, t in enumerate(tokens) if t in stops), None)
        kept = tokens if end is None else tokens[: end + 1]
        found[k].append(Sampled(kept, [], seen[k], "length" if end is None else "stop"))
    return found


def completion_of(sampled: Sampled, processor: Any, elapsed: float, engine: str, model: str) -> Completion:
    """Tokens as text, without the one that ended them."""
    kept = sampled.tokens[:-1] if sampled.reason == "stop" else sampled.tokens
    text = processor.tokenizer.decode(kept, skip_special_tokens=True)
    return Completion(text, sampled.reason, len(sampled.prompt), len(kept), elapsed, 1, engine, model)


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

    Requests are answered in batches of similar prompt length. Images must be on the final grid: the processor
    is told not to resize. The model stays on the device where it is.
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
        self._processor, self._autocast = processor, autocast
        self._batch_size = batch_size
        self.model = model_id

    def close(self) -> None:
        """Let go of the model."""
        del self._model

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]:
        """Yield each request with its `sampling.n` completions, batch by batch."""
        import torch

        order = sorted(requests, key=lambda r: (len(r.system + r.prompt + r.prefix), r.request_id))
        rows = max(1, self._batch_size // sampling.n)
        for at in range(0, len(order), rows):
            batch = order[at : at + rows]
            start = time.monotonic()
            with (
                torch.inference_mode(),
                torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._autocast),
            ):
                prompts = [rendered(r, self._processor) for r in batch]
                found = sample_branches(self._model, self._processor, prompts, sampling)
            elapsed = (time.monotonic() - start) / len(batch)
            for request, answers in zip(batch, found, strict=True):
                yield (
                    request,
                    [completion_of(a, self._processor, elapsed, self.name, self.model) for a in answers],
                )
