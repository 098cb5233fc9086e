"""PSI-AVA-VQA's native tree (datasets-b.md 4.1, 4.2), and beside it PSI-AVA's: pictures and annotations (5.1,
5.2).
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    NOTICE,
    Split,
    Trial,
    expected,
    frames,
    pictures_root,
    quadrant,
    save,
    save_text,
    xywh,
)
from surgr1.simulator.writers.damage import Damage, cut_half, cut_head, edit_cells, replace_once, to_utf16
from surgr1.simulator.writers.grasp import classes, coco, labelled_instruments

SCENARIO = "prostatectomy phases"
_EVERY = 3
"""Seconds between two keyframes (10 to 35 in the real data)."""
_PHASE = "What is the phase of surgery?"
_STEP = "What is the step of surgery?"
"""The wording of the real phase and step questions was not seen: these are ours."""


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`keyframes/CASENNN/KKKKK.jpg` in the tree of pictures; what the label files need of it comes back as
    "keyframes" and "lines".

    `C2_action.txt` is not written: the text of its answers was not seen.
    """
    name = f"CASE{number:03d}"
    pictures = pictures_root(root)
    tools, verbs = vocabulary("psi-ava-vqa", "tool"), vocabulary("psi-ava-vqa", "verb")
    # English names in PSI-AVA's files, Spanish ones (native here) in the answers; the ids are the same.
    spanish = {k: vocabulary("psi-ava-vqa", k) for k in ("phase", "step")}
    keyframes: list[dict[str, Any]] = []
    lines: dict[str, list[str]] = {"C1_location": [], "C3_phase": [], "C4_step": []}
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        file = f"{name}/{index:05d}.jpg"
        save(drawn.image, pictures / "keyframes" / file, centre.jpeg)
        if index % _EVERY:
            continue
        height, width = drawn.image.shape[:2]
        shown = labelled_instruments(scene, drawn)
        activity = {
            "phase": spanish["phase"].ids[scene.phase],
            "step": spanish["step"].ids[scene.step],
        }
        rows = [
            {
                "category_id": tools.ids[i.tool],
                "iscrowd": 0,
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "bbox": xywh(box),
                "actions": [verbs.ids[i.verb]],
            }
            | activity
            for i, _, box in shown
        ]
        image = {"file_name": file, "width": width, "height": height}
        keyframes.append({"image": image, "rows": rows})
        if not shown:
            continue
        places: defaultdict[str, list[str]] = defaultdict(list)
        for i, _, box in shown:
            places[f"Where is the {tools.to_native(i.tool)} located ?"].append(
                " ".join(quadrant(box, (width, height)))
            )
        asked = {
            "C1_location": [(q, p) for q, found in places.items() for p in found],
            "C3_phase": [(_PHASE, spanish["phase"].to_native(scene.phase))],
            "C4_step": [(_STEP, spanish["step"].to_native(scene.step))],
        }
        for kind, pairs in asked.items():
            lines[kind] += [f"{file}|{q}|{a}" for q, a in pairs]
        one = tuple((q, p[0]) for q, p in places.items() if len(set(p)) == 1)
        labels = Labels(
            tools=tuple({i.tool for i, _, _ in shown}),
            verbs=tuple({i.verb for i, _, _ in shown}),
            phase=scene.phase,
            step=scene.step,
            boxes=tuple(LabelledBox(i.tool, box) for i, _, box in shown),
        )
        questions = (*one, *asked["C3_phase"], *asked["C4_step"])
        wanted.append(expected(index, labels, tool_count=len(shown), questions=questions))
    return {"frames": len(truth), "truth": truth, "expected": wanted, "keyframes": keyframes, "lines": lines}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`Train/` and `Val/C*.txt`; `outputs/data_annotations/psi-ava/fold1/` in the tree of pictures, as JSON
    and CSV.
    """
    head = {
        "categories": classes(vocabulary("psi-ava-vqa", "tool")),
        "action_categories": classes(vocabulary("psi-ava-vqa", "verb")),
        "phase_categories": classes(vocabulary("grasp", "phase")),
        "step_categories": classes(vocabulary("grasp", "step")),
    }
    fold = pictures_root(root) / "outputs" / "data_annotations" / "psi-ava" / "fold1"
    for role, part in (("train", "Train"), ("val", "Val")):
        numbers = split.get(role, ())
        for kind in ("C1_location", "C3_phase", "C4_step"):
            text = "".join(f"{line}\n" for n in numbers for line in videos[n]["lines"][kind])
            save_text(text, root / part / f"{kind}.txt")
        body = {"info": {"description": NOTICE.strip(), "version": "v3_35s"}} | head
        body |= coco(f for n in numbers for f in videos[n]["keyframes"])
        save_text(json.dumps(body), fold / "coco_anns" / f"{role}_coco_anns_v3_35s.json")
        save_text(_table(body), fold / "annotations" / f"{role}.csv")


def _table(body: Mapping[str, Any]) -> str:
    """The same annotations as lines."""
    size = {i["id"]: (i["width"], i["height"]) for i in body["images"]}
    lines = []
    for row in body["annotations"]:
        (x, y, w, h), (width, height) = row["bbox"], size[row["image_id"]]
        case, second = row["image_name"].removesuffix(".jpg").split("/")
        actions = [*row["actions"], -1, -1][:3]
        cells = [case, int(second), row["id"], x / width, y / height, (x + w) / width, (y + h) / height]
        cells += [*actions, row["category_id"], row["step"], row["phase"]]
        lines.append(",".join(map(str, cells)) + "\n")
    return "".join(lines)


def _next_picture(cells: list[str]) -> list[str]:
    """A line's picture counted one further."""
    case, second = cells[0].removesuffix(".jpg").split("/")
    return [f"{case}/{int(second) + 1:05d}.jpg", *cells[1:]]


def _next_answers(data: bytes) -> bytes:
    """Every answer one line further down."""
    parts = [line.rpartition("|") for line in data.decode().splitlines()]
    answers = [p[2] for p in parts]
    moved = answers[1:] + answers[:1]
    return "".join(f"{p[0]}|{a}\n" for p, a in zip(parts, moved, strict=True)).encode()


TRIAL = Trial(seconds=24, train=(1, 4), val=(2,))
_PHASES = "sim-psi-ava-vqa/Train/C3_phase.txt"
_WHERE = "sim-psi-ava-vqa/Train/C1_location.txt"
_BOXES = (
    "sim-psi-ava-vqa-pictures/outputs/data_annotations/psi-ava/fold1/coco_anns/train_coco_anns_v3_35s.json"
)
_PICTURES = "sim-psi-ava-vqa-pictures/keyframes/CASE001"
DAMAGES = (
    Damage("truncated", _BOXES, cut_half, "not a whole JSON file"),
    Damage("truncated", _WHERE, lambda d: d[:-30], "C1_location.txt"),
    Damage("wrong encoding", _PHASES, to_utf16, r"C3_phase\.txt: cannot be read as UTF-8"),
    Damage("wrong encoding", _PHASES, lambda d: d.decode().replace("a", "á").encode("latin-1"), "UTF-8"),
    Damage("missing file", "sim-psi-ava-vqa/Val/C4_step.txt", None, "without Val/C4_step.txt"),
    Damage("missing file", _BOXES, None, "the other half is missing"),
    Damage("missing picture", f"{_PICTURES}/00003.jpg", None, "a labelled frame has no picture"),
    Damage("broken picture", f"{_PICTURES}/00000.jpg", cut_head, "not a picture"),
    Damage("reordered", _PHASES, _next_answers, "disagree on the phase"),
    Damage("off-by-one frame", _PHASES, edit_cells("|", _next_picture), "off by one"),
    Damage(
        "duplicate id", _BOXES, replace_once('{"id": 2, "image_id"', '{"id": 1, "image_id"'), "stands twice"
    ),
    Damage(
        "swapped ids",
        _BOXES,
        replace_once('{"id": 3, "name": "Close Something"}', '{"id": 3, "name": "Cut"}'),
        "`action_categories`: id 3 is 'Cut'",
    ),
    Damage("swapped ids", _WHERE, lambda d: d.replace(b"CASE001/", b"CASE002/"), "CASE002 is not in Train"),
    Damage(
        "unknown label",
        _WHERE,
        lambda d: d.replace(b"|top ", b"|upper ", 1).replace(b"|bottom ", b"|lower ", 1),
        "is none of top left",
    ),
    Damage("malformed value", _PHASES, replace_once("|", ";"), "C3_phase.txt:1: "),
    Damage("out of range", _BOXES, replace_once('"phase": ', '"phase": 7'), "phase id '7.' is not in 0-10"),
    Damage("hostile path", _WHERE, replace_once("CASE001/", "../../CASE001/"), "expected CASENNN"),
)
