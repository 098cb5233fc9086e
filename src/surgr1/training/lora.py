"""LoRA on the vision encoder, the merger and the LLM, by anchored names: bare names like `gate_proj` would
match both towers by accident, and `q_proj` matches no vision layer at all (reference training.md B6)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from surgr1.ontology.errors import SurgR1Error

if TYPE_CHECKING:
    from torch import Tensor

TOWERS = {
    "vision": r".*visual\.blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.(?:gate_proj|up_proj|down_proj))",
    "merger": r".*visual\.merger\.mlp\.[02]",
    "language": (
        r".*language_model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj|mlp\.(?:gate_proj|up_proj|down_proj))"
    ),
}


class LoraError(SurgR1Error):
    """An adapter that matches nothing or does not learn."""


class Lora(BaseModel):
    """Adapter settings. Defaults r=32, alpha=64 on both towers: the field's practice (authors-practice.md),
    the paper gives none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(32, ge=1)
    alpha: int = Field(64, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    merger: bool = True
    """Whether the merger between the towers is adapted too; else it stays frozen."""


def peft_config(lora: Lora) -> Any:
    """The PEFT configuration for the towers, with or without the merger."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(f"(?:{p})" for t, p in TOWERS.items() if lora.merger or t != "merger"),
        bias="none",
    )


def _tower(name: str) -> str:
    return "merger" if ".merger." in name else "vision" if ".visual." in name else "language"


def count_per_tower(model: Any) -> dict[str, int]:
    """Trainable parameters per tower. Raises LoraError when vision encoder or LLM have none; a merger may be
    frozen.
    """
    counts: Counter[str] = Counter(dict.fromkeys(TOWERS, 0))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_tower(name)] += parameter.numel()
    empty = [t for t, n in counts.items() if n == 0 and t != "merger"]
    if empty:
        raise LoraError(
            f"no trainable parameter in {', '.join(empty)}: the adapter's target names match nothing there"
        )
    return dict(counts)


def check_gradients(model: Any) -> None:
    """Raises LoraError when an adapter got no gradient from a backward pass.

    At the first step only `lora_B` can have a gradient: it starts at zero, so `lora_A` receives none. B is
    therefore what is checked.
    """
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and "lora_B" in name
        and (parameter.grad is None or not _whole(parameter.grad).any())
    ]
    if dead:
        raise LoraError(
            f"{len(dead)} adapters got no gradient at the first step, e.g. {dead[0]}: with gradient"
            " checkpointing use use_reentrant=False; without it the tower is not part of the loss"
        )


def gradient_norms(model: Any) -> dict[str, float]:
    """Norm of the gradient of every tower's trainable parameters."""
    import torch

    towers: defaultdict[str, list[Any]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            towers[_tower(name)].append(_whole(parameter.grad).norm())
    return {tower: float(torch.stack(norms).norm()) for tower, norms in towers.items()}


def merged_weights(model: Any) -> "Iterator[tuple[str, Tensor]]":
    """Every weight of a LoRA policy with its adapter added, one at a time, named as in a checkpoint.

    The policy stays as it is: merging a bfloat16 base in place and taking the adapter out again drifts
    (reference training.md B6). The sum is formed in float32 and rounded once. Of a sharded policy (FSDP2) all
    processes must iterate.
    """
    base = model.get_base_model()
    for name, parameter in base.named_parameters():
        if ".lora_" in name:
            continue
        weight = _whole(parameter)
        layer, adapted, _ = name.rpartition(".base_layer.weight")
        if adapted:
            module = base.get_submodule(layer)
            a, b = (_whole(m["default"].weight).float() for m in (module.lora_A, module.lora_B))
            weight = (weight.float() + module.scaling["default"] * (b @ a)).to(weight.dtype)
        yield name.replace(".base_layer.", "."), weight


def _whole(parameter: Any) -> Any:
    tensor = parameter.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
