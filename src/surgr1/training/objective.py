"""GRPO with entropy-weighted tokens in plain torch (paper, Eqs. 2-7): the specification that `grpo` is tested
against.

Shapes: B completions (B = prompts * G, group members adjacent), T completion tokens, V vocabulary.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Scaling = Literal["group", "batch", "none"]


def token_entropy(logits: "Tensor") -> "Tensor":
    """Eq. 5 in nats: (B, T, V) -> (B, T)."""
    logps = logits.log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def entropy_weights(entropies: "Tensor", mask: "Tensor", tau: float) -> "Tensor":
    """Eq. 6: w_t = exp(H_t / tau) / mean_j exp(H_j / tau) over the valid tokens of each sequence, detached; 0
    on padding. (B, T) -> (B, T).

    Computed as L * softmax(H / tau), which cannot overflow. j runs over one sequence: the paper's L is the
    sequence length, and only this scope does not change with the micro-batch.
    """
    scores = (entropies.detach().float() / tau).masked_fill(mask == 0, float("-inf"))
    lengths = mask.sum(-1, keepdim=True).clamp(min=1)
    return scores.softmax(-1).nan_to_num(0.0) * lengths


def group_advantages(
    rewards: "Tensor", group_size: int, scaling: Scaling = "group", eps: float = 1e-4
) -> "Tensor":
    """Eq. 3: (r - mean) / (std + eps) inside each group of `group_size` adjacent rewards, population standard
    deviation. (B,) -> (B,).

    "batch" divides by the standard deviation of the whole batch, "none" by nothing. Under "group" a group in
    which only one small component differs gets the same advantages as one in which the answer differs: the
    lambdas of Eq. 4 lose their meaning there.
    """
    grouped = rewards.view(-1, group_size)
    centred = grouped - grouped.mean(1, keepdim=True)
    if scaling == "group":
        centred = centred / (grouped.std(1, keepdim=True, correction=0) + eps)
    elif scaling == "batch":
        centred = centred / (rewards.std(correction=0) + eps)
    return centred.reshape(-1)


def grpo_loss(
    logps: "Tensor", advantages: "Tensor", mask: "Tensor", weights: "Tensor | None" = None
) -> "Tensor":
    """The negative of Eq. 7 (Eq. 2 without weights): mean over completions of A_i * sum_t w_t log pi. (B, T),
    (B,), (B, T) -> scalar.
    """
    per_token = -advantages[:, None] * logps * mask
    if weights is not None:
        per_token = per_token * weights
    return per_token.sum(-1).mean()
