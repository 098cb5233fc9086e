"""CholecInstanceSeg (reference datasets-a.md section 6): outlines of every instrument instance in frames of
Cholec80, CholecT50 and CholecSeg8k; read here as boxes.

A "video" here is a sequence of the release: one operation sampled in one way (VID01_t50_full). Two sequences
of one operation can hold the same moment.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.datasets import official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, read_table, visible
from surgr1.corpora.masks import polygon_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "laparoscopic cholecystectomy"
_TOPS = (
    "cholecinstanceseg",
    "CholecInstanceSeg",
    "cholecinstanceseg_reference_image_and_annotations",
    "cholecinstance_seg_reference_image_set",
)
"""Names of the archives' own folders: labels, labels with pictures as the authors' script joins them, and
pictures. The folder they were unpacked in is accepted if it holds nothing else.
"""
_ROLES = {"train": "train", "val": "validation", "test": "test"}
_SEQUENCE = re.compile(r"VID(\d{1,9})_(seg8k|t50|t80)(?:_full|_sparse)?")
_FRAME = re.compile(r"(seg8k|t50|t80)_(?:VID|video)(\d{1,9})_(\d{1,9})")
_METADATA = "cholecinstanceseg_metadata.csv"
_SLACK = 0.05
"""Outlines may pass the picture's edge a little, as a share of its width; boxes are cut off there."""


def frame_to_seconds(part: str, frame: int) -> float:
    """Seconds of the number in a file name: CholecSeg8k counts 25-fps frames, the other parts ("t50", "t80")
    seconds.
    """
    return frame / 25 if part == "seg8k" else float(frame)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`train|val|test/VIDnn_<part>/ann_dir/*.json` with `img_dir/` of the same names, which is a download of
    its own and may lie beside the labels or in `source.pictures`.
    """
    folders = _sequences(source.root, rejects)
    roles = source.roles(folders)
    pictures_of = {v: _pictures(source, folders[v]) for v in roles}
    listed = _listed(source.root)

    def frames(video: str) -> Iterator[Frame]:
        names = _files(folders[video] / "ann_dir", video, rejects)
        for absent in sorted(listed.get(video, frozenset()) - {p.name for _, _, p in names}):
            rejects.add(folders[video] / "ann_dir" / absent, f"is in {_METADATA}, but there is no such file")
        folder = pictures_of[video]
        pictures = source.folder_of_pictures(folder, rejects)
        for part, frame, path in names[:: source.every]:
            picture = f"{path.stem}.png"
            size = pictures.size(picture)
            if size is None:
                continue
            try:
                body = read_json(path)
                if not isinstance(body, dict) or not isinstance(body.get("shapes"), list):
                    raise ValueError("not a LabelMe file: no list under `shapes`")
                size = _size(body, size, checked=source.images == "check")
                _check_name(body, path.stem)
                boxes = _boxes(body["shapes"], size)
            except (LabelError, ValueError) as error:
                # A file is one frame: the others are read all the same.
                rejects.add(path, str(error).removeprefix(f"{path}: "))
                continue
            tools = {b.name for b in boxes}
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(part, frame),
                image=f"{folder}/{picture}",
                size=size,
                labels=Labels(
                    tools=tuple(t for t in vocabulary("cholec-instance-seg", "tool").names if t in tools),
                    boxes=boxes,
                ),
                role=roles[video],
                tool_count=len(boxes),
            )

    return Tree(roles, frames)


def _tops(root: Path) -> list[Path]:
    """The folders that can hold train/, val/ and test/."""
    inside = [p for p in visible(root.iterdir()) if p.is_dir()]
    return inside if inside and all(p.name in _TOPS for p in inside) else [root]


def _sequences(root: Path, rejects: Rejects) -> dict[str, Path]:
    """Sequence name -> its folder, below train/, val/ and test/ (or right below, as in the authors' sample).
    Raises LayoutError.
    """
    official = official_split("cholec-instance-seg", "official")
    found: dict[str, Path] = {}
    bare: dict[str, Path] = {}
    for top in _tops(root):
        for part in (top / p for p in (*_ROLES, ".")):
            for folder in visible(part.iterdir()) if part.is_dir() else ():
                if not _SEQUENCE.fullmatch(folder.name):
                    continue
                if not (folder / "ann_dir").is_dir():
                    bare[folder.name] = folder
                    continue
                role = official.get(folder.name)
                if folder.name in found:
                    rejects.add(folder, f"stands a second time, as {found[folder.name]} does")
                elif part.name in _ROLES and role is not None and role != _ROLES[part.name]:
                    rejects.add(folder, f"stands under {part.name}/, the official division has it in {role}")
                else:
                    found[folder.name] = folder
    if not found:
        raise LayoutError(
            f"{root}: not a CholecInstanceSeg tree: expected train|val|test/VIDnn_<part>/ann_dir/ with parts"
            f" seg8k, t50_full, t50_sparse, t80_sparse; found {listing(root)}"
        )
    for name in sorted(bare.keys() - found.keys()):
        rejects.add(bare[name], "a sequence without ann_dir/; is the download complete?")
    return {v: found[v] for v in sorted(found)}


def _pictures(source: Source, folder: Path) -> str:
    """A sequence's folder of pictures relative to the picture root. Raises LayoutError."""
    relative = folder.relative_to(source.root)
    inner = Path(*relative.parts[relative.parts[0] in _TOPS :], "img_dir")
    if source.images == "skip":
        return (relative / "img_dir").as_posix()
    tops = [t.relative_to(source.picture_root) for t in _tops(source.picture_root)]
    found = [t / inner for t in tops if (source.picture_root / t / inner).is_dir()]
    if not found:
        raise LayoutError(
            f"{source.picture_root}: no pictures {inner}; they are a download of their own"
            " (cholecinstance_seg_reference_image_set, syn64826192): put it beside the labels, or name its"
            " folder as `pictures`"
        )
    return found[0].as_posix()


def _listed(root: Path) -> dict[str, frozenset[str]]:
    """Sequence -> label files that the release's own table names; {} without the table. It writes paths with
    backslashes (datasets-a.md 6.1; the column's name is second-hand).
    """
    path = next((t / _METADATA for t in (root, *_tops(root)) if (t / _METADATA).is_file()), None)
    if path is None:
        return {}
    rows = read_table(path)
    _, header = next(rows, (0, []))
    if "Annotation_Path" not in header:
        return {}
    column = header.index("Annotation_Path")
    found: dict[str, set[str]] = {}
    for _, cells in rows:
        parts = cells[column].replace("\\", "/").split("/") if len(cells) > column else []
        if len(parts) >= 3:
            found.setdefault(parts[-3], set()).add(parts[-1])
    return {k: frozenset(v) for k, v in found.items()}


def _files(folder: Path, video: str, rejects: Rejects) -> list[tuple[str, int, Path]]:
    """(part, frame number, file) in order of time; names of another sequence are rejected."""
    sequence = _SEQUENCE.fullmatch(video)
    found: dict[int, tuple[str, int, Path]] = {}
    for path in visible([p for p in folder.iterdir() if p.suffix == ".json"]):
        name = _FRAME.fullmatch(path.stem)
        if name is None or sequence is None or (int(name[2]), name[1]) != (int(sequence[1]), sequence[2]):
            rejects.add(path, f"expected <part>_VIDnn_<frame>.json of {video}")
        elif int(name[3]) in found:
            rejects.add(path, f"the same frame as {found[int(name[3])][2].name}")
        else:
            found[int(name[3])] = name[1], int(name[3]), path
    return [found[k] for k in sorted(found)]


def _size(body: dict[str, Any], size: tuple[int, int], *, checked: bool) -> tuple[int, int]:
    """The size that the outlines refer to; the file names it in some frames only. Raises ValueError where it
    is not the picture's.
    """
    named = body.get("imageWidth"), body.get("imageHeight")
    if None in named or named == size:
        return size
    if checked or named[::-1] == size:
        raise ValueError(f"labels a picture of {named[0]} x {named[1]}, which has {size[0]} x {size[1]}")
    width, height = named
    if not (isinstance(width, int) and isinstance(height, int) and 0 < width < 20000 and 0 < height < 20000):
        raise ValueError(f"imageWidth and imageHeight are {width!r} and {height!r}")
    return width, height


def _check_name(body: dict[str, Any], stem: str) -> None:
    """The picture that the file names, where it is named in the release's form, is its own. Raises
    ValueError.
    """
    named = Path(str(body.get("imagePath", "")).replace("\\", "/")).stem
    if _FRAME.fullmatch(named) and named != stem:
        raise ValueError(f"labels {named}, not {stem}")


def _boxes(shapes: list[Any], size: tuple[int, int]) -> tuple[LabelledBox, ...]:
    """One box per instance: all outlines of one label and group. Raises ValueError."""
    names = vocabulary("cholec-instance-seg", "tool")
    instances: dict[tuple[str, Any], list[NDArray[np.float64]]] = {}
    for number, shape in enumerate(shapes):
        if not isinstance(shape, dict) or shape.get("shape_type", "polygon") != "polygon":
            raise ValueError(f"shape {number}: expected a polygon, found {str(shape)[:80]}")
        label, group = shape.get("label"), shape.get("group_id")
        if label not in names.native:
            raise ValueError(f"shape {number}: label {label!r} is none of {', '.join(names.native)}")
        if not isinstance(group, int | None):
            raise ValueError(f"shape {number}: group_id {group!r} is no number")
        key = (names.from_native(label), group if group is not None else f"shape {number}")
        instances.setdefault(key, []).append(_points(shape.get("points"), number, size))
    boxes = tuple(LabelledBox(name, _box(parts, size)) for (name, _), parts in instances.items())
    if len(set(boxes)) < len(boxes):
        raise ValueError("two instances of one kind in the same box: a shape stands twice")
    return boxes


def _points(points: Any, number: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """(n, 2) points in pixels. Raises ValueError."""
    try:
        found = np.asarray(points, dtype=np.float64)
        kinds = {type(v) for point in points for v in point}
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"shape {number}: points are no list of x, y: {error}") from error
    if found.ndim != 2 or found.shape[1] != 2 or not kinds <= {int, float}:
        raise ValueError(f"shape {number}: points are no list of x, y")
    slack = _SLACK * size[0]
    if not bool(((found >= -slack) & (found <= np.asarray(size) + slack)).all()):
        raise ValueError(f"shape {number}: points outside the picture of {size[0]} x {size[1]}")
    return found


def _box(parts: list[NDArray[np.float64]], size: tuple[int, int]) -> tuple[float, float, float, float]:
    points = np.concatenate(parts)
    if len(points) < 3:
        raise ValueError(f"an outline of {len(points)} points")
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return polygon_box(((x1, y1), (x2, y1), (x2, y2)), *size)
