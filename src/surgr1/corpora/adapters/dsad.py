"""The Dresden Surgical Anatomy Dataset (reference datasets-b.md section 9): masks of eleven structures in
robot-assisted rectal operations, split by surgery.

A picture of a single-organ folder has one organ's mask, and that organ's mask says nothing of the others:
which structures are visible comes from `weak_labels.csv` alone, boxes from the masks there are. A picture
without a row in `weak_labels.csv` is rejected, since a question about it would take "not segmented" for "not
there". `multilabel/` holds the pictures of `stomach/` with more masks: a picture of that name is read once,
from `multilabel/`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgr1.corpora.files import LabelError, LayoutError, Pictures, Rejects, listing, read_table, visible
from surgr1.corpora.masks import class_mask, component_boxes
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "robot-assisted rectal resection"
_MULTILABEL = "multilabel"
_SAME_PICTURES = "stomach"
_PER_FOLDER = 1000
_SURGERY = re.compile(r"\d{2}")
_IMAGE = re.compile(r"image(\d{1,3})\.png")
_MASK = re.compile(r"mask(\d{1,3})(?:_([a-z_]+))?\.png")
_ROW = re.compile(r"images?(\d{1,4})\.png")
_COLUMNS: tuple[str | None, ...] = (
    "abdominal wall",
    "colon",
    "inferior mesenteric artery",
    "intestinal veins",
    "liver",
    "pancreas",
    "small intestine",
    "spleen",
    "stomach",
    "ureter",
    # Not documented: a public parser calls it null, a text suggests the uterus.
    None,
    "vesicular glands",
)
"""What the twelve columns of weak_labels.csv stand for (section 9.2)."""


def frame_number(folder: str, number: int) -> int:
    """One number for picture `number` of a surgery's organ folder (native name): the folder's place among the
    eleven (1-11) times 1000 and the picture's number. `multilabel` counts as `stomach`.
    """
    organs = vocabulary("dsad", "tissue").native
    place = organs.index(_SAME_PICTURES if folder == _MULTILABEL else folder)
    return (place + 1) * _PER_FOLDER + number


def frame_to_seconds(frame: int) -> float:
    """Always 0: the pictures are unordered samples of an operation without time stamps (section 0.3)."""
    return 0.0


@dataclass(frozen=True)
class _Folder:
    """`<organ>/<surgery>/`: the masks of every usable picture by number and native organ name, the pictures'
    file names, and which structures are visible (weak_labels.csv).
    """

    path: Path
    masks: dict[int, dict[str, Path]]
    names: dict[int, str]
    weak: dict[int, dict[str, bool]]
    pictures: Pictures


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`<organ>/NN/{imageKK.png,maskKK.png,weak_labels.csv}` and `multilabel/NN/` with `maskKK_<organ>.png`.
    Organ folders that were not unpacked are left out; the raters' folders are not read.
    """
    root = _top(source.root)
    folders: dict[str, list[Path]] = {}
    # Multilabel first: what it has is not read again from stomach/.
    for organ in (_MULTILABEL, *vocabulary("dsad", "tissue").native):
        if not (root / organ).is_dir():
            if os.path.lexists(root / organ):
                rejects.add(root / organ, "no folder of surgeries; is the download complete?")
            continue
        for path in visible((root / organ).iterdir()):
            if path.is_dir() and _SURGERY.fullmatch(path.name):
                folders.setdefault(path.name, []).append(path)
            elif path.is_dir():
                rejects.add(path, "a folder that is no two-digit surgery")
            elif _SURGERY.fullmatch(path.name):
                rejects.add(path, "no folder of pictures; is the download complete?")
    if not folders:
        raise LayoutError(
            f"{root}: not a DSAD tree: expected folders such as liver/NN/ and multilabel/NN/ with imageKK.png"
            f" and maskKK.png; found {listing(root)}"
        )
    roles = source.roles(sorted(folders))

    def frames(video: str) -> Iterator[Frame]:
        taken: dict[int, tuple[_Folder, int]] = {}
        for path in folders[video]:
            folder = _folder(path, source, rejects)
            for number in folder.masks:
                taken.setdefault(frame_number(path.parent.name, number), (folder, number))
        for key in sorted(taken)[:: source.every]:
            folder, number = taken[key]
            found = _labels(folder, number, rejects, checked=source.images == "check")
            if found is None:
                continue
            labels, size = found
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=key,
                seconds=frame_to_seconds(key),
                image=(folder.path / folder.names[number]).relative_to(source.root).as_posix(),
                size=size,
                labels=labels,
                role=roles[video],
            )

    return Tree(roles, frames)


def _top(root: Path) -> Path:
    """The folder that holds the organ folders: the given one, or one below it, as the archive unpacks."""
    organs = (_MULTILABEL, *vocabulary("dsad", "tissue").native)
    for folder in (root, *(p for p in visible(root.iterdir()) if p.is_dir())):
        if any((folder / o).is_dir() and _surgeries(folder / o) for o in organs):
            return folder
    return root


def _surgeries(folder: Path) -> bool:
    return any(_SURGERY.fullmatch(p.name) and p.is_dir() for p in folder.iterdir())


def _folder(path: Path, source: Source, rejects: Rejects) -> _Folder:
    """List a folder once; what has no counterpart among pictures, masks and rows is rejected."""
    organ = path.parent.name
    known = vocabulary("dsad", "tissue").native
    pictures: dict[int, str] = {}
    masks: dict[int, dict[str, Path]] = {}
    names: dict[int, str] = {}
    for file in visible(path.iterdir()):
        if image := _IMAGE.fullmatch(file.name):
            pictures[int(image[1])] = file.name
        mask = _MASK.fullmatch(file.name)
        if mask is None:
            continue
        number, named = int(mask[1]), mask[2] or ""
        if (named not in known) if organ == _MULTILABEL else named:
            wanted = f"one of {', '.join(known)}" if organ == _MULTILABEL else "no organ in its name"
            rejects.add(file, f"a mask of {named or 'no organ'}, expected {wanted}")
        elif (named or organ) in masks.setdefault(number, {}):
            rejects.add(file, f"picture {number} has two masks of {named or organ}")
        else:
            masks[number][named or organ] = file
            names.setdefault(number, f"image{mask[1]}.png")
    weak = _weak_labels(path / "weak_labels.csv", rejects)
    for number in sorted(set(pictures) - set(masks)):
        rejects.add(path / pictures[number], "a picture without a mask; is the download complete?")
    if weak is not None:
        for number in sorted(set(weak) - set(masks)):
            rejects.add(path / "weak_labels.csv", f"a row for picture {number}, which has no mask")
        for number in sorted(set(masks) - set(weak)):
            rejects.add(path / names[number], "no row in weak_labels.csv: what it shows is not known")
    relative = path.relative_to(source.root).as_posix()
    return _Folder(
        path,
        {n: m for n, m in sorted(masks.items()) if weak is not None and n in weak},
        names,
        weak or {},
        source.folder_of_pictures(relative, rejects, each=True),
    )


def _weak_labels(path: Path, rejects: Rejects) -> dict[int, dict[str, bool]] | None:
    """Number of a picture -> whether each structure is visible; None, with one reject, where there is no file
    (a public parser finds annotations of surgery 14 missing, section 9.4).
    """
    if not path.is_file():
        rejects.add(path, "no such file: what the pictures of this folder show is not known")
        return None
    found: dict[int, dict[str, bool]] = {}
    for line, cells in read_table(path):
        name = _ROW.fullmatch(cells[0].strip())
        values = [c.strip() for c in cells[1:]]
        if values and not values[-1]:
            values.pop()
        if name is None:
            rejects.add(f"{path}:{line}", f"expected images0NN.png, found {cells[0]!r:.60}")
        elif len(values) != len(_COLUMNS) or set(values) - {"0", "1"}:
            rejects.add(f"{path}:{line}", f"expected twelve values 0 or 1, found {','.join(values)!r:.60}")
        elif int(name[1]) in found:
            rejects.add(f"{path}:{line}", f"picture {int(name[1])} stands twice")
        else:
            found[int(name[1])] = {
                c: v == "1" for c, v in zip(_COLUMNS, values, strict=True) if c is not None
            }
    return found


def _labels(
    folder: _Folder, number: int, rejects: Rejects, *, checked: bool
) -> tuple[Labels, tuple[int, int]] | None:
    """Labels and size of one picture; None, with the reason rejected, where they contradict each other."""
    size = folder.pictures.size(folder.names[number])
    if size is None:
        return None
    weak = folder.weak[number]
    boxes: list[LabelledBox] = []
    for organ, path in folder.masks[number].items():
        tissue = vocabulary("dsad", "tissue").from_native(organ)
        try:
            found, shape, empty = _boxes(path, tissue)
        except LabelError as error:
            rejects.add(path, str(error).removeprefix(f"{path}: "))
            return None
        # Without pictures the masks know the size.
        size = size if checked else shape
        if shape != size:
            rejects.add(path, f"{shape[0]} x {shape[1]} pixels, its picture has {size[0]} x {size[1]}")
            return None
        if found and not weak[tissue]:
            rejects.add(path, f"{tissue} is segmented, but not visible by weak_labels.csv")
            return None
        if empty and weak[tissue]:
            rejects.add(path, f"an empty mask, but {tissue} is visible by weak_labels.csv")
            return None
        boxes += found
    return Labels(tissues=tuple(t for t, seen in weak.items() if seen), boxes=tuple(boxes)), size


def _boxes(path: Path, tissue: str) -> tuple[list[LabelledBox], tuple[int, int], bool]:
    """The boxes of a binary mask's parts, its (width, height), and whether it is empty. Raises LabelError."""
    mask = class_mask(path)
    shown, top = mask > 0, int(mask.max()) or 255
    if top not in (1, 255) or (shown != (mask == top)).any():
        values = np.unique(mask)[:5].tolist()
        raise LabelError(f"{path}: values {values}, expected 0 and 255; was the mask resampled?")
    boxes = [LabelledBox(tissue, b) for b in component_boxes(shown)]
    return boxes, (mask.shape[1], mask.shape[0]), not shown.any()
