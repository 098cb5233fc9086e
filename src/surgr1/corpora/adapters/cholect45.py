"""CholecT45 (reference datasets-a.md 3.3): CholecT50's triplets for 45 videos, as tables of 0 and 1 without
boxes and phases.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_text, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import triplet_parts, vocabulary

PROCEDURE = "laparoscopic cholecystectomy"
_TABLES = {"triplet": "triplet", "instrument": "tool", "verb": "verb", "target": "target"}
"""Folder of the tables -> kind of vocabulary of their columns."""
_PICTURES = ("data", "rgb", "videos")
"""What the README, one public parser and CholecT50 call the folder of pictures."""
_TOPS = ("", "CholecT45/")


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-fps counter, 0-based: the unit of column 0 and of the picture names."""
    return float(frame)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`data/VIDnn/KKKKKK.png` with `triplet|instrument|verb|target/VIDnn.txt`."""
    top = next((t for t in _TOPS if all((source.root / t / n).is_dir() for n in _TABLES)), None)
    if top is None:
        raise LayoutError(
            f"{source.root}: not a CholecT45 tree: expected {', '.join(f'{n}/VIDnn.txt' for n in _TABLES)};"
            f" found {listing(source.root)}"
        )
    root = source.root / top
    _check_dictionaries(root / "dict")
    tables = {
        n: {p.stem: p for p in visible((root / n).glob("*.txt")) if re.fullmatch(r"VID\d+", p.stem)}
        for n in _TABLES
    }
    videos = set.intersection(*(set(t) for t in tables.values()))
    for video in sorted(set.union(*(set(t) for t in tables.values())) - videos):
        lacking = ", ".join(f"{n}/{video}.txt" for n in _TABLES if video not in tables[n])
        rejects.add(root, f"no {lacking}; is the download complete?")
    roles = source.roles(sorted(videos))
    pictures_in = _picture_folder(source, top)

    def frames(video: str) -> Iterator[Frame]:
        folder = f"{pictures_in}/{video}"
        pictures = source.folder_of_pictures(folder, rejects)
        columns = {
            n: _rows(tables[n][video], len(vocabulary("cholect45", k).names), rejects)
            for n, k in _TABLES.items()
        }
        known: dict[tuple[str, ...], Labels | str] = {}
        shared = _shared_frames(columns, {n: tables[n][video] for n in _TABLES}, rejects)
        for frame in shared[:: source.every]:
            bits = tuple(columns[n][frame] for n in _TABLES)
            if bits not in known:
                known[bits] = _labels(*bits)
            labels = known[bits]
            if isinstance(labels, str):
                rejects.add(f"{tables['triplet'][video]}: frame {frame}", labels)
                continue
            name = f"{frame:06d}.png"
            size = pictures.size(name)
            if size is None:
                continue
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=frame,
                seconds=frame_to_seconds(frame),
                image=f"{folder}/{name}",
                size=size,
                labels=labels,
                role=roles[video],
            )

    return Tree(roles, frames)


def _picture_folder(source: Source, top: str) -> str:
    """The folder of the pictures below the picture root. Raises LayoutError."""
    for name in _PICTURES:
        if (source.picture_root / top / name).is_dir():
            return f"{top}{name}"
    if source.images == "skip":
        return f"{top}{_PICTURES[0]}"
    root = source.picture_root / top
    raise LayoutError(f"{root}: no pictures: expected {'/ or '.join(_PICTURES)}/; found {listing(root)}")


def _check_dictionaries(folder: Path) -> None:
    """The names of the columns, where the release's dictionaries are there. Raises LabelError."""
    for name, kind in _TABLES.items():
        path = folder / f"{name}.txt"
        if not path.is_file():
            continue
        words = vocabulary("cholect45", kind).native
        found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        for k, (line, word) in enumerate(zip(found, words, strict=False)):
            if re.sub(r"\s", "", line) != f"{k}:{word}":
                raise LabelError(
                    f"{path}: expected {k}:{word}, found {line[:80]!r}; columns would be misread"
                )
        if len(found) != len(words):
            raise LabelError(f"{path}: expected {len(words)} names, found {len(found)}")


def _rows(path: Path, classes: int, rejects: Rejects) -> dict[int, str]:
    """Frame -> its `classes` columns as a text of 0 and 1, ascending. Raises LabelError."""
    rows: dict[int, str] = {}
    commas = "," * (classes - 1)
    last = -1
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        cell, _, rest = line.partition(",")
        bits = rest[::2]
        if len(bits) != classes or rest[1::2] != commas or bits.strip("01"):
            # Not as compact as expected: with blanks, or wrong.
            parts = [p.strip() for p in rest.split(",")]
            if len(parts) != classes or set(parts) - {"0", "1"}:
                rejects.add(
                    f"{path}:{number}",
                    f"expected a frame and {classes} columns of 0 or 1, found {len(parts)}: {line[:60]!r}",
                )
                continue
            bits = "".join(parts)
        cell = cell.strip()
        if not (cell.isascii() and cell.isdigit() and len(cell) <= 6):
            rejects.add(f"{path}:{number}", f"{cell[:40]!r} is no frame number")
            continue
        frame = int(cell)
        if frame <= last:
            rejects.add(f"{path}:{number}", f"frame {frame} does not follow {last}")
            continue
        rows[frame] = bits
        last = frame
    return rows


def _shared_frames(
    columns: Mapping[str, Mapping[int, str]], paths: Mapping[str, Path], rejects: Rejects
) -> list[int]:
    """The frames that all four tables have; the others are rejected."""
    every = sorted(set().union(*columns.values()))
    shared = []
    for frame in every:
        lacking = [n for n in columns if frame not in columns[n]]
        if lacking:
            rejects.add(paths[lacking[0]], f"no usable row for frame {frame}, which other tables have")
        else:
            shared.append(frame)
    return shared


def _labels(triplet: str, instrument: str, verb: str, target: str) -> Labels | str:
    """The labels of a frame's columns, or what is wrong with them: every part of a triplet must be marked in
    the part's own table.
    """
    named = tuple(triplet_parts(t) for t in _marked("triplet", triplet))
    parts = [_marked(kind, bits) for kind, bits in (("tool", instrument), ("verb", verb), ("target", target))]
    for one in named:
        for part, marked, table in zip(one, parts, ("instrument", "verb", "target"), strict=True):
            if part not in marked:
                return f"triplet {' '.join(one)!r}, but {table}/ does not mark {part!r}"
    tools, verbs, targets = parts
    return Labels(tools=tools, verbs=verbs, targets=targets, triplets=named)


def _marked(kind: str, bits: str) -> tuple[str, ...]:
    names = vocabulary("cholect45", kind).names
    return tuple(n for n, bit in zip(names, bits, strict=True) if bit == "1")
