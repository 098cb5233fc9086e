"""Scenarios: what a simulated operation of a further procedure consists of (`scenarios/<name>.yaml`).

A scenario lists the vocabularies its datasets label (canonical names: lower case, spaces) and stages in the
order they may follow. A stage says which phase, step or action it is, which organs are in view and where, and
what each hand may do.
"""

import re
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from surgr1.ontology.errors import SurgR1Error
from surgr1.simulator.anatomy import IDS

Names = tuple[str, ...]
Colour = tuple[int, int, int]


class ScenarioError(SurgR1Error):
    """An unknown scenario or a scenario file that contradicts itself."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Look(_Part):
    """How one organ looks in this procedure; fields as in `scene.Organ`."""

    colour: Colour
    shape: Literal["blob", "tube", "fold", "thread"] = "blob"
    parts: Literal[1, 2] = 1
    surface: Literal["smooth", "veined", "fat"] = "smooth"


class Deed(_Part):
    """What a hand may do. `place` is where the tip goes if it works on no target (an organ of the stage)."""

    tool: str
    verb: str = "null verb"
    target: str = "null target"
    place: str = ""


def _deed(value: object) -> object:
    """[tool, place] where nobody labels verbs, else [tool, verb, target] or [tool, verb, target, place]."""
    if isinstance(value, list) and 2 <= len(value) <= 4:
        keys = ("tool", "place") if len(value) == 2 else ("tool", "verb", "target", "place")
        return dict(zip(keys, value, strict=False))
    return value


class Stage(_Part):
    """One stretch of an operation. `organs`: name -> x, y, radius and (optional) the radius at its end, from
    back to front; `angles` in radians; `hands` are the deeds of each entry of the scenario; `chance` that
    the stage takes place; `absent` the chance that an organ which no hand works on is out of view.
    """

    phase: str = ""
    step: str = ""
    action: str = ""
    weight: float = 1.0
    chance: float = 1.0
    absent: float = 0.0
    organs: dict[str, tuple[float, ...]]
    angles: dict[str, float] = {}
    hands: tuple[tuple[Annotated[Deed, BeforeValidator(_deed)], ...], ...] = ()
    backdrop: Colour | None = None
    blood: float = 0.0
    fluid: float = 0.0
    blur: float = 0.0


class Scenario(_Part):
    """A kind of operation. `ordered` false: the stages come in any order; `directed`: the verbs that have a
    direction. `entries` are where the hands' shafts leave the picture; `idle` is the chance that a hand
    pauses, `rest` the verb it then has, `shown` the chance that it is in view.
    """

    name: str
    procedure: str
    rate: float = 1.0
    ordered: bool = True
    tools: Names
    verbs: Names = ()
    phases: Names = ()
    steps: Names = ()
    actions: Names = ()
    directions: Names = ()
    directed: Names = ()
    motions: Names = ()
    backdrop: Colour
    entries: tuple[tuple[float, float], ...] = ((1.1, 0.78), (-0.1, 0.28), (-0.1, 0.9))
    scale: float = 1.6
    idle: float = 0.15
    rest: str = "null verb"
    shown: float = 0.94
    looks: dict[str, Look]
    stages: tuple[Stage, ...]

    @property
    def organs(self) -> Names:
        """Everything the scenario can show besides instruments."""
        return tuple(self.looks)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        deeds = [d for s in self.stages for h in s.hands for d in h]
        used = {
            "phases": {s.phase for s in self.stages} - {""},
            "steps": {s.step for s in self.stages} - {""},
            "actions": {s.action for s in self.stages} - {""},
            "tools": {d.tool for d in deeds},
            "verbs": ({d.verb for d in deeds} | {self.rest}) - {"null verb"},
            "looks": {o for s in self.stages for o in s.organs},
        }
        for kind, names in used.items():
            listed = set(getattr(self, kind))
            if names != listed:
                raise ValueError(f"{kind}: {', '.join(sorted(names ^ listed))} only listed or only in stages")
        if unknown := sorted(set(self.looks) - set(IDS)):
            raise ValueError(f"looks: no mask id for {', '.join(unknown)} (anatomy.TISSUES)")
        for number, stage in enumerate(self.stages):
            if len(stage.hands) > len(self.entries):
                raise ValueError(f"stage {number}: {len(stage.hands)} hands, {len(self.entries)} entries")
            reached = {d.target for h in stage.hands for d in h} | {d.place for h in stage.hands for d in h}
            if away := sorted((reached - {"null target", ""}) - set(stage.organs)):
                raise ValueError(f"stage {number}: {', '.join(away)} worked on but not among its organs")
            if sizes := [o for o, v in stage.organs.items() if len(v) not in (3, 4)]:
                raise ValueError(f"stage {number}: {', '.join(sizes)}: x, y, radius (and end radius) wanted")
        return self


def scenario_names() -> Names:
    """Every scenario that stands in the package."""
    folder = files("surgr1.simulator") / "scenarios"
    return tuple(sorted(p.name[:-5].replace("_", " ") for p in folder.iterdir() if p.name.endswith(".yaml")))


@lru_cache(maxsize=16)
def load_scenario(name: str) -> Scenario:
    """Read one scenario. Raises ScenarioError."""
    path = files("surgr1.simulator") / "scenarios" / (re.sub(r"\s+", "_", name) + ".yaml")
    if not path.is_file():
        raise ScenarioError(f"no scenario {name!r}; there are: {', '.join(scenario_names())}")
    try:
        return Scenario(name=name, **yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        raise ScenarioError(f"{path}: not a scenario: {error}") from error
