"""CholecT45's native tree (datasets-a.md 3.3)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth
from surgr1.simulator.writers.common import (
    Damage,
    Split,
    Trial,
    cut_half,
    expected,
    frames,
    replace_once,
    save,
    swap_lines,
    to_utf16,
)

SCENARIO = "laparoscopic cholecystectomy"
_TABLES = {"triplet": "triplet", "instrument": "tool", "verb": "verb", "target": "target"}


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`data/VIDnn/KKKKKK.png` (0-based, 1 fps) and a table per kind: frame, then a column of 0 or 1 per
    class.
    """
    name = f"VID{number:02d}"
    truth, wanted = [], []
    lines: dict[str, list[str]] = {t: [] for t in _TABLES}
    for index, scene, drawn, seen in frames(operation, centre):
        truth.append(frame_truth(name, index, scene, drawn, centre))
        save(drawn.image, root / "data" / name / f"{index:06d}.png")
        deeds = {(i.tool, i.verb, i.target) for i, _ in seen}
        present = {
            "triplet": {" ".join(d) for d in deeds},
            "tool": {d[0] for d in deeds},
            "verb": {d[1] for d in deeds},
            "target": {d[2] for d in deeds},
        }
        for table, kind in _TABLES.items():
            bits = (str(int(n in present[kind])) for n in vocabulary("cholect45", kind).names)
            lines[table].append(f"{index},{','.join(bits)}\n")
        wanted.append(
            expected(
                index,
                Labels(
                    tools=tuple(present["tool"]),
                    verbs=tuple(present["verb"]),
                    targets=tuple(present["target"]),
                    triplets=tuple(deeds),
                ),
            )
        )
    for table, rows in lines.items():
        path = root / table / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows), encoding="utf-8")
    return {"frames": len(wanted), "truth": truth, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`dict/*.txt`: `id:name` lines, and the parts of every triplet in maps.txt."""
    (root / "dict").mkdir(parents=True, exist_ok=True)
    words = {t: vocabulary("cholect45", k).native for t, k in _TABLES.items()}
    for table, native in words.items():
        text = "".join(f"{k}:{n}\n" for k, n in enumerate(native))
        (root / "dict" / f"{table}.txt").write_text(text, encoding="utf-8")
    rows = ["# IVT, I, V, T, IV, IT"]
    for k, triplet in enumerate(words["triplet"]):
        i, v, t = (
            words[table].index(part)
            for table, part in zip(("instrument", "verb", "target"), triplet.split(","), strict=True)
        )
        rows.append(f"{k},{i},{v},{t},{i * 10 + v},{i * 15 + t}")
    (root / "dict" / "maps.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _swap_columns(data: bytes) -> bytes:
    """The first two classes exchanged in every row."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    return "".join(f"{','.join([n, b, a, *rest])}\n" for n, a, b, *rest in rows).encode()


def _from_one(data: bytes) -> bytes:
    rows = [line.split(",", 1) for line in data.decode().splitlines()]
    return "".join(f"{int(n) + 1},{rest}\n" for n, rest in rows).encode()


def _twice(line: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join([*lines[: line + 1], *lines[line:]])

    return change


TRIAL = Trial(seconds=14, train=(5,), test=(2,))
_TRIPLETS, _TOOLS = "triplet/VID02.txt", "instrument/VID02.txt"
DAMAGES = (
    Damage("truncated", _TRIPLETS, cut_half, r"triplet/VID02\.txt"),
    Damage(
        "truncated", _TOOLS, lambda d: b"".join(d.splitlines(keepends=True)[:9]), "no usable row for frame 9"
    ),
    Damage("reordered", _TRIPLETS, swap_lines(3, 6), r"triplet/VID02\.txt:5: frame 4 does not follow 6"),
    Damage("wrong encoding", _TRIPLETS, to_utf16, r"triplet/VID02\.txt: cannot be read as UTF-8"),
    Damage("missing file", "verb/VID02.txt", None, r"no verb/VID02\.txt"),
    Damage("missing picture", "data/VID02/000003.png", None, r"000003\.png: a labelled frame has no picture"),
    Damage("broken picture", "data/VID02/000000.png", lambda d: d[:20], r"000000\.png: not a picture"),
    Damage("duplicate id", _TRIPLETS, _twice(4), r"triplet/VID02\.txt:6: frame 4 does not follow 4"),
    Damage("off-by-one frame", _TRIPLETS, _from_one, r"triplet/VID02\.txt: no usable row for frame 0"),
    Damage("swapped ids", _TOOLS, _swap_columns, "but instrument/ does not mark"),
    Damage("swapped ids", "dict/instrument.txt", swap_lines(0, 1), "expected 0:grasper, found '1:bipolar'"),
    Damage("unknown label", "dict/verb.txt", replace_once("2:dissect", "2:disect"), "expected 2:dissect"),
    Damage("malformed value", _TRIPLETS, replace_once("0,0,0,", "0,0,,"), "columns of 0 or 1"),
    Damage("malformed value", _TRIPLETS, replace_once("0,0,0,", "x,0,0,"), "'x' is no frame number"),
    Damage("out of range", _TOOLS, lambda d: d.replace(b",1", b",2", 1), "columns of 0 or 1"),
    Damage("out of range", _TRIPLETS, replace_once("0,0,0,", "9" * 30 + ",0,0,"), "is no frame number"),
)
