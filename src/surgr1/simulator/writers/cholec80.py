"""Cholec80's native tree, CAMMA's frame release with the timestamps of the release of videos (datasets-a.md
1.1, 1.2).
"""

from collections.abc import Callable
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
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


def _without_lines(first: int, last: int) -> Callable[[bytes], bytes]:
    """A change that takes out lines (0-based, both included)."""

    def change(data: bytes) -> bytes:
        lines = data.split(b"\n")
        return b"\n".join(lines[:first] + lines[last + 1 :])

    return change


def _twice(line: int) -> Callable[[bytes], bytes]:
    """A change that repeats one line (0-based)."""

    def change(data: bytes) -> bytes:
        lines = data.split(b"\n")
        return b"\n".join([*lines[: line + 1], *lines[line:]])

    return change


def from_one(data: bytes) -> bytes:
    """Frames counted from 1, as the pictures are."""
    head, *rows = data.decode().splitlines()
    cells = [r.split("\t", 1) for r in rows]
    return "\n".join([head, *(f"{int(n) + 1}\t{rest}" for n, rest in cells), ""]).encode()


def _swapped_columns(data: bytes) -> bytes:
    """Two tools exchanged in the header."""
    return data.replace(b"Grasper\tBipolar", b"Bipolar\tGrasper", 1)


TRIAL = Trial(seconds=16, train=(1,), test=(41,))
_PHASES, _TOOLS = "phase_annotations/video01-phase.txt", "tool_annotations/video01-tool.txt"
DAMAGES = (
    Damage(
        "truncated", _PHASES, cut_half, r"video01-phase\.txt:\d+: .*no phase of Cholec80|no row for frame"
    ),
    Damage("truncated", _PHASES, _without_lines(200, 500), r"video01-phase\.txt: no row for frame 200"),
    Damage("truncated", _TOOLS, cut_half, r"video01-tool\.txt"),
    Damage("truncated", _TOOLS, _without_lines(9, 20), r"ends at frame 175, but .* goes on to 400"),
    Damage("reordered", _PHASES, swap_lines(30, 60), r"video01-phase\.txt:31: expected frame 29, found 59"),
    Damage("reordered", _TOOLS, swap_lines(3, 5), r"video01-tool\.txt:4: expected frame 50, found 100"),
    Damage("wrong encoding", _PHASES, to_utf16, r"video01-phase\.txt: cannot be read as UTF-8"),
    Damage("wrong encoding", _TOOLS, to_utf16, r"video01-tool\.txt: cannot be read as UTF-8"),
    Damage("missing file", _PHASES, None, "video01 lacks its phase or its tool file"),
    Damage("missing file", _TOOLS, None, "video01 lacks its phase or its tool file"),
    Damage("duplicate id", _PHASES, _twice(40), r"video01-phase\.txt:42: expected frame 40 .* found 39"),
    Damage("duplicate id", _TOOLS, _twice(4), r"video01-tool\.txt:6: expected frame 100 .* found 75"),
    Damage("off-by-one frame", _PHASES, from_one, r"video01-phase\.txt:2: expected frame 0, found 1"),
    Damage("off-by-one frame", _TOOLS, from_one, r"video01-tool\.txt:2: expected frame 0, found '1'"),
    Damage("swapped ids", _TOOLS, _swapped_columns, r"video01-tool\.txt:1: expected the header"),
    Damage("unknown label", _PHASES, replace_once("\n7\tPreparation", "\n7\tpreparation"), "no phase of"),
    Damage(
        "malformed value", _TOOLS, replace_once("\n25\t", "\n25\t1\t"), "8 tab-separated columns, found 9"
    ),
    Damage("malformed value", _PHASES, replace_once("\n7\t", "\n7 "), "2 tab-separated columns, found 1"),
    Damage("out of range", _TOOLS, lambda d: d.replace(b"\t1\t", b"\t2\t", 1), "flags must be 0 or 1"),
    Damage(
        "out of range", _TOOLS, replace_once("\n25\t", "\n" + "9" * 30 + "\t"), "expected frame 25, found"
    ),
    Damage("missing picture", "frames/video01/video01_000003.png", None, "a labelled frame has no picture"),
    Damage("broken picture", "frames/video01/video01_000001.png", lambda d: d[:20], "not a picture"),
)
