"""Cholec80's native tree, CAMMA's frame release with the timestamps of the release of videos (datasets-a.md
1.1, 1.2).
"""

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
    repeat_line,
    replace_once,
    swap_lines,
    to_utf16,
    unended,
)

SCENARIO = "laparoscopic cholecystectomy"


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`frames/videoNN/videoNN_KKKKKK.png` (1-based, 1 fps), phase rows at 25 fps, tool rows every 25th, a
    timestamp row every 0.04 s.
    """
    name = f"video{number:02d}"
    tools, phases = vocabulary("cholec80", "tool"), vocabulary("cholec80", "phase")
    tool_rows = ["Frame\t" + "\t".join(tools.native)]
    shown = []
    truth, wanted = [], []
    for index, scene, drawn, seen in frames(operation, centre):
        truth.append(frame_truth(name, 25 * index, scene, drawn, centre))
        save(drawn.image, root / "frames" / name / f"{name}_{index + 1:06d}.png")
        present = {i.tool for i, _ in seen} | ({"specimen bag"} & set(drawn.tissue_boxes))
        tool_rows.append(f"{25 * index}\t" + "\t".join(str(int(t in present)) for t in tools.names))
        shown += [phases.to_native(scene.phase)] * 25
        wanted.append(expected(25 * index, Labels(tools=tuple(present), phase=scene.phase)))
    # The real phase file is one 1-fps sample longer than the tool file.
    shown.append(shown[-1])
    # No public text quotes the header of the timestamps.
    times = [f"{k // 90000:02d}:{k // 1500 % 60:02d}:{k % 1500 / 25:05.2f}\t{p}" for k, p in enumerate(shown)]
    for path, rows in (
        (
            f"phase_annotations/{name}-phase.txt",
            ["Frame\tPhase", *(f"{k}\t{p}" for k, p in enumerate(shown))],
        ),
        (f"tool_annotations/{name}-tool.txt", tool_rows),
        (f"videos/{name}-timestamp.txt", ["Time\tPhase", *times]),
    ):
        save_text("\n".join(rows) + "\n", root / path)
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


TRIAL = Trial(seconds=16, train=(1,), test=(41,))
FROM_ONE = add_to_column("\t", 0, 1, head=1)
"""Frames counted from 1, as the pictures are."""
_PHASES, _TOOLS = "phase_annotations/video01-phase.txt", "tool_annotations/video01-tool.txt"
DAMAGES = (
    Damage(
        "truncated", _PHASES, cut_half, r"video01-phase\.txt:\d+: .*no phase of Cholec80|no row for frame"
    ),
    Damage("truncated", _PHASES, unended(keep_lines(200)), r"video01-phase\.txt: no row for frame 200"),
    Damage("truncated", _TOOLS, cut_half, r"video01-tool\.txt"),
    Damage("truncated", _TOOLS, unended(keep_lines(9)), r"ends at frame 175, but .* goes on to 400"),
    Damage("reordered", _PHASES, swap_lines(30, 60), r"video01-phase\.txt:31: expected frame 29, found 59"),
    Damage("reordered", _TOOLS, swap_lines(3, 5), r"video01-tool\.txt:4: expected frame 50, found 100"),
    Damage("wrong encoding", _PHASES, to_utf16, r"video01-phase\.txt: cannot be read as UTF-8"),
    Damage("wrong encoding", _TOOLS, to_utf16, r"video01-tool\.txt: cannot be read as UTF-8"),
    Damage("missing file", _PHASES, None, "video01 lacks its phase or its tool file"),
    Damage("missing file", _TOOLS, None, "video01 lacks its phase or its tool file"),
    Damage("duplicate id", _PHASES, repeat_line(40), r"video01-phase\.txt:42: expected frame 40 .* found 39"),
    Damage("duplicate id", _TOOLS, repeat_line(4), r"video01-tool\.txt:6: expected frame 100 .* found 75"),
    Damage("off-by-one frame", _PHASES, FROM_ONE, r"video01-phase\.txt:2: expected frame 0, found 1"),
    Damage("off-by-one frame", _TOOLS, FROM_ONE, r"video01-tool\.txt:2: expected frame 0, found '1'"),
    Damage(
        "swapped ids",
        _TOOLS,
        replace_once("Grasper\tBipolar", "Bipolar\tGrasper"),
        r"video01-tool\.txt:1: expected the header",
    ),
    Damage("unknown label", _PHASES, replace_once("\n7\tPreparation", "\n7\tpreparation"), "no phase of"),
    Damage(
        "malformed value", _TOOLS, replace_once("\n25\t", "\n25\t1\t"), "8 tab-separated columns, found 9"
    ),
    Damage("malformed value", _PHASES, replace_once("\n7\t", "\n7 "), "2 tab-separated columns, found 1"),
    Damage("out of range", _TOOLS, replace_once("\t1\t", "\t2\t"), "flags must be 0 or 1"),
    Damage(
        "out of range", _TOOLS, replace_once("\n25\t", "\n" + "9" * 30 + "\t"), "expected frame 25, found"
    ),
    Damage("missing picture", "frames/video01/video01_000003.png", None, "a labelled frame has no picture"),
    Damage("broken picture", "frames/video01/video01_000001.png", cut_head, "not a picture"),
)
