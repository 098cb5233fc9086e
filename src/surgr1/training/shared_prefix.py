"""One preprocessing, prefill, forward and backward of picture and prompt for all completions of a group.

The vision encoder and the prompt run once with their keys and values kept in the graph; every completion
attends to the copy of its prompt. Loss and gradients are those of separate rows: a completion sees its prompt
and itself, at the same 3-D rotary positions. What is saved is the G - 1 repetitions of picture and prompt.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from surgr1.engines.transformers_engine import backbone_of
from surgr1.ontology.errors import SurgR1Error

if TYPE_CHECKING:
    from torch import Tensor


class SharedPrefixError(SurgR1Error):
    """A model state in which prompts cannot be shared."""


def install(model: Any) -> None:
    """Teach a Qwen2.5-VL (plain or inside PEFT) to run completions as branches of their prompts.

    Afterwards the backbone takes, beside the inputs of U prompts (padded on the left), `owner` (B,), the
    prompt of every completion, `completion_ids` and `completion_mask` (B, C, padded on the right), and its
    `last_hidden_state` (B, C, hidden) holds the states that predict the completion tokens. Without `owner`
    nothing changes. It is the backbone that is taught, so that the call goes through the outermost module
    and its hooks (DDP, FSDP, autocast), and TRL's fused head does the rest.
    """
    backbone = backbone_of(model)
    plain = backbone.forward

    def forward(*args: Any, owner: Any = None, **inputs: Any) -> Any:
        return plain(*args, **inputs) if owner is None else _branches(backbone, plain, owner, **inputs)

    backbone.forward = forward


def _branches(
    backbone: Any,
    plain: Any,
    owner: "Tensor",
    *,
    completion_ids: "Tensor",
    completion_mask: "Tensor",
    **inputs: Any,
) -> Any:
    import torch

    if backbone.language_model.gradient_checkpointing and backbone.training:
        raise SharedPrefixError(
            "shared prefixes need the prompt's keys and values, which gradient checkpointing throws away;"
            " switch one of them off (without recomputation shared prefixes take less memory)"
        )
    prefix = plain(**inputs | {"use_cache": True})
    mask = inputs["attention_mask"]
    states = prefix.last_hidden_state[owner, -1:]
    if completion_ids.shape[1] > 1:
        cache = prefix.past_key_values
        cache.batch_select_indices(owner)
        # Text continues one position after the largest of the prompt's; pictures take fewer positions than
        # tokens, which `rope_deltas` accounts for.
        after = mask.sum(-1, keepdim=True)
        if inputs.get("image_grid_thw") is not None:
            after = after + prefix.rope_deltas
        tokens = completion_ids[:, :-1]
        positions = after[owner] + torch.arange(tokens.shape[1], device=tokens.device)
        found = backbone.language_model(
            inputs_embeds=backbone.get_input_embeddings()(tokens),
            attention_mask=torch.cat([mask[owner], completion_mask[:, :-1]], dim=1),
            position_ids=positions.expand(3, -1, -1),
            past_key_values=cache,
            use_cache=True,
        )
        states = torch.cat([states, found.last_hidden_state], dim=1)
    return type(prefix)(last_hidden_state=states)


@contextmanager
def patches_once(image_processor: Any) -> Iterator[None]:
    """Inside, a Qwen image processor cuts every distinct picture into patches once. TRL hands each prompt's
    picture over 2G times per step, as copies, so it is the pixels that are compared.
    """
    import torch
    from transformers import BatchFeature

    plain = image_processor._preprocess
    known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def _preprocess(images: "list[Tensor]", **settings: Any) -> Any:
        keys = [(i.shape, hashlib.sha256(i.numpy().tobytes()).digest()) for i in images]
        fresh = {k: i for k, i in zip(keys, images, strict=True) if k not in known}
        if fresh:
            found = plain(list(fresh.values()), **settings)
            grids = found["image_grid_thw"]
            patches = found["pixel_values"].split(grids.prod(-1).tolist())
            known.update(zip(fresh, zip(patches, grids, strict=True), strict=True))
        return BatchFeature(
            {
                "pixel_values": torch.cat([known[k][0] for k in keys]),
                "image_grid_thw": torch.stack([known[k][1] for k in keys]),
            }
        )

    image_processor._preprocess = _preprocess
    try:
        yield
    finally:
        # The instance's attribute goes, the class's method is back (the processor is saved with checkpoints).
        del image_processor._preprocess


def first_rows(groups: "Tensor") -> tuple["Tensor", "Tensor"]:
    """The first row of every group (U,), in order of first appearance, and the group of every row (B,) as an
    index into it. `groups` (B,) names the group of each row.
    """
    import torch

    rows = torch.arange(len(groups), device=groups.device)
    names, index = torch.unique(groups, return_inverse=True)
    first = torch.full_like(names, len(groups)).scatter_reduce(0, index, rows, "amin")
    order = first.argsort()
    return first[order], order.argsort()[index]


def prompts_of(
    rows: "Tensor",
    *,
    input_ids: "Tensor",
    attention_mask: "Tensor",
    mm_token_type_ids: "Tensor",
    pixel_values: "Tensor",
    image_grid_thw: "Tensor",
    num_images: list[int],
) -> dict[str, Any]:
    """The prompt part of chosen rows of a batch of TRL's (prompt width (B, P); pictures concatenated)."""
    import torch

    images = torch.tensor([0, *num_images]).cumsum(0).tolist()
    patches = torch.cat([image_grid_thw.new_zeros(1), image_grid_thw.prod(-1)]).cumsum(0).tolist()
    spans = [(images[r], images[r + 1]) for r in rows.tolist()]
    return {
        "input_ids": input_ids[rows],
        "attention_mask": attention_mask[rows],
        "mm_token_type_ids": mm_token_type_ids[rows],
        "pixel_values": torch.cat([pixel_values[patches[a] : patches[b]] for a, b in spans]),
        "image_grid_thw": torch.cat([image_grid_thw[a:b] for a, b in spans]),
    }
