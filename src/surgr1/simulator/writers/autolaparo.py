"""AutoLaparo task 1 (datasets-a.md 8.1, 8.2)."""

from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
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
    path = root / FOLDER / "labels" / f"label_{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


def _from_zero(data: bytes) -> bytes:
    """Frames counted from 0, as many loaders have them."""
    head, *rows = data.decode().splitlines()
    cells = [r.split("\t") for r in rows]
    return "\n".join([head, *(f"{int(f) - 1}\t{p}" for f, p in cells)]).encode()


def _phases_from_zero(data: bytes) -> bytes:
    """Phases counted from 0, as many loaders have them."""
    head, *rows = data.decode().splitlines()
    cells = [r.split("\t") for r in rows]
    return "\n".join([head, *(f"{f}\t{int(p) - 1}" for f, p in cells)]).encode()


def _swapped_columns(data: bytes) -> bytes:
    rows = [r.split("\t") for r in data.decode().splitlines()]
    return "\n".join(f"{p}\t{f}" for f, p in rows).encode()


def _fewer_rows(data: bytes) -> bytes:
    """Cut off at the end of a line."""
    return b"\n".join(data.splitlines()[:10]) + b"\n"


TRIAL = Trial(seconds=24, train=(1,), val=(11,), test=(15,))
_LABELS = f"{FOLDER}/labels/label_01.txt"
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"label_01\.txt:\d+: (phase ''|1 columns)"),
    Damage("truncated", _LABELS, _fewer_rows, r"label_01\.txt: ends at frame 9, but there are 15 more"),
    Damage("wrong encoding", _LABELS, to_utf16, r"label_01\.txt: cannot be read as UTF-8"),
    Damage("missing file", _LABELS, None, "frames/01: pictures without labels/label_01"),
    Damage("reordered", _LABELS, swap_lines(5, 9), r"label_01\.txt:6: frame 9 follows 4"),
    Damage("duplicate id", _LABELS, replace_once("\n5\t", "\n4\t"), r"label_01\.txt:6: frame 4 follows 4"),
    Damage("off-by-one frame", _LABELS, _from_zero, r"label_01\.txt:2: frame '0'"),
    Damage("swapped ids", _LABELS, _phases_from_zero, r"phase '0' is not in 1-7"),
    Damage("swapped ids", _LABELS, _swapped_columns, r"label_01\.txt:1: header"),
    Damage("unknown label", _LABELS, replace_once("\n3\t", "\n3\t9"), r"label_01\.txt:4: phase '9\d'"),
    Damage("malformed value", _LABELS, replace_once("\n3\t", "\nthree\t"), r"frame 'three'"),
    Damage("malformed value", _LABELS, replace_once("\n3\t", "\n3,"), r"label_01\.txt:4: 1 columns"),
    Damage("out of range", _LABELS, replace_once("\n24\t", "\n2400000\t"), r"frame '2400000'"),
    Damage("missing picture", f"{FOLDER}/frames/01/0004.jpg", None, r"0004\.jpg: a labelled frame has no"),
    Damage(
        "broken picture",
        f"{FOLDER}/frames/01/0001.jpg",
        lambda data: data[:20],
        r"0001\.jpg: not a picture",
    ),
)
