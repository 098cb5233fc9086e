"""GraSP's native 1-fps tree (datasets-b.md 6.1-6.3)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surgr1.corpora.masks import mask_box
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import Vocabulary, vocabulary
from surgr1.simulator.canvas import Box
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import Rendered
from surgr1.simulator.scene import Centre, Instrument, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    NOTICE,
    Mask,
    Split,
    Trial,
    expected,
    frames,
    save,
    save_text,
    shown_instruments,
    xywh,
)
from surgr1.simulator.writers.damage import (
    Damage,
    cut_half,
    cut_head,
    edit_json,
    nested_lists,
    next_file_names,
    replace_once,
    to_utf16,
)

SCENARIO = "prostatectomy phases"
_EVERY = 5
"""Seconds between two keyframes (35 in the real data)."""
_OTHER = frozenset({"close something", "staple", "wash"})
"""PSI-AVA's actions that GraSP's list has no name for: "other" there."""


def labelled_instruments(scene: Scene, drawn: Rendered) -> list[tuple[Instrument, Mask, Box]]:
    """The instruments one can see with mask and box of all that shows of them, shaft included."""
    return [
        (s.instrument, s.whole, box)
        for s in shown_instruments(scene, drawn)
        if s.box is not None and (box := mask_box(s.whole)) is not None
    ]


def classes(words: Vocabulary) -> list[dict[str, Any]]:
    """A vocabulary as the list of classes in a COCO-like file."""
    return [{"id": words.first_id + i, "name": n} for i, n in enumerate(words.native)]


def _verb(verb: str) -> str:
    return "other" if verb in _OTHER else verb


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`GraSP_1fps/frames/CASENNN/KKKKK.jpg`; what the label files need of it comes back as "long" and
    "short".
    """
    from pycocotools import mask as rle

    name = f"CASE{number:03d}"
    words = {k: vocabulary("grasp", k) for k in ("tool", "verb", "phase", "step")}
    long_term: list[dict[str, Any]] = []
    short_term: list[dict[str, Any]] = []
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        file = f"{name}/{index:05d}.jpg"
        save(drawn.image, root / "GraSP_1fps" / "frames" / file, centre.jpeg)
        height, width = drawn.image.shape[:2]
        image = {
            "file_name": file,
            "width": width,
            "height": height,
            "video_name": name,
            "frame_num": index,
        }
        activity = {
            "phases": words["phase"].ids[scene.phase],
            "steps": words["step"].ids[scene.step],
        }
        long_term.append({"image": image, "rows": [activity]})
        labels, count = Labels(phase=scene.phase, step=scene.step), None
        if index % _EVERY == 1:
            shown = labelled_instruments(scene, drawn)
            rows = [
                {
                    "category_id": words["tool"].ids[i.tool],
                    "instruments": words["tool"].ids[i.tool],
                    "actions": [words["verb"].ids[_verb(i.verb)]],
                    "bbox": xywh(box),
                    "segmentation": _text(rle.encode(np.asfortranarray(mask, np.uint8))),
                    "iscrowd": 0,
                }
                for i, mask, box in shown
            ]
            short_term.append({"image": image, "rows": rows})
            labels = Labels(
                phase=scene.phase,
                step=scene.step,
                tools=tuple({i.tool for i, _, _ in shown}),
                verbs=tuple({_verb(i.verb) for i, _, _ in shown}),
                boxes=tuple(LabelledBox(i.tool, box) for i, _, box in shown),
            )
            count = len(shown)
        wanted.append(expected(index, labels, tool_count=count))
    return {
        "frames": len(long_term),
        "truth": truth,
        "expected": wanted,
        "long": long_term,
        "short": short_term,
    }


def _text(mask: Any) -> dict[str, Any]:
    """A run-length code as JSON has it."""
    return {"size": list(mask["size"]), "counts": mask["counts"].decode()}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`GraSP_1fps/annotations/grasp_{long,short}-term_{train,test,fold1,fold2}.json`; the folds are the
    halves of the training cases.
    """
    words = {k: vocabulary("grasp", k) for k in ("tool", "verb", "phase", "step")}
    train = split.get("train", ())
    half = (len(train) + 1) // 2
    parts = {
        "train": train,
        "test": split.get("test", ()),
        "fold1": train[:half],
        "fold2": train[half:],
    }
    heads: dict[str, dict[str, Any]] = {
        "long": {
            "phases_categories": classes(words["phase"]),
            "steps_categories": classes(words["step"]),
        },
        "short": {"categories": classes(words["tool"]), "actions_categories": classes(words["verb"])},
    }
    folder = root / "GraSP_1fps" / "annotations"
    for part, numbers in parts.items():
        for term, head in heads.items():
            body = {"info": {"description": NOTICE.strip()}} | head
            body |= coco(f for n in numbers for f in videos[n][term])
            save_text(json.dumps(body), folder / f"grasp_{term}-term_{part}.json")


def coco(listed: Any) -> dict[str, Any]:
    """`images` and `annotations` of frames (each with "image" and "rows"), ids counted from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for frame in listed:
        images.append({"id": len(images) + 1} | frame["image"])
        for row in frame["rows"]:
            head = {
                "id": len(annotations) + 1,
                "image_id": len(images),
                "image_name": frame["image"]["file_name"],
            }
            annotations.append(head | row)
    return {"images": images, "annotations": annotations}


def _shifted(body: dict[str, Any]) -> None:
    """Image ids counted from 0, annotations still from 1."""
    for image in body["images"]:
        image["id"] -= 1


def _one_based(body: dict[str, Any]) -> None:
    """Phases counted from 1, as a third party's loader has them."""
    for row in body["annotations"]:
        row["phases"] += 1 if row["phases"] < 10 else 0
    body["phases_categories"] = [c | {"id": c["id"] + 1} for c in body["phases_categories"]]


def _thirty(data: bytes) -> bytes:
    """Names of the 30-fps tree."""
    return data.replace(b'"CASE001/0', b'"CASE001/00000')


TRIAL = Trial(seconds=16, train=(1, 2), test=(41,))
_LONG = "GraSP_1fps/annotations/grasp_long-term_train.json"
_SHORT = "GraSP_1fps/annotations/grasp_short-term_train.json"
DAMAGES = (
    Damage("truncated", _LONG, cut_half, r"long-term_train\.json: not a whole JSON file"),
    Damage("wrong encoding", _SHORT, to_utf16, r"short-term_train\.json: cannot be read as UTF-8"),
    Damage("missing file", _SHORT, None, "no grasp_short-term_train.json"),
    Damage(
        "missing file", "GraSP_1fps/annotations/grasp_long-term_test.json", None, "CASE041: pictures without"
    ),
    Damage("missing picture", "GraSP_1fps/frames/CASE001/00003.jpg", None, "a labelled frame has no picture"),
    Damage("broken picture", "GraSP_1fps/frames/CASE001/00000.jpg", cut_head, "not a picture"),
    Damage(
        "duplicate id", _LONG, replace_once('{"id": 2, "file_name"', '{"id": 1, "file_name"'), "stands twice"
    ),
    Damage(
        "duplicate id", _SHORT, replace_once('{"id": 2, "image_id"', '{"id": 1, "image_id"'), "stands twice"
    ),
    Damage("off-by-one frame", _LONG, edit_json(_shifted), "image_name says"),
    Damage("off-by-one frame", _LONG, _thirty, "30-fps tree"),
    Damage("reordered", _LONG, edit_json(next_file_names), "image_name says"),
    Damage("swapped ids", _LONG, edit_json(_one_based), "`phases_categories`: id 0"),
    Damage(
        "swapped ids",
        _SHORT,
        replace_once('{"id": 3, "name": "Cut"}', '{"id": 3, "name": "Close Something"}'),
        "`actions_categories`: id 3 is 'Close Something'",
    ),
    Damage("out of range", _LONG, replace_once('"phases": ', '"phases": 4'), "phase id .* is not in 0-10"),
    Damage("out of range", _SHORT, replace_once('"bbox": [', '"bbox": [9'), "leaves the picture|empty"),
    Damage("malformed value", _SHORT, replace_once('"bbox": [', '"bbox": ["wide", '), "annotation 0"),
    Damage("unknown label", _SHORT, replace_once('"actions": [', '"actions": [99, '), "verb id '99'"),
    Damage(
        "hostile path",
        _LONG,
        replace_once('"file_name": "CASE001/00000.jpg"', '"file_name": "../../etc/CASE001/00000.jpg"'),
        "expected CASENNN",
    ),
    Damage("hostile file", _LONG, nested_lists(100_000), "not a whole JSON file"),
)
