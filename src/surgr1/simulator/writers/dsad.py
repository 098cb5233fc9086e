"""DSAD's native tree (datasets-b.md 9.1, 9.2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgr1.corpora.adapters.dsad import frame_number
from surgr1.corpora.masks import component_boxes
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.operations import Operation
from surgr1.simulator.render import Rendered
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import Mask, Split, Trial, expected, frames, save
from surgr1.simulator.writers.damage import (
    Change,
    Damage,
    append_line,
    blend_pixels,
    cut_half,
    cut_head,
    edit_pixels,
    halve_picture,
    replace_once,
    to_utf16,
)

SCENARIO = "abdominal anatomy"
_RATERS = ("anno_1", "anno_2", "anno_3", "merged")
_MULTILABEL = (
    "abdominal_wall",
    "colon",
    "liver",
    "pancreas",
    "small_intestine",
    "spleen",
    "stomach",
)
"""What is segmented in multilabel/."""


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`<organ>/NN/` with pictures, masks (0 and 255) and `weak_labels.csv`, the raters' masks beside.

    A frame lies in the folder of one organ that it shows, in turn; what shows the stomach lies in `stomach/`
    and in `multilabel/`, once. A frame that shows no organ is not kept.
    """
    surgery = f"{number:02d}"
    words = vocabulary("dsad", "tissue")
    counts: dict[str, int] = {}
    rows: dict[Path, list[str]] = {}
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        shown = [n for n in words.names if n in drawn.tissue_boxes]
        if not shown:
            continue
        organ = words.to_native("stomach" if "stomach" in shown else shown[index % len(shown)])
        picture = counts.get(organ, 0)
        counts[organ] = picture + 1
        # The eleventh column belongs to no known structure.
        values = [int(n in shown) for n in words.names]
        row = ",".join([f"images{picture:03d}.png", *map(str, [*values[:10], 0, values[10]])]) + ",\n"
        single, several = root / organ / surgery, root / "multilabel" / surgery
        for folder in (single, *(single / r for r in _RATERS)):
            _save_mask(folder / f"mask{picture:02d}.png", organ, drawn)
        folders, segmented = [single], [organ]
        if organ == "stomach":
            folders, segmented = [single, several], [o for o in _MULTILABEL if words.from_native(o) in shown]
            for o in segmented:
                _save_mask(several / f"mask{picture:02d}_{o}.png", o, drawn)
        for folder in folders:
            save(drawn.image, folder / f"image{picture:02d}.png")
            rows.setdefault(folder, []).append(row)
        key = frame_number(organ, picture)
        truth.append(frame_truth(surgery, key, scene, drawn, centre))
        boxes = [
            LabelledBox(words.from_native(o), b) for o in segmented for b in component_boxes(_mask(drawn, o))
        ]
        wanted.append(expected(key, Labels(tissues=tuple(shown), boxes=tuple(boxes))))
    for folder, lines in rows.items():
        (folder / "weak_labels.csv").write_text("".join(lines), encoding="utf-8")
    return {"frames": len(truth), "truth": truth, "expected": wanted}


def _mask(drawn: Rendered, organ: str) -> Mask:
    found: Mask = drawn.ids == IDS[vocabulary("dsad", "tissue").from_native(organ)]
    return found


def _save_mask(path: Path, organ: str, drawn: Rendered) -> None:
    save(np.where(_mask(drawn, organ), 255, 0).astype(np.uint8), path)


def _shifted(data: bytes) -> bytes:
    """Pictures counted from 1."""
    lines = data.decode().splitlines()
    return "".join(f"images{int(x[6:9]) + 1:03d}{x[9:]}\n" for x in lines).encode()


def _columns(order: Callable[[list[str]], list[str]]) -> Change:
    """A change of the twelve values of every row."""

    def change(data: bytes) -> bytes:
        rows = [x.rstrip(",").split(",") for x in data.decode().splitlines()]
        return "".join(",".join([r[0], *order(r[1:])]) + ",\n" for r in rows).encode()

    return change


def _coloured(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In colour, as an overlay is saved."""
    return np.stack([mask, 0 * mask, 0 * mask], axis=-1)


TRIAL = Trial(seconds=24, train=(1,), val=(3,), test=(2,))
_WEAK = "multilabel/01/weak_labels.csv"
DAMAGES = (
    Damage(
        "truncated", "multilabel/01/mask00_stomach.png", cut_half, r"mask00_stomach\.png: not a whole mask"
    ),
    Damage("truncated", _WEAK, lambda data: data[:-10], r"weak_labels\.csv:\d+: expected twelve values"),
    Damage(
        "reordered", _WEAK, _columns(lambda v: v[::-1]), "is segmented, but not visible by weak_labels.csv"
    ),
    Damage("wrong encoding", _WEAK, to_utf16, r"weak_labels\.csv: cannot be read as UTF-8"),
    Damage("missing file", _WEAK, None, r"weak_labels\.csv: no such file"),
    Damage("missing file", "*/01/mask00.png", None, r"image00\.png: a picture without a mask"),
    Damage("duplicate id", _WEAK, append_line(0), r"weak_labels\.csv:\d+: picture 0 stands twice"),
    Damage("off-by-one frame", _WEAK, _shifted, r"a row for picture \d+, which has no mask"),
    Damage("swapped ids", _WEAK, _columns(lambda v: v[1:] + v[:1]), "is segmented, but not visible"),
    Damage("malformed value", _WEAK, replace_once(".png,1,", ".png,yes,"), "expected twelve values 0 or 1"),
    Damage("hostile path", _WEAK, replace_once("images000.png", "../../x.png"), "expected images0NN.png"),
    Damage("out of range", "multilabel/01/mask00_stomach.png", blend_pixels(3), "expected 0 and 255"),
    Damage("out of range", "multilabel/01/mask00_stomach.png", halve_picture, "pixels, its picture has"),
    Damage("hostile file", "multilabel/01/mask00_stomach.png", edit_pixels(_coloured), "a colour mask"),
    Damage(
        "missing picture", "multilabel/01/image00.png", None, r"image00\.png: a labelled frame has no picture"
    ),
    Damage("broken picture", "multilabel/01/image00.png", cut_head, r"image00\.png: not a picture"),
)
