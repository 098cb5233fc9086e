"""Cholec80, CAMMA's frame release (reference datasets-a.md section 1): phases and tools of laparoscopic
cholecystectomy.
"""

from collections.abc import Iterator
from pathlib import Path

from surgr1.corpora.grid import image_size
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels, Sample
from surgr1.corpora.sources import LabelError, LayoutError, Source, listing
from surgr1.corpora.splits import official_split
from surgr1.ontology.vocabularies import VocabularyError, vocabulary

PROCEDURE = "laparoscopic cholecystectomy"


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 25-fps video frame, 0-based: the unit of both label files."""
    return frame / 25


def read(source: Source) -> Iterator[Sample]:
    """Samples of `frames/videoNN/videoNN_KKKKKK.png` with both annotation files."""
    root = source.root
    for needed in ("phase_annotations", "tool_annotations"):
        if not (root / needed).is_dir():
            raise LayoutError(f"{root}: not a Cholec80 tree: no {needed}/; found {listing(root)}")
    if not (root / "frames").is_dir():
        hint = "; it has videos/, extract frames at 1 fps first" if (root / "videos").is_dir() else ""
        raise LayoutError(f"{root}: no frames/ folder{hint}")
    official = official_split("cholec80", source.split)
    for path in sorted((root / "phase_annotations").glob("video*-phase.txt")):
        video = path.name.removesuffix("-phase.txt")
        role = source.role_of(video, official)
        if role is None:
            continue
        tools = _read_tools(root / "tool_annotations" / f"{video}-tool.txt")
        phases = _read_phases(path)
        size: tuple[int, int] | None = None
        for index in range(0, len(tools), source.every):
            frame = 25 * index
            if frame not in phases:
                raise LabelError(
                    f"{path}: no row for frame {frame}, which {video}-tool.txt labels; the file ends early"
                )
            image = f"frames/{video}/{video}_{index + 1:06d}.png"
            if size is None:
                size = image_size(root / image)
            elif not (root / image).is_file():
                raise LayoutError(
                    f"{root / image}: labelled frame has no picture ({video}-tool.txt row {index + 2})"
                )
            yield from Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=image,
                size=size,
                labels=Labels(tools=tools[index], phase=phases[frame]),
                role=role,
            ).samples()


def _rows(path: Path, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of a tab-separated file with this header."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read: {error}") from error
    found = lines[0].split("\t") if lines else []
    if found != header:
        raise LabelError(f"{path}:1: expected the header {header}, found {found}")
    for number, line in enumerate(lines[1:], start=2):
        columns = line.split("\t")
        if len(columns) != len(header):
            raise LabelError(
                f"{path}:{number}: expected {len(header)} tab-separated columns, found {len(columns)}:"
                f" {line[:80]!r}"
            )
        yield number, columns


def _read_phases(path: Path) -> dict[int, str]:
    """25-fps frame -> canonical phase."""
    words = vocabulary("cholec80", "phase")
    phases: dict[int, str] = {}
    for number, (frame, name) in _rows(path, ["Frame", "Phase"]):
        if frame != str(len(phases)):
            raise LabelError(
                f"{path}:{number}: expected frame {len(phases)} (every frame once, in order), found {frame!r}"
            )
        try:
            phases[len(phases)] = words.from_native(name)
        except VocabularyError as error:
            raise LabelError(f"{path}:{number}: {error}") from None
    return phases


def _read_tools(path: Path) -> list[tuple[str, ...]]:
    """Canonical tools present at every 25th frame."""
    words = vocabulary("cholec80", "tool")
    rows: list[tuple[str, ...]] = []
    for number, (frame, *flags) in _rows(path, ["Frame", *words.native]):
        if frame != str(25 * len(rows)):
            raise LabelError(
                f"{path}:{number}: expected frame {25 * len(rows)} (every 25th once, in order), found"
                f" {frame!r}"
            )
        if set(flags) - {"0", "1"}:
            raise LabelError(f"{path}:{number}: tool flags must be 0 or 1, found {flags}")
        rows.append(tuple(n for n, f in zip(words.names, flags, strict=True) if f == "1"))
    return rows
