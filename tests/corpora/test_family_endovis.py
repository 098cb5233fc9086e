"""EndoVis 2017 and 2018 with their questions: counts and words of the reference and of real files, variants
of folder names, and the traps that the reference lists (datasets-a.md 9; datasets-b.md 2, 11, 12, 16).
"""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgr1.bench.cards import all_cards
from surgr1.corpora.adapters._endovis import numbered, sequences
from surgr1.corpora.adapters.endovis17 import tool_of_folder
from surgr1.corpora.datasets import dataset, official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.registry import canonical_video
from surgr1.corpora.sources import Source, open_source, read_frames
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary

REAL = Path(__file__).parents[3] / "shared" / "real-samples"
FAMILY = ("endovis17", "endovis18", "endovis18-vqa", "endovis18-vqla", "endovis17-vqla")
FRAME = re.compile(r"frame(\d+)\.png")


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"no real sample {path}")
    return path


def save(pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def picture(path: Path, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (120, 40, 40)).save(path)


def text(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines, encoding="utf-8")


def read(name: str, root: Path, **kwargs):
    return {(f.video, f.frame): f for f in read_frames(Source(dataset=name, root=root, **kwargs))}


# --- Facts ---


def test_the_papers_counts_fit_the_default_splits() -> None:
    scene = official_split("endovis18")
    train = [v for v, r in scene.items() if r == "train"]
    assert len(train) * 149 == dataset("endovis18").paper_images == 2235
    assert "seq_8" not in scene and {"seq_1", "seq_5", "seq_16"} <= set(train)
    assert sum(r == "train" for r in official_split("endovis17").values()) * 225 == 1800
    for layout in ("endovis18-vqa", "endovis18-vqla"):
        roles = official_split(layout)
        assert {v for v, r in roles.items() if r == "test"} == {"seq_1", "seq_5", "seq_16"}
        assert sorted(int(v[4:]) for v, r in roles.items() if r == "train") == [
            *(2, 3, 4, 6, 7, 9, 10, 11, 12, 14, 15)
        ]
        assert dataset(layout).paper_images == dataset(layout).expected["official/train"] == 1560


def test_the_leak_free_split_shares_nothing_with_the_questions_test_part() -> None:
    asked = {canonical_video("endovis18-vqa", v) for v in ("seq_1", "seq_5", "seq_16")}

    def trained(split: str) -> set[str]:
        roles = official_split("endovis18", split)
        return {canonical_video("endovis18", v) for v, r in roles.items() if r == "train"}

    assert trained("challenge") & asked == asked
    assert not trained("without-vqa-test") & asked and len(trained("without-vqa-test")) == 12


def test_every_named_split_divides_videos_and_folds_are_ternaus() -> None:
    for layout in FAMILY:
        facts = dataset(layout)
        for name, split in facts.splits.items():
            listed = [*split.train, *split.validation, *split.test]
            assert len(set(listed)) == len(listed), (layout, name)
    folds = [[1, 3], [2, 5], [4, 8], [6, 7]]
    for k, validation in enumerate(folds):
        roles = official_split("endovis17", f"fold-{k}")
        assert len(roles) == 8
        assert {v for v, r in roles.items() if r == "validation"} == {
            f"instrument_dataset_{n}" for n in validation
        }


def test_one_operation_has_one_name_and_other_footage_has_another() -> None:
    names = {canonical_video(d, "seq_1") for d in ("endovis18", "endovis18-vqa", "endovis18-vqla")}
    assert names == {"endovis18/1"}
    assert canonical_video("endovis18", "test/seq_1") not in names
    assert (
        canonical_video("endovis17", "instrument_dataset_1")
        == canonical_video("endovis17", "test/instrument_dataset_1")
        == canonical_video("endovis17-vqla", "seq1")
    )
    independent = {canonical_video("endovis17", v): r for v, r in official_split("endovis17").items()}
    # No test sequence continues a training one, so no name was overwritten.
    assert len(independent) == len(official_split("endovis17")) == 10
    # Of EndoVis17-VQLA only sequence 9 is external to the challenge's training part.
    clean = official_split("endovis17-vqla", "without-endovis17-train")
    assert [independent[canonical_video("endovis17-vqla", v)] for v in clean] == ["test"]


def test_vocabularies_agree_with_the_task_cards_and_the_procedures() -> None:
    cards = {c.id: c for c in all_cards()}
    assert cards["endovis17-localization"].labels == vocabulary("endovis17", "tool").names
    assert cards["endovis18-vqa"].labels == vocabulary("endovis18-vqa", "answer").names
    assert set(cards["endovis18-vqla"].labels) == set(vocabulary("endovis18-vqla", "tool").names)
    for layout in FAMILY:
        name = "robotic porcine procedure" if "17" in layout else "robot-assisted nephrectomy"
        procedure = load_procedure(name)
        for kind in ("tool", "tissue"):
            if kind == "tissue" and layout != "endovis18":
                continue
            names = {n for n in vocabulary(layout, kind).names if n != "other"}
            assert not {n for n in names if procedure.entity(n) is None}, (layout, kind)
    verbs = tuple(v.name for v in load_procedure("robot-assisted nephrectomy").verbs)
    assert vocabulary("endovis18-vqa", "verb").names == verbs


# --- EndoVis 2017 ---

FOLDERS = {
    1: "Left_Prograsp_Forceps_labels Maryland_Bipolar_Forceps_labels Other_labels"
    " Right_Prograsp_Forceps_labels",
    3: "Left_Large_Needle_Driver_labels Right_Large_Needle_Driver_labels",
    4: "Large_Needle_Driver_Left_labels Large_Needle_Driver_Right_labels Prograsp_Forceps_labels",
    5: "Bipolar_Forceps_labels Grasping_Retractor_labels Vessel_Sealer_labels",
    6: "Left_Large_Needle_Driver_labels Monopolar_Curved_Scissors_labels Prograsp_Forceps"
    " Right_Large_Needle_Driver_labels",
    7: "Left_Bipolar_Forceps Right_Vessel_Sealer",
    8: "Bipolar_Forceps_labels Left_Grasping_Retractor_labels Monopolar_Curved_Scissors_labels"
    " Right_Grasping_Retractor_labels",
}
"""Verbatim from the real release (datasets-a.md 9.1)."""
TYPES = {
    1: ["prograsp forceps", "bipolar forceps", "other", "prograsp forceps"],
    3: ["large needle driver"] * 2,
    4: ["large needle driver", "large needle driver", "prograsp forceps"],
    5: ["bipolar forceps", "grasping retractor", "vessel sealer"],
    6: ["large needle driver", "monopolar curved scissors", "prograsp forceps", "large needle driver"],
    7: ["bipolar forceps", "vessel sealer"],
    8: ["bipolar forceps", "grasping retractor", "monopolar curved scissors", "grasping retractor"],
}


@pytest.mark.parametrize("sequence", sorted(FOLDERS))
def test_the_real_mask_folders_name_their_instruments(sequence) -> None:
    assert [tool_of_folder(n) for n in FOLDERS[sequence].split()] == TYPES[sequence]


def test_a_mask_folder_of_no_instrument_is_named() -> None:
    with pytest.raises(ValueError, match=r"Left_Spoon_labels.*no known instrument"):
        tool_of_folder("Left_Spoon_labels")


def training_17(root: Path, number: int = 6, archive: str = "instrument_5_8_training") -> Path:
    """Two frames: two needle drivers and one pair of forceps; nothing in the second."""
    sequence = root / archive / f"instrument_dataset_{number}"
    for frame in (0, 1):
        picture(sequence / "left_frames" / f"frame{frame:03d}.png")
        for name, x in (
            ("Left_Large_Needle_Driver_labels", 2),
            ("Right_Large_Needle_Driver_labels", 30),
            ("Prograsp_Forceps", 15),
        ):
            mask = np.zeros((40, 60))
            if frame == 0:
                mask[10:20, x : x + 8], mask[10:14, x : x + 8] = 10, 30
            save(mask, sequence / "ground_truth" / name / f"frame{frame:03d}.png")
    return sequence


def test_instances_come_from_folders_and_a_frame_without_instruments_is_labelled_so(tmp_path) -> None:
    sequence = training_17(tmp_path)
    (sequence / "left_frames" / "._frame000.png").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "__MACOSX" / "instrument_dataset_6" / "ground_truth").mkdir(parents=True)
    frames = read("endovis17", tmp_path)
    first, second = frames["instrument_dataset_6", 0], frames["instrument_dataset_6", 1]
    assert first.labels.tools == ("prograsp forceps", "large needle driver") and first.tool_count == 3
    assert {(b.name, b.xyxy) for b in first.labels.boxes} == {
        ("large needle driver", (2, 10, 10, 20)),
        ("large needle driver", (30, 10, 38, 20)),
        ("prograsp forceps", (15, 10, 23, 20)),
    }
    assert (second.labels.tools, second.labels.boxes, second.tool_count) == ((), (), 0)
    assert second.seconds == 0.5 and second.procedure == "robotic porcine procedure"
    # Two needle drivers: only the forceps can be asked for.
    asked = {q.focus for q in first.ask() if q.task is Task.TOOL_LOCALIZATION}
    assert asked == {"prograsp forceps"}


@pytest.mark.parametrize("gt", ["gt", ""])
@pytest.mark.parametrize("folder", ["TypeSegmentation", "TypeSegmentationRescaled"])
def test_the_test_part_is_read_from_type_masks(tmp_path, gt, folder) -> None:
    training_17(tmp_path)
    types = np.zeros((40, 60))
    types[0:10, 0:10] = types[0:10, 40:50] = 6
    types[20:40, 20:40] = 7
    masks = tmp_path / "instrument_2017_test/instrument_2017_test/instrument_dataset_9" / gt / folder
    scaled = types * 32 if folder.endswith("Rescaled") else types
    save(np.repeat(scaled[..., None], 3, axis=2), masks / "frame000.png")
    picture(tmp_path / "instrument_9_10_testing/instrument_dataset_9/left_frames/frame000.png")
    frame = read("endovis17", tmp_path)["test/instrument_dataset_9", 0]
    assert frame.role == "test" and frame.tool_count is None
    assert frame.labels.tools == ("monopolar curved scissors", "other")
    assert sorted(b.xyxy for b in frame.labels.boxes) == [(0, 0, 10, 10), (20, 20, 40, 40), (40, 0, 50, 10)]
    assert frame.image == "instrument_9_10_testing/instrument_dataset_9/left_frames/frame000.png"


def test_values_of_the_test_parts_are_refused_in_the_training_part(tmp_path) -> None:
    sequence = training_17(tmp_path)
    mask = np.zeros((40, 60))
    mask[5:9, 5:9] = 100
    save(mask, sequence / "ground_truth" / "Prograsp_Forceps" / "frame001.png")
    with pytest.raises(LabelError, match=r"frame 1: .*frame001\.png: values \[100\]"):
        read("endovis17", tmp_path)
    rejects = Rejects(strict=False)
    kept = list(read_frames(Source(dataset="endovis17", root=tmp_path), rejects))
    assert [f.frame for f in kept] == [0] and len(rejects.rows) == 1


def test_masks_are_read_without_any_picture_and_every_second_frame_can_be_taken(tmp_path) -> None:
    sequence = training_17(tmp_path)
    for path in (sequence / "left_frames").iterdir():
        path.unlink()
    (sequence / "left_frames").rmdir()
    assert [f.size for f in read("endovis17", tmp_path, images="skip").values()] == [(60, 40)] * 2
    assert list(read("endovis17", tmp_path, images="skip", every=2)) == [("instrument_dataset_6", 0)]
    with pytest.raises(LayoutError, match="no such folder of pictures"):
        read("endovis17", tmp_path)


def test_a_test_sequence_without_masks_and_a_sequence_unpacked_twice_are_told(tmp_path) -> None:
    training_17(tmp_path)
    (tmp_path / "instrument_1_4_testing/instrument_dataset_1/left_frames").mkdir(parents=True)
    # Without any test masks the test part is simply not there.
    assert {v for v, _ in read("endovis17", tmp_path)} == {"instrument_dataset_6"}
    (tmp_path / "instrument_2017_test/instrument_dataset_9/TypeSegmentation").mkdir(parents=True)
    with pytest.raises(LabelError, match="instrument_dataset_1: a test sequence without TypeSegmentation"):
        read("endovis17", tmp_path)
    training_17(tmp_path, archive="copy")
    with pytest.raises(LayoutError, match="sequence 6 is there twice"):
        read("endovis17", tmp_path)


# --- EndoVis 2018, scene ---

COLOURS = {
    "shaft": (0, 255, 0),
    "clasper": (0, 255, 255),
    "wrist": (125, 255, 12),
    "kidney": (255, 55, 0),
    "intestine": (124, 155, 5),
    "suction": (123, 15, 175),
}


def scene_18(folder: Path, frame: int = 0) -> None:
    """One instrument of three parts, a second one apart, a suction tube, kidney, and a speck of intestine."""
    mask = np.zeros((40, 60, 3))
    mask[25:40, 0:60] = COLOURS["kidney"]
    mask[2:12, 0:10], mask[2:12, 10:14], mask[2:12, 14:20] = (
        COLOURS["shaft"],
        COLOURS["wrist"],
        COLOURS["clasper"],
    )
    mask[2:12, 50:60] = COLOURS["clasper"]
    mask[14:22, 30:38] = COLOURS["suction"]
    mask[0, 25:30] = COLOURS["intestine"]
    save(mask, folder / "labels" / f"frame{frame:03d}.png")
    picture(folder / "left_frames" / f"frame{frame:03d}.png")


@pytest.mark.parametrize(
    "place",
    [
        "seq_5",
        "train/seq_5",
        "miccai_challenge_release_2/seq_5",
        "miccai_challenge_release_2/miccai_challenge_release_2/seq_5",
    ],
)
def test_parts_make_one_instrument_and_components_make_boxes(tmp_path, place) -> None:
    scene_18(tmp_path / place)
    ((key, frame),) = read("endovis18", tmp_path).items()
    assert key == ("seq_5", 0) and frame.image == f"{place}/left_frames/frame000.png"
    assert frame.labels.tools == ("robotic instrument", "suction")
    # Five pixels of intestine are no component.
    assert frame.labels.tissues == ("kidney parenchyma",)
    assert [(b.name, b.xyxy) for b in frame.labels.boxes] == [
        ("robotic instrument", (0, 2, 20, 12)),
        ("robotic instrument", (50, 2, 60, 12)),
        ("suction", (30, 14, 38, 22)),
        ("kidney parenchyma", (0, 25, 60, 40)),
    ]
    assert frame.tool_count is None


@pytest.mark.parametrize("test", ["test_data", "test"])
def test_the_test_part_keeps_its_own_name(tmp_path, test) -> None:
    scene_18(tmp_path / "miccai_challenge_2018_release_1" / "seq_1")
    scene_18(tmp_path / test / "seq_1", 200)
    frames = read("endovis18", tmp_path)
    assert {k: f.role for k, f in frames.items()} == {("seq_1", 0): "train", ("test/seq_1", 200): "test"}


def test_a_test_part_over_the_training_part_is_noticed_in_a_real_listing(tmp_path) -> None:
    listing = json.loads(real("endovis18-scene/image_mapping.json").read_text(encoding="utf-8"))
    for row in listing.values():
        path = tmp_path / row["source_path"].removeprefix("EndoVis2018/data/images/")
        for folder in (path.parent, path.parent.parent / "labels"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / path.name).touch()
    found = sequences(tmp_path)
    count = {v: len(numbered(f / "left_frames", FRAME, Rejects())) for v, f in found.items()}
    # 149 AppleDouble files in each of seq_1 to seq_4 are no frames.
    over = {v: n for v, n in count.items() if n != 149}
    assert over == {"seq_1": 250, "seq_2": 249, "seq_3": 250, "seq_4": 250}
    with pytest.raises(LayoutError, match=r"seq_1: frame 249, but training sequences end at frame 148"):
        read("endovis18", tmp_path)
    for video in ("seq_1", "seq_2", "seq_3", "seq_4"):
        for path in (found[video] / "labels").iterdir():
            if (m := FRAME.fullmatch(path.name)) and int(m[1]) > 148:
                path.unlink()
    tree = open_source(Source(dataset="endovis18", root=tmp_path), Rejects())
    labels = sum(len(numbered(found[v] / "labels", FRAME, Rejects())) for v in tree.videos)
    assert (len(tree.videos), labels) == (15, 2235)


def test_repaired_masks_go_before_those_of_the_release(tmp_path) -> None:
    scene_18(tmp_path / "seq_1", 42)
    fixed = np.zeros((40, 60, 3))
    fixed[0:20, 0:20] = COLOURS["suction"]
    save(fixed, tmp_path / "repairs" / "seq_1_frame042.png")
    frame = read("endovis18", tmp_path)["seq_1", 42]
    assert frame.labels.tools == ("suction",) and frame.image == "seq_1/left_frames/frame042.png"
    save(fixed, tmp_path / "repairs" / "seq_1_frame043.png")
    with pytest.raises(LabelError, match=r"seq_1_frame043\.png: a repaired mask of no frame"):
        read("endovis18", tmp_path)


def test_a_colour_of_no_class_is_told_and_the_other_frames_are_read(tmp_path) -> None:
    scene_18(tmp_path / "seq_1", 0)
    scene_18(tmp_path / "seq_1", 1)
    path = tmp_path / "seq_1/labels/frame000.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = (0, 254, 0)
    save(mask, path)
    rejects = Rejects(strict=False)
    assert [f.frame for f in read_frames(Source(dataset="endovis18", root=tmp_path), rejects)] == [1]
    assert "1 pixels of a colour that is no class, such as (0, 254, 0)" in rejects.rows[0].reason


def test_both_forms_of_the_class_list_are_compared(tmp_path) -> None:
    scene_18(tmp_path / "release" / "seq_1")
    path = tmp_path / "release" / "labels.json"
    row = {"name": "intestine", "color": [124, 155, 5, 128], "classid": 10, "active": True}
    for body in ({"classes": [row]}, [row]):
        text(path, json.dumps(body))
        assert len(read("endovis18", tmp_path)) == 1
    text(path, json.dumps([row | {"name": "covered-kidney"}]))
    with pytest.raises(LabelError, match=r"covered-kidney has colour .* expected \(24, 55, 125\)"):
        read("endovis18", tmp_path)


# --- Questions ---


def test_the_real_training_frames_give_the_published_numbers(tmp_path) -> None:
    """The public text of all training frames, as question files: 1,560 frames, 9,014 questions, the counts of
    tools and states that the reference derived.
    """
    lines = real("endovis18-vqa/consolidate0.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.startswith("what organ")]
    answers = vocabulary("endovis18-vqa", "answer").native
    native = {a.lower().replace("_", " "): a for a in answers}
    for number, line in enumerate(lines):
        rows = ["What organ is being operated?|kidney"]
        for tool, state in re.findall(
            r"state of ([\w ]+)\? action done by [\w ]+? is ([\w ]+?)(?= what| where)", line
        ):
            rows.append(f"What is the state of {tool.replace(' ', '_')}?|{native[state]}")
        for tool, place in re.findall(r"where is ([\w ]+) located\? [\w ]+ is located at ([\w-]+)", line):
            rows.append(f"Where is {tool.replace(' ', '_')} located?|{place}")
        text(
            tmp_path / f"seq_{(2, 3)[number % 2]}/vqa/Classification/frame{number:04d}_QA.txt",
            "\n".join(rows),
        )
    frames = read("endovis18-vqa", tmp_path, images="skip")
    assert len(frames) == 1560 and sum(len(f.questions) for f in frames.values()) == 9014
    tools = Counter(t for f in frames.values() for t in f.labels.tools)
    assert tools == {
        "bipolar forceps": 1321,
        "monopolar curved scissors": 1093,
        "prograsp forceps": 736,
        "suction": 154,
        "ultrasound probe": 141,
        "stapler": 131,
        "large needle driver": 120,
        "clip applier": 31,
    }
    given = Counter(a for f in frames.values() for q, a in f.questions)
    assert {k: given[k] for k in ("kidney", "idle", "tissue manipulation", "staple", "left-top")} == {
        "kidney": 1560,
        "idle": 1641,
        "tissue manipulation": 707,
        "staple": 13,
        "left-top": 1507,
    }


def test_the_words_added_to_the_real_vqla_tokenizer_are_words_of_these_vocabularies() -> None:
    added = json.loads(real("endovis-vqla/added_tokens.v3.json").read_text(encoding="utf-8"))
    known = {
        word
        for kind in ("tool", "answer")
        for name in vocabulary("endovis18-vqla", kind).names
        for word in name.split()
    }
    assert set(added) <= known and len(added) == 15


VQA = """What organ is being operated?|kidney
What is the state of suction?|Suction
Where is suction located?|left-top
"""


@pytest.mark.parametrize("left", ["left_frames", "left_fr"])
def test_questions_keep_their_words_and_answers_are_canonical(tmp_path, left) -> None:
    text(tmp_path / "EndoVis-18-VQA/seq_2/vqa/Classification/frame052_QA.txt", f"{VQA}\r\n\n")
    picture(tmp_path / f"EndoVis-18-VQA/seq_2/{left}/frame052.png")
    picture(tmp_path / f"EndoVis-18-VQA/seq_2/{left}/frame053.png")
    ((key, frame),) = read("endovis18-vqa", tmp_path).items()
    assert key == ("seq_2", 52) and frame.image == f"EndoVis-18-VQA/seq_2/{left}/frame052.png"
    assert frame.labels.tools == ("suction",) and frame.labels.verbs == ("suction",)
    assert frame.labels.boxes is None and frame.labels.tissues is None
    assert frame.questions == (
        ("What organ is being operated?", "kidney"),
        ("What is the state of suction?", "suction"),
        ("Where is suction located?", "left-top"),
    )
    # The answer is as given: no quadrant is derived.
    assert {q.task for q in frame.ask()} == {Task.TOOL_RECOGNITION, Task.SURGICAL_VQA}


def test_pictures_come_from_the_challenges_folder_and_its_absence_is_told(tmp_path) -> None:
    text(tmp_path / "vqa/seq_7/vqa/Classification/frame003_QA.txt", VQA)
    with pytest.raises(
        LayoutError, match="pictures of endovis18-vqa are those of the EndoVis 2018 challenge"
    ):
        read("endovis18-vqa", tmp_path / "vqa")
    assert read("endovis18-vqa", tmp_path / "vqa", images="skip")["seq_7", 3].size == (1280, 1024)
    folder = tmp_path / "challenge/miccai_challenge_release_2/seq_7/left_frames"
    picture(folder / "frame003.png")
    # Test sequences of the same name are other footage.
    picture(tmp_path / "challenge/test_data/seq_7/left_frames/frame003.png", (8, 8))
    frame = read("endovis18-vqa", tmp_path / "vqa", pictures=tmp_path / "challenge")["seq_7", 3]
    assert frame.image == "miccai_challenge_release_2/seq_7/left_frames/frame003.png"
    assert frame.size == (60, 40)


BAD = [
    (VQA.replace("|Suction", "|suction"), "'suction' is no answer to 'What is the state of suction"),
    (VQA.replace("left-top", "top-left"), "'top-left' is no answer"),
    (VQA.replace("|kidney", "|Idle"), "'Idle' is no answer to 'What organ"),
    (VQA.replace("Where is suction", "Where is Suction"), "no tool 'Suction'"),
    (VQA.replace("|left-top", ""), "line 3: expected question"),
    (VQA.partition("\n")[2], "question about the organ is missing"),
    (VQA.rpartition("Where")[0], "only one of state and place is asked of suction"),
    (VQA + "Where is suction located?|left-bottom", "'Where is suction located.' stands twice"),
    ("\n\n", "no question"),
]


@pytest.mark.parametrize(("lines", "message"), BAD)
def test_a_frame_whose_questions_are_not_whole_is_rejected(tmp_path, lines, message) -> None:
    text(tmp_path / "seq_2/vqa/Classification/frame001_QA.txt", lines)
    text(tmp_path / "seq_2/vqa/Classification/frame002_QA.txt", VQA)
    with pytest.raises(LabelError, match=f"frame001_QA.txt: .*{message}"):
        read("endovis18-vqa", tmp_path, images="skip")
    rejects = Rejects(strict=False)
    source = Source(dataset="endovis18-vqa", root=tmp_path, images="skip")
    assert [f.frame for f in read_frames(source, rejects)] == [2] and len(rejects.rows) == 1


VQLA = """What organ is being operated?|kidney|1, 1, 1280, 1024
What is the state of suction?|Idle|641,513,1280,1024
Where is suction located?|right-bottom|1280, 1024, 641, 513
"""


@pytest.mark.parametrize("place", ["vqla/label", "vqla"])
def test_boxes_count_from_one_on_1280_x_1024_and_follow_a_resized_picture(tmp_path, place) -> None:
    text(tmp_path / f"seq_5/{place}/frame010_QA.txt", VQLA)
    picture(tmp_path / "seq_5/left_frames/frame010.png", (640, 512))
    frame = read("endovis18-vqla", tmp_path)["seq_5", 10]
    # Corners the wrong way round are the same box.
    assert [(b.name, b.xyxy) for b in frame.labels.boxes] == [
        ("kidney", (0, 0, 640, 512)),
        ("suction", (320, 256, 640, 512)),
    ]
    assert frame.role == "test" and frame.labels.tissues == ("kidney",)
    answers = {(q.task, q.focus): q.answer for q in frame.ask() if q.focus}
    assert answers == {
        (Task.TOOL_LOCALIZATION, "suction"): "(320,256),(640,512)",
        (Task.TISSUE_LOCALIZATION, "kidney"): "(0,0),(640,512)",
    }


def test_extended_questions_are_kept_apart_and_ambiguous_ones_rejected(tmp_path) -> None:
    extended = "What is the tool in the left bottom?|{}|1, 1, 300, 300\n"
    path = tmp_path / "seq_5/vqla/label/frame010_QA.txt"
    text(path, VQLA + extended.format("suction"))
    frame = read("endovis18-vqla", tmp_path, images="skip")["seq_5", 10]
    assert ("What is the tool in the left bottom?", "suction") in frame.questions
    # The family contradicts "Where is ...?" (12.5): it adds no box.
    assert [b.name for b in frame.labels.boxes] == ["kidney", "suction"]
    text(path, VQLA + extended.format("suction") + extended.format("stapler"))
    rejects = Rejects(strict=False)
    source = Source(dataset="endovis18-vqla", root=tmp_path, images="skip")
    (frame,) = read_frames(source, rejects)
    assert len(frame.questions) == 3 and "several answers: stapler, suction" in rejects.rows[0].reason


@pytest.mark.parametrize("place", ["vqla/label", "vqla", "EndoVis-17-VQLA/vqla/label"])
def test_the_2017_questions_are_grouped_by_sequence_and_are_external(tmp_path, place) -> None:
    top = "EndoVis-17-VQLA/" if place.startswith("E") else ""
    lines = VQLA.partition("\n")[2]
    for name in ("seq9_frame100", "seq1_frame030", "seq1_frame015"):
        text(tmp_path / place / f"{name}.txt", lines)
        picture(tmp_path / f"{top}left_frames/{name}.jpg", (1280, 1024))
    frames = read("endovis17-vqla", tmp_path)
    assert list(frames) == [("seq1", 15), ("seq1", 30), ("seq9", 100)]
    frame = frames["seq1", 15]
    assert frame.seconds == 7.5 and frame.role == "test"
    assert frame.image == f"{top}left_frames/seq1_frame015.jpg"
    assert frame.labels.tissues is None and len(frame.questions) == 2
    picture(tmp_path / f"{top}left_frames/seq9_frame101.jpg")
    with pytest.raises(LabelError, match=r"seq9_frame101\.jpg: a picture without its label"):
        read("endovis17-vqla", tmp_path)


@pytest.mark.parametrize("layout", FAMILY)
def test_another_folder_is_refused_with_what_was_looked_for_and_found(tmp_path, layout) -> None:
    (tmp_path / "holiday").mkdir()
    with pytest.raises(LayoutError, match=r"not an .* tree: expected .*; found holiday"):
        read(layout, tmp_path)
