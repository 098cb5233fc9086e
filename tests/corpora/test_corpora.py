"""Samples of simulated trees and real pieces: selection, pictures, options, the image grid."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from surgr1.corpora.doctor import layouts_of
from surgr1.corpora.files import LabelError, LayoutError
from surgr1.corpora.grid import ImageError, fit_grid, open_image, prepare_image, scale_boxes_in_text
from surgr1.corpora.select import balanced, spread_over_videos
from surgr1.corpora.sources import Source, read_source
from surgr1.ontology.tasks import Task
from surgr1.simulator.world import SimPlan, Tree, simulate

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


def test_missing_and_truncated_pictures_are_named(world, tmp_path) -> None:
    root = tmp_path / "t50"
    shutil.copytree(world / "sim-cholect50", root)
    (root / "videos" / "VID01" / "000003.png").unlink()
    with pytest.raises(LabelError, match=r"000003\.png: a labelled frame has no picture"):
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
    assert dataset.removeprefix("sim-") in layouts_of(world / dataset)


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
