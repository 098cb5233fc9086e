"""AutoLaparo task 3 (reference datasets-a.md 8.1, 8.4): masks of four instruments, in two parts each, and of
the uterus.

Boxes: every instrument, its manipulator and its shaft ("ligasure manipulator"), and the uterus. The masks do
not tell two instruments of one kind apart: each connected component of at least 50 pixels is one box. The
uterus is one organ, so it has one box around all that shows of it.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.adapters._autolaparo import CLIP_NUMBERS, PROCEDURE, clip_seconds, task_folder
from surgr1.corpora.files import LabelError, LayoutError, Rejects, visible
from surgr1.corpora.masks import class_mask, component_boxes, mask_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

FRAMES = (1, 25, 50, 75, 100, 125)
"""The frames of a clip that have a mask, counted from 1 at 25 fps."""
_STEP = 20
"""Grey levels: 20 and 40 are the two parts of tool 1, 60 and 80 of tool 2, ..., 180 the uterus."""
_UTERUS = 180


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`masks/XXXYYY.png` with `imgs/XXXYYY.jpg` (clip, frame of the clip)."""
    folder, prefix = task_folder(source, 3, ("masks",))
    checked = source.images == "check"
    pictures_folder = source.picture_root / prefix / "imgs"
    if checked and not pictures_folder.is_dir():
        raise LayoutError(f"{pictures_folder}: no such folder of pictures; is the download complete?")
    masks = _names(folder / "masks", ".png", rejects)
    if not masks:
        raise LayoutError(f"{folder / 'masks'}: no XXXYYY.png; is the download complete?")
    clips: defaultdict[str, set[int]] = defaultdict(set)
    for name in sorted(masks | (_names(pictures_folder, ".jpg", rejects) if checked else set())):
        clips[name[:3]].add(int(name[3:]))
    for clip in clips:
        for frame in FRAMES:
            if f"{clip}{frame:03d}" not in masks:
                rejects.add(
                    folder / "masks" / f"{clip}{frame:03d}.png", "no such mask of a clip that is there"
                )
    roles = source.roles(clips)

    def frames(video: str) -> Iterator[Frame]:
        pictures = source.folder_of_pictures(f"{prefix}imgs", rejects, each=True)
        labelled = [n for n in FRAMES if f"{video}{n:03d}" in masks]
        for frame in labelled[:: source.every]:
            stem = f"{video}{frame:03d}"
            size = pictures.size(f"{stem}.jpg")
            if size is None:
                continue
            path = folder / "masks" / f"{stem}.png"
            try:
                mask = class_mask(path)
                labels = _labels(mask)
            except (LabelError, ValueError) as error:
                rejects.add(path, str(error).removeprefix(f"{path}: "))
                continue
            # Boxes are in the mask's pixels; the two have one size in the release.
            shape = (mask.shape[1], mask.shape[0])
            if checked and size != shape:
                rejects.add(path, f"a mask of {shape} pixels, but its picture has {size}")
                continue
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=clip_seconds(frame),
                image=f"{prefix}imgs/{stem}.jpg",
                size=shape,
                labels=labels,
                role=roles[video],
            )

    return Tree(roles, frames)


def _names(folder: Path, suffix: str, rejects: Rejects) -> set[str]:
    """The stems XXXYYY of a folder's files; others are rejected."""
    found = set()
    for path in visible(folder.iterdir()):
        name = re.fullmatch(r"(\d{3})(\d{3})", path.stem)
        if not (name and path.suffix == suffix and int(name[1]) in CLIP_NUMBERS and int(name[2]) in FRAMES):
            rejects.add(
                path,
                f"expected XXXYYY{suffix} with a clip of 001-{CLIP_NUMBERS[-1]} and a frame of"
                f" {', '.join(f'{n:03d}' for n in FRAMES)}",
            )
            continue
        found.add(path.stem)
    return found


def _labels(mask: NDArray[np.uint8]) -> Labels:
    """What a mask of grey levels (height, width) shows. Raises ValueError on an unknown level."""
    if mask.dtype != np.uint8:
        raise ValueError(f"a mask of {mask.dtype} values, expected grey levels of 8 bits")
    tools = vocabulary("autolaparo-localization", "tool").names
    uterus = vocabulary("autolaparo-localization", "tissue").names[0]
    levels = np.flatnonzero(np.bincount(mask.ravel())).tolist()
    unknown = [v for v in levels if v % _STEP or v > _UTERUS]
    if unknown:
        raise ValueError(f"grey levels {unknown[:5]} are no class; known: 0, {_STEP}, ..., {_UTERUS}")
    present: list[str] = []
    boxes: list[LabelledBox] = []
    for number, tool in enumerate(tools):
        first = _STEP * (2 * number + 1)
        if first in levels or first + _STEP in levels:
            present.append(tool)
            boxes += _tool_boxes(mask, tool, first)
    organ = mask_box(mask == _UTERUS) if _UTERUS in levels else None
    if organ is not None:
        boxes.append(LabelledBox(uterus, organ))
    return Labels(tools=tuple(present), tissues=(uterus,) if organ else (), boxes=tuple(boxes))


def _tool_boxes(mask: NDArray[np.uint8], tool: str, first: int) -> Iterator[LabelledBox]:
    """Boxes of a tool whose manipulator has the grey level `first`, and of its two parts."""
    area = (mask == first) | (mask == first + _STEP)
    around = mask_box(area)
    if around is None:
        return
    # Components are sought in the part of the picture that holds the tool: most of it does not.
    left, top, right, bottom = (int(v) for v in around)
    crop, area = mask[top:bottom, left:right], area[top:bottom, left:right]
    named = {tool: area, f"{tool} manipulator": crop == first, f"{tool} shaft": crop == first + _STEP}
    for name, part in named.items():
        for x1, y1, x2, y2 in component_boxes(part):
            yield LabelledBox(name, (x1 + left, y1 + top, x2 + left, y2 + top))
