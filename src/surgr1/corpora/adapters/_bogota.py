"""What GraSP and PSI-AVA share (datasets-b.md sections 5 and 6): the same operations of one hospital,
pictures `CASENNN/KKKKK.jpg` of which the number is the second, COCO-like label files with their own class
lists.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, visible
from surgr1.corpora.masks import checked_box
from surgr1.corpora.schema import Box, LabelledBox
from surgr1.corpora.sources import Source
from surgr1.ontology.vocabularies import Vocabulary

PROCEDURE = "robot-assisted radical prostatectomy"
FOLDERS = (
    "keyframes",
    "PSI-AVA/keyframes",
    "PSIAVA/keyframes",
    "frames",
    "GraSP_1fps/frames",
    "GraSP/GraSP_1fps/frames",
)
"""Where the 1-fps pictures lie below the picture root: PSI-AVA's tree, or GraSP's."""
_NAME = re.compile(r"(CASE\d{3})/(\d{5})\.jpg")


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-fps picture's number, 0-based (datasets-b.md 0.3)."""
    return float(frame)


def parse_name(name: object) -> tuple[str, int]:
    """(case, second) of "CASE001/00000.jpg". Raises ValueError, saying so for names of the 30-fps tree."""
    if isinstance(name, str):
        if match := _NAME.fullmatch(name):
            return match[1], int(match[2])
        if re.fullmatch(r"CASE\d{3}/\d{9}\.jpg", name):
            raise ValueError(f"{name} is a name of the 30-fps tree; the 1-fps label files have 5 digits")
    raise ValueError(f"picture {str(name)[:60]!r}: expected CASENNN/KKKKK.jpg")


def picture_name(case: str, second: int) -> str:
    """The path of a picture inside the folder of pictures."""
    return f"{case}/{second:05d}.jpg"


def pictures_folder(source: Source, usual: str) -> str:
    """The folder that holds CASENNN/, relative to the source's picture root; where pictures are not looked at
    and none are there, the `usual` one. Raises LayoutError naming every place that was looked in.
    """
    root = source.picture_root
    for folder in FOLDERS:
        if (root / folder).is_dir():
            return folder
    if source.images == "skip":
        return usual
    raise LayoutError(
        f"{root}: no pictures of PSI-AVA or GraSP: looked for {', '.join(FOLDERS)}; found {listing(root)};"
        " unpack PSI-AVA.tar.gz or GraSP_1fps, or name the folder they lie in (`pictures`)"
    )


def check_pictures(source: Source, folder: str, known: Mapping[str, object], rejects: Rejects) -> None:
    """Reject folders of pictures of a case that no label file names."""
    if source.images == "check":
        for path in visible((source.picture_root / folder).iterdir()):
            if path.is_dir() and path.name.startswith("CASE") and path.name not in known:
                rejects.add(path, "pictures without labels; are all label files there?")


def check_classes(path: Path, body: Mapping[str, Any], key: str, words: Vocabulary) -> None:
    """The file's own list of classes must be the known one, id by id; an empty or missing list tells nothing.
    Raises LabelError.
    """
    listed = body.get(key) or []
    try:
        found = {int(c["id"]): str(c["name"]) for c in listed}
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise LabelError(f"{path}: `{key}` is not a list of id and name: {error}") from error
    known = {words.first_id + i: n for i, n in enumerate(words.native)}
    if found and found != known:
        wrong = sorted(i for i in found.keys() | known.keys() if found.get(i) != known.get(i))
        raise LabelError(
            f"{path}: `{key}`: id {wrong[0]} is {found.get(wrong[0])!r}, not {known.get(wrong[0])!r} as"
            f" documented for {words.dataset}; is this another dataset's file, or another version?"
        )


def listed(path: Path, body: Any, *keys: str) -> list[list[Any]]:
    """The lists under the keys of a COCO-like file. Raises LabelError."""
    if not isinstance(body, dict) or not all(isinstance(body.get(k), list) for k in keys):
        raise LabelError(f"{path}: expected an object with the lists {', '.join(keys)}")
    return [body[k] for k in keys]


def class_name(words: Vocabulary, number: object) -> str:
    """The canonical name of an id. Raises ValueError."""
    last = words.first_id + len(words.names) - 1
    if not isinstance(number, int) or isinstance(number, bool) or not words.first_id <= number <= last:
        raise ValueError(f"{words.kind} id {str(number)[:20]!r} is not in {words.first_id}-{last}")
    return words.names[number - words.first_id]


Place = tuple[str, int]
"""(case, second)."""


@dataclass(frozen=True)
class Instance:
    """One instrument of a keyframe: what it does, and its box as shares of the picture's sides. `row` is the
    annotation.
    """

    tool: str
    verbs: tuple[str, ...]
    box: Box
    row: Mapping[str, Any]


@dataclass
class Keyframes:
    """The instruments of annotated frames; `broken` are frames of which a row had to be left out."""

    frames: dict[Place, list[Instance]] = field(default_factory=dict)
    broken: set[Place] = field(default_factory=set)

    def add(self, place: Place, instance: Instance) -> None:
        self.frames.setdefault(place, []).append(instance)


def images(path: Path, rows: Sequence[Any], rejects: Rejects) -> dict[int, tuple[Place, tuple[float, float]]]:
    """Image id -> its place and (width, height); each id and each picture once."""
    found: dict[int, tuple[Place, tuple[float, float]]] = {}
    names: set[Place] = set()
    for number, row in enumerate(rows):
        try:
            key, size = row["id"], (float(row["width"]), float(row["height"]))
            place = parse_name(row["file_name"])
            if isinstance(key, bool) or not isinstance(key, int) or not 0 < min(size) <= max(size) < 1e5:
                raise ValueError(f"id {str(key)[:20]!r} and size {size} are no picture's")
            if key in found or place in names:
                raise ValueError(f"id {key} or {row['file_name']} stands twice")
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            rejects.add(f"{path}: image {number}", reason(error))
            continue
        found[key] = place, size
        names.add(place)
    return found


def keyframes(
    path: Path, body: Any, tools: Vocabulary, verbs: Vocabulary, rejects: Rejects, *, empty: bool
) -> Keyframes:
    """The instruments in a COCO-like file (`bbox` x, y, width, height in pixels of the stated size). With
    `empty`, a picture without annotations counts as labelled: no instrument. Raises LabelError.
    """
    pictures, annotations = listed(path, body, "images", "annotations")
    known = images(path, pictures, rejects)
    found = Keyframes()
    if empty:
        found.frames = {place: [] for place, _ in known.values()}
    seen: set[object] = set()
    for number, row in enumerate(annotations):
        place: Place | None = None
        try:
            place, (width, height) = annotated(row, known)
            if row["id"] in seen:
                raise ValueError(f"annotation id {row['id']} stands twice")
            seen.add(row["id"])
            if row.get("instruments", row["category_id"]) != row["category_id"]:
                raise ValueError(f"instrument {row['instruments']} is not category {row['category_id']}")
            if bool in map(type, row["bbox"]):
                raise ValueError(f"bbox {row['bbox']} is not four numbers")
            x, y, w, h = (float(v) for v in row["bbox"])
            # PSI-AVA's area is its box's; with a mask it is the mask's.
            if "segmentation" not in row and abs(row.get("area", w * h) - w * h) > 1 + 0.001 * w * h:
                raise ValueError(f"area {row['area']} is not that of bbox {row['bbox']}")
            box = checked_box((x, y, x + w, y + h), round(width), round(height))
            found.add(place, _instance(row, tools, verbs, (width, height), box))
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            rejects.add(f"{path}: annotation {number}", reason(error))
            if place:
                found.broken.add(place)
    return found


def annotated(
    row: Any, known: Mapping[int, tuple[Place, tuple[float, float]]]
) -> tuple[Place, tuple[float, float]]:
    """The picture that an annotation belongs to: `image_id` and `image_name` must agree. Raises ValueError,
    TypeError, KeyError.
    """
    if row["image_id"] not in known:
        raise ValueError(f"image_id {str(row['image_id'])[:20]!r} is not among the file's images")
    place, size = known[row["image_id"]]
    name = row.get("image_name", picture_name(*place))
    if name != picture_name(*place):
        raise ValueError(f"image_id {row['image_id']} is {picture_name(*place)}, image_name says {name!r}")
    return place, size


def _instance(
    row: Mapping[str, Any], tools: Vocabulary, verbs: Vocabulary, size: tuple[float, float], box: Box
) -> Instance:
    actions = row["actions"]
    if not isinstance(actions, list) or not actions:
        raise ValueError(f"actions {str(actions)[:40]!r} are no list of ids")
    named = {class_name(verbs, a) for a in actions}
    x1, y1, x2, y2 = box
    width, height = size
    return Instance(
        class_name(tools, row["category_id"]),
        tuple(v for v in verbs.names if v in named),
        (x1 / width, y1 / height, x2 / width, y2 / height),
        row,
    )


def reason(error: Exception) -> str:
    """What to say of a row that could not be read."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def instrument_labels(
    instances: Sequence[Instance], tools: Vocabulary, verbs: Vocabulary, size: tuple[int, int]
) -> dict[str, Any]:
    """The fields `tools`, `verbs` and `boxes` of `Labels` for a picture of `size` (width, height)."""
    width, height = size
    done = {v for i in instances for v in i.verbs}
    held = {i.tool for i in instances}
    return {
        "tools": tuple(t for t in tools.names if t in held),
        "verbs": tuple(v for v in verbs.names if v in done),
        "boxes": tuple(
            LabelledBox(i.tool, (i.box[0] * width, i.box[1] * height, i.box[2] * width, i.box[3] * height))
            for i in instances
        ),
    }
