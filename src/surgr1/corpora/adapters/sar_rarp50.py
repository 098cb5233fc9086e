"""SAR-RARP50 (reference datasets-b.md section 1): suturing actions of robot-assisted radical prostatectomy at
10 Hz, masks at 1 Hz.

Masks give boxes. Clasper, wrist and shaft (classes 1-3) together are one "robotic instrument"; the masks
separate no instances, so a box is a connected region: two instruments that touch share one, and one that a
thread crosses may fall apart. Suction tool, needle holder and clamps are read in the same way. Needle, thread
and catheter get one box around all their pixels.

By default boxes are labels that nobody is asked about, and only actions are: `Labels.tools` is not set. With
`split: masks` (the same division) frames that have a mask also say which of these are seen, and so are asked
where they are: the instruments as tools, the other things beside tissues.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_text, visible
from surgr1.corpora.masks import class_mask, component_boxes
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Box, LabelledBox, Labels, Role
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "robot-assisted radical prostatectomy"
TOOLS = ("robotic instrument", "suction")
THINGS = ("suturing needle", "thread", "needle holder", "clamps", "catheter")
ASKED = "masks"
"""The split under which what a mask shows is asked about."""
_ACTION_STEP, _MASK_STEP = 6, 60
"""Frames of the 60-fps video between two action rows, two masks."""
_DEEPEST = 5
"""Folders above a video, at most."""
_VIDEO = re.compile(r"video_\d+(?:_\d+)?")
_ROW = re.compile(r"(\d{1,9}),(\d{1,9})", re.ASCII)
_LEAST = 50
"""Pixels. Smaller regions are stray marks."""
_CLASSES: tuple[tuple[str, tuple[int, ...], bool], ...] = (
    ("robotic instrument", (1, 2, 3), True),
    ("suturing needle", (4,), False),
    ("thread", (5,), False),
    ("suction", (6,), True),
    ("needle holder", (7,), True),
    ("clamps", (8,), True),
    ("catheter", (9,), False),
)
"""Name, mask values (datasets-b.md 1.3), whether every connected region has its own box."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 60-fps frame of `video_left.avi`, 0-based: the unit of the label files and picture
    names.
    """
    return frame / 60


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """Every folder with an `action_discrete.txt`, wherever the release puts it; pictures in `rgb/` or
    `frames/`, masks in `segmentation/`.
    """
    folders = _video_folders(source.root, rejects)
    halves = {v: "_".join(v.split("_")[:2]) for v in folders}
    # The halves video_11_1 and video_11_2 belong to operation video_11.
    named = source.roles([*halves, *halves.values()])
    roles: dict[str, Role] = {
        v: named[v] if v in named else named[o] for v, o in halves.items() if v in named or o in named
    }
    pictures = _picture_folders(source, {v: folders[v] for v in roles})
    asked = source.split == ASKED

    def frames(video: str) -> Iterator[Frame]:
        folder, name = folders[video], pictures[video]
        listed = source.folder_of_pictures(name, rejects)
        rows = _actions(folder / "action_discrete.txt", rejects)
        masks = _masks(folder / "segmentation", rows, rejects, needed=asked)
        for frame, action in rows[:: source.every]:
            size = listed.size(f"{frame:09d}.png")
            if size is None:
                continue
            boxes = _boxes(masks[frame], size, rejects) if frame in masks else None
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=f"{name}/{frame:09d}.png",
                size=size,
                labels=_labels(action, boxes, asked=asked),
                role=roles[video],
                options={"tool": TOOLS} if asked else None,
            )

    return Tree(roles, frames)


def _labels(action: str, boxes: tuple[LabelledBox, ...] | None, *, asked: bool) -> Labels:
    if boxes is None or not asked:
        return Labels(action=action, boxes=boxes)
    seen = {b.name for b in boxes}
    return Labels(
        action=action,
        boxes=boxes,
        tools=tuple(t for t in TOOLS if t in seen),
        tissues=tuple(t for t in THINGS if t in seen),
    )


def _video_folders(root: Path, rejects: Rejects) -> dict[str, Path]:
    """Video name -> its folder. Raises LayoutError, LabelError."""
    found: dict[str, Path] = {}
    packed: list[Path] = []
    bare: dict[str, Path] = {}
    for here, folders, files in os.walk(root):
        folder = Path(here)
        deep = len(folder.relative_to(root).parts) >= _DEEPEST
        folders[:] = [] if deep else sorted(f for f in folders if f != "__MACOSX")
        packed += [folder / f for f in sorted(files) if f.startswith("video_") and f.endswith(".zip")]
        if "action_discrete.txt" not in files:
            if "video_left.avi" in files or _VIDEO.fullmatch(folder.name):
                bare[folder.name] = folder
            continue
        if folder.name in found:
            raise LabelError(f"{folder}: {folder.name} is also {found[folder.name]}; remove one")
        found[folder.name] = folder
        folders.clear()
    still = [p.name for p in packed if p.stem not in found]
    if still and found:
        rejects.add(root, f"not unpacked: {', '.join(still[:5])}")
    if not found:
        hint = f"; unpack each {still[0]} and the others first" if still else ""
        raise LayoutError(
            f"{root}: not a SAR-RARP50 tree: no action_discrete.txt below it; found {listing(root)}{hint}"
        )
    for name in sorted(bare.keys() - found.keys()):
        what = "video_left.avi" if (bare[name] / "video_left.avi").is_file() else "a video"
        rejects.add(bare[name], f"{what} without action_discrete.txt; is the download complete?")
    return dict(sorted(found.items()))


def _picture_folders(source: Source, folders: Mapping[str, Path]) -> dict[str, str]:
    """Video -> folder of its pictures, relative to the picture root. Raises LayoutError naming the videos
    that have none.
    """
    found: dict[str, str] = {}
    missing: list[Path] = []
    for video, folder in folders.items():
        inside = folder.relative_to(source.root)
        places = [(inside / n).as_posix() for n in ("rgb", "frames")]
        there = next((p for p in places if (source.picture_root / p).is_dir()), None)
        if there is None and source.images == "check":
            missing.append(folder)
        found[video] = there or places[0]
    if missing:
        names = ", ".join(f.name for f in missing[:5])
        if all((f / "video_left.avi").is_file() for f in missing):
            advice = f"the pictures are still in video_left.avi: run `surgr1 data frames {source.root}`"
        else:
            advice = "and no video_left.avi to extract them from; is the download complete?"
        raise LayoutError(f"{source.root}: no rgb/ or frames/ in {len(missing)} folders ({names}): {advice}")
    return found


def _actions(path: Path, rejects: Rejects) -> list[tuple[int, str]]:
    """(60-fps frame, canonical action) per line. Ids in the files are 0-7, although the dataset's README
    numbers them 1-8. Raises LabelError.
    """
    names = vocabulary("sar-rarp50", "action").names
    rows: list[tuple[int, str]] = []
    reason = ""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            frame, action = _row(line, rows[-1][0] if rows else -1)
        except ValueError as error:
            reason = reason or str(error)
            rejects.add(f"{path}:{number}", str(error))
            continue
        if action == len(names):
            raise LabelError(
                f"{path}:{number}: class 8: this looks like a 1-based variant; the released files hold 0-7"
            )
        rows.append((frame, names[action]))
    if not rows:
        raise LabelError(f"{path}: no line of it can be used: {reason or 'it is empty'}")
    expected = rows[-1][0] // _ACTION_STEP + 1
    if len(rows) != expected:
        rejects.add(
            path, f"{len(rows)} rows up to frame {rows[-1][0]}, expected {expected}: rows are missing"
        )
    return rows


def _row(line: str, before: int) -> tuple[int, int]:
    """(frame, class 0-8) of one line; `before` is the frame of the line before it. Raises ValueError."""
    match = _ROW.fullmatch(line)
    if match is None:
        raise ValueError(f"expected `frame,class`, found {line[:60]!r}")
    frame, action = int(match[1]), int(match[2])
    if not 0 <= action <= 8:
        raise ValueError(f"class {action} is not in 0-7")
    if frame < 0 or frame % _ACTION_STEP:
        raise ValueError(f"frame {frame} is not a multiple of {_ACTION_STEP}")
    if frame <= before:
        raise ValueError(f"frame {frame} does not follow {before}")
    return frame, action


def _masks(folder: Path, rows: list[tuple[int, str]], rejects: Rejects, *, needed: bool) -> dict[int, Path]:
    """Frame -> mask. There must be one at every 60th frame (datasets-b.md 1.1: (n_frames - 1) // 60 + 1); the
    whole folder may be missing unless `needed`. Raises LayoutError.
    """
    if not folder.is_dir():
        if needed:
            raise LayoutError(f"{folder}: no such folder of masks; split {ASKED!r} needs them")
        return {}
    found: dict[int, Path] = {}
    for path in visible(folder.glob("*.png")):
        if not (path.stem.isascii() and path.stem.isdigit()) or int(path.stem) % _MASK_STEP:
            rejects.add(path, f"its name is no multiple of {_MASK_STEP}")
        else:
            found[int(path.stem)] = path
    last = rows[-1][0] // _MASK_STEP
    wanted = range(0, last * _MASK_STEP + 1, _MASK_STEP)
    for frame in wanted:
        if frame not in found:
            rejects.add(folder / f"{frame:09d}.png", "a frame that must have a mask has none")
    if later := sorted(found.keys() - set(wanted)):
        rejects.add(
            folder,
            f"{len(found)} masks (up to frame {later[-1]}), expected {last + 1}: the actions end at frame"
            f" {rows[-1][0]}",
        )
    return found


def _boxes(path: Path, size: tuple[int, int], rejects: Rejects) -> tuple[LabelledBox, ...] | None:
    """What a mask shows, in pixels of a picture of `size` (width, height); None, with the mask rejected, if
    it cannot be used.
    """
    from scipy import ndimage

    try:
        mask = class_mask(path)
    except LabelError as error:
        rejects.add(path, str(error).removeprefix(f"{path}: "))
        return None
    height, width = mask.shape
    if width * size[1] != height * size[0]:
        rejects.add(path, f"a mask of {width} x {height} beside a picture of {size[0]} x {size[1]}")
        return None
    # One pass finds where each class lies; everything else looks at these places alone.
    places = ndimage.find_objects(mask.astype("int32"))
    if len(places) > _CLASSES[-1][1][-1]:
        rejects.add(path, f"mask value {len(places)} is not in 0-{_CLASSES[-1][1][-1]}")
        return None
    scale = size[0] / width
    found: list[LabelledBox] = []
    for name, values, apart in _CLASSES:
        parts = [places[v - 1] for v in values if v <= len(places) and places[v - 1] is not None]
        if not parts:
            continue
        top, left = (min(p[axis].start for p in parts) for axis in (0, 1))
        bottom, right = (max(p[axis].stop for p in parts) for axis in (0, 1))
        inside = mask[top:bottom, left:right]
        marked = (inside >= values[0]) & (inside <= values[-1])
        boxes: list[Box] = []
        if apart:
            boxes = list(component_boxes(marked, least=_LEAST))
        elif int(marked.sum()) >= _LEAST:
            boxes = [(0.0, 0.0, float(right - left), float(bottom - top))]
        for x1, y1, x2, y2 in boxes:
            box = ((x1 + left) * scale, (y1 + top) * scale, (x2 + left) * scale, (y2 + top) * scale)
            found.append(LabelledBox(name, box))
    return tuple(found)
