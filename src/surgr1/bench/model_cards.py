"""Model cards: one YAML per model says how it is reached, how it reads pictures and writes boxes, and how it
is sampled. Shipped: the models of the paper's Tables 4 to 7 (`model_cards/`); a file of your own does the
same.

Facts that no reference of the project confirms are listed under `recalled`: check them before you publish.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgr1.bench.coordinates import Coordinates
from surgr1.corpora.grid import FACTOR
from surgr1.engines.types import Sampling
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task

EngineKind = Literal["transformers", "vllm", "endpoint"]
LOCAL = "qwen2_5_vl"
"""The one architecture (`model_type` of a config.json) that the engines of this package load themselves."""


class ModelCardError(SurgR1Error):
    """A card that cannot be read, contradicts itself, or cannot be used as asked."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CardSampling(_Part):
    """How the model is sampled unless a run says otherwise; `temperature` 0 is greedy."""

    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0)


class Thinking(_Part):
    """What is added to an endpoint's request body to turn the model's own thinking on and off."""

    default: bool
    enabled: Mapping[str, Any] = {}
    disabled: Mapping[str, Any] | None = {}
    """None: it cannot be turned off."""
    max_new_tokens: int | None = Field(None, ge=1)
    """The budget while thinking, where it counts as output."""


class Published(_Part):
    """Under which protocol the paper's numbers of this model were obtained, as far as is known."""

    protocol: Literal["open", "options", "unknown"]
    source: str


class Price(_Part):
    """US dollars per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class ModelCard(_Part):
    """One model.

    `name` is how the paper prints it. Weights come from a folder (`path`, with an `adapter` on top if given)
    or from Hugging Face (`huggingface` at `revision`, already downloaded); a model behind an endpoint is
    called `api_model` there, and `base_url_env` and `api_key_env` name the environment variables with its
    address (`base_url` if unset) and key. `picture` is what is sent: the picture resized to multiples of 28
    pixels between `min_pixels` and `max_pixels` ("grid"), or the file as it is ("stored"). `box_instruction`
    follows the question of a localisation task and says in which frame to answer ({width} and {height} are
    the sent picture's). `omit`, `limit_field`, `extra_body` and `answers_as` are those of
    `engines.openai_engine`. `native_prompts` are a fine-tuned model's own prompts per task ({question},
    {focus}, {options}).
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    name: str
    engine: EngineKind
    architecture: str = ""
    huggingface: str = ""
    revision: str = ""
    path: Path | None = None
    adapter: Path | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_size: int = Field(32, ge=1)
    memory: float = Field(0.85, gt=0, lt=1)
    api_model: str = ""
    base_url: str = ""
    base_url_env: str = ""
    api_key_env: str = ""
    concurrency: int = Field(8, ge=1)
    timeout_s: float = Field(120, gt=0)
    extra_body: Mapping[str, Any] = {}
    omit: tuple[str, ...] = ()
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    answers_as: str = ""
    coordinates: Coordinates
    picture: Literal["grid", "stored"]
    min_pixels: int | None = None
    max_pixels: int | None = None
    box_instruction: str = ""
    system: str = ""
    thinking: Thinking | None = None
    sampling: CardSampling = CardSampling()
    published: Published
    price: Price | None = None
    native_prompts: Mapping[Task, str] = {}
    licence: str
    recalled: tuple[str, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if problems := _problems(self):
            raise ValueError("; ".join(problems))
        return self

    @property
    def tokens(self) -> tuple[int, int]:
        """The picture's budget in merged tokens of 28 x 28 pixels. Only for `picture` "grid"."""
        assert self.min_pixels is not None and self.max_pixels is not None
        return self.min_pixels // FACTOR**2, self.max_pixels // FACTOR**2

    @property
    def prices(self) -> tuple[float, float] | None:
        return (self.price.input, self.price.output) if self.price else None

    def thinks(self, wanted: bool | None) -> bool | None:
        """Whether the model's own thinking is on; None where the card knows no switch. Raises
        ModelCardError.
        """
        if self.thinking is None:
            if wanted is not None:
                raise ModelCardError(
                    f"{self.id}: the card knows no switch for thinking; leave --thinking out"
                )
            return None
        thinks = self.thinking.default if wanted is None else wanted
        if not thinks and self.thinking.disabled is None:
            raise ModelCardError(f"{self.id}: this model cannot answer without thinking")
        return thinks

    def body(self, thinks: bool | None) -> dict[str, Any]:
        """What an endpoint's request body holds beside messages and sampling."""
        if self.thinking is None or thinks is None:
            return dict(self.extra_body)
        return {**self.extra_body, **((self.thinking.enabled if thinks else self.thinking.disabled) or {})}

    def sampled(
        self,
        *,
        thinks: bool | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> Sampling:
        """The card's sampling with a run's own values. Raises ModelCardError."""
        body = self.sampling.model_dump() | {"seed": seed}
        if thinks and self.thinking and self.thinking.max_new_tokens:
            body["max_new_tokens"] = self.thinking.max_new_tokens
        if max_new_tokens is not None:
            body["max_new_tokens"] = max_new_tokens
        if temperature is not None:
            if "temperature" in self.omit:
                raise ModelCardError(f"{self.id}: this endpoint takes no temperature; leave it out")
            body["temperature"] = temperature
        return Sampling(**body)


_ENDPOINT_ONLY = (
    "api_model",
    "base_url",
    "base_url_env",
    "api_key_env",
    "extra_body",
    "omit",
    "limit_field",
    "answers_as",
    "thinking",
)


def _problems(card: ModelCard) -> list[str]:
    """Why a card contradicts itself, in words; none if it does not."""
    found = []
    if card.engine == "endpoint":
        if not card.api_model or not (card.base_url or card.base_url_env):
            found.append("an endpoint needs api_model and base_url or base_url_env")
        if card.path or card.adapter:
            found.append("an endpoint has no path or adapter; whoever serves the model loads them")
    else:
        if card.architecture != LOCAL:
            found.append(
                f"engine {card.engine} loads {LOCAL} only, found architecture {card.architecture!r}; code"
                " from a model's own repository is never run (no trust_remote_code). Serve the model apart,"
                " e.g. with `vllm serve`, and set engine: endpoint"
            )
        if card.path and card.huggingface:
            found.append("give path or huggingface, not both")
        if card.adapter and not card.path:
            found.append("an adapter needs the path of its base model")
        for field in _ENDPOINT_ONLY:
            if getattr(card, field) != ModelCard.model_fields[field].default:
                found.append(f"{field} belongs to an endpoint, engine is {card.engine}")
        if card.picture != "grid":
            found.append(f"engine {card.engine} does not resize: picture must be grid")
    if card.revision and not card.huggingface:
        found.append("revision without huggingface")
    pixels = (card.min_pixels, card.max_pixels)
    if card.picture == "stored" and pixels != (None, None):
        found.append("min_pixels and max_pixels have no effect on picture: stored")
    if card.picture == "grid":
        if card.min_pixels is None or card.max_pixels is None:
            found.append("picture: grid needs min_pixels and max_pixels")
        elif not 0 < card.min_pixels <= card.max_pixels:
            found.append(
                f"min_pixels {card.min_pixels} must be positive and at most max_pixels {card.max_pixels}"
            )
        elif card.min_pixels % FACTOR**2 or card.max_pixels % FACTOR**2:
            found.append(
                f"min_pixels and max_pixels must be multiples of 28 x 28 = {FACTOR**2}, found {pixels}"
            )
    for frame in ("grid", "stored"):
        if card.coordinates == frame != card.picture:
            found.append(
                f"coordinates {frame} are pixels of the {frame} picture, but the {card.picture} one is sent"
            )
    if card.coordinates != "grid" and not card.box_instruction:
        found.append(f"coordinates {card.coordinates} need a box_instruction that tells the model so")
    for field, text, allowed in (
        ("box_instruction", card.box_instruction, {"width", "height"}),
        *(
            (f"native_prompts.{t}", p, {"question", "focus", "options"})
            for t, p in card.native_prompts.items()
        ),
    ):
        unknown = _holes(text) - allowed
        if unknown:
            found.append(f"{field} has {{{', '.join(sorted(unknown))}}}; known: {', '.join(sorted(allowed))}")
    unknown_fields = set(card.recalled) - set(ModelCard.model_fields)
    if unknown_fields:
        found.append(f"recalled names {', '.join(sorted(unknown_fields))}, which are no fields")
    return found


def _holes(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name is not None}


@lru_cache
def model_ids() -> tuple[str, ...]:
    """Ids of the shipped cards, in the alphabet's order."""
    folder = files("surgr1.bench").joinpath("model_cards")
    return tuple(sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")))


def load_model_card(model: str) -> ModelCard:
    """A shipped card by its id, or the card in a YAML file. Relative paths in a file are relative to it.

    Raises ModelCardError naming the file, the field, what was found and what is allowed.
    """
    if model in model_ids():
        text = files("surgr1.bench").joinpath("model_cards", f"{model}.yaml").read_text(encoding="utf-8")
        return _read(f"{model}.yaml", text)
    path = Path(model)
    if not path.is_file():
        raise ModelCardError(
            f"{model!r} is neither a YAML file nor a shipped card; cards: {', '.join(model_ids())}"
        )
    try:
        card = _read(model, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelCardError(f"{path}: cannot be read: {error}") from error
    places = {f: path.parent / v for f in ("path", "adapter") if (v := getattr(card, f)) is not None}
    return card.model_copy(update=places)


def _read(name: str, text: str) -> ModelCard:
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelCardError(f"{name}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ModelCardError(f"{name}: expected a mapping, found {type(raw).__name__}")
    try:
        return ModelCard.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or 'card'}: {e['msg']}" for e in error.errors()]
        raise ModelCardError(f"model card {name} is refused:\n" + "\n".join(lines)) from error
