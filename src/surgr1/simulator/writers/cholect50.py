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
from surgr1.simulator.writers.common import (
    NOTICE,
    Damage,
    Split,
    Trial,
    cut_half,
    expected,
    frames,
    replace_once,
    save,
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
        for instrument, (x1, y1, x2, y2) in seen:
            triplet = words["triplet"].ids[f"{instrument.tool} {instrument.verb} {instrument.target}"]
            box = [round(v, 5) for v in (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)]
            verb, target = words["verb"].ids[instrument.verb], words["target"].ids[instrument.target]
            rows.append(
                [
                    triplet,
                    words["tool"].ids[instrument.tool],
                    1.0,
                    *box,
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
    path = root / "labels" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`label_mapping.txt`."""
    words = vocabulary("cholect50", "triplet")
    tools, verbs, targets = (vocabulary("cholect50", k) for k in ("tool", "verb", "target"))
    rows = ["# IVT, I, V, T, IV, IT"]
    for k, native in enumerate(words.native):
        i, v, t = (x.native.index(p) for x, p in zip((tools, verbs, targets), native.split(","), strict=True))
        rows.append(f"{k},{i},{v},{t},{i * 10 + v},{i * 15 + t}")
    (root / "label_mapping.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _off_by_one(data: bytes) -> bytes:
    """Keys counted from 1, as another loader's export has them."""
    body = json.loads(data)
    body["annotations"] = {str(int(k) + 1): v for k, v in body["annotations"].items()}
    return json.dumps(body).encode()


def _swapped_phases(data: bytes) -> bytes:
    """One vector of a frame says another phase."""
    body = json.loads(data)
    rows = next(r for r in body["annotations"].values() if len(r) > 1)
    rows[0][14] = (rows[0][14] + 1) % 7
    return json.dumps(body).encode()


def _other_tool(data: bytes) -> bytes:
    """Instrument and verb columns exchanged: the triplet contradicts its parts."""
    body = json.loads(data)
    for rows in body["annotations"].values():
        for row in rows:
            row[1], row[7] = row[7], row[1]
    return json.dumps(body).encode()


TRIAL = Trial(seconds=14, train=(1,), test=(42,))
_LABELS = "labels/VID01.json"
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"VID01\.json: not a whole JSON file"),
    Damage("wrong encoding", _LABELS, to_utf16, r"VID01\.json: cannot be read as UTF-8"),
    Damage("missing file", "labels/VID42.json", None, "VID42"),
    Damage(
        "missing picture", "videos/VID01/000003.png", None, r"000003\.png: a labelled frame has no picture"
    ),
    Damage(
        "broken picture", "videos/VID01/000000.png", lambda data: data[:20], r"000000\.png: not a picture"
    ),
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
    Damage("off-by-one frame", _LABELS, _off_by_one, r"000014\.png: a labelled frame has no picture"),
    Damage("swapped ids", _LABELS, _swapped_phases, "vectors disagree on the phase"),
    Damage("swapped ids", _LABELS, _other_tool, "contradicts instrument|id .* is not in"),
)
