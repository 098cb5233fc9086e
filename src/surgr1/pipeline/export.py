"""A built corpus for other trainers: every sample's picture on its grid, its label as the answer."""

from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from surgr1.corpora.build import corpus_samples, statistics_of
from surgr1.corpora.grid import prepare_image
from surgr1.corpora.schema import Role
from surgr1.ontology.errors import SurgR1Error
from surgr1.synthesis.conversations import Conversation, vqa_conversation
from surgr1.synthesis.exports import Format, export


class ExportError(SurgR1Error):
    """A corpus or a plan that cannot be exported."""


class ExportPlan(BaseModel):
    """What is exported. `limit` 0 is all; image tokens are 28 x 28 pixels each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Format
    role: Role = "train"
    limit: int = Field(0, ge=0)
    min_tokens: int = Field(64, ge=1)
    max_tokens: int = Field(1280, ge=1)


def read_plan(**values: object) -> ExportPlan:
    """A plan from a command line's words. Raises ExportError naming the option."""
    try:
        return ExportPlan.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ExportError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None


def export_corpus(
    corpus: Path, out: Path, plan: ExportPlan, *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write every dataset of a corpus as one file `<role>-<dataset>`; returns the number of conversations.
    Pictures already resized under `out`/images are kept. Raises ExportError, ImageError.
    """
    names = sorted(p.parent.name for p in corpus.glob("*/source.json"))
    if not names:
        raise ExportError(f"{corpus}: no built corpus; make one with `surgr1 data build`")
    total = 0
    for done, name in enumerate(names, start=1):
        total += export(_conversations(corpus, name, out, plan), out, f"{plan.role}-{name}", plan.to)
        if progress:
            progress(done, len(names))
    return total


def _conversations(corpus: Path, name: str, out: Path, plan: ExportPlan) -> Iterator[Conversation]:
    body = statistics_of(corpus, name)
    assert body is not None
    root, taken = Path(body["pictures"]), 0
    for sample in corpus_samples(corpus, name):
        if sample.role != plan.role:
            continue
        if sample.policy == "local_only":
            raise ExportError(
                f"{name}: {sample.video} frame {sample.frame} is local_only: it is not written for other"
                " programs; leave the dataset out of the corpus"
            )
        if plan.limit and taken == plan.limit:
            return
        taken += 1
        image = prepare_image(
            root / sample.image, out / "images", min_tokens=plan.min_tokens, max_tokens=plan.max_tokens
        )
        yield vqa_conversation(sample, image)
