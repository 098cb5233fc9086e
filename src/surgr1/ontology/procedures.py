"""Procedures as validated YAML: tools and tissues with colour, shape and texture, phases or actions with
their allowed successors, CVS criteria.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from surgr1.ontology.errors import SurgR1Error


class ProcedureError(SurgR1Error):
    """An unknown procedure or a procedure file that contradicts itself."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entity(_Part):
    """A tool or tissue and what it looks like."""

    name: str
    aliases: tuple[str, ...]
    color: str
    shape: str
    texture: str


class Verb(_Part):
    """What a tool does to a tissue. `apart`: name of a neighbour (verb, phase, step or action) -> what tells
    the two apart in one frame.
    """

    name: str
    definition: str = ""
    apart: Mapping[str, str] = {}


class Activity(_Part):
    """A phase, step or action: what it means, how one frame of it looks (`cues`), what may follow (`next`).
    `apart` as in `Verb`.
    """

    name: str
    definition: str
    cues: tuple[str, ...]
    next: tuple[str, ...]
    apart: Mapping[str, str] = {}


class Criterion(_Part):
    """One criterion of the critical view of safety. "yes" to every question means it is met."""

    id: Literal["C1", "C2", "C3"]
    name: str
    definition: str
    questions: tuple[str, ...]
    met: tuple[str, ...]
    unmet: tuple[str, ...]
    cleared: tuple[str, ...] = ()
    """What has to be seen before the criterion counts as met."""
    imitations: tuple[str, ...] = ()
    """What looks like it and does not count."""


class Procedure(_Part):
    """Everything we know about one kind of operation."""

    name: str
    sources: tuple[str, ...] = ()
    """Where the facts come from, in full; what is not sourced is ours and said to be."""
    tools: tuple[Entity, ...]
    tissues: tuple[Entity, ...]
    verbs: tuple[Verb, ...]
    phases: tuple[Activity, ...]
    steps: tuple[Activity, ...]
    actions: tuple[Activity, ...]
    criteria: tuple[Criterion, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind, entities in (("tools", self.tools), ("tissues", self.tissues)):
            spellings = [s for e in entities for s in (e.name, *e.aliases)]
            twice = sorted({s for s in spellings if spellings.count(s) > 1})
            if twice:
                raise ValueError(f"{kind}: {', '.join(twice)} named more than once")
        for kind, activities in (("phases", self.phases), ("actions", self.actions), ("steps", self.steps)):
            names = [a.name for a in activities]
            if len(set(names)) != len(names):
                raise ValueError(f"{kind}: a name stands more than once in {', '.join(names)}")
            for activity in activities:
                unknown = sorted(set(activity.next) - set(names))
                if unknown:
                    raise ValueError(
                        f"{kind}: {activity.name!r} names unknown successors {', '.join(unknown)}"
                    )
                if not activity.cues:
                    raise ValueError(f"{kind}: {activity.name!r} has no cues")
        self._neighbours()
        return self

    def __hash__(self) -> int:
        return hash(self.name)

    def _neighbours(self) -> None:
        """Raise where `apart` names what this procedure does not have, or a thing itself."""
        parts: tuple[Verb | Activity, ...] = (*self.verbs, *self.phases, *self.steps, *self.actions)
        names = {part.name for part in parts}
        for part in parts:
            unknown = sorted(set(part.apart) - names)
            if unknown:
                raise ValueError(f"{part.name!r} is told apart from unknown {', '.join(unknown)}")

    def entity(self, name: str) -> Entity | None:
        """The tool or tissue of that name, None if this procedure does not describe it."""
        return next((e for e in (*self.tools, *self.tissues) if e.name == name), None)

    def activity(self, name: str) -> Activity | None:
        """The phase or action of that name."""
        return next((a for a in (*self.phases, *self.actions, *self.steps) if a.name == name), None)


def read_procedure(path: Path) -> Procedure:
    """Read and validate one procedure file. Raises ProcedureError naming file, field and reason."""
    try:
        return Procedure.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ProcedureError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        lines = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'procedure'}: {e['msg']}" for e in error.errors()
        )
        raise ProcedureError(f"{path}: {lines}") from error


@lru_cache
def _all() -> dict[str, Procedure]:
    folder = Path(str(files("surgr1.ontology"))) / "procedures"
    return {p.name: p for p in map(read_procedure, sorted(folder.glob("*.yaml")))}


def procedure_names() -> tuple[str, ...]:
    """Names of the procedures that ship with the package."""
    return tuple(_all())


def load_procedure(name: str) -> Procedure:
    """The procedure of that name. Raises ProcedureError listing the known ones."""
    try:
        return _all()[name]
    except KeyError:
        raise ProcedureError(f"unknown procedure {name!r}; known: {', '.join(_all())}") from None
