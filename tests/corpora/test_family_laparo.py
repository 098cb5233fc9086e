"""AutoLaparo's three tasks and MultiBypass140 beyond the round trip: the documented traps, the real samples,
variants of folder names, hostile pickles.
"""

import io
import json
import os
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from surgr1.corpora.adapters import _multibypass140_pickles as pickles
from surgr1.corpora.adapters import autolaparo_motion, multibypass140
from surgr1.corpora.datasets import dataset
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.questions import Frame
from surgr1.corpora.registry import canonical_video
from surgr1.corpora.sources import Source, read_frames
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.verify import write_trial
from surgr1.simulator.world import default_plan
from surgr1.simulator.writers.multibypass140 import finish


def picture(path: Path, size: tuple[int, int] = (32, 18)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 40, 40)).save(path)


def frames_of(layout: str, root: Path, **kwargs: Any) -> list[Frame]:
    return list(read_frames(Source(dataset=layout, root=root, **kwargs)))


def collected(layout: str, root: Path, **kwargs: Any) -> tuple[list[Frame], list[str]]:
    """Frames and what was rejected."""
    rejects = Rejects(strict=False)
    frames = list(read_frames(Source(dataset=layout, root=root, **kwargs), rejects))
    return frames, [f"{r.where}: {r.reason}" for r in rejects.rows]


# --- AutoLaparo, task 1 ---

TASK_1 = "Task 1 Surgical workflow recognition"


def phases(folder: Path, video: str, rows: list[int], *, pictures: bool = True) -> None:
    """A label file of task 1 and its pictures."""
    path = folder / "labels" / f"label_{video}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("Frame\tPhase\n" + "".join(f"{i}\t{p}\n" for i, p in enumerate(rows, start=1)))
    for i in range(1, len(rows) + 1 if pictures else 1):
        picture(folder / "frames" / video / f"{i:04d}.jpg")


def test_autolaparos_phases_and_split_are_those_of_its_readme(real_samples: Path) -> None:
    text = (real_samples / "autolaparo" / "task1-README.txt").read_text()
    named = dict(re.findall(r"^([1-7])\s{2,}(\S.*)$", text, re.MULTILINE))
    words = vocabulary("autolaparo", "phase")
    assert [named[str(i)].strip() for i in range(1, 8)] == list(words.native)
    assert [words.ids[n] for n in words.names] == [1, 2, 3, 4, 5, 6, 7]
    assert {p.name for p in load_procedure("laparoscopic hysterectomy").phases} == set(words.names)
    assert re.search("01-10 for training, 11-14 for validation and 15-21 for testing", text)
    roles = dataset("autolaparo").roles("default")
    assert {r: sum(v == r for v in roles.values()) for r in ("train", "validation", "test")} == {
        "train": 10,
        "validation": 4,
        "test": 7,
    }
    assert (roles["01"], roles["11"], roles["15"]) == ("train", "validation", "test")


def test_expected_counts_add_up_to_the_references_rows() -> None:
    """datasets-a.md 8.2-8.4 and 11."""
    train = (6388, 3620, 3000, 2938, 3220, 3908, 1645, 4692, 5736, 5064)
    validation, test = (4720, 2916, 2597, 4739), (3653, 3612, 4678, 3546, 3413, 4832, 4326)
    expected = dataset("autolaparo").expected
    assert [expected[f"10-4-7/{r}"] for r in ("train", "validation", "test")] == [
        sum(train),
        sum(validation),
        sum(test),
    ]
    assert expected["all"] == sum(train + validation + test) == 83243
    for layout, each in (("autolaparo-motion", 16), ("autolaparo-localization", 6)):
        facts = dataset(layout)
        counts = [
            sum(r == x for r in facts.roles("default").values()) for x in ("train", "validation", "test")
        ]
        assert counts == [170, 57, 73]
        assert [facts.expected[f"170-57-73/{r}"] for r in ("train", "validation", "test")] == [
            each * n for n in counts
        ]
        assert facts.paper_images == each * 170
    # datasets-a.md 5.2: BBP04 is cut by 81 frames, three Strasbourg videos by one each.
    assert dataset("multibypass140").expected["all"] == 305_909 + 464_794 - 81 - 3


def test_rows_and_phases_of_task_1_count_from_one(tmp_path: Path) -> None:
    phases(tmp_path / TASK_1, "01", [1, 1, 7, 2])
    phases(tmp_path / TASK_1, "12", [3])
    read = frames_of("autolaparo", tmp_path)
    assert [(f.video, f.frame, f.seconds, f.labels.phase, f.role) for f in read] == [
        ("01", 1, 0.0, "preparation", "train"),
        ("01", 2, 1.0, "preparation", "train"),
        ("01", 3, 2.0, "washing", "train"),
        ("01", 4, 3.0, "dividing ligament and peritoneum", "train"),
        ("12", 1, 0.0, "dividing uterine vessels and ligament", "validation"),
    ]
    assert read[0].image == f"{TASK_1}/frames/01/0001.jpg"
    assert (tmp_path / read[0].image).is_file()
    assert read[0].size == (32, 18)
    assert [f.frame for f in frames_of("autolaparo", tmp_path, every=3)] == [1, 4, 1]


@pytest.mark.parametrize("name", ["", "task1", "Task_1", "TASK 1 workflow", "AutoLaparo/task-1", TASK_1])
def test_the_folder_of_a_task_may_have_several_names(tmp_path: Path, name: str) -> None:
    phases(tmp_path / name, "02", [4])
    (read,) = frames_of("autolaparo", tmp_path)
    assert read.labels.phase == "transecting the vagina"
    assert (tmp_path / read.image).is_file()


def test_two_folders_of_one_task_are_not_chosen_between(tmp_path: Path) -> None:
    for name in ("task1", TASK_1):
        phases(tmp_path / name, "02", [4])
    with pytest.raises(LayoutError, match=r"more than once: Task 1 Surgical.*, task1"):
        frames_of("autolaparo", tmp_path)


def test_task_10_is_not_task_1(tmp_path: Path) -> None:
    phases(tmp_path / "task10", "02", [4])
    with pytest.raises(LayoutError, match=r"not task 1 of AutoLaparo.*found task10"):
        frames_of("autolaparo", tmp_path)


def test_videos_without_extracted_frames_say_which_command_extracts_them(tmp_path: Path) -> None:
    phases(tmp_path / TASK_1, "01", [1], pictures=False)
    (tmp_path / TASK_1 / "videos").mkdir()
    with pytest.raises(
        LayoutError, match=r"its videos are there.*surgr1 data frames .*workflow recognition`"
    ):
        frames_of("autolaparo", tmp_path)
    (read,) = frames_of("autolaparo", tmp_path, images="skip")
    assert read.size == (1920, 1080)


def test_a_gap_and_a_cut_in_the_rows_are_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    phases(tmp_path, "01", [1, 1, 1, 2, 2, 2])
    path = tmp_path / "labels" / "label_01.txt"
    path.write_text(path.read_text().replace("3\t1\n", "").replace("6\t2\n", ""))
    read, rejected = collected("autolaparo", tmp_path)
    assert [f.frame for f in read] == [1, 2, 4, 5]
    assert len(rejected) == 2
    assert re.search(r"label_01\.txt:4: frame 4 follows 2: a row is missing", "\n".join(rejected))
    assert re.search(r"ends at frame 5, but there are 1 more pictures \(0006\.jpg", "\n".join(rejected))
    with pytest.raises(LabelError, match="frame 4 follows 2"):
        frames_of("autolaparo", tmp_path)


# --- AutoLaparo, task 2 ---

SIXTEEN = (1, 9, 17, 25, 33, 41, 50, 58, 66, 75, 83, 91, 100, 108, 116, 125)
"""datasets-a.md 8.3."""


def motions(folder: Path, rows: str, *, clips: tuple[str, ...] = ()) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "laparoscope_motion_label.txt").write_text("Clip\tLabel\tPhase\n" + rows)
    for clip in clips:
        for frame in SIXTEEN:
            picture(folder / "frames" / clip / f"{frame:03d}.jpg")


def test_sixteen_frames_before_the_motion_carry_a_clips_label(tmp_path: Path) -> None:
    motions(tmp_path / "task2", "001\t5\t2\n171\t4\t3\n", clips=("001", "171"))
    read = frames_of("autolaparo-motion", tmp_path)
    assert [f.frame for f in read if f.video == "001"] == list(SIXTEEN)
    # The motion starts at second 5.
    assert max(f.seconds for f in read) == pytest.approx(124 / 25) and read[0].seconds == 0.0
    assert {(f.video, f.role, f.labels.motion, f.labels.phase) for f in read} == {
        ("001", "train", "zoom-in", "dividing ligament and peritoneum"),
        ("171", "validation", "right", "dividing uterine vessels and ligament"),
    }
    assert all((tmp_path / f.image).is_file() for f in read)
    asked = {q.task: q.answer for q in read[0].ask()}
    assert asked[Task.MOTION_RECOGNITION] == "zoom-in"


def test_the_motions_are_numbered_as_the_release_numbers_them() -> None:
    """datasets-a.md 8.3."""
    assert vocabulary("autolaparo-motion", "motion").native == (
        "Static",
        "Up",
        "Down",
        "Left",
        "Right",
        "Zoom-in",
        "Zoom-out",
    )


def test_extraction_takes_the_same_sixteen_frames(tmp_path: Path) -> None:
    from surgr1.corpora.frame_plans import plan_frames

    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "007.mp4").touch()
    (job,) = plan_frames("autolaparo", tmp_path)
    assert [n + 1 for n in job.keep.numbers] == list(SIXTEEN) == list(autolaparo_motion.FRAMES)
    assert job.picture(0, 8) == tmp_path / "frames" / "007" / "009.jpg"


def test_a_bad_row_of_the_motion_file_costs_one_clip(tmp_path: Path) -> None:
    rows = "001\t0\t2\n002\t7\t2\n003\t1\t2\n003\t1\t2\n004\t1\t8\n301\t1\t2\n005\t2\n006\t٣\t2\n"
    motions(tmp_path, rows)
    read, rejected = collected("autolaparo-motion", tmp_path, images="skip")
    assert sorted({f.video for f in read}) == ["001", "003"]
    reasons = "\n".join(rejected)
    for line, reason in (
        (3, "motion '7'"),
        (5, "clip 3 after clip 3"),
        (6, "phase '8'"),
        (7, "clip '301'"),
        (8, "2 columns, expected 3"),
        (9, "motion '٣'"),
    ):
        assert f"label.txt:{line}: {reason}" in reasons
    assert len(rejected) == 6


def test_a_clip_without_pictures_is_an_error_that_names_it(tmp_path: Path) -> None:
    motions(tmp_path, "001\t0\t2\n002\t0\t2\n", clips=("001",))
    with pytest.raises(LayoutError, match=r"frames/002: no such folder"):
        frames_of("autolaparo-motion", tmp_path)


def test_clips_of_tasks_2_and_3_are_one_family_and_not_the_videos_of_task_1() -> None:
    assert canonical_video("autolaparo-motion", "007") == canonical_video("autolaparo-localization", "007")
    assert canonical_video("autolaparo-motion", "007") != canonical_video("autolaparo", "07")


# --- AutoLaparo, task 3 ---

TASK_3 = "Task 3 Instrument and key anatomy segmentation"
Rectangles = dict[tuple[int, int, int, int], int]


def masks(folder: Path, clip: str, areas: Rectangles, *, channels: int = 3) -> None:
    """Six masks with grey rectangles (x1, y1, x2, y2) and their pictures, 200 x 120 pixels."""
    pixels = np.zeros((120, 200), np.uint8)
    for (x1, y1, x2, y2), grey in areas.items():
        pixels[y1:y2, x1:x2] = grey
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for frame in (1, 25, 50, 75, 100, 125):
        stacked = pixels if channels == 1 else np.stack([pixels] * channels, axis=2)
        Image.fromarray(stacked).save(folder / "masks" / f"{clip}{frame:03d}.png")
        picture(folder / "imgs" / f"{clip}{frame:03d}.jpg", (200, 120))


def boxes(frame: Frame) -> dict[str, list[tuple[float, ...]]]:
    found: dict[str, list[tuple[float, ...]]] = {}
    for box in frame.labels.boxes or ():
        found.setdefault(box.name, []).append(box.xyxy)
    return found


def test_boxes_are_of_the_instrument_its_two_parts_and_the_uterus(tmp_path: Path) -> None:
    areas: Rectangles = {(10, 10, 40, 20): 60, (40, 12, 80, 18): 80, (100, 50, 190, 110): 180}
    masks(tmp_path / TASK_3, "228", areas)
    read = frames_of("autolaparo-localization", tmp_path)
    assert [(f.frame, f.seconds) for f in read] == [
        (1, 0.0),
        (25, 0.96),
        (50, 1.96),
        (75, 2.96),
        (100, 3.96),
        (125, 4.96),
    ]
    assert {(f.video, f.role, f.size) for f in read} == {("228", "test", (200, 120))}
    assert read[0].labels.tools == ("ligasure",) and read[0].labels.tissues == ("uterus",)
    assert boxes(read[0]) == {
        "ligasure": [(10, 10, 80, 20)],
        "ligasure manipulator": [(10, 10, 40, 20)],
        "ligasure shaft": [(40, 12, 80, 18)],
        "uterus": [(100, 50, 190, 110)],
    }
    asked = {(q.task, q.focus): q.answer for q in read[0].ask()}
    assert asked[Task.TOOL_LOCALIZATION, "ligasure"] == "(10,10),(80,20)"
    assert asked[Task.GRID_POSITION_RECOGNITION, "ligasure"] == "left-top"
    assert asked[Task.TISSUE_LOCALIZATION, "uterus"] == "(100,50),(190,110)"
    assert (tmp_path / read[0].image).is_file()


def test_every_grey_level_is_the_class_of_the_reference(tmp_path: Path) -> None:
    """datasets-a.md 8.4."""
    names = {
        20: "grasping forceps manipulator",
        40: "grasping forceps shaft",
        60: "ligasure manipulator",
        80: "ligasure shaft",
        100: "dissecting and grasping forceps manipulator",
        120: "dissecting and grasping forceps shaft",
        140: "electric hook manipulator",
        160: "electric hook shaft",
        180: "uterus",
    }
    masks(tmp_path, "001", {(20 * k, 10, 20 * k + 10, 30): grey for k, grey in enumerate(names)}, channels=1)
    found = boxes(frames_of("autolaparo-localization", tmp_path)[0])
    for k, name in enumerate(names.values()):
        assert found[name] == [(20 * k, 10, 20 * k + 10, 30)], name


def test_two_instruments_of_a_kind_are_two_boxes_but_the_uterus_is_one(tmp_path: Path) -> None:
    areas: Rectangles = {
        (0, 0, 20, 10): 20,
        (20, 0, 40, 10): 40,
        (100, 0, 120, 10): 20,
        (0, 50, 30, 90): 180,
        (60, 60, 90, 110): 180,
        (150, 100, 155, 105): 140,
    }
    masks(tmp_path, "001", areas)
    frame = frames_of("autolaparo-localization", tmp_path)[0]
    found = boxes(frame)
    assert found["grasping forceps"] == [(0, 0, 40, 10), (100, 0, 120, 10)]
    assert found["grasping forceps shaft"] == [(20, 0, 40, 10)]
    assert found["uterus"] == [(0, 50, 90, 110)]
    # A speck is labelled, so the hook is there, but it is no place to point at.
    assert frame.labels.tools == ("grasping forceps", "electric hook") and "electric hook" not in found
    located = {q.focus for q in frame.ask() if q.task is Task.TOOL_LOCALIZATION}
    assert "grasping forceps" not in located


def test_an_empty_mask_says_that_nothing_is_there(tmp_path: Path) -> None:
    masks(tmp_path, "001", {})
    labels = frames_of("autolaparo-localization", tmp_path)[0].labels
    assert (labels.tools, labels.tissues, labels.boxes) == ((), (), ())


def test_masks_are_read_without_any_picture(tmp_path: Path) -> None:
    masks(tmp_path, "001", {(0, 0, 20, 10): 100})
    for path in (tmp_path / "imgs").iterdir():
        path.unlink()
    (tmp_path / "imgs").rmdir()
    read = frames_of("autolaparo-localization", tmp_path, images="skip", every=2)
    assert [(f.frame, f.size) for f in read] == [(1, (200, 120)), (50, (200, 120)), (100, (200, 120))]
    with pytest.raises(LayoutError, match=r"imgs: no such folder of pictures"):
        frames_of("autolaparo-localization", tmp_path)


def test_names_that_are_no_clip_and_frame_of_the_release_are_rejected(tmp_path: Path) -> None:
    masks(tmp_path, "001", {(0, 0, 20, 10): 100})
    whole = (tmp_path / "masks" / "001001.png").read_bytes()
    for name in ("001026.png", "301001.png", "1001.png", "001001.bmp", "._001001.png"):
        (tmp_path / "masks" / name).write_bytes(whole)
    (tmp_path / "masks" / "001125.png").rename(tmp_path / "masks" / "001124.png")
    read, rejected = collected("autolaparo-localization", tmp_path)
    assert [f.frame for f in read] == [1, 25, 50, 75, 100]
    named = sorted(Path(r.split(": ")[0]).name for r in rejected)
    assert named == ["001001.bmp", "001026.png", "001124.png", "001125.png", "1001.png", "301001.png"]


def test_a_picture_of_another_size_than_its_mask_is_rejected(tmp_path: Path) -> None:
    masks(tmp_path, "001", {(0, 0, 20, 10): 100})
    picture(tmp_path / "imgs" / "001025.jpg", (100, 60))
    read, rejected = collected("autolaparo-localization", tmp_path)
    assert [f.frame for f in read] == [1, 50, 75, 100, 125]
    (reason,) = rejected
    assert re.search(r"001025\.png: a mask of \(200, 120\) pixels, but its picture has \(100, 60\)", reason)


def test_simulated_manipulators_lie_where_the_scene_says(tmp_path: Path) -> None:
    """The scene's own boxes of working ends against those read from the masks."""
    from surgr1.simulator.centres import CENTRES
    from surgr1.simulator.render import render
    from surgr1.simulator.world import Tree, simulate_video
    from surgr1.simulator.writers.autolaparo_motion import clip

    source, _ = write_trial("autolaparo-localization", tmp_path)
    read = {(f.video, f.frame): f for f in read_frames(source)}
    tree = Tree(dataset=source.dataset, centre="sim-strasbourg-public", seconds=26, train=(1, 2))
    compared = 0
    for number in (1, 2):
        shown = clip(simulate_video(tree, number, 0), number, (1, 125))
        for frame, scene in zip((1, 125), shown.scenes, strict=True):
            found = boxes(read[f"{number:03d}", frame])
            drawn = render(scene, CENTRES[tree.centre])
            for instrument, box in zip(scene.instruments, drawn.instrument_boxes, strict=True):
                mine = found.get(f"{instrument.tool} manipulator", [])
                if box is not None and len(mine) == 1:
                    assert mine == [box]
                    compared += 1
    assert compared >= 4


# --- MultiBypass140 ---

FOLD_1 = "labels/bern/labels_by70_splits/labels/val/1fps_1.pickle"
Row = dict[str, Any]


class Plain(pickle.Unpickler):
    """An independent reader of the one released pickle."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise AssertionError(f"{module}.{name}")


def test_real_labels_equal_the_released_pickle_row_by_row(real_samples: Path) -> None:
    """datasets-a.md 5.2: the ms rule reproduces phases and steps of these ten videos exactly."""
    root = real_samples / "multibypass140"
    table = Plain(io.BytesIO((root / FOLD_1).read_bytes())).load()
    wanted = {
        (row["Frame_id"][:5], int(row["Frame_id"][6:])): (row["Phase_gt"], row["Step_gt"])
        for rows in table.values()
        for row in rows
    }
    assert len(wanted) == 44_211
    ids = {k: vocabulary("multibypass140", k).ids for k in ("phase", "step")}
    found = {
        (f.video, f.frame): (ids["phase"][f.labels.phase or ""], ids["step"][f.labels.step or ""])
        for f in frames_of("multibypass140", root, role="validation", images="skip")
        if f.video in table
    }
    assert found == wanted


def test_real_bern_video_1_by_hand(real_samples: Path) -> None:
    """datasets-a.md 5.2 prints its first intervals."""
    root = real_samples / "multibypass140"
    read = frames_of("multibypass140", root, train=("BBP01",), images="skip")
    by_second = {int(f.seconds): f for f in read}
    # From 13,301 ms; a picture's number is its second and one.
    assert (min(by_second), read[0].frame) == (13, 14)
    assert read[0].image == "BernBypass70/frames/BBP01/BBP01_00000014.jpg"
    # Out of body from 53,583 to 75,743 ms: the phase goes on.
    assert {by_second[s].labels.phase for s in range(53, 76)} == {"preparation"}
    assert [by_second[s].labels.step for s in (78, 79, 126, 127, 301, 302)][:5] == [
        "null step",
        "cavity exploration",
        "cavity exploration",
        "trocar placement",
        "trocar placement",
    ]
    assert by_second[1370].labels.phase == "preparation"
    assert by_second[1371].labels.phase == "gastric pouch creation"
    assert {f.centre for f in read} == {"bern"} and {f.role for f in read} == {"train"}


def test_a_real_video_without_preparation_and_both_centres_are_read(real_samples: Path) -> None:
    root = real_samples / "multibypass140"
    read = frames_of("multibypass140", root, train=("BBP05", "SBP05"), images="skip")
    assert "preparation" not in {f.labels.phase for f in read if f.video == "BBP05"}
    assert {(f.video, f.centre) for f in read} == {("BBP05", "bern"), ("SBP05", "strasbourg")}


def test_the_real_tables_are_the_vocabularies(real_samples: Path) -> None:
    for kind, size in (("phase", 12), ("step", 46)):
        lines = (real_samples / "multibypass140" / "tables" / f"{kind}.csv").read_text().splitlines()[1:]
        named = [line.split(",")[1].strip() for line in lines if line.strip()]
        assert named[:size] == list(vocabulary("multibypass140", kind).native)


def test_the_real_pickle_holds_the_published_validation_videos_of_fold_1(real_samples: Path) -> None:
    found = pickles.released(real_samples / "multibypass140" / FOLD_1)
    assert sorted(found) == [f"BBP{n}" for n in (12, 18, 25, 35, 36, 41, 44, 49, 67, 69)]
    assert multibypass140._KNOWN["bern", "validation"][1].split() == [v[3:] for v in sorted(found)]


def test_known_lists_have_the_documented_sizes_and_overlaps() -> None:
    """datasets-a.md 5.4: 10 validation and 20 test videos; consecutive test sets share 10 videos."""
    known = multibypass140._KNOWN
    tests = [set(t.split()) for t in known["bern", "test"]]
    assert [len(t) for t in tests] == [0, 20, 20, 20, 20]
    assert [len(a & b) for a, b in pairwise(tests[1:])] == [10, 10, 10]
    for centre in ("bern", "strasbourg"):
        assert [len(v.split()) for v in known[centre, "validation"]] == [10] * 5
    for fold in range(1, 5):
        assert not tests[fold] & set(known["bern", "validation"][fold].split())


def bypass(
    root: Path,
    lengths: dict[str, int],
    *,
    rows: dict[str, int] | None = None,
    fold: str = "0",
    roles: dict[str, str] | None = None,
) -> None:
    """A label tree: every video in phase 3 and step 17 throughout, all in training but for `roles`; pickles
    hold `rows` of a video (default: all).
    """
    tables: dict[str, dict[str, list[Row]]] = {c: {} for c in ("BBP", "SBP")}
    places = {"BBP": root / "labels" / "bern", "SBP": root / "labels" / "strasbourg"}
    for video, length in lengths.items():
        interval = {"start": 0, "end": 1000 * length + 7}
        body = {
            "phases": [interval | {"label_name": "gastrojejunal_anastomosis", "label_id": 3}],
            "steps": [interval | {"label_name": "s17_jejunum_opening", "label_id": 17}],
        }
        path = places[video[:3]] / "labels_by70" / f"{video}.mp4.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body))
        tables[video[:3]][video] = [
            {"Frame_id": "", "Original_frame_id": i, "Phase_gt": 3, "Step_gt": 17, "unique_id": 10**11 + i}
            for i in range((rows or {}).get(video, length))
        ]
    for code in {v[:3] for v in lengths}:
        for role, name in (("train", f"1fps_100_{fold}"), ("val", f"1fps_{fold}"), ("test", f"1fps_{fold}")):
            path = places[code] / "labels_by70_splits" / "labels" / role / f"{name}.pickle"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = {v: r for v, r in tables[code].items() if (roles or {}).get(v, "train") == role}
            path.write_bytes(pickle.dumps(table, protocol=4))


def test_one_fold_is_read_and_others_by_name(tmp_path: Path) -> None:
    bypass(tmp_path, {"BBP01": 3, "SBP70": 2}, roles={"SBP70": "test"})
    read = frames_of("sim-multibypass140", tmp_path, images="skip")
    assert {(f.video, f.role, f.centre) for f in read} == {
        ("BBP01", "train", "bern"),
        ("SBP70", "test", "strasbourg"),
    }
    assert [f.frame for f in read] == [1, 2, 3, 1, 2]
    with pytest.raises(LayoutError, match=r"train/1fps_100_4\.pickle: fold 4 has no such file"):
        frames_of("sim-multibypass140", tmp_path, images="skip", split="4")
    with pytest.raises(LayoutError, match=r"no fold '5'; it has: 0, 1, 2, 3, 4"):
        frames_of("sim-multibypass140", tmp_path, images="skip", split="5")
    bypass(tmp_path, {"BBP01": 3, "SBP70": 2}, roles={"BBP01": "val", "SBP70": "train"}, fold="4")
    other = frames_of("sim-multibypass140", tmp_path, images="skip", split="4")
    assert {(f.video, f.role) for f in other} == {("BBP01", "validation"), ("SBP70", "train")}


def test_a_video_in_two_roles_of_a_fold_is_an_error(tmp_path: Path) -> None:
    bypass(tmp_path, {"BBP01": 3, "BBP02": 3})
    folder = tmp_path / "labels/bern/labels_by70_splits/labels"
    (folder / "test/1fps_0.pickle").write_bytes((folder / "train/1fps_100_0.pickle").read_bytes())
    with pytest.raises(LabelError, match=r"1fps_0\.pickle: BBP01 is also in train of fold 0"):
        frames_of("sim-multibypass140", tmp_path, images="skip")


def test_a_pickle_that_contradicts_the_published_lists_is_reported(tmp_path: Path) -> None:
    numbers = (8, 18, 23, 36, 41, 44, 47, 48, 60, 68)
    lengths = {f"BBP{n:02d}": 2 for n in numbers}
    bypass(tmp_path, lengths, fold="2", roles=dict.fromkeys(lengths, "val"))
    read, rejected = collected("multibypass140", tmp_path, images="skip", split="2")
    assert len(read) == 20
    assert any(
        re.search(r"val/1fps_2\.pickle: holds BBP68 besides and lacks BBP67 of the published validation", r)
        for r in rejected
    )
    # The right list is not reported (the test list is empty here, and that is).
    bypass(
        tmp_path,
        lengths | {"BBP67": 2},
        fold="2",
        roles=dict.fromkeys(lengths, "val") | {"BBP67": "val", "BBP68": "train"},
    )
    _, rejected = collected("multibypass140", tmp_path, images="skip", split="2")
    assert len(rejected) == 1 and "published test videos of fold 2" in rejected[0]


def test_bbp04_ends_where_its_pickle_ends_and_other_cuts_are_reported(tmp_path: Path) -> None:
    """datasets-a.md 5.2: 81 labelled seconds of BBP04 have no frame."""
    bypass(tmp_path, {"BBP04": 100, "BBP05": 100}, rows={"BBP04": 19, "BBP05": 19})
    read, rejected = collected("sim-multibypass140", tmp_path, images="skip")
    assert {v: max(f.frame for f in read if f.video == v) for v in ("BBP04", "BBP05")} == {
        "BBP04": 19,
        "BBP05": 19,
    }
    assert len(rejected) == 1
    assert re.search(r"BBP05 ends 81 labelled seconds before BBP05\.mp4\.json", rejected[0])


def test_bbp04_ends_with_its_pictures_where_no_pickle_is_read(tmp_path: Path) -> None:
    bypass(tmp_path, {"BBP04": 100, "BBP05": 20})
    for video in ("BBP04", "BBP05"):
        for k in range(1, 20):
            picture(tmp_path / "BernBypass70" / "frames" / video / f"{video}_{k:08d}.jpg")
    read, rejected = collected("multibypass140", tmp_path, train=("BBP04", "BBP05"))
    assert sum(f.video == "BBP04" for f in read) == sum(f.video == "BBP05" for f in read) == 19
    assert len(rejected) == 1 and "BBP05_00000020.jpg: a labelled frame has no picture" in rejected[0]


def test_a_second_of_which_pickle_and_labels_disagree_is_left_out(tmp_path: Path) -> None:
    bypass(tmp_path, {"BBP01": 5})
    path = tmp_path / "labels/bern/labels_by70_splits/labels/train/1fps_100_0.pickle"
    table = pickle.loads(path.read_bytes())
    table["BBP01"][2]["Step_gt"] = 18
    path.write_bytes(pickle.dumps(table, protocol=4))
    read, rejected = collected("sim-multibypass140", tmp_path, images="skip")
    assert [f.frame for f in read] == [1, 2, 4, 5]
    (reason,) = rejected
    assert re.search(r"BBP01 frame 3: phase and step 3, 18, but 3, 17 in BBP01\.mp4\.json", reason)


def test_odd_intervals_are_rejected_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "BBP01.mp4.json"
    good = {"start": 1999, "end": 4000, "label_name": "preparation", "label_id": 0}
    odd: list[Any] = [
        good | {"start": "0", "end": "900"},
        good | {"label_id": True},
        good | {"end": 10**30},
        good | {"start": -1, "end": 900},
        good | {"start": 3000, "end": 9000},
        {"start": 0},
        [0, 1],
        good | {"label_name": "out_of_body"},
    ]
    overlay = good | {"label_name": "severe_index", "label_id": 13}
    path.write_text(json.dumps({"phases": [good, *odd, overlay], "steps": []}))
    rejects = Rejects(strict=False)
    found, steps = multibypass140.label_rows(path, rejects)
    # start // 1000 <= second < end // 1000; overlays say nothing.
    assert [p for p in found if p != pickles.NONE] == [0, 0, 0]
    assert found[:5] == bytes([pickles.NONE, 0, 0, 0, pickles.NONE])[: len(found[:5])]
    assert set(steps) == {pickles.NONE}
    assert len(rejects.rows) == len(odd)


def test_a_tree_without_its_pictures_says_which_folder_is_wanted(tmp_path: Path) -> None:
    bypass(tmp_path, {"BBP01": 3})
    with pytest.raises(LayoutError, match=r"BernBypass70/frames: no such folder of pictures, and no videos"):
        frames_of("sim-multibypass140", tmp_path)
    (tmp_path / "BernBypass70" / "videos").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"run `surgr1 data frames"):
        frames_of("sim-multibypass140", tmp_path)


# --- Pickles ---


class Command:
    """Runs a shell command where it is unpickled without care."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_asks_for_a_command_runs_none(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps({"BBP01": [Command(f"touch {mark}")]}, protocol=protocol)
    path = tmp_path / "1fps_0.pickle"
    path.write_bytes(data)
    with pytest.raises(LabelError, match=r"1fps_0\.pickle: refused: [A-Z_]+ .* at byte \d+"):
        pickles.load_pickle(path)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists(), "the pickle was harmless: this test shows nothing"


def test_an_error_about_a_row_of_endless_lists_stays_short(tmp_path: Path) -> None:
    endless: list[Any] = []
    for _ in range(60):
        endless = [endless, endless]
    path = tmp_path / "1fps_0.pickle"
    path.write_bytes(pickle.dumps({"BBP01": [{"Original_frame_id": endless}]}, protocol=4))
    with pytest.raises(LabelError, match="is no label") as caught:
        pickles.released(path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a whole pickle"),
        (b"\x80\x04}", "not a whole pickle"),
        (b"\x80\x04}.more", "refused: STOP"),
        (b"\x80\x04}r\xff\xff\xff\x7f.", "refused: LONG_BINPUT '2147483647'"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "not a whole pickle"),
        (b"\x80\x04X\xff\xff\xff\x7f.", "not a whole pickle"),
        (b"\x80\x04\x8b\xff\xff\xff\x7f.", "not a whole pickle"),
        (b"\x80\x04Pname\n.", "refused: PERSID"),
        (b"\x80\x04\x82\x01.", "refused: EXT1"),
        (b"\x80\x04h\x07.", "not a whole pickle"),
        (b"\x80\x04].", "expected a dict"),
        (b"\x80\x04}K\x01]s.", "expected a dict"),
        (b"\x80\x04}]]s.", "not a whole pickle"),
        (b"\x80\x04" + b"]" * 1_000_001 + b".", "more than 1000000 dicts and lists"),
        (b"\x80\x04" + b"]" * 500_000 + b"a" * 499_999 + b".", "expected a dict"),
        (pickle.dumps({f"BBP{n}": [] for n in range(71)}, protocol=4), "more than 70 videos"),
        (pickle.dumps({"BBP01": [None] * 100_001}, protocol=4), "over 100000 rows"),
        (pickle.dumps({"BBP01": [b"bytes"]}, protocol=4), "refused: SHORT_BINBYTES"),
        (pickle.dumps({"BBP01": ["x" * 300]}, protocol=4), "refused: BINUNICODE"),
        (pickle.dumps({"BBP01": [10**40]}, protocol=4), "refused: LONG1"),
    ],
)
def test_pickles_that_are_not_plain_small_data_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "1fps_0.pickle"
    path.write_bytes(data)
    with pytest.raises(LabelError, match=rf"1fps_0\.pickle: .*{message}"):
        pickles.load_pickle(path)


def test_a_pickle_of_many_bytes_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "1fps_0.pickle"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(LabelError, match=r"1fps_0\.pickle: \d+ bytes"):
        pickles.load_pickle(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_of_every_binary_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "1fps_0.pickle"
    rows = [
        {
            "Frame_id": f"BBP01_{i + 1:08d}",
            "Original_frame_id": i,
            "Phase_gt": i % 12,
            "Step_gt": i % 46,
            "x": x,
        }
        for i, x in enumerate([1.5, None, True, False, -3, 70_000, 10**12, ""] * 60)
    ]
    path.write_bytes(pickle.dumps({"BBP01": rows}, protocol=protocol))
    assert pickles.load_pickle(path) == {"BBP01": rows}
    found = pickles.released(path)["BBP01"]
    assert found.phases == bytes(i % 12 for i in range(480)) and found.steps[:47] == bytes([*range(46), 0])


@pytest.mark.parametrize(
    "change",
    [
        {"Original_frame_id": -1},
        {"Original_frame_id": 10**6},
        {"Original_frame_id": "3"},
        {"Phase_gt": 12},
        {"Phase_gt": 1.5},
        {"Step_gt": 46},
        {"Step_gt": None},
        {"Step_gt": [[1]]},
    ],
)
def test_a_row_that_is_no_label_is_named(tmp_path: Path, change: Row) -> None:
    path = tmp_path / "1fps_0.pickle"
    row = {"Original_frame_id": 3, "Phase_gt": 1, "Step_gt": 2}
    path.write_bytes(pickle.dumps({"BBP07": [row | change]}, protocol=4))
    with pytest.raises(LabelError, match=r"1fps_0\.pickle: BBP07: row .* is no label"):
        pickles.released(path)


# --- The writer ---


def test_the_demo_has_bern_only_and_numbers_over_100_are_strasbourgs(tmp_path: Path) -> None:
    (tree,) = [t for t in default_plan("demo").trees if t.layout == "multibypass140"]
    assert all(1 <= n <= 70 for n in tree.videos)
    finish(tmp_path, {n: {"phase": [0, 1], "step": [0, 1]} for n in (7, 107)}, {"train": (7, 107)})
    for centre, name, ids in (("bern", "BBP07", 7 * 10**10), ("strasbourg", "SBP07", 7 * 10**5)):
        path = tmp_path / f"labels/{centre}/labels_by70_splits/labels/train/1fps_100_0.pickle"
        # datasets-a.md 5.2: the two centres number `unique_id` differently.
        assert [(v, r[1]["Frame_id"], r[1]["unique_id"]) for v, r in pickles.load_pickle(path).items()] == [
            (name, f"{name}_00000002", ids + 1)
        ]
