"""CoPESD's native tree (datasets-b.md 8.1, 8.2, 8.5); the instructions and answers are worded by us."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Box, LabelledBox, Labels
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre, Instrument, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import Seen, Split, Trial, expected, frames, save, save_text, xywh
from surgr1.simulator.writers.damage import Damage, cut_half, edit_json, replace_once, to_utf16

SCENARIO = "endoscopic submucosal dissection"
_FOLDER = "sphinx_esd/accessory/data/annotations/smllm"
_MOTIONS = {
    "dissect mucosa flap": ("knife", "dissect", "Work with the Knife to dissect the mucosa flap."),
    "lift mucosa flap with forceps": ("forceps", "lift", "With the Forceps, lift the mucosa flap."),
    "lift mucosa flap with forceps and knife": (
        "knife",
        "lift",
        "Take the Forceps and the Knife together to lift the mucosa flap.",
    ),
    "grasp mucosa flap": ("forceps", "grasp", "Use the Forceps to hold the mucosa flap."),
}
"""Action -> the tool and verb that a frame of it must show, and the instruction."""
_DEEDS = {
    "lift": "lift the mucosa flap {where}",
    "dissect": "dissect the mucosa flap {where}",
    "grasp": "hold the mucosa flap",
    "null verb": "wait",
}


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """Pictures `high_light_images/NNNNNN/KKKK.jpg` (from 1) and the video's items for `finish`. The release
    holds chosen frames: one that does not show its motion is left out.

    Boxes are in widths of the picture, two decimals; those of even videos are x, y, width, height.
    """
    name = f"{number:06d}"
    shown: list[tuple[int, Scene, Seen]] = []
    truth: list[dict[str, Any]] = []
    width, height = centre.size
    for index, scene, drawn, seen in frames(operation, centre):
        tool, verb, _ = _MOTIONS.get(scene.action, ("", "", ""))
        if tool and not any((i.tool, i.verb) == (tool, verb) for i, _ in seen):
            continue
        # A camera that is being adjusted shows nothing to point at.
        shown.append((index + 1, scene, seen if tool else []))
        truth.append(frame_truth(name, index + 1, scene, drawn, centre))
        save(drawn.image, root / "high_light_images" / name / f"{index + 1:04d}.jpg", centre.jpeg)
    corners = [_corners(b, width) for _, _, seen in shown for _, b in seen]
    sides = [_sides(b, width) for _, _, seen in shown for _, b in seen]
    # Only boxes that cannot be corners tell a reader that they are none.
    as_sides = number % 2 == 0 and any(c[2] <= c[0] or c[3] <= c[1] for c in sides)
    items, wanted = [], []
    written = iter(sides if as_sides else corners)
    for frame, scene, seen in shown:
        boxes = [next(written) for _ in seen]
        instruction = _MOTIONS[scene.action][2] if scene.action in _MOTIONS else "Set the camera right."
        answer = _answer([i for i, _ in seen], boxes)
        items.append(
            {
                "conversations": [
                    {"from": "human", "value": instruction},
                    {"from": "gpt", "value": answer},
                ],
                "image": f"D:/simulated/high_light_images/{name}/{frame:04d}.jpg",
            }
        )
        both = len(seen) == 2
        wanted.append(
            expected(
                frame,
                Labels(
                    tools=tuple(i.tool for i, _ in seen) if both else None,
                    action=scene.action,
                    boxes=tuple(
                        LabelledBox(i.tool, _pixels(b, as_sides, width, height))
                        for (i, _), b in zip(seen, boxes, strict=True)
                    )
                    or None,
                ),
                tool_count=2 if both else None,
                questions=((instruction, answer),),
            )
        )
    return {"frames": len(shown), "truth": truth, "expected": wanted, "items": items}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`smllm_train.json` and `smllm_test.json`: one item a picture."""
    test = set(split.get("test", ()))
    for name, numbers in (
        ("smllm_train.json", [n for n in videos if n not in test]),
        ("smllm_test.json", [n for n in videos if n in test]),
    ):
        items = [item for n in numbers for item in videos[n]["items"]]
        save_text(json.dumps(items, indent=4), root / _FOLDER / name)


def _corners(box: Box, width: int) -> tuple[float, ...]:
    return tuple(round(v / width, 2) for v in box)


def _sides(box: Box, width: int) -> tuple[float, ...]:
    return tuple(round(v / width, 2) for v in xywh(box))


def _pixels(box: tuple[float, ...], as_sides: bool, width: int, height: int) -> Box:
    """What two decimals leave of a box."""
    x1, y1, x2, y2 = (v * width for v in box)
    if as_sides:
        x2, y2 = x1 + x2, y1 + y2
    return x1, y1, min(x2, float(width)), min(y2, float(height))


def _answer(instruments: list[Instrument], boxes: list[tuple[float, ...]]) -> str:
    """Who does what, with the boxes after the names."""
    parts = []
    for instrument, box in zip(instruments, boxes, strict=True):
        way = instrument.direction
        where = way if way.endswith("ward") else f"to the {way}"
        deed = _DEEDS[instrument.verb].format(where=where)
        parts.append(f"the {instrument.tool.capitalize()}[{', '.join(f'{v:.2f}' for v in box)}] {deed}")
    return f"Let {' and '.join(parts)}." if parts else "The view is poor: let Forceps and Knife rest."


def _reversed(items: list[Any]) -> None:
    items[0]["conversations"].reverse()


def _from_zero(items: list[Any]) -> None:
    """Pictures counted from 0, as another tool would number them."""
    for item in items:
        stem, number = item["image"][:-8], int(item["image"][-8:-4])
        item["image"] = f"{stem}{number - 1:04d}.jpg"


def _twice(items: list[Any]) -> None:
    items.append(items[0])


def _other_answer(items: list[Any]) -> None:
    """The answers of a dissection and of another motion exchanged."""
    first, second = (
        next(i for i in items if ("dissect" in i["conversations"][1]["value"]) is cut)
        for cut in (True, False)
    )
    a, b = first["conversations"], second["conversations"]
    a[1], b[1] = b[1], a[1]


def _elsewhere(items: list[Any]) -> None:
    items[0]["image"] = "../../../home/secret.jpg"


def _typo(items: list[Any]) -> None:
    """A box with a number that no fraction can be."""
    turn = next(i for i in items if "[" in i["conversations"][1]["value"])["conversations"][1]
    turn["value"] = turn["value"].replace("[0.", "[9.", 1)


def _three_numbers(items: list[Any]) -> None:
    turn = next(i for i in items if "[" in i["conversations"][1]["value"])["conversations"][1]
    turn["value"] = turn["value"].replace(",", "", 1)


TRIAL = Trial(seconds=26, train=(1, 2), test=(3,))
_TRAIN = "**/smllm_train.json"
DAMAGES = (
    Damage("truncated", _TRAIN, cut_half, r"smllm_train\.json: not a whole JSON file"),
    Damage("wrong encoding", _TRAIN, to_utf16, r"smllm_train\.json: cannot be read as UTF-8"),
    Damage("missing file", _TRAIN, None, "pictures without items"),
    Damage("hostile file", _TRAIN, lambda _: b"{}", "expected a list of items, found dict"),
    Damage(
        "reordered",
        _TRAIN,
        edit_json(_reversed, indent=4),
        "item 0: expected one turn of human and one of gpt",
    ),
    Damage("duplicate id", _TRAIN, edit_json(_twice, indent=4), r"picture 000001/\d{4}\.jpg stands twice"),
    Damage("off-by-one frame", _TRAIN, edit_json(_from_zero, indent=4), "counted from 1|has no picture"),
    Damage("swapped ids", _TRAIN, edit_json(_other_answer, indent=4), "does not belong to"),
    Damage("hostile path", _TRAIN, edit_json(_elsewhere, indent=4), "does not end in <6 digits>"),
    Damage(
        "unknown label",
        _TRAIN,
        replace_once("Knife to dissect", "Knife to paint"),
        "none of the five motions",
    ),
    Damage(
        "malformed value", _TRAIN, edit_json(_three_numbers, indent=4), "expected four numbers in brackets"
    ),
    Damage("out of range", _TRAIN, edit_json(_typo, indent=4), "is empty or leaves the picture"),
    Damage("missing picture", "high_light_images/000002/0*5.jpg", None, "a labelled frame has no picture"),
    Damage("broken picture", "high_light_images/000003/*.jpg", lambda data: data[:10], "not a picture"),
)
