"""Ways to break a file of a tree: what the `DAMAGES` of the writers are made of. A change maps a file's bytes
to other bytes; text is UTF-8 with a newline after every line. No tree is written with this module.
"""

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Change = Callable[[bytes], bytes]
DamageKind = Literal[
    "truncated",
    "reordered",
    "wrong encoding",
    "missing file",
    "duplicate id",
    "off-by-one frame",
    "swapped ids",
    "unknown label",
    "malformed value",
    "out of range",
    "broken picture",
    "missing picture",
    "hostile path",
    "hostile file",
]


@dataclass(frozen=True)
class Damage:
    """One way in which a download can be broken. `file` is a glob below the root (the first match in sorted
    order is changed); `change` maps its bytes, None removes it. The adapter must raise a SurgR1Error or
    reject rows, and its text must match `message` (regular expression).
    """

    kind: DamageKind
    file: str
    change: Change | None
    message: str


def cut_half(data: bytes) -> bytes:
    """The first half of a file: a broken download."""
    return data[: len(data) // 2]


def cut_head(data: bytes) -> bytes:
    """The first 20 bytes: of a picture not even the header is whole."""
    return data[:20]


def to_utf16(data: bytes) -> bytes:
    """The text in another encoding, as a spreadsheet program may save it."""
    return data.decode("utf-8").encode("utf-16")


def replace_once(old: str, new: str) -> Change:
    """A change of the first occurrence; it must occur, else nothing would be damaged."""

    def change(data: bytes) -> bytes:
        before, after = old.encode(), new.encode()
        if before not in data:
            raise ValueError(f"{old!r} does not occur")
        return data.replace(before, after, 1)

    return change


def edit_lines(edit: Callable[[list[bytes]], Iterable[bytes]]) -> Change:
    """A change of the list of lines, each with its newline."""
    return lambda data: b"".join(edit(data.splitlines(keepends=True)))


def swap_lines(first: int, second: int) -> Change:
    """Exchange two lines (0-based)."""

    def edit(lines: list[bytes]) -> list[bytes]:
        lines[first], lines[second] = lines[second], lines[first]
        return lines

    return edit_lines(edit)


def keep_lines(count: int) -> Change:
    """The first `count` lines; all but the last ones where it is negative: cut at the end of a line."""
    return edit_lines(lambda lines: lines[:count])


def unended(change: Change) -> Change:
    """The change, and the last newline lost, as some editors save a file."""
    return lambda data: change(data).removesuffix(b"\n")


def repeat_line(line: int) -> Change:
    """A line (0-based) twice in a row."""
    return edit_lines(lambda lines: [*lines[: line + 1], *lines[line:]])


def append_line(line: int) -> Change:
    """A line (0-based, or from the end) once more at the end."""
    return edit_lines(lambda lines: [*lines, lines[line]])


def edit_cells(separator: str, edit: Callable[[list[str]], Iterable[str]], *, head: int = 0) -> Change:
    """A change of the cells of every line after the first `head` ones."""

    def change(data: bytes) -> bytes:
        lines = data.decode().splitlines()
        rows = [separator.join(edit(line.split(separator))) for line in lines[head:]]
        return "".join(f"{line}\n" for line in [*lines[:head], *rows]).encode()

    return change


def add_to_column(separator: str, column: int, by: int, *, digits: int = 1, head: int = 0) -> Change:
    """A whole number more or less in a column (0-based) of every line after the first `head` ones: frames or
    classes that are counted from elsewhere. Written with at least `digits` digits.
    """

    def edit(cells: list[str]) -> list[str]:
        cells[column] = f"{int(cells[column]) + by:0{digits}d}"
        return cells

    return edit_cells(separator, edit, head=head)


def swap_columns(separator: str, first: int, second: int) -> Change:
    """Exchange two columns (0-based), a header with them."""

    def edit(cells: list[str]) -> list[str]:
        cells[first], cells[second] = cells[second], cells[first]
        return cells

    return edit_cells(separator, edit)


def edit_json(edit: Callable[[Any], None], *, indent: int | None = None) -> Change:
    """A change, in place, of what a JSON file holds; `indent` as the writer of the file has it."""

    def change(data: bytes) -> bytes:
        body = json.loads(data)
        edit(body)
        return json.dumps(body, indent=indent).encode()

    return change


def add_to_keys(name: str, by: int) -> Change:
    """A whole number more or less in every key of the object `name` of a JSON file: frames counted from
    elsewhere.
    """

    def edit(body: dict[str, Any]) -> None:
        body[name] = {str(int(key) + by): value for key, value in body[name].items()}

    return edit_json(edit)


def exchange(first: dict[str, Any], second: dict[str, Any], *keys: str) -> None:
    """Exchange values of two JSON objects."""
    for key in keys:
        first[key], second[key] = second[key], first[key]


def next_file_names(body: dict[str, Any]) -> None:
    """Every image of a COCO file has the file name of the image after it."""
    names = [image["file_name"] for image in body["images"]]
    for image, name in zip(body["images"], [*names[1:], *names[:1]], strict=True):
        image["file_name"] = name


def nested_lists(depth: int) -> Change:
    """JSON that opens lists and closes none: what a recursive parser dies of."""
    return lambda _: b"[" * depth


def edit_picture(
    edit: Callable[[Image.Image], Image.Image], kind: str = "PNG", *, quality: int | None = None
) -> Change:
    """A change of a picture, saved anew as `kind` ("PNG", "JPEG")."""

    def change(data: bytes) -> bytes:
        out = io.BytesIO()
        options = {} if quality is None else {"quality": quality}
        edit(Image.open(io.BytesIO(data))).save(out, kind, **options)
        return out.getvalue()

    return change


def edit_pixels(edit: Callable[[NDArray[np.uint8]], NDArray[Any]]) -> Change:
    """A change of the pixels of a PNG file: (height, width), or (height, width, 3) in colour."""
    return edit_picture(lambda picture: Image.fromarray(edit(np.asarray(picture))))


def blend_pixels(factor: int) -> Change:
    """A mask made smaller and as large again with smoothing: values appear that are no class."""

    def edit(mask: Image.Image) -> Image.Image:
        small = mask.resize((mask.width // factor, mask.height // factor), Image.Resampling.BILINEAR)
        return small.resize(mask.size)

    return edit_picture(edit)


def halve_picture(data: bytes) -> bytes:
    """A mask on another grid than its picture."""
    return edit_picture(lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.NEAREST))(data)


def promise_pixels(side: int) -> Change:
    """A PNG file whose header promises `side` x `side` pixels."""

    def change(data: bytes) -> bytes:
        header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]

    return change
