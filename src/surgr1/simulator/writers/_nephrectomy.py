"""What the EndoVis writers share: boxes and wrists of masks, and question lines."""

import numpy as np

from surgr1.corpora.schema import Box
from surgr1.simulator.render import Rendered
from surgr1.simulator.scene import Scene
from surgr1.simulator.writers.common import Mask, quadrant

SCENARIO = "nephrectomy"
PICTURED = (1280, 1024)
"""The size that VQLA boxes are given for. The adapters have it too: written again on purpose."""
Row = tuple[str, str, Box, str]
"""Question, native answer, box in the picture and canonical thing."""


# The boxes are found in another way here than in `corpora.masks`, which the adapters use: an independent
# witness for the round trip.


def box_of(mask: Mask) -> Box:
    """The box of all true pixels, the far edge included."""
    points = np.argwhere(mask)
    (y1, x1), (y2, x2) = points.min(axis=0), points.max(axis=0)
    return float(x1), float(y1), float(x2 + 1), float(y2 + 1)


def parts_of(mask: Mask, least: int = 50) -> list[Box]:
    """The box of every connected part (8 neighbours) of at least `least` pixels."""
    from scipy import ndimage

    numbers, count = ndimage.label(mask, structure=[[1, 1, 1]] * 3)
    parts = [numbers == n + 1 for n in range(count)]
    return [box_of(p) for p in parts if p.sum() >= least]


def wrist_of(shaft: Mask, end: Mask) -> Mask:
    """The working end's pixels next to the shaft (up to 4 away)."""
    from scipy import ndimage

    wrist: Mask = ndimage.binary_dilation(shaft, structure=np.ones((3, 3)), iterations=4) & end
    return wrist


def question_lines(
    scene: Scene, drawn: Rendered, tools: dict[str, str], verbs: dict[str, str], *, organ: bool
) -> list[Row] | None:
    """The questions of a frame; None for a frame that the dataset's words
    cannot describe: a tool it has no name for, or one that is there twice. `tools` and `verbs` map canonical
    to native names.
    """
    seen = [(i, b) for i, b in zip(scene.instruments, drawn.instrument_boxes, strict=True) if b is not None]
    names = [i.tool for i, _ in seen]
    if len(set(names)) < len(names) or not set(names) <= tools.keys():
        return None
    size = (drawn.image.shape[1], drawn.image.shape[0])
    lines: list[Row] = []
    if organ:
        kidney = [b for n, b in drawn.tissue_boxes.items() if "kidney" in n] or [
            (0.0, 0.0, float(size[0]), float(size[1]))
        ]
        around = (
            min(b[0] for b in kidney),
            min(b[1] for b in kidney),
            max(b[2] for b in kidney),
            max(b[3] for b in kidney),
        )
        lines.append(("What organ is being operated?", "kidney", around, "kidney"))
    for instrument, box in seen:
        verb = "idle" if instrument.verb == "null verb" else instrument.verb
        question = f"What is the state of {tools[instrument.tool]}?"
        lines.append((question, verbs[verb], box, instrument.tool))
    for instrument, box in seen:
        question = f"Where is {tools[instrument.tool]} located?"
        height, side = quadrant(box, size)
        lines.append((question, f"{side}-{height}", box, instrument.tool))
    return lines


def vqla_corners(box: Box, size: tuple[int, int]) -> str:
    """Four whole numbers, 1-based corners on a frame of 1280 x 1024."""
    sx, sy = PICTURED[0] / size[0], PICTURED[1] / size[1]
    x1, y1, x2, y2 = box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy
    return f"{round(x1) + 1}, {round(y1) + 1}, {round(x2)}, {round(y2)}"
