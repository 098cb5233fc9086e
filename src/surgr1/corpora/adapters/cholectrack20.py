"""CholecTrack20 (reference datasets-a.md section 7): boxes of every tool, once a second, and action triplets
in eight videos. Phases are not read: which id is which phase is not settled.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, visible
from surgr1.corpora.masks import checked_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Box, LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import triplet_parts, vocabulary

PROCEDURE = "laparoscopic cholecystectomy"
_SPLITS = ("training", "validation", "testing", "train", "val", "test")
_UNLABELLED, _NO_TRIPLET = -1, -2
"""Values of `triplet`: the video has none; this tool (mostly the specimen bag) has none."""
_ABOUT = 0.01
"""Label files of one content differ in their heads alone."""
_SLACK = 0.05
"""Boxes may pass the picture's edge a little, as a share of its width; they are cut off there."""


class _Row(NamedTuple):
    """One tool of a frame as its file has it: `box` x, y, width, height; None where `given` is no box."""

    tool: Any
    box: tuple[float, ...] | None
    triplet: Any
    given: Any


_Entries = list[tuple[int, list[_Row]]]
"""(frame, its tools) in frame order."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 25-fps frame counted from 1 (1, 26, 51, ...): the unit of keys and picture names."""
    return (frame - 1) / 25


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`Training|Validation|Testing/VIDnn/` with `VIDnn.json` and `Frames/NNNNNN.png`. Pictures without a
    label entry are ignored (the release has some).
    """
    folders = _folders(source.root)
    paths: dict[str, Path] = {}
    for video, folder in sorted(folders.items()):
        found = _label_files(folder)
        if len(found) == 1:
            paths[video] = found[0]
        else:
            rejects.add(
                folder, f"{len(found)} label files VIDnn.json, expected one; is the download complete?"
            )
    roles = source.roles(paths)
    pictures_of = {v: _pictures(source, folders[v]) for v in roles}
    options = {"triplet": vocabulary("cholect50", "triplet").names}

    def frames(video: str) -> Iterator[Frame]:
        path, folder = paths[video], pictures_of[video]
        entries = _annotations(path, video)
        twin = _twin(video, entries, paths, roles)
        if twin:
            rejects.add(
                path, f"repeats the labels of {twin}; see the splits of docs/datasets.md, or leave it out"
            )
            return
        pixels = _in_pixels(entries)
        with_triplets = any(r.triplet not in (None, _UNLABELLED) for _, rows in entries for r in rows)
        pictures = source.folder_of_pictures(folder, rejects)
        for frame, rows in entries[:: source.every]:
            if frame % 25 != 1:
                rejects.add(
                    f"{path}: frame {frame}", "expected 1, 26, 51, ...: every 25th frame, counted from 1"
                )
                continue
            name = f"{frame:06d}.png"
            size = pictures.size(name)
            if size is None:
                continue
            try:
                labels = _labels(rows, size, pixels, with_triplets)
            except ValueError as error:
                rejects.add(f"{path}: frame {frame}", str(error))
                continue
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=f"{folder}/{name}",
                size=size,
                labels=labels,
                role=roles[video],
                tool_count=len(rows),
                options=options,
            )

    return Tree(roles, frames)


def _folders(root: Path) -> dict[str, Path]:
    """Video name -> its folder, below the folders of the splits. Raises LayoutError."""
    inside = [p for p in visible(root.iterdir()) if p.is_dir()]
    # The archive's own folder, where nothing else lies beside it.
    top = inside[0] if len(inside) == 1 and inside[0].name.lower() == "cholectrack20" else root
    found: dict[str, Path] = {}
    splits = [p for p in visible(top.iterdir()) if p.is_dir() and p.name.lower() in _SPLITS]
    for folder in (f for split in splits for f in visible(split.iterdir())):
        match = re.fullmatch(r"(?i)vid(\d+)", folder.name)
        if match and folder.is_dir():
            video = f"VID{int(match[1]):02d}"
            if video in found:
                raise LayoutError(f"{video} stands in {found[video].parent} and in {folder.parent}")
            found[video] = folder
    if any(_label_files(f) for f in found.values()):
        return found
    raise LayoutError(
        f"{root}: not a CholecTrack20 tree: expected Training|Validation|Testing/VIDnn/VIDnn.json and"
        f" Frames/; found {listing(root)}"
    )


def _label_files(folder: Path) -> list[Path]:
    return [p for p in visible(folder.iterdir()) if re.fullmatch(r"(?i)vid\d+\.json", p.name)]


def _pictures(source: Source, folder: Path) -> str:
    """The folder of a video's pictures relative to the picture root. Raises LayoutError."""
    relative = (folder.relative_to(source.root) / "Frames").as_posix()
    if source.images == "check" and not (source.picture_root / relative).is_dir():
        videos = [p.name for p in visible(folder.iterdir()) if p.suffix.lower() == ".mp4"]
        raise LayoutError(
            f"{source.picture_root / relative}: no such folder of pictures; "
            + (
                f"{videos[0]} is there: run `surgr1 data frames {folder.parent.parent}`"
                if videos
                else "is the download complete?"
            )
        )
    return relative


def _annotations(path: Path, video: str) -> _Entries:
    """A label file. Raises LabelError."""
    body = read_json(path)
    entries = body.get("annotations") if isinstance(body, dict) else None
    if not isinstance(entries, dict):
        raise LabelError(f"{path}: not a CholecTrack20 label file: no mapping under `annotations`")
    about = body.get("video")
    # The release's code says `name`, its figure `seq`.
    named = str(about.get("name", about.get("seq", ""))) if isinstance(about, dict) else ""
    number = re.search(r"[0-9]{1,9}", named)
    if number and int(number[0]) != int(video[3:]):
        raise LabelError(f"{path}: says it labels {named}, not {video}; copy it again from the source")
    _check_tools(body.get("categories"), path)
    stray = [k for k in entries if not re.fullmatch(r"[0-9]{1,9}", k)]
    if stray:
        raise LabelError(f"{path}: annotation key {stray[0][:40]!r} is not a frame number")
    wrong = [
        k for k, v in entries.items() if not (isinstance(v, list) and all(isinstance(r, dict) for r in v))
    ]
    if wrong:
        raise LabelError(f"{path}: frame {wrong[0]}: expected a list of records, one per tool")
    return [(int(k), [_row(r) for r in entries[k]]) for k in sorted(entries, key=int)]


def _check_tools(categories: Any, path: Path) -> None:
    """The file's own list of tools must not number a tool otherwise. Raises LabelError."""
    listed = categories.get("tools") if isinstance(categories, dict) else None
    words = vocabulary("cholectrack20", "tool")
    for entry in listed if isinstance(listed, list) else []:
        name = str(entry.get("name")).replace("-", " ") if isinstance(entry, dict) else ""
        if name in words.ids and entry.get("id") != words.ids[name]:
            raise LabelError(f"{path}: tool {name!r} has id {entry.get('id')}, expected {words.ids[name]}")


def _row(record: Mapping[str, Any]) -> _Row:
    """What is read of one record. The README says `category` where the release's code says `instrument`."""
    box = record.get("tool_bbox")
    numbers = None
    if isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {int, float}:
        try:
            numbers = tuple(map(float, box))
        except OverflowError:
            numbers = None
    return _Row(record.get("instrument", record.get("category")), numbers, record.get("triplet"), box)


def _in_pixels(entries: _Entries) -> bool:
    """Whether boxes are in pixels, as the release's README shows them, not shares of the picture, as its
    files have been seen to hold: decided by most boxes of the file, so that one damaged box does not.
    """
    boxes = [r.box for _, rows in entries for r in rows if r.box is not None]
    return 2 * sum(max(b) > 2 for b in boxes) > len(boxes)


def _twin(video: str, entries: _Entries, paths: Mapping[str, Path], taken: Iterable[str]) -> str:
    """The first of the videos read before this one whose file has the same frames, tools and boxes, "" where
    none has. Only files of about the same length are looked into.
    """
    said = _said(entries)
    length = paths[video].stat().st_size
    for other in taken if said else ():
        if other == video:
            break
        if abs(paths[other].stat().st_size - length) <= _ABOUT * length:
            try:
                if _said(_annotations(paths[other], other)) == said:
                    return other
            except LabelError:
                # That file's own turn says what is wrong with it.
                continue
    return ""


def _said(entries: _Entries) -> list[tuple[int, str, tuple[float, ...] | None]]:
    return [(k, str(r.tool), r.box) for k, rows in entries for r in rows]


def _pick(names: tuple[str, ...], number: Any, kind: str) -> str:
    if not (isinstance(number, int | float) and 0 <= number < len(names) and number == int(number)):
        raise ValueError(f"{kind} id {number!r} is not in 0-{len(names) - 1}")
    return names[int(number)]


def _box(row: _Row, size: tuple[int, int], pixels: bool) -> Box:
    if row.box is None:
        raise ValueError(f"tool_bbox must be four numbers, found {str(row.given)[:80]}")
    (x, y, w, h), (sx, sy) = row.box, ((1, 1) if pixels else size)
    return checked_box((x * sx, y * sy, (x + w) * sx, (y + h) * sy), *size, slack=_SLACK * size[0])


def _labels(rows: list[_Row], size: tuple[int, int], pixels: bool, with_triplets: bool) -> Labels:
    """The frame's labels. Raises ValueError."""
    names = vocabulary("cholectrack20", "tool").names
    boxes = tuple(LabelledBox(_pick(names, r.tool, "instrument"), _box(r, size, pixels)) for r in rows)
    if len({(r.tool, r.box, str(r.triplet)) for r in rows}) < len(rows):
        raise ValueError("a record stands twice")
    shown = {b.name for b in boxes}
    tools = tuple(t for t in names if t in shown)
    found: set[str] = set()
    for row, box in zip(rows, boxes, strict=True):
        if with_triplets and row.triplet is None:
            raise ValueError("a record without `triplet`, which others of the file have")
        if row.triplet in (None, _UNLABELLED):
            with_triplets = False
        elif row.triplet != _NO_TRIPLET:
            name = _pick(vocabulary("cholect50", "triplet").names, row.triplet, "triplet")
            if triplet_parts(name)[0] != box.name:
                raise ValueError(f"triplet {row.triplet} ({name}) contradicts tool {row.tool} ({box.name})")
            found.add(name)
    if not with_triplets:
        return Labels(tools=tools, boxes=boxes)
    deeds = tuple(triplet_parts(n) for n in vocabulary("cholect50", "triplet").names if n in found)
    verbs, targets = (vocabulary("cholect50", k).names for k in ("verb", "target"))
    return Labels(
        tools=tools,
        verbs=tuple(v for v in verbs if v in {d[1] for d in deeds}),
        targets=tuple(x for x in targets if x in {d[2] for d in deeds}),
        triplets=deeds,
        boxes=boxes,
    )
