"""Cholec80-CVS (reference datasets-a.md section 2): intervals of Cholec80 videos with a score for each
criterion of the critical view of safety, in one workbook. Pictures are Cholec80's.

One frame a second is labelled, up to the first frame of clipping: by default its last 15 %, which is what the
dataset's baseline keeps (2.3) and what fits the paper's count best; splits that end in "-segment" read all of
it. A criterion is met at a score of 1 or 2, as the baseline has it; the sheet's `critical_view` asks for a
sum of 5, so three met criteria are not always its verdict.
"""

import math
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from surgr1.corpora.adapters.cholec80 import (
    FPS,
    PROCEDURE,
    frame_to_seconds,
    labels_top,
    pictures_top,
    read_phases,
    video_pictures,
)
from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_table, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree

_KEPT_FROM = 0.85
"""Where in the segment before the first clip the baseline begins."""
_ACHIEVED = 5
"""Sum of the three scores from which the sheet's `critical_view` is 1."""
_CRITERIA = ("two_structures", "hepatocystic_triangle", "cystic_plate")
"""In the order of `Labels.cvs`. The sheet's own order has the last two the other way round."""
_TIMES = ("initial_minute", "initial_second", "final_minute", "final_second")
_NAMES = ("cholec80-CVS.xlsx", "surgeons_annotations.xlsx", "data/surgeons_annotations.xlsx")
_INDEX = ("videos_frames_index.csv", "results/videos_frames_index.csv")
_LARGEST = 64 << 20
"""Bytes of an unpacked workbook."""
_ROWS, _COLUMNS = 5000, 50
"""How much of the sheet is looked at; the real one has 573 rows of 10 columns."""


class _Scores(NamedTuple):
    """Scores 0-2 in the order of `_CRITERIA`."""

    two_structures: int
    triangle: int
    plate: int


@dataclass(frozen=True)
class _Interval:
    """25-fps frames `first` to `last`, both included, and their scores."""

    where: str = field(compare=False)
    first: int
    last: int
    scores: _Scores


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """The workbook, with Cholec80's folder as the source's pictures (or around the workbook)."""
    path = _workbook(source.root)
    intervals = _read(path, rejects)
    top = pictures_top(source)
    ends = _segment_ends(source)
    roles = source.roles(sorted(intervals))

    def frames(video: str) -> Iterator[Frame]:
        end = ends(video, rejects)
        if end is None:
            return
        folder, pictures = video_pictures(source, top, video, rejects)
        scores = _by_second(intervals[video], end, rejects)
        for second in list(_window(end, source.split))[:: source.every]:
            name = f"{video}_{second + 1:06d}.png"
            size = pictures.size(name)
            if size is None:
                continue
            two, triangle, plate = scores.get(second, _Scores(0, 0, 0))
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=FPS * second,
                seconds=frame_to_seconds(FPS * second),
                image=f"{folder}/{name}",
                size=size,
                labels=Labels(cvs=(two > 0, triangle > 0, plate > 0)),
                role=roles[video],
                cvs_achieved=two + triangle + plate >= _ACHIEVED,
            )

    return Tree(roles, frames)


def _window(end: int, split: str) -> range:
    """The labelled seconds of a segment of `end` frames (the first one of clipping is frame `end`)."""
    first = 0 if split.endswith("-segment") else math.floor(end * _KEPT_FROM / FPS)
    return range(first, math.ceil(end / FPS))


def _by_second(intervals: list[_Interval], end: int, rejects: Rejects) -> dict[int, _Scores]:
    """Second -> scores; where intervals overlap the later row counts, as in the baseline. What reaches
    beyond the segment is cut off.
    """
    scores: dict[int, _Scores] = {}
    for interval in intervals:
        if interval.first > end:
            rejects.add(
                interval.where,
                f"begins at {interval.first // FPS} s, after the first clip at {end // FPS} s",
            )
            continue
        for second in range(math.ceil(interval.first / FPS), min(interval.last, end - 1) // FPS + 1):
            scores[second] = interval.scores
    return scores


def _segment_ends(source: Source) -> Callable[[str, Rejects], int | None]:
    """A function (video, rejects) -> the frame at which clipping begins, None with a reject where it is not
    known: from Cholec80's phases, or from the baseline's table of last frames. Raises LabelError.
    """
    table = next((source.root / n for n in _INDEX if (source.root / n).is_file()), None)
    try:
        phases = labels_top(source.picture_root) / "phase_annotations"
    except LayoutError as error:
        if table is None:
            # Not a LayoutError: the workbook says what this is, it only lacks its other half.
            raise LabelError(
                f"{source.root}: no word on where clipping begins: give Cholec80's folder as `pictures` (its"
                f" phase_annotations/ say so), or put the baseline's {_INDEX[0]} beside the workbook"
            ) from error
        known = _read_index(table)

        def from_table(video: str, rejects: Rejects) -> int | None:
            if video not in known:
                rejects.add(table, f"no row for {video}")
            return known.get(video)

        return from_table

    def from_phases(video: str, rejects: Rejects) -> int | None:
        path = phases / f"{video}-phase.txt"
        names = read_phases(path, rejects)
        if "ClippingCutting" not in names:
            rejects.add(path, "no ClippingCutting: the criteria are judged before it begins")
            return None
        return names.index("ClippingCutting")

    return from_phases


def _read_index(path: Path) -> Mapping[str, int]:
    """Video -> the frame at which clipping begins, of `video_name,final_frame` rows. Raises LabelError."""
    rows = iter(read_table(path))
    if next(rows, (0, []))[1] != ["video_name", "final_frame"]:
        raise LabelError(f"{path}:1: expected the header video_name,final_frame")
    ends: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != 2 or not (cells[1].isascii() and cells[1].isdigit() and len(cells[1]) <= 7):
            raise LabelError(f"{path}:{line}: expected a video and a frame number, found {cells}")
        if cells[0] in ends:
            raise LabelError(f"{path}:{line}: {cells[0]} stands twice")
        ends[cells[0]] = int(cells[1]) + 1
    return ends


def _workbook(root: Path) -> Path:
    """The annotation workbook of a folder. Raises LayoutError."""
    named = [root / n for n in _NAMES if (root / n).is_file()]
    found = named or [p for p in visible(root.glob("*.xlsx")) if not p.name.startswith("~$")]
    if len(found) != 1:
        raise LayoutError(
            f"{root}: not a Cholec80-CVS folder: expected one workbook ({' or '.join(_NAMES)}); found"
            f" {', '.join(p.name for p in found) or listing(root)}"
        )
    return found[0]


def _read(path: Path, rejects: Rejects) -> dict[str, list[_Interval]]:
    """Video -> its intervals with a score above 0, in the sheet's order; videos whose rows are all zero are
    there with none. Raises LabelError.
    """
    table = _cells(path)
    header = ["" if h is None else str(h).lower().strip().replace(" ", "_") for h in next(table, ())]
    needed = ("video", *_TIMES, *_CRITERIA)
    if not set(needed) <= set(header):
        raise LabelError(f"{path}: expected the columns {', '.join(needed)}; found {', '.join(header)[:300]}")
    twice = [h for h in needed if header.count(h) > 1]
    if twice:
        raise LabelError(f"{path}: column {twice[0]} stands twice")
    intervals: defaultdict[str, list[_Interval]] = defaultdict(list)
    for line, cells in enumerate(table, start=2):
        if all(c is None for c in cells):
            continue
        where = f"{path}: row {line}"
        row = dict(zip(header, cells, strict=False))
        try:
            number = _whole(row, "video", 1, 80)
            interval = _interval(where, row)
        except ValueError as error:
            rejects.add(where, str(error))
            continue
        found = intervals[f"video{number:02d}"]
        if interval is not None:
            if interval in found:
                rejects.add(where, "stands twice")
                continue
            found.append(interval)
    return dict(intervals)


def _interval(where: str, row: Mapping[str, Any]) -> _Interval | None:
    """The interval of a row, None if it scores nothing. Raises ValueError saying what is wrong."""
    scores = _Scores(*(_whole(row, c, 0, 2) for c in _CRITERIA))
    if row.get("total") is not None and _whole(row, "total", 0, 6) != sum(scores):
        raise ValueError(f"Total is {row['total']}, but the scores add up to {sum(scores)}")
    verdict = sum(scores) >= _ACHIEVED
    if row.get("critical_view") is not None and _whole(row, "critical_view", 0, 1) != verdict:
        raise ValueError(
            f"critical_view is {row['critical_view']} at a sum of {sum(scores)} (1 from {_ACHIEVED} on)"
        )
    if not any(scores):
        return None
    minute, second, last_minute, last_second = (_time(row, t) for t in _TIMES)
    first, last = (int(FPS * (60 * m + s)) for m, s in ((minute, second), (last_minute, last_second)))
    if last < first:
        raise ValueError(f"ends at {last // FPS} s, before it begins at {first // FPS} s")
    return _Interval(where, first, last, scores)


def _whole(row: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = row.get(name)
    if not isinstance(value, int | float) or value != value // 1 or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number {least}-{most}")
    return int(value)


def _time(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    most = 60 if name.endswith("second") else 600
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number 0-{most}")
    return value


def _cells(path: Path) -> Iterator[tuple[Any, ...]]:
    """The rows of the first sheet. Raises LabelError naming the file."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
            if size > _LARGEST:
                raise LabelError(f"{path}: {size} bytes unpacked are no workbook of intervals")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        # Limited: a sheet may claim a million rows of 16,000 columns.
        sheets = book.worksheets[:1]
        rows = [r for s in sheets for r in s.iter_rows(max_row=_ROWS, max_col=_COLUMNS, values_only=True)]
        book.close()
    except (
        zipfile.BadZipFile,
        zlib.error,
        InvalidFileException,
        SyntaxError,  # what XML that is not well-formed raises
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RuntimeError,  # a part that says it is encrypted, or packed in an unknown way
    ) as error:
        raise LabelError(f"{path}: not a whole workbook ({error}); download it again") from error
    if len(rows) == _ROWS and any(c is not None for c in rows[-1]):
        raise LabelError(f"{path}: {_ROWS} rows or more are no sheet of intervals (the real one has 573)")
    yield from rows
