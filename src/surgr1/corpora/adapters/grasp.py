"""GraSP at 1 frame per second (reference datasets-b.md section 6): phase and step of every frame;
instruments, their actions and boxes of some.

Everything is keyed by picture name: image and annotation ids restart in every file. The boxes are the
annotation's own (`bbox`); its segmentation is not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgr1.corpora.adapters import _bogota as bogota
from surgr1.corpora.files import LayoutError, Rejects, listing, read_json
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

_PAST_THE_END = ("CASE001", 10972)
"""Listed in the real label file, but one past the last picture (datasets-b.md 6.1)."""


@dataclass
class _Labels:
    """What the label files say: case -> second -> (phase, step), and the keyframes."""

    activities: dict[str, dict[int, tuple[str, str]]] = field(default_factory=dict)
    instruments: bogota.Keyframes = field(default_factory=bogota.Keyframes)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`GraSP_1fps/annotations/grasp_{long,short}-term_<part>.json` (parts train and test, or fold1 and fold2
    for train) with `GraSP_1fps/frames/CASENNN/KKKKK.jpg`.
    """
    found = _Labels()
    for long_term, short_term in _label_files(source.root):
        _read_long_term(long_term, found, rejects)
        _read_short_term(short_term, found, rejects)
    roles = source.roles(sorted(found.activities))
    folder = bogota.pictures_folder(source, "GraSP_1fps/frames")
    bogota.check_pictures(source, folder, found.activities, rejects)
    tools, verbs = vocabulary("grasp", "tool"), vocabulary("grasp", "verb")

    def frames(video: str) -> Iterator[Frame]:
        pictures = source.folder_of_pictures(f"{folder}/{video}", rejects)
        activities = found.activities[video]
        for second in sorted(activities)[:: source.every]:
            place = (video, second)
            size = pictures.size(f"{second:05d}.jpg")
            if size is None or place in found.instruments.broken:
                continue
            instances = found.instruments.frames.get(place)
            extra: dict[str, Any] = {}
            if instances is not None:
                extra = bogota.instrument_labels(instances, tools, verbs, size)
            phase, step = activities[second]
            yield Frame(
                source,
                procedure=bogota.PROCEDURE,
                video=video,
                frame=second,
                seconds=bogota.frame_to_seconds(second),
                image=f"{folder}/{bogota.picture_name(video, second)}",
                size=size,
                labels=Labels(phase=phase, step=step, **extra),
                role=roles[video],
                tool_count=None if instances is None else len(instances),
            )

    return Tree(roles, frames)


def _label_files(root: Path) -> list[tuple[Path, Path]]:
    """(long-term, short-term) files. The fold files hold the training cases a second time. Raises
    LayoutError.
    """
    places = [root / p / "annotations" for p in ("GraSP_1fps", "GraSP/GraSP_1fps", ".")]
    for folder in places:
        parts = [p for p in ("train", "fold1", "fold2", "test") if (folder / _file("long", p)).is_file()]
        if parts:
            break
    else:
        hint = ""
        if any((root / p / "GraSP_30fps").is_dir() for p in (".", "GraSP")):
            hint = "; the 30-fps tree is not read, its file names do not count seconds: get GraSP_1fps too"
        raise LayoutError(
            f"{root}: not a GraSP tree: expected grasp_long-term_train.json in"
            f" {', '.join(str(p.relative_to(root)) for p in places)}; found {listing(root)}{hint}"
        )
    if "train" in parts:
        parts = [p for p in parts if p in ("train", "test")]
    files = [(folder / _file("long", p), folder / _file("short", p)) for p in parts]
    missing = [short.name for _, short in files if not short.is_file()]
    if missing:
        raise LayoutError(f"{folder}: no {', '.join(missing)}: the boxes would be missing; copy them too")
    return files


def _file(term: str, part: str) -> str:
    return f"grasp_{term}-term_{part}.json"


def _read_long_term(path: Path, found: _Labels, rejects: Rejects) -> None:
    """Phase and step of every picture. Raises LabelError."""
    phases, steps = vocabulary("grasp", "phase"), vocabulary("grasp", "step")
    body = read_json(path)
    pictures, annotations = bogota.listed(path, body, "images", "annotations")
    bogota.check_classes(path, body, "phases_categories", phases)
    bogota.check_classes(path, body, "steps_categories", steps)
    known = bogota.images(path, pictures, rejects)
    labelled: set[bogota.Place] = set()
    for number, row in enumerate(annotations):
        try:
            place, _ = bogota.annotated(row, known)
            names = bogota.class_name(phases, row["phases"]), bogota.class_name(steps, row["steps"])
            case, second = place
            if place in labelled or second in found.activities.get(case, {}):
                raise ValueError(f"{bogota.picture_name(*place)} is labelled twice")
        except (TypeError, KeyError, ValueError) as error:
            rejects.add(f"{path}: annotation {number}", bogota.reason(error))
            continue
        labelled.add(place)
        if place != _PAST_THE_END:
            found.activities.setdefault(case, {})[second] = names
    for place in sorted({p for p, _ in known.values()} - labelled):
        rejects.add(f"{path}: {bogota.picture_name(*place)}", "listed, but without phase and step")


def _read_short_term(path: Path, found: _Labels, rejects: Rejects) -> None:
    """Instruments of the keyframes. Raises LabelError."""
    tools, verbs = vocabulary("grasp", "tool"), vocabulary("grasp", "verb")
    body = read_json(path)
    bogota.listed(path, body, "images", "annotations")
    bogota.check_classes(path, body, "categories", tools)
    bogota.check_classes(path, body, "actions_categories", verbs)
    read = bogota.keyframes(path, body, tools, verbs, rejects, empty=True)
    for place, instances in read.frames.items():
        case, second = place
        if second not in found.activities.get(case, {}):
            rejects.add(f"{path}: {bogota.picture_name(*place)}", "has no row in the long-term file")
        else:
            found.instruments.frames[place] = instances
    found.instruments.broken |= read.broken
