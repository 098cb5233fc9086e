"""AutoLaparo task 2 (reference datasets-a.md 8.1, 8.3): which camera motion follows a clip.

A clip lasts 10 s and has one label: the motion that starts at second 5. A model is to foretell it, so the
benchmark shows it 16 of the 125 frames before that and none after; those 16 carry the clip's label here
(170 training clips x 16 are the paper's 2,720 images). The phase of the clip stands in the third column.
"""

from collections.abc import Iterator
from pathlib import Path

from surgr1.corpora.adapters._autolaparo import (
    CLIP_NUMBERS,
    PROCEDURE,
    check_frames,
    clip_seconds,
    read_numbers,
    task_folder,
    whole_number,
)
from surgr1.corpora.files import Rejects, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

LABELS = "laparoscope_motion_label.txt"
FRAMES = (1, 9, 17, 25, 33, 41, 50, 58, 66, 75, 83, 91, 100, 108, 116, 125)
"""The benchmark's frames of a clip, counted from 1 at 25 fps (t2_datapre.py of the authors)."""


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`laparoscope_motion_label.txt` with `frames/NNN/KKK.jpg`, as `surgr1 data frames` extracts them."""
    folder, prefix = task_folder(source, 2, (LABELS,))
    check_frames(source, prefix, "clips")
    labels = _labels(folder / LABELS, rejects)
    if source.images == "check":
        for pictures in visible((source.picture_root / prefix / "frames").iterdir()):
            if pictures.is_dir() and pictures.name not in labels:
                rejects.add(pictures, f"pictures of a clip without a row in {LABELS}")
    roles = source.roles(labels)

    def frames(video: str) -> Iterator[Frame]:
        where = f"{prefix}frames/{video}"
        pictures = source.folder_of_pictures(where, rejects)
        for frame in FRAMES[:: source.every]:
            name = f"{frame:03d}.jpg"
            size = pictures.size(name)
            if size is not None:
                yield Frame(
                    source,
                    procedure=PROCEDURE,
                    video=video,
                    frame=frame,
                    seconds=clip_seconds(frame),
                    image=f"{where}/{name}",
                    size=size,
                    labels=labels[video],
                    role=roles[video],
                )

    return Tree(roles, frames)


def _labels(path: Path, rejects: Rejects) -> dict[str, Labels]:
    """Clip name -> labels. Clips stand in ascending order: the authors' own script pairs the rows with the
    clips' folders by position.
    """
    motions, phases = (vocabulary("autolaparo-motion", k).names for k in ("motion", "phase"))
    found: dict[str, Labels] = {}
    before = 0
    for line, (clip, motion, phase) in read_numbers(path, ("Clip", "Label", "Phase"), rejects):
        where = f"{path}:{line}"
        number = whole_number(clip, CLIP_NUMBERS[0], CLIP_NUMBERS[-1])
        moved, when = whole_number(motion, 0, len(motions) - 1), whole_number(phase, 1, len(phases))
        if number is None:
            rejects.add(where, f"clip {clip!r} is not in 1-{CLIP_NUMBERS[-1]}")
        elif number <= before:
            rejects.add(where, f"clip {number} after clip {before}: rows are doubled or out of order")
        elif moved is None:
            rejects.add(where, f"motion {motion!r} is not in 0-{len(motions) - 1}")
        elif when is None:
            rejects.add(where, f"phase {phase!r} is not in 1-{len(phases)}")
        else:
            found[f"{number:03d}"] = Labels(motion=motions[moved], phase=phases[when - 1])
        before = max(before, number or 0)
    return found
