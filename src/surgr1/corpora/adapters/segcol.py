"""SegCol: tools and folds in colonoscopy (reference datasets-b.md section 10): masks with a JSON file beside
each, in sequences of 40 frames.

The organisers' code names the mask values 127, 128 and 129 unlike their data (section 10.3), so a tool's name
is the key in the JSON file. Where a release has no `json_files/`, 127 and 129 have the names that the sample
files show, and 128 has none. Instances are not separated: a box stands for a connected component.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.files import (
    LabelError,
    LayoutError,
    Pictures,
    Rejects,
    listing,
    read_json,
    read_text,
    visible,
)
from surgr1.corpora.masks import class_mask, component_boxes
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "colonoscopy"
FOLDS = 255
"""Mask value of colon folds (thin lines)."""
SHOWN_BY_SAMPLES = {"resection_device": 127, "balloon": 129}
"""JSON key -> mask value, as the sample files have them (section 10.3)."""
TOOL_VALUES = (127, 128, 129)
_FRAMES_A_SECOND = 10.0
_PARTS = ("train", "valid")
_SEQUENCE = re.compile(r"Seq_\d{3}_\d+")
_LINE = re.compile(r"(?:.*/)?(train|valid)/(Seq_\d{3}_\d+)/segm_maps/\2_segm_map_(\d{1,6})\.png")


def frame_to_seconds(frame: int) -> float:
    """Seconds in the sequence, at the lower of the rates named: 10 to 12 frames a second (section 10.1)."""
    return frame / _FRAMES_A_SECOND


@dataclass(frozen=True)
class _Sequence:
    """One sequence: masks and JSON files by frame number; `labels` is None where it has no `json_files/`."""

    path: Path
    masks: dict[int, Path]
    labels: dict[int, Path] | None


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`{train,valid}/Seq_VVV_SSSSS/` with `imgs/frame_KKKK.png`, `segm_maps/<sequence>_segm_map_K.png` and
    `json_files/<sequence>_frame_K.json`; all three are paired by number. `unlabelled/` is not read. Where a
    part has its list of masks, list and folders must agree.
    """
    root = _top(source.root)
    sequences: dict[str, _Sequence] = {}
    for part in _PARTS:
        folders = visible((root / part).iterdir()) if (root / part).is_dir() else []
        here: dict[str, _Sequence] = {}
        for path in folders:
            if not path.is_dir() or not _SEQUENCE.fullmatch(path.name):
                continue
            if not (path / "segm_maps").is_dir():
                rejects.add(path, "a sequence without segm_maps/; is the download complete?")
            elif path.name in sequences:
                rejects.add(path, "a sequence that is in train/ and in valid/; read from train/")
            else:
                here[path.name] = _sequence(path, rejects)
        _compare_list(root / part / f"{part}_segmentation_maps.csv", part, here, rejects)
        sequences |= here
    if not sequences:
        raise LayoutError(
            f"{root}: not a SegCol tree: expected train/ or valid/ with Seq_VVV_SSSSS/segm_maps/; found"
            f" {listing(root)}"
        )
    roles = source.roles(sorted(sequences))

    def frames(video: str) -> Iterator[Frame]:
        sequence = sequences[video]
        folder = (sequence.path / "imgs").relative_to(source.root).as_posix()
        pictures = source.folder_of_pictures(folder, rejects, each=True)
        if source.images == "check":
            _unlabelled(source.root / folder, sequence, rejects)
        for number, mask in list(sequence.masks.items())[:: source.every]:
            name = f"frame_{number:04d}.png"
            found = _read(sequence, number, mask, pictures, name, rejects, checked=source.images == "check")
            if found is None:
                continue
            labels, size = found
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=number,
                seconds=frame_to_seconds(number),
                image=f"{folder}/{name}",
                size=size,
                labels=labels,
                role=roles[video],
            )

    return Tree(roles, frames)


def _top(root: Path) -> Path:
    """The folder that holds train/ and valid/: the given one, or one below it."""
    for folder in (root, *(p for p in visible(root.iterdir()) if p.is_dir())):
        for part in _PARTS:
            if (folder / part).is_dir() and any((folder / part).glob("Seq_*/segm_maps")):
                return folder
    return root


def _numbered(folder: Path, pattern: str, rejects: Rejects) -> dict[int, Path]:
    """Files by the number in their names, in order of numbers (not of names: 10 comes after 2)."""
    compiled = re.compile(pattern)
    found: dict[int, Path] = {}
    for path in visible(folder.iterdir()):
        match = compiled.fullmatch(path.name)
        if match is None:
            rejects.add(path, f"a file that is not named {pattern}")
        elif int(match[1]) in found:
            rejects.add(path, f"number {int(match[1])} stands twice")
        else:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def _sequence(path: Path, rejects: Rejects) -> _Sequence:
    name = re.escape(path.name)
    masks = _numbered(path / "segm_maps", rf"{name}_segm_map_(\d{{1,6}})\.png", rejects)
    labels = None
    if (path / "json_files").is_dir():
        labels = _numbered(path / "json_files", rf"{name}_frame_(\d{{1,6}})\.json", rejects)
        for number in sorted(set(labels) - set(masks)):
            rejects.add(labels[number], "a JSON file without a mask; is the download complete?")
    return _Sequence(path, masks, labels)


def _compare_list(path: Path, part: str, sequences: dict[str, _Sequence], rejects: Rejects) -> None:
    """Compare a part's list of masks (one path a line) with what is there."""
    if not path.is_file():
        return
    listed: set[tuple[str, int]] = set()
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        match = _LINE.fullmatch(text.strip())
        if match is None or match[1] != part:
            wanted = f"{part}/Seq_VVV_SSSSS/segm_maps/Seq_VVV_SSSSS_segm_map_K.png"
            rejects.add(f"{path}:{line}", f"expected .../{wanted}, found {text!r:.80}")
            continue
        key = match[2], int(match[3])
        if key in listed:
            rejects.add(f"{path}:{line}", f"{key[0]} mask {key[1]} stands twice")
        listed.add(key)
    there = {(name, number) for name, s in sequences.items() for number in s.masks}
    for name, number in sorted(listed - there):
        rejects.add(path, f"{name} mask {number} is listed, but not there; is the download complete?")
    for name, number in sorted(there - listed):
        rejects.add(path, f"{name} mask {number} is there, but not listed")


def _unlabelled(folder: Path, sequence: _Sequence, rejects: Rejects) -> None:
    for number, path in _numbered(folder, r"frame_(\d{4})\.png", rejects).items():
        if number not in sequence.masks:
            rejects.add(path, "a picture without a mask; is the download complete?")


def _read(
    sequence: _Sequence,
    number: int,
    path: Path,
    pictures: Pictures,
    name: str,
    rejects: Rejects,
    *,
    checked: bool,
) -> tuple[Labels, tuple[int, int]] | None:
    """Labels and size of a frame; None, with the reason rejected, where its files are broken or disagree."""
    size = pictures.size(name)
    if size is None:
        return None
    try:
        mask = class_mask(path)
        shape = mask.shape[1], mask.shape[0]
        if checked and shape != size:
            raise LabelError(f"{path}: {shape[0]} x {shape[1]} pixels, its picture has {size[0]} x {size[1]}")
        if mask.dtype != np.uint8:
            raise LabelError(f"{path}: a mask of {mask.dtype} values, expected 8 bits")
        values = {int(v) for v in np.flatnonzero(np.bincount(mask.ravel()))}
        if stray := sorted(values - {0, FOLDS, *TOOL_VALUES}):
            raise LabelError(f"{path}: values {stray[:5]} are no class; was the mask resampled?")
        if sequence.labels is None:
            tools = _names_by_value(path, values)
        elif number not in sequence.labels:
            raise LabelError(f"{path}: no JSON file of frame {number} beside it; is the download complete?")
        else:
            tools = _names_by_json(
                sequence.labels[number], f"{sequence.path.name}/frame_{number}", shape, values
            )
    except LabelError as error:
        # All of them begin with the file's name.
        rejects.add(*str(error).split(": ", 1))
        return None
    return _labels(mask, tools), shape


def _labels(mask: NDArray[np.uint8], tools: dict[int, str]) -> Labels:
    """The labels of a mask whose tool values have these names. Specks below a component's least size are no
    object.
    """
    fold = vocabulary("segcol", "tissue").from_native("colon_folds")
    boxes = {
        name: [LabelledBox(name, b) for b in component_boxes(mask == value)]
        for value, name in ({FOLDS: fold} | tools).items()
    }
    seen = [name for name, found in boxes.items() if found]
    return Labels(
        tools=tuple(n for n in vocabulary("segcol", "tool").names if n in seen),
        tissues=(fold,) if fold in seen else (),
        boxes=tuple(b for found in boxes.values() for b in found),
    )


def _names_by_value(path: Path, values: set[int]) -> dict[int, str]:
    """Mask value -> tool where there are no JSON files. Raises LabelError on a value no sample explains."""
    names = {v: vocabulary("segcol", "tool").from_native(k) for k, v in SHOWN_BY_SAMPLES.items()}
    unknown = sorted((values & set(TOOL_VALUES)) - set(names))
    if unknown:
        raise LabelError(f"{path}: value {unknown[0]} has no certain name without its JSON file")
    return {v: n for v, n in names.items() if v in values}


def _names_by_json(path: Path, name: str, shape: tuple[int, int], values: set[int]) -> dict[int, str]:
    """Mask value -> tool by the frame's JSON file. Raises LabelError where the two disagree."""
    body = read_json(path)
    about: Any = body.get("metadata") if isinstance(body, dict) else None
    objects: Any = body.get("annotations") if isinstance(body, dict) else None
    if not isinstance(about, dict) or not isinstance(objects, dict):
        raise LabelError(f"{path}: expected `metadata` and `annotations`")
    if about.get("name") != name:
        raise LabelError(f"{path}: describes {about.get('name')!r:.60}, expected {name!r}")
    if (about.get("width"), about.get("height")) != shape:
        raise LabelError(
            f"{path}: says {about.get('width')!r:.20} x {about.get('height')!r:.20} pixels, its mask has"
            f" {shape[0]} x {shape[1]}"
        )
    # "0": "" stands for the background.
    keys = {k for k, v in objects.items() if v}
    known = vocabulary("segcol", "tool").native
    if unknown := sorted(keys - {"colon_folds", *known}):
        raise LabelError(f"{path}: unknown object {unknown[0]!r:.60}; known: colon_folds, {', '.join(known)}")
    if ("colon_folds" in keys) != (FOLDS in values):
        raise LabelError(f"{path}: {'folds' if 'colon_folds' in keys else 'no folds'}, unlike its mask")
    tools, shown = sorted(keys & set(known)), sorted(values & set(TOOL_VALUES))
    fitting = {SHOWN_BY_SAMPLES.get(k, 128): k for k in tools}
    if sorted(fitting) != shown or len(fitting) != len(tools):
        raise LabelError(
            f"{path}: tools {', '.join(tools) or 'none'}, but its mask has values {shown or 'of none'}"
        )
    return {v: vocabulary("segcol", "tool").from_native(k) for v, k in fitting.items()}
