"""Muon for the matrices, AdamW for the rest, as one optimizer that Trainer can schedule, save and resume."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """torch's Muon on hidden matrices (2-D weights of linear layers) with its update scaled to AdamW's, so
    that one learning rate serves both; AdamW on embeddings, convolutions, norms and biases.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the scaling is
    that of Liu et al., "Muon is scalable for LLM training" (2025). `named` are (name, parameter) pairs.
    """

    def __init__(
        self, named: Iterable[tuple[str, torch.nn.Parameter]], *, lr: float, weight_decay: float
    ) -> None:
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in named:
            (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
        if not matrices:
            raise ValueError("no matrix among the parameters: Muon has nothing to train")
        self._parts: list[Optimizer] = [
            Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        ]
        if others:
            self._parts.append(AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0))
        super().__init__([*matrices, *others], {"lr": lr})
        self._share()

    def _share(self) -> None:
        # The same group objects: what a scheduler writes here is what the parts read.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = closure() if closure else None
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()
