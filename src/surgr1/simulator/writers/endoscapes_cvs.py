"""Endoscapes2023's native tree with a picture every second (datasets-a.md 4.1, 4.2): between keyframes the
label of the last keyframe is repeated.
"""

from pathlib import Path
from typing import Any

from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.writers.common import Split, Trial
from surgr1.simulator.writers.endoscapes import Sampling, damages_of, finish, write_sampled

__all__ = ["DAMAGES", "SCENARIO", "TRIAL", "finish", "write_video"]
SCENARIO = "laparoscopic cholecystectomy"


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`<split>/<vid>_<25-fps frame>.jpg` every second; keyframes every 5, boxes every 30 seconds."""
    found = write_sampled(root, number, operation, centre, split, Sampling(seconds=1, keyframes=5, boxed=30))
    for row in found["expected"]:
        # This layout has labels of the critical view alone.
        row["labels"] |= {"tissues": None, "boxes": None}
    return found


TRIAL = Trial(seconds=40, train=(11,), val=(122,), test=(162,))
DAMAGES = damages_of("train/annotation_coco_vid.json", "train/11_*.jpg")
