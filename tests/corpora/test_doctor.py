"""What the doctor says of whole, partial, broken and unknown folders."""

import json
import shutil

import pytest

from surgr1.corpora.doctor import acknowledge, acknowledged, diagnose, examine, layouts_of, recognise
from surgr1.corpora.files import LayoutError
from surgr1.corpora.sources import Source, read_source
from surgr1.simulator.world import SimPlan, Tree, simulate

CENTRE = "sim-strasbourg-public"
TREES = (
    Tree(dataset="sim-cholec80", centre=CENTRE, seconds=14, train=(1, 2), test=(41,)),
    Tree(dataset="sim-cholect50", centre=CENTRE, seconds=14, train=(1,), test=(42,)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    simulate(out, SimPlan(trees=TREES), workers=1)
    return out


@pytest.fixture
def downloads(made, tmp_path):
    """Datasets as a person keeps them: each in a folder of some name, one deeper than the other."""
    root = tmp_path / "downloads"
    shutil.copytree(made / "sim-cholec80", root / "Cholec80 (CAMMA)")
    shutil.copytree(made / "sim-cholect50", root / "camma" / "CholecT50")
    return root


def by_layout(root):
    return {f.layout.removeprefix("sim-"): f for f in diagnose([root]).findings}


def test_datasets_are_found_whatever_their_folders_are_called(downloads) -> None:
    found = dict(recognise(downloads))
    assert "cholec80" in found[downloads / "Cholec80 (CAMMA)"]
    assert "cholect50" in found[downloads / "camma" / "CholecT50"]


def test_a_piece_of_a_dataset_is_partial_with_the_missing_names(downloads) -> None:
    finding = by_layout(downloads)["cholec80"]
    assert (finding.state, finding.videos, finding.expected_videos, finding.frames) == ("partial", 3, 80, 42)
    assert "video03" in finding.missing and "video01" not in finding.missing and len(finding.missing) == 77
    row = finding.row()
    assert row["missing"][-1] == "... and 65 more" and "CC BY-NC-SA" in row["licence"]


def test_one_broken_video_does_not_hide_the_others(downloads) -> None:
    folder = downloads / "Cholec80 (CAMMA)"
    path = folder / "phase_annotations" / "video01-phase.txt"
    path.write_text(path.read_text()[10:])
    (folder / "frames" / "video02" / "video02_000003.png").unlink()
    finding = by_layout(downloads)["cholec80"]
    assert finding.state == "broken" and finding.videos == 2
    text = "\n".join(finding.problems)
    assert "video01-phase.txt" in text and "video02_000003.png: a labelled frame has no picture" in text


def test_a_video_without_a_labelled_frame_is_a_problem(downloads) -> None:
    path = downloads / "camma" / "CholecT50" / "labels" / "VID01.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"annotations": {}, "num_frames": 0}))
    finding = by_layout(downloads)["cholect50"]
    assert finding.state == "broken" and any("VID01: no labelled frame" in p for p in finding.problems)


def test_folders_that_hold_nothing_known_are_named_with_the_nearest_layout(downloads) -> None:
    (downloads / "cholect50_old").mkdir()
    (downloads / "holiday").mkdir()
    said = {p.name: why for p, why in diagnose([downloads]).unrecognised}
    assert "expected labels/VIDnn.json" in said["cholect50_old"] and "no known dataset" in said["holiday"]
    assert not diagnose([downloads]).healthy


def test_labels_alone_can_be_examined(downloads) -> None:
    folder = downloads / "camma" / "CholecT50"
    shutil.rmtree(folder / "videos" / "VID01")
    assert examine(folder, "cholect50").state == "broken"
    assert examine(folder, "cholect50", images="skip").state == "partial"


def test_a_licence_is_acknowledged_in_the_datasets_folder(downloads) -> None:
    folder = downloads / "camma" / "CholecT50"
    assert acknowledged(folder) == ""
    assert any("CC BY-NC-SA 4.0" in line for line in acknowledge(folder))
    assert len(by_layout(downloads)["cholect50"].acknowledged) == len("2026-11-25")
    (folder / "LICENCE-ACKNOWLEDGED.yaml").write_text("yes")
    with pytest.raises(LayoutError, match="not an acknowledgement"):
        acknowledged(folder)
    with pytest.raises(LayoutError, match="no known dataset"):
        acknowledge(downloads)


def test_a_missing_folder_is_an_error(tmp_path) -> None:
    with pytest.raises(LayoutError, match="no such folder"):
        diagnose([tmp_path / "none"])
    assert layouts_of(tmp_path) == ()


def test_simulated_trees_are_never_read_as_real_ones(downloads) -> None:
    found = diagnose([downloads]).findings
    assert {f.layout for f in found} == {"sim-cholec80", "sim-cholect50"}
    with pytest.raises(LayoutError, match="no real data; read it as sim-cholec80"):
        list(read_source(Source(dataset="cholec80", root=downloads / "Cholec80 (CAMMA)")))
