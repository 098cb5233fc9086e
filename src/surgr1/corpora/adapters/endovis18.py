"""EndoVis 2018 robotic scene segmentation (reference datasets-b.md section 11): colour masks of instruments
and tissues.

Instances are not separated: a box stands for a connected component, so two instruments that touch are one
and one that is covered in the middle is two. Shaft, wrist and clasper together are a "robotic instrument";
the challenge labels no type.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.adapters._endovis import (
    NEPHRECTOMY,
    left_folder,
    not_a_tree,
    numbered,
    sequences,
    unlabelled,
)
from surgr1.corpora.files import LabelError, LayoutError, Rejects, read_json
from surgr1.corpora.masks import component_boxes, read_mask
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

CLASSES: dict[str, tuple[int, int, int]] = {
    "background-tissue": (0, 0, 0),
    "instrument-shaft": (0, 255, 0),
    "instrument-clasper": (0, 255, 255),
    "instrument-wrist": (125, 255, 12),
    "kidney-parenchyma": (255, 55, 0),
    "covered-kidney": (24, 55, 125),
    "thread": (187, 155, 25),
    "clamps": (0, 255, 125),
    "suturing-needle": (255, 255, 125),
    "suction-instrument": (123, 15, 175),
    "small-intestine": (124, 155, 5),
    "ultrasound-probe": (12, 255, 141),
}
"""The challenge's classes in the order of their ids, with their colours (RGB; section 11.3)."""
_PARTS = ("instrument-shaft", "instrument-clasper", "instrument-wrist")
_OTHER_NAMES = {"intestine": "small-intestine"}
_LAST_TRAINING_FRAME = 148
_FRAME = re.compile(r"frame(\d{1,6})\.png")
_REPAIR = re.compile(r"(seq_\d+)_(frame\d+\.png)")
_UNKNOWN = 255


def frame_to_seconds(frame: int) -> float:
    """Nominal seconds: the counter runs at 1 Hz, but near-duplicate frames were taken out (section 0.3)."""
    return float(frame)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`seq_N/{left_frames,labels}/frameKKK.png`, in the release folders or not; the test part in `test_data/`
    or `test/`. Masks in a folder `repairs/` go before those of the releases.
    """
    root = source.root
    folders = sequences(root)
    if not any((f / "labels").is_dir() for f in folders.values()):
        wanted = "seq_N/labels/ with seq_N/left_frames/ (the release folders, test_data/ or test/ above them)"
        raise not_a_tree(root, "an EndoVis 2018 tree", wanted)
    for folder in sorted({f.parent for f in folders.values()}):
        if (folder / "labels.json").is_file():
            _check_classes(folder / "labels.json")
    masks: dict[str, dict[int, Path]] = {}
    for video, folder in folders.items():
        if not (folder / "labels").is_dir():
            rejects.add(folder, "a sequence without labels/; is the download complete?")
            continue
        found = numbered(folder / "labels", _FRAME, rejects)
        if not video.startswith("test/") and found and max(found) > _LAST_TRAINING_FRAME:
            raise LayoutError(
                f"{folder}: frame {max(found)}, but training sequences end at frame {_LAST_TRAINING_FRAME}:"
                " the test part, other footage of the same names, was unpacked over it; unpack both anew, the"
                " test part into test_data/"
            )
        masks[video] = {n: folder / "labels" / name for n, name in found.items()}
    for path in _repairs(root):
        match = _REPAIR.fullmatch(path.name)
        frame = _FRAME.fullmatch(match[2]) if match else None
        if match is None or frame is None or int(frame[1]) not in masks.get(match[1], {}):
            rejects.add(path, "a repaired mask of no frame of the training part")
        else:
            masks[match[1]][int(frame[1])] = path
    roles = source.roles(masks)

    def frames(video: str) -> Iterator[Frame]:
        folder = folders[video]
        left = (folder / left_folder(folder)).relative_to(root).as_posix()
        pictures = source.folder_of_pictures(left, rejects)
        if source.images == "check":
            unlabelled(root / left, _FRAME, masks[video], rejects)
        for number, mask in list(masks[video].items())[:: source.every]:
            name = f"frame{mask.name.rpartition('frame')[2]}"
            size = pictures.size(name)
            if size is None:
                continue
            try:
                labels, (height, width) = _read(mask)
            except (LabelError, ValueError) as error:
                rejects.add(mask, str(error).removeprefix(f"{mask}: "))
                continue
            if source.images == "check" and (width, height) != size:
                rejects.add(mask, f"{width} x {height} pixels, its picture has {size[0]} x {size[1]}")
                continue
            yield Frame(
                source,
                procedure=NEPHRECTOMY,
                video=video,
                frame=number,
                seconds=frame_to_seconds(number),
                image=f"{left}/{name}",
                size=(width, height),
                labels=labels,
                role=roles[video],
            )

    return Tree(roles, frames)


def _repairs(root: Path) -> list[Path]:
    """The masks of `repairs.zip`, where it was unpacked into its own folder."""
    folders = [p for p in (root / "repairs", root / "repairs" / "repairs") if p.is_dir()]
    return sorted(p for f in folders for p in f.iterdir() if p.suffix == ".png" and p.name[0] != ".")


def _check_classes(path: Path) -> None:
    """Compare a release's own list with the classes known here; a release lists those it uses. Raises
    LabelError where they disagree.
    """
    body = read_json(path)
    rows: Any = body.get("classes") if isinstance(body, dict) else body
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise LabelError(f"{path}: not a list of classes with name and color")
    seen: set[str] = set()
    for row in rows:
        name, colour = str(row.get("name")), row.get("color")
        known = _OTHER_NAMES.get(name, name)
        if known not in CLASSES:
            raise LabelError(f"{path}: unknown class {name!r}; known: {', '.join(CLASSES)}")
        if not isinstance(colour, list) or tuple(colour[:3]) != CLASSES[known]:
            raise LabelError(f"{path}: {name} has colour {colour}, expected {CLASSES[known]}")
        if known in seen:
            raise LabelError(f"{path}: {name} stands twice")
        seen.add(known)


@lru_cache(maxsize=1)
def _by_colour() -> NDArray[np.uint8]:
    """Class number of every colour (24 bits)."""
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for number, (r, g, b) in enumerate(CLASSES.values()):
        table[r << 16 | g << 8 | b] = number
    return table


@lru_cache(maxsize=1)
def _things() -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """(kind, canonical name, class numbers) of everything that is no background."""
    order = list(CLASSES)
    tools, tissues = vocabulary("endovis18", "tool"), vocabulary("endovis18", "tissue")
    return (
        ("tool", "robotic instrument", tuple(order.index(p) for p in _PARTS)),
        *(
            ("tool", n, (order.index(v),))
            for v, n in zip(tools.native, tools.names, strict=True)
            if v in order
        ),
        *(("tissue", n, (order.index(v),)) for v, n in zip(tissues.native, tissues.names, strict=True)),
    )


def _read(path: Path) -> tuple[Labels, tuple[int, int]]:
    """The labels of a mask and its height and width. Raises LabelError, ValueError."""
    mask = read_mask(path)
    if mask.ndim != 3 or mask.shape[2] < 3:
        raise ValueError("no colour mask (RGB); is it a prepared copy of the challenge's?")
    rgb = mask[..., :3].astype(np.uint32)
    classes = _by_colour()[rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]]
    count = np.bincount(classes.ravel(), minlength=_UNKNOWN + 1)
    if count[_UNKNOWN]:
        colour = tuple(int(v) for v in mask[classes == _UNKNOWN][0][:3])
        raise ValueError(f"{int(count[_UNKNOWN])} pixels of a colour that is no class, such as {colour}")
    boxes = [
        (kind, LabelledBox(name, box))
        for kind, name, numbers in _things()
        if any(count[n] for n in numbers)
        for box in component_boxes(np.isin(classes, numbers))
    ]
    labels = Labels(
        tools=tuple(dict.fromkeys(b.name for kind, b in boxes if kind == "tool")),
        tissues=tuple(dict.fromkeys(b.name for kind, b in boxes if kind == "tissue")),
        boxes=tuple(b for _, b in boxes),
    )
    return labels, (mask.shape[0], mask.shape[1])
