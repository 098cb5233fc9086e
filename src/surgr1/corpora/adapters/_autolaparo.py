"""What the three tasks of AutoLaparo share (reference datasets-a.md section 8): where their folders lie and
whether frames were extracted.
"""

import re
from pathlib import Path

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_table
from surgr1.corpora.sources import Source

PROCEDURE = "laparoscopic hysterectomy"
CLIP_NUMBERS = range(1, 301)


def clip_seconds(frame: int) -> float:
    """Seconds in a clip of its 25-fps frame, counted from 1 (datasets-a.md 0.1)."""
    return (frame - 1) / 25


def task_folder(source: Source, number: int, holds: tuple[str, ...]) -> tuple[Path, str]:
    """The folder of one task, and its path relative to the root ("" or ending in "/").

    It is the root itself or a folder "Task <number> ..." (also task<number>, task_<number>) in it or in an
    "AutoLaparo" folder in it; `holds` are the names that must be in it: of files where they have an ending,
    else of folders. Raises LayoutError where there is none, or more than one.
    """
    root = source.root
    tops = [root, *(p for p in _folders(root) if p.name.lower().startswith("autolaparo"))]
    tasks = [
        p for top in tops for p in _folders(top) if re.fullmatch(rf"(?i)task[ _-]?{number}(\D.*)?", p.name)
    ]
    found = [p for p in dict.fromkeys((*tops, *tasks)) if all(_holds(p / h) for h in holds)]
    if len(found) > 1:
        raise LayoutError(
            f"{root}: task {number} of AutoLaparo is there more than once:"
            f" {', '.join(str(p.relative_to(root)) for p in found)}; name one of them as the root"
        )
    if not found:
        raise LayoutError(
            f"{root}: not task {number} of AutoLaparo: expected {' and '.join(holds)} here or in a folder"
            f" Task {number} ... (task{number}, task_{number}); found {listing(root)}"
        )
    prefix = found[0].relative_to(root).as_posix()
    return found[0], "" if prefix == "." else f"{prefix}/"


def _holds(path: Path) -> bool:
    return path.is_file() if path.suffix else path.is_dir()


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def check_frames(source: Source, prefix: str, videos: str) -> None:
    """Whether the pictures of `videos` were extracted to `frames/`. Raises LayoutError saying how to."""
    folder = source.picture_root / prefix / "frames"
    if source.images == "check" and not folder.is_dir():
        there = "its videos are there" if (folder.parent / videos).is_dir() else f"neither is {videos}/"
        raise LayoutError(f"{folder}: no such folder ({there}); run `surgr1 data frames {folder.parent}`")


def read_numbers(path: Path, header: tuple[str, ...], rejects: Rejects) -> list[tuple[int, list[str]]]:
    """(line, cells) of a tab-separated label file below its header; rows of another length are rejected.
    Raises LabelError where the header is another one.
    """
    rows = list(read_table(path, delimiter="\t"))
    found = [c.strip() for c in rows[0][1]] if rows else []
    if [c.lower() for c in found] != [h.lower() for h in header]:
        raise LabelError(f"{path}:1: header {found}; expected {' <tab> '.join(header)}")
    kept = []
    for line, cells in rows[1:]:
        if len(cells) == len(header):
            kept.append((line, cells))
        else:
            rejects.add(f"{path}:{line}", f"{len(cells)} columns, expected {len(header)}")
    return kept


def whole_number(cell: str, least: int, most: int) -> int | None:
    """The number in a cell, None if it is not a whole number from `least` to `most`."""
    text = cell.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        return None
    return int(text) if least <= int(text) <= most else None
