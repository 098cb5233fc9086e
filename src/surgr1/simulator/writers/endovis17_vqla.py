"""EndoVis-17-VQLA's native tree (datasets-b.md 12.1, 12.2); it ships its pictures."""

from pathlib import Path
from typing import Any

from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers import _nephrectomy as scene_masks
from surgr1.simulator.writers.common import Split, Trial, frames, save
from surgr1.simulator.writers.damage import Damage
from surgr1.simulator.writers.endovis18_vqa import expected_of, native_of, write_lines
from surgr1.simulator.writers.endovis18_vqla import damages

SCENARIO = scene_masks.SCENARIO


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`left_frames/seqN_frameKKK.jpg` with `vqla/label/seqN_frameKKK.txt`: state and place of every tool, no
    question about the organ (472 = 236 + 236). Frames without a tool, with two of one kind or one without a
    name here are left out.
    """
    name = f"seq{number}"
    words = {k: vocabulary("endovis17-vqla", k) for k in ("tool", "verb")}
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        rows = scene_masks.question_lines(
            scene, drawn, native_of(words["tool"]), native_of(words["verb"]), organ=False
        )
        if not rows:
            continue
        truth.append(frame_truth(name, index, scene, drawn, centre))
        stem = f"{name}_frame{index:03d}"
        save(drawn.image, root / "left_frames" / f"{stem}.jpg", centre.jpeg)
        size = (drawn.image.shape[1], drawn.image.shape[0])
        write_lines(root / "vqla" / "label" / f"{stem}.txt", rows, size)
        wanted.append(expected_of(index, rows, words, boxed=True))
    return {"frames": len(truth), "truth": truth, "expected": wanted}


TRIAL = Trial(seconds=16, train=(), test=(1, 9))
_FIRST = "vqla/label/seq1_frame*.txt"
DAMAGES = (
    *damages(_FIRST, "left_frames", "seq1_frame*.jpg"),
    Damage("missing file", _FIRST, None, r"seq1_frame\d+\.jpg: a picture without its label"),
)
