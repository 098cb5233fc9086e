"""What lies under a folder of downloads: which datasets, whole or not, and what exactly is missing or
wrong.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from surgr1.corpora.adapters.generic import is_generic, read_description
from surgr1.corpora.datasets import Dataset, dataset, dataset_names
from surgr1.corpora.files import LayoutError, Rejects
from surgr1.corpora.fingerprint import files_state
from surgr1.corpora.sources import SIMULATED, Source, Tree, lender_of, open_source
from surgr1.ontology.errors import SurgR1Error

State = Literal["complete", "partial", "broken"]
ACKNOWLEDGED = "LICENCE-ACKNOWLEDGED.yaml"
"""File in a dataset's folder by which its holder says that the licence was read and is kept."""
_DEPTH = 3
"""How far below the given folder datasets are looked for."""
_NAMED = 12
"""Problems and missing names listed in full; more are counted."""


@dataclass(frozen=True)
class Finding:
    """One recognised dataset; a simulated one is named "sim-<layout>". `missing` are expected videos that are
    not there; `problems` name file and reason; `videos` and `frames` are what could be read.
    """

    root: Path
    layout: str
    state: State
    videos: int
    expected_videos: int
    frames: int
    expected_frames: int
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    licence: str
    acknowledged: str

    def row(self) -> dict[str, Any]:
        """The finding as JSON values; long lists are cut with a count."""
        return {
            "root": str(self.root),
            "dataset": self.layout,
            "state": self.state,
            "videos": self.videos,
            "expected_videos": self.expected_videos,
            "frames": self.frames,
            "expected_frames": self.expected_frames,
            "missing": _cut(self.missing),
            "problems": _cut(self.problems),
            "licence": self.licence,
            "acknowledged": self.acknowledged,
        }


@dataclass(frozen=True)
class Diagnosis:
    """Everything found; `unrecognised` are folders directly below the given ones that hold no known dataset,
    with what the nearest layouts missed.
    """

    findings: tuple[Finding, ...]
    unrecognised: tuple[tuple[Path, str], ...]

    @property
    def healthy(self) -> bool:
        return (
            bool(self.findings)
            and all(f.state == "complete" for f in self.findings)
            and not self.unrecognised
        )


def _cut(names: tuple[str, ...]) -> list[str]:
    more = len(names) - _NAMED
    return [*names[:_NAMED], *([f"... and {more} more"] if more > 0 else [])]


def diagnose(
    roots: list[Path],
    *,
    images: Literal["check", "skip"] = "check",
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Read everything that is recognised under the folders. Raises LayoutError where one does not exist."""
    recognised: list[tuple[Path, str]] = []
    unrecognised: list[tuple[Path, str]] = []
    for root in roots:
        if not root.is_dir():
            raise LayoutError(f"{root}: no such folder")
        for folder, layouts in recognise(root):
            recognised += [(folder, layout) for layout in layouts]
            if not layouts:
                unrecognised.append((folder, _nearest(folder)))
    folders = {layout: folder for folder, layout in recognised}
    findings = []
    for folder, layout in recognised:
        if progress:
            progress(f"{layout} in {folder}")
        findings.append(examine(folder, layout, images=images, pictures=folders.get(lender_of(layout))))
    return Diagnosis(tuple(findings), tuple(unrecognised))


def recognise(root: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """(folder, layouts that open it), from the top down. A folder directly below `root` with no dataset in it
    comes with ().
    """
    found = _within(root, _DEPTH)
    yield from found
    if root not in (folder for folder, _ in found):
        for sub in _subfolders(root):
            if not any(folder.is_relative_to(sub) for folder, _ in found):
                yield sub, ()


def _within(folder: Path, depth: int) -> list[tuple[Path, tuple[str, ...]]]:
    """Many adapters open the folder around their dataset as well. So the outermost folder that opens counts,
    unless it holds a dataset that it does not open: then it is a folder of datasets.
    """
    below = [hit for sub in _subfolders(folder) for hit in _within(sub, depth - 1)] if depth else []
    own = layouts_of(folder)
    held = {layout for _, layouts in below for layout in layouts}
    if own and held <= set(own):
        return [(folder, own)]
    alone = tuple(layout for layout in own if layout not in held)
    return [*([(folder, alone)] if alone else []), *below]


def _subfolders(folder: Path) -> list[Path]:
    """Sub-folders; of many (frames of hundreds of videos) none is a dataset."""
    names = sorted(
        e.path for e in os.scandir(folder) if e.is_dir() and not e.name.startswith((".", "__MACOSX"))
    )
    return [Path(n) for n in names] if len(names) <= 64 else []


def layouts_of(folder: Path) -> tuple[str, ...]:
    """The layouts whose adapter opens a folder."""
    if is_generic(folder):
        return ("generic",)
    return tuple(layout for layout in dataset_names() if _opens(folder, layout))


def _opens(folder: Path, layout: str) -> bool:
    try:
        open_source(_source(folder, layout, "skip"), Rejects(strict=False))
    except LayoutError:
        return False
    except SurgR1Error:
        # It is this dataset, and broken: `examine` says how.
        return True
    return True


def _source(
    folder: Path, layout: str, images: Literal["check", "skip"], pictures: Path | None = None
) -> Source:
    if layout == "generic":
        name = read_description(folder).dataset
        return Source(dataset=name, root=folder, format="generic", role="external", images=images)
    return Source(
        dataset=_name(folder, layout), root=folder, pictures=pictures, role="external", images=images
    )


def _name(folder: Path, layout: str) -> str:
    """What a folder's dataset is called: what the simulator wrote says so."""
    return f"sim-{layout}" if (folder / SIMULATED).is_file() else layout


def datasets_under(roots: Iterable[Path]) -> dict[str, list[Path]]:
    """Data set -> the folders that hold it, for everything recognised under the folders."""
    found: dict[str, list[Path]] = {}
    for root in roots:
        for folder, layouts in recognise(root):
            for layout in layouts:
                found.setdefault(_name(folder, layout), []).append(folder)
    return found


def _nearest(folder: Path) -> str:
    """Why the layout that a folder's name suggests does not open it."""
    plain = folder.name.lower().replace("_", "").replace("-", "")
    for layout in sorted(dataset_names(), key=len, reverse=True):
        if layout.replace("-", "") in plain:
            try:
                open_source(_source(folder, layout, "skip"), Rejects(strict=False))
            except SurgR1Error as error:
                return str(error)
    return f"no known dataset; known: {', '.join(dataset_names())}"


def examine(
    folder: Path,
    layout: str,
    *,
    images: Literal["check", "skip"] = "check",
    pictures: Path | None = None,
) -> Finding:
    """Read one dataset whole, video by video: a broken one does not hide the others. `pictures` as in
    `Source`.
    """
    rejects = Rejects(strict=False)
    problems: list[str] = []
    frames = 0
    read: list[str] = []
    try:
        source = _source(folder, layout, images, pictures)
        files_state(source)
        tree = open_source(source, rejects)
    except SurgR1Error as error:
        tree = Tree({}, lambda _: iter(()))
        problems.append(str(error))
    for video in tree.videos:
        before, mine = -1.0, 0
        try:
            for frame in tree.frames(video):
                mine += 1
                if frame.seconds < before:
                    problems.append(f"{video} frame {frame.frame}: at {frame.seconds} s, after {before} s")
                before = frame.seconds
            read.append(video)
            frames += mine
            if not mine:
                problems.append(f"{video}: no labelled frame")
        except SurgR1Error as error:
            problems.append(str(error))
    problems += [f"{r.where}: {r.reason}" for r in rejects.rows]
    facts = dataset(layout) if layout in dataset_names() else None
    wanted = facts.videos if facts else ()
    missing = tuple(sorted(set(wanted) - _covered(tree.videos, wanted)))
    expected = facts.expected.get("all", 0) if facts else 0
    short = bool(missing) or (expected > frames and not problems)
    state: State = "broken" if problems else "partial" if short else "complete"
    return Finding(
        folder,
        _name(folder, layout),
        state,
        len(read),
        len(wanted),
        frames,
        expected,
        missing,
        tuple(problems),
        _licence(folder, layout, facts),
        acknowledged(folder),
    )


def _covered(videos: tuple[str, ...], wanted: tuple[str, ...]) -> set[str]:
    """Expected names that are there; "video_11_1" and "video_11_2" cover "video_11"."""
    return {w for w in wanted for v in videos if v == w or v.startswith(f"{w}_")}


def _licence(folder: Path, layout: str, facts: Dataset | None) -> str:
    if facts is not None:
        return f"{facts.licence} ({facts.policy})"
    try:
        about = read_description(folder)
    except LayoutError:
        # Among the problems already.
        return "not stated"
    return f"{about.licence} ({about.policy})"


def acknowledged(folder: Path) -> str:
    """When the licence of a folder's dataset was acknowledged, "" where it was not."""
    path = folder / ACKNOWLEDGED
    if not path.is_file():
        return ""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        return str(body["date"])
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise LayoutError(
            f"{path}: not an acknowledgement ({error!r}); write it with `surgr1 data licence`"
        ) from None


def acknowledge(folder: Path) -> list[str]:
    """Write down that the licences of the datasets in a folder were read and are kept; returns them. Raises
    LayoutError where none is known.
    """
    layouts = layouts_of(folder)
    if not layouts:
        raise LayoutError(f"{folder}: no known dataset, so no licence to acknowledge")
    terms = [
        f"{layout}: {_licence(folder, layout, dataset(layout) if layout in dataset_names() else None)}"
        for layout in layouts
    ]
    body = {"date": datetime.now(UTC).date().isoformat(), "licences": terms}
    (folder / ACKNOWLEDGED).write_text(yaml.safe_dump(body), encoding="utf-8")
    return terms
