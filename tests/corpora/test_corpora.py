"""Adapters on simulated trees, on real CholecT50 and MultiBypass140 pieces, and on broken files; isolation
against the published overlaps.
"""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from surgr1.corpora import multibypass140
from surgr1.corpora.build import build, check_root
from surgr1.corpora.grid import ImageError, fit_grid, open_image, prepare_image, scale_boxes_in_text
from surgr1.corpora.registry import LeakError, canonical_video, check_isolation, leak_matrix
from surgr1.corpora.schema import read_samples, write_samples
from surgr1.corpora.select import balanced, spread_over_videos
from surgr1.corpora.sources import LabelError, LayoutError, Source, read_source
from surgr1.corpora.splits import official_split
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.tasks import Task
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import simulate_operation
from surgr1.simulator.render import render
from surgr1.simulator.world import _PROCEDURES, SimPlan, Tree, operation_seed, simulate

TREES = (
    Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=14, train=(1,), test=(41,)),
    Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, train=(1,), test=(42,)),
    Tree(
        dataset="sim-endoscapes", centre="sim-london-public", seconds=24, train=(11,), val=(122,), test=(162,)
    ),
    Tree(dataset="sim-sar-rarp50", centre="sim-london-public", seconds=40, train=(1,), test=(41,)),
    Tree(dataset="sim-multibypass140", centre="sim-bern-public", seconds=24, train=(1,), val=(3,), test=(2,)),
)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("world")
    simulate(out, SimPlan(trees=TREES), workers=1)
    return out


def source(world: Path, name: str, **kwargs) -> Source:
    return Source(dataset=name, root=world / name, policy="public", **kwargs)


@pytest.mark.parametrize("tree", TREES, ids=lambda t: t.dataset)
def test_round_trip_of_simulated_truth(world, tree) -> None:
    """Simulated truth -> native files -> adapter -> equal truth, frame by frame, for a training video."""
    number = tree.train[0]
    centre = CENTRES[tree.centre]
    operation = simulate_operation(
        _PROCEDURES[tree.layout], seed=operation_seed(0, tree, number), centre=centre, seconds=tree.seconds
    )
    samples = [s for s in read_source(source(world, tree.dataset)) if s.role == "train"]
    frames = {s.frame: s for s in samples}
    scenes = [
        s for s in operation.scenes if tree.layout != "endoscapes" or s.phase == "calot triangle dissection"
    ]
    assert len(frames) == len(scenes)
    for frame, scene in zip(sorted(frames), scenes, strict=True):
        labels = frames[frame].labels
        drawn = render(scene, centre)
        seen = {i.tool for i, b in zip(scene.instruments, drawn.instrument_boxes, strict=True) if b}
        if tree.layout in ("cholec80", "cholect50", "multibypass140"):
            assert labels.phase == scene.phase
        if tree.layout == "multibypass140":
            assert labels.step == scene.step
        if tree.layout == "sar-rarp50":
            assert labels.action == scene.action
        if tree.layout == "endoscapes":
            assert labels.cvs == scene.cvs
        if tree.layout == "cholect50":
            assert set(labels.tools) == seen
        if tree.layout == "cholec80":
            assert set(labels.tools) - {"specimen bag"} == seen
    assert {s.width for s in samples} == {centre.size[0]}


def test_build_is_deterministic_and_reads_back(world, tmp_path) -> None:
    sources = [source(world, t.dataset) for t in TREES]
    first = build(sources, tmp_path / "a")
    build(sources, tmp_path / "b")
    for t in TREES:
        name = f"{t.dataset}.parquet"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert first["dataset"]["sim-sar-rarp50"] == 80
    samples = list(read_samples(tmp_path / "a" / "sim-cholect50.parquet"))
    write_samples(tmp_path / "c.parquet", samples)
    assert list(read_samples(tmp_path / "c.parquet")) == samples
    assert {s.task for s in samples} >= {
        Task.TRIPLET_EXTRACTION,
        Task.TOOL_LOCALIZATION,
        Task.GRID_POSITION_RECOGNITION,
        Task.TOOL_COUNTING,
    }


def test_selection_is_balanced_and_natural(world) -> None:
    samples = list(read_source(source(world, "sim-sar-rarp50")))
    picked = balanced(samples, 16)
    assert len({s.answer for s in picked}) == 8
    assert [s.sample_id for s in picked] == [s.sample_id for s in balanced(list(reversed(samples)), 16)]
    # More answers than places (boxes, triplets): any of them, not the first in the alphabet.
    many = [replace(s, answer=f"{k:03d}") for k, s in enumerate(samples[:80])]
    numbers = sorted(int(s.answer) for s in balanced(many, 16))
    assert numbers[0] < 20 and numbers[-1] >= 60 and numbers[7] >= 25
    spread = spread_over_videos(samples, 20)
    assert {sum(s.video == v for s in spread) for v in ("video_01", "video_41")} == {10}


BREAKS = [
    (
        "sim-cholec80",
        "phase_annotations/video01-phase.txt",
        lambda t: t.replace("1\tPreparation", "1\tLunch", 1),
        "Lunch",
    ),
    (
        "sim-cholec80",
        "phase_annotations/video01-phase.txt",
        lambda t: t.replace("\n5\t", "\n7\t", 1),
        "expected frame 5",
    ),
    ("sim-cholec80", "phase_annotations/video01-phase.txt", lambda t: t[:200], "video01-phase.txt:15"),
    (
        "sim-cholec80",
        "tool_annotations/video01-tool.txt",
        lambda t: t.replace("Grasper", "Grapser", 1),
        "header",
    ),
    (
        "sim-cholec80",
        "tool_annotations/video01-tool.txt",
        lambda t: t.replace("\n25\t", "\n25\t1\t", 1),
        "8 tab-separated",
    ),
    (
        "sim-cholec80",
        "tool_annotations/video01-tool.txt",
        lambda t: t.replace("\n25\t0", "\n25\t7", 1).replace("\n25\t1", "\n25\t7", 1),
        "0 or 1",
    ),
    ("sim-cholect50", "labels/VID01.json", lambda t: t[:-40], "not a CholecT50 label file"),
    ("sim-cholect50", "labels/VID01.json", lambda t: t.replace('"0": [[', '"0": [[500, ', 1), "15 numbers"),
    (
        "sim-cholect50",
        "labels/VID01.json",
        lambda t: t.replace('"annotations": {"0"', '"annotations": {"1"', 1),
        "duplicate key",
    ),
    (
        "sim-cholect50",
        "labels/VID01.json",
        lambda t: t.replace('"annotations": {"0"', '"annotations": {"x"', 1),
        "not a frame number",
    ),
    (
        "sim-endoscapes",
        "train/annotation_ds_coco.json",
        lambda t: t.replace('"ds": [0.0', '"ds": [7.0', 1),
        "means of raters",
    ),
    ("sim-endoscapes", "train/annotation_ds_coco.json", lambda t: t.replace(".jpg", ".gif"), "frame"),
    (
        "sim-endoscapes",
        "train/annotation_coco.json",
        lambda t: t.replace('"category_id": 5', '"category_id": 55', 1),
        "unknown category",
    ),
    (
        "sim-sar-rarp50",
        "video_01/action_discrete.txt",
        lambda t: t.replace("000000000,0", "000000000,8"),
        "1-based",
    ),
    (
        "sim-sar-rarp50",
        "video_01/action_discrete.txt",
        lambda t: t.replace("000000006,0", "000000000,0"),
        "does not follow",
    ),
    (
        "sim-sar-rarp50",
        "video_01/action_discrete.txt",
        lambda t: t.replace("000000006,0", "6;0"),
        "frame,class",
    ),
    (
        "sim-multibypass140",
        "labels/bern/labels_by70/BBP01.mp4.json",
        lambda t: t.replace('"label_id": 0', '"label_id": 1', 1),
        "named",
    ),
    (
        "sim-multibypass140",
        "labels/bern/labels_by70/BBP01.mp4.json",
        lambda t: t[: len(t) // 2],
        "label file",
    ),
    (
        "sim-multibypass140",
        "labels/bern/labels_by70/BBP01.mp4.json",
        lambda t: t.replace('"start": 0,', '"start": 9000000,', 1),
        "before its start",
    ),
]


@pytest.mark.parametrize(
    ("dataset", "name", "damage", "message"), BREAKS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_damaged_label_is_named(world, tmp_path, dataset, name, damage, message) -> None:
    root = tmp_path / dataset
    shutil.copytree(world / dataset, root)
    path = root / name
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    with pytest.raises(SurgR1Error, match=message) as caught:
        list(read_source(Source(dataset=dataset, root=root)))
    assert Path(name).name in str(caught.value) or dataset in str(caught.value)


def test_missing_and_truncated_pictures_are_named(world, tmp_path) -> None:
    root = tmp_path / "t50"
    shutil.copytree(world / "sim-cholect50", root)
    (root / "videos" / "VID01" / "000003.png").unlink()
    with pytest.raises(ImageError, match=r"000003\.png"):
        list(read_source(Source(dataset="sim-cholect50", root=root)))
    picture = root / "videos" / "VID01" / "000002.png"
    picture.write_bytes(picture.read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"000002\.png.*whole"):
        open_image(picture)


@pytest.mark.parametrize("dataset", [t.dataset for t in TREES])
def test_the_wrong_kind_of_root_is_refused(world, dataset) -> None:
    other = "sim-sar-rarp50" if dataset != "sim-sar-rarp50" else "sim-cholec80"
    with pytest.raises(LayoutError, match=r"not a|no "):
        list(read_source(Source(dataset=dataset, root=world / other)))
    assert check_root(world / dataset)["layout"] == dataset.removeprefix("sim-")


def test_a_pickle_that_wants_code_is_refused(tmp_path) -> None:
    path = tmp_path / "1fps_0.pickle"
    path.write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(LabelError, match="refused"):
        multibypass140.load_pickle(path)


def test_real_cholect50_clips(real_samples) -> None:
    root = real_samples / "cholect50"
    samples = list(
        read_source(Source(dataset="cholect50", root=root, train=("VID68", "VID70"), test=("VID75",)))
    )
    frames = {(s.video, s.frame) for s in samples}
    assert {v: sum(x[0] == v for x in frames) for v in ("VID68", "VID70", "VID75")} == {
        "VID68": 243,
        "VID70": 164,
        "VID75": 120,
    }
    sixteen = {s.task: s.answer for s in samples if s.video == "VID68" and s.frame == 16}
    # datasets-a.md 3.2: triplets 7, 19 and 94.
    assert (
        sixteen[Task.TRIPLET_EXTRACTION]
        == "grasper grasp gallbladder; grasper retract liver; grasper null verb null target"
    )
    assert sixteen[Task.TOOL_COUNTING] == "3"
    box = next(b for s in samples if s.video == "VID68" and s.frame == 40 for b in s.labels.boxes or ())
    assert box.xyxy[0] == pytest.approx(0.4432 * 387, abs=0.2)


def test_real_multibypass_labels_equal_the_released_pickle(real_samples) -> None:
    root = real_samples / "multibypass140" / "labels" / "bern"
    table = multibypass140.load_pickle(root / "labels_by70_splits" / "labels" / "val" / "1fps_1.pickle")
    from surgr1.ontology.vocabularies import vocabulary

    ids = {k: vocabulary("multibypass140", k).ids for k in ("phase", "step")}
    compared = 0
    for video, rows in table.items():
        path = root / "labels_by70" / f"{video}.mp4.json"
        if not path.is_file():
            continue
        mine = multibypass140.label_rows(path)
        for row in rows:
            phase, step = mine[row["Original_frame_id"]]
            assert (ids["phase"][phase], ids["step"][step]) == (row["Phase_gt"], row["Step_gt"])
            compared += 1
    assert compared > 10_000


def test_published_overlaps_of_the_official_splits() -> None:
    """datasets-a.md 10.3: Cholec80 test <- CholecT50 train 15 videos, CholecT50 test <- Cholec80 train 4
    videos.
    """
    roles = [(d, v, r) for d in ("cholec80", "cholect50") for v, r in official_split(d).items()]
    rows = {(r.train, r.evaluation): {int(v.split("/")[1]) for v in r.videos} for r in leak_matrix(roles)}
    assert {6, 10, 14, 32} <= rows[("cholec80", "cholect50")]
    test = [(d, v, r) for d, v, r in roles if not (d == "cholect50" and r == "validation")]
    rows = {(r.train, r.evaluation): {int(v.split("/")[1]) for v in r.videos} for r in leak_matrix(test)}
    assert rows[("cholec80", "cholect50")] == {6, 10, 14, 32}
    assert rows[("cholect50", "cholec80")] == {43, 47, 48, 49, 52, 56, 57, 60, 62, 65, 66, 68, 70, 75, 79}
    assert (
        canonical_video("endoscapes", "3")
        == canonical_video("cholec80", "video70")
        == canonical_video("cholect50", "VID70")
    )


def test_an_evaluation_video_in_training_is_refused(world) -> None:
    leaky = [source(world, "sim-cholec80"), source(world, "sim-cholect50", test=("VID01",))]
    with pytest.raises(LeakError, match="sim-cholec80 video01"):
        check_isolation(s for x in leaky for s in read_source(x))
    check_isolation(s for t in TREES for s in read_source(source(world, t.dataset)))


def test_grid_follows_qwens_smart_resize() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    for width, height in [(854, 480), (1920, 1080), (448, 252), (405, 227), (33, 500), (56, 28), (3000, 200)]:
        h, w = smart_resize(height, width, factor=28, min_pixels=16 * 784, max_pixels=84 * 784)
        assert fit_grid(width, height, min_tokens=16, max_tokens=84) == (w, h)


def test_images_are_prepared_once_and_boxes_follow(tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (448, 252), (9, 8, 7)).save(path)
    made = prepare_image(path, tmp_path / "cache", min_tokens=16, max_tokens=84)
    stamp = made.path.stat().st_mtime_ns
    assert (
        prepare_image(path, tmp_path / "cache", min_tokens=16, max_tokens=84).path.stat().st_mtime_ns == stamp
    )
    assert (made.width % 28, made.height % 28) == (0, 0)
    assert scale_boxes_in_text("box (10,20),(30,40).", (100, 100), (200, 50)) == "box (20,10),(60,20)."
    with pytest.raises(ImageError, match=r"none\.png"):
        prepare_image(tmp_path / "none.png", tmp_path, min_tokens=1, max_tokens=9)


def test_simulated_trees_say_that_they_are(world) -> None:
    for tree in TREES:
        assert "Simulated" in (world / tree.dataset / "SIMULATED.txt").read_text()
    info = json.loads((world / "sim-cholect50" / "labels" / "VID01.json").read_text())["info"]
    assert "Simulated" in info["description"]


def test_options_are_listed_for_the_share_that_was_asked_for(world) -> None:
    samples = list(read_source(source(world, "sim-sar-rarp50", options_share=0.5)))
    listed = [s for s in samples if s.protocol == "options"]
    assert 0.3 < len(listed) / len(samples) < 0.7 and all(len(s.options) == 8 for s in listed)
    triplets = read_source(source(world, "sim-cholect50", options_share=1.0))
    assert {s.protocol for s in triplets if s.task is Task.TRIPLET_EXTRACTION} == {"open"}
