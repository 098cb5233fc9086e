"""CoPESD (reference datasets-b.md section 8): one instruction and its answer per picture of an endoscopic
submucosal dissection, with the boxes of forceps and knife inside the answer.

The pair is kept as it stands. The action is the motion that the instruction asks for. Boxes are fractions of
the picture's width in both directions, in two conventions that change with the video; which one is tested.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from surgr1.corpora.datasets import official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, visible
from surgr1.corpora.masks import checked_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Box, LabelledBox, Labels, Role
from surgr1.corpora.sources import Source, Tree

PROCEDURE = "endoscopic submucosal dissection"
_FILES: dict[str, Role] = {"smllm_train.json": "train", "smllm_test.json": "test"}
_IMAGE = re.compile(r"(?:.*[\\/])?(\d{6})[\\/](\d{4})\.jpg")
_BOX = re.compile(r"\b(Forceps|Knife)\[([^\]]*)(\]?)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_GRASP = re.compile(r"\b(?:grasp|grip|clamp|hold)")
_LIFT = re.compile(r"\b(?:lift|pull|retract|move|raise)")
_ROUNDING = 0.015
"""How far a box may leave the picture (fractions of the width): two decimals, start and length rounded."""
_SAME = 20
"""So many boxes of one tool in a video, all equal, are place-holders (video 232521 has 220)."""


def frame_to_seconds(frame: int) -> float:
    """A picture counter from 1. Its rate is not published; one a second is assumed, so that only the order
    can be relied on.
    """
    return float(frame - 1)


class _Item(NamedTuple):
    """One picture's instruction and answer; `boxes` are (tool, four fractions as written)."""

    where: str
    frame: int
    instruction: str
    answer: str
    action: str
    boxes: tuple[tuple[str, tuple[float, ...]], ...]


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`smllm_train.json` and `smllm_test.json` anywhere below the root; pictures `<video>/<frame>.jpg` in any
    folder. The files divide the videos.
    """
    videos, official = _read_files(source, rejects)
    folders: dict[str, str] = {}
    if source.images == "check":
        folders = _folders(source.picture_root)
        for name in sorted(folders.keys() - videos.keys()):
            rejects.add(
                source.picture_root / folders[name], f"pictures without items in {' or '.join(_FILES)}"
            )
    roles = source.roles(sorted(videos), official)

    def frames(video: str) -> Iterator[Frame]:
        items = sorted(videos[video].values(), key=lambda i: i.frame)
        corners = _corners(items)
        placed = not _placeholders(items)
        folder = folders.get(video, video)
        pictures = source.folder_of_pictures(folder, rejects)
        for item in items[:: source.every]:
            name = f"{item.frame:04d}.jpg"
            size = pictures.size(name)
            if size is None:
                continue
            try:
                boxes = tuple(LabelledBox(t, _pixels(b, corners, size)) for t, b in item.boxes)
            except ValueError as error:
                rejects.add(item.where, str(error))
                continue
            # Two boxes are both tools there are; a single one says nothing of the other tool.
            both = placed and {t for t, _ in item.boxes} == {"forceps", "knife"}
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=item.frame,
                seconds=frame_to_seconds(item.frame),
                image=f"{folder}/{name}",
                size=size,
                labels=Labels(
                    tools=("forceps", "knife") if both else None,
                    action=item.action,
                    boxes=boxes if placed and boxes else None,
                ),
                role=roles[video],
                tool_count=len(boxes) if both else None,
                questions=((item.instruction, item.answer),),
            )

    return Tree(roles, frames)


def _read_files(source: Source, rejects: Rejects) -> tuple[dict[str, dict[int, _Item]], dict[str, Role]]:
    """(video -> frame -> item, video -> role). A video of the test file is no training video."""
    root = source.root
    paths = {name: visible(root.rglob(name)) for name in _FILES}
    if not any(paths.values()):
        raise LayoutError(
            f"{root}: not a CoPESD tree: expected {' or '.join(_FILES)} in it or below; found {listing(root)}"
        )
    for found in paths.values():
        if len(found) > 1:
            raise LayoutError(f"{root}: {' and '.join(map(str, found))}: keep one of them")
    videos: dict[str, dict[int, _Item]] = {}
    official: dict[str, Role] = {}
    test = official_split(source.layout, source.split)
    # The test file first: what both hold is test.
    for name in sorted(paths, key=lambda n: _FILES[n] == "train"):
        for path in paths[name]:
            items = _read_file(path, rejects)
            for video, by_frame in items.items():
                if video in videos:
                    rejects.add(
                        f"{path}: video {video}",
                        f"{len(by_frame)} items of a video that the test file holds: left out",
                    )
                    continue
                videos[video] = by_frame
                official[video] = test.get(video, _FILES[name])
    return videos, official


def _read_file(path: Path, rejects: Rejects) -> dict[str, dict[int, _Item]]:
    """Video -> frame -> item of one file. Raises LabelError."""
    body = read_json(path)
    if not isinstance(body, list):
        raise LabelError(f"{path}: not a CoPESD file: expected a list of items, found {type(body).__name__}")
    videos: dict[str, dict[int, _Item]] = {}
    for number, raw in enumerate(body):
        where = f"{path}: item {number}"
        try:
            video, item = _item(raw, where)
        except ValueError as error:
            rejects.add(where, str(error))
            continue
        frames = videos.setdefault(video, {})
        if item.frame in frames:
            rejects.add(where, f"picture {video}/{item.frame:04d}.jpg stands twice")
            continue
        frames[item.frame] = item
    return videos


def _item(raw: Any, where: str) -> tuple[str, _Item]:
    """(video, item). Raises ValueError."""
    if not isinstance(raw, dict) or not {"conversations", "image"} <= raw.keys():
        raise ValueError(f"expected an object with conversations and image, found {str(raw)[:80]}")
    match = _IMAGE.fullmatch(raw["image"]) if isinstance(raw["image"], str) else None
    if match is None:
        raise ValueError(f"image {str(raw['image'])[-60:]!r} does not end in <6 digits>/<4 digits>.jpg")
    frame = int(match[2])
    if frame == 0:
        raise ValueError(f"image {match[0][-60:]!r}: pictures are counted from 1")
    turns = raw["conversations"]
    if not (
        isinstance(turns, list)
        and all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns)
        and [t.get("from") for t in turns] == ["human", "gpt"]
    ):
        raise ValueError(f"expected one turn of human and one of gpt, found {str(turns)[:80]}")
    instruction, answer = (t["value"].strip() for t in turns)
    if not all(t.isprintable() and t for t in (instruction, answer)):
        raise ValueError(f"empty, or characters that are no text, in {instruction[:80]!r}, {answer[:80]!r}")
    action = _motion(instruction)
    if not action:
        raise ValueError(f"instruction {instruction[:80]!r} asks for none of the five motions")
    if ("dissect" in answer.lower()) != (action == "dissect mucosa flap"):
        raise ValueError(f"the answer {answer[:80]!r} does not belong to {instruction[:80]!r}")
    boxes = _boxes(answer)
    if bool(boxes) == (action == "adjust camera"):
        raise ValueError(f"{len(boxes)} boxes in the answer to {instruction[:80]!r}: {answer[:80]!r}")
    return match[1], _Item(where, frame, instruction, answer, action, boxes)


def _boxes(answer: str) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """The boxes of an answer as written. Raises ValueError."""
    found = []
    for tool, text, end in _BOX.findall(answer):
        numbers = [part.strip() for part in text.split(",")]
        if not end or len(numbers) != 4 or not all(_NUMBER.fullmatch(n) for n in numbers):
            raise ValueError(f"expected four numbers in brackets, found {tool}[{text[:40]}")
        found.append((tool.lower(), tuple(float(n) for n in numbers)))
    if len({t for t, _ in found}) < len(found):
        raise ValueError(f"a tool has two boxes in {answer[:80]!r}")
    return tuple(found)


@lru_cache(maxsize=1024)
def _motion(instruction: str) -> str:
    """Which of the five motions an instruction asks for, "" if none: each is paraphrased in five ways, and
    no more is relied on than the words that tell the five apart.
    """
    text = instruction.lower()
    forceps, knife = "forceps" in text, "knife" in text
    if "camera" in text:
        return "adjust camera"
    if "dissect" in text:
        return "dissect mucosa flap" if knife else ""
    if forceps and not knife and _GRASP.search(text):
        return "grasp mucosa flap"
    if forceps and _LIFT.search(text):
        return "lift mucosa flap with forceps" + (" and knife" if knife else "")
    return ""


def _corners(items: Sequence[_Item]) -> bool:
    """Whether a video's boxes are x1, y1, x2, y2 (or else x, y, width, height): the reading that fewer boxes
    contradict, corners where both do equally.
    """
    boxes = [b for item in items for _, b in item.boxes]
    as_corners = sum(x2 <= x1 or y2 <= y1 for x1, y1, x2, y2 in boxes)
    as_sides = sum(w <= 0 or h <= 0 or max(x + w, y + h) > 1 + _ROUNDING for x, y, w, h in boxes)
    return as_corners <= as_sides


def _placeholders(items: Sequence[_Item]) -> bool:
    """Whether a tool's boxes in a video are all the same one: nobody drew them."""
    boxes = Counter(b for item in items for b in item.boxes)
    tools = Counter(t for t, _ in boxes.elements())
    return any(count == tools[box[0]] >= _SAME for box, count in boxes.items())


def _pixels(box: Sequence[float], corners: bool, size: tuple[int, int]) -> Box:
    """A box in pixels of a picture (width, height). Frames were padded to squares at the bottom, so both
    axes are in widths. Raises ValueError.
    """
    width, height = size
    x, y, x2, y2 = box if corners else (box[0], box[1], box[0] + box[2], box[1] + box[3])
    try:
        return checked_box([v * width for v in (x, y, x2, y2)], width, height, slack=_ROUNDING * width)
    except ValueError:
        raise ValueError(
            f"box {list(box)} is empty or leaves the picture of {width} x {height}, read as"
            f" {'x1, y1, x2, y2' if corners else 'x, y, width, height'} in widths of the picture"
        ) from None


def _folders(root: Path) -> dict[str, str]:
    """Video -> its folder of pictures, relative to `root`. Raises LayoutError."""
    found: dict[str, str] = {}
    for folder, names, _ in os.walk(root):
        for name in sorted(n for n in names if re.fullmatch(r"\d{6}", n)):
            path = Path(folder, name).relative_to(root).as_posix()
            if name in found:
                raise LayoutError(
                    f"{root}: {found[name]} and {path}: pictures of one video in two places; keep one"
                )
            found[name] = path
            names.remove(name)
        names[:] = [n for n in names if n != "__MACOSX"]
    if not found:
        raise LayoutError(f"{root}: no folder of pictures <6 digits>/<4 digits>.jpg; found {listing(root)}")
    return found
