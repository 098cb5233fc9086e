"""One name for every operation across datasets, and the guard that keeps evaluation videos out of training.

Cholec80, CholecT50, Endoscapes and six more datasets share operations, GraSP contains PSI-AVA, EndoVis 2017
and 2018 come back in their VQA sets (reference datasets-a.md section 10, datasets-b.md section 16). Which
video is which operation stands with each dataset (`datasets/<layout>.yaml`: `family`, `operation`, `shared`).
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from surgr1.corpora.datasets import dataset as known
from surgr1.corpora.datasets import dataset_names, elsewhere
from surgr1.corpora.schema import Role
from surgr1.ontology.errors import SurgR1Error


class LeakError(SurgR1Error):
    """A training video that is also in a selected evaluation set."""


class Isolation(BaseModel):
    """Which videos are kept out of training, and what is done about those that are not.

    `evaluation` are the datasets that will be measured on (empty: all): their validation, test and external
    videos are held out. `leaks`: "refuse" raises, "exclude" leaves the training video out, "allow" trains on
    it; the last needs a `reason`, which stands in the statistics and in the card.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluation: tuple[str, ...] = ()
    leaks: Literal["refuse", "exclude", "allow"] = "refuse"
    reason: str = ""

    @model_validator(mode="after")
    def _accounted(self) -> Self:
        if self.leaks == "allow" and not self.reason.strip():
            raise ValueError("leaks: allow needs a reason; it is written into the corpus")
        return self


class Member(NamedTuple):
    """One video of one dataset and what it is used for."""

    dataset: str
    video: str
    role: Role

    @property
    def operation(self) -> str:
        return canonical_video(self.dataset, self.video)


@lru_cache(maxsize=65536)
def canonical_video(dataset: str, video: str) -> str:
    """The operation behind a dataset's video, e.g. "cholec/68" for Cholec80 video68 and CholecT50 VID68.

    Simulated operations live in a world of their own ("sim:..."), with the same sharing between the public
    sets.
    """
    world = "sim:" if dataset.startswith("sim-") else ""
    base = dataset.removeprefix("sim-")
    if base in elsewhere():
        return f"cholec/{video}"
    if base not in dataset_names():
        return f"{world}{base}/{video}"
    facts = known(base)
    if not world and video in facts.shared:
        return facts.shared[video]
    match = re.fullmatch(facts.operation, video)
    operation = "/".join(g for g in match.groups() if g) if match else video
    return f"{world}{facts.family or base}/{operation}"


@dataclass(frozen=True)
class Leak:
    """One operation that is trained on and evaluated on."""

    operation: str
    train: tuple[Member, ...]
    evaluation: tuple[Member, ...]


def find_leaks(members: Iterable[Member], evaluation: Collection[str] = ()) -> list[Leak]:
    """Operations with a training video that the selected evaluation sets (empty: all) hold too."""
    sides: defaultdict[str, tuple[list[Member], list[Member]]] = defaultdict(lambda: ([], []))
    for member in members:
        if member.role == "train":
            sides[member.operation][0].append(member)
        elif not evaluation or member.dataset in evaluation:
            sides[member.operation][1].append(member)
    return [
        Leak(operation, tuple(train), tuple(held))
        for operation, (train, held) in sorted(sides.items())
        if train and held
    ]


def held_out(members: Iterable[Member], isolation: Isolation) -> frozenset[tuple[str, str]]:
    """The (dataset, video) training videos that are left out. Raises LeakError naming both sides of every
    shared operation where leaks are refused, and where an evaluation set is none of the datasets.
    """
    members = list(members)
    unknown = sorted(set(isolation.evaluation) - {m.dataset for m in members})
    if unknown:
        raise LeakError(
            f"isolation.evaluation names {', '.join(unknown)}, which is not read here; datasets:"
            f" {', '.join(sorted({m.dataset for m in members}))}"
        )
    leaks = find_leaks(members, isolation.evaluation)
    if not leaks or isolation.leaks == "allow":
        return frozenset()
    if isolation.leaks == "exclude":
        return frozenset((m.dataset, m.video) for leak in leaks for m in leak.train)
    lines = [f"  {_named(leak.train)} (training) is {_named(leak.evaluation)} (evaluation)" for leak in leaks]
    raise LeakError(
        f"{len(leaks)} training operation(s) are also in an evaluation set:\n"
        + "\n".join(lines)
        + "\nChoose another split, leave these videos out of training (isolation: {leaks: exclude}), or allow"
        " it with a reason (isolation: {leaks: allow, reason: ...})."
    )


def _named(members: Iterable[Member]) -> str:
    return ", ".join(sorted(f"{m.dataset} {m.video}" for m in members))


@dataclass(frozen=True)
class LeakRow:
    """Operations that `train` (a dataset's training videos) shares with `evaluation` (another's evaluation
    videos).
    """

    train: str
    evaluation: str
    videos: tuple[str, ...]


def leak_matrix(members: Iterable[Member]) -> list[LeakRow]:
    """Shared operations per pair of datasets."""
    cells: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for leak in find_leaks(members):
        for train in leak.train:
            for held in leak.evaluation:
                cells[train.dataset, held.dataset].add(leak.operation)
    return [LeakRow(t, e, tuple(sorted(videos))) for (t, e), videos in sorted(cells.items())]


@dataclass(frozen=True)
class Cost:
    """What measuring on `evaluation` takes from training: operations held out, and training videos lost by
    dataset (of how many).
    """

    evaluation: tuple[str, ...]
    operations: int
    lost: dict[str, tuple[int, int]]


def cost(members: Iterable[Member], evaluation: Collection[str] = ()) -> Cost:
    """How many training videos of each dataset a choice of evaluation sets (empty: all) costs."""
    members = list(members)
    totals: defaultdict[str, int] = defaultdict(int)
    for member in members:
        totals[member.dataset] += member.role == "train"
    lost: defaultdict[str, int] = defaultdict(int)
    leaks = find_leaks(members, evaluation)
    for leak in leaks:
        for member in leak.train:
            lost[member.dataset] += 1
    return Cost(tuple(sorted(evaluation)), len(leaks), {d: (n, totals[d]) for d, n in sorted(lost.items())})


def official_members() -> list[Member]:
    """Every video that the datasets' default splits name (those whose splits are in the user's own files,
    such as MultiBypass140, have none), and those of datasets that no adapter reads.
    """
    splits = {layout: known(layout).roles("default") for layout in dataset_names() if known(layout).splits}
    splits |= {name: split.roles() for name, split in elsewhere().items()}
    return [Member(name, video, role) for name, roles in splits.items() for video, role in roles.items()]
