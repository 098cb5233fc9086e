"""The truth beside the native trees: keyed as the adapters name frames, agreeing with every label, invisible
to the trees, resumable, and right about what is drawn.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from surgr1.bench.truth import TruthError, TruthRow, read_truth
from surgr1.corpora.sources import Source, read_source
from surgr1.simulator import writers
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import Operation, simulate_operation
from surgr1.simulator.render import render
from surgr1.simulator.scene import Centre, Cholecystectomy, Instrument, Scene
from surgr1.simulator.truth import clips_seen
from surgr1.simulator.world import SimPlan, Tree, simulate

TREES = (
    Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=14, train=(1,)),
    Tree(dataset="sim-renji", centre="sim-renji", seconds=14, test=(1,)),
    Tree(dataset="sim-endoscapes", centre="sim-london-public", seconds=20, train=(11,)),
    Tree(dataset="sim-cuhk", centre="sim-cuhk", seconds=30, test=(1,)),
    Tree(dataset="sim-multibypass140", centre="sim-bern-public", seconds=26, train=(1,)),
)
PLAIN = Centre("sim-plain", noise=0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    simulate(folder, SimPlan(trees=TREES), workers=1)
    return folder


@pytest.fixture(scope="module")
def truth(world):
    return read_truth(world / "truth")


def samples(world: Path, tree: Tree):
    role = "train" if tree.train else "external"
    source = Source(
        dataset=tree.dataset, root=world / tree.dataset, centre=tree.centre, policy="public", role=role
    )
    return list(read_source(source))


@pytest.mark.parametrize("tree", TREES, ids=lambda t: t.dataset)
def test_every_labelled_frame_has_a_truth_that_agrees_with_its_labels(world, truth, tree) -> None:
    found = samples(world, tree)
    keys = {(s.dataset, s.video, s.frame) for s in found}
    assert keys == {k for k in truth if k[0] == tree.dataset}
    for sample in found:
        row, labels = truth[sample.dataset, sample.video, sample.frame], sample.labels
        assert (row.procedure, row.seconds) == (
            sample.procedure,
            sample.seconds if tree.layout != "endoscapes" else row.seconds,
        )
        assert (row.width, row.height) == (sample.width, sample.height)
        for label, true in (
            (labels.phase, row.phase),
            (labels.step, row.step),
            (labels.action, row.action),
            (labels.cvs, row.cvs),
        ):
            assert label is None or label == true
        if labels.tools is not None:
            bag = {"specimen bag"} if tree.layout == "cholec80" and row.shows("specimen bag") else set()
            assert set(labels.tools) == {i.tool for i in row.instruments} | bag
        if labels.triplets is not None:
            assert set(labels.triplets) == {(i.tool, i.verb, i.target) for i in row.instruments}
        # SAR-RARP50's masks show instruments with their shafts, which the truth's boxes leave out
        # (`test_verify.py` compares them with the scene).
        for box in (labels.boxes or ()) if tree.layout != "sar-rarp50" else ():
            true_boxes = [i.box for i in row.instruments] if box.name == "tool" else row.boxes(box.name)
            # CholecT50 rounds to five digits of the picture's width.
            assert min(np.abs(np.subtract(b, box.xyxy)).max() for b in true_boxes) < 0.01
        if labels.tissues is not None:
            assert set(labels.tissues) <= {n for n, _ in row.tissues}


def test_procedures_without_deeds_say_so(truth) -> None:
    for row in truth.values():
        assert all((i.verb is None) == (not row.acts) for i in row.instruments)
        assert (row.phase is None) == (row.procedure == "robot-assisted radical prostatectomy")


def test_the_file_says_that_it_is_simulated_and_lies_outside_the_trees(world) -> None:
    for tree in TREES:
        metadata = pq.read_schema(world / "truth" / f"{tree.dataset}.parquet").metadata
        assert metadata[b"simulated"] == b"true" and b"Not for clinical use" in metadata[b"notice"]
        inside = [p for p in (world / tree.dataset).rglob("*") if p.is_file()]
        assert inside and not any("truth" in p.name or p.suffix == ".parquet" for p in inside)


@pytest.mark.parametrize("tree", TREES, ids=lambda t: t.dataset)
def test_a_tree_is_the_same_bytes_whether_or_not_truth_is_gathered(tmp_path, monkeypatch, tree) -> None:
    number, centre = tree.videos[0], CENTRES[tree.centre]
    scenario = writers.scenario_of(tree.layout)
    whole = simulate_operation(scenario, seed=3, centre=centre, seconds=tree.seconds)
    operation = Operation(whole.procedure, whole.rate, whole.scenes[::5])
    trees = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setattr(writers.writer(tree.layout), "frame_truth", lambda *_: {})
        root = tmp_path / name
        found = writers.write_video(tree.layout, root, number, operation, centre, tree.split)
        writers.finish_tree(tree.layout, root, {number: found}, tree.split)
        trees.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert trees[0] == trees[1] and len(trees[0]) > 2


def test_a_world_is_continued_with_its_truth_and_an_older_one_is_written_anew(tmp_path) -> None:
    # The dissection of a short operation: a few frames.
    tree = Tree(dataset="sim-nanfang", centre="sim-nanfang", seconds=14, train=(1,), test=(2,))
    plan = SimPlan(trees=(tree,))
    frames = simulate(tmp_path, plan, workers=1).rendered
    path = tmp_path / "truth" / "sim-nanfang.parquet"
    before = pq.read_table(path)
    assert before.num_rows == frames > 2
    path.unlink()
    (tmp_path / ".state" / "sim-nanfang-2.json").unlink()
    assert 0 < simulate(tmp_path, plan, workers=1).rendered < frames
    assert pq.read_table(path).equals(before)
    # As the version before truth left it.
    (tmp_path / ".plan.json").write_text(plan.model_dump_json())
    assert simulate(tmp_path, plan, workers=1).rendered == frames


def clipped(*tools: Instrument, **fields) -> tuple[int, int]:
    """Clips in sight, and how many pixels change with the clips."""
    anatomy = Cholecystectomy(fat=0.0, two_structures=1.0, duct_clips=3, artery_clips=2, **fields)
    scene = Scene("laparoscopic cholecystectomy", 1.0, "", anatomy, tools, seed=4)
    bare = replace(scene, anatomy=replace(anatomy, duct_clips=0, artery_clips=0))
    drawn, without = (render(s, PLAIN) for s in (scene, bare))
    changed = np.abs(drawn.image.astype(int) - without.image.astype(int)).sum(-1) > 45
    return clips_seen(anatomy, scene.seed, drawn.ids, PLAIN), int(changed.sum())


def test_clips_are_seen_where_they_change_the_picture() -> None:
    assert clipped(detachment=1.0, bag="open") == (0, 0)
    seen, changed = clipped()
    assert seen == 5 and changed > 200
    # Instruments on the tubes cover some of them.
    cover = (
        Instrument("linear stapler", (0.62, 0.72), (1.1, 0.9), scale=3.0),
        Instrument("linear stapler", (0.60, 0.78), (0.9, 1.3), scale=3.0),
    )
    covered, less = clipped(*cover)
    assert covered < 5 and less < changed


def test_a_missing_or_foreign_truth_is_named(tmp_path) -> None:
    with pytest.raises(TruthError, match="no truth files"):
        read_truth(tmp_path)
    (tmp_path / "sim-cholec80.parquet").write_bytes(b"no parquet")
    with pytest.raises(TruthError, match=r"sim-cholec80\.parquet: not a truth file"):
        read_truth(tmp_path)


def test_rows_hold_the_state_of_the_scene(truth) -> None:
    row = next(r for r in truth.values() if r.dataset == "sim-renji" and r.phase == "gallbladder retraction")
    assert isinstance(row, TruthRow)
    assert row.state["bag"] == "closed" and row.state["duct_cut"] is True and "smoke" in row.state
