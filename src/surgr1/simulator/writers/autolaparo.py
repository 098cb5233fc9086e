"""AutoLaparo task 1 (datasets-a.md 8.1, 8.2)."""

from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import Split, Trial, expected, frames, save, save_text
from surgr1.simulator.writers.damage import (
    Damage,
    add_to_column,
    cut_half,
    cut_head,
    keep_lines,
    replace_once,
    swap_columns,
    swap_lines,
    to_utf16,
    unended,
)

SCENARIO = "hysterectomy"
FOLDER = "Task 1 Surgical workflow recognition"


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`labels/label_NN.txt` (frame and phase from 1, 1 fps) and `frames/NN/KKKK.jpg`, as `surgr1 data frames`
    extracts them from `videos/NN.mp4`, which is not written.
    """
    name = f"{number:02d}"
    phases = vocabulary("autolaparo", "phase").ids
    rows, truth, wanted = ["Frame\tPhase"], [], []
    for index, scene, drawn, _ in frames(operation, centre):
        truth.append(frame_truth(name, index + 1, scene, drawn, centre))
        save(drawn.image, root / FOLDER / "frames" / name / f"{index + 1:04d}.jpg", centre.jpeg)
        rows.append(f"{index + 1}\t{phases[scene.phase]}")
        wanted.append(expected(index + 1, Labels(phase=scene.phase)))
    save_text("\n".join(rows) + "\n", root / FOLDER / "labels" / f"label_{name}.txt")
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


TRIAL = Trial(seconds=24, train=(1,), val=(11,), test=(15,))
_LABELS = f"{FOLDER}/labels/label_01.txt"
_FROM_ZERO = unended(add_to_column("\t", 0, -1, head=1))
_PHASES_FROM_ZERO = unended(add_to_column("\t", 1, -1, head=1))
"""As many loaders count."""
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"label_01\.txt:\d+: (phase ''|1 columns)"),
    Damage("truncated", _LABELS, keep_lines(10), r"label_01\.txt: ends at frame 9, but there are 15 more"),
    Damage("wrong encoding", _LABELS, to_utf16, r"label_01\.txt: cannot be read as UTF-8"),
    Damage("missing file", _LABELS, None, "frames/01: pictures without labels/label_01"),
    Damage("reordered", _LABELS, swap_lines(5, 9), r"label_01\.txt:6: frame 9 follows 4"),
    Damage("duplicate id", _LABELS, replace_once("\n5\t", "\n4\t"), r"label_01\.txt:6: frame 4 follows 4"),
    Damage("off-by-one frame", _LABELS, _FROM_ZERO, r"label_01\.txt:2: frame '0'"),
    Damage("swapped ids", _LABELS, _PHASES_FROM_ZERO, r"phase '0' is not in 1-7"),
    Damage("swapped ids", _LABELS, unended(swap_columns("\t", 0, 1)), r"label_01\.txt:1: header"),
    Damage("unknown label", _LABELS, replace_once("\n3\t", "\n3\t9"), r"label_01\.txt:4: phase '9\d'"),
    Damage("malformed value", _LABELS, replace_once("\n3\t", "\nthree\t"), r"frame 'three'"),
    Damage("malformed value", _LABELS, replace_once("\n3\t", "\n3,"), r"label_01\.txt:4: 1 columns"),
    Damage("out of range", _LABELS, replace_once("\n24\t", "\n2400000\t"), r"frame '2400000'"),
    Damage("missing picture", f"{FOLDER}/frames/01/0004.jpg", None, r"0004\.jpg: a labelled frame has no"),
    Damage(
        "broken picture",
        f"{FOLDER}/frames/01/0001.jpg",
        cut_head,
        r"0001\.jpg: not a picture",
    ),
)
