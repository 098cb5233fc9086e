"""Endoscapes2023's native tree (datasets-a.md 4.1, 4.2). In this layout's trees every stored picture is a
keyframe; `endoscapes_cvs` writes the pictures between them too.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import NOTICE, Split, Trial, expected, frames, save, save_text, xywh
from surgr1.simulator.writers.damage import (
    Damage,
    cut_half,
    cut_head,
    edit_json,
    exchange,
    nested_lists,
    next_file_names,
    to_utf16,
)

SCENARIO = "laparoscopic cholecystectomy"
_RATERS = (0.4, 0.5, 0.6)
"""Three raters see a criterion met at these degrees; their majority is the simulator's own threshold of
0.5.
"""
_START = 100
"""Seconds of the video before the first picture."""


@dataclass(frozen=True)
class Sampling:
    """Pictures every `seconds` seconds; of these, every `keyframes`-th has a CVS label of its own, and every
    `boxed`-th boxes.
    """

    seconds: int
    keyframes: int
    boxed: int


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`<split>/<vid>_<25-fps frame>.jpg`; the COCO records go back to `finish_tree` (datasets-a.md 4.1,
    4.2).
    """
    return write_sampled(root, number, operation, centre, split, Sampling(seconds=5, keyframes=1, boxed=1))


def write_sampled(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split, sampling: Sampling
) -> dict[str, Any]:
    """Write the pictures of the dissection of Calot's triangle."""
    role = next(r for r, numbers in split.items() if number in numbers)
    ids = vocabulary("endoscapes", "tissue").ids
    images, annotations, truth, wanted = [], [], [], []
    kept = tuple(s for s in operation.scenes if s.phase == "calot triangle dissection")
    raters: list[list[float]] = []
    cvs: tuple[bool, bool, bool] | None = None
    for index, scene, drawn, seen in frames(Operation(operation.procedure, operation.rate, kept), centre):
        frame = 25 * (sampling.seconds * index + _START)
        file_name = f"{number}_{frame}.jpg"
        save(drawn.image, root / role / file_name, centre.jpeg)
        truth.append(frame_truth(str(number), frame, scene, drawn, centre))
        is_keyframe, is_boxed = index % sampling.keyframes == 0, index % sampling.boxed == 0
        if is_keyframe:
            a = scene.anatomy
            degrees = (a.two_structures, a.window, a.plate)  # type: ignore[union-attr]  # this phase exists in cholecystectomy alone
            raters, cvs = [[float(d >= t) for d in degrees] for t in _RATERS], scene.cvs
        image_id = number * 1_000_000 + frame
        images.append(
            {
                "file_name": file_name,
                "height": drawn.image.shape[0],
                "width": drawn.image.shape[1],
                "id": image_id,
                "video_id": number,
                "frame_id": None,
                "ds": [round(sum(r[c] for r in raters) / 3, 3) for c in range(3)],
                "is_ds_keyframe": is_keyframe,
                "is_det_keyframe": is_boxed,
                "raters": raters,
            }
        )
        tissues = {n: b for n, b in drawn.tissue_boxes.items() if n in ids}
        boxes = [(ids[n], b) for n, b in tissues.items()] + [(6, b) for _, b in seen]
        for category, box in boxes if is_boxed else []:
            _, _, width, height = xywh(box)
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": xywh(box),
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        named = [LabelledBox(n, b) for n, b in tissues.items()] + [LabelledBox("tool", b) for _, b in seen]
        wanted.append(
            expected(
                frame,
                Labels(
                    tissues=tuple(tissues) if is_boxed else None,
                    boxes=tuple(named) if is_boxed else None,
                    cvs=cvs,
                ),
            )
        )
    return {
        "frames": len(images),
        "role": role,
        "images": images,
        "annotations": annotations,
        "truth": truth,
        "expected": wanted,
    }


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """The three COCO files of each part, the list of its videos, and the files of the whole tree."""
    words = vocabulary("endoscapes", "tissue")
    categories = [{"id": i, "name": words.to_native(n)} for n, i in words.ids.items()] + [
        {"id": 6, "name": "tool"}
    ]
    annotators = [f"cvs_annotator_{k}" for k in (1, 2, 3)]
    metadata: list[list[Any]] = [
        [
            "vid",
            "frame",
            "avg_cvs",
            "C1",
            "C2",
            "C3",
            "is_ds_keyframe",
            *annotators,
            "mask_path",
            "label_path",
        ]
    ]
    for role, numbers in split.items():
        images = [dict(i) for n in numbers for i in videos[n]["images"]]
        annotations = [dict(a) for n in numbers for a in videos[n]["annotations"]]
        for image in images:
            raters = image.pop("raters")
            rated = map(str, raters) if image["is_ds_keyframe"] else ("", "", "")
            frame = image["id"] % 1_000_000
            average = sum(image["ds"]) / 3
            row = [image["video_id"], frame, average, *image["ds"], image["is_ds_keyframe"], *rated, "", ""]
            metadata.append(row)
        for k, annotation in enumerate(annotations):
            annotation["id"] = k + 1
        listed = {
            "annotation_coco.json": [i for i in images if i["is_det_keyframe"]],
            "annotation_ds_coco.json": [i for i in images if i["is_ds_keyframe"]],
            "annotation_coco_vid.json": images,
        }
        for name, some in listed.items():
            body = {
                "info": {"description": NOTICE.strip()},
                "images": some,
                "annotations": annotations,
                "categories": categories,
            }
            save_text(json.dumps(body), root / role / name)
        save_text("".join(f"{n:.18e}\n" for n in numbers), root / f"{role}_vids.txt")
    with (root / "all_metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(metadata)
    save_text("background\n" + "".join(f"{c['name']}\n" for c in categories), root / "seg_label_map.txt")


def _off_by_one(body: dict[str, Any]) -> None:
    for image in body["images"]:
        video, frame = image["file_name"].removesuffix(".jpg").split("_")
        image["file_name"] = f"{video}_{int(frame) + 1}.jpg"


def _swapped_ids(body: dict[str, Any]) -> None:
    exchange(*body["images"][:2], "id")


def _of_another_video(body: dict[str, Any]) -> None:
    body["images"][0]["video_id"] += 1


def _twice(body: dict[str, Any]) -> None:
    body["images"].append(body["images"][0])


def _outside(body: dict[str, Any]) -> None:
    body["images"][0]["file_name"] = "../../11_2500.jpg"


def _four_means(body: dict[str, Any]) -> None:
    body["images"][0]["ds"].append(0.0)


def _seven(body: dict[str, Any]) -> None:
    body["images"][0]["ds"][0] = 7.0


def _backwards(body: dict[str, Any]) -> None:
    body["annotations"][0]["bbox"][2] = -3


def _of_no_picture(body: dict[str, Any]) -> None:
    body["annotations"][0]["image_id"] = 1


def _short_box(body: dict[str, Any]) -> None:
    body["annotations"][0]["bbox"].pop()


def _unknown(body: dict[str, Any]) -> None:
    body["categories"][0]["name"] = "spleen"


def damages_of(labels: str, picture: str) -> tuple[Damage, ...]:
    """What can break in a file of pictures with CVS labels and in the pictures (globs)."""
    return (
        Damage("truncated", labels, cut_half, r"annotation_\w+\.json: not a whole JSON file"),
        Damage("wrong encoding", labels, to_utf16, r"annotation_\w+\.json: cannot be read as UTF-8"),
        Damage("missing file", labels, None, r"annotation_\w+\.json: no such file beside the pictures"),
        Damage("missing picture", picture, None, r"\.jpg: a labelled frame has no picture"),
        Damage("broken picture", picture, cut_head, r"\.jpg: not a picture"),
        Damage("duplicate id", labels, edit_json(_twice), "stands twice"),
        Damage("off-by-one frame", labels, edit_json(_off_by_one), "is no whole second"),
        Damage("reordered", labels, edit_json(next_file_names), "with the id of frame"),
        Damage("swapped ids", labels, edit_json(_swapped_ids), "with the id of frame"),
        Damage("swapped ids", labels, edit_json(_of_another_video), "with video_id"),
        Damage("malformed value", labels, edit_json(_four_means), "means of raters"),
        Damage("out of range", labels, edit_json(_seven), "means of raters"),
        Damage("hostile path", labels, edit_json(_outside), "is not <video>_<frame>"),
        Damage("hostile file", labels, nested_lists(200_000), "not a whole JSON file"),
    )


TRIAL = Trial(seconds=24, train=(11,), val=(122,), test=(162,))
_BOXES = "train/annotation_coco.json"
DAMAGES = (
    *damages_of("train/annotation_ds_coco.json", "train/11_*.jpg"),
    Damage(
        "missing file", _BOXES, None, r"annotation_coco\.json: no such file: frames are read without boxes"
    ),
    Damage("truncated", _BOXES, cut_half, r"annotation_coco\.json: not a whole JSON file"),
    Damage("unknown label", _BOXES, edit_json(_unknown), "category .*spleen"),
    Damage("unknown label", _BOXES, edit_json(_of_no_picture), "unknown category . or image 1$"),
    Damage("malformed value", _BOXES, edit_json(_short_box), "is not x, y, w, h"),
    Damage("out of range", _BOXES, edit_json(_backwards), "is empty or leaves the picture"),
    Damage("swapped ids", _BOXES, edit_json(_swapped_ids), "with the id of frame"),
)
