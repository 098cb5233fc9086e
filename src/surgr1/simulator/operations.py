"""An operation as a timed scene graph, deterministic in its seed.

Phases follow the ontology's transitions. Anatomy changes with progress inside each phase and never goes back;
CVS criteria are true exactly when the anatomy passes `CVS_THRESHOLD`, so the picture decides them.
Instruments do only what CholecT50's 100 triplets contain.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from surgr1.ontology.errors import SurgR1Error
from surgr1.simulator.field_operations import simulate_stages
from surgr1.simulator.geometry import anchor
from surgr1.simulator.scenarios import load_scenario
from surgr1.simulator.scene import (
    Anatomy,
    Centre,
    Cholecystectomy,
    Effects,
    GastricBypass,
    Instrument,
    Point,
    Prostatectomy,
    Scene,
)

CVS_THRESHOLD = 0.5
CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
PROSTATECTOMY = "robot-assisted radical prostatectomy"
BYPASS = "laparoscopic roux-en-y gastric bypass"
PROCEDURES = (CHOLECYSTECTOMY, PROSTATECTOMY, BYPASS)
"""What `simulate_operation` makes; everything else is a scenario (`simulate_scenario`)."""


@dataclass(frozen=True)
class Operation:
    """A whole simulated operation: `scenes[i]` is what is true at i / `rate` seconds."""

    procedure: str
    rate: float
    scenes: tuple[Scene, ...]


_Deed = tuple[str, str, str]
_IDLE: dict[str, _Deed] = {
    t: (t, "null verb", "null target")
    for t in ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator")
}

# Phase -> relative duration, what the working hand does, what the assisting hand does. Every deed is one of
# the 100 triplets.
_CHOLECYSTECTOMY: dict[str, tuple[float, list[_Deed], list[_Deed]]] = {
    "preparation": (
        1.0,
        [
            ("grasper", "grasp", "gallbladder"),
            ("grasper", "retract", "omentum"),
            ("hook", "dissect", "omentum"),
            _IDLE["grasper"],
        ],
        [("grasper", "retract", "gallbladder"), ("grasper", "retract", "liver")],
    ),
    "calot triangle dissection": (
        2.4,
        [
            ("hook", "dissect", "cystic duct"),
            ("hook", "dissect", "cystic artery"),
            ("hook", "dissect", "gallbladder"),
            ("bipolar", "coagulate", "cystic artery"),
            ("grasper", "dissect", "gallbladder"),
            _IDLE["hook"],
        ],
        [("grasper", "retract", "gallbladder"), ("grasper", "grasp", "gallbladder")],
    ),
    "clipping and cutting": (
        1.2,
        [
            ("clipper", "clip", "cystic duct"),
            ("clipper", "clip", "cystic artery"),
            ("scissors", "cut", "cystic duct"),
            ("scissors", "cut", "cystic artery"),
        ],
        [("grasper", "retract", "gallbladder")],
    ),
    "gallbladder dissection": (
        2.2,
        [
            ("hook", "dissect", "gallbladder"),
            ("hook", "dissect", "cystic plate"),
            ("bipolar", "coagulate", "cystic plate"),
            ("hook", "coagulate", "liver"),
            _IDLE["hook"],
        ],
        [("grasper", "retract", "gallbladder"), ("grasper", "grasp", "gallbladder")],
    ),
    "gallbladder packaging": (
        0.9,
        [("grasper", "pack", "gallbladder"), ("grasper", "grasp", "gallbladder")],
        [("grasper", "grasp", "specimen bag")],
    ),
    "cleaning and coagulation": (
        1.1,
        [
            ("irrigator", "aspirate", "fluid"),
            ("irrigator", "irrigate", "liver"),
            ("bipolar", "coagulate", "liver"),
            ("bipolar", "coagulate", "cystic plate"),
            _IDLE["irrigator"],
        ],
        [("grasper", "retract", "liver")],
    ),
    "gallbladder retraction": (
        0.8,
        [("grasper", "grasp", "specimen bag"), ("grasper", "retract", "omentum")],
        [("grasper", "grasp", "specimen bag")],
    ),
}

_MOTION: dict[str, tuple[float, float]] = {
    "dissect": (0.014, 0.9),
    "coagulate": (0.008, 0.5),
    "retract": (0.020, 0.2),
    "grasp": (0.012, 0.3),
    "clip": (0.008, 0.4),
    "cut": (0.010, 0.8),
    "aspirate": (0.020, 0.3),
    "irrigate": (0.020, 0.4),
    "pack": (0.020, 0.4),
    "null verb": (0.050, 0.3),
}
"""Verb -> (amplitude as a fraction of the picture, strokes per second) of the tip's motion around the
target.
"""

_OPENING = {
    "grasp": 0.1,
    "retract": 0.08,
    "clip": 0.45,
    "cut": 0.6,
    "coagulate": 0.15,
    "dissect": 0.4,
    "pack": 0.1,
    "null verb": 0.7,
}


def simulate_operation(procedure: str, *, seed: int, centre: Centre, seconds: int) -> Operation:
    """Simulate `seconds` labelled frames (1 per second; 10 per second for prostatectomy actions) of one
    operation at one centre.
    """
    rng = np.random.default_rng(seed)
    if procedure == CHOLECYSTECTOMY:
        return _simulate_cholecystectomy(rng, seed, centre, seconds)
    if procedure == PROSTATECTOMY:
        return _simulate_prostatectomy(rng, seed, seconds)
    if procedure == BYPASS:
        return _simulate_bypass(rng, seed, seconds)
    raise SurgR1Error(f"no simulation of procedure {procedure!r}")


def simulate_scenario(name: str, *, seed: int, centre: Centre, seconds: int) -> Operation:
    """Simulate `seconds` labelled frames (`Operation.rate` a second) of a scenario (`scenarios/*.yaml`).
    Raises ScenarioError on an unknown name.
    """
    scenario = load_scenario(name)
    scenes = simulate_stages(scenario, seed=seed, centre=centre, seconds=seconds)
    return Operation(scenario.procedure, scenario.rate, scenes)


def _lengths(rng: np.random.Generator, weights: Sequence[float], total: int) -> list[int]:
    """Split `total` frames over phases, at least 2 each, durations varying by operation."""
    shares = np.asarray(weights) * rng.uniform(0.7, 1.3, len(weights))
    lengths = np.maximum(2, np.floor(shares / shares.sum() * total)).astype(int)
    lengths[int(np.argmax(lengths))] += total - int(lengths.sum())
    return [int(n) for n in lengths]


def _pick(rng: np.random.Generator, deeds: list[_Deed], centre: Centre) -> _Deed:
    weights = np.asarray([centre.habits.get(d[0], 0.6) if d[1] != "null verb" else 0.15 for d in deeds])
    return deeds[int(rng.choice(len(deeds), p=weights / weights.sum()))]


def _tip(anatomy: Anatomy, deed: _Deed, t: float, phase: float, rest: Point) -> Point | None:
    """Where the tip is: on its target, moving as the verb does; idle tools hover at `rest`."""
    base = rest if deed[1] == "null verb" else anchor(anatomy, deed[2])
    if base is None:
        return None
    size, pace = _MOTION[deed[1]]
    angle = math.tau * pace * t + phase
    return base[0] + size * math.cos(angle), base[1] + size * 1.5 * math.sin(angle * 0.7 + 0.4)


def _simulate_cholecystectomy(rng: np.random.Generator, seed: int, centre: Centre, seconds: int) -> Operation:
    order = ["preparation", "calot triangle dissection", "clipping and cutting", "gallbladder dissection"]
    # Packaging before or after cleaning: both are allowed and both are habits.
    order += [
        ["gallbladder packaging", "cleaning and coagulation"],
        ["cleaning and coagulation", "gallbladder packaging"],
    ][int(rng.random() < 0.35)]
    order += ["gallbladder retraction"]
    lengths = _lengths(rng, [_CHOLECYSTECTOMY[p][0] for p in order], seconds)
    fundus = (0.42 + rng.uniform(-0.04, 0.04), 0.25 + rng.uniform(-0.04, 0.04))
    neck = (0.55 + rng.uniform(-0.03, 0.03), 0.60 + rng.uniform(-0.04, 0.03))
    start = Cholecystectomy(
        fundus=fundus,
        neck=neck,
        girth=0.13 * rng.uniform(0.85, 1.15),
        adhesions=float(rng.random() < 0.3) * 0.6,
    )
    # How far the surgeon carries each criterion: not every operation achieves all three.
    goal = {
        "two_structures": 1.0,
        "window": 1.0 if rng.random() < 0.75 else 0.3,
        "plate": 1.0 if rng.random() < 0.65 else 0.2,
    }
    onset = {"two_structures": 0.15, "window": 0.35, "plate": 0.55}
    scenes: list[Scene] = []
    for phase, length in zip(order, lengths, strict=True):
        _, work, assist = _CHOLECYSTECTOMY[phase]
        deed, helper, until = _IDLE["hook"], _IDLE["grasper"], -1
        jitter = rng.uniform(0, math.tau, 2)
        for i in range(length):
            progress = (i + 0.5) / length
            if i > until:
                deed, helper, until = (
                    _pick(rng, work, centre),
                    _pick(rng, assist, centre),
                    i + int(rng.integers(1, 4)),
                )
                shown = (bool(rng.random() < 0.94), bool(rng.random() < 0.72))
                jitter = rng.uniform(0, math.tau, 2)
            anatomy = _cholecystectomy_state(start, phase, progress, goal, onset, order)
            if phase == "clipping and cutting":
                deed = _clipping_deed(progress)
            t = float(len(scenes))
            tools = []
            for k, (one, entry, rest) in enumerate(
                ((deed, (1.1, 0.78), (0.84, 0.36)), (helper, (-0.1, 0.22), (0.22, 0.40)))
            ):
                if deed == helper and k == 1 and deed[2] != "specimen bag":
                    continue
                tip = _tip(anatomy, one, t, float(jitter[k]), rest)
                if shown[k] and tip is not None:
                    if one[0] == "grasper" and k == 1:
                        tip = (tip[0] - 0.03, tip[1] - 0.03)
                    wobble = (entry[0], entry[1] + 0.12 * math.sin(float(jitter[k])))
                    tools.append(
                        Instrument(
                            one[0],
                            tip,
                            wobble,
                            opening=_OPENING.get(one[1], 0.35),
                            scale=1.7,
                            verb=one[1],
                            target=one[2],
                        )
                    )
            effects = Effects(
                smoke=(
                    0.35
                    if any(x.verb in ("dissect", "coagulate") and x.tool != "grasper" for x in tools)
                    and rng.random() < 0.4
                    else 0.0
                ),
                blood=0.4
                * float(phase in ("gallbladder dissection", "cleaning and coagulation"))
                * rng.random(),
                fluid=(0.4 + 0.5 * (1 - progress)) if phase == "cleaning and coagulation" else 0.0,
                blur=0.6 if rng.random() < 0.06 else 0.0,
            )
            cvs = tuple(v >= CVS_THRESHOLD for v in (anatomy.two_structures, anatomy.window, anatomy.plate))
            scenes.append(
                Scene(
                    CHOLECYSTECTOMY,
                    t,
                    phase,
                    anatomy,
                    tuple(tools),
                    cvs=(cvs[0], cvs[1], cvs[2]),
                    effects=effects,
                    seed=seed,
                )
            )
    return Operation(CHOLECYSTECTOMY, 1.0, tuple(scenes))


def _clipping_deed(progress: float) -> _Deed:
    """Clip the duct, clip the artery, cut the duct, cut the artery: in that order."""
    deeds = _CHOLECYSTECTOMY["clipping and cutting"][1]
    return deeds[min(3, int(progress * 4))]


def _cholecystectomy_state(
    start: Cholecystectomy,
    phase: str,
    progress: float,
    goal: dict[str, float],
    onset: dict[str, float],
    order: list[str],
) -> Cholecystectomy:
    """The anatomy at a share `progress` of `phase`."""
    rank = order.index(phase)
    if rank == 0:
        return start
    p = progress if rank == 1 else 1.0
    done = {k: goal[k] * min(1.0, max(0.0, (p - onset[k]) / 0.3)) for k in goal}
    state = replace(
        start,
        fat=max(0.0, 0.85 - 1.1 * p),
        adhesions=start.adhesions * (1 - p),
        two_structures=done["two_structures"],
        window=done["window"],
        plate=done["plate"],
    )
    if rank >= 2:
        c = progress if rank == 2 else 1.0
        state = replace(
            state,
            two_structures=1.0,
            duct_clips=min(3, int(c * 8)),
            artery_clips=min(2, max(0, int((c - 0.25) * 8))),
            duct_cut=c > 0.62,
            artery_cut=c > 0.88,
        )
    if rank >= 3:
        state = replace(state, detachment=(0.12 + 0.8 * progress) if rank == 3 else 1.0)
    if rank >= 4:
        packed = order.index("gallbladder packaging")
        bag = "closed" if rank > packed or phase == "gallbladder retraction" else "open"
        state = replace(state, bag=bag if rank >= packed else "none")
        if phase == "cleaning and coagulation" and bag == "closed":
            # The closed bag waits outside the view while the field is washed.
            state = replace(state, bag="none")
    return state


_ACTION_CYCLE = (
    "picking up the needle",
    "positioning the needle tip",
    "pushing the needle through the tissue",
    "pulling the needle out of the tissue",
)


def _simulate_prostatectomy(rng: np.random.Generator, seed: int, seconds: int) -> Operation:
    """`seconds` counts labelled frames at 10 Hz: two or three stitches, a knot, the cut, the needle's
    return.
    """
    actions: list[str] = ["other"]
    for _ in range(int(rng.integers(2, 4))):
        actions += _ACTION_CYCLE
    actions += ["tying a knot", "cutting the suture", "returning or dropping the needle", "other"]
    lengths = _lengths(rng, [1.4 if a in ("tying a knot", "other") else 1.0 for a in actions], seconds)
    wound = (0.5 + rng.uniform(-0.05, 0.05), 0.56 + rng.uniform(-0.04, 0.04))
    base = Prostatectomy(wound=wound)
    scenes: list[Scene] = []
    stitches = 0
    for action, length in zip(actions, lengths, strict=True):
        side = rng.uniform(-0.06, 0.06, 2)
        for i in range(length):
            p = (i + 0.5) / length
            anatomy, tools = _stitch(base, action, p, (float(side[0]), float(side[1])), stitches)
            t = len(scenes) / 10
            tools = [
                replace(
                    x, tip=(x.tip[0] + 0.006 * math.cos(7 * t + k), x.tip[1] + 0.008 * math.sin(6 * t + k))
                )
                for k, x in enumerate(tools)
            ]
            effects = Effects(blood=0.3 * float(rng.random() < 0.3), blur=0.5 if rng.random() < 0.05 else 0.0)
            scenes.append(
                Scene(PROSTATECTOMY, t, "", anatomy, tuple(tools), action=action, effects=effects, seed=seed)
            )
        stitches += action == "pulling the needle out of the tissue"
    return Operation(PROSTATECTOMY, 10.0, tuple(scenes))


_LEFT, _RIGHT = (-0.1, 0.95), (1.1, 0.95)


def _driver(
    tip: Point, *, opening: float = 0.05, entry: Point = _RIGHT, tool: str = "needle driver"
) -> Instrument:
    return Instrument(tool, tip, entry, opening=opening, scale=1.4)


def _stitch(
    base: Prostatectomy, action: str, p: float, side: Point, stitches: int
) -> tuple[Prostatectomy, list[Instrument]]:
    """Anatomy and instruments at a share `p` of an action. The needle is held near its middle by the right
    driver.
    """
    w = base.wound
    x0 = w[0] + side[0]
    helper = _driver((w[0] - 0.24, w[1] - 0.14 + side[1]), opening=0.3, entry=_LEFT, tool="grasper")
    if action == "other":
        state = replace(base, needle_visible=False, stitches=stitches, thread_cut=stitches > 0)
        return state, [_driver((w[0] - 0.16 + 0.2 * p, w[1] + 0.18), entry=_LEFT, tool="suction")]
    if action == "picking up the needle":
        needle = (0.34 + side[0], 0.80 + side[1] * 0.5)
        state = replace(base, needle=needle, needle_angle=0.25, stitches=stitches)
        return state, [_driver((needle[0] + 0.14 - 0.10 * p, needle[1] - 0.12), opening=0.8)]
    if action == "positioning the needle tip":
        needle = (x0 + 0.02, w[1] - 0.20 + 0.05 * p)
        state = replace(base, needle=needle, needle_angle=0.5 + 0.5 * p, stitches=stitches)
        return state, [_driver((needle[0] + 0.02, needle[1] - 0.19)), helper]
    if action == "pushing the needle through the tissue":
        needle = (x0 + 0.01, w[1] - 0.10)
        state = replace(
            base,
            needle=needle,
            needle_angle=0.35 - 0.2 * p,
            needle_in_tissue=0.25 + 0.45 * p,
            stitches=stitches,
        )
        return state, [_driver((needle[0] - 0.06, needle[1] - 0.19)), helper]
    if action == "pulling the needle out of the tissue":
        needle = (x0 + 0.05 + 0.07 * p, w[1] - 0.06 - 0.14 * p)
        state = replace(
            base,
            needle=needle,
            needle_angle=0.1,
            needle_in_tissue=0.5 - 0.45 * p,
            needle_emerged=True,
            thread_tension=1.0,
            stitches=stitches + 1,
        )
        return state, [_driver((needle[0] + 0.11, needle[1] - 0.10))]
    if action == "tying a knot":
        state = replace(base, needle_visible=False, loops=1 + int(3 * p), stitches=stitches)
        swing = 0.10 * math.sin(9 * p)
        return state, [
            _driver((w[0] + 0.17, w[1] - 0.20 + swing)),
            _driver((w[0] - 0.13, w[1] - 0.20 - swing), entry=_LEFT),
        ]
    if action == "cutting the suture":
        state = replace(base, needle_visible=False, thread_tension=1.0, stitches=stitches)
        return state, [_driver((w[0] + 0.13, w[1] - 0.16), opening=0.9 - 0.6 * p, tool="scissors"), helper]
    needle = (0.80 + 0.04 * p + side[0] * 0.3, 0.26 - 0.06 * p)
    state = replace(base, needle=needle, needle_angle=1.2, thread_cut=True, stitches=stitches)
    return state, [_driver((needle[0] - 0.02, needle[1] + 0.10))]


_View = Callable[[float], GastricBypass]
# Phase -> relative duration, (step, anatomy as a function of progress, tools and their targets) alternatives.
_BYPASS: dict[str, tuple[float, list[tuple[str, _View, list[tuple[str, str]]]]]] = {
    "preparation": (
        1.0,
        [
            ("cavity exploration", lambda p: GastricBypass(), [("grasper", "right tissue")]),
            (
                "retractor placement",
                lambda p: GastricBypass(),
                [("grasper", "left tissue"), ("grasper", "right tissue")],
            ),
        ],
    ),
    "gastric pouch creation": (
        1.6,
        [
            (
                "horizontal stapling",
                lambda p: GastricBypass("stomach", staple_line=0.45 * p),
                [("linear stapler", "staple end"), ("grasper", "left tissue")],
            ),
            (
                "vertical stapling",
                lambda p: GastricBypass("stomach", staple_line=0.45 + 0.5 * p),
                [("linear stapler", "staple end")],
            ),
        ],
    ),
    "omentum division": (
        0.9,
        [
            (
                "omental section",
                lambda p: GastricBypass("omentum", omentum_split=0.15 + 0.8 * p),
                [("energy device", "omentum"), ("grasper", "left tissue")],
            )
        ],
    ),
    "gastrojejunal anastomosis": (
        1.4,
        [
            (
                "gastrojejunal stapling",
                lambda p: GastricBypass("gastrojejunal", enterotomy=0.5 + 0.5 * p),
                [("linear stapler", "focus")],
            ),
            (
                "gastrojejunal defect closing",
                lambda p: GastricBypass("gastrojejunal", enterotomy=1 - p, anastomosis=p),
                [("needle driver", "focus"), ("grasper", "left tissue")],
            ),
        ],
    ),
    "anastomosis test": (
        0.8,
        [
            (
                "ink injection",
                lambda p: GastricBypass("gastrojejunal", anastomosis=1.0, dye=0.4 + 0.6 * p),
                [("grasper", "right tissue")],
            )
        ],
    ),
    "jejunal separation": (
        0.8,
        [
            (
                "jejunal section",
                lambda p: GastricBypass("jejunum", staple_line=p),
                [("linear stapler", "focus"), ("grasper", "left tissue")],
            )
        ],
    ),
    "closure petersen space": (
        1.0,
        [
            (
                "petersen space closing",
                lambda p: GastricBypass("petersen", defect=1 - 0.7 * p, sutures=int(6 * p)),
                [("needle driver", "focus"), ("grasper", "right tissue")],
            )
        ],
    ),
    "jejunojejunal anastomosis": (
        1.3,
        [
            (
                "jejunojejunal stapling",
                lambda p: GastricBypass("jejunojejunal", enterotomy=0.4 + 0.6 * p),
                [("linear stapler", "focus")],
            ),
            (
                "jejunojejunal defect closing",
                lambda p: GastricBypass("jejunojejunal", enterotomy=1 - p, anastomosis=p),
                [("needle driver", "focus")],
            ),
        ],
    ),
    "closure mesenteric defect": (
        1.0,
        [
            (
                "mesenteric defect closing",
                lambda p: GastricBypass("mesentery", defect=1 - 0.7 * p, sutures=int(6 * p)),
                [("needle driver", "focus"), ("grasper", "left tissue")],
            )
        ],
    ),
    "cleaning coagulation": (
        0.8,
        [
            (
                "irrigation aspiration",
                lambda p: GastricBypass("overview", staple_line=1.0),
                [("irrigator", "focus"), ("grasper", "left tissue")],
            )
        ],
    ),
    "disassembling": (
        0.8,
        [
            (
                "drainage insertion",
                lambda p: GastricBypass("overview", drain=True, staple_line=1.0),
                [("grasper", "right tissue")],
            )
        ],
    ),
    "other intervention": (
        0.7,
        [
            (
                "adhesiolysis",
                lambda p: GastricBypass("overview"),
                [("scissors", "abdominal wall"), ("grasper", "abdominal wall")],
            )
        ],
    ),
}
_BYPASS_ORDER = (
    "preparation",
    "other intervention",
    "gastric pouch creation",
    "omentum division",
    "gastrojejunal anastomosis",
    "anastomosis test",
    "jejunal separation",
    "jejunojejunal anastomosis",
    "closure mesenteric defect",
    "closure petersen space",
    "cleaning coagulation",
    "disassembling",
)


def _simulate_bypass(rng: np.random.Generator, seed: int, seconds: int) -> Operation:
    order = [p for p in _BYPASS_ORDER if p != "other intervention" or rng.random() < 0.75]
    lengths = _lengths(rng, [_BYPASS[p][0] for p in order], seconds)
    scenes: list[Scene] = []
    for phase, length in zip(order, lengths, strict=True):
        parts = _BYPASS[phase][1]
        for i in range(length):
            progress = (i + 0.5) / length
            step, view, plan = parts[min(len(parts) - 1, int(progress * len(parts)))]
            anatomy = view(progress * len(parts) % 1.0)
            t = float(len(scenes))
            tools = []
            for k, (tool, target) in enumerate(plan):
                at = anchor(anatomy, target)
                if at is None or rng.random() < 0.06:
                    continue
                tip = (
                    at[0] + 0.03 * math.cos(1.7 * t + k + seed) + rng.uniform(-0.02, 0.02),
                    at[1] + 0.04 * math.sin(1.3 * t + k),
                )
                tools.append(
                    Instrument(
                        tool, tip, _RIGHT if k == 0 else _LEFT, opening=0.3 + 0.2 * math.sin(t), scale=1.4
                    )
                )
            effects = Effects(
                blood=0.5 if phase == "cleaning coagulation" else 0.0,
                fluid=0.7 if phase == "cleaning coagulation" else 0.0,
                blur=0.5 if rng.random() < 0.05 else 0.0,
            )
            scenes.append(
                Scene(BYPASS, t, phase, anatomy, tuple(tools), step=step, effects=effects, seed=seed)
            )
    return Operation(BYPASS, 1.0, tuple(scenes))
