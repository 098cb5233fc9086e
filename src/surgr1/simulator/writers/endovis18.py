"""EndoVis 2018's native tree (datasets-b.md 11): colour masks by sequence, in the folders of the releases."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers import _nephrectomy as scene_masks
from surgr1.simulator.writers.common import Split, Trial, expected, frames, merged, save, shown_instruments
from surgr1.simulator.writers.damage import (
    Damage,
    cut_half,
    cut_head,
    edit_picture,
    edit_pixels,
    halve_picture,
    promise_pixels,
    replace_once,
    to_utf16,
)

SCENARIO = scene_masks.SCENARIO
FIRST_TEST = 101
"""Test sequence 1 has this number here: "test/seq_1" is other footage than "seq_1"."""
_COLOURS = {
    "background-tissue": (0, 0, 0),
    "instrument-shaft": (0, 255, 0),
    "instrument-clasper": (0, 255, 255),
    "instrument-wrist": (125, 255, 12),
    "kidney-parenchyma": (255, 55, 0),
    "covered-kidney": (24, 55, 125),
    "thread": (187, 155, 25),
    "clamps": (0, 255, 125),
    "suturing-needle": (255, 255, 125),
    "suction-instrument": (123, 15, 175),
    "small-intestine": (124, 155, 5),
    "ultrasound-probe": (12, 255, 141),
}
"""The adapter has this table too: written again on purpose. With one table for both, a wrong colour would be
written and read, and the round trip would hold.
"""
_TISSUES = ("kidney parenchyma", "covered kidney", "small intestine")
_THINGS = ("thread", "clamps", "suturing needle")
_OWN_CLASS = {"suction": "suction-instrument", "ultrasound probe": "ultrasound-probe"}


def release_folder(number: int) -> str:
    """The folder of a sequence in the challenge's archives."""
    if number >= FIRST_TEST:
        return f"test_data/seq_{number - FIRST_TEST + 1}"
    for last, name in (
        (4, "miccai_challenge_2018_release_1"),
        (7, "miccai_challenge_release_2"),
        (12, "miccai_challenge_release_3"),
    ):
        if number <= last:
            return f"{name}/seq_{number}"
    return f"miccai_challenge_release_4/seq_{number}"


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`seq_N/{left_frames,labels}/frameKKK.png` of a training sequence (1-7, 9-16) or, from number 101, of a
    test one. Right views are not written.
    """
    place = release_folder(number)
    name = f"test/seq_{number - FIRST_TEST + 1}" if number >= FIRST_TEST else f"seq_{number}"
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        file = f"frame{index:03d}.png"
        save(drawn.image, root / place / "left_frames" / file)
        mask = np.zeros((*drawn.ids.shape, 3), np.uint8)
        shown = [(thing, drawn.ids == IDS[thing]) for thing in (*_TISSUES, *_THINGS)]
        for thing, pixels in shown:
            mask[pixels] = _COLOURS[thing.replace(" ", "-")]
        for s in shown_instruments(scene, drawn):
            own = s.instrument.tool in _OWN_CLASS
            shown.append((s.instrument.tool if own else "robotic instrument", s.whole))
            if own:
                mask[s.whole] = _COLOURS[_OWN_CLASS[s.instrument.tool]]
                continue
            mask[s.shaft] = _COLOURS["instrument-shaft"]
            mask[s.end] = _COLOURS["instrument-clasper"]
            mask[scene_masks.wrist_of(s.shaft, s.end)] = _COLOURS["instrument-wrist"]
        save(mask, root / place / "labels" / file)
        boxes = tuple(LabelledBox(n, b) for n, m in merged(shown).items() for b in scene_masks.parts_of(m))
        present = {b.name for b in boxes}
        labels = Labels(
            tools=tuple(present - set(_TISSUES)),
            tissues=tuple(present & set(_TISSUES)),
            boxes=boxes,
        )
        wanted.append(expected(index, labels))
    (root / place / "left_frames" / "._frame000.png").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    (root / place / "camera_calibration.txt").write_text("simulated\n", encoding="utf-8")
    return {"frames": len(truth), "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """A `labels.json` in every release: a list, or in the last one the other form, with "intestine"."""
    for folder in sorted({root / release_folder(n).partition("/")[0] for n in videos}):
        if folder.name.endswith("4"):
            rows = [
                {
                    "name": "intestine" if n == "small-intestine" else n,
                    "color": [*c, 128],
                    "classid": k,
                    "active": True,
                }
                for k, (n, c) in enumerate(_COLOURS.items())
            ]
            text = json.dumps({"classes": rows}, indent=1)
        else:
            text = json.dumps(
                [{"name": n, "color": list(c), "classid": k} for k, (n, c) in enumerate(_COLOURS.items())]
            )
        (folder / "labels.json").write_text(text, encoding="utf-8")


TRIAL = Trial(seconds=14, train=(2, 13), test=(FIRST_TEST,))
_SEQ = "miccai_challenge_2018_release_1/seq_2"
_MASK = f"{_SEQ}/labels/frame003.png"
_CLASSES = "miccai_challenge_2018_release_1/labels.json"
DAMAGES = (
    Damage("truncated", _MASK, cut_half, r"frame003\.png: not a whole mask"),
    Damage("truncated", _CLASSES, cut_half, r"labels\.json: not a whole JSON file"),
    Damage("missing file", _MASK, None, r"frame003\.png: a picture without its label"),
    Damage("wrong encoding", _CLASSES, to_utf16, r"labels\.json: cannot be read as UTF-8"),
    Damage(
        "wrong encoding",
        _MASK,
        edit_picture(lambda p: p, "JPEG", quality=80),
        r"frame003\.png: \d+ pixels of a colour that is no class",
    ),
    Damage(
        "reordered",
        _MASK,
        edit_pixels(lambda p: p[..., ::-1]),
        r"frame003\.png: \d+ pixels of a colour that is no class",
    ),
    Damage(
        "duplicate id", _CLASSES, replace_once('"thread"', '"clamps"'), r"clamps has colour \[187, 155, 25\]"
    ),
    Damage("unknown label", _CLASSES, replace_once('"thread"', '"rope"'), "unknown class 'rope'"),
    Damage(
        "swapped ids",
        _CLASSES,
        replace_once("[255, 55, 0]", "[24, 55, 125]"),
        r"kidney-parenchyma has colour \[24, 55, 125\], expected \(255, 55, 0\)",
    ),
    Damage("malformed value", _CLASSES, replace_once("[255, 55, 0]", "null"), "has colour None"),
    Damage(
        "malformed value", _MASK, edit_picture(lambda p: p.convert("L")), r"frame003\.png: no colour mask"
    ),
    Damage(
        "malformed value", _MASK, halve_picture, r"frame003\.png: 224 x 126 pixels, its picture has 448 x 252"
    ),
    Damage(
        "missing picture",
        f"{_SEQ}/left_frames/frame005.png",
        None,
        r"frame005\.png: a labelled frame has no picture",
    ),
    Damage(
        "broken picture",
        f"{_SEQ}/left_frames/frame000.png",
        cut_head,
        r"frame000\.png: not a picture",
    ),
    Damage("hostile file", _MASK, promise_pixels(60_000), "pixels are no mask|not a whole mask"),
)
