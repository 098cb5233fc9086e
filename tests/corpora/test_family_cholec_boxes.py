"""CholecInstanceSeg, CholecTrack20 and Endoscapes beyond the round trip: the authors' own derived boxes,
published splits, documented variants and traps (reference datasets-a.md sections 4, 6, 7, 10).
"""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surgr1.corpora.datasets import dataset, official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.questions import Frame
from surgr1.corpora.registry import canonical_video
from surgr1.corpora.sources import Source, read_frames
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary

SIZE = (64, 48)


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write_json(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")


def read(name: str, root: Path, **options: Any) -> tuple[list[Frame], list[str]]:
    """Frames and the reasons of what was rejected."""
    rejects = Rejects(strict=False)
    frames = list(read_frames(Source(dataset=name, root=root, **options), rejects))
    return frames, [f"{r.where}: {r.reason}" for r in rejects.rows]


def whole(frame: Frame) -> list[tuple[str, tuple[int, ...]]]:
    """(tool, box in whole pixels as the authors cut them off) of every box, sorted."""
    return sorted((b.name, tuple(int(v) for v in b.xyxy)) for b in frame.labels.boxes or ())


def numbers(text: str) -> set[int]:
    return {int(n) for n in text.split()}


# CholecInstanceSeg: the authors' sample.


@pytest.fixture(scope="module")
def sample(real_samples) -> Path:
    root = real_samples / "cholec-instance-seg"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    return root


def test_boxes_of_the_real_sample_are_those_of_the_authors_coco_file(sample) -> None:
    frames, rejected = read("cholec-instance-seg", sample, images="skip")
    coco = json.loads((sample / "derived-by-authors" / "sample_generated_coco.json").read_text())
    names = {int(c["id"]): c["name"] for c in coco["categories"]}
    files = {i["id"]: i["file_name"] for i in coco["images"]}
    wanted = defaultdict(list)
    for row in coco["annotations"]:
        x, y, w, h = row["bbox"]
        wanted[files[row["image_id"]]].append((names[row["category_id"]], (x, y, x + w, y + h)))
    assert rejected == []
    assert [Path(f.image).name for f in frames] == sorted(files.values())
    assert sum(f.tool_count or 0 for f in frames) == len(coco["annotations"]) == 23
    for frame in frames:
        assert whole(frame) == sorted(wanted[Path(frame.image).name])


def test_boxes_of_the_real_sample_fit_the_authors_maps_of_instances(sample) -> None:
    """A map colours grasper k red with blue 20 * (k - 1), hooks green. Outlines run through pixel centres, so
    a map's far edge is one pixel further."""
    tools = {(255, 0): "grasper", (0, 128): "hook"}
    frames, _ = read("cholec-instance-seg", sample)
    assert [f.frame for f in frames] == [0, 30, 60]
    for frame in frames:
        path = sample / "derived-by-authors" / f"semantic_{Path(frame.image).name}"
        colours = np.asarray(Image.open(path).convert("RGB"))
        found = []
        for colour in {tuple(c) for c in np.unique(colours.reshape(-1, 3), axis=0).tolist()} - {(0, 0, 0)}:
            ys, xs = np.nonzero((colours == colour).all(axis=2))
            found.append((tools[colour[:2]], (xs.min(), ys.min(), xs.max(), ys.max())))
        assert whole(frame) == sorted(found)


def test_labelled_frames_without_pictures_are_named_or_stop_a_strict_reader(sample) -> None:
    frames, rejected = read("cholec-instance-seg", sample)
    assert len(frames) == 3
    assert len([r for r in rejected if "a labelled frame has no picture" in r]) == len(rejected) == 7
    with pytest.raises(LabelError, match=r"t80_VID03_000090\.png: a labelled frame has no picture"):
        list(read_frames(Source(dataset="cholec-instance-seg", root=sample)))


def test_the_real_sample_gives_questions_about_empty_and_full_frames(sample) -> None:
    frames, _ = read("cholec-instance-seg", sample, images="skip")
    answers = {(f.frame, q.task): q.answer for f in frames for q in f.ask()}
    assert answers[0, Task.TOOL_RECOGNITION] == "none"
    assert answers[0, Task.TOOL_COUNTING] == "0"
    assert answers[60, Task.TOOL_RECOGNITION] == "grasper, hook"
    assert answers[60, Task.TOOL_COUNTING] == "3"
    # Two graspers: only the hook has one place.
    assert answers[60, Task.TOOL_LOCALIZATION] == "(608,152),(853,263)"


# CholecInstanceSeg: the release.


def test_sequences_are_divided_as_published_and_no_operation_crosses() -> None:
    by_role = defaultdict(set)
    for sequence, role in official_split("cholec-instance-seg").items():
        by_role[role].add(sequence)
    assert {r: len(s) for r, s in by_role.items()} == {"train": 55, "validation": 18, "test": 22}
    parts = [s.partition("_")[2] for sequences in by_role.values() for s in sequences]
    assert {p: parts.count(p) for p in set(parts)} == {
        "seg8k": 17,
        "t50_full": 15,
        "t50_sparse": 35,
        "t80_sparse": 28,
    }
    videos = {r: {int(s[3:].partition("_")[0]) for s in sequences} for r, sequences in by_role.items()}
    assert videos["train"] == numbers(
        "1 2 4 5 6 8 10 12 13 18 25 26 27 31 32 35 36 40 42 43 47 48 49 50 51 52 56 57 60 62 65 66 68 70 73"
        " 74 75 78 79 80 92 96 103 110 111"
    )
    assert videos["validation"] == numbers("3 11 17 19 23 28 30 34 37 39 44 46 54 59 63 67 71 76")
    assert videos["test"] == numbers("7 9 14 15 16 20 21 22 24 29 33 38 41 45 53 55 58 61 64 69 72 77")


def test_one_split_names_the_operations_of_cholecseg8k() -> None:
    canonical = {
        canonical_video("cholec-instance-seg", v)
        for v in official_split("cholec-instance-seg", "cholecseg8k")
    }
    wanted = numbers("1 9 12 17 18 20 24 25 26 27 28 35 37 43 48 52 55")
    assert canonical == {f"cholec/{n}" for n in wanted}


def test_classes_are_numbered_as_the_authors_number_them_not_as_cholect50() -> None:
    assert dict(vocabulary("cholec-instance-seg", "tool").ids) == {
        "grasper": 1,
        "hook": 2,
        "irrigator": 3,
        "clipper": 4,
        "bipolar": 5,
        "scissors": 6,
        "snare": 7,
    }


def outline(label: str, group: int | None, *box: float) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    points = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
    return {"label": label, "points": points, "group_id": group, "shape_type": "polygon", "flags": None}


def label_me(
    root: Path, sequence: str, stem: str, *shapes: dict[str, Any], pictured: bool = True, **more: Any
) -> Path:
    path = root / sequence / "ann_dir" / f"{stem}.json"
    body = {"version": "1.0.0", "flags": {}, "shapes": list(shapes), "imagePath": f"img_dir/{stem}.png"}
    write_json(path, body | {"imageHeight": None, "imageWidth": None} | more)
    if pictured:
        picture(root / sequence / "img_dir" / f"{stem}.png")
    return path


def test_an_instance_is_all_outlines_of_one_label_and_group(tmp_path) -> None:
    label_me(
        tmp_path / "train",
        "VID01_t50_full",
        "t50_VID01_000007",
        outline("grasper", 1, 2, 3, 10, 12),
        outline("hook", 1, 30, 5, 40, 15),
        outline("grasper", 1, 20, 1, 25, 9),
        outline("grasper", 2, 50, 30, 60, 47),
    )
    (frame,), rejected = read("cholec-instance-seg", tmp_path)
    assert rejected == []
    assert frame.tool_count == 3
    assert [(b.name, b.xyxy) for b in frame.labels.boxes or ()] == [
        ("grasper", (2, 1, 25, 12)),
        ("hook", (30, 5, 40, 15)),
        ("grasper", (50, 30, 60, 47)),
    ]


def test_numbers_of_the_parts_have_their_own_units(tmp_path) -> None:
    label_me(tmp_path / "train", "VID01_seg8k", "seg8k_video01_000080")
    label_me(tmp_path / "train", "VID01_t50_full", "t50_VID01_000080")
    label_me(tmp_path / "val", "VID03_t80_sparse", "t80_VID03_000090")
    frames, _ = read("cholec-instance-seg", tmp_path)
    assert [(f.video, f.frame, f.seconds, f.role) for f in frames] == [
        ("VID01_seg8k", 80, 3.2, "train"),
        ("VID01_t50_full", 80, 80.0, "train"),
        ("VID03_t80_sparse", 90, 90.0, "validation"),
    ]
    assert {canonical_video("cholec-instance-seg", f.video) for f in frames} == {"cholec/1", "cholec/3"}


def test_the_size_is_the_pictures_where_the_file_names_none(tmp_path) -> None:
    path = label_me(tmp_path / "train", "VID01_t50_full", "t50_VID01_000000", outline("hook", 1, 1, 1, 9, 9))
    (frame,), _ = read("cholec-instance-seg", tmp_path)
    assert frame.size == SIZE
    body = json.loads(path.read_text())
    del body["imageHeight"], body["imageWidth"]
    write_json(path, body)
    (frame,), _ = read("cholec-instance-seg", tmp_path, images="skip")
    assert frame.size == (854, 480)
    write_json(path, body | {"imageHeight": 480, "imageWidth": 854})
    assert "labels a picture of 854 x 480, which has 64 x 48" in read("cholec-instance-seg", tmp_path)[1][0]


def test_pictures_may_lie_beside_the_labels_or_in_a_folder_of_their_own(tmp_path) -> None:
    labels, pictures = tmp_path / "cholecinstanceseg", tmp_path / "cholecinstance_seg_reference_image_set"
    label_me(labels / "train", "VID01_t50_full", "t50_VID01_000000", pictured=False)
    with pytest.raises(LayoutError, match="syn64826192"):
        read("cholec-instance-seg", tmp_path)
    picture(pictures / "train" / "VID01_t50_full" / "img_dir" / "t50_VID01_000000.png")
    for root, options, folder in (
        (tmp_path, {}, tmp_path),
        (labels, {"pictures": pictures}, pictures),
        (labels, {"pictures": tmp_path}, tmp_path),
    ):
        (frame,), _ = read("cholec-instance-seg", root, **options)
        assert (folder / frame.image).is_file()


def test_a_sequence_in_another_part_of_the_release_is_left_out(tmp_path) -> None:
    label_me(tmp_path / "train", "VID15_t50_full", "t50_VID15_000000")
    label_me(tmp_path / "train", "VID01_t50_full", "t50_VID01_000000")
    frames, rejected = read("cholec-instance-seg", tmp_path)
    assert [f.video for f in frames] == ["VID01_t50_full"]
    assert "stands under train/, the official division has it in test" in rejected[0]


def test_one_broken_label_file_costs_one_frame(tmp_path) -> None:
    for k in range(3):
        path = label_me(tmp_path / "train", "VID01_t50_full", f"t50_VID01_{k:06d}")
    path.write_text("{")
    label_me(tmp_path / "train", "VID01_t50_full", "t50_VID02_000004")
    frames, rejected = read("cholec-instance-seg", tmp_path)
    assert [f.frame for f in frames] == [0, 1]
    assert "000002.json: not a whole JSON file" in rejected[1]
    assert "expected <part>_VIDnn_<frame>.json of VID01_t50_full" in rejected[0]


# CholecTrack20.


def tool(instrument: int, box: tuple[float, ...] = (0.25, 0.25, 0.5, 0.25), **more: Any) -> dict[str, Any]:
    return {"instrument": instrument, "tool_bbox": list(box), "verb": -1, "target": -1, "triplet": -1, **more}


def track20(root: Path, name: str, frames: dict[int, list[dict[str, Any]]], **more: Any) -> Path:
    """One video of a split folder; `more` goes into its label file."""
    write_json(
        root / name / f"{name}.json",
        {"video": {"name": name}, "annotations": {str(k): v for k, v in frames.items()}} | more,
    )
    for k in frames:
        picture(root / name / "Frames" / f"{k:06d}.png")
    return root / name


def test_videos_are_divided_as_published_less_the_two_with_doubtful_labels() -> None:
    def videos(split: str) -> dict[str, set[int]]:
        found = defaultdict(set)
        for name, role in official_split("cholectrack20", split).items():
            found[role].add(int(name.removeprefix("VID")))
        return dict(found)

    official = {
        "train": numbers("2 4 11 13 17 23 31 37 96 103"),
        "validation": {30, 110},
        "test": numbers("1 6 7 12 25 39 92 111"),
    }
    assert videos("official") == official
    assert videos("default") == {r: v - {30, 31} for r, v in official.items()}
    counts = dataset("cholectrack20").expected
    assert sum(counts[f"official/{r}"] for r in official) == counts["all"] == 35009


def test_frames_count_from_one_at_25_a_second_in_order_of_time(tmp_path) -> None:
    folder = track20(tmp_path / "Training", "VID02", {101: [tool(2)], 26: [tool(0)], 1: []})
    # The release has pictures without labels.
    picture(folder / "Frames" / "000051.png")
    frames, rejected = read("cholectrack20", tmp_path)
    assert rejected == []
    assert [(f.frame, f.seconds, f.labels.tools, f.tool_count) for f in frames] == [
        (1, 0.0, (), 0),
        (26, 1.0, ("grasper",), 1),
        (101, 4.0, ("hook",), 1),
    ]
    assert [f.image for f in frames] == [f"Training/VID02/Frames/{k:06d}.png" for k in (1, 26, 101)]
    assert [f.frame for f in read("cholectrack20", tmp_path, every=2)[0]] == [1, 101]


def test_boxes_may_be_shares_or_pixels_and_keys_spelled_as_in_the_readme(tmp_path) -> None:
    track20(tmp_path / "Training", "VID02", {1: [tool(6)]}, video={"seq": "VID02"})
    pixels = {"category": 3, "tool_bbox": [12.0, 13.0, 23.0, 15.0]}
    track20(tmp_path / "Validation", "VID110", {1: [pixels]})
    shares, other = read("cholectrack20", tmp_path)[0]
    assert [(b.name, b.xyxy) for b in shares.labels.boxes or ()] == [("specimen bag", (16, 12, 48, 24))]
    assert [(b.name, b.xyxy) for b in other.labels.boxes or ()] == [("scissors", (12, 13, 35, 28))]


def test_boxes_a_little_over_the_edge_are_cut_off_and_others_left_out(tmp_path) -> None:
    little, far = (-0.01, 0.5, 0.5, 0.51), (0.9, 0.5, 0.5, 0.25)
    track20(tmp_path / "Training", "VID02", {1: [tool(0, little)], 26: [tool(0, far)]})
    (frame,), rejected = read("cholectrack20", tmp_path)
    assert [b.xyxy for b in frame.labels.boxes or ()] == [(0, 24, pytest.approx(31.36), 48)]
    assert "frame 26" in rejected[0] and "leaves the picture" in rejected[0]


def test_triplets_are_read_where_a_video_has_them(tmp_path) -> None:
    # CholecT50: 17 is grasper retract gallbladder, 60 hook dissect gallbladder.
    track20(
        tmp_path / "Testing",
        "VID06",
        {
            1: [tool(0, triplet=17), tool(2, triplet=60)],
            26: [tool(0, triplet=17), tool(6, triplet=-2)],
            51: [tool(0, triplet=17), tool(0, triplet=-1)],
            76: [tool(2, triplet=17)],
        },
    )
    track20(tmp_path / "Testing", "VID07", {1: [tool(0)]})
    frames, rejected = read("cholectrack20", tmp_path)
    retract, dissect = ("grasper", "retract", "gallbladder"), ("hook", "dissect", "gallbladder")
    assert [(f.video, f.frame, f.labels.triplets) for f in frames] == [
        ("VID06", 1, (retract, dissect)),
        ("VID06", 26, (retract,)),
        ("VID06", 51, None),
        ("VID07", 1, None),
    ]
    assert [f.labels.verbs for f in frames[:2]] == [("retract", "dissect"), ("retract",)]
    assert "frame 76: triplet 17 (grasper retract gallbladder) contradicts tool 2 (hook)" in rejected[0]


def test_phases_are_not_read_because_their_order_is_not_settled(tmp_path) -> None:
    track20(tmp_path / "Training", "VID02", {1: [tool(0, phase=3)]})
    (frame,), _ = read("cholectrack20", tmp_path)
    assert frame.labels.phase is None
    assert Task.PHASE_RECOGNITION not in {q.task for q in frame.ask()}
    assert Task.PHASE_RECOGNITION not in dataset("cholectrack20").tasks


def test_a_video_that_repeats_another_ones_labels_is_noticed(tmp_path) -> None:
    frames = {1: [tool(0)], 26: [tool(2, (0.1, 0.1, 0.2, 0.2))]}
    track20(tmp_path / "Training", "VID17", frames)
    track20(tmp_path / "Validation", "VID30", frames)
    assert {f.video for f in read("cholectrack20", tmp_path)[0]} == {"VID17"}
    found, rejected = read("cholectrack20", tmp_path, split="official")
    assert {f.video for f in found} == {"VID17"}
    assert "VID30.json: repeats the labels of VID17" in rejected[0]
    with pytest.raises(LabelError, match=r"repeats the labels of VID17"):
        list(read_frames(Source(dataset="cholectrack20", root=tmp_path, split="official")))


def test_videos_without_pictures_say_how_to_make_them(tmp_path) -> None:
    folder = track20(tmp_path / "CholecTrack20" / "Testing", "VID01", {1: [tool(0)]})
    shutil.rmtree(folder / "Frames")
    (folder / "VID01.mp4").write_bytes(b"")
    (folder / "VID01.json").rename(folder / "vid01.json")
    with pytest.raises(LayoutError, match=r"VID01\.mp4 is there: run `surgr1 data frames"):
        read("cholectrack20", tmp_path)
    (frame,), rejected = read("cholectrack20", tmp_path, images="skip")
    assert rejected == []
    assert (frame.image, frame.size) == ("CholecTrack20/Testing/VID01/Frames/000001.png", (854, 480))


# Endoscapes.

CATEGORIES = ("cystic_plate", "calot_triangle", "cystic_artery", "cystic_duct", "gallbladder", "tool")


def record(video: int, frame: int, **more: Any) -> dict[str, Any]:
    name = f"{video}_{frame}.jpg"
    body = {"file_name": name, "id": video * 1_000_000 + frame, "video_id": video, "frame_id": None}
    return body | {"width": SIZE[0], "height": SIZE[1], "ds": [0.0, 0.0, 0.0]} | more


def endoscapes(
    folder: Path,
    records: list[dict[str, Any]],
    boxes: tuple[tuple[int, int, list[float]], ...] = (),
    *,
    boxed: list[dict[str, Any]] | None = None,
    first: int = 1,
) -> None:
    """One split folder. `boxes` are (image id, category id, x y w h), `boxed` the pictures of the box file
    (all without it), `first` the id of the first category."""
    categories = [{"id": k, "name": n} for k, n in enumerate(CATEGORIES, start=first)]
    rows = [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in boxes]
    for name, images in (
        ("annotation_ds_coco.json", records),
        ("annotation_coco_vid.json", records),
        ("annotation_coco.json", records if boxed is None else boxed),
    ):
        write_json(folder / name, {"images": images, "annotations": rows, "categories": categories})
    for one in records:
        picture(folder / one["file_name"])


def test_videos_are_divided_and_frames_counted_as_published() -> None:
    for layout in ("endoscapes", "endoscapes-cvs"):
        roles = official_split(layout)
        assert [
            [int(v) for v, r in roles.items() if r == role] for role in ("train", "validation", "test")
        ] == [
            list(range(1, 121)),
            list(range(121, 162)),
            list(range(162, 202)),
        ]
        counts = dataset(layout).expected
        assert sum(n for name, n in counts.items() if "/" in name) == counts["all"]
    assert dataset("endoscapes").expected["all"] == 11090
    # 58,813 pictures less 228 that have no record.
    assert dataset("endoscapes-cvs").expected["all"] == 58813 - 228
    assert (
        dataset("endoscapes-cvs").expected["default/train"] == dataset("endoscapes-cvs").paper_images == 36694
    )


def test_both_layouts_know_the_operations_that_are_cholec80s() -> None:
    known = {1: 67, 2: 68, 3: 70, 4: 71, 7: 72, 10: 96, 33: 110, 121: 66, 127: 103}
    for layout in ("endoscapes", "endoscapes-cvs"):
        assert {v: canonical_video(layout, str(v)) for v in known} == {
            v: f"cholec/{n}" for v, n in known.items()
        }
        assert canonical_video(layout, "162") == "endoscapes/162"


def test_the_vocabulary_that_task_cards_rest_on_is_unchanged() -> None:
    words = vocabulary("endoscapes", "tissue")
    assert dict(words.ids) == {n.replace("_", " "): k for k, n in enumerate(CATEGORIES[:5], start=1)}
    assert words.native == CATEGORIES[:5]
    assert dict(words.aliases) == {
        "hepatocystic triangle": "calot triangle",
        "calots triangle": "calot triangle",
        "liver bed": "cystic plate",
    }


def test_the_majority_of_three_raters_decides(tmp_path) -> None:
    endoscapes(tmp_path / "train", [record(8, 14775, ds=[0.333, 0.667, 1.0])])
    for layout in ("endoscapes", "endoscapes-cvs"):
        (frame,), _ = read(layout, tmp_path)
        assert frame.labels.cvs == (False, True, True)
        assert (frame.video, frame.frame, frame.seconds, frame.role) == ("8", 14775, 591.0, "train")


def test_a_picture_listed_without_boxes_shows_none_and_others_are_not_labelled(tmp_path) -> None:
    records = [record(8, 25 * k) for k in (200, 205, 210)]
    boxes = ((8005000, 6, [1, 2, 10, 10]), (8005000, 6, [30, 2, 10, 10]), (8005000, 5, [5, 5, 20, 20]))
    endoscapes(tmp_path / "train", records, boxes, boxed=records[:2])
    boxed, negative, plain = read("endoscapes", tmp_path)[0]
    assert [(b.name, b.xyxy) for b in boxed.labels.boxes or ()] == [
        ("tool", (1, 2, 11, 12)),
        ("tool", (30, 2, 40, 12)),
        ("gallbladder", (5, 5, 25, 25)),
    ]
    assert (boxed.labels.tissues, boxed.labels.tools, boxed.tool_count) == (("gallbladder",), None, None)
    assert (negative.labels.boxes, negative.labels.tissues) == ((), ())
    assert (plain.labels.boxes, plain.labels.tissues) == (None, None)
    # The paper's other data set from this tree has the critical view alone.
    assert all(f.labels.boxes is None for f in read("endoscapes-cvs", tmp_path)[0])


def test_boxes_go_by_the_files_own_categories(tmp_path) -> None:
    """Training code counts them from 0, the release from 1."""
    endoscapes(tmp_path / "train", [record(8, 5000)], ((8005000, 2, [1, 2, 10, 10]),), first=0)
    (frame,), _ = read("endoscapes", tmp_path)
    assert [b.name for b in frame.labels.boxes or ()] == ["cystic artery"]


def test_boxes_of_a_picture_that_is_no_keyframe_are_not_lost_silently(tmp_path) -> None:
    other = record(8, 5025)
    endoscapes(
        tmp_path / "train", [record(8, 5000)], ((8005025, 5, [1, 2, 10, 10]),), boxed=[record(8, 5000), other]
    )
    frames, rejected = read("endoscapes", tmp_path)
    assert len(frames) == 1
    assert "boxes of 8_5025.jpg, which is not in annotation_ds_coco.json" in rejected[0]


def test_sizes_come_from_pictures_not_from_records(tmp_path) -> None:
    """One record of the release has height and width exchanged."""
    endoscapes(tmp_path / "train", [record(8, 5000, width=SIZE[1], height=SIZE[0])])
    assert [f.size for f in read("endoscapes-cvs", tmp_path)[0]] == [SIZE]


def test_pictures_without_a_record_are_not_read(tmp_path) -> None:
    """228 test pictures have none in annotation_coco_vid.json."""
    endoscapes(tmp_path / "test", [record(190, 5000)])
    picture(tmp_path / "test" / "190_5025.jpg")
    frames, rejected = read("endoscapes-cvs", tmp_path)
    assert ([f.frame for f in frames], rejected) == ([5000], [])


def test_folders_of_links_are_left_alone_and_the_archives_own_folder_is_found(tmp_path) -> None:
    for folder in ("train", "train_seg", "12_5/train_0", "all"):
        endoscapes(tmp_path / "endoscapes" / folder, [record(8, 5000)])
    (frame,), rejected = read("endoscapes", tmp_path)
    assert (frame.image, rejected) == ("endoscapes/train/8_5000.jpg", [])
    # Among other downloads, the parent is not this data set.
    (tmp_path / "cholec80").mkdir()
    with pytest.raises(LayoutError, match=r"not an Endoscapes tree.*found cholec80, endoscapes"):
        read("endoscapes", tmp_path)


def test_frames_of_a_video_come_in_order_of_time_and_every_kth_is_kept(tmp_path) -> None:
    records = [record(v, 25 * k) for k in (230, 210, 1000, 220) for v in (9, 8)]
    endoscapes(tmp_path / "train", records)
    for layout in ("endoscapes", "endoscapes-cvs"):
        frames = read(layout, tmp_path, every=2)[0]
        assert [(f.video, f.frame) for f in frames] == [("9", 5250), ("9", 5750), ("8", 5250), ("8", 5750)]


def test_a_video_in_two_parts_is_read_once(tmp_path) -> None:
    endoscapes(tmp_path / "train", [record(8, 5000)])
    endoscapes(tmp_path / "test", [record(8, 5025), record(170, 5000)])
    frames, rejected = read("endoscapes-cvs", tmp_path)
    assert [(f.video, f.frame, f.role) for f in frames] == [("8", 5000, "train"), ("170", 5000, "test")]
    assert "video 8 is also under train/" in rejected[0]
    with pytest.raises(LabelError, match="also under train/"):
        list(read_frames(Source(dataset="endoscapes-cvs", root=tmp_path)))


def test_labels_are_read_without_any_picture(tmp_path) -> None:
    endoscapes(tmp_path / "train", [record(8, 5000)])
    (tmp_path / "train" / "8_5000.jpg").unlink()
    for layout in ("endoscapes", "endoscapes-cvs"):
        (frame,), rejected = read(layout, tmp_path, images="skip")
        assert (frame.size, rejected) == ((854, 480), [])
        assert "a labelled frame has no picture" in read(layout, tmp_path)[1][0]


@pytest.mark.parametrize("layout", ["cholec-instance-seg", "cholectrack20", "endoscapes", "endoscapes-cvs"])
def test_another_folder_is_not_taken_for_this_layout(layout, tmp_path) -> None:
    (tmp_path / "train" / "VID01").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"found train$"):
        read(layout, tmp_path)


def test_numbers_beyond_all_measure_cost_their_frame_and_nothing_else(tmp_path) -> None:
    huge = 10**400
    label_me(
        tmp_path / "c" / "train", "VID01_t50_full", "t50_VID01_000000", outline("hook", 1, huge, 1, 9, 9)
    )
    label_me(tmp_path / "c" / "train", "VID01_t50_full", "t50_VID01_000001", outline("hook", 1, 1, 1, 9, 9))
    track20(tmp_path / "t" / "Training", "VID02", {1: [tool(0, (huge, 0.1, 0.1, 0.1))], 26: [tool(0)]})
    records = [record(8, 5000), record(8, 5025, ds=[huge, 0, 0]), record(8, 5050)]
    endoscapes(tmp_path / "e" / "train", records, ((8005000, 5, [huge, 2, 10, 10]),))
    for name, folder, kept, lost in (
        ("cholec-instance-seg", "c", [1], 1),
        ("cholectrack20", "t", [26], 1),
        ("endoscapes", "e", [5050], 2),
    ):
        frames, rejected = read(name, tmp_path / folder)
        assert [f.frame for f in frames] == kept
        assert len(rejected) == lost
