"""Sleeve-gastrectomy triplets, for which no public data exist: simulated operations in the generic layout, as
docs/external-data.md asks for them, read back and compared with the scenes' own truth.
"""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from surgr1.corpora.files import LabelError, Rejects
from surgr1.corpora.sources import Source, read_frames
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.simulator.operations import simulate_scenario
from surgr1.simulator.render import render
from surgr1.simulator.scenarios import load_scenario
from surgr1.simulator.scene import Centre
from surgr1.simulator.truth import frame_truth

SLEEVE = load_scenario("sleeve")
SMALL = Centre("sim-small", size=(280, 158), noise=0.0)
PATIENTS = {"p01": 1, "p02": 2}


def triplets_of_the_scenario() -> set[tuple[str, str, str]]:
    """Everything a hand may do, and every tool at rest."""
    deeds = {(d.tool, d.verb, d.target) for s in SLEEVE.stages for hand in s.hands for d in hand}
    return deeds | {(tool, SLEEVE.rest, "null target") for tool in SLEEVE.tools}


def description() -> dict[str, Any]:
    return {
        "format": "surgr1-frames",
        "version": 1,
        "dataset": "sim-sleeve",
        "procedure": "laparoscopic sleeve gastrectomy",
        "centre": "sim-small",
        "vocabularies": {
            "tool": list(SLEEVE.tools),
            "tissue": list(SLEEVE.organs),
            "phase": list(SLEEVE.phases),
            "triplet": sorted(" ".join(t) for t in triplets_of_the_scenario()),
        },
    }


def row(truth: dict[str, Any], image: str) -> dict[str, Any]:
    """One line of frames.jsonl from what a scene shows."""
    seen = truth["instruments"]
    boxes = [{"name": i["tool"], "xyxy": i["box"]} for i in seen]
    boxes += [{"name": t["name"], "xyxy": t["box"]} for t in truth["tissues"]]
    return {
        "video": truth["video"],
        "frame": truth["frame"],
        "seconds": truth["seconds"],
        "image": image,
        "phase": truth["phase"],
        "tools": [i["tool"] for i in seen],
        "tissues": [t["name"] for t in truth["tissues"]],
        "triplets": [[i["tool"], i["verb"], i["target"]] for i in seen],
        "boxes": boxes,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Path, dict[tuple[str, int], dict[str, Any]]]:
    """The folder and the truth of every frame by (video, frame)."""
    root = tmp_path_factory.mktemp("sleeve")
    found: dict[tuple[str, int], dict[str, Any]] = {}
    lines = []
    for video, seed in PATIENTS.items():
        operation = simulate_scenario("sleeve", seed=seed, centre=SMALL, seconds=24)
        for index, scene in enumerate(operation.scenes):
            drawn = render(scene, SMALL)
            image = f"images/{video}_{index:06d}.jpg"
            (root / "images").mkdir(exist_ok=True)
            Image.fromarray(drawn.image).save(root / image)
            truth = frame_truth(video, index, scene, drawn, SMALL)
            found[video, index] = truth
            lines.append(json.dumps(row(truth, image)))
    (root / "frames.jsonl").write_text("\n".join(lines) + "\n")
    (root / "dataset.yaml").write_text(yaml.safe_dump(description()))
    return root, found


def source(root: Path) -> Source:
    return Source(dataset="sim-sleeve", root=root, format="generic", role="external")


def test_what_is_read_is_what_the_scenes_show(world) -> None:
    root, truth = world
    read = {(f.video, f.frame): f for f in read_frames(source(root))}
    assert read.keys() == truth.keys() and len(read) == 48
    for key, frame in read.items():
        labels, shown = frame.labels, truth[key]
        deeds = {(i["tool"], i["verb"], i["target"]) for i in shown["instruments"]}
        assert set(labels.triplets or ()) == deeds
        assert set(labels.tools or ()) == {t for t, _, _ in deeds}
        assert set(labels.verbs or ()) == {v for _, v, _ in deeds}
        assert set(labels.targets or ()) == {x for _, _, x in deeds}
        assert set(labels.tissues or ()) == {t["name"] for t in shown["tissues"]}
        assert labels.phase == shown["phase"]
        boxes = sorted((b.name, tuple(b.xyxy)) for b in labels.boxes or ())
        everything = [(i["tool"], tuple(i["box"])) for i in shown["instruments"]]
        everything += [(t["name"], tuple(t["box"])) for t in shown["tissues"]]
        assert boxes == sorted(everything)
        assert (frame.seconds, frame.size, frame.role) == (shown["seconds"], SMALL.size, "external")
    # What was compared is not empty, and is the operation's own.
    assert {d.phase for d in (f.labels for f in read.values())} <= set(SLEEVE.phases)
    assert len({t for f in read.values() for t in f.labels.triplets or ()}) >= 10


def test_every_frame_is_asked_for_its_triplets_and_its_phase(world) -> None:
    root, truth = world
    for frame in read_frames(source(root)):
        asked = {(q.task, q.focus): q for q in frame.ask()}
        shown = truth[frame.video, frame.frame]
        deeds = {f"{i['tool']} {i['verb']} {i['target']}" for i in shown["instruments"]}
        answer = asked[Task.TRIPLET_EXTRACTION, ""].answer
        assert set(answer.split("; ")) == (deeds or {"none"})
        assert set(asked[Task.TRIPLET_EXTRACTION, ""].options) == {
            " ".join(t) for t in triplets_of_the_scenario()
        }
        assert asked[Task.PHASE_RECOGNITION, ""].answer == shown["phase"]
        assert asked[Task.PHASE_RECOGNITION, ""].options == SLEEVE.phases
        samples = frame.samples()
        assert {s.policy for s in samples} == {"local_only"}
        assert {s.procedure for s in samples} == {"laparoscopic sleeve gastrectomy"}


def test_a_triplet_that_is_not_listed_is_rejected_with_its_line(world, tmp_path) -> None:
    root, _ = world
    lines = (root / "frames.jsonl").read_text().splitlines()
    body = json.loads(lines[2])
    body["triplets"] = [["grasper", "staple", "liver"]]
    broken = tmp_path / "sleeve"
    shutil.copytree(root, broken)
    (broken / "frames.jsonl").write_text("\n".join([*lines[:2], json.dumps(body), *lines[3:]]) + "\n")
    with pytest.raises(
        LabelError, match=r"frames\.jsonl:3: grasper staple liver: not among the \d+ triplets"
    ):
        list(read_frames(source(broken)))
    rejects = Rejects(strict=False)
    assert len(list(read_frames(source(broken), rejects))) == 47
    assert len(rejects.rows) == 1


def test_the_procedure_describes_everything_the_scenario_shows() -> None:
    procedure = load_procedure(SLEEVE.procedure)
    assert {t.name for t in procedure.tools} >= set(SLEEVE.tools)
    assert {t.name for t in procedure.tissues} >= set(SLEEVE.organs)
    assert {v.name for v in procedure.verbs} == {*SLEEVE.verbs, "null verb"}
    assert [p.name for p in procedure.phases] == list(SLEEVE.phases)
    # Stages follow each other in the scenario's order, where one may be left out: all of it is allowed.
    allowed = {p.name: set(p.next) for p in procedure.phases}
    for seed in range(40):
        scenes = simulate_scenario("sleeve", seed=seed, centre=SMALL, seconds=30).scenes
        names = list(dict.fromkeys(s.phase for s in scenes))
        assert all(after in allowed[before] for before, after in pairwise(names))
    assert not procedure.criteria
