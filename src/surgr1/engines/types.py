"""What goes into an engine and what comes out (design.md section 4, Completion)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

FinishReason = Literal["stop", "length", "blocked", "error"]


@dataclass(frozen=True)
class Request:
    """One single-turn question with images. `policy` is the sample's data policy; the privacy guard reads
    it. `system` is the system turn (none if empty). `prefix` is how the answer begins: the model continues
    it, and the completion's text is the continuation alone.
    """

    request_id: str
    prompt: str
    images: tuple[Path, ...]
    policy: str
    system: str = ""
    prefix: str = ""


@dataclass(frozen=True)
class Sampling:
    """Every sampling field, explicit, so that no model's generation config can change one. `temperature` 0 is
    greedy.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    n: int = 1
    seed: int = 0
    first: int = 0
    """Index of the first completion asked for: three at once, or one and then two from index 1, are the same
    three where the engine's randomness is our own.
    """


@dataclass(frozen=True)
class Completion:
    """One answer of a model. `finish_reason` "error" carries the error in `error`, never in `text`; "blocked"
    is a refusal by the endpoint itself, its reason (if given) in `error`. `latency_s` runs over all attempts.
    """

    text: str
    finish_reason: FinishReason
    tokens_in: int
    tokens_out: int
    latency_s: float
    attempts: int
    engine: str
    model: str
    error: str = ""


@dataclass(frozen=True)
class Prompt:
    """A user's question as the chat text a Qwen2.5-VL reads (`text`: the system turn and the answer's prefix
    included) and bare, with its pictures (on the final grid). Its completions are drawn with the random
    numbers of `name`.
    """

    name: str
    text: str
    question: str
    pictures: "list[Image]"
    policy: str
    system: str = ""
    prefix: str = ""


@dataclass(frozen=True)
class Sampled:
    """One completion as tokens, the one that ended it included; `logps` their log-probabilities under the
    distribution they were drawn from (empty where the sampler is the trained model itself); `prompt` the
    prompt's tokens as the sampler saw them, pictures expanded.
    """

    tokens: list[int]
    logps: list[float]
    prompt: list[int]
    reason: FinishReason


class Engine(Protocol):
    """Anything that answers requests. Yields (request, its `sampling.n` completions) as they finish, in any
    order.
    """

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    def generate(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, list[Completion]]]: ...
