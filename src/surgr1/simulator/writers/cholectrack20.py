"""CholecTrack20's native tree (datasets-a.md 7.1, 7.2)."""

import json
from pathlib import Path
from typing import Any

from surgr1.corpora.datasets import official_split
from surgr1.corpora.files import LayoutError
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
    exchange,
    nested_lists,
    replace_once,
    to_utf16,
)

SCENARIO = "laparoscopic cholecystectomy"
_FOLDERS = {"train": "Training", "validation": "Validation", "test": "Testing"}
_WITH_TRIPLETS = (6, 23, 25, 92, 96, 103, 110, 111)
_OPERATORS = ("null", "MSLH", "ASRH", "MSRH")
_FLAGS = ("bleeding", "blurred", "crowded", "occluded", "reflection", "smoke", "stainedlens", "undercoverage")


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`Training|Validation|Testing/VIDNN/VIDNN.json` and `Frames/NNNNNN.png`, every 25th frame counted
    from 1.

    Unlike the release, Testing has pictures too: those that `surgr1 data frames` makes of its videos.
    """
    name = f"VID{number:02d}"
    official = official_split("cholectrack20", "official")
    if name not in official:
        raise LayoutError(f"CholecTrack20 has no video {number}")
    folder = root / _FOLDERS[official[name]] / name
    tools = vocabulary("cholectrack20", "tool")
    deeds = number in _WITH_TRIPLETS
    annotations, truth, wanted = {}, [], []
    for index, scene, drawn, seen in frames(operation, centre):
        frame = 25 * index + 1
        truth.append(frame_truth(name, frame, scene, drawn, centre))
        save(drawn.image, folder / "Frames" / f"{frame:06d}.png")
        bag = drawn.tissue_boxes.get("specimen bag")
        boxes = [LabelledBox(i.tool, b) for i, b in seen] + (
            [LabelledBox("specimen bag", bag)] if bag else []
        )
        triplets = [(i.tool, i.verb, i.target) for i, _ in seen]
        rows = [
            _row(b, t, scene.phase, drawn.image.shape[1], drawn.image.shape[0], track, deeds)
            for track, (b, t) in enumerate(zip(boxes, [*triplets, None], strict=False), start=1)
        ]
        annotations[str(frame)] = rows
        wanted.append(
            expected(
                frame,
                Labels(
                    tools=tuple({b.name for b in boxes}),
                    boxes=tuple(boxes),
                    triplets=tuple(set(triplets)) if deeds else None,
                    verbs=tuple({t[1] for t in triplets}) if deeds else None,
                    targets=tuple({t[2] for t in triplets}) if deeds else None,
                ),
                tool_count=len(boxes),
            )
        )
    body = {
        "info": {"description": NOTICE.strip()},
        "video": {
            "name": name,
            "split": folder.parent.name.lower(),
            "height": centre.size[1],
            "width": centre.size[0],
            "num_frames": len(operation.scenes),
        },
        "categories": {
            "tools": [{"id": k, "name": n} for k, n in enumerate(tools.native)],
            "operators": [{"id": k, "name": n} for k, n in enumerate(_OPERATORS)],
        },
        "annotations": annotations,
    }
    save_text(json.dumps(body), folder / f"{name}.json")
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


def _row(
    box: LabelledBox,
    deed: tuple[str, str, str] | None,
    phase: str,
    width: int,
    height: int,
    track: int,
    deeds: bool,
) -> dict[str, Any]:
    """One tool of a frame. Only eight videos have triplets; in those the specimen bag's is -2."""
    verb = target = triplet = -1
    if deeds and deed is None:
        triplet = -2
    elif deeds and deed is not None:
        verb = vocabulary("cholect50", "verb").ids[deed[1]]
        target = vocabulary("cholect50", "target").ids[deed[2]]
        triplet = vocabulary("cholect50", "triplet").ids[" ".join(deed)]
    x1, y1, x2, y2 = box.xyxy
    return {
        "instrument": vocabulary("cholectrack20", "tool").ids[box.name],
        "verb": verb,
        "target": target,
        "triplet": triplet,
        # The order of the real ids is not known; the adapter reads none.
        "phase": vocabulary("cholect50", "phase").ids[phase],
        "tool_bbox": shares(box.xyxy, width, height),
        "area": round((x2 - x1) * (y2 - y1)),
        "operator": min(track, 3),
        "score": 1.0,
        "iscrowd": 0,
        "intraoperative_track": track,
        "intracorporeal_track": track,
        "visibility_track": track,
        "visibility": 0,
        "visible": 1,
        **dict.fromkeys(_FLAGS, 0),
    }


def _of_another_video(body: dict[str, Any]) -> None:
    body["video"]["name"] = "VID17"


def _other_numbering(body: dict[str, Any]) -> None:
    tools = body["categories"]["tools"]
    exchange(tools[1], tools[2], "name")


def _first(body: dict[str, Any]) -> dict[str, Any]:
    """The first tool of the video."""
    row: dict[str, Any] = next(rows[0] for rows in body["annotations"].values() if rows)
    return row


def _other_tool(body: dict[str, Any]) -> None:
    row = _first(body)
    row["instrument"], row["verb"] = 5, row["instrument"]


def _far_outside(body: dict[str, Any]) -> None:
    _first(body)["tool_bbox"][0] = 1e300


def _not_a_number(body: dict[str, Any]) -> None:
    _first(body)["tool_bbox"][2] = "wide"


def _no_tool(body: dict[str, Any]) -> None:
    _first(body)["instrument"] = 7


TRIAL = Trial(seconds=14, train=(2,), test=(6,))
_LABELS = "Training/VID02/VID02.json"
_TEST = "Testing/VID06/VID06.json"
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"VID02\.json: not a whole JSON file"),
    Damage("wrong encoding", _LABELS, to_utf16, r"VID02\.json: cannot be read as UTF-8"),
    Damage("missing file", _TEST, None, r"VID06: 0 label files"),
    Damage(
        "missing picture",
        "Training/VID02/Frames/000026.png",
        None,
        r"000026\.png: a labelled frame has no picture",
    ),
    Damage("broken picture", "Training/VID02/Frames/000001.png", cut_head, r"000001\.png: not a picture"),
    Damage(
        "duplicate id",
        _LABELS,
        replace_once('"annotations": {"1"', '"annotations": {"26"'),
        "duplicate key '26'",
    ),
    Damage(
        "malformed value",
        _LABELS,
        replace_once('"annotations": {"1"', '"annotations": {"one"'),
        "not a frame number",
    ),
    Damage("malformed value", _LABELS, edit_json(_not_a_number), "tool_bbox must be four numbers"),
    Damage("out of range", _LABELS, edit_json(_far_outside), "is empty or leaves the picture"),
    Damage("unknown label", _LABELS, edit_json(_no_tool), "instrument id 7 is not in 0-6"),
    Damage("off-by-one frame", _LABELS, add_to_keys("annotations", -1), "every 25th frame, counted from 1"),
    Damage("swapped ids", _LABELS, edit_json(_of_another_video), "says it labels VID17, not VID02"),
    Damage("swapped ids", _LABELS, edit_json(_other_numbering), "tool 'hook' has id 1, expected 2"),
    Damage("swapped ids", _TEST, edit_json(_other_tool), "contradicts tool 5"),
    Damage("hostile file", _LABELS, nested_lists(200_000), "not a whole JSON file"),
)
