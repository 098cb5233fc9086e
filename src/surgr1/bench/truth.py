"""The truth of simulated frames as the bench reads it, and when each finding of `reasoning.findings` holds.

The simulator writes `<sim>/truth/<dataset>.parquet` (`simulator.truth`, which the bench may not import).
Simulated data only.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from surgr1.ontology.errors import SurgR1Error

Box = tuple[float, float, float, float]
Key = tuple[str, str, int]
"""(dataset, video, frame)"""


class TruthError(SurgR1Error):
    """A truth folder or file that cannot be read."""


@dataclass(frozen=True)
class SeenInstrument:
    """An instrument whose working end one can see; `box` in pixels of the stored picture. `verb` and `target`
    are None where the simulation gives instruments no deeds.
    """

    tool: str
    box: Box
    verb: str | None
    target: str | None


@dataclass(frozen=True)
class TruthRow:
    """What one stored frame shows. Fields as in `simulator.truth.TRUTH_SCHEMA`; `tissues` are (name, box),
    `state` the anatomy's and effects' fields of `simulator.scene` and `clips_seen`.
    """

    dataset: str
    centre: str
    procedure: str
    video: str
    frame: int
    seconds: float
    width: int
    height: int
    instruments: tuple[SeenInstrument, ...]
    tissues: tuple[tuple[str, Box], ...]
    phase: str | None
    step: str | None
    action: str | None
    cvs: tuple[bool, bool, bool] | None
    state: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.dataset, self.video, self.frame

    @property
    def acts(self) -> bool:
        """Whether the simulation of this procedure says what instruments do."""
        return self.procedure == "laparoscopic cholecystectomy"

    def boxes(self, name: str) -> list[Box]:
        """Boxes of every visible instrument or tissue of that name."""
        return [i.box for i in self.instruments if i.tool == name] + [b for n, b in self.tissues if n == name]

    def shows(self, name: str) -> bool:
        return bool(self.boxes(name))

    def number(self, field: str) -> float:
        """A field of the state; 0 where this procedure's anatomy has no such field."""
        return float(self.state.get(field, 0))

    def does(self, verb: str, target: str = "") -> bool:
        """Whether a visible instrument does this."""
        return any(i.verb == verb and target in ("", i.target) for i in self.instruments)


def read_truth(folder: Path) -> dict[Key, TruthRow]:
    """Every row of every `*.parquet` in a world's truth folder, by (dataset, video, frame). Raises
    TruthError.
    """
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise TruthError(f"{folder}: no truth files; simulate again, <sim>/truth/ is written with the trees")
    found: dict[Key, TruthRow] = {}
    for path in paths:
        try:
            rows = [_row(raw) for raw in pq.read_table(path).to_pylist()]
        except (OSError, pa.ArrowException, TypeError, KeyError, ValueError) as error:
            raise TruthError(
                f"{path}: not a truth file of this version: {error!r}; simulate again"
            ) from error
        found |= {row.key: row for row in rows}
    return found


def _row(raw: dict[str, Any]) -> TruthRow:
    instruments = tuple(
        SeenInstrument(i["tool"], _box(i["box"]), i["verb"], i["target"]) for i in raw.pop("instruments")
    )
    tissues = tuple((t["name"], _box(t["box"])) for t in raw.pop("tissues"))
    cvs, state = raw.pop("cvs"), json.loads(raw.pop("state"))
    return TruthRow(
        instruments=instruments,
        tissues=tissues,
        cvs=None if cvs is None else (cvs[0], cvs[1], cvs[2]),
        state=state,
        **raw,
    )


def _box(values: list[float]) -> Box:
    return values[0], values[1], values[2], values[3]


@dataclass(frozen=True)
class Condition:
    """When a finding holds: everything in `needs` must show, and `holds` must be true; None: the scene leaves
    it open.
    """

    needs: tuple[str, ...]
    holds: Callable[[TruthRow], bool | None]


def _is(field: str, value: str) -> Callable[[TruthRow], bool | None]:
    return lambda r: r.state.get(field) == value


def _between(low: float, high: float) -> Callable[[float], bool | None]:
    """False up to `low`, True from `high`, open between."""
    return lambda v: False if v <= low else True if v >= high else None


def _clips(r: TruthRow) -> bool | None:
    """Clips that are set but covered can neither be seen nor denied."""
    if r.number("clips_seen"):
        return True
    return None if r.number("duct_clips") + r.number("artery_clips") else False


def _uncut(r: TruthRow) -> bool:
    return not (r.number("duct_cut") or r.number("artery_cut") or r.number("detachment"))


def _being(acting: bool, ground: bool) -> bool | None:
    """ "X is being done": false without its ground; with it, open unless an instrument is seen at it."""
    return True if ground and acting else None if ground else False


def _begun(r: TruthRow) -> bool:
    """Dissection at the neck has begun and nothing is clipped or freed."""
    return r.number("fat") < 1.0 and _clips(r) is False and r.number("detachment") == 0


def _away(r: TruthRow) -> bool:
    """No instrument's centre lies on stomach or bowel."""
    organs = [*r.boxes("stomach"), *r.boxes("jejunum")]
    middles = [((i.box[0] + i.box[2]) / 2, (i.box[1] + i.box[3]) / 2) for i in r.instruments]
    return not any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for x, y in middles for b in organs)


CONDITIONS: Mapping[str, Condition] = {
    # Cholecystectomy. "Untouched" is undissected: holding it is allowed.
    "gallbladder untouched": Condition(
        ("gallbladder",), lambda r: r.number("fat") >= 1.0 and r.number("detachment") == 0
    ),
    # 16 clumps of fat are drawn at fat = 1; from half of them the neck is covered, one or none does not.
    "fat at the neck": Condition((), lambda r: _between(1 / 16, 0.5)(r.number("fat"))),
    "neck being opened": Condition(
        (), lambda r: _being(r.does("dissect") or r.does("coagulate"), _begun(r) and r.number("fat") > 0)
    ),
    # Doubtful from half open (criterion C2 met) until fully open.
    "triangle partly open": Condition(
        (),
        lambda r: (
            False if not _begun(r) or r.number("window") >= 1 else None if r.number("window") >= 0.5 else True
        ),
    ),
    # Doubtful: a few clumps left neither fill the triangle nor leave it free.
    "fat in the triangle": Condition((), lambda r: _between(1 / 16, 0.5)(r.number("fat"))),
    "triangle free of fat": Condition(
        (),
        lambda r: True if r.number("fat") < 1 / 16 else None if r.number("fat") <= 5 / 16 else False,
    ),
    "clear window": Condition(("calot triangle",), lambda r: r.number("window") >= 0.5),
    "tubes apart": Condition(
        ("cystic duct", "cystic artery"), lambda r: r.number("two_structures") >= 0.5 and _uncut(r)
    ),
    "tubes exposed": Condition(
        ("cystic duct", "cystic artery"), lambda r: r.number("two_structures") >= 0.5 and _uncut(r)
    ),
    "duct cut": Condition((), lambda r: bool(r.number("duct_cut"))),
    "artery cut": Condition((), lambda r: bool(r.number("artery_cut"))),
    # Doubtful: clips lie there and nothing is cut, but no clipper is seen: the setting may be over.
    "clips being set": Condition(
        (), lambda r: True if r.does("clip") else None if _clips(r) is not False and _uncut(r) else False
    ),
    "clips set": Condition((), _clips),
    "bed being washed": Condition(
        ("cystic plate",),
        lambda r: _being(r.does("irrigate") or r.does("aspirate"), r.number("detachment") >= 1),
    ),
    "bed empty": Condition(
        ("cystic plate",), lambda r: r.number("detachment") >= 1 and not r.shows("gallbladder")
    ),
    # A strip narrower than the criterion asks is drawn but has no mask: neither bare nor not.
    "bare bed": Condition(
        (),
        lambda r: (
            True
            if r.shows("cystic plate")
            else False
            if r.number("plate") <= 0.05 and r.number("detachment") <= 0.03
            else None
        ),
    ),
    # Doubtful: lifted a little (below criterion C3).
    "gallbladder flat on the liver": Condition(
        ("gallbladder",),
        lambda r: (
            False
            if r.number("plate") >= 0.5 or r.number("detachment")
            else True
            if r.number("plate") <= 0.05
            else None
        ),
    ),
    "gallbladder coming off": Condition(("gallbladder",), lambda r: 0.03 < r.number("detachment") < 1),
    "gallbladder free": Condition(("gallbladder",), lambda r: r.number("detachment") >= 1),
    "gallbladder gone": Condition((), lambda r: r.number("detachment") >= 1 and not r.shows("gallbladder")),
    # Pulling shows as a grasper at the bag; without one it is open.
    "bag pulled out": Condition(
        ("specimen bag",),
        lambda r: _being(
            r.does("grasp", "specimen bag") or r.does("retract", "specimen bag"),
            r.state.get("bag") == "closed",
        ),
    ),
    "open bag": Condition(("specimen bag",), _is("bag", "open")),
    "closed bag": Condition(("specimen bag",), _is("bag", "closed")),
    # Gastric bypass.
    "organs untouched": Condition(
        ("liver", "stomach", "omentum"),
        lambda r: not any(r.number(f) for f in ("staple_line", "enterotomy", "anastomosis", "omentum_split")),
    ),
    "whole upper abdomen in view": Condition(("liver", "stomach", "omentum"), _is("view", "overview")),
    "organ divided": Condition(
        (), lambda r: any(r.number(f) for f in ("staple_line", "enterotomy", "anastomosis", "omentum_split"))
    ),
    "stapler on the stomach": Condition(("linear stapler", "stomach"), _is("view", "stomach")),
    "stapler on the bowel": Condition(("linear stapler", "jejunum"), lambda r: True),
    "staple line across the stomach": Condition(("staple line", "stomach"), lambda r: True),
    "energy device on the omentum": Condition(("energy device", "omentum"), _is("view", "omentum")),
    "omentum divided": Condition(("omentum",), lambda r: r.number("omentum_split") > 0),
    "pouch and loop opened": Condition(
        ("stomach", "jejunum"),
        lambda r: r.state.get("view") == "gastrojejunal" and r.number("enterotomy") > 0.05,
    ),
    # A finished join is tested (dye), no longer made.
    "stomach and bowel joined": Condition(
        ("stomach", "jejunum"),
        lambda r: r.state.get("view") == "gastrojejunal" and r.number("anastomosis") < 1,
    ),
    "dye in the pouch": Condition(("stomach",), lambda r: r.number("dye") > 0),
    "dye used": Condition((), lambda r: r.number("dye") > 0),
    "bowel divided": Condition(("jejunum", "staple line"), lambda r: r.state.get("view") == "jejunum"),
    "gap under the mesentery being sewn": Condition(
        ("mesentery",), lambda r: _being(r.shows("needle driver"), r.state.get("view") == "petersen")
    ),
    # No needle is drawn in a bypass, only its driver: these two sentences can never be true there.
    "needle closing the space": Condition(("needle", "mesentery"), _is("view", "petersen")),
    "needle closing the slit": Condition(("needle", "mesentery"), _is("view", "mesentery")),
    "hole in the mesentery being sewn": Condition(
        ("mesentery",), lambda r: _being(r.shows("needle driver"), r.state.get("view") == "mesentery")
    ),
    "loops side by side and opened": Condition(
        ("jejunum",), lambda r: r.state.get("view") == "jejunojejunal" and r.number("enterotomy") > 0.05
    ),
    "limbs joined": Condition(("jejunum",), _is("view", "jejunojejunal")),
    "irrigator clearing the field": Condition(("irrigator", "fluid"), lambda r: True),
    "fluid washed off": Condition(("fluid",), lambda r: _being(r.shows("irrigator"), True)),
    "drain in the field": Condition(("drain",), lambda r: True),
    # One frame cannot show leaving.
    "instruments leaving": Condition((), lambda r: None),
    # No retractor is ever drawn.
    "retractor gone": Condition((), lambda r: True),
    # The strands of "other intervention" are not drawn: never true.
    "strands to the wall cut": Condition(("adhesion", "scissors"), lambda r: True),
    "work away from the organs": Condition((), lambda r: _away(r) if r.instruments else None),
    # Prostatectomy. The actions say who holds the needle: its driver in these four.
    "needle handled": Condition(("needle",), lambda r: _held(r) or (None if r.action else False)),
    "field only held or cleaned": Condition(
        (), lambda r: not r.shows("needle") and not r.shows("needle driver") and not r.shows("scissors")
    ),
    "needle free": Condition(("needle",), lambda r: not _held(r) and r.number("needle_in_tissue") == 0),
    "driver reaching for the needle": Condition(
        ("needle driver", "needle"), lambda r: r.action == "picking up the needle"
    ),
    "needle held": Condition(("needle", "needle driver"), lambda r: _held(r)),
    "tip at the tissue": Condition(("needle",), lambda r: r.action == "positioning the needle tip"),
    "needle in tissue": Condition(("needle",), lambda r: r.number("needle_in_tissue") > 0),
    "tip out": Condition(("needle",), lambda r: bool(r.number("needle_emerged"))),
    "thread taut": Condition(("thread",), lambda r: r.number("thread_tension") > 0.5),
    "thread wound into loops": Condition(("thread",), lambda r: r.number("loops") > 0),
    "scissors on the thread": Condition(("scissors", "thread"), lambda r: True),
    "thread cut": Condition(("thread",), lambda r: bool(r.number("thread_cut"))),
    "needle carried away": Condition(("needle",), lambda r: r.action == "returning or dropping the needle"),
    # Things that are a finding by being there.
    "needle seen": Condition(("needle",), lambda r: True),
    "thread seen": Condition(("thread",), lambda r: True),
    # The renderer's own thresholds for drawing them.
    "smoke": Condition((), lambda r: r.number("smoke") > 0.03),
    "blood": Condition((), lambda r: r.number("blood") > 0.05),
}

_HELD_IN = frozenset(
    {
        "positioning the needle tip",
        "pushing the needle through the tissue",
        "pulling the needle out of the tissue",
        "returning or dropping the needle",
    }
)


def _held(r: TruthRow) -> bool:
    return r.action in _HELD_IN
