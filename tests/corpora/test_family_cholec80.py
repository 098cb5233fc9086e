"""Cholec80, Cholec80-CVS, Cholec80-VQA, CholecT45 and the splits of CholecT50: numbers and traps of the
reference, hand-made cases, real samples. Round trips and damages are in tests/simulator/test_verify.py.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image

from surgr1.corpora.datasets import dataset, official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.frame_plans import plan_frames
from surgr1.corpora.registry import Member, canonical_video, leak_matrix
from surgr1.corpora.sources import Source, read_frames, read_source
from surgr1.corpora.video import extract
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import triplet_parts, vocabulary
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import Operation, simulate_operation
from surgr1.simulator.writers import finish_tree, write_video

TOOLS = "Frame\tGrasper\tBipolar\tHook\tScissors\tClipper\tIrrigator\tSpecimenBag\n"


def cholec80(root: Path, video: int, phases: dict[str, int], *, pictures: bool = True) -> Path:
    """A Cholec80 tree with one more video: phase -> 25-fps frames; a tool row a second as in the release."""
    frames = [name for name, count in phases.items() for _ in range(count)]
    seconds = -(-len(frames) // 25)
    # As in the release, phases go on for one more sample than tools.
    frames += [frames[-1]] * (25 * seconds + 1 - len(frames))
    name = f"video{video:02d}"
    for folder in ("phase_annotations", "tool_annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{k}\t{p}\n" for k, p in enumerate(frames))
    (root / "phase_annotations" / f"{name}-phase.txt").write_text(f"Frame\tPhase\n{rows}")
    rows = "".join(f"{25 * k}\t{k % 2}\t0\t1\t0\t0\t0\t0\n" for k in range(seconds))
    (root / "tool_annotations" / f"{name}-tool.txt").write_text(TOOLS + rows)
    if pictures:
        (root / "frames" / name).mkdir(parents=True)
        for k in range(seconds):
            Image.new("RGB", (16, 9)).save(root / "frames" / name / f"{name}_{k + 1:06d}.png")
    return root


TIMES = ["initial_minute", "initial_second", "final_minute", "final_second"]
CRITERIA = ["two_structures", "cystic_plate", "hepatocystic_triangle"]
HEADER = ["video", "critical_view", *TIMES, *CRITERIA, "Total"]


def row(video: int, first: int, last: int, two: int, plate: int, triangle: int) -> list[object]:
    """A row of Cholec80-CVS; times in seconds."""
    total = two + plate + triangle
    return [
        video,
        int(total >= 5),
        first // 60,
        first % 60,
        last // 60,
        last % 60,
        two,
        plate,
        triangle,
        total,
    ]


def workbook(path: Path, rows: list[list[object]], header: list[str] = HEADER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for values in [header, *rows]:
        book.active.append(values)
    book.save(path)


def numbers(layout: str, split: str, role: str) -> set[int]:
    """The numbers of a split's videos in one role."""
    return {
        int("".join(c for c in v if c.isdigit()))
        for v, r in official_split(layout, split).items()
        if r == role
    }


# --- splits and facts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "split", "sizes"),
    [
        ("cholec80", "40-40", (40, 0, 40)),
        ("cholec80", "32-8-40", (32, 8, 40)),
        ("cholec80", "40-8-32", (40, 8, 32)),
        ("cholec80", "40-20-20", (40, 20, 20)),
        ("cholec80", "36-7-15", (36, 7, 15)),
        ("cholec80-cvs", "baseline", (50, 15, 15)),
        ("cholec80-vqa", "32-8", (32, 8, 0)),
        ("cholect50", "rdv", (35, 5, 10)),
        ("cholect50", "challenge", (40, 5, 5)),
        ("cholect50", "crossval-3", (35, 5, 10)),
        ("cholect45", "crossval-3", (31, 5, 9)),
    ],
)
def test_splits_have_the_published_sizes(layout, split, sizes) -> None:
    assert tuple(len(numbers(layout, split, r)) for r in ("train", "validation", "test")) == sizes


def test_lists_of_the_reference() -> None:
    """datasets-a.md 2.5 and 10.5, datasets-b.md 3.4."""
    assert numbers("cholec80-cvs", "baseline", "test") == {
        *(5, 6, 7, 9, 14, 22, 24, 26, 29, 33, 35, 39, 53, 55, 61)
    }
    assert numbers("cholec80-cvs", "baseline", "validation") == {
        *(1, 2, 10, 16, 17, 28, 32, 46, 47, 57, 59, 63, 65, 67, 70)
    }
    assert numbers("cholec80-vqa", "default", "validation") == {5, 11, 12, 17, 19, 26, 27, 31}
    assert numbers("cholec80-vqa", "default", "train") | {5, 11, 12, 17, 19, 26, 27, 31} == set(range(1, 41))
    dropped = {50, 78, 49, 52, 56, 57, 60, 62, 65, 66, 67, 68, 70, 71, 72, 75, 79}
    assert numbers("cholec80", "36-7-15", "test") == set(range(49, 81)) - dropped
    assert numbers("cholec80", "36-7-15", "train") == set(range(1, 41)) - {6, 10, 14, 32}


def test_cross_validation_of_cholect50_and_cholect45() -> None:
    """datasets-a.md 3.5: folds are disjoint; CholecT45's lack each fold's last video; validation is what the
    official loader takes (the last five of the other folds joined), not what its figure shows.
    """
    every = {*numbers("cholect50", "rdv", "train"), *numbers("cholect50", "rdv", "validation")}
    every |= numbers("cholect50", "rdv", "test")
    assert len(every) == 50
    tested = [numbers("cholect50", f"crossval-{k}", "test") for k in range(1, 6)]
    assert sum(map(len, tested)) == 50 and set.union(*tested) == every
    assert [sorted(t - numbers("cholect45", f"crossval-{k}", "test")) for k, t in enumerate(tested, 1)] == [
        [111],
        [96],
        [103],
        [110],
        [92],
    ]
    assert numbers("cholect50", "crossval-1", "validation") == {1, 56, 4, 13, 92}
    assert numbers("cholect50", "crossval-5", "validation") == {75, 22, 49, 12, 110}
    assert numbers("cholect45", "crossval-1", "validation") == {74, 1, 56, 4, 13}
    for k in range(1, 6):
        assert official_split("cholect50", f"cholect45-crossval-{k}") == official_split(
            "cholect45", f"crossval-{k}"
        )
        for layout, size in (("cholect50", 50), ("cholect45", 45)):
            assert len(official_split(layout, f"crossval-{k}")) == size


def test_folds_of_cholec80_cvs_are_the_released_ones(real_samples) -> None:
    folds = json.loads((real_samples / "cholec80-cvs" / "folds.json").read_text())["folds"]
    for k, videos in enumerate(folds, start=1):
        roles = official_split("cholec80-cvs", f"fold-{k}")
        assert {v for v, r in roles.items() if r == "validation"} == set(videos)
        assert len(roles) == 80 and {v for v, r in roles.items() if r == "train"} == set(roles) - set(videos)


def test_one_operation_has_one_name_in_the_family() -> None:
    names = {"cholec80": "video07", "cholec80-cvs": "video07", "cholec80-vqa": "7", "cholect45": "VID07"}
    assert {canonical_video(d, v) for d, v in names.items()} == {canonical_video("cholect50", "VID07")}
    assert {canonical_video(f"sim-{d}", v) for d, v in names.items()} == {"sim:cholec/7"}


def test_published_leaks_between_the_family() -> None:
    """datasets-a.md 10.3, the row of Cholec80-CVS's test videos, and CAMMA's joint split against rdv."""
    members = [
        Member("cholec80-cvs", v, r)
        for v, r in official_split("cholec80-cvs", "baseline").items()
        if r == "test"
    ]
    members += [
        Member(d, v, r)
        for d in ("cholec80", "cholect50", "cholec80-vqa")
        for v, r in official_split(d).items()
    ]
    shared = {
        w.train: {int(v.split("/")[1]) for v in w.videos}
        for w in leak_matrix(members)
        if w.evaluation == "cholec80-cvs"
    }
    assert shared == {
        "cholec80": {5, 6, 7, 9, 14, 22, 24, 26, 29, 33, 35, 39},
        "cholect50": {5, 22, 26, 35},
        "cholec80-vqa": {6, 7, 9, 14, 22, 24, 29, 33, 35, 39},
    }
    joint = [
        Member(d, v, r)
        for d, split in (("cholec80", "36-7-15"), ("cholect50", "rdv"))
        for v, r in official_split(d, split).items()
        if r != "validation"
    ]
    assert leak_matrix(joint) == []


def test_facts_of_cholect50_equal_the_real_clips(real_samples) -> None:
    """Vocabularies, ids of triplet parts, licence and video names against the released JSON and mapping."""
    root = real_samples / "cholect50" / "cholect50-challenge-val"
    facts = dataset("cholect50")
    kinds = {"instrument": "tool", "verb": "verb", "target": "target", "phase": "phase", "triplet": "triplet"}
    for path in sorted((root / "labels").glob("*.json")):
        body = json.loads(path.read_text())
        for name, kind in kinds.items():
            assert tuple(body["categories"][name][str(k)] for k in range(len(body["categories"][name]))) == (
                vocabulary("cholect50", kind).native
            )
        assert facts.licence in body["licenses"]["name"]
        assert path.stem in official_split("cholect50", "rdv")
    # The challenge's own validation clips are these videos of its split, so none is a test video.
    assert {p.stem for p in (root / "labels").glob("*.json")} & {
        v for v, r in official_split("cholect50", "challenge").items() if r == "test"
    } == set()
    for path in (root / "label_mapping.txt", real_samples / "cholect50" / "ivtmetrics-maps.txt"):
        lines = [[int(n) for n in c] for c in csv.reader(path.read_text().splitlines()[1:]) if c]
        assert len(lines) == 100
        for triplet, tool, verb, target, tool_verb, tool_target in lines:
            words = (
                vocabulary("cholect50", k).names[n]
                for k, n in (("tool", tool), ("verb", verb), ("target", target))
            )
            assert triplet_parts(vocabulary("cholect50", "triplet").names[triplet]) == tuple(words)
            assert (tool_verb, tool_target) == (tool * 10 + verb, tool * 15 + target)
    expected = facts.expected
    assert sum(expected[f"rdv/{r}"] for r in ("train", "validation", "test")) == expected["all"] == 100_863
    assert expected["rdv/train"] == facts.paper_images


# --- Cholec80 ---------------------------------------------------------------------------------------------


def test_three_frame_numberings_of_cholec80_agree(tmp_path) -> None:
    """datasets-a.md 1.1: picture k (from 1) is 25-fps frame 25 (k - 1) is second k - 1; the phase file's last
    sample has no picture and is dropped.
    """
    root = cholec80(tmp_path, 1, {"Preparation": 30, "CalotTriangleDissection": 45})
    frames = list(read_frames(Source(dataset="cholec80", root=root)))
    assert [(f.frame, f.seconds, f.image) for f in frames] == [
        (0, 0.0, "frames/video01/video01_000001.png"),
        (25, 1.0, "frames/video01/video01_000002.png"),
        (50, 2.0, "frames/video01/video01_000003.png"),
    ]
    assert [f.labels.phase for f in frames] == ["preparation", "preparation", "calot triangle dissection"]
    assert [f.labels.tools for f in frames] == [("hook",), ("grasper", "hook"), ("hook",)]
    assert frames[0].size == (16, 9)


def test_phases_are_told_by_name_not_by_number() -> None:
    """datasets-a.md 1.3: other loaders exchange the ids of packaging and retraction."""
    words = vocabulary("cholec80", "phase")
    assert words.from_native("GallbladderRetraction") == "gallbladder retraction"
    assert words.from_native("GallbladderPackaging") == "gallbladder packaging"
    assert [words.native.index(n) for n in ("GallbladderPackaging", "GallbladderRetraction")] == [4, 6]
    assert vocabulary("cholec80", "tool").native == tuple(TOOLS.split()[1:])


def test_cholec80_is_found_in_its_own_top_folder(tmp_path) -> None:
    cholec80(tmp_path / "cholec80", 1, {"Preparation": 50})
    frames = list(read_frames(Source(dataset="cholec80", root=tmp_path)))
    assert frames[0].image == "cholec80/frames/video01/video01_000001.png"
    with pytest.raises(LayoutError, match=r"expected phase_annotations/ and tool_annotations/; found other"):
        (tmp_path / "x" / "other").mkdir(parents=True)
        list(read_frames(Source(dataset="cholec80", root=tmp_path / "x")))


def test_the_release_of_videos_asks_for_its_frames_and_is_read_after(tmp_path) -> None:
    root = cholec80(tmp_path, 1, {"Preparation": 60}, pictures=False)
    source = Source(dataset="cholec80", root=root)
    with pytest.raises(LayoutError, match="expected Cholec80's frames/videoNN/"):
        list(read_frames(source))
    _video(root / "videos" / "video01.mp4", frames=75)
    with pytest.raises(LayoutError, match=r"run `surgr1 data frames"):
        list(read_frames(source))
    # Labels alone need neither.
    assert {f.size for f in read_frames(source.model_copy(update={"images": "skip"}))} == {(854, 480)}
    for job in plan_frames("cholec80", root):
        extract(job, threads=1)
    frames = list(read_frames(source))
    assert [f.frame for f in frames] == [0, 25, 50]
    # Every frame of the video is as bright as its number.
    for frame in frames:
        with Image.open(root / frame.image) as picture:
            assert abs(np.asarray(picture.convert("L")).mean() - 3 * frame.frame) < 6
    cholec80(root, 2, {"Preparation": 25}, pictures=False)
    _video(root / "videos" / "video02.mp4", frames=25)
    with pytest.raises(LayoutError, match=r"video02\.mp4, but no frames/video02: run `surgr1 data frames"):
        list(read_frames(source))


def _video(path: Path, frames: int) -> None:
    """A video at 25 fps whose frame n is a grey of 3 n."""
    import av

    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            picture = np.full((48, 64, 3), 3 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_missing_phase_files_are_named_and_the_rest_is_read(tmp_path) -> None:
    """datasets-a.md 1.5: a mirror lacked phase files; say which, and never skip silently."""
    for video in (1, 2, 3):
        cholec80(tmp_path, video, {"Preparation": 50})
    (tmp_path / "phase_annotations" / "video02-phase.txt").unlink()
    shutil.rmtree(tmp_path / "frames" / "video02")
    source = Source(dataset="cholec80", root=tmp_path)
    with pytest.raises(LabelError, match="video02 lacks its phase"):
        list(read_frames(source))
    rejects = Rejects(strict=False)
    assert {f.video for f in read_frames(source, rejects)} == {"video01", "video03"}
    assert len(rejects.rows) == 1


def test_a_bad_row_of_cholec80_costs_one_frame(tmp_path) -> None:
    root = cholec80(tmp_path, 1, {"Preparation": 100})
    path = root / "phase_annotations" / "video01-phase.txt"
    path.write_text(path.read_text().replace("\n50\tPreparation", "\n50\tLunch"))
    tools = root / "tool_annotations" / "video01-tool.txt"
    tools.write_text(tools.read_text().replace("\n75\t1", "\n75\t-1"))
    source = Source(dataset="cholec80", root=root)
    rejects = Rejects(strict=False)
    assert [f.frame for f in read_frames(source, rejects)] == [0, 25]
    assert sorted(r.where.rsplit("/", 1)[1] for r in rejects.rows) == [
        "video01-phase.txt:52",
        "video01-tool.txt:5",
    ]
    with pytest.raises(LabelError, match=r"Lunch|tool flags"):
        list(read_source(source))


def test_line_ends_and_byte_order_marks_of_windows_are_read(tmp_path) -> None:
    root = cholec80(tmp_path, 1, {"Preparation": 100})
    before = list(read_frames(Source(dataset="cholec80", root=root)))
    for path in (
        root / "phase_annotations" / "video01-phase.txt",
        root / "tool_annotations" / "video01-tool.txt",
    ):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert list(read_frames(Source(dataset="cholec80", root=root))) == before


def simulated(layout: str, root: Path, number: int, seconds: int) -> tuple[Operation, dict]:
    """One simulated video in a tree of its own, and what its writer says of it."""
    centre = CENTRES["sim-strasbourg-public"]
    operation = simulate_operation("laparoscopic cholecystectomy", seed=4, centre=centre, seconds=seconds)
    found = write_video(layout, root, number, operation, centre, {"train": (number,)})
    finish_tree(layout, root, {number: found}, {"train": (number,)})
    return operation, found


def test_simulated_timestamps_say_what_the_phase_file_says(tmp_path) -> None:
    """datasets-a.md 1.2: one row per 0.04 s, HH:MM:SS.ss and the phase."""
    simulated("cholec80", tmp_path, 1, 14)
    phases = (tmp_path / "phase_annotations" / "video01-phase.txt").read_text().splitlines()[1:]
    times = (tmp_path / "videos" / "video01-timestamp.txt").read_text().splitlines()[1:]
    assert len(times) == len(phases) == 14 * 25 + 1
    for phase, time in zip(phases, times, strict=True):
        frame, name = phase.split("\t")
        clock, same = time.split("\t")
        hours, minutes, seconds = clock.split(":")
        assert same == name and len(clock) == 11
        assert round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 25) == int(frame)


# --- Cholec80-CVS -----------------------------------------------------------------------------------------


def cvs(root: Path, rows: list[list[object]], split: str = "baseline-segment", **kwargs) -> Source:
    """Cholec80-CVS beside a Cholec80 tree in which video 3 clips from frame 250 (second 10) on."""
    if not (root / "c80").is_dir():
        phases = {"Preparation": 100, "CalotTriangleDissection": 150, "ClippingCutting": 100}
        cholec80(root / "c80", 3, phases)
    workbook(root / "cvs" / "cholec80-CVS.xlsx", rows)
    return Source(dataset="cholec80-cvs", root=root / "cvs", pictures=root / "c80", split=split, **kwargs)


def by_second(source: Source, rejects: Rejects | None = None) -> dict[int, tuple[bool | None, ...] | None]:
    return {int(f.seconds): f.labels.cvs for f in read_frames(source, rejects)}


def test_counts_of_the_baselines_rule_on_the_real_index(real_samples, tmp_path) -> None:
    """datasets-a.md 2.3: 62,760 labels at five a second, 43,850 / 9,615 / 9,295 of them in the parts; our
    default split is the one that comes nearest to the paper's 6,318.
    """
    workbook(tmp_path / "surgeons_annotations.xlsx", [row(v, 0, 9, 0, 0, 0) for v in range(1, 81)])
    shutil.copy(real_samples / "cholec80-cvs" / "videos_frames_index.csv", tmp_path)
    source = Source(dataset="cholec80-cvs", root=tmp_path, images="skip", split="baseline")
    roles = [f.role for f in read_frames(source)]
    assert [5 * roles.count(r) for r in ("train", "validation", "test")] == [43_850, 9_615, 9_295]
    facts = dataset("cholec80-cvs")
    counts = {}
    for split in ("40-40", "baseline", "40-40-segment", "baseline-segment"):
        roles = [f.role for f in read_frames(source.model_copy(update={"split": split}))]
        counts[split] = roles.count("train")
        for role in ("train", "validation", "test"):
            assert facts.expected.get(f"{split}/{role}", roles.count(role)) == roles.count(role)
        if not split.endswith("-segment"):
            assert len(roles) == facts.expected["all"]
    assert min(counts, key=lambda s: abs(counts[s] - 6318)) == facts.default_split


def test_criteria_of_the_sheet_are_put_in_the_order_of_endoscapes(tmp_path) -> None:
    """datasets-a.md 2.4: the sheet's second criterion is the cystic plate, ours the triangle."""
    rows = [row(3, 0, 1, 1, 0, 0), row(3, 2, 3, 0, 1, 0), row(3, 4, 5, 0, 0, 1)]
    seconds = by_second(cvs(tmp_path, rows))
    assert [seconds[k] for k in (0, 2, 4)] == [
        (True, False, False),
        (False, False, True),
        (False, True, False),
    ]
    answers = {
        s.focus: s.answer
        for s in read_source(cvs(tmp_path, rows))
        if s.frame == 50 and s.task is Task.CVS_CRITERIA_ASSESSMENT
    }
    # C3 is the cystic plate.
    assert answers == {"C1": "no", "C2": "no", "C3": "yes"}


def test_intervals_hold_their_last_second_and_end_at_the_clip(tmp_path) -> None:
    """datasets-a.md 2.3: the final frame is included, frames in no interval are 0, nothing is labelled from
    the first frame of clipping on; where rows overlap the later one counts.
    """
    rows = [row(3, 2, 4, 2, 0, 0), row(3, 4, 5, 0, 2, 0), row(3, 8, 70, 1, 2, 2)]
    seconds = by_second(cvs(tmp_path, rows))
    no = (False, False, False)
    two, plate, every = (True, False, False), (False, False, True), (True, True, True)
    assert seconds == {0: no, 1: no, 2: two, 3: two, 4: plate, 5: plate, 6: no, 7: no, 8: every, 9: every}


def test_the_default_keeps_the_last_part_of_the_segment(tmp_path) -> None:
    """floor(250 * 0.85 / 25) = 8: seconds 8 and 9 of 0-9."""
    source = cvs(tmp_path, [row(3, 0, 9, 2, 2, 2)], split="default")
    assert list(by_second(source)) == [8, 9]
    assert [f.image for f in read_frames(source)] == [f"frames/video03/video03_{k:06d}.png" for k in (9, 10)]
    assert {f.frame for f in read_frames(source)} == {200, 225}


def test_malformed_intervals_are_rejected_and_the_rest_is_read(tmp_path) -> None:
    """datasets-a.md 2.6: three rows end before they begin."""
    backwards = row(3, 6, 4, 2, 0, 0)
    source = cvs(tmp_path, [row(3, 1, 2, 2, 0, 0), backwards, row(3, 7, 8, 2, 0, 0)])
    with pytest.raises(LabelError, match=r"row 3: ends at 4 s, before it begins at 6 s"):
        list(read_source(source))
    rejects = Rejects(strict=False)
    assert [k for k, c in by_second(source, rejects).items() if c == (True, False, False)] == [1, 2, 7, 8]
    assert [r.where.rsplit("/", 1)[1] for r in rejects.rows] == ["cholec80-CVS.xlsx: row 3"]


def test_other_spellings_of_the_header_are_read(tmp_path) -> None:
    """datasets-a.md 2.2: the released header was not seen; loaders accept "Initial Minute" and the like, and
    columns in another order.
    """
    source = cvs(tmp_path, [])
    header = [" Video ", *(h.replace("_", " ").title() for h in HEADER[1:])]
    values = row(3, 1, 2, 0, 2, 0)
    workbook(source.root / "cholec80-CVS.xlsx", [values[::-1]], header[::-1])
    assert [k for k, c in by_second(source).items() if c == (False, False, True)] == [1, 2]
    workbook(source.root / "cholec80-CVS.xlsx", [values], [*header[:7], "Plate", *header[8:]])
    with pytest.raises(LabelError, match=r"cholec80-CVS\.xlsx: expected the columns .*cystic_plate"):
        list(read_frames(source))


def test_rows_without_a_score_need_no_times(tmp_path) -> None:
    empty = [3, 0, None, None, None, None, 0, 0, 0, 0]
    assert set(by_second(cvs(tmp_path, [empty, [None] * 10])).values()) == {(False, False, False)}


def test_a_sheet_that_contradicts_its_sums_is_rejected(tmp_path) -> None:
    wrong = row(3, 1, 2, 2, 2, 1)
    wrong[1] = 0
    with pytest.raises(LabelError, match=r"row 2: critical_view is 0 at a sum of 5"):
        list(read_frames(cvs(tmp_path, [wrong])))
    wrong = row(3, 1, 2, 2, 0, 1)
    wrong[9] = 4
    with pytest.raises(LabelError, match=r"Total is 4, but the scores add up to 3"):
        list(read_frames(cvs(tmp_path, [wrong])))


def test_an_endless_sheet_is_refused(tmp_path) -> None:
    source = cvs(tmp_path, [row(3, 1, 2, 0, 0, 0)] * 5000)
    with pytest.raises(LabelError, match="5000 rows or more are no sheet of intervals"):
        list(read_frames(source))
    # One cell far away costs nothing.
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    book.active.append(row(3, 1, 2, 2, 0, 0))
    book.active.cell(1_000_000, 16_000).value = "x"
    book.save(source.root / "cholec80-CVS.xlsx")
    assert [k for k, c in by_second(source).items() if c == (True, False, False)] == [1, 2]


def test_cholec80_cvs_says_which_other_folder_it_needs(tmp_path) -> None:
    source = cvs(tmp_path, [row(3, 1, 2, 2, 0, 0)])
    alone = source.model_copy(update={"pictures": None})
    with pytest.raises(LayoutError, match=r"frames/videoNN/.*give Cholec80's folder as `pictures`"):
        list(read_frames(alone))
    blind = alone.model_copy(update={"images": "skip"})
    with pytest.raises(LabelError, match=r"where clipping begins.*videos_frames_index\.csv"):
        list(read_frames(blind))
    (source.root / "videos_frames_index.csv").write_text("video_name,final_frame\nvideo03,249\n")
    assert by_second(blind) == by_second(source)
    # The workbook may also lie in Cholec80's own folder.
    shutil.copy(source.root / "cholec80-CVS.xlsx", tmp_path / "c80")
    assert by_second(alone.model_copy(update={"root": tmp_path / "c80"})) == by_second(source)


def test_a_simulated_segment_is_read_whole_and_equals_the_scenes(tmp_path) -> None:
    """The round trip of verify.py sees the last 15 %; here every second before the first clip."""
    root = tmp_path / "sim-cholec80-cvs"
    operation, found = simulated("cholec80-cvs", root, 1, 30)
    source = Source(
        dataset="sim-cholec80-cvs",
        root=root,
        pictures=tmp_path / "sim-cholec80-cvs-pictures",
        split="40-40-segment",
    )
    clip = next(k for k, s in enumerate(operation.scenes) if s.phase == "clipping and cutting")
    assert by_second(source) == {k: operation.scenes[k].cvs for k in range(clip)}
    assert len({s.cvs for s in operation.scenes[:clip]}) >= 3
    again = tmp_path / "again" / "sim-cholec80-cvs"
    finish_tree("cholec80-cvs", again, {1: found}, {"train": (1,)})
    name = "cholec80-CVS.xlsx"
    assert (again / name).read_bytes() == (root / name).read_bytes()


# --- Cholec80-VQA -----------------------------------------------------------------------------------------


def vqa(root: Path, files: dict[str, str], *, crops: str = "cropped_image") -> Source:
    """Cholec80-VQA with these files, and a crop for every frame of them."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        video, frame = name.split("/")[-2], name.split("/")[-1].removesuffix("_QA.txt")
        (root / crops / video).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8)).save(root / crops / video / f"{frame}.png")
    return Source(dataset="cholec80-vqa", root=root)


LINES = (
    "what is the phase of image?|calot triangle dissection\n"
    "how many tools are operating?|2\n"
    "is grasper used in calot triangle dissection?|yes\n"
)


@pytest.mark.parametrize("crops", ["cropped_image", "cropped_images"])
def test_lines_of_the_reference_are_asked_verbatim(tmp_path, crops) -> None:
    """datasets-b.md 3.1, 3.2: un-padded names, both names of the folder of crops."""
    source = vqa(tmp_path, {"Classification/4/14400_QA.txt": LINES}, crops=crops)
    (frame,) = read_frames(source)
    assert (frame.video, frame.frame, frame.seconds, frame.size) == ("4", 14_400, 576.0, (12, 8))
    assert frame.image == f"{crops}/4/14400.png"
    asked = [(q.question, q.answer, q.options) for q in frame.ask()]
    assert asked == [(*line.split("|"), ()) for line in LINES.splitlines()]


def test_order_of_time_not_of_names_and_the_loaders_every_fourth_frame(tmp_path) -> None:
    files = {f"Classification/4/{f}_QA.txt": LINES for f in (1000, 0, 25, 975, 50, 75, 100, 125)}
    source = vqa(tmp_path, files)
    assert [f.frame for f in read_frames(source)] == [0, 25, 50, 75, 100, 125, 975, 1000]
    few = {f"Classification/5/{f}_QA.txt": LINES for f in range(0, 500, 25)}
    source = vqa(tmp_path / "b", few).model_copy(update={"every": 4})
    assert [f.frame for f in read_frames(source)] == [f for f in range(0, 500, 25) if f % 100 == 0]


def test_questions_find_their_frames_in_cholec80(tmp_path) -> None:
    """25-fps frame 50 of video "4" is picture 3 of video04."""
    cholec80(tmp_path / "c80", 4, {"Preparation": 75})
    source = vqa(tmp_path / "vqa", {"Classification/4/50_QA.txt": LINES})
    (frame,) = read_frames(source.model_copy(update={"pictures": tmp_path / "c80"}))
    assert frame.image == "frames/video04/video04_000003.png" and frame.size == (16, 9)
    (tmp_path / "vqa" / "Classification" / "4" / "75_QA.txt").write_text(LINES)
    with pytest.raises(LabelError, match=r"video04_000004\.png: a labelled frame has no picture"):
        list(read_frames(source.model_copy(update={"pictures": tmp_path / "c80"})))
    shutil.rmtree(tmp_path / "vqa" / "cropped_image")
    with pytest.raises(LayoutError, match="give Cholec80's folder as `pictures`"):
        list(read_frames(source))
    assert [f.frame for f in read_frames(source.model_copy(update={"images": "skip"}))] == [50, 75]


def test_one_form_of_a_question_is_read(tmp_path) -> None:
    """Classification and Sentence hold the same questions; a source reads one of them."""
    operation, _ = simulated("cholec80-vqa", tmp_path / "sim-cholec80-vqa", 1, 12)
    pictures = tmp_path / "sim-cholec80-vqa-pictures"
    source = Source(dataset="sim-cholec80-vqa", root=tmp_path / "sim-cholec80-vqa", pictures=pictures)
    words = list(read_frames(source))
    sentences = list(read_frames(source.model_copy(update={"split": "32-8-sentence"})))
    assert [f.frame for f in words] == [f.frame for f in sentences] == [25 * k for k in range(12)]
    for scene, word, sentence in zip(operation.scenes, words, sentences, strict=True):
        assert [q for q, _ in word.questions] == [q for q, _ in sentence.questions]
        assert word.questions[0][1] == scene.phase.replace(" and ", " ")
        used = word.questions[2][1] == "yes"
        assert sentence.questions[2][1].count(" not used in ") == (not used)
    assert len({s.sample_id for f in words for s in f.samples()}) == 36


def test_answers_of_cholec80_vqa() -> None:
    """datasets-b.md 3.3: 13 classes in the loader's order; "clipping cutting" is not "ClippingCutting"."""
    names = vocabulary("cholec80-vqa", "answer").names
    assert len(names) == 13 and names[6] == "clipping cutting" and names[12] == "3"
    phases = {n for n in names if not n.isdigit() and n not in ("yes", "no")}
    assert phases == {n.replace(" and ", " ") for n in vocabulary("cholec80", "phase").names}


def test_bad_questions_are_rejected_and_an_unknown_count_is_not(tmp_path) -> None:
    text = f"{LINES}is hook used in preparation?|maybe\nhow many hooks are operating?|4\n"
    source = vqa(tmp_path, {"Classification/4/0_QA.txt": text, "Classification/4/26_QA.txt": LINES})
    (tmp_path / "Val").mkdir()
    (tmp_path / "Val" / "C1_Phase.txt").write_text("5/14400|what is the phase of image?|preparation\n")
    rejects = Rejects(strict=False)
    (frame,) = read_frames(source, rejects)
    assert [a for _, a in frame.questions] == ["calot triangle dissection", "2", "yes", "4"]
    assert sorted((r.where.rsplit("/", 1)[1], r.reason.split(" ")[0]) for r in rejects.rows) == [
        ("0_QA.txt:4", "'maybe'"),
        ("26_QA.txt", "frame"),
    ]
    with pytest.raises(LabelError, match=r"26_QA\.txt: frame 26 is no multiple of 25"):
        list(read_source(source))


# --- CholecT45 --------------------------------------------------------------------------------------------


def cholect45_from_real(labels: Path, root: Path) -> None:
    """CholecT45's tables from a real CholecT50 label file, straight from its vectors."""
    entries = json.loads(labels.read_text())["annotations"]
    for table, column, classes in (
        ("triplet", 0, 100),
        ("instrument", 1, 6),
        ("verb", 7, 10),
        ("target", 8, 15),
    ):
        lines = []
        for key in sorted(entries, key=int):
            marked = {vector[column] for vector in entries[key]}
            lines.append(",".join([key, *(str(int(k in marked)) for k in range(classes))]))
        (root / table).mkdir(parents=True, exist_ok=True)
        (root / table / f"{labels.stem}.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("pictures", ["data", "rgb", "videos"])
def test_tables_made_of_real_cholect50_vectors_give_its_labels(real_samples, tmp_path, pictures) -> None:
    """The same 527 real frames in both layouts (datasets-a.md 3.2, 3.3)."""
    real = real_samples / "cholect50" / "cholect50-challenge-val"
    videos = ("VID68", "VID70", "VID75")
    for video in videos:
        cholect45_from_real(real / "labels" / f"{video}.json", tmp_path)
    (tmp_path / pictures).symlink_to(real / "videos")
    mine = {
        (f.video, f.frame): f for f in read_frames(Source(dataset="cholect45", root=tmp_path, train=videos))
    }
    theirs = {
        (f.video, f.frame): f for f in read_frames(Source(dataset="cholect50", root=real, train=videos))
    }
    assert len(mine) == 527 and mine.keys() == theirs.keys()
    for key, frame in mine.items():
        other = theirs[key]
        for name in ("tools", "verbs", "targets", "triplets"):
            got, wanted = getattr(frame.labels, name), getattr(other.labels, name)
            # The tables mark parts of null triplets too, in both forms.
            assert set(got) == set(wanted), (key, name)
        assert (frame.size, frame.seconds) == (other.size, other.seconds)
        assert frame.labels.phase is None and frame.labels.boxes is None and frame.tool_count is None
        assert frame.image == f"{pictures}/{key[0]}/{key[1]:06d}.png"


def t45(root: Path, frames: list[tuple[int, str]]) -> Source:
    """CholecT45 with one video: frame -> one triplet."""
    for table, kind in (
        ("triplet", "triplet"),
        ("instrument", "tool"),
        ("verb", "verb"),
        ("target", "target"),
    ):
        words = vocabulary("cholect50", kind).native
        lines = []
        for frame, triplet in frames:
            marked = {
                "triplet": triplet,
                **dict(zip(("tool", "verb", "target"), triplet.split(","), strict=True)),
            }
            lines.append(",".join([str(frame), *(str(int(w == marked[kind])) for w in words)]))
        (root / table).mkdir(parents=True, exist_ok=True)
        (root / table / "VID02.txt").write_text("\n".join(lines) + "\n")
    return Source(dataset="cholect45", root=root, images="skip")


def test_columns_with_blanks_and_the_archives_top_folder_are_read(tmp_path) -> None:
    t45(tmp_path / "CholecT45", [(0, "hook,dissect,cystic_duct"), (1, "grasper,null_verb,null_target")])
    path = tmp_path / "CholecT45" / "verb" / "VID02.txt"
    path.write_text(path.read_text().replace(",", ", "))
    frames = list(read_frames(Source(dataset="cholect45", root=tmp_path, images="skip")))
    assert [f.labels.triplets for f in frames] == [
        (("hook", "dissect", "cystic duct"),),
        (("grasper", "null verb", "null target"),),
    ]
    assert frames[0].image == "CholecT45/data/VID02/000000.png" and frames[0].size == (854, 480)
    assert {q.task for f in frames for q in f.ask()} == {Task.TOOL_RECOGNITION, Task.TRIPLET_EXTRACTION}


def test_tables_that_disagree_cost_their_frame(tmp_path) -> None:
    source = t45(tmp_path, [(k, "hook,dissect,cystic_duct") for k in range(4)])
    verbs = tmp_path / "verb" / "VID02.txt"
    lines = verbs.read_text().splitlines()
    lines[1] = "1" + ",0" * 10
    del lines[3]
    verbs.write_text("\n".join(lines))
    rejects = Rejects(strict=False)
    assert [f.frame for f in read_frames(source, rejects)] == [0, 2]
    assert sorted(r.reason for r in rejects.rows) == [
        "no usable row for frame 3, which other tables have",
        "triplet 'hook dissect cystic duct', but verb/ does not mark 'dissect'",
    ]
    with pytest.raises(LabelError, match=r"verb/VID02\.txt: no usable row for frame 3"):
        list(read_frames(source))


def test_cholect45_has_the_words_of_cholect50() -> None:
    for kind in ("tool", "verb", "target", "triplet"):
        mine, theirs = vocabulary("sim-cholect45", kind), vocabulary("cholect50", kind)
        assert (mine.names, mine.native, mine.dataset) == (theirs.names, theirs.native, "cholect45")
    assert len(vocabulary("cholect45", "triplet").names) == 100


@pytest.mark.parametrize("layout", ["cholec80", "cholec80-cvs", "cholec80-vqa", "cholect45", "cholect50"])
def test_an_unrelated_folder_is_refused_with_what_was_found(tmp_path, layout) -> None:
    (tmp_path / "holiday").mkdir()
    with pytest.raises(LayoutError, match=r"not a .*expected.*found holiday"):
        list(read_frames(Source(dataset=layout, root=tmp_path)))
