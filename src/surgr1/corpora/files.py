"""Reading what lies in a dataset tree: text, JSON and tables with errors that name file and line, pictures
listed once per folder, and the rows that could not be used.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import image_size
from surgr1.ontology.errors import SurgR1Error


class LayoutError(SurgR1Error):
    """A folder that is not what it is said to be, or lacks something."""


class LabelError(SurgR1Error):
    """A label file with a line that cannot be right."""


_LARGEST = 2 << 30
"""Bytes. No label file of the 23 datasets comes near; a larger one is not read into memory."""


def listing(root: Path) -> str:
    """The first names in a folder, for errors that say what was found."""
    return ", ".join(sorted(p.name for p in root.iterdir())[:8]) or "nothing"


def visible(paths: Iterator[Path] | Sequence[Path]) -> list[Path]:
    """Sorted, without what macOS leaves in archives (`__MACOSX/`, `._name`)."""
    return sorted(p for p in paths if not p.name.startswith("._") and "__MACOSX" not in p.parts)


def read_text(path: Path) -> str:
    """A UTF-8 text (with or without a byte order mark). Raises LabelError naming the file."""
    try:
        if path.stat().st_size > _LARGEST:
            raise LabelError(f"{path}: {path.stat().st_size} bytes are no label file")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LabelError(f"{path}: no such file; is the download complete?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if "\x00" in text:
        raise LabelError(f"{path}: holds NUL bytes: damaged, or UTF-16; copy it again from the source")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(n for n in names if names.count(n) > 1)!r}")
    return found


def read_json(path: Path) -> Any:
    """A JSON file; a key that stands twice is refused. Raises LabelError naming file and reason."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise LabelError(f"{path}: not a whole JSON file: {error}") from error


def parse_json(text: str) -> Any:
    """A JSON value; a key that stands twice is refused. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(f"nested too deeply: {error}") from error


def read_table(path: Path, *, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line of a delimited text, the header first; empty lines are left out.
    Raises LabelError.
    """
    lines = read_text(path).splitlines()
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise LabelError(f"{path}:{reader.line_num}: not a table: {error}") from error


@dataclass(frozen=True)
class Reject:
    """One row that was not used. `where` is "file", "file:line" or "file: record"."""

    where: str
    reason: str


@dataclass
class Rejects:
    """What an adapter could not use. Strict: the first bad row raises LabelError; else rows are collected and
    the reader goes on.
    """

    strict: bool = True
    rows: list[Reject] = field(default_factory=list)

    def add(self, where: object, reason: str) -> None:
        """Leave out one row (not a file: what breaks a whole file raises). Raises LabelError if strict."""
        if self.strict:
            raise LabelError(f"{where}: {reason}")
        self.rows.append(Reject(str(where), reason))


class Pictures:
    """The pictures of one folder of a dataset, listed once.

    `nominal` is the size (width, height) that the dataset documents; it stands in where pictures are not
    looked at (`checked` false). Otherwise sizes come from the pictures: from the first one of the folder, or
    from each with `each`.
    """

    def __init__(
        self, folder: Path, rejects: Rejects, *, nominal: tuple[int, int], checked: bool, each: bool = False
    ) -> None:
        self.folder, self._rejects, self._nominal, self._each = folder, rejects, nominal, each
        self._checked = checked
        self._size: tuple[int, int] | None = None
        self._names: frozenset[str] = frozenset()
        if checked:
            if not folder.is_dir():
                raise LayoutError(f"{folder}: no such folder of pictures; is the download complete?")
            self._names = frozenset(p.name for p in folder.iterdir())

    def size(self, name: str) -> tuple[int, int] | None:
        """(width, height) of a labelled frame's picture; None, with the row rejected, where it is missing.
        Raises ImageError on a picture that cannot be read.
        """
        if not self._checked:
            return self._nominal
        if name not in self._names:
            self._rejects.add(self.folder / name, "a labelled frame has no picture")
            return None
        if self._each:
            return image_size(self.folder / name)
        if self._size is None:
            self._size = image_size(self.folder / name)
        return self._size
