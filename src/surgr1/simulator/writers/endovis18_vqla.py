"""EndoVis-18-VQLA's native tree (datasets-b.md 12.1, 12.2); its pictures are the challenge's."""

import re
from pathlib import Path
from typing import Any

from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.writers import _nephrectomy as scene_masks
from surgr1.simulator.writers.common import Split, Trial
from surgr1.simulator.writers.damage import (
    Change,
    Damage,
    append_line,
    cut_head,
    edit_cells,
    keep_lines,
    replace_once,
    to_utf16,
)
from surgr1.simulator.writers.endovis18_vqa import cut_line, exchanged_answers, other_tool, write_sequence

SCENARIO = scene_masks.SCENARIO


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`seq_N/vqla/label/frameKKK_QA.txt` with boxes for frames of 1280 x 1024; the organ's box is around all
    of the kidney in view (which one the real set has was not seen). Pictures as in EndoVis-18-VQA.
    """
    return write_sequence(
        root, number, operation, centre, layout="endovis18-vqla", place="vqla/label", boxed=True
    )


def corners_as(text: str) -> Change:
    """The first box replaced."""
    return lambda data: re.sub(rb"\|\d+, \d+, \d+, \d+", b"|" + text.encode(), data, count=1)


def without_boxes(data: bytes) -> bytes:
    """The lines of VQA, which have no box."""
    return re.sub(rb"\|\d+, \d+, \d+, \d+", b"", data)


def damages(first: str, left: str, name: str) -> tuple[Damage, ...]:
    """What can break the question files `first` and the pictures in `left` (file name pattern `name`)."""
    return (
        Damage("truncated", first, cut_line, r"\.txt: line \d+: (expected question|.* is not four)"),
        Damage("truncated", first, keep_lines(-1), "only one of state and place is asked of"),
        Damage("reordered", first, edit_cells("|", reversed), "unknown question"),
        Damage("wrong encoding", first, to_utf16, r"\.txt: cannot be read as UTF-8"),
        Damage("duplicate id", first, append_line(-1), "stands twice"),
        Damage("swapped ids", first, exchanged_answers, "is no answer to 'What is the state of"),
        Damage("swapped ids", first, other_tool, "only one of state and place is asked of"),
        Damage(
            "unknown label", first, replace_once("What is the state of ", "What is the state of big_"), "big_"
        ),
        Damage("malformed value", first, without_boxes, r"\(VQLA\), found"),
        Damage("malformed value", first, corners_as("nan, 1, 20, 30"), "is not four whole numbers"),
        Damage("malformed value", first, corners_as("1, 2, 30"), "is not four whole numbers"),
        Damage("out of range", first, corners_as("1, 2, 5000, 30"), "leaves the picture of 1280 x 1024"),
        Damage("out of range", first, corners_as("7, 9, 6, 8000"), "leaves the picture of 1280 x 1024"),
        Damage("missing picture", f"{left}/{name}", None, "a labelled frame has no picture"),
        Damage("broken picture", f"{left}/{name}", cut_head, "not a picture"),
        Damage("hostile file", first, lambda data: data + b"\x00" * 9, "NUL bytes"),
    )


TRIAL = Trial(seconds=16, train=(2, 15), test=(5,))
DAMAGES = damages(
    "seq_2/vqla/label/frame*_QA.txt",
    "*-pictures/miccai_challenge_2018_release_1/seq_2/left_frames",
    "frame00[0-9].png",
)
