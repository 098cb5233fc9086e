"""EndoVis 2017 robotic instrument segmentation (reference datasets-a.md section 9): one mask folder per
instrument in the training part, one mask of instrument types in the test part.

In the test part instances are not separated: a box stands for a connected component of a type, and nothing
is counted.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.adapters._endovis import PORCINE, below, not_a_tree, numbered, unlabelled
from surgr1.corpora.files import LabelError, LayoutError, Rejects, read_json, visible
from surgr1.corpora.masks import class_mask, component_boxes, mask_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PARTS = (0, 10, 20, 30, 40)
"""Values of the training masks: background, shaft, wrist, claspers, probe."""
_SEQUENCE = re.compile(r"instrument_dataset_0*(\d+)")
_FRAME = re.compile(r"frame(\d{1,6})\.png")
_RESCALED = 32
_Read = tuple[Labels, int | None, tuple[int, int]]
"""Labels, number of instances, (height, width) of the masks."""


def frame_to_seconds(frame: int) -> float:
    """Seconds in the sequence of a 2-Hz counter, 0-based."""
    return frame / 2


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`instrument_dataset_N/` with `left_frames/` and `ground_truth/`, wherever the archives were unpacked
    below the root. "test/instrument_dataset_N" is the test part of a sequence, which is there where its masks
    are.
    """
    root = source.root
    training: dict[int, Path] = {}
    typed: dict[int, Path] = {}
    pictured: dict[int, Path] = {}
    mappings = []
    for folder in (root, *below(root, _SEQUENCE)):
        mappings.append(folder / "instrument_type_mapping.json")
        match = _SEQUENCE.fullmatch(folder.name)
        if match is None:
            continue
        number, masks = int(match[1]), _types_folder(folder)
        if (folder / "ground_truth").is_dir():
            _put(training, number, folder)
        elif masks is not None:
            _put(typed, number, masks)
        if not (folder / "ground_truth").is_dir() and (folder / "left_frames").is_dir():
            pictured[number] = folder
    if not training and not typed:
        wanted = (
            "instrument_dataset_N/ground_truth/ (training part) or"
            " instrument_dataset_N/[gt/]TypeSegmentation/ (test part)"
        )
        raise not_a_tree(root, "an EndoVis 2017 tree", wanted)
    for path in mappings:
        if path.is_file():
            _check_types(path)
    if typed:
        for number in sorted(pictured.keys() - typed.keys()):
            rejects.add(pictured[number], "a test sequence without TypeSegmentation/ in the test masks")
    readers: dict[str, tuple[str, dict[int, _Reader]]] = {}
    for number in sorted(training):
        left = training[number].relative_to(root) / "left_frames"
        readers[f"instrument_dataset_{number}"] = (left.as_posix(), _instances(training[number], rejects))
    for number in sorted(typed):
        place = pictured.get(number, root / _testing(number) / f"instrument_dataset_{number}")
        left = place.relative_to(root) / "left_frames"
        name = f"test/instrument_dataset_{number}"
        readers[name] = (left.as_posix(), _types(typed[number], rejects))
    roles = source.roles(readers)

    def frames(video: str) -> Iterator[Frame]:
        left, masks = readers[video]
        pictures = source.folder_of_pictures(left, rejects)
        if source.images == "check":
            unlabelled(root / left, _FRAME, masks, rejects)
        for number, (name, read) in list(masks.items())[:: source.every]:
            size = pictures.size(name)
            if size is None:
                continue
            try:
                labels, count, (height, width) = read()
            except (LabelError, ValueError) as error:
                rejects.add(f"{video}: frame {number}", str(error))
                continue
            if source.images == "check" and (width, height) != size:
                reason = f"a mask of {width} x {height} pixels, its picture has {size[0]} x {size[1]}"
                rejects.add(f"{video}: frame {number}", reason)
                continue
            yield Frame(
                source,
                procedure=PORCINE,
                video=video,
                frame=number,
                seconds=frame_to_seconds(number),
                image=f"{left}/{name}",
                size=(width, height),
                labels=labels,
                role=roles[video],
                tool_count=count,
            )

    return Tree(roles, frames)


def _put(found: dict[int, Path], number: int, folder: Path) -> None:
    if number in found:
        raise LayoutError(f"sequence {number} is there twice: {found[number]} and {folder}; keep one")
    found[number] = folder


def _types_folder(folder: Path) -> Path | None:
    """The type masks of a test sequence, the raw ones first; `gt/` is absent in some copies."""
    names = ("TypeSegmentation", "TypeSegmentationRescaled")
    places = [folder / gt / name for name in names for gt in ("gt", "")]
    return next((p for p in places if p.is_dir()), None)


def _testing(number: int) -> str:
    """The folder of a test sequence's pictures."""
    if number <= 8:
        return "instrument_1_4_testing" if number <= 4 else "instrument_5_8_testing"
    return "instrument_9_10_testing"


def _check_types(path: Path) -> None:
    """Compare the release's own {type: id} with the ids known here. Raises LabelError."""
    body = read_json(path)
    tools = vocabulary("endovis17", "tool")
    known = {native: tools.ids[name] for native, name in zip(tools.native, tools.names, strict=True)}
    if body != known:
        raise LabelError(f"{path}: instrument types are {str(body)[:200]}, expected {known}")


def tool_of_folder(name: str) -> str:
    """The instrument type of a mask folder: its name without the side, which only tells instances apart, and
    without "labels", which some folders lack. Raises ValueError.
    """
    words = [w for w in name.split("_") if w.lower() not in ("labels", "left", "right", "maryland")]
    plain = " ".join(words).lower()
    names = vocabulary("endovis17", "tool").names
    if plain not in names:
        raise ValueError(f"{name!r} names no known instrument; known: {', '.join(names)}")
    return plain


_Reader = tuple[str, Callable[[], _Read]]
"""File name of a frame and what reads its masks (raises LabelError, ValueError)."""


def _instances(sequence: Path, rejects: Rejects) -> dict[int, _Reader]:
    """Frame number -> reader of a training sequence."""
    folders: list[tuple[str, Path]] = []
    for path in visible((sequence / "ground_truth").iterdir()):
        if not path.is_dir() and not path.name.startswith("."):
            rejects.add(path, "no folder of masks; is the download complete?")
    for folder in below(sequence / "ground_truth", _SEQUENCE, 1):
        try:
            folders.append((tool_of_folder(folder.name), folder))
        except ValueError as error:
            rejects.add(folder, str(error))
    order = vocabulary("endovis17", "tool").ids
    folders.sort(key=lambda f: order[f[0]])
    frames: dict[int, str] = {}
    for _, folder in folders:
        frames |= numbered(folder, _FRAME, rejects)

    def reader(name: str) -> Callable[[], _Read]:
        return lambda: _read_instances([(tool, f / name) for tool, f in folders])

    return {number: (frames[number], reader(frames[number])) for number in sorted(frames)}


def _read_instances(masks: list[tuple[str, Path]]) -> _Read:
    boxes: list[LabelledBox] = []
    shapes: dict[tuple[int, int], Path] = {}
    for tool, path in masks:
        mask = class_mask(path)
        shapes.setdefault((mask.shape[0], mask.shape[1]), path)
        _check_values(mask, PARTS, path)
        box = mask_box(mask > 0)
        if box is not None:
            boxes.append(LabelledBox(tool, box))
    if len(shapes) > 1:
        raise ValueError(f"masks of several sizes: {', '.join(str(p) for p in shapes.values())}")
    labels = Labels(tools=tuple(dict.fromkeys(b.name for b in boxes)), boxes=tuple(boxes))
    return labels, len(boxes), next(iter(shapes))


def _types(folder: Path, rejects: Rejects) -> dict[int, _Reader]:
    """Frame number -> reader of a test sequence."""

    def reader(path: Path) -> Callable[[], _Read]:
        return lambda: _read_types(path)

    return {n: (name, reader(folder / name)) for n, name in numbered(folder, _FRAME, rejects).items()}


def _read_types(path: Path) -> _Read:
    mask = class_mask(path)
    step = _RESCALED if path.parent.name == "TypeSegmentationRescaled" else 1
    names = vocabulary("endovis17", "tool").names
    # 7 x 32 = 224 still fits a byte.
    _check_values(mask, tuple(step * n for n in range(len(names) + 1)), path)
    boxes = [
        LabelledBox(name, box)
        for number, name in enumerate(names, start=1)
        for box in component_boxes(mask == step * number)
    ]
    labels = Labels(tools=tuple(dict.fromkeys(b.name for b in boxes)), boxes=tuple(boxes))
    return labels, None, (mask.shape[0], mask.shape[1])


def _check_values(mask: NDArray[np.uint8], known: tuple[int, ...], path: Path) -> None:
    if mask.dtype != np.uint8:
        raise ValueError(f"{path}: {mask.dtype} values, expected bytes")
    count = np.bincount(mask.ravel(), minlength=256)
    stray = [v for v in np.flatnonzero(count).tolist() if v not in known]
    if stray:
        raise ValueError(f"{path}: values {stray[:8]} in a mask, expected {', '.join(map(str, known))}")
