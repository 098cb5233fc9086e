"""What is known of every dataset before a file is opened: the paper's count, licence, official splits with
their sources, expected videos (data in `datasets/<layout>.yaml`).
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from surgr1.corpora.files import LayoutError
from surgr1.corpora.schema import Policy, Role
from surgr1.ontology.tasks import Task

TaskType = Literal[
    "tool localisation",
    "surgical VQA",
    "triplet / interaction",
    "CVS",
    "phase / anatomy",
    "action",
    "extra",
]
"""The task types of the paper's Figure 2a; "extra": read here, not among its 23 sources."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Split(_Section):
    """One named division of a dataset's videos. `source` says where it is published."""

    source: str
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @field_validator("train", "validation", "test", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> tuple[str, ...]:
        """A list, or "1-40, 43, VID92": ranges of numbers and names between commas."""
        parts = [p.strip() for p in value.split(",")] if isinstance(value, str) else list(value)
        found: list[str] = []
        for part in parts:
            limits = re.fullmatch(r"(\d+)-(\d+)", str(part))
            if limits:
                found += [str(n) for n in range(int(limits[1]), int(limits[2]) + 1)]
            elif str(part):
                found.append(str(part))
        return tuple(found)

    def roles(self) -> dict[str, Role]:
        """Video as listed -> role."""
        by_role: tuple[tuple[Role, tuple[str, ...]], ...] = (
            ("train", self.train),
            ("validation", self.validation),
            ("test", self.test),
        )
        return {video: role for role, videos in by_role for video in videos}


class Dataset(_Section):
    """One dataset as the paper lists it.

    `video` is the pattern of its video names ("video{:02d}") where splits hold numbers. `size` (width,
    height) is what the pictures of a build without pictures are taken to be.
    """

    title: str
    task_type: TaskType
    paper_images: int | None = Field(None, ge=1)
    difference: str = ""
    """Why our training count differs from the paper's, as far as it is known."""
    tasks: tuple[Task, ...]
    licence: str
    licence_evidence: str
    policy: Policy = "licence_restricted"
    homepage: str
    files: str
    """The layout in a sentence."""
    layout_evidence: str
    pictures_from: str = ""
    """The layout whose pictures the labels are about, where they come without pictures."""
    size: tuple[int, int]
    video: str = "{}"
    family: str = ""
    """Datasets of one family show the same operations: (family, operation) is the canonical video. "" is the
    layout's own name.
    """
    operation: str = "(.+)"
    """Regular expression on a video name; its groups, joined by "/", are the operation's name in the family
    (numbers without leading zeros).
    """
    shared: Mapping[str, str] = {}
    """Videos known to be an operation of another family: name here -> "family/operation"."""
    default_split: str = "default"
    splits: Mapping[str, Split] = {}
    own_splits: tuple[str, ...] = ()
    """Names of the splits whose videos stand in the dataset's own files alone."""
    expected: Mapping[str, int] = {}
    """Labelled frames by "split/role" or "all", from the reference."""
    real_sample: str = ""
    """Folder of the real files the tests read, or "" where none is public."""

    def roles(self, split: str) -> dict[str, Role]:
        """Video name -> role in a named split ("default": the default one). Raises LayoutError."""
        name = self.default_split if split == "default" else split
        if name not in self.splits:
            raise LayoutError(f"{self.title} has no split {split!r}; it has: {', '.join(self.splits)}")
        return {
            self.video.format(int(video)) if video.isdigit() else video: role
            for video, role in self.splits[name].roles().items()
        }

    @property
    def videos(self) -> tuple[str, ...]:
        """Every video that the default split names, sorted; () where the splits are in the user's files."""
        return tuple(sorted(self.roles("default"))) if self.splits else ()


@lru_cache
def dataset(layout: str) -> Dataset:
    """The facts of a layout. Raises LayoutError listing the known ones."""
    path = _folder() / f"{layout}.yaml"
    if not path.is_file():
        raise LayoutError(f"no dataset {layout!r}; known: {', '.join(dataset_names())}")
    return Dataset.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@lru_cache
def dataset_names() -> tuple[str, ...]:
    """Every layout with an adapter, sorted."""
    return tuple(sorted(p.stem for p in _folder().glob("*.yaml")))


@lru_cache
def elsewhere() -> Mapping[str, Split]:
    """Cholecystectomy datasets that no adapter reads, with the Cholec80 numbers of their videos."""
    raw = yaml.safe_load((_folder().parent / "elsewhere.yaml").read_text(encoding="utf-8"))
    return {name: Split.model_validate(body) for name, body in raw.items()}


def _folder() -> Path:
    return Path(str(files("surgr1.corpora"))) / "datasets"


def official_split(layout: str, split: str = "default") -> dict[str, Role]:
    """Video name -> role, in the dataset's own names. Raises LayoutError on an unknown split."""
    return dataset(layout).roles(split)
