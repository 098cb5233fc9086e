"""Endoscapes2023 (reference datasets-a.md section 4): critical view of safety by three raters, boxes of
anatomy and tools.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import image_size
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels, Sample
from surgr1.corpora.sources import LabelError, LayoutError, Source, listing
from surgr1.corpora.splits import official_split
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "laparoscopic cholecystectomy"


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 25-fps frame of the unreleased video."""
    return frame / 25


def read(source: Source) -> Iterator[Sample]:
    """CVS keyframes (`annotation_ds_coco.json`) with the boxes of `annotation_coco.json` where a frame has
    any.
    """
    folders = [
        source.root / r
        for r in ("train", "val", "test")
        if (source.root / r / "annotation_ds_coco.json").is_file()
    ]
    if not folders:
        raise LayoutError(
            f"{source.root}: not an Endoscapes tree: no train|val|test/annotation_ds_coco.json; found"
            f" {listing(source.root)}"
        )
    official = official_split("endoscapes", source.split)
    for folder in folders:
        boxes = _boxes(folder / "annotation_coco.json")
        path = folder / "annotation_ds_coco.json"
        kept: defaultdict[str, int] = defaultdict(int)
        seen: set[str] = set()
        for record in _load(path)["images"]:
            name = str(record.get("file_name"))
            video, _, frame = name.removesuffix(".jpg").partition("_")
            if not (video.isdigit() and frame.isdigit()):
                raise LabelError(f"{path}: file_name {name!r} is not <video>_<frame>.jpg")
            if name in seen:
                raise LabelError(f"{path}: {name} stands twice")
            seen.add(name)
            role = source.role_of(video, official)
            kept[video] += 1
            if role is None or (kept[video] - 1) % source.every:
                continue
            size = image_size(folder / name)
            named = boxes.get(name)
            tissues = vocabulary("endoscapes", "tissue").names
            labels = Labels(
                tissues=None if named is None else tuple(t for t in tissues if t in {b.name for b in named}),
                boxes=named,
                cvs=_majority(record.get("ds"), f"{path}: {name}"),
            )
            yield from Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=int(frame),
                seconds=frame_to_seconds(int(frame)),
                image=f"{folder.name}/{name}",
                size=size,
                labels=labels,
                role=role,
            ).samples()


def _load(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        body["images"], body["annotations"], body["categories"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{path}: not a COCO file: {error!r}") from error
    return dict(body)


def _majority(ds: object, where: str) -> tuple[bool, bool, bool]:
    """[C1, C2, C3], each the mean of three raters: the majority decides."""
    if not (
        isinstance(ds, list) and len(ds) == 3 and all(isinstance(v, int | float) and 0 <= v <= 1 for v in ds)
    ):
        raise LabelError(f"{where}: ds must be three means of raters in 0-1, found {ds!r}")
    return ds[0] >= 0.5, ds[1] >= 0.5, ds[2] >= 0.5


def _boxes(path: Path) -> dict[str, tuple[LabelledBox, ...]]:
    """File name -> boxes, by the file's own category list. A frame listed without a box is a negative and
    keeps an empty tuple.
    """
    if not path.is_file():
        return {}
    body = _load(path)
    names = {c["id"]: str(c["name"]).replace("_", " ") for c in body["categories"]}
    files = {i["id"]: i["file_name"] for i in body["images"]}
    found: dict[str, list[LabelledBox]] = {name: [] for name in files.values()}
    for annotation in body["annotations"]:
        category, image = annotation["category_id"], annotation["image_id"]
        if category not in names or image not in files:
            raise LabelError(f"{path}: annotation of unknown category {category} or image {image}")
        x, y, w, h = annotation["bbox"]
        if w <= 0 or h <= 0:
            raise LabelError(f"{path}: annotation of image {image} has an empty box {annotation['bbox']}")
        found[files[image]].append(LabelledBox(names[category], (x, y, x + w, y + h)))
    return {name: tuple(boxes) for name, boxes in found.items()}
