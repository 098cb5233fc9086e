"""Task cards: which samples a task has, how it is scored, where it counts."""

from functools import lru_cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from surgr1.ontology.tasks import Task

Group = Literal["public", "external", "extra"]


class Card(BaseModel):
    """One task of SurgBench. `group` "public" and "external" enter the two Arena Scores, "extra" none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    title: str
    dataset: str
    task: Task
    kind: Literal["label", "labels", "triplets", "cvs", "box"]
    primary: str
    group: Group

    def matches(self, dataset: str, task: str) -> bool:
        """Whether a sample of this dataset (real or simulated) and task belongs to the card."""
        return dataset.removeprefix("sim-") == self.dataset and task == self.task


@lru_cache
def all_cards() -> tuple[Card, ...]:
    """Every card, in the order of the report."""
    raw = yaml.safe_load(files("surgr1.bench").joinpath("cards.yaml").read_text(encoding="utf-8"))
    return tuple(Card.model_validate(c) for c in raw)
