"""SAR-RARP50 (reference datasets-b.md section 1): suturing actions of robot-assisted radical prostatectomy at
10 Hz.
"""

from collections.abc import Iterator
from pathlib import Path

from surgr1.corpora.grid import image_size
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels, Sample
from surgr1.corpora.sources import LabelError, LayoutError, Source, listing
from surgr1.corpora.splits import official_split
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "robot-assisted radical prostatectomy"


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 60-fps frame of `video_left.avi`, 0-based: the unit of the label files and picture
    names.
    """
    return frame / 60


def read(source: Source) -> Iterator[Sample]:
    """Samples of every folder with an `action_discrete.txt`, wherever the release puts it; pictures in `rgb/`
    or `frames/`.
    """
    files = sorted(source.root.rglob("action_discrete.txt"))
    if not files:
        raise LayoutError(
            f"{source.root}: not a SAR-RARP50 tree: no action_discrete.txt below it; found"
            f" {listing(source.root)}"
        )
    official = official_split("sar-rarp50", source.split)
    for path in files:
        video = path.parent.name
        # The halves video_11_1 and video_11_2 belong to operation video_11.
        role = source.role_of(video, official) or source.role_of("_".join(video.split("_")[:2]), official)
        if role is None:
            continue
        pictures = next((path.parent / n for n in ("rgb", "frames") if (path.parent / n).is_dir()), None)
        if pictures is None:
            raise LayoutError(
                f"{path.parent}: no rgb/ or frames/; unpack video_left.avi with the challenge's sampling tool"
                " first"
            )
        size: tuple[int, int] | None = None
        for frame, action in _actions(path)[:: source.every]:
            image = pictures / f"{frame:09d}.png"
            if size is None or not image.is_file():
                size = image_size(image)
            yield from Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=image.relative_to(source.root).as_posix(),
                size=size,
                labels=Labels(action=action),
                role=role,
            ).samples()


def _actions(path: Path) -> list[tuple[int, str]]:
    """(60-fps frame, canonical action) per line. Ids in the files are 0-7, although the dataset's README
    numbers them 1-8.
    """
    names = vocabulary("sar-rarp50", "action").names
    rows: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            frame, action = (int(v) for v in line.split(","))
        except ValueError:
            raise LabelError(f"{path}:{number}: expected `frame,class`, found {line[:60]!r}") from None
        if action == len(names):
            raise LabelError(
                f"{path}:{number}: class 8: this looks like a 1-based variant; the released files hold 0-7"
            )
        if not 0 <= action < len(names):
            raise LabelError(f"{path}:{number}: class {action} is not in 0-{len(names) - 1}")
        if rows and frame <= rows[-1][0]:
            raise LabelError(f"{path}:{number}: frame {frame} does not follow {rows[-1][0]}")
        rows.append((frame, names[action]))
    return rows
