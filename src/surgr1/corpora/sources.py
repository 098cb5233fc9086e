"""A source: one dataset folder and how it is to be read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.corpora.datasets import dataset, dataset_names, official_split
from surgr1.corpora.files import LayoutError, Pictures, Rejects
from surgr1.corpora.schema import Policy, Role, Sample
from surgr1.ontology.vocabularies import HOSPITALS, layout_of

if TYPE_CHECKING:
    from surgr1.corpora.questions import Frame


SIMULATED = "SIMULATED.txt"
"""File by which the simulator marks every tree that it writes."""


class Source(BaseModel):
    """One dataset folder, in the dataset's own layout or in the generic one (`corpora.adapters.generic`).

    `role` forces a role on every video (external sets); without it the split decides, or the video lists.

    `pictures` is another dataset's folder for labels that come without pictures (Cholec80-VQA annotates
    Cholec80's frames). `images: skip` reads labels alone: no picture is looked for and sizes are the
    documented ones.

    `every` keeps every k-th labelled frame of a video. `split` chooses among a dataset's named splits.
    `train`/`test` list videos explicitly (for pieces of a dataset that no official split covers); videos in
    neither are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    root: Path
    pictures: Path | None = None
    images: Literal["check", "skip"] = "check"
    format: Literal["native", "generic"] = "native"
    centre: str = ""
    policy: Policy | None = None
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
        if self.format == "native" and self.layout not in dataset_names():
            raise ValueError(
                f"no adapter for dataset {self.dataset!r}; layouts: {', '.join(dataset_names())};"
                " data in the layout of docs/external-data.md needs `format: generic`"
            )
        return self

    @property
    def layout(self) -> str:
        return layout_of(self.dataset)

    @property
    def data_policy(self) -> Policy:
        """The policy of the data: a hospital's stays `local_only` whatever a recipe says."""
        if self.dataset in HOSPITALS:
            return "local_only"
        if self.policy is None and self.dataset.startswith("sim-"):
            return "public"
        return self.policy or (dataset(self.layout).policy if self.format == "native" else "local_only")

    @property
    def data_licence(self) -> str:
        """The licence that every row carries."""
        if not self.licence and self.dataset.startswith("sim-"):
            return "Apache-2.0"
        return self.licence or (dataset(self.layout).licence if self.format == "native" else "not released")

    @property
    def picture_root(self) -> Path:
        """The folder that `Sample.image` is relative to."""
        return self.pictures or self.root

    def roles(self, videos: Iterable[str], official: Mapping[str, Role] | None = None) -> dict[str, Role]:
        """The videos that this source takes, with their roles, in the given order. `official` goes before
        the dataset's own splits (for layouts whose splits lie in the user's files).
        """
        if self.role is not None:
            return dict.fromkeys(videos, self.role)
        named: Mapping[str, Role]
        if self.train or self.test:
            # A video in both lists is trained on, and the check of isolation says so.
            named = {v: "train" if v in self.train else "test" for v in (*self.train, *self.test)}
        else:
            named = official_split(self.layout, self.split) if official is None else official
        return {v: named[v] for v in videos if v in named}

    def folder_of_pictures(self, folder: str, rejects: Rejects, *, each: bool = False) -> Pictures:
        """The pictures in `folder`, relative to the picture root. Raises LayoutError where it is missing."""
        return Pictures(
            self.picture_root / folder,
            rejects,
            nominal=dataset(self.layout).size,
            checked=self.images == "check",
            each=each,
        )


def lender_of(name: str) -> str:
    """The layout whose folder holds the pictures of a dataset that comes without, "" for all others."""
    layout = layout_of(name)
    return dataset(layout).pictures_from if layout in dataset_names() else ""


@dataclass(frozen=True)
class Tree:
    """An opened source: the videos it takes with their roles, in reading order, and the labelled frames of
    one video (each frame once, in order of time).
    """

    roles: Mapping[str, Role]
    frames: Callable[[str], "Iterator[Frame]"]

    @property
    def videos(self) -> tuple[str, ...]:
        return tuple(self.roles)


def open_source(source: Source, rejects: Rejects) -> Tree:
    """Recognise the folder and list its videos. Rows that cannot be used go to `rejects` while frames are
    read. Raises LayoutError, LabelError, ImageError.
    """
    if not source.root.is_dir():
        raise LayoutError(f"{source.dataset}: no folder {source.root}")
    if source.pictures is not None and source.images == "check" and not source.pictures.is_dir():
        raise LayoutError(f"{source.dataset}: no folder {source.pictures} with its pictures")
    if (source.root / SIMULATED).is_file() and not source.dataset.startswith("sim-"):
        raise LayoutError(
            f"{source.root}: {SIMULATED} says that this is no real data; read it as sim-{source.dataset}, so"
            " that every row says so too"
        )
    name = "generic" if source.format == "generic" else source.layout.replace("-", "_")
    tree: Tree = import_module(f"surgr1.corpora.adapters.{name}").open_tree(source, rejects)
    return tree


def read_frames(source: Source, rejects: Rejects | None = None) -> "Iterator[Frame]":
    """Every labelled frame of the folder, video by video; a bad row raises LabelError unless `rejects` takes
    it.
    """
    tree = open_source(source, rejects or Rejects())
    for video in tree.videos:
        yield from tree.frames(video)


def read_source(source: Source) -> Iterator[Sample]:
    """Every sample of the folder, video by video. Raises LayoutError, LabelError, ImageError."""
    for frame in read_frames(source):
        yield from frame.samples()
