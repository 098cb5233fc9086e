"""Endoscapes2023 (reference datasets-a.md section 4): critical view of safety by three raters, boxes of
anatomy and tools. `endoscapes_cvs` reads the same tree second by second.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.corpora.files import (
    LabelError,
    LayoutError,
    Pictures,
    Rejects,
    listing,
    read_json,
    read_table,
    visible,
)
from surgr1.corpora.masks import checked_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Box, LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "laparoscopic cholecystectomy"
_TOPS = ("endoscapes", "endoscapes2023", "endoscapes-2023")
"""Names of the archive's own folder; the folder it was unpacked in is accepted if it holds nothing else."""
_SPLITS = ("train", "val", "test")
_BOXES = "annotation_coco.json"
_TOOL = "tool"
"""The category of every instrument: Endoscapes does not tell tools apart."""
_SLACK = 0.05
"""Boxes may pass the picture's edge a little, as a share of its width; they are cut off there."""
_VIDEO = 1_000_000
"""A picture's id is its video number times this, and its frame number."""
_Boxes = dict[str, list[tuple[str, list[Any]]] | None]
"""File name -> (category name, x y width height) of its boxes; None where they cannot be trusted."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 25-fps frame of the unreleased video."""
    return frame / 25


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """CVS keyframes (`annotation_ds_coco.json`, one every 5 seconds) with the boxes of
    `annotation_coco.json` where a keyframe has any (one every 30 seconds).
    """
    return read_tree(source, rejects, "annotation_ds_coco.json", boxed=True)


@dataclass(frozen=True)
class _Folder:
    """One of train/, val/ and test/: its path below the root, its boxes and pictures."""

    name: str
    boxes: _Boxes
    pictures: Pictures


@dataclass(frozen=True)
class _Record:
    """One picture of a label file."""

    folder: _Folder
    name: str
    frame: int
    ds: Any
    where: str


def read_tree(source: Source, rejects: Rejects, labels: str, *, boxed: bool) -> Tree:
    """The pictures listed in `labels` of every split folder, with CVS labels and, if wanted, boxes. The
    folders `*_seg`, `12_5`, `25` and `all` hold links to the same pictures and are left alone.
    """
    inside = [p for p in visible(source.root.iterdir()) if p.is_dir()]
    top = inside[0] if len(inside) == 1 and inside[0].name in _TOPS else source.root
    if not any((top / split / labels).is_file() for split in _SPLITS):
        raise LayoutError(
            f"{source.root}: not an Endoscapes tree: no train|val|test/{labels}; found {listing(source.root)}"
        )
    videos: dict[str, list[_Record]] = {}
    for split in _SPLITS:
        path = top / split / labels
        if path.is_file():
            _add_records(source, rejects, path, videos, boxed=boxed)
        elif path.parent.is_dir():
            rejects.add(path, "no such file beside the pictures; is the download complete?")
    for split in _SPLITS:
        _check_listed(top / f"{split}_vids.txt", videos, rejects)
    roles = source.roles(videos)
    tissues = vocabulary("endoscapes", "tissue").names

    def frames(video: str) -> Iterator[Frame]:
        for record in sorted(videos[video], key=lambda r: r.frame)[:: source.every]:
            size = record.folder.pictures.size(record.name)
            if size is None:
                continue
            try:
                cvs = _majority(record.ds)
                boxes = _in_picture(record.folder.boxes.get(record.name), size)
            except ValueError as error:
                rejects.add(record.where, str(error))
                continue
            named = None if boxes is None else {b.name for b in boxes}
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=record.frame,
                seconds=frame_to_seconds(record.frame),
                image=f"{record.folder.name}/{record.name}",
                size=size,
                labels=Labels(
                    tissues=None if named is None else tuple(t for t in tissues if t in named),
                    boxes=boxes,
                    cvs=cvs,
                ),
                role=roles[video],
            )

    return Tree(roles, frames)


def _check_listed(path: Path, videos: Mapping[str, object], rejects: Rejects) -> None:
    """Report the videos of the release's own list of a split, where it is there, that have no pictures. The
    numbers are written as numpy does, "1.000000000000000000e+00".
    """
    if not path.is_file():
        return
    for line, cells in read_table(path):
        try:
            video = str(int(float(cells[0])))
        except (ValueError, OverflowError):
            rejects.add(f"{path}:{line}", f"{cells[0][:40]!r} is no video's number")
            continue
        if video not in videos:
            rejects.add(
                f"{path}:{line}", f"video {video} has no record in a label file; is the download whole?"
            )


def _add_records(
    source: Source, rejects: Rejects, path: Path, videos: dict[str, list[_Record]], *, boxed: bool
) -> None:
    """The records of one label file, by video."""
    relative = path.parent.relative_to(source.root).as_posix()
    # Sizes from every picture: one record of the release has height and width exchanged.
    pictures = source.folder_of_pictures(relative, rejects, each=True)
    boxes = _boxes(path.parent / _BOXES, rejects) if boxed else {}
    folder = _Folder(relative, boxes, pictures)
    seen: set[str] = set()
    mine: dict[str, list[_Record]] = {}
    for record in _load(path)["images"]:
        name = str(record.get("file_name")) if isinstance(record, dict) else ""
        where = f"{path}: {name}"
        try:
            video, frame = _key(record, name)
        except ValueError as error:
            rejects.add(where, str(error))
            continue
        if name in seen:
            rejects.add(where, "stands twice")
        elif video in videos:
            rejects.add(where, f"video {video} is also under {videos[video][0].folder.name}/")
        else:
            seen.add(name)
            mine.setdefault(video, []).append(_Record(folder, name, frame, record.get("ds"), where))
    for name in sorted(n for n, found in boxes.items() if found and n not in seen):
        rejects.add(path.parent / _BOXES, f"boxes of {name}, which is not in {path.name}")
    videos |= mine


def _key(record: Any, name: str) -> tuple[str, int]:
    """(video, frame) of a picture. Raises ValueError."""
    video, _, number = name.removesuffix(".jpg").partition("_")
    numbers = video.isdigit() and number.isdigit() and len(video) <= 9 >= len(number)
    if not (name.isascii() and name.endswith(".jpg") and numbers):
        raise ValueError(f"file_name {name!r} is not <video>_<frame>.jpg")
    frame, ident = int(number), record.get("id")
    if frame % 25:
        raise ValueError(f"frame {frame} is no whole second: frames count 25 a second")
    if record.get("video_id", int(video)) != int(video):
        raise ValueError(f"file_name {name!r} with video_id {record['video_id']!r}")
    # Only where the id is of the release's form: copies that number their pictures anew are readable too.
    if isinstance(ident, int) and ident // _VIDEO == int(video) and ident % _VIDEO != frame:
        raise ValueError(f"file_name {name!r} with the id of frame {ident % _VIDEO}")
    return video, frame


def _load(path: Path) -> dict[str, list[Any]]:
    """The three lists of a COCO file. Raises LabelError."""
    body = read_json(path)
    keys = ("images", "annotations", "categories")
    if not isinstance(body, dict) or not all(isinstance(body.get(k), list) for k in keys):
        raise LabelError(f"{path}: not a COCO file: expected lists under {', '.join(keys)}")
    return {k: body[k] for k in keys}


def _majority(ds: object) -> tuple[bool, bool, bool]:
    """(C1, C2, C3), each the mean of three raters: the majority decides. Raises ValueError."""
    if not (
        isinstance(ds, list)
        and len(ds) == 3
        and all(type(v) in (int, float) and 0 <= v <= 1 and abs(3 * v - round(3 * v)) < 0.03 for v in ds)
    ):
        raise ValueError(f"ds must be three means of raters in 0-1, so thirds, found {str(ds)[:80]}")
    return ds[0] >= 0.5, ds[1] >= 0.5, ds[2] >= 0.5


def _boxes(path: Path, rejects: Rejects) -> _Boxes:
    """File name -> boxes, by the file's own category list. A frame listed without a box is a negative and
    keeps an empty list. Raises LabelError.
    """
    if not path.is_file():
        rejects.add(path, "no such file: frames are read without boxes; is the download complete?")
        return {}
    body = _load(path)
    names = _categories(body["categories"], path)
    files: dict[str, str] = {}
    found: _Boxes = {}
    left_out: set[str] = set()
    for record in body["images"]:
        name = str(record.get("file_name")) if isinstance(record, dict) else ""
        try:
            _key(record, name)
        except ValueError as error:
            rejects.add(f"{path}: {name}", str(error))
            left_out.add(str(record.get("id")) if isinstance(record, dict) else "")
            continue
        if name in found or str(record.get("id")) in files:
            rejects.add(f"{path}: {name}", f"stands twice, or its id {record.get('id')} does")
            continue
        files[str(record.get("id"))] = name
        found[name] = []
    for number, row in enumerate(body["annotations"]):
        category, image = (
            str(row.get(k)) if isinstance(row, dict) else "" for k in ("category_id", "image_id")
        )
        if image in left_out:
            continue
        if category not in names or image not in files:
            raise LabelError(f"{path}: annotation {number} of unknown category {category} or image {image}")
        boxes, box = found[files[image]], row.get("bbox")
        if boxes is None:
            continue
        if isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {int, float}:
            boxes.append((names[category], box))
        else:
            # One box less would make the others look like all there is.
            rejects.add(
                f"{path}: {files[image]}", f"annotation {number}: bbox {str(box)[:80]} is not x, y, w, h"
            )
            found[files[image]] = None
    return found


def _categories(rows: list[Any], path: Path) -> dict[str, str]:
    """Id (as text) -> canonical name. Raises LabelError."""
    known = (*vocabulary("endoscapes", "tissue").names, _TOOL)
    found: dict[str, str] = {}
    for row in rows:
        name = str(row.get("name")).replace("_", " ") if isinstance(row, dict) else ""
        if name not in known or str(row.get("id")) in found:
            raise LabelError(f"{path}: category {row!r}: expected one each of {', '.join(known)}")
        found[str(row.get("id"))] = name
    return found


def _in_picture(
    boxes: list[tuple[str, list[Any]]] | None, size: tuple[int, int]
) -> tuple[LabelledBox, ...] | None:
    """Boxes in corners, checked against the picture. Raises ValueError."""
    if boxes is None:
        return None
    return tuple(LabelledBox(name, _corners(box, size)) for name, box in boxes)


def _corners(box: list[Any], size: tuple[int, int]) -> Box:
    try:
        x, y, w, h = map(float, box)
    except OverflowError as error:
        raise ValueError(f"box of {str(box)[:80]}: {error}") from error
    return checked_box((x, y, x + w, y + h), *size, slack=_SLACK * size[0])
