"""Cholec80 (reference datasets-a.md section 1): phases and tools of laparoscopic cholecystectomy, in CAMMA's
frame release or in the release of videos once `surgr1 data frames` has extracted their pictures.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from surgr1.corpora.files import LabelError, LayoutError, Pictures, Rejects, listing, read_text, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "laparoscopic cholecystectomy"
FPS = 25
"""Frames a second of the videos: the unit of all label files; pictures and tools are one a second."""
_TOPS = ("", "cholec80/", "Cholec80/")
"""Where the dataset lies below the folder that was given: that folder, or the archive's own top folder."""
_DIGITS = 7
"""No video comes near 10 million frames (the longest has 150,000)."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 25-fps video frame, 0-based (datasets-a.md 0.1)."""
    return frame / FPS


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`frames/videoNN/videoNN_KKKKKK.png` with `phase_annotations/` and `tool_annotations/`."""
    labels = labels_top(source.root)
    phases, tools = (
        {p.name.removesuffix(f"-{kind}.txt"): p for p in visible(folder.glob(f"video*-{kind}.txt"))}
        for kind, folder in (
            ("phase", labels / "phase_annotations"),
            ("tool", labels / "tool_annotations"),
        )
    )
    top = pictures_top(source)
    shown = {
        p.name
        for p in (source.picture_root / top / "frames").glob("video*")
        if re.fullmatch(r"video\d+", p.name)
    }
    for video in sorted((phases.keys() | tools.keys() | shown) - (phases.keys() & tools.keys())):
        rejects.add(labels, f"{video} lacks its phase or its tool file, or both; is the download complete?")
    roles = source.roles(sorted(phases.keys() & tools.keys()))

    words = vocabulary("cholec80", "phase")
    named = dict(zip(words.native, words.names, strict=True))

    def frames(video: str) -> Iterator[Frame]:
        rows = read_tools(tools[video], rejects)
        names = read_phases(phases[video], rejects)
        if rows and len(names) > FPS * (max(rows) + 2):
            rejects.add(
                tools[video],
                f"ends at frame {FPS * max(rows)}, but {phases[video].name} goes on to {len(names) - 1}",
            )
        folder, pictures = video_pictures(source, top, video, rejects)
        for index in list(rows)[:: source.every]:
            frame = FPS * index
            if frame >= len(names):
                rejects.add(phases[video], f"no row for frame {frame}, which {tools[video].name} labels")
                continue
            name = f"{video}_{index + 1:06d}.png"
            size = pictures.size(name)
            # No tools or an empty name: a row that was rejected.
            present = rows[index]
            if size is None or present is None or not names[frame]:
                continue
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=f"{folder}/{name}",
                size=size,
                labels=Labels(tools=present, phase=named[names[frame]]),
                role=roles[video],
            )

    return Tree(roles, frames)


def labels_top(root: Path) -> Path:
    """The folder with Cholec80's label files: `root` or its cholec80/. Raises LayoutError."""
    for top in _TOPS:
        if (root / top / "phase_annotations").is_dir() and (root / top / "tool_annotations").is_dir():
            return root / top
    found = listing(root) if root.is_dir() else "no such folder"
    raise LayoutError(
        f"{root}: not a Cholec80 tree: expected phase_annotations/ and tool_annotations/; found {found}"
    )


def pictures_top(source: Source) -> str:
    """Where Cholec80's frames/ lies below the source's picture root: "" or "cholec80/". Raises LayoutError
    saying what to do where it is missing and pictures are wanted.
    """
    root = source.picture_root
    for top in _TOPS:
        if (root / top / "frames").is_dir():
            return top
    if source.images == "skip":
        return ""
    for top in _TOPS:
        if any((root / top / "videos").glob("video*.mp4")):
            raise LayoutError(f"{root}: videos, but no frames/: run `surgr1 data frames {root / top}`")
    found = listing(root) if root.is_dir() else "no such folder"
    needed = "" if source.layout == "cholec80" else "; give Cholec80's folder as `pictures`"
    raise LayoutError(
        f"{root}: expected Cholec80's frames/videoNN/ (or videos/videoNN.mp4); found {found}{needed}"
    )


def video_pictures(source: Source, top: str, video: str, rejects: Rejects) -> tuple[str, Pictures]:
    """The folder of a video's pictures (relative to the picture root) and what is in it. Raises
    LayoutError.
    """
    folder = f"{top}frames/{video}"
    if source.images == "check" and not (source.picture_root / folder).is_dir():
        whole = source.picture_root / top
        if (whole / "videos" / f"{video}.mp4").is_file():
            raise LayoutError(
                f"{whole}: {video}.mp4, but no frames/{video}: run `surgr1 data frames {whole}`"
            )
    return folder, source.folder_of_pictures(folder, rejects)


@lru_cache(maxsize=1)
def _counted() -> list[str]:
    """Frame numbers as they stand in the files, for longer than the longest video."""
    return [str(k) for k in range(200_000)]


def read_phases(path: Path, rejects: Rejects) -> list[str]:
    """The dataset's own phase name of every 25-fps frame, "" where a row was rejected. Raises LabelError."""
    text = read_text(path)
    known = frozenset(vocabulary("cholec80", "phase").native)
    # A whole file has tens of thousands of rows in one pattern; look at single rows only where it breaks.
    cells = text.split()
    rows = len(cells) // 2
    if (
        rows <= len(_counted())
        and cells[2::2] == _counted()[: rows - 1]
        and text.count("\t") == rows
        and text.startswith("Frame\tPhase")
        and known.issuperset(cells[3::2])
    ):
        return cells[3::2]
    names: list[str] = []
    for number, (cell, name) in _rows(path, text, ["Frame", "Phase"], rejects):
        where = f"{path}:{number}"
        frame = _frame(where, cell, len(names), rejects)
        if frame is None:
            continue
        names += [""] * (frame - len(names))
        if name not in known:
            rejects.add(where, f"{name!r} is no phase of Cholec80: {', '.join(sorted(known))}")
        names.append(name if name in known else "")
    return names


def read_tools(path: Path, rejects: Rejects) -> dict[int, tuple[str, ...] | None]:
    """Second -> canonical tools present (the rows of every 25th frame), ascending; None where a row's flags
    were rejected. Raises LabelError.
    """
    header = ["Frame", *vocabulary("cholec80", "tool").native]
    rows: dict[int, tuple[str, ...] | None] = {}
    after = 0
    for number, (cell, *flags) in _rows(path, read_text(path), header, rejects):
        where = f"{path}:{number}"
        frame = _frame(where, cell, FPS * after, rejects, step=FPS)
        if frame is None:
            continue
        after = frame // FPS + 1
        tools = _tools(tuple(flags))
        if tools is None:
            rejects.add(where, f"tool flags must be 0 or 1, found {flags}")
        rows[frame // FPS] = tools
    return rows


def _rows(path: Path, text: str, header: list[str], rejects: Rejects) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of a tab-separated file with this header. Raises LabelError on another one."""
    lines = text.splitlines()
    found = lines[0].split("\t") if lines else []
    if found != header:
        raise LabelError(f"{path}:1: expected the header {header}, found {str(found)[:200]}")
    for number, line in enumerate(lines[1:], start=2):
        columns = line.split("\t")
        if len(columns) == len(header):
            yield number, columns
        else:
            rejects.add(
                f"{path}:{number}",
                f"expected {len(header)} tab-separated columns, found {len(columns)}: {line[:80]!r}",
            )


def _frame(where: str, cell: str, expected: int, rejects: Rejects, *, step: int = 1) -> int | None:
    """The frame number of a row; None where it cannot be used. Rows that are missing before it are one
    reject.
    """
    usable = cell.isascii() and cell.isdigit() and len(cell) <= _DIGITS
    if not usable or int(cell) % step:
        rejects.add(where, f"expected frame {expected}, found {cell[:40]!r}")
        return None
    frame = int(cell)
    if frame < expected:
        rejects.add(where, f"expected frame {expected} (each once, in order), found {frame}")
        return None
    if frame > expected:
        rejects.add(where, f"expected frame {expected}, found {frame}: rows are missing before it")
    return frame


@lru_cache(maxsize=256)
def _tools(flags: tuple[str, ...]) -> tuple[str, ...] | None:
    """Canonical names of the flags that are 1; None if one is neither 0 nor 1."""
    if set(flags) - {"0", "1"}:
        return None
    names = vocabulary("cholec80", "tool").names
    return tuple(n for n, f in zip(names, flags, strict=True) if f == "1")
