"""SAR-RARP50's native tree (datasets-b.md 1.1-1.3)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.masks import component_boxes, mask_box
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import Rendered
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    Shown,
    Split,
    Trial,
    expected,
    frames,
    merged,
    runs,
    save,
    save_text,
    shown_instruments,
)
from surgr1.simulator.writers.damage import (
    Damage,
    add_to_column,
    cut_half,
    cut_head,
    edit_pixels,
    replace_once,
    swap_lines,
    to_utf16,
)

SCENARIO = "robot-assisted radical prostatectomy"


def _mask(drawn: Rendered, shown: list[Shown]) -> NDArray[np.uint8]:
    """One channel, pixel value = class (datasets-b.md 1.3): 1 clasper (drawn in one with the wrist, 2), 3
    shaft, 4 needle, 5 thread, 6 suction tool. The adapter has these numbers too: written again on purpose.
    """
    classes = np.zeros(drawn.ids.shape, np.uint8)
    classes[drawn.ids == IDS["needle"]], classes[drawn.ids == IDS["thread"]] = 4, 5
    for s in shown:
        classes[s.end], classes[s.shaft] = (6, 6) if s.instrument.tool == "suction" else (1, 3)
    return classes


def _boxes(drawn: Rendered, shown: list[Shown]) -> tuple[LabelledBox, ...]:
    """What the masks show: robotic instruments with their shafts as far as they hang together, suction the
    same, needle and thread whole.
    """
    areas = merged(
        ("suction" if s.instrument.tool == "suction" else "robotic instrument", s.whole) for s in shown
    )
    found = [LabelledBox(name, box) for name, area in areas.items() for box in component_boxes(area)]
    for name, organ in (("suturing needle", "needle"), ("thread", "thread")):
        thing = drawn.ids == IDS[organ]
        box = mask_box(thing)
        if box is not None and thing.sum() >= 50:
            found.append(LabelledBox(name, box))
    return tuple(found)


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
        boxes = None
        if index % 10 == 0:
            shown = shown_instruments(scene, drawn)
            save(_mask(drawn, shown), folder / "segmentation" / f"{6 * index:09d}.png")
            boxes = _boxes(drawn, shown)
        wanted.append(expected(6 * index, Labels(action=scene.action, boxes=boxes)))
        labels.append(ids[scene.action])
    save_text("".join(f"{6 * i:09d},{a}\n" for i, a in enumerate(labels)), folder / "action_discrete.txt")
    stretches = (f"{6 * start},{6 * (stop - 1)},{action}\n" for action, start, stop in runs(labels))
    save_text("".join(stretches), folder / "action_continuous.txt")
    return {"frames": len(labels), "truth": truth, "expected": wanted}


TRIAL = Trial(seconds=41, train=(1, 2), test=(41,))
_LABELS = "video_01/action_discrete.txt"
_MASK = "video_01/segmentation/000000060.png"
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"action_discrete\.txt:\d+: expected|masks .* the actions end"),
    Damage("truncated", _MASK, cut_half, r"000000060\.png: not a whole mask"),
    Damage("wrong encoding", _LABELS, to_utf16, r"action_discrete\.txt: cannot be read as UTF-8"),
    Damage("missing file", "video_01/segmentation/000000120.png", None, "must have a mask has none"),
    Damage("missing picture", "video_01/rgb/000000012.png", None, "a labelled frame has no picture"),
    Damage("broken picture", "video_01/rgb/000000000.png", cut_head, "not a picture"),
    Damage("duplicate id", _LABELS, replace_once("000000006,", "000000000,"), "does not follow 0"),
    Damage("reordered", _LABELS, swap_lines(3, 4), "does not follow"),
    Damage("off-by-one frame", _LABELS, add_to_column(",", 0, 1, digits=9), "frame 1 is not a multiple of 6"),
    Damage("swapped ids", _LABELS, add_to_column(",", 1, 1), "1-based variant"),
    Damage("out of range", _LABELS, replace_once("000000012,", "000000012,9"), "is not in 0-7"),
    Damage("malformed value", _LABELS, replace_once("000000012,", "000000012;"), "expected `frame,class`"),
    Damage("unknown label", _MASK, edit_pixels(lambda mask: np.full_like(mask, 11)), "mask value 11"),
    Damage("hostile file", _MASK, edit_pixels(lambda mask: 0 * mask[:, :100]), "a mask of 100 x 252"),
)
