"""PSI-AVA-VQA (reference datasets-b.md section 4): questions about place, action, phase and step, and, where
they lie in the tree, PSI-AVA's own annotations (section 5) of the same pictures: instruments, actions, boxes.

Questions and answers are kept verbatim (NFC); phase and step are also read as labels. A question that stands
twice with one answer is kept once; a place or action asked twice with different answers (two instruments of
one type) has no one answer and is left out.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgr1.corpora.adapters import _bogota as bogota
from surgr1.corpora.adapters._bogota import Instance, Keyframes, Place
from surgr1.corpora.datasets import official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, read_table, read_text
from surgr1.corpora.masks import checked_box
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PLACES = ("top left", "top right", "bottom left", "bottom right")
_KINDS = ("C1_location", "C2_action", "C3_phase", "C4_step")
_OPTIONAL = "C2_action"
"""The published experiments leave it out."""
_ANNOTATIONS = ("", "psi-ava", "data_annotations/psi-ava", "outputs/data_annotations/psi-ava")


@dataclass
class _Asked:
    """What the question files say of one picture. `answers`: question -> its different answers."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    phase: str | None = None
    step: str | None = None


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`Train/` and `Val/` with `C1_location.txt`, `C3_phase.txt`, `C4_step.txt` (and `C2_action.txt`); or
    PSI-AVA's annotations `fold1/` alone. Pictures: `keyframes/CASENNN/KKKKK.jpg`, here, in PSI-AVA's tree or
    in GraSP's.
    """
    files = _question_files(source.root)
    annotations = _annotation_files(source)
    if not files and not annotations:
        raise LayoutError(
            f"{source.root}: not a PSI-AVA-VQA tree: expected Train/C1_location.txt or psi-ava/fold1/ with"
            f" PSI-AVA's annotations; found {listing(source.root)}"
        )
    asked = _read_questions(files, rejects)
    found = Keyframes()
    for path in annotations:
        _read_annotations(path, found, rejects)
    by_case: defaultdict[str, set[int]] = defaultdict(set)
    for case, second in (*asked, *found.frames):
        by_case[case].add(second)
    roles = source.roles(sorted(by_case))
    folder = bogota.pictures_folder(source, "keyframes")
    tools, verbs = vocabulary("psi-ava-vqa", "tool"), vocabulary("psi-ava-vqa", "verb")

    def frames(video: str) -> Iterator[Frame]:
        pictures = source.folder_of_pictures(f"{folder}/{video}", rejects)
        for second in sorted(by_case[video])[:: source.every]:
            place = (video, second)
            size = pictures.size(f"{second:05d}.jpg")
            if size is None or place in found.broken:
                continue
            instances = found.frames.get(place)
            what = asked.get(place, _Asked())
            try:
                phase, step = _activity(what, instances, bool(annotations))
            except ValueError as error:
                rejects.add(f"{source.root}: {bogota.picture_name(*place)}", str(error))
                continue
            extra: dict[str, Any] = {}
            if instances:
                extra = bogota.instrument_labels(instances, tools, verbs, size)
            yield Frame(
                source,
                procedure=bogota.PROCEDURE,
                video=video,
                frame=second,
                seconds=bogota.frame_to_seconds(second),
                image=f"{folder}/{bogota.picture_name(*place)}",
                size=size,
                labels=Labels(phase=phase, step=step, **extra),
                role=roles[video],
                tool_count=len(instances) if instances else None,
                questions=tuple((q, a[0]) for q, a in what.answers.items() if len(a) == 1),
            )

    return Tree(roles, frames)


def _activity(
    asked: _Asked, instances: list[Instance] | None, annotated: bool
) -> tuple[str | None, str | None]:
    """Phase and step, on which answers and boxes must agree. Raises ValueError."""
    if asked.answers and annotated and not instances:
        raise ValueError("asked about, but PSI-AVA annotates no instrument there: is the number off by one?")
    found = []
    for kind, said in (("phase", asked.phase), ("step", asked.step)):
        words = vocabulary("grasp", kind)
        names = {bogota.class_name(words, i.row.get(kind)) for i in instances or ()}
        if said is not None:
            names.add(said)
        if len(names) > 1:
            raise ValueError(f"answers and boxes disagree on the {kind}: {', '.join(sorted(names))}")
        found.append(names.pop() if names else None)
    return found[0], found[1]


def _question_files(root: Path) -> list[tuple[str, str, Path]]:
    """(Train or Val, kind, file). Raises LayoutError where one is missing."""
    base = next((b for b in (root, root / "PSI-AVA-VQA") if (b / "Train").is_dir()), None)
    if base is None:
        return []
    files = [(part, kind, base / part / f"{kind}.txt") for part in ("Train", "Val") for kind in _KINDS]
    missing = [p for _, kind, p in files if kind != _OPTIONAL and not p.is_file()]
    if missing:
        raise LayoutError(
            f"{base}: PSI-AVA-VQA without {', '.join(str(p.relative_to(base)) for p in missing)}"
        )
    return [f for f in files if f[2].is_file()]


def _read_questions(files: list[tuple[str, str, Path]], rejects: Rejects) -> dict[Place, _Asked]:
    official = official_split("psi-ava-vqa", "fold1")
    asked: dict[Place, _Asked] = {}
    for part, kind, path in files:
        natives: dict[str, str] = {}
        if kind in ("C3_phase", "C4_step"):
            words = vocabulary("psi-ava-vqa", kind.partition("_")[2])
            natives = dict(zip(words.native, words.names, strict=True))
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            line = unicodedata.normalize("NFC", line.rstrip("\r"))
            if not line:
                continue
            try:
                name, _, rest = line.partition("|")
                question, bar, answer = rest.rpartition("|")
                if not bar or not question.strip() or not answer.strip() or not line.isprintable():
                    raise ValueError(f"expected CASE/frame.jpg|question|answer, found {line[:60]!r}")
                place = bogota.parse_name(name)
                if official.get(place[0], "") in ("train", "validation") and (part == "Train") != (
                    official[place[0]] == "train"
                ):
                    raise ValueError(f"{place[0]} is not in {part} of the published split")
                _add(asked.setdefault(place, _Asked()), kind, natives, question, answer.strip())
            except ValueError as error:
                rejects.add(f"{path}:{number}", str(error))
    return asked


def _add(asked: _Asked, kind: str, natives: Mapping[str, str], question: str, answer: str) -> None:
    """Put in one line. Raises ValueError on an answer that is not in the dataset's list."""
    if kind == "C1_location" and answer not in PLACES:
        raise ValueError(f"place {answer!r} is none of {', '.join(PLACES)}")
    if natives:
        if answer not in natives:
            raise ValueError(f"{kind}: {answer!r} is none of {', '.join(natives)}")
        before = asked.phase if kind == "C3_phase" else asked.step
        if before not in (None, natives[answer]):
            raise ValueError(f"{kind}: {answer!r}, but another line says {before}")
        if kind == "C3_phase":
            asked.phase = natives[answer]
        else:
            asked.step = natives[answer]
    answers = asked.answers.setdefault(question, [])
    if answer not in answers:
        answers.append(answer)


def _annotation_files(source: Source) -> list[Path]:
    """PSI-AVA's files of both halves of one fold: JSON where there is, else CSV (they say the same). [] where
    there are none. Raises LayoutError where one half is missing.
    """
    roots = [r for r in (source.root, source.pictures) if r is not None]
    folders = [r / a / f for r in roots for a in _ANNOTATIONS for f in ("fold1", "fold2")]
    for folder in folders:
        for pattern in (
            "coco_anns/{}_coco_anns_v3_35s.json",
            "{}_coco_anns_v3_35s.json",
            "annotations/{}.csv",
            "{}.csv",
        ):
            files = [folder / pattern.format(half) for half in ("train", "val")]
            if any(f.is_file() for f in files):
                missing = [str(f) for f in files if not f.is_file()]
                if missing:
                    raise LayoutError(f"{folder}: the other half is missing: {', '.join(missing)}")
                return files
    return []


def _read_annotations(path: Path, found: Keyframes, rejects: Rejects) -> None:
    """Add one half's keyframes. Raises LabelError."""
    tools, verbs = vocabulary("psi-ava-vqa", "tool"), vocabulary("psi-ava-vqa", "verb")
    if path.suffix == ".csv":
        read = _read_csv(path, rejects)
    else:
        body = read_json(path)
        bogota.listed(path, body, "images", "annotations")
        for key, words in (
            ("categories", tools),
            ("action_categories", verbs),
            ("phase_categories", vocabulary("grasp", "phase")),
            ("step_categories", vocabulary("grasp", "step")),
        ):
            bogota.check_classes(path, body, key, words)
        read = bogota.keyframes(path, body, tools, verbs, rejects, empty=False)
    if twice := sorted(read.frames.keys() & found.frames.keys()):
        raise LabelError(f"{path}: {bogota.picture_name(*twice[0])} is annotated in the other half too")
    found.frames |= read.frames
    found.broken |= read.broken


def _read_csv(path: Path, rejects: Rejects) -> Keyframes:
    """case, second, number, x1, y1, x2, y2 (shares of the sides), three actions (-1: none), instrument,
    step, phase. (datasets-b.md 5.2 names the last two the other way round; all 5,804 real lines agree with
    the JSON files in this order.)
    """
    tools, verbs = vocabulary("psi-ava-vqa", "tool"), vocabulary("psi-ava-vqa", "verb")
    found = Keyframes()
    seen: set[str] = set()
    for number, cells in read_table(path):
        place: Place | None = None
        try:
            if len(cells) != 13:
                raise ValueError(f"expected 13 cells, found {len(cells)}")
            place = bogota.parse_name(bogota.picture_name(cells[0], int(cells[1])))
            if cells[2] in seen:
                raise ValueError(f"annotation {cells[2]} stands twice")
            seen.add(cells[2])
            box = checked_box([float(c) for c in cells[3:7]], 1, 1, slack=0.001)
            *actions, tool, step, phase = (int(c) for c in cells[7:])
            named = {bogota.class_name(verbs, a) for a in actions if a != -1}
            row = {"phase": phase, "step": step}
            done = tuple(v for v in verbs.names if v in named)
            found.add(place, Instance(bogota.class_name(tools, tool), done, box, row))
        except ValueError as error:
            rejects.add(f"{path}:{number}", str(error))
            if place:
                found.broken.add(place)
    return found
