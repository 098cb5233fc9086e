"""LoRA on the vision encoder, the merger and the LLM, by anchored names: bare names like `gate_proj` would
match both towers by accident, and `q_proj` matches no vision layer at all (reference training.md B6)."""

from collections import Counter, defaultdict
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgr1.ontology.errors import SurgR1Error

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


def peft_config(lora: Lora) -> Any:
    """The PEFT configuration for all three towers."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(f"(?:{p})" for p in TOWERS.values()),
        bias="none",
    )


def _tower(name: str) -> str:
    return "merger" if ".merger." in name else "vision" if ".visual." in name else "language"


def count_per_tower(model: Any) -> dict[str, int]:
    """Trainable parameters per tower. Raises LoraError when a tower has none."""
    counts: Counter[str] = Counter(dict.fromkeys(TOWERS, 0))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_tower(name)] += parameter.numel()
    empty = [t for t, n in counts.items() if n == 0]
    if empty:
        raise LoraError(
            f"no trainable parameter in {', '.join(empty)}: the adapter's target names match nothing there"
        )
    return dict(counts)


def check_gradients(model: Any) -> dict[str, float]:
    """Gradient norm per tower after a backward pass. Raises LoraError when an adapter got none.

    At the first step only `lora_B` can have a gradient: it starts at zero, so `lora_A` receives none. B is
    therefore what is checked.
    """
    squares: defaultdict[str, float] = defaultdict(float)
    dead = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or "lora_B" not in name:
            continue
        norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
        squares[_tower(name)] += norm**2
        if norm == 0.0:
            dead.append(name)
    if dead:
        raise LoraError(
            f"{len(dead)} adapters got no gradient at the first step, e.g. {dead[0]}: with gradient"
            " checkpointing use use_reentrant=False; without it the tower is not part of the loss"
        )
    return {tower: value**0.5 for tower, value in squares.items()}
