"""AutoLaparo task 1 (reference datasets-a.md 8.1, 8.2): phases of laparoscopic hysterectomy."""

import re
from collections.abc import Iterator
from pathlib import Path

from surgr1.corpora.adapters._autolaparo import (
    PROCEDURE,
    check_frames,
    read_numbers,
    task_folder,
    whole_number,
)
from surgr1.corpora.files import LayoutError, Rejects, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-fps counter from 1: row f is frame 25 (f - 1) of the video (datasets-a.md 8.2)."""
    return float(frame - 1)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`labels/label_NN.txt` with `frames/NN/KKKK.jpg`, as `surgr1 data frames` extracts them."""
    folder, prefix = task_folder(source, 1, ("labels",))
    paths: dict[str, Path] = {}
    for path in visible((folder / "labels").glob("*.txt")):
        if re.fullmatch(r"label_\d\d", path.stem):
            paths[path.stem[6:]] = path
        else:
            rejects.add(path, "expected label_NN.txt")
    if not paths:
        raise LayoutError(f"{folder / 'labels'}: no label_NN.txt; is the download complete?")
    check_frames(source, prefix, "videos")
    if source.images == "check":
        for pictures in visible((source.picture_root / prefix / "frames").iterdir()):
            if pictures.is_dir() and pictures.name not in paths:
                rejects.add(pictures, f"pictures without labels/label_{pictures.name}.txt")
    roles = source.roles(paths)

    def frames(video: str) -> Iterator[Frame]:
        where = f"{prefix}frames/{video}"
        pictures = source.folder_of_pictures(where, rejects)
        rows = list(_rows(paths[video], rejects))
        if source.images == "check":
            _unlabelled(source.picture_root / where, rows, paths[video], rejects)
        role = roles[video]
        for frame, labels in rows[:: source.every]:
            name = f"{frame:04d}.jpg"
            size = pictures.size(name)
            if size is not None:
                yield Frame(
                    source,
                    procedure=PROCEDURE,
                    video=video,
                    frame=frame,
                    seconds=frame_to_seconds(frame),
                    image=f"{where}/{name}",
                    size=size,
                    labels=labels,
                    role=role,
                )

    return Tree(roles, frames)


def _rows(path: Path, rejects: Rejects) -> Iterator[tuple[int, Labels]]:
    """(frame, labels) in order; frames count from 1 without a gap, phases are 1-7."""
    names = vocabulary("autolaparo", "phase").names
    labels = {str(i): Labels(phase=name) for i, name in enumerate(names, start=1)}
    before = 0
    for line, (frame, phase) in read_numbers(path, ("Frame", "Phase"), rejects):
        number = whole_number(frame, 1, 100_000)
        if number is None:
            rejects.add(f"{path}:{line}", f"frame {frame!r} is not a number from 1 on")
        elif number != before + 1:
            # A gap is told once, and its rows are kept; what goes back is left out.
            rejects.add(f"{path}:{line}", f"frame {number} follows {before}: a row is missing or misplaced")
        found = labels.get(phase.strip())
        if found is None:
            rejects.add(f"{path}:{line}", f"phase {phase!r} is not in 1-{len(names)}")
        if number is not None and number > before:
            before = number
            if found is not None:
                yield number, found


def _unlabelled(folder: Path, rows: list[tuple[int, Labels]], path: Path, rejects: Rejects) -> None:
    """Report pictures after the last row: the label file may have been cut short."""
    last = rows[-1][0] if rows else 0
    extra = [p.name for p in folder.iterdir() if re.fullmatch(r"\d{4,}\.jpg", p.name) and int(p.stem) > last]
    if extra:
        rejects.add(
            path, f"ends at frame {last}, but there are {len(extra)} more pictures ({min(extra)} ...)"
        )
