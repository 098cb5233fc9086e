"""CholecT50's native tree (datasets-a.md 3.1, 3.2)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import NOTICE, Split, Trial, expected, frames, save, save_text, shares
from surgr1.simulator.writers.damage import (
    Damage,
    add_to_keys,
    cut_half,
    cut_head,
    edit_json,
    replace_once,
    to_utf16,
)

SCENARIO = "laparoscopic cholecystectomy"


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`videos/VIDNN/KKKKKK.png` (0-based, 1 fps) and `labels/VIDNN.json` with 15-element vectors
    (datasets-a.md 3.1, 3.2).

    Like the challenge-validation clips, and unlike the full release, instrument boxes are given.
    """
    name = f"VID{number:02d}"
    words = {k: vocabulary("cholect50", k) for k in ("tool", "verb", "target", "phase", "triplet")}
    annotations: dict[str, list[list[float]]] = {}
    truth, wanted = [], []
    for index, scene, drawn, seen in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        save(drawn.image, root / "videos" / name / f"{index:06d}.png")
        height, width = drawn.image.shape[:2]
        phase = words["phase"].ids[scene.phase]
        rows: list[list[float]] = []
        for instrument, box in seen:
            triplet = words["triplet"].ids[f"{instrument.tool} {instrument.verb} {instrument.target}"]
            verb, target = words["verb"].ids[instrument.verb], words["target"].ids[instrument.target]
            rows.append(
                [
                    triplet,
                    words["tool"].ids[instrument.tool],
                    1.0,
                    *shares(box, width, height),
                    verb,
                    target,
                    1.0,
                    -1.0,
                    -1.0,
                    -1.0,
                    -1.0,
                    phase,
                ]
            )
        deeds = [(i.tool, i.verb, i.target) for i, _ in seen]
        wanted.append(
            expected(
                index,
                Labels(
                    tools=tuple({d[0] for d in deeds}),
                    verbs=tuple({d[1] for d in deeds}),
                    targets=tuple({d[2] for d in deeds}),
                    triplets=tuple(set(deeds)),
                    phase=scene.phase,
                    boxes=tuple(LabelledBox(i.tool, b) for i, b in seen) or None,
                ),
                tool_count=len(seen),
            )
        )
        annotations[str(index)] = rows or [
            [-1, -1, -1.0, -1.0, -1.0, -1.0, -1.0, -1, -1, -1.0, -1.0, -1.0, -1.0, -1.0, phase]
        ]
    categories = {
        {"tool": "instrument"}.get(kind, kind): {str(i): n for i, n in enumerate(v.native)}
        for kind, v in words.items()
    }
    body = {
        "info": {
            "dataset": "sim-cholect50",
            "description": NOTICE.strip(),
            "version": 2.0,
            "bbox format": "[x1,y1,bw,bh] == [top_left_x, top_left_y, box_width, box_height]",
        },
        "licenses": {"id": 1, "name": "Apache-2.0"},
        "categories": categories,
        "video": number,
        "fps": 1,
        "num_frames": len(operation.scenes),
        "annotations": annotations,
    }
    save_text(json.dumps(body), root / "labels" / f"{name}.json")
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`label_mapping.txt`."""
    save_text(triplet_parts("cholect50"), root / "label_mapping.txt")


def triplet_parts(layout: str) -> str:
    """The table of every triplet's parts, which both forms of the dataset have."""
    words = {k: vocabulary(layout, k).native for k in ("tool", "verb", "target", "triplet")}
    rows = ["# IVT, I, V, T, IV, IT"]
    for k, triplet in enumerate(words["triplet"]):
        parts = zip(("tool", "verb", "target"), triplet.split(","), strict=True)
        i, v, t = (words[kind].index(part) for kind, part in parts)
        rows.append(f"{k},{i},{v},{t},{i * 10 + v},{i * 15 + t}")
    return "\n".join(rows) + "\n"


def _swapped_phases(body: dict[str, Any]) -> None:
    """One vector of a frame says another phase."""
    rows = next(r for r in body["annotations"].values() if len(r) > 1)
    rows[0][14] = (rows[0][14] + 1) % 7


def _other_tool(body: dict[str, Any]) -> None:
    """Instrument and verb columns exchanged: the triplet contradicts its parts."""
    for rows in body["annotations"].values():
        for row in rows:
            row[1], row[7] = row[7], row[1]


TRIAL = Trial(seconds=14, train=(1,), test=(42,))
_LABELS = "labels/VID01.json"
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"VID01\.json: not a whole JSON file"),
    Damage("wrong encoding", _LABELS, to_utf16, r"VID01\.json: cannot be read as UTF-8"),
    Damage("missing file", "labels/VID42.json", None, "VID42"),
    Damage(
        "missing picture", "videos/VID01/000003.png", None, r"000003\.png: a labelled frame has no picture"
    ),
    Damage("broken picture", "videos/VID01/000000.png", cut_head, r"000000\.png: not a picture"),
    Damage(
        "duplicate id",
        _LABELS,
        replace_once('"annotations": {"0"', '"annotations": {"1"'),
        "duplicate key '1'",
    ),
    Damage(
        "malformed value",
        _LABELS,
        replace_once('"annotations": {"0"', '"annotations": {"x"'),
        "not a frame number",
    ),
    Damage(
        "malformed value", _LABELS, replace_once('"0": [[', '"0": [[500, '), "frame 0: expected vectors of 15"
    ),
    Damage("out of range", _LABELS, replace_once('"0": [[', '"0": [[500, 0], ['), "expected vectors of 15"),
    Damage(
        "off-by-one frame",
        _LABELS,
        add_to_keys("annotations", 1),
        r"000014\.png: a labelled frame has no picture",
    ),
    Damage("swapped ids", _LABELS, edit_json(_swapped_phases), "vectors disagree on the phase"),
    Damage("swapped ids", _LABELS, edit_json(_other_tool), "contradicts instrument|id .* is not in"),
)
