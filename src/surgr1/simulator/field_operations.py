"""An operation of a scenario as a timed scene graph, deterministic in its seed.

The stages come in the scenario's order (or in any, where it has none); a short operation leaves some out, so
that none lasts less than `SHORTEST` frames. Hands take turns through what their stage lets them do.
"""

import math
from dataclasses import dataclass

import numpy as np

from surgr1.simulator.geometry import parts_of
from surgr1.simulator.scenarios import Deed, Scenario, Stage
from surgr1.simulator.scene import Centre, Effects, Field, Instrument, Organ, Point, Scene

SHORTEST = 2
_TURN = 3
"""The longest a hand goes on with one deed, a camera motion or a direction lasts, in frames."""
_SMOKY = frozenset({"cauterize", "cauterization", "coagulate", "dissect"})
"""Verbs that make smoke."""
_OPENING = {
    "open": 1.0,
    "open something": 0.9,
    "release": 0.9,
    "cut": 0.6,
    "cutting": 0.6,
    "clip": 0.45,
    "clipping": 0.45,
    "close": 0.0,
    "null verb": 0.7,
}


@dataclass(frozen=True)
class _Turn:
    """What happens for a few frames: one deed (or none) a hand, which organs are away, the camera."""

    deeds: tuple[Deed | None, ...]
    away: frozenset[str]
    swing: tuple[float, ...]
    motion: str
    direction: str


def simulate_stages(scenario: Scenario, *, seed: int, centre: Centre, seconds: int) -> tuple[Scene, ...]:
    """`seconds` scenes, `Scenario.rate` a second."""
    rng = np.random.default_rng(seed)
    aspect = centre.size[0] / centre.size[1]
    stages = _stages(scenario, rng, seconds)
    shift = {o: (float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.03, 0.03))) for o in scenario.looks}
    girth = {o: float(rng.uniform(0.92, 1.08)) for o in scenario.looks}
    shares = np.asarray([s.weight for s in stages]) * rng.uniform(0.8, 1.25, len(stages))
    lengths = SHORTEST + np.floor(shares / shares.sum() * (seconds - SHORTEST * len(stages))).astype(int)
    lengths[int(np.argmax(lengths))] += seconds - int(lengths.sum())
    scenes: list[Scene] = []
    for stage, length in zip(stages, lengths.tolist(), strict=True):
        turn, since, until = None, 0, -1
        count = int(rng.integers(0, 8))
        for i in range(length):
            if turn is None or i > until:
                turn, since = _turn(scenario, stage, rng, count), i
                until = min(length - 1, i + int(rng.integers(1, _TURN)))
                count += 1
            progress = (i + 0.5) / length
            t = len(scenes) / scenario.rate
            organs = tuple(
                _organ(scenario, stage, name, progress, t, shift[name], girth[name])
                for name in stage.organs
                if name not in turn.away
            )
            field = Field(
                organs,
                stage.backdrop or scenario.backdrop,
                camera=(i - since) / max(1, until - since),
                deeds=bool(scenario.verbs),
                scenario=scenario.name,
            )
            tools = _instruments(scenario, field, turn, t / centre.tempo, aspect)
            effects = Effects(
                smoke=0.3 if any(x.verb in _SMOKY for x in tools) and rng.random() < 0.4 else 0.0,
                blood=stage.blood,
                fluid=stage.fluid,
                blur=stage.blur or (0.5 if rng.random() < 0.04 else 0.0),
            )
            scenes.append(
                Scene(
                    scenario.procedure,
                    t,
                    stage.phase,
                    field,
                    tools,
                    step=stage.step,
                    action=stage.action,
                    effects=effects,
                    seed=seed,
                    motion=turn.motion,
                )
            )
    return tuple(scenes)


def _stages(scenario: Scenario, rng: np.random.Generator, seconds: int) -> list[Stage]:
    """The stages of this operation: those that take place, as many as there is room for."""
    chosen = [s for s in scenario.stages if rng.random() < s.chance] or list(scenario.stages[:1])
    room = max(1, seconds // SHORTEST)
    if len(chosen) > room:
        keep = sorted(int(k) for k in rng.choice(len(chosen), room, replace=False))
        chosen = [chosen[k] for k in keep]
    if not scenario.ordered:
        chosen = [chosen[int(k)] for k in rng.permutation(len(chosen))]
    return chosen


def _turn(scenario: Scenario, stage: Stage, rng: np.random.Generator, count: int) -> _Turn:
    deeds: list[Deed | None] = []
    for k, choices in enumerate(stage.hands):
        if not choices or rng.random() >= scenario.shown:
            deeds.append(None)
            continue
        deed = choices[(count + k) % len(choices)]
        if scenario.verbs and rng.random() < scenario.idle:
            deed = Deed(tool=deed.tool, verb=scenario.rest)
        deeds.append(deed)
    used = {d.target for d in deeds if d} | {d.place for d in deeds if d}
    away = frozenset(o for o in stage.organs if o not in used and rng.random() < stage.absent)
    return _Turn(
        tuple(deeds),
        away if len(away) < len(stage.organs) else frozenset(),
        tuple(float(v) for v in rng.uniform(0, math.tau, max(1, len(deeds)))),
        str(rng.choice(scenario.motions)) if scenario.motions else "",
        str(rng.choice(scenario.directions)) if scenario.directions else "",
    )


def _organ(
    scenario: Scenario, stage: Stage, name: str, progress: float, t: float, shift: Point, girth: float
) -> Organ:
    """The organ as it lies now: breathing moves it a little, work makes it grow or shrink."""
    look, (x, y, first, *rest) = scenario.looks[name], stage.organs[name]
    radius = first + (rest[0] - first) * progress if rest else first
    breath = 0.006 * math.sin(1.1 * t + len(name))
    return Organ(
        name,
        (x + shift[0], y + shift[1] + breath),
        radius * girth,
        look.colour,
        look.shape,
        stage.angles.get(name, 0.0),
        look.parts,
        look.surface,
    )


def _instruments(
    scenario: Scenario, field: Field, turn: _Turn, t: float, aspect: float
) -> tuple[Instrument, ...]:
    """The tips at `t` seconds of the surgeon's own clock: each hand on its organ, on its own side of it; a
    pausing hand hovers before its entry.
    """
    organs = {o.name: o for o in field.organs}
    tools = []
    for k, deed in enumerate(turn.deeds):
        if deed is None:
            continue
        entry, swing = scenario.entries[k], turn.swing[k]
        organ = organs.get(deed.target) or organs.get(deed.place)
        base = _grip(organ, entry, aspect) if organ else _rest(entry)
        tip = (base[0] + 0.015 * math.cos(2.3 * t + swing), base[1] + 0.02 * math.sin(1.9 * t + swing))
        tools.append(
            Instrument(
                deed.tool,
                tip,
                (entry[0] + 0.03 * math.cos(swing), entry[1] + 0.03 * math.sin(swing)),
                opening=_OPENING.get(deed.verb, 0.25),
                scale=scenario.scale,
                verb=deed.verb,
                target=deed.target,
                direction=turn.direction if deed.verb in scenario.directed else "",
            )
        )
    return tuple(tools)


def _grip(organ: Organ, entry: Point, aspect: float) -> Point:
    """A point of the organ (of its nearer part) towards the entry, so that two hands on one organ do not
    cross.
    """
    x, y = min(parts_of(organ, aspect), key=lambda p: math.dist(p, entry))
    reach = 0.45 * organ.radius if organ.shape == "blob" else 0.1 * organ.radius
    return x + reach * (0.8 if entry[0] > 0.5 else -0.8), y + reach * (entry[1] - 0.5) * 0.9


def _rest(entry: Point) -> Point:
    return 0.5 + (entry[0] - 0.5) * 0.5, 0.5 + (entry[1] - 0.5) * 0.4
