"""CholecT50 and its challenge-validation clips (reference datasets-a.md section 3): action triplets, phases,
sometimes boxes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import image_size
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels, Sample
from surgr1.corpora.sources import LabelError, LayoutError, Source, listing
from surgr1.corpora.splits import official_split
from surgr1.ontology.vocabularies import Vocabulary, triplet_parts, vocabulary

PROCEDURE = "laparoscopic cholecystectomy"


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-fps counter, 0-based: the unit of the keys and of the picture names."""
    return float(frame)


def read(source: Source) -> Iterator[Sample]:
    """Samples of `labels/VIDnn.json` with `videos/VIDnn/KKKKKK.png`. Pictures without a label entry are
    ignored.
    """
    root = source.root
    if not (root / "labels").is_dir() and (root / "cholect50-challenge-val" / "labels").is_dir():
        root = root / "cholect50-challenge-val"
    files = sorted((root / "labels").glob("VID*.json"))
    if not files or not (root / "videos").is_dir():
        raise LayoutError(
            f"{root}: not a CholecT50 tree: expected labels/VIDnn.json and videos/; found {listing(root)}"
        )
    official = official_split("cholect50", source.split)
    prefix = root.relative_to(source.root).as_posix()
    for path in files:
        video = path.stem
        role = source.role_of(video, official)
        if role is None:
            continue
        size: tuple[int, int] | None = None
        for frame, rows in list(_annotations(path))[:: source.every]:
            image = root / "videos" / video / f"{frame:06d}.png"
            if size is None or not image.is_file():
                size = image_size(image)
            relative = (
                f"videos/{video}/{frame:06d}.png"
                if prefix == "."
                else f"{prefix}/videos/{video}/{frame:06d}.png"
            )
            labels, count = _labels(rows, size, f"{path}: frame {frame}")
            yield from Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=relative,
                size=size,
                labels=labels,
                role=role,
                tool_count=count,
            ).samples()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [k for k, _ in pairs]
    twice = sorted({k for k in keys if keys.count(k) > 1}) if len(set(keys)) != len(keys) else []
    if twice:
        raise ValueError(f"duplicate key(s) {', '.join(twice[:5])}")
    return dict(pairs)


def _annotations(path: Path) -> Iterator[tuple[int, list[list[float]]]]:
    """(frame, its 15-element vectors) in frame order."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
        entries = body["annotations"].items()
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise LabelError(f"{path}: not a CholecT50 label file: {error!r}") from error
    for key in body["annotations"]:
        if not key.isdigit():
            raise LabelError(f"{path}: annotation key {key!r} is not a frame number")
    for key, rows in sorted(entries, key=lambda kv: int(kv[0])):
        for row in rows:
            if not isinstance(row, list) or len(row) != 15:
                found = len(row) if isinstance(row, list) else type(row).__name__
                raise LabelError(f"{path}: frame {key}: expected vectors of 15 numbers, found {found}")
        yield int(key), rows


def _name(words: Vocabulary, number: float, where: str) -> str:
    if not (float(number).is_integer() and 0 <= number < len(words.names)):
        raise LabelError(f"{where}: {words.kind} id {number} is not in 0-{len(words.names) - 1}")
    return words.names[int(number)]


def _labels(rows: list[list[float]], size: tuple[int, int], where: str) -> tuple[Labels, int]:
    """The frame's labels and the number of instrument instances."""
    tools_v, triplets_v, phases_v = (vocabulary("cholect50", k) for k in ("tool", "triplet", "phase"))
    phases = {row[14] for row in rows}
    if len(phases) > 1:
        raise LabelError(f"{where}: vectors disagree on the phase: {sorted(phases)}")
    triplets, tools, boxes, count = [], [], [], 0
    for row in rows:
        if row[1] < 0:
            continue
        tool = _name(tools_v, row[1], where)
        tools.append(tool)
        count += 1
        if row[0] >= 0:
            triplets.append(_name(triplets_v, row[0], where))
            if triplet_parts(triplets[-1])[0] != tool:
                raise LabelError(
                    f"{where}: triplet {int(row[0])} ({triplets[-1]}) contradicts instrument {int(row[1])}"
                    f" ({tool})"
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
        phase=_name(phases_v, phases.pop(), where) if phases and min(phases) >= 0 else None,
        boxes=tuple(boxes) if boxes else None,
    )
    return labels, count
