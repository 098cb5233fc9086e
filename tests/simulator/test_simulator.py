"""Operations follow the ontology, pictures show their labels, rendering is deterministic, a plan is
resumable.
"""

from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np
import pytest
from PIL import Image

from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.contact_sheet import contact_sheet
from surgr1.simulator.geometry import anchor
from surgr1.simulator.instruments import _DRAW, DrawError
from surgr1.simulator.operations import (
    BYPASS,
    CHOLECYSTECTOMY,
    CVS_THRESHOLD,
    PROSTATECTOMY,
    simulate_operation,
)
from surgr1.simulator.render import render
from surgr1.simulator.scene import (
    Centre,
    Cholecystectomy,
    Effects,
    GastricBypass,
    Instrument,
    Prostatectomy,
    Scene,
)
from surgr1.simulator.world import SimPlan, Tree, default_plan, simulate

PLAIN = Centre("sim-plain", noise=0.0)


@pytest.mark.parametrize("procedure", [CHOLECYSTECTOMY, PROSTATECTOMY, BYPASS])
@pytest.mark.parametrize("seed", range(6))
def test_operations_follow_the_ontology(procedure, seed) -> None:
    operation = simulate_operation(procedure, seed=seed, centre=CENTRES["sim-strasbourg-public"], seconds=60)
    assert len(operation.scenes) == 60
    assert operation == simulate_operation(
        procedure, seed=seed, centre=CENTRES["sim-strasbourg-public"], seconds=60
    )
    known = load_procedure(procedure)
    runs = [k for k, _ in groupby(s.phase or s.action for s in operation.scenes)]
    for before, after in pairwise(runs):
        assert after in known.activity(before).next
    tools = {t.name for t in known.tools}
    triplets = set(vocabulary("cholect50", "triplet").names)
    for scene in operation.scenes:
        for i in scene.instruments:
            assert i.tool in tools
            assert procedure != CHOLECYSTECTOMY or f"{i.tool} {i.verb} {i.target}" in triplets
        if procedure == BYPASS:
            assert scene.step in vocabulary("multibypass140", "step").names
    if procedure == CHOLECYSTECTOMY:
        for before, after in pairwise(operation.scenes):
            assert all(a >= b for a, b in zip(after.cvs, before.cvs, strict=True)), "criteria never go back"
            degrees = (after.anatomy.two_structures, after.anatomy.window, after.anatomy.plate)
            assert after.cvs == tuple(d >= CVS_THRESHOLD for d in degrees)


def scene(
    anatomy=None, *tools: Instrument, effects: Effects | None = None, procedure: str = CHOLECYSTECTOMY
) -> Scene:
    return Scene(
        procedure, 1.0, "", anatomy or Cholecystectomy(), tools, effects=effects or Effects(), seed=4
    )


def test_rendering_is_deterministic() -> None:
    one = scene(None, Instrument("hook", (0.5, 0.5), (1.1, 0.8)), effects=Effects(smoke=0.5, blood=0.5))
    assert np.array_equal(render(one, CENTRES["sim-renji"]).image, render(one, CENTRES["sim-renji"]).image)


@pytest.mark.parametrize("tool", sorted(_DRAW))
def test_every_tool_shows_inside_its_box(tool) -> None:
    empty = render(scene(), PLAIN).image.astype(int)
    drawn = render(scene(None, Instrument(tool, (0.55, 0.5), (1.1, 0.8))), PLAIN)
    (box,) = drawn.instrument_boxes
    assert box is not None
    x1, y1, x2, y2 = (int(v) for v in box)
    change = np.abs(drawn.image.astype(int) - empty).sum(-1) > 40
    assert change[y1:y2, x1:x2].mean() > 0.15


def test_a_tool_out_of_sight_has_no_box_and_an_unknown_one_is_refused() -> None:
    round_view = replace(PLAIN, vignette=0.5)
    assert render(scene(None, Instrument("hook", (0.99, 0.99), (1.3, 1.3))), round_view).instrument_boxes == (
        None,
    )
    assert render(scene(), round_view).image[0, 0].sum() == 0
    with pytest.raises(DrawError, match="laser"):
        render(scene(None, Instrument("laser", (0.5, 0.5), (1, 1))), PLAIN)


CHANGES = [
    (Cholecystectomy(), {"fat": 0.0}),
    (Cholecystectomy(fat=0.0), {"two_structures": 1.0, "window": 1.0}),
    (Cholecystectomy(fat=0.0), {"window": 1.0}),
    (Cholecystectomy(fat=0.0), {"plate": 1.0}),
    (Cholecystectomy(fat=0.0), {"duct_clips": 3}),
    (Cholecystectomy(fat=0.0), {"duct_cut": True}),
    (Cholecystectomy(fat=0.0), {"detachment": 0.6}),
    (Cholecystectomy(fat=0.0, detachment=1.0), {"bag": "open"}),
    (Cholecystectomy(fat=0.0, detachment=1.0), {"bag": "closed"}),
    (Prostatectomy(), {"needle_in_tissue": 0.5}),
    (Prostatectomy(needle_in_tissue=0.5), {"needle_emerged": True, "thread_tension": 1.0}),
    (Prostatectomy(needle_visible=False), {"loops": 3}),
    (Prostatectomy(needle_visible=False), {"stitches": 3}),
    *[
        (GastricBypass(), {"view": v})
        for v in ("stomach", "omentum", "jejunum", "gastrojejunal", "jejunojejunal", "petersen", "mesentery")
    ],
    (GastricBypass("stomach"), {"staple_line": 0.8}),
    (GastricBypass("gastrojejunal"), {"dye": 0.9}),
    (GastricBypass("mesentery", defect=1.0), {"sutures": 4}),
    (GastricBypass(), {"drain": True}),
]


@pytest.mark.parametrize(("anatomy", "change"), CHANGES, ids=lambda v: str(v)[:40])
def test_every_state_of_the_anatomy_shows(anatomy, change) -> None:
    before = render(scene(anatomy), PLAIN).image.astype(int)
    after = render(scene(replace(anatomy, **change)), PLAIN).image.astype(int)
    changed = (np.abs(before - after).sum(-1) > 45).sum()
    assert changed > 120, f"{change} changes only {changed} pixels"


def test_tools_can_be_told_apart_from_small_crops() -> None:
    """A linear classifier on 12 x 12 crops of the working end names held-out cholecystectomy tools: labels
    are visible.
    """
    from PIL import Image
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    tools = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator")
    features, labels = [], []
    for k in range(40):
        for label, tool in enumerate(tools):
            tip = (rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.65))
            one = Instrument(
                tool, tip, (1.1, rng.uniform(0.6, 0.9)), opening=rng.uniform(0.1, 0.6), scale=1.15
            )
            drawn = render(replace(scene(None, one), seed=k), PLAIN)
            crop = (
                Image.fromarray(drawn.image)
                .crop(tuple(int(v) for v in drawn.instrument_boxes[0]))
                .resize((12, 12))
            )
            features.append(np.asarray(crop, float).ravel() / 255)
            labels.append(label)
    split = 30 * len(tools)
    model = LogisticRegression(max_iter=2000).fit(features[:split], labels[:split])
    assert model.score(features[split:], labels[split:]) > 0.9


def test_anchors_exist_for_what_can_be_reached() -> None:
    for target in vocabulary("cholect50", "target").names:
        found = anchor(Cholecystectomy(), target)
        assert (found is None) == (target in ("specimen bag", "null target"))
    assert anchor(Cholecystectomy(detachment=1.0, bag="open"), "specimen bag") is not None


def test_finished_videos_are_kept_and_another_plan_starts_anew(tmp_path) -> None:
    tree = Tree(dataset="sim-sar-rarp50", centre="sim-cuhk", seconds=40, train=(1,), test=(41,))
    first = simulate(tmp_path, SimPlan(trees=(tree,)), workers=1)
    assert (first.rendered, first.frames) == (80, 80)
    picture = tmp_path / "sim-sar-rarp50" / "video_01" / "rgb" / "000000006.png"
    data = picture.read_bytes()
    masks = sorted((tmp_path / "sim-sar-rarp50" / "video_01" / "segmentation").iterdir())
    assert [m.stem for m in masks] == [f"{60 * k:09d}" for k in range(4)]
    values = [np.asarray(Image.open(m)) for m in masks]
    assert {v.shape for v in values} == {np.asarray(Image.open(picture)).shape[:2]}
    seen = set(np.unique(np.stack(values)).tolist())
    # Claspers and shafts always, needle and thread somewhere in the clip; never a class that is not drawn.
    assert {0, 1, 3, 4, 5} <= seen <= {0, 1, 3, 4, 5, 6}
    (tmp_path / ".state" / "sim-sar-rarp50-1.json").unlink()
    again = simulate(tmp_path, SimPlan(trees=(tree,)), workers=1)
    assert again.rendered == 40 and picture.read_bytes() == data
    other = simulate(tmp_path, SimPlan(seed=1, trees=(tree,)), workers=1)
    assert other.rendered == 80 and picture.read_bytes() != data


def test_external_centres_are_named_simulated_and_never_trained_on() -> None:
    plan = default_plan("demo")
    external = {"sim-west-china", "sim-nanfang", "sim-renji", "sim-strasbourg", "sim-cuhk"}
    assert all(c.startswith("sim-") for c in CENTRES)
    assert {t.dataset for t in plan.trees if t.centre in external} == external
    assert not any(t.train for t in plan.trees if t.centre in external)


def test_contact_sheet(tmp_path) -> None:
    assert contact_sheet(tmp_path / "sheet.png").stat().st_size > 100_000
