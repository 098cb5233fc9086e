"""AutoLaparo task 2 (datasets-a.md 8.1, 8.3): clips before a camera motion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre, Field, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import Split, Trial, expected, frames, save, save_text
from surgr1.simulator.writers.damage import (
    Change,
    Damage,
    add_to_column,
    cut_half,
    cut_head,
    replace_once,
    swap_columns,
    swap_lines,
    to_utf16,
    unended,
)

SCENARIO = "hysterectomy"
FOLDER = "Task 2 Laparoscope motion prediction"
_LABELS = "laparoscope_motion_label.txt"
_SEEN = (1, 9, 17, 25, 33, 41, 50, 58, 66, 75, 83, 91, 100, 108, 116, 125)
"""The adapter has these frames too: written again on purpose (see the package)."""
_PHASES = (
    "dividing ligament and peritoneum",
    "dividing uterine vessels and ligament",
    "transecting the vagina",
)
"""The real clips are all from these phases."""


def clip(operation: Operation, number: int, at: Sequence[int]) -> Operation:
    """Some frames (from 1, at 25 fps) of the clip that a number stands for: one moment of the operation, the
    camera still where it is before the motion, the instruments moving a little.
    """
    moments = [s for s in operation.scenes if s.phase in _PHASES] or list(operation.scenes)
    base = moments[number % len(moments)]
    return Operation(operation.procedure, 25.0, tuple(_later(base, (n - 1) / 25) for n in at))


def _later(scene: Scene, seconds: float) -> Scene:
    """The scene some seconds on. Raises TypeError where it is no field."""
    if not isinstance(scene.anatomy, Field):
        raise TypeError(f"a clip of {scene.procedure!r}: only fields have a camera motion")
    tools = tuple(
        replace(
            i, tip=(i.tip[0] + 0.008 * math.sin(2.1 * seconds + k), i.tip[1] + 0.01 * math.sin(1.7 * seconds))
        )
        for k, i in enumerate(scene.instruments)
    )
    still = replace(scene.anatomy, camera=0.0)
    return replace(scene, seconds=scene.seconds + seconds, anatomy=still, instruments=tools)


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`frames/NNN/KKK.jpg`, the benchmark's 16 frames as `surgr1 data frames` extracts them from
    `clips/NNN.mp4`, which is not written.
    """
    name = f"{number:03d}"
    shown = clip(operation, number, _SEEN)
    first = shown.scenes[0]
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(shown, centre):
        truth.append(frame_truth(name, _SEEN[index], scene, drawn, centre))
        save(drawn.image, root / FOLDER / "frames" / name / f"{_SEEN[index]:03d}.jpg", centre.jpeg)
        wanted.append(expected(_SEEN[index], Labels(motion=scene.motion, phase=scene.phase)))
    motions, phases = (vocabulary("autolaparo-motion", k).ids for k in ("motion", "phase"))
    return {
        "frames": len(_SEEN),
        "row": [name, motions[first.motion], phases[first.phase]],
        "truth": truth,
        "expected": wanted,
    }


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`laparoscope_motion_label.txt`, clips in ascending order."""
    rows = ["Clip\tLabel\tPhase"]
    rows += ["\t".join(map(str, videos[n]["row"])) for n in sorted(videos)]
    save_text("\n".join(rows) + "\n", root / FOLDER / _LABELS)


def _changed(row: int, column: int, value: str) -> Change:
    """A change of one cell (row 0 is the header)."""

    def change(data: bytes) -> bytes:
        cells = [r.split("\t") for r in data.decode().splitlines()]
        cells[row][column] = value
        return ("\n".join("\t".join(r) for r in cells) + "\n").encode()

    return change


TRIAL = Trial(seconds=26, train=(1, 2), val=(171,), test=(228,))
_FILE = f"{FOLDER}/{_LABELS}"
_CLIP = f"{FOLDER}/frames/001"
_FROM_ZERO = unended(add_to_column("\t", 0, -1, digits=3, head=1))
DAMAGES = (
    Damage("truncated", _FILE, cut_half, "columns|without a row"),
    Damage("wrong encoding", _FILE, to_utf16, r"label\.txt: cannot be read as UTF-8"),
    Damage("missing file", _FILE, None, "not task 2 of AutoLaparo"),
    Damage("reordered", _FILE, swap_lines(1, 2), "clip 1 after clip 2: rows are doubled or out of order"),
    Damage("duplicate id", _FILE, _changed(2, 0, "001"), "clip 1 after clip 1"),
    Damage("off-by-one frame", _FILE, _FROM_ZERO, "frames/170: no such folder"),
    Damage("swapped ids", _FILE, _changed(1, 0, "003"), "frames/003: no such folder"),
    Damage("swapped ids", _FILE, unended(swap_columns("\t", 1, 2)), r"label\.txt:1: header"),
    Damage("unknown label", _FILE, _changed(1, 1, "7"), r"label\.txt:2: motion '7' is not in 0-6"),
    Damage("malformed value", _FILE, _changed(1, 1, "Up"), "motion 'Up'"),
    Damage("malformed value", _FILE, replace_once("\t", ","), "header"),
    Damage("out of range", _FILE, _changed(1, 2, "0"), "phase '0' is not in 1-7"),
    Damage("hostile path", _FILE, _changed(1, 0, "../../001"), r"clip '\.\./\.\./001'"),
    Damage("missing picture", f"{_CLIP}/009.jpg", None, r"009\.jpg: a labelled frame has no picture"),
    Damage("broken picture", f"{_CLIP}/001.jpg", cut_head, r"001\.jpg: not a picture"),
)
