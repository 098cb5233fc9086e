"""CholecT50 and its challenge-validation clips (reference datasets-a.md section 3): action triplets, phases,
sometimes boxes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import Vocabulary, triplet_parts, vocabulary

PROCEDURE = "laparoscopic cholecystectomy"


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
        for frame, rows in list(_annotations(paths[video]))[:: source.every]:
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


def _annotations(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """(frame, its 15-element vectors) in frame order. Raises LabelError."""
    body = read_json(path)
    entries = body.get("annotations") if isinstance(body, dict) else None
    if not isinstance(entries, dict):
        raise LabelError(f"{path}: not a CholecT50 label file: no mapping under `annotations`")
    stray = [k for k in entries if not (k.isascii() and k.isdigit())]
    if stray:
        raise LabelError(f"{path}: annotation key {stray[0]!r} is not a frame number")
    for key in sorted(entries, key=int):
        yield int(key), entries[key]


def _name(words: Vocabulary, number: Any) -> str:
    if not (
        isinstance(number, int | float) and float(number).is_integer() and 0 <= number < len(words.names)
    ):
        raise ValueError(f"{words.kind} id {number} is not in 0-{len(words.names) - 1}")
    return words.names[int(number)]


def _labels(rows: Any, size: tuple[int, int]) -> tuple[Labels, int]:
    """The frame's labels and the number of instrument instances. Raises ValueError."""
    if not isinstance(rows, list) or not all(
        isinstance(r, list) and len(r) == 15 and all(isinstance(v, int | float) for v in r) for r in rows
    ):
        raise ValueError(f"expected vectors of 15 numbers, found {str(rows)[:80]}")
    tools_v, triplets_v, phases_v = (vocabulary("cholect50", k) for k in ("tool", "triplet", "phase"))
    phases = {row[14] for row in rows}
    if len(phases) > 1:
        raise ValueError(f"vectors disagree on the phase: {sorted(phases)}")
    triplets, tools, boxes, count = [], [], [], 0
    for row in rows:
        if row[1] < 0:
            continue
        tool = _name(tools_v, row[1])
        tools.append(tool)
        count += 1
        if row[0] >= 0:
            triplets.append(_name(triplets_v, row[0]))
            if triplet_parts(triplets[-1])[0] != tool:
                raise ValueError(
                    f"triplet {int(row[0])} ({triplets[-1]}) contradicts instrument {int(row[1])} ({tool})"
                )
        if row[3] >= 0 and row[5] > 0:
            x1, y1 = row[3] * size[0], row[4] * size[1]
            # x + w or y + h passes 1 in a few real boxes: clip.
            x2, y2 = min(row[3] + row[5], 1.0) * size[0], min(row[4] + row[6], 1.0) * size[1]
            boxes.append(LabelledBox(tool, (x1, y1, x2, y2)))
    named = tuple(triplet_parts(t) for t in triplets_v.names if t in triplets)
    verbs, targets = (vocabulary("cholect50", k).names for k in ("verb", "target"))
    labels = Labels(
        tools=tuple(t for t in tools_v.names if t in tools),
        verbs=tuple(v for v in verbs if v in {t[1] for t in named}),
        targets=tuple(x for x in targets if x in {t[2] for t in named}),
        triplets=named,
        phase=_name(phases_v, phases.pop()) if phases and min(phases) >= 0 else None,
        boxes=tuple(boxes) if boxes else None,
    )
    return labels, count
