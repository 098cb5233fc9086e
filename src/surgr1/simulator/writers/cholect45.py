"""CholecT45's native tree (datasets-a.md 3.3)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.cholect50 import triplet_parts
from surgr1.simulator.writers.common import Split, Trial, expected, frames, save, save_text
from surgr1.simulator.writers.damage import (
    Damage,
    add_to_column,
    cut_half,
    cut_head,
    keep_lines,
    repeat_line,
    replace_once,
    swap_columns,
    swap_lines,
    to_utf16,
)

SCENARIO = "laparoscopic cholecystectomy"
_TABLES = {"triplet": "triplet", "instrument": "tool", "verb": "verb", "target": "target"}
"""The adapter has these names too: written again on purpose (see the package)."""


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`data/VIDnn/KKKKKK.png` (0-based, 1 fps) and a table per kind: frame, then a column of 0 or 1 per
    class.
    """
    name = f"VID{number:02d}"
    truth, wanted = [], []
    lines: dict[str, list[str]] = {t: [] for t in _TABLES}
    for index, scene, drawn, seen in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        save(drawn.image, root / "data" / name / f"{index:06d}.png")
        deeds = {(i.tool, i.verb, i.target) for i, _ in seen}
        present = {
            "triplet": {" ".join(d) for d in deeds},
            "tool": {d[0] for d in deeds},
            "verb": {d[1] for d in deeds},
            "target": {d[2] for d in deeds},
        }
        for table, kind in _TABLES.items():
            bits = (str(int(n in present[kind])) for n in vocabulary("cholect45", kind).names)
            lines[table].append(f"{index},{','.join(bits)}\n")
        wanted.append(
            expected(
                index,
                Labels(
                    tools=tuple(present["tool"]),
                    verbs=tuple(present["verb"]),
                    targets=tuple(present["target"]),
                    triplets=tuple(deeds),
                ),
            )
        )
    for table, rows in lines.items():
        save_text("".join(rows), root / table / f"{name}.txt")
    return {"frames": len(wanted), "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`dict/*.txt`: `id:name` lines, and the parts of every triplet in maps.txt."""
    for table, kind in _TABLES.items():
        names = vocabulary("cholect45", kind).native
        save_text("".join(f"{k}:{n}\n" for k, n in enumerate(names)), root / "dict" / f"{table}.txt")
    save_text(triplet_parts("cholect45"), root / "dict" / "maps.txt")


TRIAL = Trial(seconds=14, train=(5,), test=(2,))
_TRIPLETS, _TOOLS = "triplet/VID02.txt", "instrument/VID02.txt"
DAMAGES = (
    Damage("truncated", _TRIPLETS, cut_half, r"triplet/VID02\.txt"),
    Damage("truncated", _TOOLS, keep_lines(9), "no usable row for frame 9"),
    Damage("reordered", _TRIPLETS, swap_lines(3, 6), r"triplet/VID02\.txt:5: frame 4 does not follow 6"),
    Damage("wrong encoding", _TRIPLETS, to_utf16, r"triplet/VID02\.txt: cannot be read as UTF-8"),
    Damage("missing file", "verb/VID02.txt", None, r"no verb/VID02\.txt"),
    Damage("missing picture", "data/VID02/000003.png", None, r"000003\.png: a labelled frame has no picture"),
    Damage("broken picture", "data/VID02/000000.png", cut_head, r"000000\.png: not a picture"),
    Damage("duplicate id", _TRIPLETS, repeat_line(4), r"triplet/VID02\.txt:6: frame 4 does not follow 4"),
    Damage(
        "off-by-one frame",
        _TRIPLETS,
        add_to_column(",", 0, 1),
        r"triplet/VID02\.txt: no usable row for frame 0",
    ),
    Damage("swapped ids", _TOOLS, swap_columns(",", 1, 2), "but instrument/ does not mark"),
    Damage("swapped ids", "dict/instrument.txt", swap_lines(0, 1), "expected 0:grasper, found '1:bipolar'"),
    Damage("unknown label", "dict/verb.txt", replace_once("2:dissect", "2:disect"), "expected 2:dissect"),
    Damage("malformed value", _TRIPLETS, replace_once("0,0,0,", "0,0,,"), "columns of 0 or 1"),
    Damage("malformed value", _TRIPLETS, replace_once("0,0,0,", "x,0,0,"), "'x' is no frame number"),
    Damage("out of range", _TOOLS, replace_once(",1", ",2"), "columns of 0 or 1"),
    Damage("out of range", _TRIPLETS, replace_once("0,0,0,", "9" * 30 + ",0,0,"), "is no frame number"),
)
