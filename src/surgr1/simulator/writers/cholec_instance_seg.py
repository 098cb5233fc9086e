"""CholecInstanceSeg's native tree, labels and pictures joined (datasets-a.md 6.1, 6.2)."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surgr1.corpora.datasets import official_split
from surgr1.corpora.files import LayoutError
from surgr1.corpora.masks import mask_box
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import MIN_PIXELS, Rendered
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    Mask,
    Split,
    Trial,
    expected,
    frames,
    save,
    save_text,
    shown_instruments,
)
from surgr1.simulator.writers.damage import (
    Damage,
    cut_half,
    cut_head,
    edit_json,
    nested_lists,
    replace_once,
    to_utf16,
)

SCENARIO = "laparoscopic cholecystectomy"
_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_STEPS = {"seg8k": 3, "t50_full": 1, "t50_sparse": 5, "t80_sparse": 5}
"""Seconds between the pictures of a part. The real sparse parts take one in 30 seconds, or less often
where a video would give fewer than 50; simulated videos are short.
"""


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`train|val|test/VIDNN_<part>/ann_dir/*.json` and `img_dir/*.png`, in every part of the release that has
    this video.
    """
    official = official_split("cholec-instance-seg", "official")
    sequences = [s for s in official if s.startswith(f"VID{number:02d}_")]
    if not sequences:
        raise LayoutError(f"CholecInstanceSeg has no video {number}")
    truth, wanted, files = [], [], []
    for index, scene, drawn, _ in frames(operation, centre):
        for sequence in sequences:
            part = sequence.partition("_")[2]
            if index % _STEPS[part]:
                continue
            frame = 25 * index if part == "seg8k" else index
            video = f"video{number:02d}" if part == "seg8k" else f"VID{number:02d}"
            stem = f"{part.partition('_')[0]}_{video}_{frame:06d}"
            folder = root / _FOLDERS[official[sequence]] / sequence
            truth.append(frame_truth(sequence, frame, scene, drawn, centre))
            save(drawn.image, folder / "img_dir" / f"{stem}.png")
            shown = shown_instruments(scene, drawn)
            masks = [(s.instrument.tool, s.whole) for s in shown if s.whole.sum() >= MIN_PIXELS]
            _write_labels(folder / "ann_dir" / f"{stem}.json", masks, drawn, sized=index % 2 == 0)
            boxes = [LabelledBox(tool, box) for tool, mask in masks if (box := mask_box(mask))]
            labels = Labels(tools=tuple({b.name for b in boxes}), boxes=tuple(boxes))
            wanted.append(expected(frame, labels, tool_count=len(boxes)) | {"video": sequence})
            files.append(f"{folder.parent.name}\\{sequence}\\ann_dir\\{stem}.json")
    return {"frames": len(files), "files": files, "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """The table of all label files; of the real one's columns two are known by name."""
    sources = {"t50": "CholecT50", "t80": "Cholec80", "seg8k": "Cholecseg8k"}
    with (root / "cholecinstanceseg_metadata.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["Annotation_Path", "Source_Dataset"])
        for path in (f for v in videos.values() for f in v["files"]):
            rows.writerow([path, sources[path.split("\\")[-1].partition("_")[0]]])


def _write_labels(path: Path, masks: list[tuple[str, Mask]], drawn: Rendered, *, sized: bool) -> None:
    """A LabelMe file. Many real ones (`sized` false) do not name the picture's size."""
    groups: dict[str, int] = {}
    shapes = []
    for tool, mask in masks:
        label = vocabulary("cholec-instance-seg", "tool").to_native(tool)
        groups[label] = groups.get(label, 0) + 1
        shapes += [
            {
                "label": label,
                "points": points,
                "group_id": groups[label],
                "description": "",
                "shape_type": "polygon",
                "flags": None,
            }
            for points in _outlines(mask)
        ]
    body: dict[str, Any] = {
        "version": "1.0.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"img_dir/{path.stem}.png",
        "imageHeight": drawn.image.shape[0] if sized else None,
        "imageWidth": drawn.image.shape[1] if sized else None,
    }
    save_text(json.dumps(body), path)


def _outlines(mask: Mask) -> Iterator[list[list[float]]]:
    """One polygon per connected piece: down the left edge and up the right one, in pixel centres as the real
    ones are.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(mask, structure=np.ones((3, 3), int))
    for number in range(1, count + 1):
        rows = np.flatnonzero((pieces == number).any(axis=1))
        edges = [(int(y), np.flatnonzero(pieces[y] == number)) for y in rows]
        left = [[float(xs[0]), float(y)] for y, xs in edges]
        right = [[float(xs[-1]), float(y)] for y, xs in reversed(edges)]
        yield [*left, *right, left[0]]


def _next_frame(body: dict[str, Any]) -> None:
    stem = body["imagePath"].removesuffix(".png")
    body["imagePath"] = f"{stem[:-6]}{int(stem[-6:]) + 1:06d}.png"


def _swapped_size(body: dict[str, Any]) -> None:
    body["imageWidth"], body["imageHeight"] = body["imageHeight"], body["imageWidth"]


def _far_outside(body: dict[str, Any]) -> None:
    body["shapes"][0]["points"][0] = [1e300, 5.0]


def _not_numbers(body: dict[str, Any]) -> None:
    body["shapes"][0]["points"][0] = ["left", 5.0]


def _one_number(body: dict[str, Any]) -> None:
    body["shapes"][0]["points"][0] = [5.0]


def _full_size(body: dict[str, Any]) -> None:
    """Outlines of a picture three times the size."""
    for shape in body["shapes"]:
        shape["points"] = [[3 * x, 3 * y] for x, y in shape["points"]]


def _circle(body: dict[str, Any]) -> None:
    body["shapes"][0]["shape_type"] = "circle"


TRIAL = Trial(seconds=14, train=(1,), val=(3,), test=(15,))
_LABELS = "train/VID01_t50_full/ann_dir/t50_VID01_000002.json"
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"000002\.json: not a whole JSON file"),
    Damage("wrong encoding", _LABELS, to_utf16, r"000002\.json: cannot be read as UTF-8"),
    Damage("missing file", _LABELS, None, r"t50_VID01_000002\.json: is in cholecinstanceseg_metadata\.csv"),
    Damage(
        "missing picture",
        "train/VID01_seg8k/img_dir/seg8k_video01_000075.png",
        None,
        r"000075\.png: a labelled frame has no picture",
    ),
    Damage(
        "broken picture",
        "val/VID03_t80_sparse/img_dir/t80_VID03_000000.png",
        cut_head,
        r"t80_VID03_000000\.png: not a picture",
    ),
    Damage("duplicate id", _LABELS, replace_once('"flags": {}', '"shapes": []'), "duplicate key 'shapes'"),
    Damage(
        "unknown label", _LABELS, replace_once('"label": "', '"label": "large '), "is none of grasper, hook"
    ),
    Damage("out of range", _LABELS, edit_json(_far_outside), "points outside the picture"),
    Damage("out of range", _LABELS, edit_json(_full_size), "points outside the picture"),
    Damage("malformed value", _LABELS, edit_json(_not_numbers), "points are no list of x, y"),
    Damage("malformed value", _LABELS, edit_json(_one_number), "points are no list of x, y"),
    Damage("malformed value", _LABELS, edit_json(_circle), "expected a polygon"),
    Damage(
        "off-by-one frame", _LABELS, edit_json(_next_frame), "labels t50_VID01_000003, not t50_VID01_000002"
    ),
    Damage(
        "swapped ids", _LABELS, edit_json(_swapped_size), "labels a picture of 252 x 448, which has 448 x 252"
    ),
    Damage("hostile file", _LABELS, nested_lists(200_000), "not a whole JSON file"),
)
