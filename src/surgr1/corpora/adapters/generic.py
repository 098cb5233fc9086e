"""A hospital's own data in the generic layout of docs/external-data.md: `dataset.yaml`, one table of frames
(`frames.jsonl` or `frames.csv`), pictures.

Its policy is `local_only` unless `dataset.yaml` says otherwise, and a recipe can only make it stricter.
"""

import csv
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints, ValidationError

from surgr1.corpora.archives import inside
from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, parse_json
from surgr1.corpora.grid import ImageError, image_size
from surgr1.corpora.masks import checked_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import LabelledBox, Labels, Policy, Role, strictest
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.vocabularies import HOSPITALS, Vocabulary, has_vocabulary, vocabulary
from surgr1.reasoning.answers import normalise

DESCRIPTION = "dataset.yaml"
_ONE_OF = ("phase", "step", "action", "motion")
"""Kinds of which a frame has one."""
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]
"""Not blank, no NUL."""


class Description(BaseModel):
    """`dataset.yaml`. `vocabularies` lists the labels of kinds (phase, action, tool, ...) that the ontology
    has no list for under this dataset's name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["surgr1-frames"]
    version: Literal[1]
    dataset: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    procedure: str
    centre: str
    policy: Policy = "local_only"
    licence: str = "not released"
    vocabularies: Mapping[str, tuple[str, ...]] = {}


class Question(BaseModel):
    """One open question about a frame and its answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: _Text
    answer: _Text


class NamedBox(BaseModel):
    """A box in pixels of the stored picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Text
    xyxy: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class Row(BaseModel):
    """One frame. A field that is absent is not labelled; an empty list says that none is present."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    video: _Text
    frame: int = Field(ge=0, lt=1 << 63)
    image: _Text
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False)
    split: Role | None = None
    tools: tuple[_Text, ...] | None = None
    tissues: tuple[_Text, ...] | None = None
    triplets: tuple[tuple[_Text, _Text, _Text], ...] | None = None
    phase: _Text | None = None
    step: _Text | None = None
    action: _Text | None = None
    motion: _Text | None = None
    C1: bool | None = None
    C2: bool | None = None
    C3: bool | None = None
    boxes: tuple[NamedBox, ...] | None = None
    questions: tuple[Question, ...] = ()


def is_generic(root: Path) -> bool:
    """Whether a folder says that it is in this layout."""
    path = root / DESCRIPTION
    return path.is_file() and "surgr1-frames" in path.read_text(encoding="utf-8", errors="replace")


def read_description(root: Path) -> Description:
    """`dataset.yaml` of a folder. Raises LayoutError naming the key."""
    path = root / DESCRIPTION
    try:
        return Description.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise LayoutError(f"{root}: no {DESCRIPTION}; found {listing(root)}") from None
    except ValidationError as error:
        raise LayoutError(f"{path}: {_first(error)}") from None
    # ValueError: a text that is not UTF-8, a date that is none.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise LayoutError(f"{path}: cannot be read: {error}") from error


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """The folder's rows by video. Raises LayoutError, and LabelError where the table itself is broken."""
    root = source.root
    about = read_description(root)
    if source.dataset != about.dataset:
        raise LayoutError(f"{root / DESCRIPTION}: dataset {about.dataset!r}, but read as {source.dataset!r}")
    words = {kind: _words(about, kind) for kind in ("tool", "tissue", "triplet", *_ONE_OF)}
    rows: dict[str, dict[int, tuple[str, Row]]] = {}
    splits: dict[str, Role] = {}
    shown: set[str] = set()
    for where, row in _rows(root, rejects):
        mine = rows.setdefault(row.video, {})
        if row.frame in mine or row.image in shown:
            what = f"video {row.video} frame {row.frame}" if row.frame in mine else f"image {row.image}"
            rejects.add(where, f"{what} stands twice")
            continue
        shown.add(row.image)
        mine[row.frame] = where, row
        if row.split and splits.setdefault(row.video, row.split) != row.split:
            rejects.add(where, f"video {row.video} is in {splits[row.video]} and {row.split}")
    if not rows:
        raise LabelError(f"{root}: the table of frames has no row that can be used")

    def frames(video: str) -> Iterator[Frame]:
        before = 0.0
        for _, (where, row) in sorted(rows[video].items())[:: source.every]:
            if row.seconds < before:
                rejects.add(where, f"frame {row.frame} at {row.seconds} s, but the one before at {before} s")
                continue
            before = row.seconds
            try:
                image = inside(root, row.image, where)
                size = image_size(image) if checked else (0, 0)
                labels = _labels(
                    row, words, about.procedure, size if checked else (math.inf, math.inf), where
                )
            # OSError: a path that is too long to be one.
            except (LabelError, ImageError, OSError) as error:
                rejects.add(where, str(error).removeprefix(f"{where}: "))
                continue
            yield Frame(
                source,
                procedure=about.procedure,
                video=video,
                frame=row.frame,
                seconds=row.seconds,
                image=row.image,
                size=size,
                labels=labels,
                role=roles[video],
                centre=source.centre or about.centre,
                policy=policy,
                licence=source.licence or about.licence,
                options={kind: v.names for kind, v in words.items() if v is not None},
                questions=tuple((q.question, q.answer) for q in row.questions),
                # Without its size nobody knows which part of the picture a box is in.
                asks_places=checked,
            )

    checked = source.images == "check"
    # A recipe that says nothing leaves it at what the folder says.
    silent = source.policy is None and source.dataset not in HOSPITALS
    policy = about.policy if silent else strictest(about.policy, source.data_policy)
    roles = source.roles(rows, splits)
    return Tree(roles, frames)


def _words(about: Description, kind: str) -> Vocabulary | None:
    """The labels of a kind: the description's own list, else the ontology's for this dataset."""
    own = about.vocabularies.get(kind)
    if own is not None:
        names = tuple(normalise(n) for n in own)
        return Vocabulary(about.dataset, kind, names, own, {})
    return vocabulary(about.dataset, kind) if has_vocabulary(about.dataset, kind) else None


def _name(text: str, kind: str, words: Mapping[str, Vocabulary | None], where: str) -> str:
    """The canonical name of a label in canonical, native or an alias's spelling."""
    known = words[kind]
    if known is None:
        return normalise(text)
    found = _find(text, known)
    if found is None:
        raise LabelError(f"{where}: no {kind} {text!r}; allowed: {', '.join(known.names)}")
    return found


def _find(text: str, known: Vocabulary) -> str | None:
    table = {normalise(a): n for a, n in known.aliases.items()}
    table |= {normalise(n): c for n, c in zip(known.native, known.names, strict=True)}
    table |= {normalise(n): n for n in known.names}
    return table.get(normalise(text))


def _thing(
    text: str, words: Mapping[str, Vocabulary | None], present: Mapping[str, tuple[str, ...] | None]
) -> str:
    """The canonical name of what is in a box, a tool or a tissue of those `present` (None: not labelled).
    Raises ValueError.
    """
    lists = {kind: known for kind in present if (known := words[kind]) is not None}
    for kind, known in lists.items():
        name, there = _find(text, known), present[kind]
        if name is not None:
            if there is not None and name not in there:
                raise ValueError(f"not among the {kind}s of its frame: {', '.join(there) or 'none'}")
            return name
    if len(lists) == len(present):
        raise ValueError(f"allowed: {', '.join(n for v in lists.values() for n in v.names)}")
    return normalise(text)


def _labels(
    row: Row,
    words: Mapping[str, Vocabulary | None],
    procedure: str,
    size: tuple[float, float],
    where: str,
) -> Labels:
    def each(kind: str, names: Sequence[str] | None) -> tuple[str, ...] | None:
        return None if names is None else tuple(dict.fromkeys(_name(n, kind, words, where) for n in names))

    triplets = None
    if row.triplets is not None:
        known = words["triplet"]
        triplets = tuple((normalise(a), normalise(b), normalise(c)) for a, b, c in row.triplets)
        stray = [" ".join(t) for t in triplets if known is not None and " ".join(t) not in known.names]
        if stray:
            raise LabelError(
                f"{where}: {', '.join(stray)}: not among the {len(known.names if known else ())} triplets"
            )
    criteria = (row.C1, row.C2, row.C3)
    asked = any(c is not None for c in criteria)
    if asked and len(load_procedure(procedure).criteria) != 3:
        raise LabelError(f"{where}: {procedure} has no critical view of safety, but C1, C2 or C3 is given")
    asked_of = [q.question for q in row.questions]
    twice = next((q for q in asked_of if asked_of.count(q) > 1), None)
    if twice is not None:
        raise LabelError(f"{where}: the question {twice!r} stands twice")
    present = {"tool": each("tool", row.tools), "tissue": each("tissue", row.tissues)}
    return Labels(
        tools=present["tool"],
        tissues=present["tissue"],
        triplets=triplets,
        verbs=None if triplets is None else tuple(dict.fromkeys(v for _, v, _ in triplets)),
        targets=None if triplets is None else tuple(dict.fromkeys(t for _, _, t in triplets)),
        **{
            kind: _name(text, kind, words, where)
            for kind in _ONE_OF
            if (text := getattr(row, kind)) is not None
        },
        boxes=None if row.boxes is None else _boxes(row.boxes, words, present, size, where),
        cvs=criteria if asked else None,
    )


def _boxes(
    boxes: Sequence[NamedBox],
    words: Mapping[str, Vocabulary | None],
    present: Mapping[str, tuple[str, ...] | None],
    size: tuple[float, float],
    where: str,
) -> tuple[LabelledBox, ...]:
    found: dict[LabelledBox, None] = {}
    for box in boxes:
        try:
            named = LabelledBox(_thing(box.name, words, present), checked_box(box.xyxy, *size))
        except ValueError as error:
            raise LabelError(f"{where}: box of {box.name}: {error}") from error
        if named in found:
            raise LabelError(f"{where}: box of {box.name}: {box.xyxy} stands twice")
        found[named] = None
    return tuple(found)


def _first(error: ValidationError) -> str:
    """The first problem of a validation, with its key and what stood there."""
    problem = error.errors()[0]
    key = ".".join(str(p) for p in problem["loc"]) or "row"
    # Shortened while it is written: a few aliases of YAML make a value of any length.
    return f"{key:.80}: {problem['msg']}, found {reprlib.repr(problem['input'])}"


def _rows(root: Path, rejects: Rejects) -> Iterator[tuple[str, Row]]:
    """("file:line", row) of the table of frames, without rows that are none."""
    found = [p for p in (root / "frames.jsonl", root / "frames.csv") if p.is_file()]
    if len(found) != 1:
        state = "both frames.jsonl and frames.csv" if found else f"neither; found {listing(root)}"
        raise LayoutError(f"{root}: expected one of frames.jsonl and frames.csv, found {state}")
    raw = _json_rows(found[0]) if found[0].suffix == ".jsonl" else _csv_rows(found[0])
    for number, body in raw:
        where = f"{found[0]}:{number}"
        try:
            yield where, Row.model_validate(body)
        except ValidationError as error:
            rejects.add(where, _first(error))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise LabelError(f"{path}:{number}: not JSON: {error}") from error


def _list(cell: str) -> list[str]:
    """ "none" is a label that none is present; names stand between semicolons."""
    return [] if cell.lower() == "none" else [part.strip() for part in cell.split(";") if part.strip()]


def _triplet(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _named_box(text: str) -> dict[str, Any]:
    words = text.split()
    return {"name": " ".join(words[:-4]), "xyxy": words[-4:]}


_CELLS: Mapping[str, Callable[[str], Any]] = {
    "tools": _list,
    "tissues": _list,
    "triplets": lambda cell: [_triplet(t) for t in _list(cell)],
    "boxes": lambda cell: [_named_box(b) for b in _list(cell)],
}
"""How the cells of these columns are read; the others stand as they are. An empty cell is not labelled."""


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.DictReader(_lines(path), strict=True)
    columns = set(Row.model_fields) - {"questions"}
    try:
        unknown = sorted(set(table.fieldnames or ()) - columns)
        if unknown or not table.fieldnames:
            raise LabelError(
                f"{path}:1: unknown columns {', '.join(unknown) or '(no header)'};"
                f" known: {', '.join(sorted(columns))}"
            )
        for cells in table:
            if None in cells or None in cells.values():
                raise LabelError(f"{path}:{table.line_num}: not as many cells as the header has")
            yield (
                table.line_num,
                {k: _CELLS.get(k, str)(v.strip()) for k, v in cells.items() if v.strip()},
            )
    except csv.Error as error:
        raise LabelError(f"{path}:{table.line_num}: not CSV: {error}") from error
