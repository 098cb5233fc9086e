"""A source: one dataset folder and how it is to be read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.corpora.schema import Policy, Role, Sample
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.vocabularies import HOSPITALS, layout_of

LAYOUTS = ("cholec80", "cholect50", "endoscapes", "sar-rarp50", "multibypass140")


class LayoutError(SurgR1Error):
    """A folder that is not what it is said to be, or lacks something."""


class LabelError(SurgR1Error):
    """A label file with a line that cannot be right."""


def listing(root: Path) -> str:
    """The first names in a folder, for errors that say what was found."""
    return ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"


class Source(BaseModel):
    """One dataset folder, in the dataset's own layout or in the generic one (`corpora.generic`).

    `role` forces a role on every video (external sets); without it the official split decides, or the video
    lists.

    `every` keeps every k-th labelled frame of a video. `split` chooses among a dataset's named splits.
    `train`/`test` list videos explicitly (for pieces of a dataset that no official split covers); videos in
    neither are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    root: Path
    format: Literal["native", "generic"] = "native"
    centre: str = ""
    policy: Policy = "licence_restricted"
    licence: str = ""
    role: Role | None = None
    split: str = "default"
    every: int = Field(1, ge=1)
    options_share: float = Field(0.0, ge=0, le=1)
    """Share of the questions that list their options (protocol "options"); the others are open."""
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.format == "native" and self.layout not in LAYOUTS:
            raise ValueError(
                f"no adapter for dataset {self.dataset!r}; layouts: {', '.join(LAYOUTS)};"
                " data in the layout of docs/external-data.md needs `format: generic`"
            )
        return self

    @property
    def layout(self) -> str:
        return layout_of(self.dataset)

    @property
    def data_policy(self) -> Policy:
        """The policy of the data: a hospital's stays `local_only` whatever a recipe says."""
        return "local_only" if self.dataset in HOSPITALS else self.policy

    def role_of(self, video: str, official: dict[str, Role]) -> Role | None:
        """The role of a video (None: left out of this source)."""
        if self.role is not None:
            return self.role
        if self.train or self.test:
            return "train" if video in self.train else "test" if video in self.test else None
        return official.get(video)


def read_source(source: Source) -> Iterator[Sample]:
    """Every sample of the folder, video by video. Raises LayoutError, LabelError, ImageError."""
    from surgr1.corpora import cholec80, cholect50, endoscapes, generic, multibypass140, sar_rarp50

    readers = {
        "cholec80": cholec80.read,
        "cholect50": cholect50.read,
        "endoscapes": endoscapes.read,
        "sar-rarp50": sar_rarp50.read,
        "multibypass140": multibypass140.read,
    }
    if not source.root.is_dir():
        raise LayoutError(f"{source.dataset}: no folder {source.root}")
    yield from (generic.read if source.format == "generic" else readers[source.layout])(source)
