"""SegCol's native tree (datasets-b.md 10.1 to 10.3)."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surgr1.corpora.datasets import official_split
from surgr1.corpora.masks import component_boxes
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import Rendered
from surgr1.simulator.scene import Centre, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    Mask,
    Split,
    Trial,
    expected,
    frames,
    merged,
    save,
    save_text,
    shown_instruments,
)
from surgr1.simulator.writers.damage import (
    Damage,
    append_line,
    blend_pixels,
    cut_half,
    cut_head,
    edit_json,
    replace_once,
    to_utf16,
)

SCENARIO = "colonoscopy"
_FOLD = "colon fold"
_VALUES = {_FOLD: 255, "resection device": 127, "captivator": 128, "balloon": 129}
"""The adapter has these values too: written again on purpose (see the package)."""
_FOLDERS = {"train": "train", "validation": "valid"}


def sequence(number: int) -> tuple[str, str]:
    """(part, sequence) of a video number: 1-50 are the official training sequences, 51-64 the validation
    sequences, each in order of names. Raises KeyError on others.
    """
    roles = sorted(official_split("segcol").items(), key=lambda item: (item[1], item[0]))
    named = {k: (_FOLDERS[role], name) for k, (name, role) in enumerate(roles, start=1)}
    return named[number]


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """One sequence: `imgs/`, `segm_maps/` and `json_files/`, numbered from 0, padded only in `imgs/`. A
    tool's mask is its working end.
    """
    part, name = sequence(number)
    folder = root / part / name
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        shapes = _shapes(scene, drawn)
        mask = np.zeros(drawn.ids.shape, np.uint8)
        for thing, pixels in shapes.items():
            mask[pixels] = _VALUES[thing]
        save(drawn.image, folder / "imgs" / f"frame_{index:04d}.png")
        save(mask, folder / "segm_maps" / f"{name}_segm_map_{index}.png")
        height, width = drawn.image.shape[:2]
        body = {
            "metadata": {"name": f"{name}/frame_{index}", "width": width, "height": height},
            "annotations": {"0": "", **_objects(shapes, f"{name}/{index}")},
        }
        save_text(json.dumps(body, indent=4), folder / "json_files" / f"{name}_frame_{index}.json")
        truth.append(frame_truth(name, index, scene, drawn, centre))
        boxes = [LabelledBox(n, b) for n, pixels in shapes.items() for b in component_boxes(pixels)]
        labels = Labels(
            tools=tuple(n for n in shapes if n != _FOLD),
            tissues=(_FOLD,) if _FOLD in shapes else (),
            boxes=tuple(boxes),
        )
        wanted.append(expected(index, labels))
    return {"frames": len(truth), "truth": truth, "expected": wanted, "sequence": [part, name]}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """The lists of pictures and masks of each part, one path a line, with a prefix as published."""
    for part in _FOLDERS.values():
        here = sorted((v["sequence"][1], v["frames"]) for v in videos.values() if v["sequence"][0] == part)
        if not here:
            continue
        keys = [(name, k) for name, count in here for k in range(count)]
        for file, lines in (
            (f"{part}_list.csv", [f"{n}/imgs/frame_{k:04d}.png" for n, k in keys]),
            (f"{part}_segmentation_maps.csv", [f"{n}/segm_maps/{n}_segm_map_{k}.png" for n, k in keys]),
        ):
            text = "".join(f"/media/simulated/segcol/{part}/{line}\n" for line in lines)
            save_text(text, root / part / file)


def _shapes(scene: Scene, drawn: Rendered) -> dict[str, Mask]:
    """What is labelled of a picture, by name; specks are not."""
    tools = [(s.instrument.tool, s.end) for s in shown_instruments(scene, drawn) if s.box is not None]
    shapes = merged([(_FOLD, drawn.ids == IDS[_FOLD]), *tools])
    return {name: pixels for name, pixels in shapes.items() if next(component_boxes(pixels), None)}


def _objects(shapes: Mapping[str, Mask], salt: str) -> dict[str, Any]:
    """The annotations of one JSON file: lines of folds, outlines of tools; ids of 23 hexadecimal digits."""
    objects: dict[str, Any] = {}
    for name, pixels in shapes.items():
        if name == _FOLD:
            parts = component_boxes(pixels)
            objects["colon_folds"] = {
                hashlib.sha256(f"{salt}/{k}".encode()).hexdigest()[:23]: _line(pixels, box)
                for k, box in enumerate(parts)
            }
            continue
        x1, y1, x2, y2 = next(component_boxes(pixels))
        outline = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
        objects[name.replace(" ", "_")] = {"filled": outline} if name == "balloon" else outline
    return objects


def _line(pixels: Mask, box: tuple[float, float, float, float]) -> list[list[float]]:
    """Points along a fold: the middle of every sixth row."""
    x1, y1, x2, y2 = (int(v) for v in box)
    points = [(np.flatnonzero(pixels[y, x1:x2]) + x1, y) for y in range(y1, y2, 6)]
    return [[float(xs.mean()), float(y)] for xs, y in points if xs.size]


def _next_frame(body: dict[str, Any]) -> None:
    name, number = body["metadata"]["name"].rsplit("_", 1)
    body["metadata"]["name"] = f"{name}_{int(number) + 1}"


def _other_key(body: dict[str, Any]) -> None:
    """The folds are said to be a balloon."""
    body["annotations"]["balloon"] = body["annotations"].pop("colon_folds")


def _new_tool(body: dict[str, Any]) -> None:
    body["annotations"]["clip_applier"] = [[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]]


def _wide(body: dict[str, Any]) -> None:
    body["metadata"]["width"] = float("nan")


def _backwards(data: bytes) -> bytes:
    """The list counts down and begins at 20: the order does not matter, the numbers do."""
    lines = data.decode().splitlines()
    return "".join(x.replace("segm_map_0.png", "segm_map_20.png") + "\n" for x in lines[::-1]).encode()


TRIAL = Trial(seconds=20, train=(1, 9), val=(51,))
_FIRST = "train/Seq_003_33040"
_JSON = f"{_FIRST}/json_files/Seq_003_33040_frame_0.json"
_MASK = f"{_FIRST}/segm_maps/Seq_003_33040_segm_map_0.png"
_LIST = "train/train_segmentation_maps.csv"
DAMAGES = (
    Damage("truncated", _JSON, cut_half, r"frame_0\.json: not a whole JSON file"),
    Damage("truncated", _MASK, cut_half, r"segm_map_0\.png: not a whole mask"),
    Damage("reordered", _LIST, _backwards, "mask 20 is listed, but not there"),
    Damage("wrong encoding", _LIST, to_utf16, r"maps\.csv: cannot be read as UTF-8"),
    Damage("wrong encoding", _JSON, to_utf16, r"frame_0\.json: cannot be read as UTF-8"),
    Damage("missing file", _MASK, None, "a JSON file without a mask"),
    Damage("missing file", _JSON, None, "no JSON file of frame 0 beside it"),
    Damage("duplicate id", _LIST, append_line(0), "mask 0 stands twice"),
    Damage(
        "off-by-one frame",
        _JSON,
        edit_json(_next_frame, indent=4),
        "frame_1', expected 'Seq_003_33040/frame_0'",
    ),
    Damage("swapped ids", _JSON, edit_json(_other_key, indent=4), "no folds, unlike its mask"),
    Damage("unknown label", _JSON, edit_json(_new_tool, indent=4), "unknown object 'clip_applier'"),
    Damage("malformed value", _JSON, edit_json(_wide, indent=4), "says nan x 252 pixels"),
    Damage("malformed value", _JSON, lambda _: b"[]", "expected `metadata` and `annotations`"),
    Damage("out of range", _MASK, blend_pixels(2), "are no class; was the mask resampled"),
    Damage("hostile path", _LIST, replace_once("/media/simulated/segcol/train/", "../../"), "expected ..."),
    Damage(
        "missing picture", f"{_FIRST}/imgs/frame_0003.png", None, r"frame_0003\.png: a labelled frame has no"
    ),
    Damage("broken picture", f"{_FIRST}/imgs/frame_0000.png", cut_head, r"frame_0000\.png: not a picture"),
)
