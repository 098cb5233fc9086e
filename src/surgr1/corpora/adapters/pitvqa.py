"""PitVQA (reference datasets-b.md section 7): questions and answers about endoscopic pituitary surgery, one
text file a frame. The pairs are kept as they stand; phase, step, instruments and their number are labelled
where the answers say them.

Instruments are labelled where the answers name as many as they count. A question with two answers in one
frame (two instruments at one place) has no one answer and is left out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

from surgr1.corpora.files import LayoutError, Rejects, listing, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "endoscopic pituitary surgery"
_LABELS = ("qa-classification", "QA")
_TOP = ("", "PitVQA_dataset", "PitVQA")
_VIDEO = re.compile(r"video_\d\d")
_NAME = re.compile(r"\d{5}\.txt")
_KINDS = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("phase", r"what is the surgical phase\b.*"),
        ("step", r"what is the surgical step\b.*"),
        ("tool", r"what instrument is used (?:at|in) the [a-z-]+ of the image\?"),
        ("count", r"how many instruments\b.*"),
        ("of tool", r"(?:what surgical activity|where is the surgical instrument)\b.*"),
    )
)
_OF_TOOL = re.compile(r"\binstrument ([a-z_]+)", re.IGNORECASE)
_LARGEST = 65536
"""Bytes; real texts have about a thousand."""
_NUMBERS = {"zero": 0, "one": 1, "two": 2}
_NOT_THERE = ("no_visible_instrument", "no_secondary_instrument")
"""Answers that the dataset's own loader leaves out."""
_PHASES = {
    "nasal corridor creation": "nasal sphenoid",
    "anterior sphenoidotomy": "nasal sphenoid",
    "septum displacement": "nasal sphenoid",
    "sphenoid sinus clearance": "nasal sphenoid",
    "sellotomy": "sellar",
    "durotomy": "sellar",
    "tumour excision": "sellar",
}
"""Step -> phase; every other step is closure (datasets-b.md 7.3)."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a picture counter, 0-based: one picture per ceil(fps) frames of videos at 24 or 25 fps."""
    return float(frame)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`qa-classification/video_NN/KKKKK.txt` (or `QA/...`), pictures in `images/video_NN/KKKKK.png` beside
    it. A picture without a text was too blurred to annotate.
    """
    root = source.root
    found = [
        f"{top}/{name}".removeprefix("/")
        for top in _TOP
        for name in _LABELS
        if (root / top / name).is_dir() and any((root / top / name).glob("video_??"))
    ]
    if len(found) != 1:
        raise LayoutError(
            f"{root}: not a PitVQA tree: expected one of {', '.join(_LABELS)} with video_NN/KKKKK.txt; found"
            f" {' and '.join(found) + ' (keep one)' if found else listing(root)}"
        )
    labels = root / found[0]
    prefix = "" if source.pictures else found[0].rpartition("/")[0]
    pictures = f"{prefix}/images".removeprefix("/")
    folders: dict[str, Path] = {}
    for folder in visible(labels.iterdir()):
        if folder.is_dir():
            if _VIDEO.fullmatch(folder.name):
                folders[folder.name] = folder
            else:
                rejects.add(folder, "not a video of PitVQA (video_01 ... video_25)")
        elif _VIDEO.fullmatch(folder.name):
            rejects.add(folder, "expected a folder of texts; is the download complete?")
    roles = source.roles(folders)
    if source.images == "check" and roles:
        _check_pictures(source.picture_root / pictures, roles, folders, rejects)

    def frames(video: str) -> Iterator[Frame]:
        album = source.folder_of_pictures(f"{pictures}/{video}", rejects)
        for path in _texts(folders[video], rejects)[:: source.every]:
            name = path.name[:-4]
            try:
                with path.open("rb") as file:
                    said = _read(file.read(_LARGEST + 1))
            except OSError as error:
                said = _Said(problems=((0, f"cannot be read: {error.strerror}"),))
            for line, reason in said.problems:
                rejects.add(f"{path}:{line}" if line else path, reason)
            if said.empty:
                continue
            size = album.size(f"{name}.png")
            if size is None:
                continue
            yield Frame(
                source,
                procedure=PROCEDURE,
                video=video,
                frame=int(name),
                seconds=frame_to_seconds(int(name)),
                image=f"{pictures}/{video}/{name}.png",
                size=size,
                labels=said.labels,
                role=roles[video],
                tool_count=said.count,
                questions=said.questions,
            )

    return Tree(roles, frames)


def _check_pictures(
    pictures: Path, wanted: Iterable[str], folders: Mapping[str, Path], rejects: Rejects
) -> None:
    """Raises LayoutError where pictures are missing, or still in the videos."""
    missing = [v for v in wanted if not (pictures / v).is_dir()]
    if missing:
        root = pictures.parent
        advice = (
            f"run `surgr1 data frames {root}`"
            if (root / "videos").is_dir()
            else f"nor are there {root / 'videos'}/video_NN.mp4 to take them from"
        )
        raise LayoutError(f"{pictures}: no pictures of {', '.join(missing)}; {advice}")
    for folder in visible(pictures.iterdir()):
        if folder.is_dir() and folder.name not in folders:
            rejects.add(folder, "pictures without a folder of texts; is the download complete?")


def _texts(folder: Path, rejects: Rejects) -> list[Path]:
    """The texts of a video's annotated frames, ascending."""
    texts = []
    for path in visible(folder.iterdir()):
        if _NAME.fullmatch(path.name):
            texts.append(path)
        else:
            rejects.add(path, "not named after a frame (00000.txt)")
    if not texts:
        rejects.add(folder, "no text of a frame; is the download complete?")
    return texts


@dataclass(frozen=True)
class _Said:
    """What one file says. `problems` are (line or 0, reason)."""

    labels: Labels = field(default_factory=Labels)
    count: int | None = None
    questions: tuple[tuple[str, str], ...] = ()
    problems: tuple[tuple[int, str], ...] = ()

    @cached_property
    def empty(self) -> bool:
        """Whether nothing is left to ask."""
        return self.labels == Labels() and self.count is None and not self.questions


@lru_cache(maxsize=16384)
def _read(data: bytes) -> _Said:
    """Frames that follow each other mostly say the same: each distinct text is read once."""
    if len(data) > _LARGEST:
        return _Said(problems=((0, f"more than {_LARGEST} bytes are no text of one frame"),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _Said(problems=((0, f"cannot be read as UTF-8 text: {error}"),))
    problems: list[tuple[int, str]] = []
    if "\x00" in text:
        return _Said(problems=((0, "holds NUL bytes: damaged, or UTF-16"),))
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        parts = [p.strip() for p in line.split("|")]
        if len(parts) != 2 or not (parts[0] and parts[0].isascii() and parts[0].isprintable()):
            problems.append((number, f"expected `question|answer`, found {line[:80]!r}"))
        elif (parts[0], parts[1]) in lines:
            problems.append((number, f"repeats line {lines[parts[0], parts[1]]}"))
        elif parts[1].casefold() not in _answers():
            problems.append((number, f"{parts[1][:80]!r} is none of PitVQA's {len(_answers()) - 2} answers"))
        else:
            lines[parts[0], parts[1]] = number
    if not lines and not problems:
        problems.append((0, "no question in it"))
    said = _labelled(lines)
    return _Said(said.labels, said.count, said.questions, (*problems, *said.problems))


def _labelled(lines: dict[tuple[str, str], int]) -> _Said:
    """Labels and questions of well-formed lines. Those that contradict each other are left out, and a
    problem says so.
    """
    kinds: dict[str, dict[tuple[str, str], int]] = {k: {} for k, _ in _KINDS}
    for pair, number in lines.items():
        kind = _kind(pair[0])
        if kind:
            kinds[kind][pair] = number
    problems: list[tuple[int, str]] = []
    bad: set[tuple[str, str]] = set()

    def contradiction(pairs: dict[tuple[str, str], int], reason: str) -> None:
        problems.append((max(pairs.values()), reason))
        bad.update(pairs)

    named: dict[str, str] = {}
    for kind in ("phase", "step"):
        words = vocabulary("pitvqa", kind)
        answers = {a for _, a in kinds[kind]}
        if strange := sorted(a for a in answers if a not in words.native):
            contradiction(kinds[kind], f"{strange[0]!r} is no {kind}; {kind}s: {', '.join(words.native)}")
        elif len(answers) > 1:
            contradiction(kinds[kind], f"more than one {kind}: {', '.join(sorted(answers))}")
        elif answers:
            named[kind] = words.from_native(answers.pop())
    if len(named) == 2 and _PHASES.get(named["step"], "closure") != named["phase"]:
        contradiction(
            kinds["phase"] | kinds["step"], f"the step {named['step']!r} is no part of {named['phase']!r}"
        )
        named.clear()
    tools, count, reason = _tools(kinds)
    if reason:
        contradiction(kinds["tool"] | kinds["count"] | kinds["of tool"], reason)
    asked = [q for q, _ in lines]
    twice = {q for q in asked if asked.count(q) > 1}
    for question in sorted(q for q in twice if not _kind(q)):
        pairs = {p: n for p, n in lines.items() if p[0] == question}
        contradiction(pairs, f"{question!r} has {len(pairs)} answers")
    questions = tuple(p for p in lines if p not in bad and p[1] not in _NOT_THERE and p[0] not in twice)
    labels = Labels(tools=tools, phase=named.get("phase"), step=named.get("step"))
    return _Said(labels, count, questions, tuple(problems))


def _tools(
    kinds: dict[str, dict[tuple[str, str], int]],
) -> tuple[tuple[str, ...] | None, int | None, str]:
    """(the instruments if all are named, their number, what is wrong)."""
    words = vocabulary("pitvqa", "tool")
    answers = [a for _, a in kinds["tool"]]
    names = [a for a in answers if a not in _NOT_THERE]
    if strange := [a for a in names if a not in words.native]:
        return None, None, f"{strange[0]!r} is no instrument; instruments: {', '.join(words.native)}"
    for question, _ in kinds["of tool"]:
        match = _OF_TOOL.search(question)
        if match and match[1] in words.native and match[1] not in names:
            return None, None, f"asks about {match[1]!r}, which is not among the frame's instruments"
    counts = {a for _, a in kinds["count"]}
    if len(counts) > 1 or not counts <= _NUMBERS.keys():
        return None, None, f"expected one of {', '.join(_NUMBERS)} instruments, found {sorted(counts)}"
    count = _NUMBERS[counts.pop()] if counts else None
    if (count is not None and len(names) > count) or ("no_visible_instrument" in answers and names):
        return None, None, f"names {', '.join(names)} where {count or 'no'} instruments are visible"
    if count is None and set(answers) & set(_NOT_THERE):
        count = len(names)
    named = tuple(words.from_native(n) for n in words.native if n in names)
    return (named if count == len(names) else None), count, ""


@lru_cache(maxsize=4096)
def _kind(question: str) -> str:
    return next((k for k, pattern in _KINDS if pattern.fullmatch(question)), "")


@lru_cache(maxsize=1)
def _answers() -> frozenset[str]:
    """The closed list of answers without regard to case, and the two that the loader leaves out."""
    return frozenset((*(n.casefold() for n in vocabulary("pitvqa", "answer").native), *_NOT_THERE))
