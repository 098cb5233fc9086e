"""CholecT50 and its challenge-validation clips (reference datasets-a.md section 3): action triplets, phases,
sometimes boxes.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, visible
from surgr1.corpora.masks import checked_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Box, LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import Vocabulary, triplet_parts, vocabulary

PROCEDURE = "laparoscopic cholecystectomy"
_KINDS = {"instrument": "tool", "verb": "verb", "target": "target", "phase": "phase", "triplet": "triplet"}
"""Name under `categories` -> kind of vocabulary."""
_ROUNDING = 0.02
"""How far a box may leave the picture (fractions): x + w or y + h passes 1 in a few real ones, by 0.012 at
most.
"""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-fps counter, 0-based: the unit of the keys and of the picture names."""
    return float(frame)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`labels/VIDnn.json` with `videos/VIDnn/KKKKKK.png`. Pictures without a label entry are ignored."""
    root = source.root
    if not (root / "labels").is_dir() and (root / "cholect50-challenge-val" / "labels").is_dir():
        root = root / "cholect50-challenge-val"
    paths = {p.stem: p for p in visible((root / "labels").glob("VID*.json"))}
    if not paths or not (root / "videos").is_dir():
        raise LayoutError(
            f"{root}: not a CholecT50 tree: expected labels/VIDnn.json and videos/; found {listing(root)}"
        )
    for folder in visible((root / "videos").iterdir()):
        if folder.is_dir() and folder.name not in paths:
            rejects.add(folder, f"pictures without labels/{folder.name}.json; is the download complete?")
    roles = source.roles(paths)
    prefix = root.relative_to(source.root).as_posix().removeprefix(".")

    def frames(video: str) -> Iterator[Frame]:
        folder = f"{prefix}/videos/{video}".removeprefix("/")
        pictures = source.folder_of_pictures(folder, rejects)
        for frame, rows in list(_annotations(paths[video], rejects))[:: source.every]:
            name = f"{frame:06d}.png"
            size = pictures.size(name)
            if size is None:
                continue
            try:
                labels, count = _labels(rows, size)
            except ValueError as error:
                rejects.add(f"{paths[video]}: frame {frame}", str(error))
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
                tool_count=count,
            )

    return Tree(roles, frames)


def _annotations(path: Path, rejects: Rejects) -> Iterator[tuple[int, list[Any]]]:
    """(frame, its 15-element vectors) in frame order. Raises LabelError."""
    body = read_json(path)
    entries = body.get("annotations") if isinstance(body, dict) else None
    if not isinstance(entries, dict):
        raise LabelError(f"{path}: not a CholecT50 label file: no mapping under `annotations`")
    _check_categories(path, body.get("categories", {}))
    stray = [k for k in entries if not (k.isascii() and k.isdigit() and len(k) <= 6 and str(int(k)) == k)]
    if stray:
        raise LabelError(f"{path}: annotation key {stray[0][:40]!r} is not a frame number")
    if body.get("num_frames", len(entries)) != len(entries):
        rejects.add(
            path, f"annotates {len(entries)} frames, its num_frames is {str(body['num_frames'])[:40]}"
        )
    for frame in sorted(map(int, entries)):
        yield frame, entries[str(frame)]


def _check_categories(path: Path, own: Any) -> None:
    """Compare the file's own names of the ids with those known here. Raises LabelError."""
    for name, kind in _KINDS.items():
        known = {str(i): n for i, n in enumerate(vocabulary("cholect50", kind).native)}
        if not isinstance(own, dict) or own.get(name, known) != known:
            found = own.get(name) if isinstance(own, dict) else own
            raise LabelError(f"{path}: categories: {name} is {str(found)[:200]}, expected {known}")


def _name(words: Vocabulary, number: float) -> str:
    if not (float(number).is_integer() and 0 <= number < len(words.names)):
        raise ValueError(f"{words.kind} id {number} is not in 0-{len(words.names) - 1}")
    return words.names[int(number)]


@lru_cache(maxsize=1)
def _words() -> Mapping[str, Vocabulary]:
    return {k: vocabulary("cholect50", k) for k in _KINDS.values()}


def _is_vector(row: Any) -> bool:
    """15 numbers from -1 to 99. A NaN shows in the sum alone."""
    return (
        isinstance(row, list)
        and len(row) == 15
        and {*map(type, row)} <= {int, float}
        and -1 <= min(row) <= max(row) < 100
        and not math.isnan(sum(row))
    )


def _labels(rows: Any, size: tuple[int, int]) -> tuple[Labels, int]:
    """The frame's labels and the number of instrument instances. Raises ValueError."""
    if not isinstance(rows, list) or not all(map(_is_vector, rows)):
        raise ValueError(f"expected vectors of 15 numbers from -1 to 99, found {str(rows)[:80]}")
    words = _words()
    phases = {row[14] for row in rows}
    if len(phases) > 1:
        raise ValueError(f"vectors disagree on the phase: {sorted(phases)}")
    triplets, tools, boxes = [], [], []
    for row in rows:
        box = _box(row[3:7], size)
        if row[1] == -1:
            if row[0] != -1 or box:
                raise ValueError(f"a triplet or a box without an instrument: {row}")
            continue
        tools.append(_name(words["tool"], row[1]))
        if row[0] != -1:
            triplets.append(_name(words["triplet"], row[0]))
            parts = (tools[-1], _name(words["verb"], row[7]), _name(words["target"], row[8]))
            if triplet_parts(triplets[-1]) != parts:
                raise ValueError(
                    f"triplet {int(row[0])} ({triplets[-1]}) contradicts instrument, verb and target"
                    f" {int(row[1])}, {int(row[7])}, {int(row[8])} ({' '.join(parts)})"
                )
        if box:
            boxes.append(LabelledBox(tools[-1], box))
    if len(set(boxes)) < len(boxes):
        raise ValueError("two instruments of one kind in the same box: a vector stands twice")
    named = tuple(triplet_parts(t) for t in words["triplet"].names if t in triplets)
    labels = Labels(
        tools=tuple(t for t in words["tool"].names if t in tools),
        verbs=tuple(v for v in words["verb"].names if v in {t[1] for t in named}),
        targets=tuple(x for x in words["target"].names if x in {t[2] for t in named}),
        triplets=named,
        phase=_name(words["phase"], phases.pop()) if phases - {-1} else None,
        boxes=tuple(boxes) if boxes else None,
    )
    return labels, len(tools)


def _box(box: list[float], size: tuple[int, int]) -> Box | None:
    """x, y, width, height in fractions to pixels; None where all four are -1. Raises ValueError."""
    if box == [-1, -1, -1, -1]:
        return None
    (x, y, w, h), (width, height) = box, size
    corners = x * width, y * height, (x + w) * width, (y + h) * height
    return checked_box(corners, width, height, slack=_ROUNDING * width)
