"""Cholec80-CVS as distributed: one workbook of intervals, and the Cholec80 tree with the pictures beside it
(datasets-a.md 2.1, 2.2).
"""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.writers import cholec80
from surgr1.simulator.writers.common import Split, Trial, expected, pictures_root, runs
from surgr1.simulator.writers.damage import Change, Damage, cut_half, replace_once, swap_lines

SCENARIO = cholec80.SCENARIO
_NAME = "cholec80-CVS.xlsx"
_HEADER = (
    "video",
    "critical_view",
    "initial_minute",
    "initial_second",
    "final_minute",
    "final_second",
    "two_structures",
    "cystic_plate",
    "hepatocystic_triangle",
    "Total",
)


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """The pictures as a Cholec80 tree in `<root>-pictures`; the sheet's rows go back to `finish`.

    A criterion that is met scores 2, else 0; every stretch of equal scores is a row. As in 63 real rows, the
    last one ends after the first clip.
    """
    found = cholec80.write_video(pictures_root(root), number, operation, centre, split)
    clip = next(k for k, s in enumerate(operation.scenes) if s.phase == "clipping and cutting")
    met = [s.cvs or (False, False, False) for s in operation.scenes[:clip]]
    rows = []
    for scores, first, stop in runs(met):
        last = stop - 1 + 3 * (stop == clip)
        two, triangle, plate = (2 * int(m) for m in scores)
        total = two + plate + triangle
        times = (first // 60, first % 60, last // 60, last % 60)
        rows.append([number, int(total >= 5), *times, two, plate, triangle, total])
    # The baseline keeps what follows 85 % of the time before the first clip.
    kept = range(int(clip * 25 * 0.85 / 25), clip)
    wanted = [expected(25 * k, Labels(cvs=met[k])) for k in kept]
    return {"frames": len(operation.scenes), "truth": found["truth"], "rows": rows, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """The workbook."""
    import openpyxl

    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.append(_HEADER)
    for number in sorted(videos):
        for row in videos[number]["rows"]:
            sheet.append(row)
    root.mkdir(parents=True, exist_ok=True)
    (root / _NAME).write_bytes(_packed(book))


def _packed(book: Any) -> bytes:
    """The bytes of a workbook, without the time at which it was written: same rows, same bytes."""
    raw, still = io.BytesIO(), io.BytesIO()
    book.save(raw)
    with zipfile.ZipFile(raw) as old, zipfile.ZipFile(still, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"2000-01-01T00:00:00Z", old.read(name))
            new.writestr(zipfile.ZipInfo(name, (2000, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return still.getvalue()


def _edited(edit: Callable[[Any], None]) -> Change:
    """A change of the workbook's sheet."""

    def change(data: bytes) -> bytes:
        import openpyxl

        book = openpyxl.load_workbook(io.BytesIO(data))
        edit(book.active)
        return _packed(book)

    return change


def _cell(sheet: Any, row: int, column: str) -> Any:
    """A cell of the sheet; rows as the sheet counts them (1 is the header)."""
    return sheet.cell(row, _HEADER.index(column) + 1)


def _put(row: int, column: str, value: Any) -> Change:
    """Another value in a cell."""

    def edit(sheet: Any) -> None:
        _cell(sheet, row, column).value = value

    return _edited(edit)


def _last_row(column: str, value: Any) -> Change:
    """Another value in the last row of the first video, which scores."""

    def edit(sheet: Any) -> None:
        row = max(r for r in range(2, sheet.max_row + 1) if sheet.cell(r, 1).value == 1)
        _cell(sheet, row, column).value = value

    return _edited(edit)


def _swap_headers(first: str, second: str) -> Change:
    def edit(sheet: Any) -> None:
        a, b = (_cell(sheet, 1, n) for n in (first, second))
        a.value, b.value = b.value, a.value

    return _edited(edit)


def _repeat_last(sheet: Any) -> None:
    sheet.append([c.value for c in sheet[sheet.max_row]])


def _a_minute_later(sheet: Any) -> None:
    """Minutes counted from 1."""
    for row in range(2, sheet.max_row + 1):
        for column in ("initial_minute", "final_minute"):
            _cell(sheet, row, column).value += 1


def _bomb(data: bytes) -> bytes:
    """A part that unpacks to more than any sheet of intervals needs."""
    packed = io.BytesIO(data)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/media/image1.bin", bytes(80 << 20))
    return packed.getvalue()


TRIAL = Trial(seconds=40, train=(1, 2), test=(41,))
_PICTURES = "sim-cholec80-cvs-pictures"
# The last second before clipping in the trial's video 1.
_FRAME = f"{_PICTURES}/frames/video01/video01_000014.png"
_PHASES = f"{_PICTURES}/phase_annotations/video01-phase.txt"
DAMAGES = (
    Damage("truncated", _NAME, cut_half, r"cholec80-CVS\.xlsx: not a whole workbook"),
    Damage(
        "truncated",
        _PHASES,
        lambda d: d[: d.index(b"ClippingCutting") - 6],
        r"video01-phase\.txt:\d+: .*no phase of Cholec80",
    ),
    Damage(
        "wrong encoding",
        _NAME,
        lambda d: ",".join(_HEADER).encode("utf-16"),
        r"cholec80-CVS\.xlsx: not a whole workbook",
    ),
    Damage("missing file", _NAME, None, "not a Cholec80-CVS folder: expected one workbook"),
    Damage("missing file", _PHASES, None, r"video01-phase\.txt: no such file"),
    Damage("duplicate id", _NAME, _edited(_repeat_last), r"row \d+: stands twice"),
    Damage("duplicate id", _NAME, _put(1, "cystic_plate", "two_structures"), "expected the columns"),
    Damage("reordered", _PHASES, swap_lines(30, 60), r"video01-phase\.txt:31: expected frame 29, found 59"),
    Damage("swapped ids", _NAME, _swap_headers("initial_second", "final_second"), "s, before it begins at"),
    Damage(
        "swapped ids", _NAME, _swap_headers("critical_view", "Total"), "Total is|total is|critical_view is"
    ),
    Damage("off-by-one frame", _PHASES, cholec80.FROM_ONE, r"phase\.txt:2: expected frame 0, found 1"),
    Damage("off-by-one frame", _NAME, _edited(_a_minute_later), "begins at .* after the first clip"),
    Damage("malformed value", _NAME, _last_row("Total", 1), "Total is 1, but the scores add up to"),
    Damage("unknown label", _NAME, _put(1, "cystic_plate", "plate"), "expected the columns .*cystic_plate"),
    Damage("malformed value", _NAME, _put(2, "two_structures", "yes"), "row 2: two_structures is 'yes'"),
    Damage("malformed value", _NAME, _last_row("final_second", "00:12"), "final_second is '00:12'"),
    Damage("malformed value", _NAME, _put(2, "video", None), "row 2: video is 'None'"),
    Damage("out of range", _NAME, _put(2, "cystic_plate", 3), "row 2: cystic_plate is '3'"),
    Damage("out of range", _NAME, _put(2, "video", 81), "row 2: video is '81', expected a number 1-80"),
    Damage("out of range", _NAME, _last_row("final_minute", -1), "final_minute is '-1'"),
    Damage("hostile file", _NAME, _bomb, "unpacked are no workbook"),
    Damage("missing picture", _FRAME, None, "a labelled frame has no picture"),
    Damage("unknown label", _PHASES, replace_once("\n7\tPreparation", "\n7\tLunch"), "no phase of Cholec80"),
)
