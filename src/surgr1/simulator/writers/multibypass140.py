"""MultiBypass140's native tree (datasets-a.md 5.1, 5.2, 5.4).

Number n up to 70 is Bern's BBPnn; 101-170 are Strasbourg's SBP01-SBP70.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import Split, Trial, expected, frames, runs, save, save_text
from surgr1.simulator.writers.damage import (
    Change,
    Damage,
    cut_half,
    cut_head,
    edit_json,
    exchange,
    replace_once,
    to_utf16,
)

SCENARIO = "laparoscopic roux-en-y gastric bypass"
_FOLDERS = {"bern": "BernBypass70", "strasbourg": "StrasBypass70"}
"""The adapter has these folders too: written again on purpose (see the package)."""


def _place(number: int) -> tuple[str, str]:
    """(centre, video name)."""
    return ("bern", f"BBP{number:02d}") if number <= 70 else ("strasbourg", f"SBP{number - 100:02d}")


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`BernBypass70/frames/BBPNN/BBPNN_KKKKKKKK.jpg` (1-based, 1 fps) and `BBPNN.mp4.json` in milliseconds
    (datasets-a.md 5.1, 5.2), or the same of Strasbourg.
    """
    place, name = _place(number)
    rows, truth, wanted = [], [], []
    for index, scene, drawn, _ in frames(operation, centre):
        truth.append(frame_truth(name, index + 1, scene, drawn, centre))
        save(
            drawn.image,
            root / _FOLDERS[place] / "frames" / name / f"{name}_{index + 1:08d}.jpg",
            centre.jpeg,
        )
        rows.append((scene.phase, scene.step))
        wanted.append(expected(index + 1, Labels(phase=scene.phase, step=scene.step)))
    body: dict[str, list[dict[str, Any]]] = {}
    ids: dict[str, list[int]] = {}
    for kind, column in (("phase", 0), ("step", 1)):
        words = vocabulary("multibypass140", kind)
        body[f"{kind}s"] = [
            {
                "start": _milliseconds(start),
                "end": _milliseconds(end),
                "label_name": words.to_native(label),
                "label_id": words.ids[label],
            }
            for label, start, end in runs(r[column] for r in rows)
        ]
        ids[kind] = [words.ids[r[column]] for r in rows]
    save_text(json.dumps(body), root / "labels" / place / "labels_by70" / f"{name}.mp4.json")
    return {
        "frames": len(rows),
        "phase": ids["phase"],
        "step": ids["step"],
        "truth": truth,
        "expected": wanted,
    }


def _milliseconds(second: int) -> int:
    """A moment within the second, as an annotator hits it: labels count whole seconds."""
    return 1000 * second + (137 * second) % 1000


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`tables/` and the pickles of fold 0."""
    for kind in ("phase", "step"):
        names = vocabulary("multibypass140", kind).native
        text = "id, name\n" + "".join(f"{i}, {n}\n" for i, n in enumerate(names))
        save_text(text, root / "tables" / f"{kind}.csv")
    for centre in sorted({_place(n)[0] for n in videos}):
        folder = root / "labels" / centre / "labels_by70_splits" / "labels"
        for role, stem in (("train", "1fps_100_0"), ("val", "1fps_0"), ("test", "1fps_0")):
            table = {_place(n)[1]: _rows(n, videos[n]) for n in split.get(role, ()) if _place(n)[0] == centre}
            (folder / role).mkdir(parents=True, exist_ok=True)
            (folder / role / f"{stem}.pickle").write_bytes(pickle.dumps(table, protocol=4))


def _rows(number: int, video: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A pickle's rows; the two centres number `unique_id` differently (datasets-a.md 5.2)."""
    centre, name = _place(number)
    base = number * 10**10 if centre == "bern" else (number - 100) * 10**5
    return [
        {
            "Frame_id": f"{name}_{i + 1:08d}",
            "Original_frame_id": i,
            "Phase_gt": phase,
            "Step_gt": step,
            "unique_id": base + i,
        }
        for i, (phase, step) in enumerate(zip(video["phase"], video["step"], strict=True))
    ]


def _table(change: Callable[[dict[str, Any]], None]) -> Change:
    """A change of a pickle that this module wrote."""

    def changed(data: bytes) -> bytes:
        table = pickle.loads(data)
        change(table)
        return pickle.dumps(table, protocol=4)

    return changed


def _swapped_times(body: dict[str, Any]) -> None:
    """Two phases exchange their places."""
    exchange(*body["phases"][:2], "label_name", "label_id")


def _swapped_names(body: dict[str, Any]) -> None:
    exchange(*body["steps"][:2], "label_name")


def _doubled(body: dict[str, Any]) -> None:
    body["phases"].append(body["phases"][0])


def _in_frames(body: dict[str, Any]) -> None:
    """Times as 25-fps frames: another tool's export."""
    for interval in body["phases"] + body["steps"]:
        interval["start"], interval["end"] = interval["start"] // 40, interval["end"] // 40


def _one_later(table: dict[str, Any]) -> None:
    """Seconds counted from 1."""
    for row in table["BBP01"]:
        row["Original_frame_id"] += 1


def _renamed(table: dict[str, Any]) -> None:
    table["BBP02"] = table.pop("BBP01")


def _twice(table: dict[str, Any]) -> None:
    table["BBP01"][3]["Original_frame_id"] = 2


def _nested(table: dict[str, Any]) -> None:
    table["BBP01"][0]["Phase_gt"] = [[[0]]]


TRIAL = Trial(seconds=26, train=(1, 101), val=(3,), test=(120,))
_LABELS = "labels/bern/labels_by70/BBP01.mp4.json"
_TRAIN = "labels/bern/labels_by70_splits/labels/train/1fps_100_0.pickle"
_HOSTILE = b"cos\nsystem\n(S'echo SURGR1'\ntR."
"""A pickle that runs a shell command where it is loaded without care."""
DAMAGES = (
    Damage("truncated", _LABELS, cut_half, r"BBP01\.mp4\.json: not a whole JSON file"),
    Damage("truncated", _TRAIN, cut_half, r"1fps_100_0\.pickle: not a whole pickle"),
    Damage("wrong encoding", _LABELS, to_utf16, r"BBP01\.mp4\.json: cannot be read as UTF-8"),
    Damage("missing file", _LABELS, None, r"1fps_100_0\.pickle: BBP01: no such label file"),
    Damage("missing file", _TRAIN, None, "fold 0 has no such file"),
    Damage("duplicate id", _LABELS, edit_json(_doubled), "overlaps another"),
    Damage("duplicate id", _TRAIN, _table(_twice), "second that has a row already"),
    Damage("off-by-one frame", _TRAIN, _table(_one_later), r"BBP01 frame 1: phase and step none"),
    Damage("swapped ids", _LABELS, edit_json(_swapped_names), "is named"),
    Damage("reordered", _LABELS, edit_json(_swapped_times), r"BBP01 frame 1: phase and step .* in BBP01"),
    Damage("swapped ids", _TRAIN, _table(_renamed), "BBP02: no such label file"),
    Damage("unknown label", _LABELS, replace_once('"label_id": 0', '"label_id": 46'), "46 is named"),
    Damage("malformed value", _LABELS, replace_once('"start": 0', '"start": NaN'), "expected whole numbers"),
    Damage("malformed value", _LABELS, replace_once('"phases"', '"fases"'), "no lists `phases` and `steps`"),
    Damage("malformed value", _TRAIN, _table(_nested), "is no label"),
    Damage("out of range", _LABELS, replace_once('"start": 0', '"start": 99000'), "ends before its start"),
    Damage("out of range", _LABELS, edit_json(_in_frames), "phase and step"),
    Damage("hostile file", _TRAIN, lambda data: _HOSTILE, "refused: GLOBAL 'os system'"),
    Damage(
        "missing picture",
        "BernBypass70/frames/BBP01/BBP01_00000004.jpg",
        None,
        r"BBP01_00000004\.jpg: a labelled frame has no picture",
    ),
    Damage(
        "broken picture",
        "BernBypass70/frames/BBP01/BBP01_00000001.jpg",
        cut_head,
        r"BBP01_00000001\.jpg: not a picture",
    ),
)
