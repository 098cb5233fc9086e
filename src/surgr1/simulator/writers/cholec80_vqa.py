"""Cholec80-VQA's native tree, and the Cholec80 tree with its pictures beside it (datasets-b.md 3.1, 3.2)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.schema import Labels
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.operations import Operation
from surgr1.simulator.scene import Centre
from surgr1.simulator.writers import cholec80
from surgr1.simulator.writers.common import Split, Trial, expected, pictures_root, save_text
from surgr1.simulator.writers.damage import Change, Damage, cut_head, replace_once, to_utf16

SCENARIO = cholec80.SCENARIO


def write_video(
    root: Path, number: int, operation: Operation, centre: Centre, split: Split
) -> dict[str, Any]:
    """`Classification/<video>/<frame>_QA.txt` and `Sentence/<video>/<frame>_QA.txt` at one frame a second:
    phase, number of tools, and whether one tool, another one in every frame, is used.
    """
    found = cholec80.write_video(pictures_root(root), number, operation, centre, split)
    tools = vocabulary("cholec80", "tool").names
    wanted, pairs = [], []
    for k, shown in enumerate(found["expected"]):
        frame, labels = shown["frame"], shown["labels"]
        # The dataset's words: "clipping cutting", not "clipping and cutting".
        phase = labels["phase"].replace(" and ", " ")
        tool, count = tools[k % len(tools)], str(len(labels["tools"]))
        used = tool in labels["tools"]
        questions = (
            "what is the phase of image?",
            "how many tools are operating?",
            f"is {tool} used in {phase}?",
        )
        # Of the sentences only the one about a tool is known word for word.
        sentences = (
            f"the phase of image is {phase}",
            f"{count} tools are operating",
            f"{tool} is {'' if used else 'not '}used in {phase}",
        )
        words = (phase, count, "yes" if used else "no")
        for form, answers in (("Classification", words), ("Sentence", sentences)):
            lines = [f"{q}|{a}\n" for q, a in zip(questions, answers, strict=True)]
            save_text("".join(lines), root / form / str(number) / f"{frame}_QA.txt")
        pairs.append([frame, *([q, a] for q, a in zip(questions, words, strict=True))])
        both = tuple(zip(questions, words, strict=True))
        wanted.append(expected(frame, Labels(), questions=both))
    truth = [row | {"video": str(number)} for row in found["truth"]]
    return {"frames": len(wanted), "truth": truth, "pairs": pairs, "expected": wanted}


def finish(root: Path, videos: Mapping[int, dict[str, Any]], split: Split) -> None:
    """`Val/C1_Phase.txt`, `C2_Tool.txt` and `C3_Count.txt`: the validation questions by class, at every 100th
    frame.
    """
    for name, place in (("C1_Phase", 1), ("C2_Tool", 3), ("C3_Count", 2)):
        lines = [
            f"{number}/{row[0]}|{row[place][0]}|{row[place][1]}\n"
            for number in split.get("val", ())
            for row in videos[number]["pairs"]
            if row[0] % 100 == 0
        ]
        save_text("".join(lines), root / "Val" / f"{name}.txt")


def _append(text: str) -> Change:
    return lambda data: data + text.encode()


TRIAL = Trial(seconds=16, train=(1,), val=(5,))
_FILE = "Classification/1/0_QA.txt"
_FRAMES = "sim-cholec80-vqa-pictures/frames/video01"
DAMAGES = (
    Damage("truncated", _FILE, lambda d: d[:38], r"0_QA\.txt:1: .preparatio?. is none of"),
    Damage("truncated", _FILE, lambda d: b"", r"0_QA\.txt: no question"),
    Damage(
        "reordered", _FILE, replace_once("what is the phase of image?|", "|what is "), "expected question"
    ),
    Damage("wrong encoding", _FILE, to_utf16, r"0_QA\.txt: cannot be read as UTF-8"),
    Damage("wrong encoding", _FILE, lambda d: d.replace(b"tools", b"t\xf6\xf6ls"), "cannot be read as UTF-8"),
    Damage("duplicate id", _FILE, lambda d: d + d, r"0_QA\.txt:4: the question stands twice"),
    Damage("malformed value", _FILE, replace_once("|", "\t"), r"0_QA\.txt:1: expected question\|answer"),
    Damage("malformed value", _FILE, _append("is hook used?|yes|no\n"), r"0_QA\.txt:4: expected question"),
    Damage("malformed value", _FILE, _append("is hook used?| \n"), r"0_QA\.txt:4: expected question\|answer"),
    Damage("unknown label", _FILE, replace_once("|preparation", "|Preparation"), "'Preparation' is none of"),
    Damage("swapped ids", _FILE, replace_once("?|", "|?"), "is none of|expected question"),
    Damage("hostile file", _FILE, lambda d: d * 2000, "characters are no questions about one frame"),
    Damage("missing picture", f"{_FRAMES}/video01_000003.png", None, "a labelled frame has no picture"),
    Damage("broken picture", f"{_FRAMES}/video01_000001.png", cut_head, "not a picture"),
)
