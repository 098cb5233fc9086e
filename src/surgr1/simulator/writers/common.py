"""What every writer needs: the labelled frames of an operation, drawn, and pictures saved."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from surgr1.corpora.schema import Labels
from surgr1.simulator.canvas import Box
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import Rendered, render
from surgr1.simulator.scene import Centre, Instrument, Scene

NOTICE = "Simulated data made by surgr1. No patient, no real operation. Not for clinical use.\n"
Split = Mapping[str, tuple[int, ...]]
"""Role (train, val, test) -> video numbers, for layouts whose tree states its split."""
Seen = list[tuple[Instrument, Box]]
"""The instruments one can see, with the boxes of their working ends."""


def frames(operation: Operation, centre: Centre) -> Iterator[tuple[int, Scene, Rendered, Seen]]:
    """(index, scene, picture, instruments one can see) of every labelled frame."""
    for index, scene in enumerate(operation.scenes):
        drawn = render(scene, centre)
        seen = [
            (i, b) for i, b in zip(scene.instruments, drawn.instrument_boxes, strict=True) if b is not None
        ]
        yield index, scene, drawn, seen


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


DamageKind = Literal[
    "truncated",
    "reordered",
    "wrong encoding",
    "missing file",
    "duplicate id",
    "off-by-one frame",
    "swapped ids",
    "unknown label",
    "malformed value",
    "out of range",
    "broken picture",
    "missing picture",
    "hostile path",
    "hostile file",
]


@dataclass(frozen=True)
class Damage:
    """One way in which a download can be broken. `file` is a glob below the root (the first match in sorted
    order is changed); `change` maps its bytes, None removes it. The adapter must raise a SurgR1Error or
    reject rows, and its text must match `message` (regular expression).
    """

    kind: DamageKind
    file: str
    change: Callable[[bytes], bytes] | None
    message: str


def replace_once(old: str, new: str) -> Callable[[bytes], bytes]:
    """A change of the first occurrence; it must occur, else nothing would be damaged."""

    def change(data: bytes) -> bytes:
        before, after = old.encode(), new.encode()
        if before not in data:
            raise ValueError(f"{old!r} does not occur")
        return data.replace(before, after, 1)

    return change


def swap_lines(first: int, second: int) -> Callable[[bytes], bytes]:
    """Exchange two lines (0-based)."""

    def change(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[first], lines[second] = lines[second], lines[first]
        return b"\n".join(lines)

    return change


def cut_half(data: bytes) -> bytes:
    """The first half of a file: a broken download."""
    return data[: len(data) // 2]


def to_utf16(data: bytes) -> bytes:
    """The text in another encoding, as a spreadsheet program may save it."""
    return data.decode("utf-8").encode("utf-16")
