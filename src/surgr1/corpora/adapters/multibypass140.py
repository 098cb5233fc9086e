"""MultiBypass140 (reference datasets-a.md section 5): phases and steps of gastric bypass from two centres.

The labels are the JSON files; the split pickles say which videos a fold trains on, and how far each video's
extracted frames reach. A second whose two labels differ is left out and reported.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from surgr1.corpora.adapters._multibypass140_pickles import NONE, Released, released
from surgr1.corpora.files import LabelError, LayoutError, Rejects, listing, read_json, visible
from surgr1.corpora.questions import Frame
from surgr1.corpora.schema import Labels, Role
from surgr1.corpora.sources import Source, Tree
from surgr1.ontology.vocabularies import vocabulary

PROCEDURE = "laparoscopic roux-en-y gastric bypass"
FOLDS = ("0", "1", "2", "3", "4")
_CENTRES = {"bern": ("BernBypass70", "BBP"), "strasbourg": ("StrasBypass70", "SBP")}
_OVERLAYS: Mapping[int, str] = {12: "out_of_body", 13: "severe_index"}
"""They lie over the phase that is in force."""
_LONGEST = 100_000_000
"""Milliseconds: over a day."""
_CUT: Mapping[str, int] = {"BBP04": 81, "SBP50": 1, "SBP60": 1, "SBP65": 1}
"""Seconds that are labelled after the video's last frame (datasets-a.md 5.2)."""
_KNOWN: Mapping[tuple[str, Role], tuple[str, ...]] = {
    ("bern", "test"): (
        "",
        "2 3 4 7 15 16 17 27 28 32 34 37 39 43 52 53 55 56 62 70",
        "3 7 12 13 15 17 19 25 27 28 30 35 43 49 52 53 56 57 68 69",
        "6 12 13 14 18 19 24 25 30 35 36 41 44 49 57 61 64 67 68 69",
        "1 6 8 14 18 23 24 36 41 44 46 47 48 59 60 61 63 64 65 67",
    ),
    ("bern", "validation"): (
        "3 12 17 25 27 28 35 49 56 69",
        "12 18 25 35 36 41 44 49 67 69",
        "8 18 23 36 41 44 47 48 60 67",
        "5 8 22 23 31 38 47 48 51 60",
        "5 22 29 31 33 38 45 51 54 58",
    ),
    ("strasbourg", "validation"): (
        "9 20 31 33 41 43 50 55 60 61",
        "5 9 33 34 36 41 42 43 60 67",
        "5 8 17 34 35 36 40 42 48 67",
        "4 8 15 17 35 37 39 40 48 65",
        "4 12 15 25 30 37 38 39 46 65",
    ),
}
"""Video numbers by fold, as far as they are known (datasets-a.md 5.4, repository of May 2025); "" is not."""


def frame_to_seconds(frame: int) -> float:
    """Seconds of a 1-based picture number at 1 fps."""
    return float(frame - 1)


def open_tree(source: Source, rejects: Rejects) -> Tree:
    """`<Centre>Bypass70/frames/` with `labels/<centre>/labels_by70/*.json`, where `source.split` is the fold
    ("0" by default).
    """
    root = source.root
    paths = {c: root / "labels" / c / "labels_by70" for c in _CENTRES}
    centres = [c for c in _CENTRES if any(paths[c].glob("*.json"))]
    if not centres:
        raise LayoutError(
            f"{root}: not a MultiBypass140 tree: no labels/bern|strasbourg/labels_by70; found {listing(root)}"
        )
    for centre in _CENTRES.keys() - set(centres):
        traces = (source.picture_root / _CENTRES[centre][0] / "frames", root / "labels" / centre)
        for path in (p for p in traces if p.exists()):
            rejects.add(
                path, f"{centre} without {paths[centre].relative_to(root)}; is the download complete?"
            )
    centre_of: dict[str, str] = {}
    for centre in centres:
        for path in visible(paths[centre].glob("*.json")):
            video = path.name.removesuffix(".mp4.json")
            if re.fullmatch(rf"{_CENTRES[centre][1]}\d\d", video):
                centre_of[video] = centre
            else:
                rejects.add(path, f"expected {_CENTRES[centre][1]}NN.mp4.json")
    rows: dict[str, Released] = {}
    if source.role or source.train or source.test:
        roles = source.roles(centre_of, {})
    else:
        roles = source.roles(centre_of, _fold(source, centre_of, rows, rejects))
    _check_pictures(source, {centre_of[v] for v in roles})

    def frames(video: str) -> Iterator[Frame]:
        centre = centre_of[video]
        path = paths[centre] / f"{video}.mp4.json"
        phases, steps = label_rows(path, rejects)
        where = f"{_CENTRES[centre][0]}/frames/{video}"
        pictures = source.folder_of_pictures(where, rejects)
        end, wrong = len(phases), frozenset[int]()
        if video in rows:
            end = min(end, len(rows[video].phases))
            wrong = _contradictions(path, phases, steps, rows[video], rejects)
            cut = len(phases) - phases[end:].count(NONE) - end
            if cut > _CUT.get(video, 1):
                rejects.add(rows[video].path, f"{video} ends {cut} labelled seconds before {path.name}")
        elif source.images == "check" and video in _CUT:
            first = max(0, end - _CUT[video])
            if not (source.picture_root / where / f"{video}_{first + 1:08d}.jpg").is_file():
                end = first
        kept = [i for i in range(end) if phases[i] != NONE and i not in wrong]
        centre_name, role, before = source.centre or centre, roles[video], (NONE, NONE)
        for i in kept[:: source.every]:
            name = f"{video}_{i + 1:08d}.jpg"
            size = pictures.size(name)
            if size is None:
                continue
            now = phases[i], steps[i]
            if now != before:
                labels, before = _labels(*now), now
            yield Frame(
                source,
                centre=centre_name,
                procedure=PROCEDURE,
                video=video,
                frame=i + 1,
                seconds=frame_to_seconds(i + 1),
                image=f"{where}/{name}",
                size=size,
                labels=labels,
                role=role,
            )

    return Tree(roles, frames)


def _check_pictures(source: Source, centres: set[str]) -> None:
    """Whether the chosen videos' pictures were extracted. Raises LayoutError saying how to."""
    if source.images == "skip":
        return
    for centre in sorted(centres):
        folder = source.picture_root / _CENTRES[centre][0] / "frames"
        if not folder.is_dir():
            there = (folder.parent / "videos").is_dir()
            raise LayoutError(
                f"{folder}: no such folder of pictures"
                + (f"; run `surgr1 data frames {source.picture_root}`" if there else ", and no videos/")
            )


@lru_cache(maxsize=1024)
def _labels(phase: int, step: int) -> Labels:
    names = [vocabulary("multibypass140", kind).names for kind in ("phase", "step")]
    return Labels(phase=names[0][phase], step=None if step == NONE else names[1][step])


def _fold(
    source: Source, centre_of: Mapping[str, str], rows: dict[str, Released], rejects: Rejects
) -> dict[str, Role]:
    """Video -> role in one fold of every centre, from the keys of the user's own pickles (most lists are
    published nowhere else). `rows` takes what the pickles say of each video.
    """
    fold = "0" if source.split == "default" else source.split
    if fold not in FOLDS:
        raise LayoutError(f"MultiBypass140 has no fold {source.split!r}; it has: {', '.join(FOLDS)}")
    roles: dict[str, Role] = {}
    for centre in sorted(set(centre_of.values())):
        folder = source.root / "labels" / centre / "labels_by70_splits" / "labels"
        named: tuple[tuple[Role, str], ...] = (
            ("train", f"train/1fps_100_{fold}"),
            ("validation", f"val/1fps_{fold}"),
            ("test", f"test/1fps_{fold}"),
        )
        for role, name in named:
            path = folder / f"{name}.pickle"
            if not path.is_file():
                raise LayoutError(
                    f"{path}: fold {fold} has no such file; copy labels_by70_splits/ from the dataset's"
                    " repository"
                )
            found = released(path)
            for video in found:
                if roles.setdefault(video, role) != role:
                    raise LabelError(f"{path}: {video} is also in {roles[video]} of fold {fold}")
                if centre_of.get(video) != centre:
                    rejects.add(f"{path}: {video}", f"no such label file in labels/{centre}/labels_by70")
            rows |= found
            # Simulated operations have a plan of their own.
            if not source.dataset.startswith("sim-"):
                _check_known(path, centre, role, fold, set(found), rejects)
    for video in sorted(set(centre_of) - set(roles)):
        rejects.add(video, f"has labels, but is in no pickle of fold {fold}")
    return roles


def _check_known(path: Path, centre: str, role: Role, fold: str, found: set[str], rejects: Rejects) -> None:
    """Report a pickle whose videos are not the published ones."""
    numbers = _KNOWN.get((centre, role), ("",) * len(FOLDS))[int(fold)].split()
    known = {f"{_CENTRES[centre][1]}{int(n):02d}" for n in numbers}
    if known and found != known:
        new = ""
        if centre == "strasbourg":
            new = "; surgeries were renamed in September 2025, so newer labels may rightly differ"
        rejects.add(
            path,
            f"holds {', '.join(sorted(found - known)) or 'nothing'} besides and lacks"
            f" {', '.join(sorted(known - found)) or 'nothing'} of the published {role} videos of fold"
            f" {fold}{new}",
        )


def _contradictions(
    path: Path, phases: bytes, steps: bytes, rows: Released, rejects: Rejects
) -> frozenset[int]:
    """The seconds, up to the pickle's last, at which it does not say what the JSON file says."""
    end = len(rows.phases)
    if phases[:end] == rows.phases and steps[:end] == rows.steps:
        return frozenset()
    # The pickle may reach further than the labels: then the labels are of a shorter operation.
    padded = [column[:end].ljust(end, bytes([NONE])) for column in (phases, steps)]
    video = path.name.removesuffix(".mp4.json")
    wrong = []
    for i, (p, s, p2, s2) in enumerate(zip(*padded, rows.phases, rows.steps, strict=True)):
        if (p, s) != (p2, s2):
            wrong.append(i)
            rejects.add(
                f"{rows.path}: {video} frame {i + 1}",
                f"phase and step {_shown(p2, s2)}, but {_shown(p, s)} in {path.name}",
            )
    return frozenset(wrong)


def _shown(phase: int, step: int) -> str:
    return ", ".join("none" if n == NONE else str(n) for n in (phase, step))


def label_rows(path: Path, rejects: Rejects) -> tuple[bytes, bytes]:
    """Numbers of phase and step at second 0, 1, 2, ... (NONE: none): second i has label p iff
    start // 1000 <= i < end // 1000, overlays ignored (datasets-a.md 5.2). Raises LabelError.
    """
    body = read_json(path)
    if not isinstance(body, dict) or not all(isinstance(body.get(k), list) for k in ("phases", "steps")):
        raise LabelError(f"{path}: not a MultiBypass140 label file: no lists `phases` and `steps`")
    phases = _column(path, "phase", body["phases"], rejects)
    steps = _column(path, "step", body["steps"], rejects)
    length = max(len(phases), len(steps))
    none = bytes([NONE])
    return phases.ljust(length, none), steps.ljust(length, none)


def _column(path: Path, kind: str, intervals: list[Any], rejects: Rejects) -> bytes:
    names = dict(enumerate(vocabulary("multibypass140", kind).native))
    if kind == "phase":
        names |= _OVERLAYS
    found = bytearray()
    for k, interval in enumerate(intervals):
        try:
            number, start, end = _interval(interval, kind, names)
            if kind == "phase" and number in _OVERLAYS:
                continue
            found.extend([NONE] * (end - len(found)))
            if found[start:end].count(NONE) != end - start:
                raise ValueError(f"{kind} {names[number]} at {start}-{end} s overlaps another one")
        except ValueError as error:
            rejects.add(f"{path}: {kind} interval {k}", str(error))
            continue
        found[start:end] = bytes([number]) * (end - start)
    return bytes(found)


def _interval(interval: Any, kind: str, names: Mapping[int, str]) -> tuple[int, int, int]:
    """(label id, first second, second after the last). Raises ValueError."""
    keys = ("label_id", "start", "end", "label_name")
    if not isinstance(interval, dict) or not all(k in interval for k in keys):
        raise ValueError(f"expected {', '.join(keys)}, found {str(interval)[:80]}")
    number, start, end, name = (interval[k] for k in keys)
    if not all(type(v) is int for v in (number, start, end)):
        raise ValueError(f"label_id {number!r}, start {start!r}, end {end!r}: expected whole numbers")
    if names.get(number) != name:
        raise ValueError(f"{kind} {number} is named {name!r}, the dataset's table says {names.get(number)!r}")
    if not 0 <= start <= end <= _LONGEST:
        raise ValueError(f"{kind} {name} from {start} to {end} ms: ends before its start, or is absurd")
    return number, start // 1000, end // 1000
