"""DSAD and SegCol: hand-made trees with the traps of the reference (datasets-b.md 9 and 10), its splits and
counts. Neither has a sample that may lie here. Round trips and damages are in tests/simulator/test_verify.py.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surgr1.corpora.adapters import dsad, segcol
from surgr1.corpora.datasets import dataset, official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.questions import Frame
from surgr1.corpora.registry import Member, canonical_video, find_leaks
from surgr1.corpora.schema import LabelledBox
from surgr1.corpora.sources import Source, read_frames
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.scenarios import load_scenario
from surgr1.simulator.writers.segcol import sequence

SIZE = (64, 40)
"""Width and height of every hand-made picture."""


def frames(name: str, root: Path, rejects: Rejects | None = None, **kwargs: Any) -> list[Frame]:
    return list(read_frames(Source(dataset=name, root=root, **kwargs), rejects))


def collected(name: str, root: Path, **kwargs: Any) -> tuple[list[Frame], list[str]]:
    rejects = Rejects(strict=False)
    found = frames(name, root, rejects, **kwargs)
    return found, [f"{r.where}: {r.reason}" for r in rejects.rows]


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 40, 40)).save(path)


def mask(path: Path, *parts: tuple[int, int, int, int], value: int = 255) -> None:
    """A grey mask with filled rectangles x1, y1, x2, y2."""
    pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for x1, y1, x2, y2 in parts:
        pixels[y1:y2, x1:x2] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# --- DSAD ---

ORGANS = (
    "abdominal_wall",
    "colon",
    "inferior_mesenteric_artery",
    "intestinal_veins",
    "liver",
    "pancreas",
    "small_intestine",
    "spleen",
    "stomach",
    "ureter",
    "vesicular_glands",
)
ROWS = "images000.png,1,0,0,0,1,0,0,0,1,0,0,0,\nimages001.png,1,1,0,0,0,0,1,0,0,0,0,0,\n"
"""The reference's example (9.2)."""
BOX = (10, 5, 30, 25)


def organ(root: Path, name: str, surgery: str, numbers: list[str], rows: str | None) -> Path:
    """A single-organ folder with one square in every mask."""
    folder = root / name / surgery
    for number in numbers:
        picture(folder / f"image{number}.png")
        mask(folder / f"mask{number}.png", BOX)
    if rows is not None:
        (folder / "weak_labels.csv").write_text(rows)
    return folder


def row(number: int, *organs: str) -> str:
    values = [int(o in organs) for o in ORGANS]
    return f"images{number:03d}.png," + "".join(f"{v}," for v in (*values[:10], 0, values[10])) + "\n"


def test_dsad_has_the_eleven_structures_in_folder_order_and_its_split_by_surgery() -> None:
    assert vocabulary("dsad", "tissue").native == ORGANS
    by_role: dict[str, set[int]] = {}
    for video, role in official_split("dsad").items():
        by_role.setdefault(role, set()).add(int(video))
    assert by_role == {
        "train": {1, 4, 5, 6, 8, 9, 10, 12, 15, 16, 17, 19, 22, 23, 24, 25, 27, 28, 29, 30, 31},
        "validation": {3, 21, 26},
        "test": {2, 7, 11, 13, 14, 18, 20, 32},
    }
    assert set(official_split("dsad")) - set(official_split("dsad", "surgbenchkit")) == {"14"}
    facts = dataset("dsad")
    assert (facts.paper_images, facts.expected["all"]) == (8751, 13195)


def test_weak_labels_say_what_is_visible_and_the_mask_only_where_its_organ_is(tmp_path) -> None:
    organ(tmp_path, "abdominal_wall", "01", ["00", "01"], ROWS)
    first, second = frames("dsad", tmp_path)
    assert first.labels.tissues == ("abdominal wall", "liver", "stomach")
    assert second.labels.tissues == ("abdominal wall", "colon", "small intestine")
    assert first.labels.boxes == (LabelledBox("abdominal wall", (10.0, 5.0, 30.0, 25.0)),)
    assert (first.video, first.frame, first.image) == ("01", 1000, "abdominal_wall/01/image00.png")
    assert (first.size, first.seconds, first.role) == (SIZE, 0.0, "train")
    asked = {(q.task, q.focus): q.answer for q in first.ask()}
    # Liver and stomach are there, but where is not labelled; tools are not labelled at all.
    assert asked == {
        (Task.TISSUE_RECOGNITION, ""): "abdominal wall, liver, stomach",
        (Task.TISSUE_LOCALIZATION, "abdominal wall"): "(10,5),(30,25)",
    }


def test_the_eleventh_column_is_not_read_and_the_twelfth_is_the_vesicular_glands(tmp_path) -> None:
    rows = "images000.png,0,0,0,0,0,0,0,0,0,1,1,0,\nimages001.png,0,0,0,0,0,0,0,0,0,1,0,1,\n"
    organ(tmp_path, "ureter", "01", ["00", "01"], rows)
    assert [f.labels.tissues for f in frames("dsad", tmp_path)] == [
        ("ureter",),
        ("ureter", "vesicular glands"),
    ]


def test_without_weak_labels_nothing_is_taken_for_absent(tmp_path) -> None:
    """As in surgery 14 (9.4): one organ's mask says nothing of the others, so nothing is asked."""
    organ(tmp_path, "liver", "01", ["00"], row(0, "liver"))
    organ(tmp_path, "liver", "14", ["00", "01"], None)
    found, reasons = collected("dsad", tmp_path)
    assert [f.video for f in found] == ["01"]
    assert len(reasons) == 1 and "liver/14/weak_labels.csv: no such file" in reasons[0]
    with pytest.raises(LabelError, match=r"14/weak_labels\.csv: no such file"):
        frames("dsad", tmp_path)


def test_a_picture_of_multilabel_and_stomach_is_one_frame_with_all_masks(tmp_path) -> None:
    rows = row(0, "stomach", "liver", "ureter") + row(1, "stomach")
    organ(tmp_path, "stomach", "02", ["00", "01"], rows)
    several = tmp_path / "multilabel" / "02"
    picture(several / "image00.png")
    mask(several / "mask00_stomach.png", (0, 0, 20, 20))
    mask(several / "mask00_liver.png", (30, 10, 50, 30))
    (several / "weak_labels.csv").write_text(row(0, "stomach", "liver", "ureter"))
    both, alone = frames("dsad", tmp_path)
    assert (both.frame, both.image) == (9000, "multilabel/02/image00.png")
    assert {(b.name, b.xyxy) for b in both.labels.boxes or ()} == {
        ("stomach", (0, 0, 20, 20)),
        ("liver", (30, 10, 50, 30)),
    }
    assert both.labels.tissues == ("liver", "stomach", "ureter")
    assert (alone.frame, alone.image) == (9001, "stomach/02/image01.png")
    mask(several / "mask00_uterus.png", (0, 0, 9, 9))
    _, reasons = collected("dsad", tmp_path)
    assert len(reasons) == 1 and "a mask of uterus, expected one of abdominal_wall" in reasons[0]


def test_pictures_are_paired_by_number_and_one_surgery_is_one_operation(tmp_path) -> None:
    organ(tmp_path, "colon", "03", ["9", "10", "100"], "".join(row(n, "colon") for n in (9, 10, 100)))
    organ(tmp_path, "spleen", "03", ["00"], row(0, "spleen"))
    organ(tmp_path, "spleen", "33", ["00"], row(0, "spleen"))
    found = frames("dsad", tmp_path)
    # Surgery 33 is in no split.
    assert [(f.video, f.frame) for f in found] == [("03", n) for n in (2009, 2010, 2100, 8000)]
    assert {canonical_video("dsad", f.video) for f in found} == {"dsad/3"}
    assert len({(f.video, f.frame) for f in found}) == len(found)
    assert [f.frame for f in frames("dsad", tmp_path, every=3)] == [2009, 8000]
    assert [f.video for f in frames("dsad", tmp_path, role="external")].count("33") == 1


def test_parts_of_an_organ_have_a_box_each_and_specks_none(tmp_path) -> None:
    folder = organ(tmp_path, "small_intestine", "01", ["00"], row(0, "small_intestine"))
    mask(folder / "mask00.png", (0, 0, 10, 10), (20, 10, 30, 20), (50, 30, 55, 35))
    (one,) = frames("dsad", tmp_path)
    assert [b.xyxy for b in one.labels.boxes or ()] == [(0, 0, 10, 10), (20, 10, 30, 20)]
    assert [q.task for q in one.ask()] == [Task.TISSUE_RECOGNITION], "two parts: no single answer to where"


def test_masks_may_be_palettes_or_colour_but_hold_two_values(tmp_path) -> None:
    folder = organ(tmp_path, "liver", "01", ["00"], row(0, "liver"))
    whole = np.asarray(Image.open(folder / "mask00.png"))
    expected = frames("dsad", tmp_path)[0].labels
    indexed = Image.fromarray((whole > 0).astype(np.uint8))
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    for variant in (indexed, Image.fromarray(np.stack([whole] * 3, axis=-1)), Image.fromarray(whole > 0)):
        variant.save(folder / "mask00.png")
        assert frames("dsad", tmp_path)[0].labels == expected
    mask(folder / "mask00.png", BOX, value=254)
    with pytest.raises(LabelError, match=r"mask00\.png: values \[0, 254\], expected 0 and 255"):
        frames("dsad", tmp_path)


def test_labels_that_contradict_each_other_are_rejected(tmp_path) -> None:
    organ(tmp_path, "liver", "01", ["00", "01"], row(0, "spleen") + row(1, "liver"))
    picture(tmp_path / "liver/01/image02.png")
    found, reasons = collected("dsad", tmp_path)
    assert [f.frame for f in found] == [5001]
    assert len(reasons) == 2
    assert "image02.png: a picture without a mask" in reasons[0]
    assert "mask00.png: liver is segmented, but not visible by weak_labels.csv" in reasons[1]


def test_dsad_is_found_one_folder_down_without_raters_and_leftovers(tmp_path) -> None:
    folder = organ(tmp_path / "DSAD", "pancreas", "01", ["00"], row(0, "pancreas"))
    for rater in ("anno_1", "anno_2", "anno_3", "merged"):
        mask(folder / rater / "mask00.png", (0, 0, 60, 38))
    (folder / "._image00.png").write_bytes(b"x")
    (folder / "._mask00.png").write_bytes(b"x")
    (one,) = frames("dsad", tmp_path)
    assert one.image == "DSAD/pancreas/01/image00.png" and (tmp_path / one.image).is_file()
    assert [b.xyxy for b in one.labels.boxes or ()] == [BOX]
    (tmp_path / "DSAD" / "pancreas" / "1b").mkdir()
    with pytest.raises(LabelError, match="no two-digit surgery"):
        frames("dsad", tmp_path)
    with pytest.raises(LayoutError, match=r"not a DSAD tree: expected .*found 01"):
        frames("dsad", tmp_path / "DSAD" / "pancreas")


def test_dsad_labels_are_read_without_a_picture(tmp_path) -> None:
    folder = organ(tmp_path, "liver", "01", ["00"], row(0, "liver"))
    (folder / "image00.png").unlink()
    (one,) = frames("dsad", tmp_path, images="skip")
    assert one.size == SIZE and [b.xyxy for b in one.labels.boxes or ()] == [BOX]
    with pytest.raises(LabelError, match=r"image00\.png: a labelled frame has no picture"):
        frames("dsad", tmp_path)


# --- SegCol ---

TRAIN_SEQUENCE, VALID_SEQUENCE = "Seq_003_33040", "Seq_003_35920"


def segcol_frame(root: Path, part: str, name: str, number: int, **objects: Any) -> dict[str, Any]:
    """A frame with a fold at x = 3 * number, and tools as (key, mask value). Returns what its JSON says."""
    folder = root / part / name
    picture(folder / "imgs" / f"frame_{number:04d}.png")
    pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    pixels[0:30, 3 * number : 3 * number + 2] = 255
    keys: dict[str, Any] = {"colon_folds": {"334fdcfafe6fa33be2fb076": [[3.0 * number, 0.0], [3.0, 29.5]]}}
    for key, value in objects.items():
        pixels[30:40, 50:60] = value
        keys[key] = {"filled": [[50.0, 30.0], [60.0, 30.0], [60.0, 40.0]]}
    path = folder / "segm_maps" / f"{name}_segm_map_{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    body = {
        "metadata": {"name": f"{name}/frame_{number}", "width": SIZE[0], "height": SIZE[1]},
        "annotations": {"0": "", **keys},
    }
    write_json(folder / "json_files" / f"{name}_frame_{number}.json", body)
    return body


def write_json(path: Path, body: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=4))


def test_segcol_has_the_published_lists_and_a_split_by_video() -> None:
    official, ours = official_split("segcol"), official_split("segcol", "by-video")
    videos = {r: {s.split("_")[1] for s, role in official.items() if role == r} for r in official.values()}
    assert Counter(official.values()) == {"train": 50, "validation": 14}
    # 40 masks a sequence: 2 000 and 560 (0.2).
    expected = dataset("segcol").expected
    assert (expected["official/train"], expected["official/validation"]) == (50 * 40, 14 * 40)
    shared = {"003", "011", "015", "016", "021", "022", "034", "063", "094"}
    assert videos["train"] & videos["validation"] == shared
    assert set(ours) == set(official) and Counter(ours.values()) == Counter(official.values())
    operations = {
        split: {leak.operation for leak in find_leaks(Member("segcol", v, r) for v, r in named.items())}
        for split, named in (("official", official), ("by-video", ours))
    }
    assert operations["official"] == {f"segcol/{int(v)}" for v in shared}
    assert operations["by-video"] == set()
    assert dataset("segcol").paper_images == 319


def test_masks_and_pictures_are_paired_by_number_not_by_name(tmp_path) -> None:
    for number in range(12):
        segcol_frame(tmp_path, "train", TRAIN_SEQUENCE, number)
    found = frames("segcol", tmp_path)
    assert [f.frame for f in found] == list(range(12))
    for f in found:
        assert f.image == f"train/{TRAIN_SEQUENCE}/imgs/frame_{f.frame:04d}.png"
        assert [b.xyxy for b in f.labels.boxes or ()] == [(3 * f.frame, 0, 3 * f.frame + 2, 30)]
    assert found[10].seconds == pytest.approx(1.0)
    assert [f.frame for f in frames("segcol", tmp_path, every=5)] == [0, 5, 10]


def test_a_tools_name_comes_from_its_json_file(tmp_path) -> None:
    """10.3: the samples show 129 as balloon and 127 as resection device, unlike the comments in the code."""
    segcol_frame(tmp_path, "valid", VALID_SEQUENCE, 0, balloon=129)
    segcol_frame(tmp_path, "valid", VALID_SEQUENCE, 1, resection_device=127)
    segcol_frame(tmp_path, "valid", VALID_SEQUENCE, 2, captivator=128)
    segcol_frame(tmp_path, "valid", VALID_SEQUENCE, 3)
    segcol_frame(tmp_path, "valid", VALID_SEQUENCE, 4, balloon=127)
    segcol_frame(tmp_path, "valid", VALID_SEQUENCE, 5, forceps=129)
    found, reasons = collected("segcol", tmp_path)
    assert [f.labels.tools for f in found] == [("balloon",), ("resection device",), ("captivator",), ()]
    assert all(f.labels.tissues == ("colon fold",) and f.role == "validation" for f in found)
    assert LabelledBox("balloon", (50.0, 30.0, 60.0, 40.0)) in (found[0].labels.boxes or ())
    asked = {q.task: q.answer for q in found[3].ask()}
    assert asked[Task.TOOL_RECOGNITION] == "none" and Task.TOOL_LOCALIZATION not in asked
    assert len(reasons) == 2
    assert "frame_4.json: tools balloon, but its mask has values [127]" in reasons[0]
    assert "frame_5.json: unknown object 'forceps'" in reasons[1]


def test_without_json_files_only_values_that_samples_explain_have_names(tmp_path) -> None:
    for number, tool in enumerate(({"balloon": 129}, {"resection_device": 127}, {"captivator": 128})):
        segcol_frame(tmp_path, "train", TRAIN_SEQUENCE, number, **tool)
    folder = tmp_path / "train" / TRAIN_SEQUENCE / "json_files"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    found, reasons = collected("segcol", tmp_path)
    assert [f.labels.tools for f in found] == [("balloon",), ("resection device",)]
    assert len(reasons) == 1 and "segm_map_2.png: value 128 has no certain name" in reasons[0]


def test_a_frame_whose_files_disagree_costs_this_frame_alone(tmp_path) -> None:
    bodies = [segcol_frame(tmp_path, "train", TRAIN_SEQUENCE, n, balloon=129) for n in range(7)]
    folder = tmp_path / "train" / TRAIN_SEQUENCE
    path = folder / "json_files" / (TRAIN_SEQUENCE + "_frame_{}.json")
    write_json(Path(str(path).format(0)), bodies[1])
    bodies[1]["metadata"]["width"] = "640"
    write_json(Path(str(path).format(1)), bodies[1])
    del bodies[2]["annotations"]["colon_folds"]
    write_json(Path(str(path).format(2)), bodies[2])
    mask(folder / "segm_maps" / f"{TRAIN_SEQUENCE}_segm_map_3.png", BOX, value=130)
    Image.new("L", (32, 20)).save(folder / "segm_maps" / f"{TRAIN_SEQUENCE}_segm_map_4.png")
    (folder / "imgs" / "frame_0005.png").unlink()
    found, reasons = collected("segcol", tmp_path)
    assert [f.frame for f in found] == [6]
    wanted = (
        "frame_0.json: describes 'Seq_003_33040/frame_1', expected 'Seq_003_33040/frame_0'",
        "frame_1.json: says '640' x 40 pixels, its mask has 64 x 40",
        "frame_2.json: no folds, unlike its mask",
        "segm_map_3.png: values [130] are no class; was the mask resampled?",
        "segm_map_4.png: 32 x 20 pixels, its picture has 64 x 40",
        "imgs/frame_0005.png: a labelled frame has no picture",
    )
    assert [w in r for w, r in zip(wanted, reasons, strict=True)] == [True] * 6
    with pytest.raises(LabelError, match=r"frame_0\.json: describes"):
        frames("segcol", tmp_path)


def test_published_lists_with_their_absolute_prefix_are_compared_with_the_folders(tmp_path) -> None:
    for number in (0, 1):
        segcol_frame(tmp_path, "train", TRAIN_SEQUENCE, number)
    path = tmp_path / "train" / "train_segmentation_maps.csv"
    line = f"/media/somebody/segcol/train/{TRAIN_SEQUENCE}/segm_maps/{TRAIN_SEQUENCE}_segm_map_%d.png\n"
    path.write_text(line % 0 + line % 1)
    assert len(frames("segcol", tmp_path)) == 2
    path.write_text(line % 1 + line % 2 + line.replace("train/", "train/../../") % 3)
    found, reasons = collected("segcol", tmp_path)
    assert len(found) == 2 and len(reasons) == 3
    assert "csv:3: expected .../train/Seq_VVV_SSSSS" in reasons[0]
    assert "mask 2 is listed, but not there" in reasons[1]
    assert "mask 0 is there, but not listed" in reasons[2]


def test_segcol_is_found_one_folder_down_and_other_trees_are_refused(tmp_path) -> None:
    segcol_frame(tmp_path / "data", "train", TRAIN_SEQUENCE, 0)
    picture(tmp_path / "data" / "unlabelled" / "Seq_022_0005064" / "imgs" / "Seq_022_0005076.png")
    (one,) = frames("segcol", tmp_path)
    assert one.image == f"data/train/{TRAIN_SEQUENCE}/imgs/frame_0000.png"
    segcol_frame(tmp_path / "data", "valid", TRAIN_SEQUENCE, 0)
    found, reasons = collected("segcol", tmp_path)
    assert len(found) == 1 and "in train/ and in valid/" in reasons[0]
    with pytest.raises(
        LayoutError, match=r"not a SegCol tree: expected .*found unlabelled|not a SegCol tree"
    ):
        frames("segcol", tmp_path / "data" / "unlabelled")


def test_segcol_labels_are_read_without_a_picture(tmp_path) -> None:
    segcol_frame(tmp_path, "train", TRAIN_SEQUENCE, 0, balloon=129)
    with_pictures = frames("segcol", tmp_path)
    (tmp_path / "train" / TRAIN_SEQUENCE / "imgs" / "frame_0000.png").unlink()
    (one,) = frames("segcol", tmp_path, images="skip")
    assert (one.labels, one.size) == (with_pictures[0].labels, SIZE)


# --- Names ---


def test_scenarios_vocabularies_and_procedures_name_the_same_things() -> None:
    for scenario, adapter in (("abdominal anatomy", dsad), ("colonoscopy", segcol)):
        known = load_scenario(scenario)
        procedure = load_procedure(known.procedure)
        assert procedure.name == adapter.PROCEDURE
        assert set(known.tools) <= {t.name for t in procedure.tools}
        assert set(known.organs) <= {t.name for t in procedure.tissues}
    assert set(load_scenario("abdominal anatomy").organs) == set(vocabulary("dsad", "tissue").names)
    assert set(load_scenario("colonoscopy").tools) == set(vocabulary("segcol", "tool").names)


def test_simulated_sequences_have_official_names() -> None:
    assert sequence(1) == ("train", TRAIN_SEQUENCE) and sequence(51) == ("valid", VALID_SEQUENCE)
    assert len({sequence(n) for n in range(1, 65)}) == 64
    with pytest.raises(KeyError):
        sequence(65)
