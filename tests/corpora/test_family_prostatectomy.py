"""GraSP, PSI-AVA-VQA (with PSI-AVA's annotations) and SAR-RARP50: facts of the reference, PSI-AVA's real
files, hand-made trees with the documented traps. Round trips and damages are in
tests/simulator/test_verify.py.
"""

import csv
import json
import re
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surgr1.corpora.adapters import _bogota as bogota
from surgr1.corpora.adapters import psi_ava_vqa, sar_rarp50
from surgr1.corpora.datasets import dataset, official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.questions import Frame
from surgr1.corpora.registry import canonical_video
from surgr1.corpora.sources import Source, read_frames
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary

PSI_AVA_CASES = {1, 2, 3, 4, 7, 14, 15, 21}


def frames(name: str, root: Path, rejects: Rejects | None = None, **kwargs: Any) -> list[Frame]:
    return list(read_frames(Source(dataset=name, root=root, **kwargs), rejects))


def picture(path: Path, size: tuple[int, int] = (64, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 40, 40)).save(path)


def write_json(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")


# --- Facts ---


def test_grasp_and_psi_ava_agree_on_names_and_differ_in_action_ids() -> None:
    """datasets-b.md 6.3: GraSP id -> PSI-AVA id of the same name; 14 has none."""
    table = {1: 1, 2: 2, 3: 4, 4: 5, 5: 6, 6: 7, 7: 8, 8: 9, 9: 10, 10: 11, 11: 13, 12: 14, 13: 15}
    grasp, psi = vocabulary("grasp", "verb"), vocabulary("psi-ava-vqa", "verb")
    assert (len(grasp.names), len(psi.names)) == (14, 16)
    assert {grasp.ids[n]: psi.ids[n] for n in grasp.names if n in psi.ids} == table
    assert grasp.ids["other"] == 14
    for kind, count in (("tool", 7), ("phase", 11), ("step", 21)):
        assert vocabulary("grasp", kind).names == vocabulary("psi-ava-vqa", kind).names
        assert len(vocabulary("grasp", kind).names) == count


def test_english_and_spanish_names_pair_as_in_the_reference() -> None:
    pairs = {
        ("phase", 1): ("LPIL", "LPAI"),
        ("phase", 2): ("RPIL", "LPAD"),
        ("phase", 6): ("Seminal_Vesicles", "Vesículas_Seminales"),
        ("phase", 10): ("Bladder_Neck_Rec", "Rec_Cuello_Vesical"),
        ("step", 6): ("Ligation_Dorsal_Venous_Complex", "Pasar_Aguja_Cvdp"),
        ("step", 20): ("Clip_Pedicles", "Clip_Pediculos"),
    }
    for (kind, number), names in pairs.items():
        assert tuple(vocabulary(d, kind).native[number] for d in ("grasp", "psi-ava-vqa")) == names


def test_the_procedure_describes_all_that_the_three_datasets_label() -> None:
    known = load_procedure("robot-assisted radical prostatectomy")
    for name in ("grasp", "psi-ava-vqa"):
        assert set(vocabulary(name, "tool").names) <= {t.name for t in known.tools}
        assert {p.name for p in known.phases} == set(vocabulary(name, "phase").names)
        assert {p.name for p in known.steps} == set(vocabulary(name, "step").names)
    assert {a.name for a in known.actions} == set(vocabulary("sar-rarp50", "action").names)
    assert set(sar_rarp50.TOOLS) <= {t.name for t in known.tools}
    # Tools that the simulated needle work uses, and the statements are read by.
    assert {"needle driver", "grasper", "scissors", "suction"} <= {t.name for t in known.tools}


def test_grasps_training_operations_are_psi_avas() -> None:
    grasp = official_split("grasp")
    assert Counter(grasp.values()) == {"train": 8, "test": 5}
    shared = {canonical_video("psi-ava-vqa", v) for v in official_split("psi-ava-vqa")}
    assert shared == {canonical_video("grasp", v) for v, role in grasp.items() if role == "train"}
    assert {int(v[4:]) for v in official_split("psi-ava-vqa")} == PSI_AVA_CASES
    assert canonical_video("grasp", "CASE041") not in shared
    fold = official_split("psi-ava-vqa", "fold1")
    assert {v for v, role in fold.items() if role == "validation"} == {
        "CASE002",
        "CASE003",
        "CASE007",
        "CASE021",
    }
    assert {v: r != "train" for v, r in official_split("grasp", "fold2").items()} == {
        v: r == "train" for v, r in fold.items()
    }


def test_expected_counts_are_the_papers() -> None:
    assert dataset("grasp").expected["official/train"] == dataset("grasp").paper_images == 73_618
    assert dataset("psi-ava-vqa").expected["fold1/train"] == dataset("psi-ava-vqa").paper_images == 1_226


def test_sar_rarp50_has_forty_and_ten_operations_and_keeps_halves_together() -> None:
    assert Counter(official_split("sar-rarp50").values()) == {"train": 40, "test": 10}
    assert len([r for r in official_split("sar-rarp50", "train1").values() if r == "train"]) == 13
    for number in (11, 15, 17, 29):
        halves = {canonical_video("sar-rarp50", f"video_{number}_{k}") for k in (1, 2)}
        assert halves == {canonical_video("sar-rarp50", f"video_{number}")}


# --- PSI-AVA's real files ---


@pytest.fixture(scope="module")
def psi_ava(real_samples: Path) -> Path:
    return real_samples / "psi-ava"


def test_real_classes_are_the_vocabularies(psi_ava: Path) -> None:
    for name, kind in (("ACTIONS", "verb"), ("PHASES", "phase"), ("STEPS", "step"), ("TOOLS", "tool")):
        text = (psi_ava / "fold1" / f"surgery_{name}_list.pbtxt.txt").read_text(encoding="utf-8")
        found = re.findall(r'name: "(.+)"\s+label_id: (\d+)', text)
        words = vocabulary("psi-ava-vqa", kind)
        assert {n: int(i) for n, i in found} == {n: words.first_id + k for k, n in enumerate(words.native)}


def test_real_annotations_have_the_published_counts(psi_ava: Path) -> None:
    """datasets-b.md 0.2: frames with a box and boxes of fold 1; 5.2: the first lines; 4.3: action sets."""
    read = frames("psi-ava-vqa", psi_ava, images="skip")
    roles = Counter(f.role for f in read)
    assert roles == {"train": 1226, "validation": 1018}
    assert sum(len(f.labels.boxes or ()) for f in read if f.role == "train") == 3181
    assert sum(f.tool_count or 0 for f in read if f.role == "validation") == 2623
    first = next(f for f in read if (f.video, f.frame) == ("CASE015", 211))
    assert first.labels.phase == first.labels.step == "idle"
    boxes = {b.name: b.xyxy for b in first.labels.boxes or ()}
    assert boxes["monopolar curved scissors"] == pytest.approx((454.79, 234.92, 1280, 568.08), abs=0.01)
    assert first.labels.verbs == ("push", "still") and first.seconds == 211.0
    for video in {f.video for f in read}:
        times = [f.frame for f in read if f.video == video]
        assert times == sorted(set(times))
    assert len(frames("psi-ava-vqa", psi_ava, images="skip", every=10)) < len(read) / 9


def test_real_tables_and_json_say_the_same(psi_ava: Path, tmp_path: Path) -> None:
    (tmp_path / "fold1").mkdir()
    for half in ("train", "val"):
        (tmp_path / "fold1" / f"{half}.csv").symlink_to(psi_ava / "fold1" / f"{half}.csv")
    ours = {(f.video, f.frame): f for f in frames("psi-ava-vqa", tmp_path, images="skip")}
    theirs = {(f.video, f.frame): f for f in frames("psi-ava-vqa", psi_ava, images="skip")}
    assert ours.keys() == theirs.keys()
    for key, frame in ours.items():
        one, two = frame.labels, theirs[key].labels
        assert (one.phase, one.step, one.tools, one.verbs) == (two.phase, two.step, two.tools, two.verbs)
        corners = [[c for b in labels.boxes or () for c in b.xyxy] for labels in (one, two)]
        assert corners[0] == pytest.approx(corners[1], abs=0.01)


def test_questions_made_of_the_real_boxes_are_read_and_counted(psi_ava: Path, tmp_path: Path) -> None:
    """One place per box (datasets-b.md 4.3: 5,804), phase and step per image; the verbatim line of 4.2."""
    lines: dict[tuple[str, str], list[str]] = {}
    for half, part in (("train", "Train"), ("val", "Val")):
        rows = list(csv.reader((psi_ava / "fold1" / f"{half}.csv").read_text().splitlines()))
        activity = {}
        for case, second, _, x1, y1, x2, y2, *_, tool, step, phase in rows:
            file = f"{case}/{int(second):05d}.jpg"
            native = vocabulary("psi-ava-vqa", "tool").native[int(tool) - 1]
            side = "left" if (float(x1) + float(x2)) / 2 < 0.5 else "right"
            height = "top" if (float(y1) + float(y2)) / 2 < 0.5 else "bottom"
            question = f"{file}|Where is the {native} located ?|{height} {side}"
            lines.setdefault((part, "C1_location"), []).append(question)
            activity[file] = int(phase), int(step)
        for kind, at in (("C3_phase", 0), ("C4_step", 1)):
            names = vocabulary("psi-ava-vqa", kind[3:]).native
            lines[part, kind] = [f"{f}|What is it ?|{names[a[at]]}" for f, a in activity.items()]
            lines[part, kind] = [line.replace("it ?", f"{kind[3:]} ?") for line in lines[part, kind]]
    for (part, kind), text in lines.items():
        (tmp_path / part).mkdir(exist_ok=True)
        (tmp_path / part / f"{kind}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    assert sum(len(v) for v in lines.values()) == 10_292
    assert "CASE021/00001.jpg|Where is the Bipolar Forceps located ?|top left" in lines["Val", "C1_location"]
    (tmp_path / "psi-ava").symlink_to(psi_ava)
    read = frames("psi-ava-vqa", tmp_path, images="skip")
    assert Counter(f.role for f in read) == {"train": 1226, "validation": 1018}
    places = sum(a in psi_ava_vqa.PLACES for f in read for _, a in f.questions)
    # 5,375 different (image, instrument) pairs, 412 of which lie in two quadrants.
    assert places == 5375 - 412
    one = next(f for f in read if (f.video, f.frame) == ("CASE021", 1))
    assert ("Where is the Bipolar Forceps located ?", "top left") in one.questions
    samples = {s.sample_id for f in read[:300] for s in f.samples()}
    assert len(samples) == sum(len(f.ask()) for f in read[:300])


# --- PSI-AVA-VQA by hand ---


def psi_tree(root: Path, **text: str) -> Path:
    """A tree of questions alone. `text`: file without ending -> its lines for Train."""
    for part in ("Train", "Val"):
        (root / part).mkdir(parents=True)
        for kind in ("C1_location", "C3_phase", "C4_step"):
            (root / part / f"{kind}.txt").write_text(text.get(kind, "") if part == "Train" else "", "utf-8")
    return root


def test_answers_are_kept_verbatim_and_phase_and_step_are_labels_too(tmp_path: Path) -> None:
    phase = unicodedata.normalize("NFD", "CASE001/00012.jpg|Phase | now?|Vesículas_Seminales\r\n")
    root = psi_tree(tmp_path, C3_phase=phase, C4_step="CASE001/00012.jpg|Step?|Tiempo_muerto\n")
    (frame,) = frames("psi-ava-vqa", root, images="skip")
    # Split at the first and the last bar; the accent may come as a letter of its own.
    assert frame.questions == (("Phase | now?", "Vesículas_Seminales"), ("Step?", "Tiempo_muerto"))
    assert (frame.labels.phase, frame.labels.step) == ("seminal vesicles", "idle")
    assert frame.labels.tools is None and frame.tool_count is None
    assert {q.task for q in frame.ask()} == {Task.SURGICAL_VQA, Task.PHASE_RECOGNITION, Task.STEP_RECOGNITION}


def test_a_place_asked_twice_counts_once_or_if_answers_differ_not_at_all(tmp_path: Path) -> None:
    lines = [
        ("Bipolar Forceps", "top left"),
        ("Bipolar Forceps", "top left"),
        ("Clip Applier", "top left"),
        ("Clip Applier", "top right"),
    ]
    text = "".join(f"CASE004/00001.jpg|Where is the {t} located ?|{p}\n" for t, p in lines)
    (frame,) = frames("psi-ava-vqa", psi_tree(tmp_path, C1_location=text), images="skip")
    assert frame.questions == (("Where is the Bipolar Forceps located ?", "top left"),)


def test_action_questions_are_read_where_the_file_is_there(tmp_path: Path) -> None:
    psi_tree(tmp_path)
    line = "CASE021/00001.jpg|What do they do?|Hold, Pull\n"
    (tmp_path / "Val" / "C2_action.txt").write_text(line)
    (frame,) = frames("psi-ava-vqa", tmp_path, images="skip")
    assert frame.questions == (("What do they do?", "Hold, Pull"),) and frame.role == "validation"


def test_a_case_in_the_other_half_and_unknown_answers_are_rejected_one_by_one(tmp_path: Path) -> None:
    text = (
        "CASE021/00001.jpg|Where is the Clip Applier located ?|top left\n"
        "CASE001/00001.jpg|Where is the Clip Applier located ?|top-left\n"
        "CASE001/00002.jpg|Where is the Clip Applier located ?|top left\n"
    )
    phases = "CASE001/00002.jpg|Phase?|LPAI\nCASE001/00002.jpg|Phase?|LPAD\n"
    root = psi_tree(tmp_path, C1_location=text, C3_phase=phases)
    rejects = Rejects(strict=False)
    assert [f.frame for f in frames("psi-ava-vqa", root, rejects, images="skip")] == [1, 2]
    found = [r.reason for r in rejects.rows]
    assert len(found) == 3
    assert "CASE021 is not in Train" in found[0] and "'top-left' is none of" in found[1]
    assert "another line says lpil" in found[2]
    with pytest.raises(LabelError, match=r"C1_location\.txt:1: CASE021"):
        frames("psi-ava-vqa", root, images="skip")


def test_pictures_may_lie_in_grasps_tree(tmp_path: Path) -> None:
    root = psi_tree(tmp_path / "questions", C3_phase="CASE001/00002.jpg|Phase?|LPAI\n")
    with pytest.raises(LayoutError, match=r"keyframes.*GraSP_1fps.*pictures"):
        frames("psi-ava-vqa", root)
    picture(tmp_path / "GraSP" / "GraSP_1fps" / "frames" / "CASE001" / "00002.jpg")
    (frame,) = frames("psi-ava-vqa", root, pictures=tmp_path)
    assert frame.image == "GraSP/GraSP_1fps/frames/CASE001/00002.jpg" and frame.size == (64, 40)
    assert (tmp_path / frame.image).is_file()


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Train").mkdir()
    (tmp_path / "Train" / "C1_location.txt").write_text("")
    with pytest.raises(LayoutError, match=r"without Train/C3_phase\.txt"):
        frames("psi-ava-vqa", tmp_path)
    (tmp_path / "other" / "labels").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"not a PSI-AVA-VQA tree.*found labels"):
        frames("psi-ava-vqa", tmp_path / "other")


# --- GraSP by hand ---


def grasp_files(folder: Path, part: str, cases: dict[str, list[int]], **row: Any) -> None:
    """Long- and short-term files of one part; every picture has one box."""
    size = {"width": 1280, "height": 800}
    images = [
        {"id": k + 1, "file_name": f"{c}/{s:05d}.jpg"} | size
        for k, (c, s) in enumerate((c, s) for c, seconds in cases.items() for s in seconds)
    ]
    named = [{"id": i["id"], "image_id": i["id"], "image_name": i["file_name"]} for i in images]
    long = [n | {"phases": 0, "steps": 20} for n in named]
    box = {"category_id": 4, "actions": [3, 14], "bbox": [128, 80, 640, 400]} | row
    write_json(folder / f"grasp_long-term_{part}.json", {"images": images, "annotations": long})
    short = {"images": images, "annotations": [n | box for n in named], "actions_categories": []}
    write_json(folder / f"grasp_short-term_{part}.json", short)


def test_ids_restart_in_every_file_and_names_decide(tmp_path: Path) -> None:
    labels = tmp_path / "GraSP_1fps" / "annotations"
    grasp_files(labels, "train", {"CASE001": [1, 0]})
    grasp_files(labels, "test", {"CASE041": [7]})
    for name in ("CASE001/00000", "CASE001/00001", "CASE041/00007"):
        picture(tmp_path / "GraSP_1fps" / "frames" / f"{name}.jpg")
    read = frames("grasp", tmp_path)
    assert [(f.video, f.frame, f.role) for f in read] == [
        ("CASE001", 0, "train"),
        ("CASE001", 1, "train"),
        ("CASE041", 7, "test"),
    ]
    labels_read = read[2].labels
    # Phase 0 is Idle: ids count from 0; instruments and actions from 1.
    assert (labels_read.phase, labels_read.step) == ("idle", "clip pedicles")
    assert labels_read.tools == ("monopolar curved scissors",) and labels_read.verbs == ("cut", "other")
    # Boxes follow a picture that was stored smaller than the labels say.
    assert [b.xyxy for b in labels_read.boxes or ()] == [pytest.approx((6.4, 4.0, 38.4, 24.0))]
    assert read[2].tool_count == 1


@pytest.mark.parametrize("place", ["GraSP/GraSP_1fps", "GraSP_1fps", "."])
def test_the_tree_is_found_under_its_own_name_above_it_and_inside(tmp_path: Path, place: str) -> None:
    grasp_files(tmp_path / place / "annotations", "test", {"CASE053": [3]})
    picture(tmp_path / place / "frames" / "CASE053" / "00003.jpg")
    (frame,) = frames("grasp", tmp_path)
    assert (tmp_path / frame.image).is_file()


def test_the_folds_stand_in_for_the_training_file_and_are_not_read_twice(tmp_path: Path) -> None:
    labels = tmp_path / "annotations"
    grasp_files(labels, "fold1", {"CASE001": [1]})
    grasp_files(labels, "fold2", {"CASE002": [1]})
    assert [f.video for f in frames("grasp", tmp_path, images="skip")] == ["CASE001", "CASE002"]
    grasp_files(labels, "train", {"CASE001": [1], "CASE002": [1, 2]})
    assert len(frames("grasp", tmp_path, images="skip")) == 3


def test_the_picture_past_the_end_of_case_1_is_left_out(tmp_path: Path) -> None:
    grasp_files(tmp_path / "annotations", "train", {"CASE001": [10971, 10972]})
    body = json.loads((tmp_path / "annotations" / "grasp_short-term_train.json").read_text())
    body["images"], body["annotations"] = body["images"][:1], body["annotations"][:1]
    write_json(tmp_path / "annotations" / "grasp_short-term_train.json", body)
    assert [f.frame for f in frames("grasp", tmp_path, images="skip")] == [10971]


def test_the_thirty_fps_tree_alone_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    grasp_files(tmp_path / "GraSP_30fps" / "annotations", "train", {"CASE001": [1]})
    with pytest.raises(LayoutError, match="get GraSP_1fps"):
        frames("grasp", tmp_path)
    with pytest.raises(ValueError, match="30-fps tree"):
        bogota.parse_name("CASE001/000000068.jpg")


def test_a_frame_with_a_bad_box_is_left_out_whole_and_the_others_are_read(tmp_path: Path) -> None:
    grasp_files(tmp_path / "annotations", "train", {"CASE001": [1, 2, 3]})
    path = tmp_path / "annotations" / "grasp_short-term_train.json"
    body = json.loads(path.read_text())
    body["annotations"][1]["bbox"] = [0, 0, float("nan"), "1e400"]
    write_json(path, body)
    rejects = Rejects(strict=False)
    assert [f.frame for f in frames("grasp", tmp_path, rejects, images="skip")] == [1, 3]
    assert [r.where for r in rejects.rows] == [f"{path}: annotation 1"]
    with pytest.raises(LabelError, match="annotation 1"):
        frames("grasp", tmp_path, images="skip")


def test_psi_avas_action_list_in_grasps_file_is_noticed(tmp_path: Path) -> None:
    grasp_files(tmp_path / "annotations", "train", {"CASE001": [1]})
    path = tmp_path / "annotations" / "grasp_short-term_train.json"
    body = json.loads(path.read_text())
    native = vocabulary("psi-ava-vqa", "verb").native
    body["actions_categories"] = [{"id": k + 1, "name": n} for k, n in enumerate(native)]
    write_json(path, body)
    with pytest.raises(LabelError, match="id 3 is 'Close Something', not 'Cut'"):
        frames("grasp", tmp_path, images="skip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 8}, "tool id '8' is not in 1-7"),
        ({"category_id": True}, "tool id 'True'"),
        ({"actions": []}, "no list of ids"),
        ({"instruments": 5}, "instrument 5 is not category 4"),
        ({"bbox": [0, 0, 1e9, 5]}, "leaves the picture"),
        ({"image_name": "CASE001/00009.jpg"}, "image_name says"),
    ],
)
def test_a_wrong_annotation_says_what_is_wrong(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    grasp_files(tmp_path / "annotations", "train", {"CASE001": [1]}, **change)
    with pytest.raises(LabelError, match=message):
        frames("grasp", tmp_path, images="skip")


# --- SAR-RARP50 by hand ---


def sar_video(folder: Path, rows: int = 12, masks: tuple[int, ...] = (0, 60), pictures: str = "rgb") -> Path:
    folder.mkdir(parents=True)
    lines = [f"{6 * k:09d},{k % 8}\n" for k in range(rows)]
    (folder / "action_discrete.txt").write_text("".join(lines))
    for k in range(rows if pictures else 0):
        picture(folder / pictures / f"{6 * k:09d}.png", (192, 108))
    for frame in masks:
        save_mask(folder / "segmentation" / f"{frame:09d}.png", np.zeros((108, 192), np.uint8))
    return folder


def save_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)


def test_ids_in_the_files_count_from_zero_and_time_is_a_sixtieth(tmp_path: Path) -> None:
    sar_video(tmp_path / "test" / "video_41")
    read = frames("sar-rarp50", tmp_path)
    assert [f.labels.action for f in read[:4]] == [
        "other",
        "picking up the needle",
        "positioning the needle tip",
        "pushing the needle through the tissue",
    ]
    assert [f.seconds for f in read[:3]] == [0.0, 0.1, 0.2] and read[1].frame == 6
    assert {f.role for f in read} == {"test"} and len(frames("sar-rarp50", tmp_path, every=5)) == 3
    path = tmp_path / "test" / "video_41" / "action_discrete.txt"
    path.write_text(path.read_text().replace("000000012,2", "000000012,8"))
    with pytest.raises(LabelError, match="1-based variant"):
        frames("sar-rarp50", tmp_path)


def test_levels_above_the_videos_do_not_matter_and_halves_go_together(tmp_path: Path) -> None:
    sar_video(tmp_path / "train1" / "video_11_1", pictures="frames")
    sar_video(tmp_path / "train1" / "video_11_2")
    sar_video(tmp_path / "unpacked" / "train2" / "video_01")
    sar_video(tmp_path / "__MACOSX" / "video_02")
    read = frames("sar-rarp50", tmp_path)
    assert {(f.video, f.role) for f in read} == {
        ("video_01", "train"),
        ("video_11_1", "train"),
        ("video_11_2", "train"),
    }
    assert read[12].image == "train1/video_11_1/frames/000000000.png"
    chosen = frames("sar-rarp50", tmp_path, train=("video_01",), test=("video_11",))
    assert Counter((f.video, f.role) for f in chosen) == {
        ("video_01", "train"): 12,
        ("video_11_1", "test"): 12,
        ("video_11_2", "test"): 12,
    }
    sar_video(tmp_path / "copy" / "video_01")
    with pytest.raises(LabelError, match="video_01 is also"):
        frames("sar-rarp50", tmp_path)


def test_archives_in_archives_are_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "video_01.zip", "w") as archive:
        archive.writestr("video_01/action_discrete.txt", "000000000,0\n")
    with pytest.raises(LayoutError, match=r"unpack each video_01\.zip"):
        frames("sar-rarp50", tmp_path)
    sar_video(tmp_path / "video_02")
    with pytest.raises(LabelError, match=r"not unpacked: video_01\.zip"):
        frames("sar-rarp50", tmp_path)


def test_videos_without_frames_name_the_command_that_extracts_them(tmp_path: Path) -> None:
    folder = sar_video(tmp_path / "video_01", pictures="")
    with pytest.raises(LayoutError, match=r"no video_left\.avi"):
        frames("sar-rarp50", tmp_path)
    (folder / "video_left.avi").write_bytes(b"RIFF")
    with pytest.raises(LayoutError, match=f"video_01.*surgr1 data frames {re.escape(str(tmp_path))}"):
        frames("sar-rarp50", tmp_path)
    assert len(frames("sar-rarp50", tmp_path, images="skip")) == 12
    (folder / "action_discrete.txt").unlink()
    sar_video(tmp_path / "video_02")
    with pytest.raises(LabelError, match=r"video_left\.avi without action_discrete\.txt"):
        frames("sar-rarp50", tmp_path)


def drawn_mask() -> np.ndarray:
    """One instrument of three classes, one that touches it, one apart, a needle in two pieces, thread,
    suction, catheter, and marks too small to count.
    """
    mask = np.zeros((108, 192), np.uint8)
    mask[10:20, 10:30], mask[10:20, 30:40], mask[10:20, 40:60] = 1, 2, 3
    mask[20:30, 60:70] = 1
    mask[80:100, 150:170] = 3
    mask[50:52, 20:60] = mask[56:58, 20:60] = 4
    mask[60:70, 100:120] = 5
    mask[70:90, 10:20] = 6
    mask[40:50, 120:140] = 9
    mask[0:3, 180:183], mask[105:107, 0:3] = 1, 8
    return mask


WANTED = {
    ("robotic instrument", (10, 10, 70, 30)),
    ("robotic instrument", (150, 80, 170, 100)),
    ("suturing needle", (20, 50, 60, 58)),
    ("thread", (100, 60, 120, 70)),
    ("suction", (10, 70, 20, 90)),
    ("catheter", (120, 40, 140, 50)),
}


@pytest.mark.parametrize("channels", [1, 3])
def test_boxes_cover_clasper_wrist_and_shaft_together(tmp_path: Path, channels: int) -> None:
    folder = sar_video(tmp_path / "video_01")
    mask = drawn_mask()
    save_mask(
        folder / "segmentation" / "000000060.png",
        np.repeat(mask[..., None], 3, axis=2) if channels == 3 else mask,
    )
    read = frames("sar-rarp50", tmp_path)
    assert {f.frame: f.labels.boxes is not None for f in read} == {6 * k: k in (0, 10) for k in range(12)}
    assert read[0].labels.boxes == ()
    assert {(b.name, b.xyxy) for b in read[10].labels.boxes or ()} == WANTED


def test_by_default_masks_add_no_question_and_with_their_split_they_do(tmp_path: Path) -> None:
    folder = sar_video(tmp_path / "video_01")
    save_mask(folder / "segmentation" / "000000060.png", drawn_mask())
    plain = frames("sar-rarp50", tmp_path)
    assert {q.task for f in plain for q in f.ask()} == {Task.ACTION_RECOGNITION}
    assert all(f.labels.tools is None and f.labels.tissues is None for f in plain)
    asked = frames("sar-rarp50", tmp_path, split="masks")
    assert [f.labels.tools for f in asked[:2]] == [(), None]
    assert asked[10].labels.tools == ("robotic instrument", "suction")
    assert asked[10].labels.tissues == ("suturing needle", "thread", "catheter")
    # Two robotic instruments: "where is it" has no one answer.
    located = {(q.task, q.focus): q.answer for q in asked[10].ask() if q.focus}
    assert located == {
        (Task.TOOL_LOCALIZATION, "suction"): "(10,70),(20,90)",
        (Task.GRID_POSITION_RECOGNITION, "suction"): "left-bottom",
        (Task.TISSUE_LOCALIZATION, "suturing needle"): "(20,50),(60,58)",
        (Task.TISSUE_LOCALIZATION, "thread"): "(100,60),(120,70)",
        (Task.TISSUE_LOCALIZATION, "catheter"): "(120,40),(140,50)",
    }
    before, after = ({q for f in read for q in f.ask()} for read in (plain, asked))
    assert before <= after


def test_masks_are_counted_by_the_formula(tmp_path: Path) -> None:
    """(n_frames - 1) // 60 + 1 masks for (n_frames - 1) // 6 + 1 action rows (datasets-b.md 1.1)."""
    for n in (1, 6, 7, 60, 61, 66, 67, 121):
        actions, masks = (n - 1) // 6 + 1, (n - 1) // 60 + 1
        root = tmp_path / str(n)
        sar_video(root / "video_01", actions, tuple(60 * k for k in range(masks)), pictures="")
        assert len(frames("sar-rarp50", root, images="skip")) == actions
    folder = sar_video(tmp_path / "b" / "video_01", 12, (0, 60, 120), pictures="")
    with pytest.raises(
        LabelError, match=r"3 masks \(up to frame 120\), expected 2: the actions end at frame"
    ):
        frames("sar-rarp50", tmp_path / "b", images="skip")
    path = folder / "action_discrete.txt"
    path.write_text(path.read_text().replace("000000030,5\n", ""))
    rejects = Rejects(strict=False)
    assert len(frames("sar-rarp50", tmp_path / "b", rejects, images="skip")) == 11
    assert "11 rows up to frame 66, expected 12" in rejects.rows[0].reason


def test_masks_may_be_missing_altogether_unless_they_are_asked_about(tmp_path: Path) -> None:
    sar_video(tmp_path / "video_01", masks=())
    assert {f.labels.boxes for f in frames("sar-rarp50", tmp_path)} == {None}
    with pytest.raises(LayoutError, match="split 'masks' needs them"):
        frames("sar-rarp50", tmp_path, split="masks")


def test_a_colour_mask_is_rejected_and_the_action_stays(tmp_path: Path) -> None:
    folder = sar_video(tmp_path / "video_01")
    save_mask(folder / "segmentation" / "000000060.png", np.full((108, 192, 3), (0, 255, 255), np.uint8))
    rejects = Rejects(strict=False)
    read = frames("sar-rarp50", tmp_path, rejects)
    assert read[10].labels.boxes is None and read[10].labels.action == "positioning the needle tip"
    assert "a colour mask" in rejects.rows[0].reason and rejects.rows[0].where.endswith("000000060.png")
