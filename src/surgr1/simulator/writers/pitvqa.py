"""PitVQA's native tree (datasets-b.md 7.1, 7.2): one text of questions and answers a frame, beside the
pictures.
"""

from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.canvas import Box
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre, Scene
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import Seen, Split, Trial, expected, frames, quadrant, save, save_text
from surgr1.simulator.writers.damage import (
    Damage,
    append_line,
    cut_half,
    cut_head,
    edit_cells,
    replace_once,
    to_utf16,
)

SCENARIO = "pituitary"
_FIRST_OPERATION = 45
_OPERATIONS = {
    step: _FIRST_OPERATION + k
    for k, step in enumerate(
        (
            "nasal corridor creation",
            "anterior sphenoidotomy",
            "septum displacement",
            "sphenoid sinus clearance",
            "haemostasis",
            "sellotomy",
            "durotomy",
            "tumour excision",
            "synthetic graft placement",
            "fat graft placement",
            "dural sealant",
            "debris clearance",
            "gasket seal construct",
            "nasal packing",
        )
    )
}
"""Step -> class of the sentence that says what is done in it (in the order of datasets-b.md 7.3)."""
_NUMBERS = ("zero", "one", "two")
"""The adapter has these words too: written again on purpose (see the package)."""


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`qa-classification/video_NN/KKKKK.txt` and `images/video_NN/KKKKK.png` (0-based, 1 fps)."""
    name = f"video_{number:02d}"
    truth, wanted = [], []
    for index, scene, drawn, seen in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        save(drawn.image, root / "images" / name / f"{index:05d}.png")
        pairs = _pairs(operation, index, scene, seen, (drawn.image.shape[1], drawn.image.shape[0]))
        text = "".join(f"{q}|{a}\n" for q, a in pairs)
        save_text(text, root / "qa-classification" / name / f"{index:05d}.txt")
        asked = [q for q, _ in pairs]
        wanted.append(
            expected(
                index,
                # A frame without an instrument has no question about instruments: nothing says that there
                # are none.
                Labels(
                    tools=tuple(i.tool for i, _ in seen) if seen else None,
                    phase=scene.phase,
                    step=scene.step,
                ),
                tool_count=len(seen) or None,
                questions=tuple(p for p in pairs if asked.count(p[0]) == 1),
            )
        )
    return {"frames": len(operation.scenes), "truth": truth, "expected": wanted}


def _pairs(
    operation: Operation, index: int, scene: Scene, seen: Seen, size: tuple[int, int]
) -> list[tuple[str, str]]:
    """Five lines about the operation, three for every instrument and their number, in the release's
    words.
    """
    tools, steps, phases = (vocabulary("pitvqa", k) for k in ("tool", "step", "phase"))
    done = vocabulary("pitvqa", "answer").native[_OPERATIONS[scene.step]]
    later = operation.scenes[index:]
    phase = next((phases.to_native(s.phase) for s in later if s.phase != scene.phase), "end_of_phase")
    step = next((steps.to_native(s.step) for s in later if s.step != scene.step), "end_of_step")
    pairs = [
        ("What is the surgical phase shown in the image?", phases.to_native(scene.phase)),
        ("What is the surgical step shown in this frame?", steps.to_native(scene.step)),
        ("What is the surgical operation performed in the image?", done),
        ("What is the next surgical phase?", phase),
        ("What is the next surgical step?", step),
    ]
    for instrument, box in seen:
        tool, place = tools.to_native(instrument.tool), _place(box, size)
        pairs += [
            (
                f"What instrument is used {'at' if place == 'centre' else 'in'} the {place} of the image?",
                tool,
            ),
            (f"What surgical activity is performing by the instrument {tool}?", done),
            (f"Where is the surgical instrument {tool} tip located in the image?", place),
        ]
    if seen:
        pairs.append(("How many instruments are present in the image?", _NUMBERS[len(seen)]))
    return pairs


def _place(box: Box, size: tuple[int, int]) -> str:
    """The middle third of the picture in both directions is the centre."""
    x, y = (box[0] + box[2]) / 2 / size[0], (box[1] + box[3]) / 2 / size[1]
    if 1 / 3 < x < 2 / 3 and 1 / 3 < y < 2 / 3:
        return "centre"
    return "-".join(quadrant(box, size))


def _exchanged(data: bytes) -> bytes:
    """The answers of phase and step exchanged."""
    lines = data.split(b"\n")
    (a, x), (b, y) = (line.split(b"|") for line in lines[:2])
    return b"\n".join((a + b"|" + y, b + b"|" + x, *lines[2:]))


TRIAL = Trial(seconds=28, train=(1,), val=(2,))
_FIRST = "qa-classification/video_01/00000.txt"
_OTHER_STEP = replace_once("frame?|nasal_corridor_creation", "frame?|sellotomy")
"""The two lines come from different frames."""
DAMAGES = (
    Damage("truncated", _FIRST, cut_half, r"00000\.txt:\d+: (expected `question\|answer`|.* is none of)"),
    Damage("truncated", _FIRST, lambda _: b"", r"00000\.txt: no question in it"),
    Damage("wrong encoding", _FIRST, to_utf16, r"00000\.txt: cannot be read as UTF-8"),
    Damage("hostile file", _FIRST, lambda data: data + b"\x00" * 64, "holds NUL bytes"),
    Damage("duplicate id", _FIRST, append_line(0), r"00000\.txt:10: repeats line 1"),
    Damage(
        "reordered",
        _FIRST,
        edit_cells("|", reversed),
        "'What is the surgical phase shown in the image\\?' is none of",
    ),
    Damage("off-by-one frame", _FIRST, _OTHER_STEP, "the step 'sellotomy' is no part of 'nasal sphenoid'"),
    Damage("swapped ids", _FIRST, _exchanged, "'nasal_corridor_creation' is no phase"),
    Damage(
        "swapped ids",
        _FIRST,
        replace_once("instrument suction tip", "instrument cottle tip"),
        "asks about 'cottle', which is not among",
    ),
    Damage("unknown label", _FIRST, replace_once("|suction", "|Suction tube"), "'Suction tube' is none of"),
    Damage("malformed value", _FIRST, replace_once("image?|one", "image?|top-left"), "expected one of zero"),
    Damage("out of range", _FIRST, replace_once("image?|one", "image?|zero"), "names suction where no"),
    Damage("missing picture", "images/video_02/00003.png", None, r"00003\.png: a labelled frame has no"),
    Damage("broken picture", "images/video_01/00000.png", cut_head, "not a picture"),
)
