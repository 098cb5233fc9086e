"""What calls cost: a table of prices in a file, and how many tokens text and pictures are billed as.

The rules for pictures are the providers' own (sources beside each entry of `prices.yaml`). Text is counted by
its characters: a token of English is about four (OpenAI, Google), and hardly ever less than three.
"""

import math
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from surgr1.engines.replies import SNAPSHOT
from surgr1.engines.types import Request
from surgr1.ontology.errors import SurgR1Error

CHARACTERS_PER_TOKEN = 4.0
FEWEST_CHARACTERS_PER_TOKEN = 3.0
OVERHEAD = 12
"""Tokens of the chat format around a question."""

_TABLE = Path(__file__).with_name("prices.yaml")


class PriceError(SurgR1Error):
    """A price table that cannot be read, or a model without a price."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tiles(_Frozen):
    """Shrunk to fit a square of `longest`, then until its short side is `shortest` (pixels); `base` tokens
    and `tile` more for each square of `side` pixels.
    """

    kind: Literal["tiles"] = "tiles"
    base: int = Field(ge=0)
    tile: int = Field(ge=0)
    side: int = Field(gt=0)
    longest: int | None = Field(None, gt=0)
    shortest: int | None = Field(None, gt=0)

    def tokens(self, width: int, height: int) -> int:
        """Tokens of a picture of this size in pixels."""
        scale = min(1.0, self.longest / max(width, height)) if self.longest else 1.0
        if self.shortest:
            scale *= min(1.0, self.shortest / (scale * min(width, height)))
        across, down = (math.ceil(round(scale * n, 6) / self.side) for n in (width, height))
        return self.base + self.tile * across * down


class Patches(_Frozen):
    """`factor` tokens for each square of `side` pixels, of which a picture is shrunk to have `most`."""

    kind: Literal["patches"] = "patches"
    side: int = Field(gt=0)
    most: int | None = Field(None, gt=0)
    factor: float = Field(1.0, gt=0)

    def tokens(self, width: int, height: int) -> int:
        """Tokens of a picture of this size in pixels."""
        across, down = (math.ceil(n / self.side) for n in (width, height))
        if self.most and across * down > self.most:
            scale = math.sqrt(self.side**2 * self.most / (width * height))
            sides = [scale * n / self.side for n in (width, height)]
            # Shrunk a little more, until one side is a whole number of squares.
            scale = min(math.floor(n) / n for n in sides)
            across, down = (math.ceil(round(scale * n, 6)) for n in sides)
        return math.ceil(self.factor * across * down)


Pictures = Annotated[Tiles | Patches, Field(discriminator="kind")]

UNKNOWN_MODEL = Patches(side=28)
"""How pictures are counted for a model without an entry: as Qwen2.5-VL and its kin do."""


class Price(_Frozen):
    """Of a million tokens, in US dollars: read, read from the provider's cache, written. `batch` is the share
    of it that a batch costs. `source` and `checked` say where it comes from and when it was looked up.
    """

    input: float = Field(ge=0)
    cached: float = Field(ge=0)
    output: float = Field(ge=0)
    batch: float = Field(1.0, gt=0, le=1)
    pictures: Pictures = UNKNOWN_MODEL
    source: str = Field(min_length=1)
    checked: date

    def cost(self, tokens_in: int, tokens_out: int, cached: int = 0, *, batch: bool = False) -> float:
        """US dollars; `cached` of the read tokens came from the cache."""
        full = (tokens_in - cached) * self.input + cached * self.cached + tokens_out * self.output
        return full / 1e6 * (self.batch if batch else 1.0)


def read_prices(path: Path | None = None) -> dict[str, Price]:
    """The prices by model: of our table, or of the given file instead. Raises PriceError."""
    path = path or _TABLE
    try:
        return TypeAdapter(dict[str, Price]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeError, yaml.YAMLError, ValidationError) as error:
        raise PriceError(
            f"{path}: not a table of prices ({error}); expected, for each model: input, cached, output (US"
            " dollars a million tokens), source, checked, and perhaps batch and pictures"
        ) from error


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The price of a model, also under a provider's prefix or with the date of a snapshot; None if it has
    none.
    """
    for name in (model, model.rsplit("/", 1)[-1]):
        if name in prices:
            return prices[name]
        for known, price in prices.items():
            if name.startswith(known) and SNAPSHOT.fullmatch(name[len(known) :]):
                return price
    return None


def tokens_read(request: Request, pictures: Tiles | Patches, characters: float = CHARACTERS_PER_TOKEN) -> int:
    """About how many tokens a request is billed as: its text by `characters` a token, its pictures by the
    rule. Raises PriceError when a picture cannot be read.
    """
    text = math.ceil((len(request.prompt) + len(request.system)) / characters)
    return text + OVERHEAD + sum(pictures.tokens(*_size(path)) for path in request.images)


def _size(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
        return _size_of(path, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        raise PriceError(f"picture {path} cannot be read ({error}); prepare the pictures again") from error


@lru_cache(maxsize=65536)
def _size_of(path: Path, changed: int, size: int) -> tuple[int, int]:
    """Width and height by the file's head alone, read again once the file has changed."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size
