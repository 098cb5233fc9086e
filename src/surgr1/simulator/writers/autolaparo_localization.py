"""AutoLaparo task 3 (datasets-a.md 8.1, 8.4): six frames of a clip with masks of instruments and uterus."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.corpora.masks import component_boxes, mask_box
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.instruments import SHAFT
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import FIRST_INSTRUMENT, Rendered
from surgr1.simulator.scene import Centre, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.autolaparo_motion import clip
from surgr1.simulator.writers.common import Damage, Split, Trial, expected, frames, save

SCENARIO = "hysterectomy"
FOLDER = "Task 3 Instrument and key anatomy segmentation"
_SEEN = (1, 25, 50, 75, 100, 125)
_GREY = {
    "grasping forceps": (20, 40),
    "ligasure": (60, 80),
    "dissecting and grasping forceps": (100, 120),
    "electric hook": (140, 160),
}
"""Manipulator and shaft."""
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
    grey = np.zeros(256, np.uint8)
    grey[IDS["uterus"]] = _UTERUS
    for k, instrument in enumerate(scene.instruments):
        grey[[FIRST_INSTRUMENT + k, FIRST_INSTRUMENT + k + SHAFT]] = _GREY[instrument.tool]
    return np.repeat(grey[drawn.ids][..., None], 3, axis=2)


def _labels(scene: Scene, drawn: Rendered) -> Labels:
    """What must be read: boxes of the pieces that show of every kind of instrument and of its two parts."""
    boxes: list[LabelledBox] = []
    present = []
    for tool in _GREY:
        ids = [FIRST_INSTRUMENT + k for k, i in enumerate(scene.instruments) if i.tool == tool]
        ends, shafts = np.isin(drawn.ids, ids), np.isin(drawn.ids, [i + SHAFT for i in ids])
        if ends.any() or shafts.any():
            present.append(tool)
        for part, area in (("", ends | shafts), (" manipulator", ends), (" shaft", shafts)):
            boxes += [LabelledBox(tool + part, b) for b in component_boxes(area)]
    uterus = mask_box(drawn.ids == IDS["uterus"])
    if uterus:
        boxes.append(LabelledBox("uterus", uterus))
    return Labels(tools=tuple(present), tissues=("uterus",) if uterus else (), boxes=tuple(boxes))


def _repainted(
    change: Callable[[NDArray[np.uint8]], NDArray[Any]], kind: str = "PNG"
) -> Callable[[bytes], bytes]:
    """A change of a mask's pixels (height, width, 3)."""

    def changed(data: bytes) -> bytes:
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        out = io.BytesIO()
        Image.fromarray(change(pixels)).save(out, format=kind)
        return out.getvalue()

    return changed


def _one_red(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = pixels.copy()
    pixels[0, 0, 0] += 20
    return pixels


def _huge(data: bytes) -> bytes:
    """A header that promises 50,000 x 50,000 pixels."""
    size = (50_000).to_bytes(4, "big")
    head = data[12:16] + size + size + data[24:29]
    return data[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data[33:]


TRIAL = Trial(seconds=26, train=(1, 2), val=(171,), test=(228,))
_MASK = f"{FOLDER}/masks/001001.png"
_PICTURE = f"{FOLDER}/imgs/001025.jpg"
_COLOURS = r"001001\.png: a colour mask"
_LEVELS = r"001001\.png: grey levels"
DAMAGES = (
    Damage("truncated", _MASK, lambda data: data[: len(data) * 2 // 3], r"001001\.png: not a whole mask"),
    Damage("broken picture", _MASK, lambda data: data[:20], r"001001\.png: not a whole mask"),
    Damage("broken picture", _PICTURE, lambda data: data[:20], r"001025\.jpg: not a picture"),
    Damage("wrong encoding", _MASK, _repainted(lambda p: p, "JPEG"), f"{_COLOURS}|{_LEVELS}"),
    Damage("wrong encoding", _MASK, _repainted(lambda p: p[..., 0].astype(np.uint16) * 256), "uint16|int32"),
    Damage("missing file", _MASK, None, r"001001\.png: no such mask"),
    Damage("missing picture", _PICTURE, None, r"001025\.jpg: a labelled frame has no picture"),
    Damage(
        "unknown label", _MASK, _repainted(lambda p: np.where(p == 180, 200, p).astype(np.uint8)), _LEVELS
    ),
    Damage("swapped ids", _MASK, _repainted(lambda p: p // 20), rf"{_LEVELS} \[1|{_LEVELS} \[2"),
    Damage("malformed value", _MASK, _repainted(_one_red), _COLOURS),
    Damage("out of range", _MASK, _repainted(lambda p: p[:-10]), r"001001\.png: a mask of \(448, 242\)"),
    Damage("hostile file", _MASK, _huge, r"001001\.png: 50000 x 50000|001001\.png: not a whole mask"),
)
