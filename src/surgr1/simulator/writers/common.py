"""What the writers share: the labelled frames of an operation, drawn, what of them is labelled, and files
saved. How the files are broken afterwards stands in `damage`.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.corpora.schema import Labels
from surgr1.simulator.canvas import Box
from surgr1.simulator.operations import Operation
from surgr1.simulator.pen import SHAFT
from surgr1.simulator.render import FIRST_INSTRUMENT, Rendered, render
from surgr1.simulator.scene import Centre, Instrument, Scene

NOTICE = "Simulated data made by surgr1. No patient, no real operation. Not for clinical use.\n"
Split = Mapping[str, tuple[int, ...]]
"""Role (train, val, test) -> video numbers, for layouts whose tree states its split."""
Seen = list[tuple[Instrument, Box]]
"""The instruments one can see, with the boxes of their working ends."""
Mask = NDArray[np.bool_]
"""(height, width)."""
_Label = TypeVar("_Label", bound=Hashable)


class Shown(NamedTuple):
    """An instrument of which a pixel shows: its working end, its shaft, and the working end's box, None where
    too little of it is in view.
    """

    instrument: Instrument
    end: Mask
    shaft: Mask
    box: Box | None

    @property
    def whole(self) -> Mask:
        """Working end and shaft."""
        return self.end | self.shaft


def frames(operation: Operation, centre: Centre) -> Iterator[tuple[int, Scene, Rendered, Seen]]:
    """(index, scene, picture, instruments one can see) of every labelled frame."""
    for index, scene in enumerate(operation.scenes):
        drawn = render(scene, centre)
        seen = [
            (i, b) for i, b in zip(scene.instruments, drawn.instrument_boxes, strict=True) if b is not None
        ]
        yield index, scene, drawn, seen


def shown_instruments(scene: Scene, drawn: Rendered) -> list[Shown]:
    """The instruments of a drawn scene of which a pixel shows, in the scene's order."""
    found = []
    for k, (instrument, box) in enumerate(zip(scene.instruments, drawn.instrument_boxes, strict=True)):
        end = drawn.ids == FIRST_INSTRUMENT + k
        shaft = drawn.ids == FIRST_INSTRUMENT + k + SHAFT
        if end.any() or shaft.any():
            found.append(Shown(instrument, end, shaft, box))
    return found


def merged(masks: Iterable[tuple[str, Mask]]) -> dict[str, Mask]:
    """One mask per name, where datasets do not separate instances; names in the order they come first."""
    found: dict[str, Mask] = {}
    for name, mask in masks:
        found[name] = found[name] | mask if name in found else mask
    return found


def xywh(box: Box) -> tuple[float, float, float, float]:
    """x, y, width, height, as COCO files have boxes."""
    return box[0], box[1], box[2] - box[0], box[3] - box[1]


def shares(box: Box, width: int, height: int) -> list[float]:
    """x, y, width, height as shares of a picture's size, five decimals, as CholecT50 has boxes."""
    x, y, w, h = xywh(box)
    return [round(v, 5) for v in (x / width, y / height, w / width, h / height)]


def quadrant(box: Box, size: tuple[int, int]) -> tuple[str, str]:
    """("top" or "bottom", "left" or "right"): where a box's middle lies in a picture of `size` (width,
    height).
    """
    return (
        "top" if box[1] + box[3] < size[1] else "bottom",
        "left" if box[0] + box[2] < size[0] else "right",
    )


def runs(labels: Iterable[_Label]) -> list[tuple[_Label, int, int]]:
    """Stretches of equal labels: (label, first place, place after the last)."""
    found, start = [], 0
    for label, members in groupby(labels):
        stop = start + sum(1 for _ in members)
        found.append((label, start, stop))
        start = stop
    return found


def pictures_root(root: Path) -> Path:
    """Where the pictures of a layout without own ones are written, in the tree of the dataset they are from:
    beside the layout's tree.
    """
    return root.parent / f"{root.name}-pictures"


def save_text(text: str, path: Path) -> None:
    """Write a text file (UTF-8)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def save(pixels: NDArray[np.uint8], path: Path, quality: int | None = None) -> None:
    """Write a picture, as JPEG where a quality is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if quality is None:
        picture.save(path, compress_level=1)
    else:
        picture.save(path, quality=quality)


def expected(
    frame: int, labels: Labels, *, tool_count: int | None = None, questions: tuple[tuple[str, str], ...] = ()
) -> dict[str, Any]:
    """What an adapter must read of one stored frame, from the scene, in canonical names (JSON values).
    Fields that are None are not compared.
    """
    return {
        "frame": frame,
        "labels": asdict(labels),
        "tool_count": tool_count,
        "questions": [list(q) for q in questions],
    }


@dataclass(frozen=True)
class Trial:
    """The small tree that `simulator.verify` writes: video numbers by role and seconds per operation."""

    seconds: int
    train: tuple[int, ...]
    val: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
