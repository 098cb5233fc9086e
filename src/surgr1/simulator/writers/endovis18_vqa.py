"""EndoVis-18-VQA's native tree (datasets-b.md 2.1-2.3); its pictures are the challenge's."""

from pathlib import Path
from typing import Any

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.vocabularies import Vocabulary, vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers import _nephrectomy as scene_masks
from surgr1.simulator.writers.common import Split, Trial, expected, frames, pictures_root, save, save_text
from surgr1.simulator.writers.damage import (
    Damage,
    append_line,
    cut_head,
    edit_cells,
    keep_lines,
    replace_once,
    to_utf16,
)
from surgr1.simulator.writers.endovis18 import release_folder

SCENARIO = scene_masks.SCENARIO


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`seq_N/vqa/Classification/frameKKK_QA.txt`; pictures in the challenge's layout beside the tree.
    *Sentence* answers and picture features are not written.
    """
    return write_sequence(
        root, number, operation, centre, layout="endovis18-vqa", place="vqa/Classification", boxed=False
    )


def native_of(words: Vocabulary) -> dict[str, str]:
    """Canonical name -> the dataset's spelling."""
    return dict(zip(words.names, words.native, strict=True))


def write_sequence(
    root: Path, number: int, operation: Operation, centre: Centre, *, layout: str, place: str, boxed: bool
) -> dict[str, Any]:
    """One sequence of VQA or VQLA. As in the real sets some frames have pictures but no questions: here those
    with a tool that the sets have no name for, or with two of one kind.
    """
    words = {k: vocabulary(layout, k) for k in ("tool", "verb")}
    pictures = pictures_root(root) / release_folder(number) / "left_frames"
    name = f"seq_{number}"
    truth, wanted = [], []
    for index, scene, drawn, _ in frames(operation, centre):
        save(drawn.image, pictures / f"frame{index:03d}.png")
        rows = scene_masks.question_lines(
            scene, drawn, native_of(words["tool"]), native_of(words["verb"]), organ=True
        )
        if rows is None:
            continue
        truth.append(frame_truth(name, index, scene, drawn, centre))
        size = (drawn.image.shape[1], drawn.image.shape[0])
        write_lines(root / name / place / f"frame{index:03d}_QA.txt", rows, size if boxed else None)
        wanted.append(expected_of(index, rows, words, boxed=boxed))
    return {"frames": len(truth), "truth": truth, "expected": wanted}


def write_lines(path: Path, rows: list[scene_masks.Row], size: tuple[int, int] | None) -> None:
    """A frame's questions; with boxes where the picture's size is given."""
    lines = [
        f"{q}|{a}" + (f"|{scene_masks.vqla_corners(box, size)}" if size else "") for q, a, box, _ in rows
    ]
    save_text("\n".join(lines) + "\n", path)


def expected_of(
    frame: int, rows: list[scene_masks.Row], words: dict[str, Vocabulary], *, boxed: bool
) -> dict[str, Any]:
    """What must be read of a frame's questions."""
    states = {a for q, a, _, _ in rows if "state" in q}
    tools = {thing for _, _, _, thing in rows} - {"kidney"}
    organ = any(thing == "kidney" for _, _, _, thing in rows)
    labels = Labels(
        tools=tuple(tools),
        tissues=("kidney",) if boxed and organ else None,
        verbs=tuple(v.lower().replace("_", " ") for v in states),
        boxes=tuple(LabelledBox(n, b) for n, b in {thing: b for _, _, b, thing in rows}.items())
        if boxed
        else None,
    )
    return expected(frame, labels, questions=tuple((q, a.lower().replace("_", " ")) for q, a, _, _ in rows))


def cut_line(data: bytes) -> bytes:
    """A download cut inside the last line."""
    return data[: data.rstrip(b"\n").rindex(b"|") - 4]


def exchanged_answers(data: bytes) -> bytes:
    """State and place of a tool exchanged."""
    lines = [line.split(b"|") for line in data.strip().split(b"\n")]
    state = next(r for r in lines if b"state" in r[0])
    place = next(r for r in lines if b"located" in r[0])
    state[1], place[1] = place[1], state[1]
    return b"\n".join(b"|".join(r) for r in lines) + b"\n"


def other_tool(data: bytes) -> bytes:
    """A state that is asked of another tool than the place."""
    line = next(r for r in data.split(b"\n") if b"state" in r)
    tool = line.partition(b"state of ")[2].partition(b"?")[0]
    other = b"stapler" if tool != b"stapler" else b"suction"
    return data.replace(line, line.replace(tool, other, 1), 1)


TRIAL = Trial(seconds=16, train=(2, 15), test=(5,))
_FIRST = "seq_2/vqa/Classification/frame*_QA.txt"
_LEFT = "*-pictures/miccai_challenge_2018_release_1/seq_2/left_frames"
DAMAGES = (
    Damage("truncated", _FIRST, cut_line, r"_QA\.txt: line \d+: expected question\|answer"),
    Damage("truncated", _FIRST, keep_lines(-1), "only one of state and place is asked of"),
    Damage("reordered", _FIRST, edit_cells("|", reversed), "unknown question 'kidney'"),
    Damage("wrong encoding", _FIRST, to_utf16, r"_QA\.txt: cannot be read as UTF-8"),
    Damage("duplicate id", _FIRST, append_line(-1), "stands twice"),
    Damage("swapped ids", _FIRST, exchanged_answers, "is no answer to 'What is the state of"),
    Damage("swapped ids", _FIRST, other_tool, "only one of state and place is asked of"),
    Damage("unknown label", _FIRST, replace_once("|kidney", "|liver"), "line 1: 'liver' is no answer"),
    Damage(
        "unknown label", _FIRST, replace_once("What is the state of ", "What is the state of big_"), "big_"
    ),
    Damage("malformed value", _FIRST, replace_once("|kidney", "|kidney|1, 2, 3, 4"), r"\(VQA\), found"),
    Damage("malformed value", _FIRST, replace_once("What organ", "Which organ"), "unknown question"),
    Damage("missing picture", f"{_LEFT}/frame00[0-9].png", None, "a labelled frame has no picture"),
    Damage("broken picture", f"{_LEFT}/frame00[0-9].png", cut_head, "not a picture"),
    Damage("hostile file", _FIRST, lambda data: data + b"\x00" * 9, "NUL bytes"),
)
