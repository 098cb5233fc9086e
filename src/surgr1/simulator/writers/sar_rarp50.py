"""SAR-RARP50's native tree (datasets-b.md 1.1-1.3)."""

import io
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.corpora.masks import component_boxes, mask_box
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.instruments import SHAFT
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import FIRST_INSTRUMENT, Rendered
from surgr1.simulator.scene import Centre, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    Damage,
    Split,
    Trial,
    cut_half,
    expected,
    frames,
    replace_once,
    save,
    swap_lines,
    to_utf16,
)

SCENARIO = "robot-assisted radical prostatectomy"


def _mask(drawn: Rendered, scene: Scene) -> NDArray[np.uint8]:
    """One channel, pixel value = class (datasets-b.md 1.3): 1 clasper (drawn in one with the wrist, 2), 3
    shaft, 4 needle, 5 thread, 6 suction tool.
    """
    classes = np.zeros(256, np.uint8)
    classes[IDS["needle"]], classes[IDS["thread"]] = 4, 5
    for k, instrument in enumerate(scene.instruments):
        tip = FIRST_INSTRUMENT + k
        classes[[tip, tip + SHAFT]] = (6, 6) if instrument.tool == "suction" else (1, 3)
    return classes[drawn.ids]


def _boxes(drawn: Rendered, scene: Scene) -> tuple[LabelledBox, ...]:
    """What the masks show: robotic instruments with their shafts as far as they hang together, suction the
    same, needle and thread whole.
    """
    numbers: dict[str, list[int]] = {"robotic instrument": [], "suction": []}
    for k, instrument in enumerate(scene.instruments):
        tip = FIRST_INSTRUMENT + k
        numbers["suction" if instrument.tool == "suction" else "robotic instrument"] += [tip, tip + SHAFT]
    found = [
        LabelledBox(name, box)
        for name, ids in numbers.items()
        for box in component_boxes(np.isin(drawn.ids, ids))
    ]
    for name, organ in (("suturing needle", "needle"), ("thread", "thread")):
        shown = drawn.ids == IDS[organ]
        box = mask_box(shown)
        if box is not None and shown.sum() >= 50:
            found.append(LabelledBox(name, box))
    return tuple(found)


def _png(mask: NDArray[np.uint8]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(mask).save(data, format="PNG")
    return data.getvalue()


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`video_NN/rgb/<60-fps frame>.png` every 6th frame, `segmentation/<frame>.png` every 60th,
    `action_discrete.txt`, `action_continuous.txt` (datasets-b.md 1.1, 1.2).

    The frames are as the challenge's toolkit unpacks them from `video_left.avi`, which is not written.
    """
    folder = root / f"video_{number:02d}"
    ids = vocabulary("sar-rarp50", "action").ids
    labels: list[int] = []
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        truth.append(frame_truth(folder.name, 6 * index, scene, drawn, centre))
        save(drawn.image, folder / "rgb" / f"{6 * index:09d}.png")
        if index % 10 == 0:
            save(_mask(drawn, scene), folder / "segmentation" / f"{6 * index:09d}.png")
        boxes = _boxes(drawn, scene) if index % 10 == 0 else None
        wanted.append(expected(6 * index, Labels(action=scene.action, boxes=boxes)))
        labels.append(ids[scene.action])
    (folder / "action_discrete.txt").write_text(
        "".join(f"{6 * i:09d},{a}\n" for i, a in enumerate(labels)), encoding="utf-8"
    )
    runs, start = [], 0
    for action, members in groupby(labels):
        length = len(list(members))
        runs.append(f"{6 * start},{6 * (start + length - 1)},{action}\n")
        start += length
    (folder / "action_continuous.txt").write_text("".join(runs), encoding="utf-8")
    return {"frames": len(labels), "truth": truth, "expected": wanted}


def _one_based(data: bytes) -> bytes:
    """Classes as the dataset's README numbers them."""
    lines = (line.split(",") for line in data.decode().splitlines())
    return "".join(f"{frame},{int(action) + 1}\n" for frame, action in lines).encode()


def _shifted(data: bytes) -> bytes:
    """Frames counted from 1."""
    lines = (line.split(",") for line in data.decode().splitlines())
    return "".join(f"{int(frame) + 1:09d},{action}\n" for frame, action in lines).encode()


TRIAL = Trial(seconds=41, train=(1, 2), test=(41,))
_LABELS = "video_01/action_discrete.txt"
_MASK = "video_01/segmentation/000000060.png"
DAMAGES: tuple[Damage, ...] = (
    Damage("truncated", _LABELS, cut_half, r"action_discrete\.txt:\d+: expected|masks .* the actions end"),
    Damage("truncated", _MASK, cut_half, r"000000060\.png: not a whole mask"),
    Damage("wrong encoding", _LABELS, to_utf16, r"action_discrete\.txt: cannot be read as UTF-8"),
    Damage("missing file", "video_01/segmentation/000000120.png", None, "must have a mask has none"),
    Damage("missing picture", "video_01/rgb/000000012.png", None, "a labelled frame has no picture"),
    Damage("broken picture", "video_01/rgb/000000000.png", lambda data: data[:20], "not a picture"),
    Damage("duplicate id", _LABELS, replace_once("000000006,", "000000000,"), "does not follow 0"),
    Damage("reordered", _LABELS, swap_lines(3, 4), "does not follow"),
    Damage("off-by-one frame", _LABELS, _shifted, "frame 1 is not a multiple of 6"),
    Damage("swapped ids", _LABELS, _one_based, "1-based variant"),
    Damage("out of range", _LABELS, replace_once("000000012,", "000000012,9"), "is not in 0-7"),
    Damage("malformed value", _LABELS, replace_once("000000012,", "000000012;"), "expected `frame,class`"),
    Damage("unknown label", _MASK, lambda data: _png(np.full((252, 448), 11, np.uint8)), "mask value 11"),
    Damage("hostile file", _MASK, lambda data: _png(np.zeros((252, 100), np.uint8)), "a mask of 100 x 252"),
)
