"""What the EndoVis layouts share: numbered frames, the folders of the 2018 challenge, VQA and VQLA lines
(datasets-a.md 9; datasets-b.md 2, 11, 12).
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from surgr1.corpora.files import LayoutError, Rejects, listing, read_text, visible
from surgr1.corpora.masks import checked_box
from surgr1.corpora.schema import Box
from surgr1.ontology.vocabularies import VocabularyError, vocabulary

NEPHRECTOMY = "robot-assisted nephrectomy"
"""EndoVis 2018: on pigs."""
PORCINE = "robotic porcine procedure"
"""EndoVis 2017, which says no more."""
VQLA_SIZE = (1280, 1024)
"""Width and height of the frames that VQLA boxes count pixels of."""
TEST_FOLDERS = frozenset({"test", "test_data", "testing"})
LEFT = ("left_frames", "left_fr")
"""The challenge's name of the left view's folder, and that of the VQA release used by PitVQA."""
_SEQUENCE = re.compile(r"seq_0*(\d+)")


def numbered(folder: Path, pattern: re.Pattern[str], rejects: Rejects) -> dict[int, str]:
    """Frame number (the pattern's group) -> name of every file whose whole name matches, in order. macOS
    files (`._frame000.png`) are left out; a second name of one number is rejected.
    """
    found: dict[int, str] = {}
    for path in visible(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            rejects.add(path, f"frame {number} stands twice (also {found[number]})")
        else:
            found[number] = path.name
    return dict(sorted(found.items()))


def unlabelled(folder: Path, pattern: re.Pattern[str], labelled: Iterable[int], rejects: Rejects) -> None:
    """Reject the pictures of a folder that have no label: the release labels every one."""
    known = set(labelled)
    for number, name in numbered(folder, pattern, rejects).items():
        if number not in known:
            rejects.add(folder / name, "a picture without its label; is the download complete?")


def left_folder(sequence: Path) -> str:
    """The name of the left view's folder in a sequence: the one present, else the challenge's."""
    return next((n for n in LEFT if (sequence / n).is_dir()), LEFT[0])


def sequences(root: Path) -> dict[str, Path]:
    """ "seq_7" (training part) and "test/seq_1" (test part: other footage) -> folder, wherever the release
    folders were unpacked below `root`, by part and number. Raises LayoutError where a sequence is there
    twice.
    """
    found: dict[tuple[bool, int], Path] = {}
    for folder in below(root, _SEQUENCE):
        match = _SEQUENCE.fullmatch(folder.name)
        if match is None:
            continue
        above = {root.name.lower(), *(p.lower() for p in folder.relative_to(root).parts)}
        key = bool(above & TEST_FOLDERS), int(match[1])
        if key in found:
            raise LayoutError(f"{root}: seq_{key[1]} is there twice: {found[key]} and {folder}; keep one")
        found[key] = folder
    return {f"{'test/' * test}seq_{n}": found[test, n] for test, n in sorted(found)}


def below(folder: Path, sequence: re.Pattern[str], depth: int = 3) -> Iterator[Path]:
    """Folders up to `depth` levels below, in order, but not those below a sequence: archives are unpacked
    side by side or each into a folder of its own.
    """
    for path in visible(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))):
        yield path
        if depth > 1 and not sequence.fullmatch(path.name):
            yield from below(path, sequence, depth - 1)


_FOUR = re.compile(r"\s*-?\d{1,5}\s*(?:,\s*-?\d{1,5}\s*){3}")


class Item(NamedTuple):
    """One question of a frame. `kind`: "organ", "state", "place" or "tool" (extended sets: which tool is in a
    quadrant); `subject` the canonical tool or organ; `answer` canonical; `box` as stored, None in VQA.
    """

    kind: str
    question: str
    answer: str
    subject: str
    box: Box | None


_QUESTIONS = (
    ("organ", re.compile(r"What organ is being operated\?")),
    ("state", re.compile(r"What is the state of (\w+)\?")),
    ("place", re.compile(r"Where is (\w+) located\?")),
    ("tool", re.compile(r"What is the tool in the (?:left|right) (?:top|bottom)\?")),
)
_SHARES = {"organ": slice(0, 1), "state": slice(1, 14), "place": slice(14, 18)}
"""Which of the 18 answers, in loader order, each kind of question may have (datasets-b.md 2.3)."""


def read_items(path: Path, layout: str, *, boxed: bool) -> list[Item]:
    """The questions of a frame's file, in file order: `question|answer`, and with `boxed`
    `question|answer|x1, y1, x2, y2`. Raises LabelError on a broken file, ValueError naming the line of one.
    """
    items: list[Item] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.strip("\r")
        if not line.strip():
            continue
        cells = line.split("|")
        if len(cells) != 2 + boxed:
            wanted = "question|answer|x1, y1, x2, y2 (VQLA)" if boxed else "question|answer (VQA)"
            raise ValueError(f"line {number}: expected {wanted}, found {line[:80]!r}")
        try:
            items.append(_item(layout, cells))
        except (ValueError, VocabularyError) as error:
            raise ValueError(f"line {number}: {error}") from error
    if not items:
        raise ValueError("no question")
    _check_whole(items, layout)
    return items


def _item(layout: str, cells: list[str]) -> Item:
    kind, answer, subject = _meaning(layout, cells[0], cells[1])
    return Item(kind, cells[0], answer, subject, _corners(cells[2]) if len(cells) == 3 else None)


@lru_cache(maxsize=1024)
def _meaning(layout: str, question: str, native: str) -> tuple[str, str, str]:
    """(kind, canonical answer, subject); a set has a few dozen. Raises ValueError, VocabularyError."""
    asked = ((k, pattern.fullmatch(question)) for k, pattern in _QUESTIONS)
    kind, match = next(((k, m) for k, m in asked if m is not None), ("", None))
    if match is None:
        raise ValueError(f"unknown question {question[:80]!r}")
    tools, answers = vocabulary(layout, "tool"), vocabulary(layout, "answer")
    if kind == "tool":
        tool = tools.from_native(native)
        return kind, tool, tool
    if native not in answers.native[_SHARES[kind]]:
        raise ValueError(f"{native[:80]!r} is no answer to {question!r}")
    answer = answers.from_native(native)
    return kind, answer, answer if kind == "organ" else tools.from_native(match[1])


def _corners(text: str) -> Box:
    """Four 1-based pixel corners to x1, y1, x2, y2 with the far edge included. Corners the wrong way round
    occur in the real files. Raises ValueError.
    """
    if not _FOUR.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not four whole numbers")
    x1, y1, x2, y2 = (int(v) for v in text.split(","))
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    return checked_box((x1 - 1, y1 - 1, x2, y2), *VQLA_SIZE)


def _check_whole(items: list[Item], layout: str) -> None:
    """Every frame of the basic sets has the state and the place of each of its tools, each once, and in those
    of 2018 the organ (1,560 + 2 x 3,727 = 9,014). Raises ValueError.
    """
    asked = [i.question for i in items if i.kind != "tool"]
    twice = sorted({q for q in asked if asked.count(q) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice")
    if any(i.kind == "tool" for i in items):
        return
    states, places = ({i.subject for i in items if i.kind == k} for k in ("state", "place"))
    if states != places:
        raise ValueError(f"only one of state and place is asked of {', '.join(sorted(states ^ places))}")
    if layout.startswith("endovis18") and not any(i.kind == "organ" for i in items):
        raise ValueError("the question about the organ is missing")


def asked_once(items: list[Item], where: object, rejects: Rejects) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs. Extended sets ask for the tool in a quadrant twice where two are there: such
    a question has no one answer and is rejected.
    """
    answers: dict[str, set[str]] = {}
    for item in items:
        answers.setdefault(item.question, set()).add(item.answer)
    for question, given in answers.items():
        if len(given) > 1:
            rejects.add(where, f"{question!r} has several answers: {', '.join(sorted(given))}")
    return tuple((q, next(iter(a))) for q, a in answers.items() if len(a) == 1)


def fitted(box: Box, size: tuple[int, int]) -> Box:
    """A VQLA box in pixels of the stored picture: some copies are resized."""
    sx, sy = size[0] / VQLA_SIZE[0], size[1] / VQLA_SIZE[1]
    return box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy


def not_a_tree(root: Path, what: str, wanted: str) -> LayoutError:
    """The error for a folder of another layout."""
    return LayoutError(f"{root}: not {what}: expected {wanted}; found {listing(root)}")
