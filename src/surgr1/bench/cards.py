"""Task cards: one YAML per dataset under `task_cards/` fixes which frames are asked, how, what counts as an
answer, how it is scored and where the data may go.

"sim-<dataset>" answers the cards of <dataset>; simulated data is public whatever the card says of the real
one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.corpora.schema import Policy, Protocol, Sample, strictest
from surgr1.corpora.select import spread_over_videos
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.reasoning.answers import AnswerSpec, spec_for

Group = Literal["public", "external", "extra"]
Kind = Literal["label", "labels", "triplets", "cvs", "box", "text"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FrameRule(_Part):
    """Which labelled frames of the evaluation videos are asked: of every video the same number where
    possible, chosen by a hash of the sample, at most `size` questions (None: all). `videos` names the split
    for a reader.
    """

    videos: str
    size: int | None = Field(None, ge=1)


class VocabularyRef(_Part):
    """A list of the ontology: `dataset` as there, `kind` as in `ontology.vocabularies`."""

    dataset: str
    kind: str


class Card(_Part):
    """One task of SurgBench. `group` "public" and "external" enter the two Arena Scores, "extra" none.

    `question` may hold {focus}; `questions` has one wording per focus instead; with neither, the sample's own
    question is asked (VQA). `labels` is the fixed list that macro metrics average over (of the things asked
    for, where the answer is a box); () for free text.
    """

    id: str
    title: str
    dataset: str
    centres: tuple[str, ...]
    procedure: str
    task: Task
    kind: Kind
    primary: str
    group: Group
    policy: Policy
    protocol: Protocol
    frames: FrameRule
    question: str = ""
    questions: Mapping[str, str] = {}
    labels: tuple[str, ...] = ()
    aliases: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.question and self.questions:
            raise ValueError(f"{self.id}: give `question` or `questions`, not both")
        unknown = sorted(set(self.aliases.values()) - set(self.labels))
        if unknown:
            raise ValueError(f"{self.id}: aliases lead to {', '.join(unknown)}, which the label list lacks")
        return self

    def matches(self, dataset: str, task: str) -> bool:
        """Whether a sample of this dataset (real or simulated) and task belongs to the card."""
        return dataset.removeprefix("sim-") == self.dataset and task == self.task

    def asked(self, sample: Sample, protocol: Protocol | None = None) -> Sample:
        """The sample with the card's wording, under the card's protocol or another one; the policy is the
        stricter of both.
        """
        question = self.questions.get(sample.focus, self.question).format(focus=sample.focus)
        policy = sample.policy
        if not sample.dataset.startswith("sim-"):
            policy = strictest(sample.policy, self.policy)
        return replace(
            sample,
            question=question or sample.question,
            # A box is no choice from a list: its labels are the things asked for.
            options=() if self.kind == "box" else self.labels or sample.options,
            protocol=protocol or self.protocol,
            policy=policy,
        )

    def frame_list(self, samples: Iterable[Sample], limit: int | None, seed: int) -> list[Sample]:
        """The card's questions among `samples`, by its rule; `limit` asks for fewer."""
        mine = [s for s in samples if self.matches(s.dataset, s.task)]
        bounds = [n for n in (self.frames.size, limit) if n is not None]
        return spread_over_videos(mine, min([*bounds, len(mine)]), seed)

    @property
    def seen_centre(self) -> bool:
        """Whether a hospital of this data also gave one of the public sets, which models train on: an unseen
        data set from a seen centre (evaluation.md B9).
        """
        return any(set(self.centres) & set(c.centres) for c in all_cards() if c.group == "public")

    @cached_property
    def spec(self) -> AnswerSpec:
        """What counts as an answer; without the letters of an options protocol."""
        if self.kind == "box":
            return spec_for(self.task)
        return replace(
            spec_for(self.task, self.labels, self.dataset),
            aliases=self.aliases or spec_for(self.task).aliases,
        )

    @property
    def vocabulary_hash(self) -> str:
        """Changes when the label list or an alias does."""
        return digest([self.kind, list(self.labels), dict(self.aliases)])

    @property
    def question_hash(self) -> str:
        """Changes when a wording does."""
        return digest([self.question, dict(self.questions)])


def digest(value: Any) -> str:
    """16 hexadecimal digits of a JSON value's SHA-256, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _resolved(raw: dict[str, Any]) -> list[Card]:
    """The cards of one file: what stands at its top holds for each of its tasks."""
    tasks = raw.pop("tasks")
    found = []
    for task in tasks:
        body = raw | task
        reference = body.pop("vocabulary", None)
        if reference:
            words = vocabulary(**VocabularyRef.model_validate(reference).model_dump())
            # Data sets share alias tables; an alias of what this one lacks is none here.
            aliases = {a: n for a, n in words.aliases.items() if n in words.names}
            body |= {"labels": words.names, "aliases": aliases}
        found.append(Card.model_validate(body))
    return found


_ORDER = (
    "cholect50",
    "cholec80",
    "sar-rarp50",
    "multibypass140",
    "renji",
    "strasbourg",
    "cuhk",
    "west-china",
    "nanfang",
    "endoscapes",
    "endovis17",
    "endovis18-vqa",
    "endovis18-vqla",
)


@lru_cache
def all_cards() -> tuple[Card, ...]:
    """Every card, in the order of the report."""
    folder = files("surgr1.bench").joinpath("task_cards")
    cards = [
        c
        for name in _ORDER
        for c in _resolved(yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8")))
    ]
    return tuple(sorted(cards, key=lambda c: ("public", "external", "extra").index(c.group)))


def card_of(dataset: str, task: str) -> Card | None:
    """The card that a sample belongs to, if any."""
    return _by_key().get((dataset.removeprefix("sim-"), task))


@lru_cache
def _by_key() -> dict[tuple[str, str], Card]:
    return {(c.dataset, str(c.task)): c for c in all_cards()}
