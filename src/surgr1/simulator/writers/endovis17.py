"""EndoVis 2017's native tree (datasets-a.md 9.1, 9.2): training sequences 1-8, test sequences 1-10."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers import _nephrectomy as scene_masks
from surgr1.simulator.writers.common import Shown, Split, Trial, expected, frames, save, shown_instruments
from surgr1.simulator.writers.damage import (
    Change,
    Damage,
    cut_half,
    cut_head,
    edit_pixels,
    promise_pixels,
    replace_once,
    to_utf16,
)

SCENARIO = scene_masks.SCENARIO
_SHAFT, _WRIST, _CLASPERS, _PROBE = 10, 20, 30, 40
_TEST_PARTS = {_SHAFT: 30, _WRIST: 100, _CLASPERS: 255, _PROBE: 255}
"""The adapter has the values of the training masks too: written again on purpose (see the package)."""
_APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """One sequence: a training one with a mask folder per instrument, or (numbers of the test role) a test
    one with masks of types, whose frames go on at 225 up to sequence 8.

    The challenge's "Other" is every tool without a type of its own. Right views are not written.
    """
    if number in split.get("test", ()):
        return _write_test(root, number, operation, centre)
    archive = "instrument_1_4_training" if number <= 4 else "instrument_5_8_training"
    name = f"instrument_dataset_{number}"
    folder = root / archive / name
    drawn_frames = list(frames(operation, centre))
    masks = [_instances(shown_instruments(s, d)) for _, s, d, _ in drawn_frames]
    instances = sorted({key for found in masks for key in found})
    names = _folders(number, instances)
    order = vocabulary("endovis17", "tool").names
    truth, wanted = [], []
    for (index, scene, drawn, _), found in zip(drawn_frames, masks, strict=True):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        save(drawn.image, folder / "left_frames" / f"frame{index:03d}.png")
        empty = np.zeros(drawn.ids.shape, np.uint8)
        for key in instances:
            save(found.get(key, empty), folder / "ground_truth" / names[key] / f"frame{index:03d}.png")
        boxes = tuple(LabelledBox(k[0], scene_masks.box_of(m > 0)) for k, m in found.items())
        tools = {b.name for b in boxes}
        labels = Labels(tools=tuple(t for t in order if t in tools), boxes=boxes)
        wanted.append(expected(index, labels, tool_count=len(boxes)))
    for where in (folder / "left_frames", folder / "ground_truth" / names[instances[0]]):
        (where / "._frame000.png").write_bytes(_APPLE)
    return {"frames": len(truth), "truth": truth, "expected": wanted}


def _type_of(tool: str) -> str:
    return tool if tool in vocabulary("endovis17", "tool").names else "other"


def _instances(shown: list[Shown]) -> dict[tuple[str, str], NDArray[np.uint8]]:
    """(type, side) -> mask of parts."""
    masks: dict[tuple[str, str], NDArray[np.uint8]] = {}
    for instrument, end, shaft, _ in shown:
        kind = _type_of(instrument.tool)
        key = kind, "" if kind == "other" else "Left" if instrument.entry[0] < 0.5 else "Right"
        mask = masks.setdefault(key, np.zeros(shaft.shape, np.uint8))
        mask[shaft] = _SHAFT
        mask[end] = _PROBE if instrument.tool == "ultrasound probe" else _CLASPERS
        mask[scene_masks.wrist_of(shaft, end)] = _WRIST
    return masks


def _folders(number: int, instances: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Mask folder of every instance: the side stands where it is needed, before or after the type, and the
    suffix is missing in sequence 7 (datasets-a.md 9.1).
    """
    words = vocabulary("endovis17", "tool")
    found = {}
    for tool, side in instances:
        name = words.to_native(tool).replace(" ", "_")
        if number == 1 and tool == "bipolar forceps":
            name = f"Maryland_{name}"
        if [t for t, _ in instances].count(tool) > 1 or (number == 7 and side):
            name = f"{name}_{side}" if number == 4 else f"{side}_{name}"
        found[tool, side] = name if number == 7 else f"{name}_labels"
    return found


def _write_test(root: Path, number: int, operation: Operation, centre: Centre) -> dict[str, Any]:
    archive = "instrument_1_4_testing" if number <= 4 else "instrument_5_8_testing"
    if number > 8:
        archive = "instrument_9_10_testing"
    name = f"instrument_dataset_{number}"
    masks = root / "instrument_2017_test" / "instrument_2017_test" / name
    if number % 2:
        # The level is absent in some copies.
        masks = masks / "gt"
    words = vocabulary("endovis17", "tool")
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        frame = index + (225 if number <= 8 else 0)
        truth.append(frame_truth(f"test/{name}", frame, scene, drawn, centre))
        file = f"frame{frame:03d}.png"
        save(drawn.image, root / archive / name / "left_frames" / file)
        types, parts = np.zeros(drawn.ids.shape, np.uint8), np.zeros(drawn.ids.shape, np.uint8)
        for (tool, _), mask in _instances(shown_instruments(scene, drawn)).items():
            types[mask > 0] = words.ids[tool]
            for value, stored in _TEST_PARTS.items():
                parts[mask == value] = stored
        # Some masks have three channels.
        stored_types = np.repeat(types[..., None], 3, axis=2) if index % 3 == 1 else types
        save(np.where(types > 0, 255, 0).astype(np.uint8), masks / "BinarySegmentation" / file)
        save(parts, masks / "PartsSegmentation" / file)
        save(stored_types, masks / "TypeSegmentation" / file)
        save(types * 32, masks / "TypeSegmentationRescaled" / file)
        boxes = tuple(
            LabelledBox(tool, box)
            for tool in words.names
            for box in scene_masks.parts_of(types == words.ids[tool])
        )
        labels = Labels(tools=tuple(t for t in words.names if t in {b.name for b in boxes}), boxes=boxes)
        wanted.append(expected(frame, labels))
    return {"frames": len(truth), "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """The mappings of the training archives."""
    words = vocabulary("endovis17", "tool")
    types = {native: words.ids[name] for native, name in zip(words.native, words.names, strict=True)}
    parts = {"Shaft": _SHAFT, "Wrist": _WRIST, "Claspers": _CLASPERS, "Probe": _PROBE}
    for folder in root.glob("instrument_*_training"):
        (folder / "instrument_type_mapping.json").write_text(json.dumps(types, indent=4), encoding="utf-8")
        (folder / "mappings.json").write_text(json.dumps(parts, indent=4), encoding="utf-8")


def _other_values(values: Mapping[int, int]) -> Change:
    """A mask with other values."""
    table = np.arange(256, dtype=np.uint8)
    for old, new in values.items():
        table[old] = new
    return edit_pixels(lambda mask: table[mask])


def _coloured(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In false colours, as a viewer saves it."""
    return np.stack([mask, mask, mask + 40], axis=-1)


TRIAL = Trial(seconds=14, train=(1, 4, 7), test=(9,))
_TRAIN = "instrument_1_4_training/instrument_dataset_1"
_MASK = f"{_TRAIN}/ground_truth/Maryland_Bipolar_Forceps_labels/frame003.png"
_MAPPING = "instrument_1_4_training/instrument_type_mapping.json"
_TYPES = "instrument_2017_test/instrument_2017_test/instrument_dataset_9/gt/TypeSegmentation/frame002.png"
DAMAGES = (
    Damage("truncated", _MASK, cut_half, r"frame003\.png: not a whole mask"),
    Damage("truncated", _MAPPING, cut_half, r"type_mapping\.json: not a whole JSON file"),
    Damage("missing file", _MASK, None, r"frame 3: .*frame003\.png: no such mask"),
    Damage("wrong encoding", _MAPPING, to_utf16, r"type_mapping\.json: cannot be read as UTF-8"),
    Damage("wrong encoding", _MASK, edit_pixels(_coloured), r"frame003\.png: a colour mask"),
    Damage(
        "duplicate id",
        _MAPPING,
        replace_once('"Prograsp Forceps"', '"Bipolar Forceps"'),
        "duplicate key 'Bipolar Forceps'",
    ),
    Damage("swapped ids", _MAPPING, replace_once(": 2,", ": 3,"), "instrument types are"),
    Damage("unknown label", _MAPPING, replace_once('"Other"', '"Spoon"'), "instrument types are"),
    Damage(
        "swapped ids",
        f"{_TRAIN}/ground_truth/Maryland_Bipolar_Forceps_labels/frame00[0-9].png",
        _other_values({0: 7, **_TEST_PARTS}),
        r"values \[7.*\] in a mask, expected 0, 10, 20",
    ),
    Damage("out of range", _TYPES, _other_values({n: 32 * n for n in range(8)}), r"values \["),
    Damage(
        "malformed value", _MASK, edit_pixels(lambda mask: mask[::2, ::2]), r"frame 3: masks of several sizes"
    ),
    Damage(
        "off-by-one frame",
        "instrument_2017_test/instrument_2017_test/instrument_dataset_9/gt/TypeSegmentation/frame000.png",
        None,
        r"frame000\.png: a picture without its label",
    ),
    Damage(
        "missing picture",
        f"{_TRAIN}/left_frames/frame005.png",
        None,
        r"frame005\.png: a labelled frame has no picture",
    ),
    Damage(
        "broken picture",
        f"{_TRAIN}/left_frames/frame000.png",
        cut_head,
        r"frame000\.png: not a picture",
    ),
    Damage("hostile file", _MASK, promise_pixels(60_000), "pixels are no mask|not a whole mask"),
)
