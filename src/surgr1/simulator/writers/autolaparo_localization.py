"""AutoLaparo task 3 (datasets-a.md 8.1, 8.4): six frames of a clip with masks of instruments and uterus."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.masks import component_boxes, mask_box
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import Rendered
from surgr1.simulator.scene import Centre, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.autolaparo_motion import clip
from surgr1.simulator.writers.common import Split, Trial, expected, frames, merged, save, shown_instruments
from surgr1.simulator.writers.damage import Damage, cut_head, edit_picture, edit_pixels, promise_pixels

SCENARIO = "hysterectomy"
FOLDER = "Task 3 Instrument and key anatomy segmentation"
_SEEN = (1, 25, 50, 75, 100, 125)
"""The adapter has these frames too: written again on purpose (see the package)."""
_GREY = {
    "grasping forceps": (20, 40),
    "ligasure": (60, 80),
    "dissecting and grasping forceps": (100, 120),
    "electric hook": (140, 160),
}
"""Manipulator and shaft, written out where the adapter counts in steps of 20: on purpose, as above."""
_UTERUS = 180


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`imgs/XXXYYY.jpg` and `masks/XXXYYY.png` (RGB with equal channels) of clip XXX at frames 1, 25, 50, 75,
    100, 125: the clip that `autolaparo_motion` writes under the same number.
    """
    name = f"{number:03d}"
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(clip(operation, number, _SEEN), centre):
        frame = _SEEN[index]
        truth.append(frame_truth(name, frame, scene, drawn, centre))
        save(drawn.image, root / FOLDER / "imgs" / f"{name}{frame:03d}.jpg", centre.jpeg)
        save(_mask(scene, drawn), root / FOLDER / "masks" / f"{name}{frame:03d}.png")
        wanted.append(expected(frame, _labels(scene, drawn)))
    return {"frames": len(_SEEN), "truth": truth, "expected": wanted}


def _mask(scene: Scene, drawn: Rendered) -> NDArray[np.uint8]:
    """(height, width, 3) grey levels of what is drawn; everything else is background."""
    grey = np.where(drawn.ids == IDS["uterus"], _UTERUS, 0).astype(np.uint8)
    for s in shown_instruments(scene, drawn):
        grey[s.end], grey[s.shaft] = _GREY[s.instrument.tool]
    return np.repeat(grey[..., None], 3, axis=2)


def _labels(scene: Scene, drawn: Rendered) -> Labels:
    """What must be read: boxes of the pieces that show of every kind of instrument and of its two parts."""
    shown = shown_instruments(scene, drawn)
    areas = merged(
        (s.instrument.tool + part, area)
        for s in shown
        for part, area in (("", s.whole), (" manipulator", s.end), (" shaft", s.shaft))
    )
    boxes = [LabelledBox(name, b) for name, area in areas.items() for b in component_boxes(area)]
    tools = {s.instrument.tool for s in shown}
    uterus = mask_box(drawn.ids == IDS["uterus"])
    if uterus:
        boxes.append(LabelledBox("uterus", uterus))
    return Labels(tools=tuple(tools), tissues=("uterus",) if uterus else (), boxes=tuple(boxes))


def _one_red(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = pixels.copy()
    pixels[0, 0, 0] += 20
    return pixels


TRIAL = Trial(seconds=26, train=(1, 2), val=(171,), test=(228,))
_MASK = f"{FOLDER}/masks/001001.png"
_PICTURE = f"{FOLDER}/imgs/001025.jpg"
_COLOURS = r"001001\.png: a colour mask"
_LEVELS = r"001001\.png: grey levels"
DAMAGES = (
    Damage("truncated", _MASK, lambda data: data[: len(data) * 2 // 3], r"001001\.png: not a whole mask"),
    Damage("broken picture", _MASK, cut_head, r"001001\.png: not a whole mask"),
    Damage("broken picture", _PICTURE, cut_head, r"001025\.jpg: not a picture"),
    Damage("wrong encoding", _MASK, edit_picture(lambda p: p, "JPEG"), f"{_COLOURS}|{_LEVELS}"),
    Damage("wrong encoding", _MASK, edit_pixels(lambda p: p[..., 0].astype(np.uint16) * 256), "uint16|int32"),
    Damage("missing file", _MASK, None, r"001001\.png: no such mask"),
    Damage("missing picture", _PICTURE, None, r"001025\.jpg: a labelled frame has no picture"),
    Damage(
        "unknown label", _MASK, edit_pixels(lambda p: np.where(p == 180, 200, p).astype(np.uint8)), _LEVELS
    ),
    Damage("swapped ids", _MASK, edit_pixels(lambda p: p // 20), rf"{_LEVELS} \[1|{_LEVELS} \[2"),
    Damage("malformed value", _MASK, edit_pixels(_one_red), _COLOURS),
    Damage("out of range", _MASK, edit_pixels(lambda p: p[:-10]), r"001001\.png: a mask of \(448, 242\)"),
    Damage(
        "hostile file",
        _MASK,
        promise_pixels(50_000),
        r"001001\.png: 50000 x 50000|001001\.png: not a whole mask",
    ),
)
