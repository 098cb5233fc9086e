"""Evidence for an adapter: a simulated tree is read back and compared with the scenes it was made of, then
broken in every way its writer knows, and every break must be noticed.
"""

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.corpora.files import Rejects
from surgr1.corpora.questions import Frame
from surgr1.corpora.sources import Source, read_frames
from surgr1.ontology.errors import SurgR1Error
from surgr1.simulator.writers import writer
from surgr1.simulator.writers.damage import Damage

_BOX_TOLERANCE = 1.5
"""Pixels: formats with normalised or integer boxes round."""


@dataclass(frozen=True)
class Outcome:
    """What came of one damage. `noticed`: "error", "rejected" or ""; `text` what was said."""

    kind: str
    file: str
    noticed: str
    text: str


@dataclass(frozen=True)
class Evidence:
    """What was compared and broken. `differences` is empty where the round trip holds."""

    layout: str
    videos: int
    frames: int
    tasks: dict[str, int]
    differences: tuple[str, ...]
    damages: tuple[Outcome, ...]


def verify(layout: str, folder: Path) -> Evidence:
    """Write, read back, compare, break; all files lie under `folder`."""
    source, expected = write_trial(layout, folder / "whole")
    read = {(f.video, f.frame): f for f in read_frames(source)}
    outcomes = tuple(
        try_damage(layout, source, d, folder / f"damage-{k:02d}")
        for k, d in enumerate(writer(layout).DAMAGES)
    )
    return Evidence(
        layout,
        len({v for v, _ in read}),
        len(read),
        dict(sorted(Counter(str(q.task) for f in read.values() for q in f.ask()).items())),
        tuple(_differences(read, expected)),
        outcomes,
    )


def write_trial(layout: str, folder: Path) -> tuple[Source, dict[tuple[str, int], dict[str, Any]]]:
    """The trial tree of a layout as a source, and what must be read of it by (video, frame)."""
    from surgr1.simulator.world import Tree, simulate_video
    from surgr1.simulator.writers import finish_tree, write_video

    trial = writer(layout).TRIAL
    tree = Tree(
        dataset=f"sim-{layout}",
        centre="sim-strasbourg-public",
        seconds=trial.seconds,
        train=trial.train,
        val=trial.val,
        test=trial.test,
    )
    root = folder / tree.dataset
    videos = {}
    expected: dict[tuple[str, int], dict[str, Any]] = {}
    for number in tree.videos:
        operation = simulate_video(tree, number, 0)
        found = write_video(layout, root, number, operation, _centre(tree.centre), tree.split)
        videos[number] = found
        # A video whose frames go by several names in the tree says so in the rows.
        name = found["truth"][0]["video"]
        expected |= {(row.get("video", name), row["frame"]): row for row in found["expected"]}
    finish_tree(layout, root, videos, tree.split)
    pictures = folder / f"{tree.dataset}-pictures"
    source = Source(dataset=tree.dataset, root=root, pictures=pictures if pictures.is_dir() else None)
    return source, expected


def _centre(name: str) -> Any:
    from surgr1.simulator.centres import CENTRES

    return CENTRES[name]


def _differences(
    read: dict[tuple[str, int], Frame], expected: dict[tuple[str, int], dict[str, Any]]
) -> list[str]:
    found = [f"{v} frame {n}: not read" for v, n in sorted(expected.keys() - read.keys())]
    found += [f"{v} frame {n}: read, but never written" for v, n in sorted(read.keys() - expected.keys())]
    for key in sorted(expected.keys() & read.keys()):
        frame, row = read[key], expected[key]
        for name, value in row["labels"].items():
            mine = getattr(frame.labels, name)
            if value is not None and not _equal(name, mine, value):
                found.append(f"{key[0]} frame {key[1]}: {name}: expected {value}, read {mine}")
        if row["tool_count"] is not None and frame.tool_count != row["tool_count"]:
            found.append(f"{key[0]} frame {key[1]}: {frame.tool_count} tools, expected {row['tool_count']}")
        missing = {tuple(q) for q in row["questions"]} - set(frame.questions)
        found += [f"{key[0]} frame {key[1]}: question not read: {q}" for q in sorted(missing)]
    return found


def _equal(name: str, mine: Any, value: Any) -> bool:
    if mine is None:
        return False
    if name == "boxes":
        if len(mine) != len(value):
            return False
        ordered = sorted(((b.name, tuple(b.xyxy)) for b in mine), key=str)
        wanted = sorted(((b["name"], tuple(b["xyxy"])) for b in value), key=str)
        return all(
            any(
                n == name_ and max(abs(p - q) for p, q in zip(box, other, strict=True)) <= _BOX_TOLERANCE
                for name_, other in ordered
            )
            for n, box in wanted
        )
    if name in ("tools", "tissues", "verbs", "targets"):
        return sorted(mine) == sorted(value)
    if name == "triplets":
        return sorted(map(tuple, mine)) == sorted(map(tuple, value))
    if name == "cvs":
        return list(mine) == list(value)
    return bool(mine == value)


def try_damage(layout: str, source: Source, damage: Damage, folder: Path) -> Outcome:
    """Break a copy of the tree in one way and read it. Raises ValueError where nothing could be broken."""
    shutil.copytree(source.root.parent, folder, symlinks=True)
    root = folder / source.root.name
    broken = source.model_copy(
        update={"root": root, "pictures": source.pictures and folder / source.pictures.name}
    )
    paths = [p for p in sorted(folder.glob(damage.file)) if p.is_file()] or [
        p for p in sorted(root.glob(damage.file)) if p.is_file()
    ]
    if not paths:
        raise ValueError(f"{layout}: no file {damage.file} to break")
    if damage.change is None:
        paths[0].unlink()
    else:
        before = paths[0].read_bytes()
        after = damage.change(before)
        if after == before:
            raise ValueError(f"{layout}: {damage.kind} of {damage.file} changes nothing")
        paths[0].write_bytes(after)
    rejects = Rejects(strict=False)
    try:
        for _ in read_frames(broken, rejects):
            pass
    except SurgR1Error as error:
        noticed, text = "error", str(error)
    else:
        noticed, text = (
            ("rejected", f"{rejects.rows[0].where}: {rejects.rows[0].reason}") if rejects.rows else ("", "")
        )
    shutil.rmtree(folder)
    if not re.search(damage.message, text):
        noticed = ""
    return Outcome(damage.kind, damage.file, noticed, text)
