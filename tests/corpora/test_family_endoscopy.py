"""PitVQA and CoPESD: hand-written files in the words of the reference, CoPESD's real test file against the
reference's counts, folder variants, traps.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from surgr1.corpora.adapters import copesd, pitvqa
from surgr1.corpora.datasets import dataset, official_split
from surgr1.corpora.files import LabelError, LayoutError, Rejects
from surgr1.corpora.registry import canonical_video
from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.corpora.sources import Source, read_frames, read_source
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.scenarios import load_scenario

# --- PitVQA -----------------------------------------------------------------------------------------

ONE_TOOL = """\
What is the surgical phase shown in the image?|sellar
What is the surgical step shown in this frame?|tumour_excision
What is the surgical operation performed in the image?|The tumour is seen and removed in a piecemeal fashion
What is the next surgical phase?|closure
What is the next surgical step?|haemostasis
What instrument is used at the centre of the image?|suction
What surgical activity is performing by the instrument suction?|\
The tumour is seen and removed in a piecemeal fashion
Where is the surgical instrument suction tip located in the image?|centre
How many instruments are present in the image?|one
"""
"""datasets-b.md 7.2."""
FIRST_FIVE = "".join(ONE_TOOL.splitlines(keepends=True)[:5])


def pit_tree(root: Path, *texts: str, folder: str = "qa-classification", pictures: bool = False) -> Path:
    """A tree of one training video with these texts as frames 0, 1, ..."""
    for number, text in enumerate(texts):
        path = root / folder / "video_01" / f"{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        if pictures:
            picture = (root / folder).parent / "images" / "video_01" / f"{number:05d}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 36)).save(picture)
    return root


def pit(root: Path, rejects: Rejects | None = None, **kwargs) -> list:
    return list(read_frames(Source(dataset="pitvqa", root=root, **({"images": "skip"} | kwargs)), rejects))


def test_pitvqa_has_the_published_59_answers_in_the_loaders_order() -> None:
    answers = vocabulary("pitvqa", "answer")
    assert len(set(answers.native)) == 59
    assert [len(vocabulary("pitvqa", k).names) for k in ("step", "phase", "tool")] == [14, 3, 18]
    published = {
        0: "nasal_corridor_creation",
        14: "end_of_step",
        15: "nasal_sphenoid",
        18: "end_of_phase",
        19: "suction",
        36: "surgical_drill",
        37: "zero",
        42: "centre",
        53: "spongostan, tachosil and duragen placement",
        54: "A fat graft is placed over the defact",
        58: "The nasal cavity is packed with Bismuth soaked ribbon gauze",
    }
    assert {k: answers.native[k] for k in published} == published
    for kind in ("tool", "step", "phase"):
        words = vocabulary("pitvqa", kind)
        assert [answers.native[words.ids[n]] for n in words.names] == list(words.native)


def test_pitvqa_split_is_the_published_one() -> None:
    roles = official_split("pitvqa")
    held_out = {"video_02", "video_06", "video_12", "video_13", "video_24"}
    assert {v for v, r in roles.items() if r == "validation"} == held_out
    assert {v for v, r in roles.items() if r == "train"} == {
        f"video_{n:02d}" for n in range(1, 26)
    } - held_out
    expected = dataset("pitvqa").expected
    assert expected["default/train"] + expected["default/validation"] == expected["all"] == 109173
    assert canonical_video("pitvqa", "video_07") == "pitvis/7"


def test_a_text_about_one_tool_gives_nine_verbatim_pairs_and_their_labels(tmp_path) -> None:
    (frame,) = pit(pit_tree(tmp_path, ONE_TOOL))
    assert frame.questions == tuple(tuple(line.split("|")) for line in ONE_TOOL.splitlines())
    assert frame.labels == Labels(tools=("suction",), phase="sellar", step="tumour excision")
    assert (frame.tool_count, frame.role, frame.seconds, frame.size) == (1, "train", 0.0, (1280, 720))
    assert frame.image == "images/video_01/00000.png"
    tasks = Counter(q.task for q in frame.ask())
    assert tasks[Task.SURGICAL_VQA] == 9
    assert set(tasks) == set(dataset("pitvqa").tasks)


def test_a_text_without_instrument_questions_says_nothing_of_instruments(tmp_path) -> None:
    (frame,) = pit(pit_tree(tmp_path, FIRST_FIVE))
    assert frame.labels.tools is None and frame.tool_count is None
    assert len(frame.questions) == 5


@pytest.mark.parametrize(
    ("answers", "tools", "count", "pairs"),
    [
        (["no_visible_instrument"], (), 0, 5),
        (["suction", "no_secondary_instrument"], ("suction",), 1, 6),
        (["no_visible_instrument", "no_secondary_instrument"], (), 0, 5),
        (["suction"], None, None, 6),
    ],
)
def test_the_two_answers_that_the_loader_drops_tell_how_many_tools_there_are(
    tmp_path, answers, tools, count, pairs
) -> None:
    places = ("at the centre", "in the top-left")
    lines = [
        f"What instrument is used {p} of the image?|{a}\n" for p, a in zip(places, answers, strict=False)
    ]
    (frame,) = pit(pit_tree(tmp_path, FIRST_FIVE + "".join(lines)))
    assert (frame.labels.tools, frame.tool_count, len(frame.questions)) == (tools, count, pairs)
    assert not {a for _, a in frame.questions} & {"no_visible_instrument", "no_secondary_instrument"}


def two_tools(place: str, count: str) -> str:
    return FIRST_FIVE + (
        "What instrument is used in the top-left of the image?|ring_curette\n"
        f"What instrument is used in the {place} of the image?|suction\n"
        f"How many instruments are present in the image?|{count}\n"
    )


def test_two_tools_at_one_place_are_labelled_but_the_place_is_not_asked_for(tmp_path) -> None:
    apart, together = pit(pit_tree(tmp_path, two_tools("bottom-right", "two"), two_tools("top-left", "two")))
    for frame in (apart, together):
        assert frame.labels.tools == ("suction", "ring curette") and frame.tool_count == 2
    question = "What instrument is used in the top-left of the image?"
    assert (question, "ring_curette") in apart.questions
    assert question not in dict(together.questions)
    assert len(apart.questions) - len(together.questions) == 2


def test_fewer_names_than_counted_leave_the_tools_open(tmp_path) -> None:
    (frame,) = pit(pit_tree(tmp_path, ONE_TOOL.replace("image?|one", "image?|two")))
    assert frame.labels.tools is None and frame.tool_count == 2


def test_end_of_step_is_an_answer_about_the_next_step_only(tmp_path) -> None:
    last = FIRST_FIVE.replace("step?|haemostasis", "step?|end_of_step")
    (frame,) = pit(pit_tree(tmp_path / "a", last))
    assert ("What is the next surgical step?", "end_of_step") in frame.questions
    wrong = FIRST_FIVE.replace("frame?|tumour_excision", "frame?|end_of_step")
    with pytest.raises(LabelError, match=r"00000\.txt:2: 'end_of_step' is no step"):
        pit(pit_tree(tmp_path / "b", wrong))


@pytest.mark.parametrize(
    ("old", "new", "message", "lost"),
    [
        ("image?|sellar", "image?|closure", "'tumour excision' is no part of 'closure'", {"phase", "step"}),
        ("image?|one", "image?|zero", "names suction where no instruments", {"tools"}),
        ("|suction\n", "|banana\n", "'banana' is none of PitVQA's 59 answers", {"tools"}),
        (
            "phase?|closure\n",
            "phase?|closure\nWhat is the next surgical phase?|end_of_phase\n",
            "2 answers",
            set(),
        ),
    ],
)
def test_what_contradicts_itself_is_left_out_and_the_rest_is_read(tmp_path, old, new, message, lost) -> None:
    root = pit_tree(tmp_path, ONE_TOOL.replace(old, new), ONE_TOOL)
    with pytest.raises(LabelError, match=message):
        pit(root)
    rejects = Rejects(strict=False)
    first, second = pit(root, rejects)
    assert any(message in row.reason for row in rejects.rows)
    assert all(
        row.where.startswith(f"{root / 'qa-classification/video_01/00000.txt'}:") for row in rejects.rows
    )
    whole = {"tools": ("suction",), "phase": "sellar", "step": "tumour excision"}
    for name, value in whole.items():
        assert getattr(first.labels, name) == (None if name in lost else value)
        assert getattr(second.labels, name) == value
    assert set(first.questions) < set(second.questions)


@pytest.mark.parametrize(
    "change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t + "\n\n"]
)
def test_byte_order_mark_and_line_ends_do_not_matter(tmp_path, change) -> None:
    plain, changed = pit(pit_tree(tmp_path, ONE_TOOL, change(ONE_TOOL)))
    assert changed.questions == plain.questions and changed.labels == plain.labels


@pytest.mark.parametrize("folder", ["qa-classification", "QA", "PitVQA_dataset/QA"])
def test_pitvqa_folder_names_of_both_distributions_are_found(tmp_path, folder) -> None:
    root = pit_tree(tmp_path, ONE_TOOL, folder=folder, pictures=True)
    (root / folder / "__MACOSX").mkdir()
    (root / folder / "video_01" / "._00000.txt").write_bytes(b"\x00\x05")
    (frame,) = pit(root, images="check")
    assert frame.size == (64, 36) and (root / frame.image).is_file()


def test_two_folders_of_texts_or_none_are_refused(tmp_path) -> None:
    with pytest.raises(LayoutError, match=r"qa-classification, QA.*found nothing"):
        pit(tmp_path)
    pit_tree(tmp_path, ONE_TOOL)
    pit_tree(tmp_path, ONE_TOOL, folder="QA")
    with pytest.raises(LayoutError, match=r"qa-classification and QA \(keep one\)"):
        pit(tmp_path)


def test_pictures_still_in_the_videos_are_asked_for_with_the_command(tmp_path) -> None:
    root = pit_tree(tmp_path, ONE_TOOL)
    with pytest.raises(LayoutError, match="no pictures of video_01; nor are there"):
        pit(root, images="check")
    (root / "videos").mkdir()
    with pytest.raises(LayoutError, match=r"no pictures of video_01; run `surgr1 data frames"):
        pit(root, images="check")


def test_pitvqa_pictures_may_lie_elsewhere(tmp_path) -> None:
    pit_tree(tmp_path / "texts", ONE_TOOL)
    pit_tree(tmp_path / "other", ONE_TOOL, pictures=True)
    (frame,) = pit(tmp_path / "texts", images="check", pictures=tmp_path / "other")
    assert (tmp_path / "other" / frame.image).is_file()


def test_a_blurred_frame_has_a_picture_without_a_text_and_a_text_needs_its_picture(tmp_path) -> None:
    root = pit_tree(tmp_path, ONE_TOOL, ONE_TOOL, ONE_TOOL, pictures=True)
    (root / "qa-classification/video_01/00001.txt").unlink()
    assert [f.frame for f in pit(root, images="check")] == [0, 2]
    (root / "images/video_01/00002.png").unlink()
    rejects = Rejects(strict=False)
    assert [f.frame for f in pit(root, rejects, images="check")] == [0]
    assert [r.reason for r in rejects.rows] == ["a labelled frame has no picture"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no question"),
        (b"\xff\xfe", "UTF-8"),
        (b"a|b\x00", "NUL"),
        (b"x" * 70000, "no text of one frame"),
    ],
)
def test_a_damaged_text_costs_its_frame_only(tmp_path, data, message) -> None:
    root = pit_tree(tmp_path, ONE_TOOL, ONE_TOOL)
    (root / "qa-classification/video_01/00000.txt").write_bytes(data)
    (root / "qa-classification/video_01/00003.txt").mkdir()
    rejects = Rejects(strict=False)
    assert [f.frame for f in pit(root, rejects)] == [1]
    assert message in rejects.rows[0].reason and "cannot be read" in rejects.rows[1].reason


def test_every_kth_labelled_frame_is_kept(tmp_path) -> None:
    root = pit_tree(tmp_path, *[ONE_TOOL] * 7)
    assert [f.frame for f in pit(root, every=3)] == [0, 3, 6]
    assert pitvqa.frame_to_seconds(6) == 6.0


# --- CoPESD -----------------------------------------------------------------------------------------

DISSECT = "Utilize the Knife to dissect the mucosa flap."
LIFT = "Employ the Forceps to retract the mucosa flap backwards."


def item(
    video: int,
    frame: int,
    answer: str = "Dissect with the Knife[0.50, 0.20, 0.80, 0.40].",
    ask: str = DISSECT,
) -> dict:
    return {
        "conversations": [{"from": "human", "value": ask}, {"from": "gpt", "value": answer}],
        "image": f"D:/x/high_light_images/{video:06d}/{frame:04d}.jpg",
    }


def esd_tree(root: Path, train: list[dict], test: list[dict] | None = None, pictures: str = "") -> Path:
    for name, items in (("train", train), ("test", test)):
        if items is not None:
            root.mkdir(parents=True, exist_ok=True)
            (root / f"smllm_{name}.json").write_text(json.dumps(items), encoding="utf-8")
    if pictures:
        for entry in train + (test or []):
            path = root / pictures / "/".join(entry["image"].split("/")[-2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (200, 150)).save(path)
    return root


def esd(root: Path, rejects: Rejects | None = None, **kwargs) -> list:
    return list(read_frames(Source(dataset="copesd", root=root, **({"images": "skip"} | kwargs)), rejects))


@pytest.fixture
def real(real_samples) -> list:
    """The real test file, read strictly."""
    return esd(real_samples / "copesd")


def test_the_real_test_file_has_the_counts_of_the_reference(real) -> None:
    assert Counter(f.video for f in real) == {"023521": 1049, "233029": 518, "232521": 220}
    assert len(real) == dataset("copesd").expected["default/test"]
    assert {f.role for f in real} == {"test"}
    assert Counter(f.labels.action for f in real) == {
        "dissect mucosa flap": 1064,
        "lift mucosa flap with forceps": 433,
        "lift mucosa flap with forceps and knife": 251,
        "grasp mucosa flap": 31,
        "adjust camera": 8,
    }
    assert len({q for f in real for q, _ in f.questions}) == 24
    assert {len(f.questions) for f in real} == {1}


def test_real_boxes_are_read_in_the_convention_of_their_video(real) -> None:
    """Pictures are taken to be 1306 x 1009; both axes are in widths."""
    by_key = {(f.video, f.frame): f for f in real}
    # x1, y1, x2, y2: Forceps[0.10, 0.15, 0.48, 0.77], Knife[0.43, 0.41, 0.81, 0.77].
    # x, y, width, height: Forceps[0.19, 0.11, 0.18, 0.66], Knife[0.65, 0.25, 0.32, 0.52].
    for key, corners in (
        (("023521", 601), {"forceps": (0.10, 0.15, 0.48, 0.77), "knife": (0.43, 0.41, 0.81, 0.77)}),
        (("233029", 6), {"forceps": (0.19, 0.11, 0.37, 0.77), "knife": (0.65, 0.25, 0.97, 0.77)}),
    ):
        labels = by_key[key].labels
        assert labels.tools == ("forceps", "knife")
        for box in labels.boxes:
            assert box.xyxy == pytest.approx([v * 1306 for v in corners[box.name]])
    boxes = [b.xyxy for f in real for b in f.labels.boxes or ()]
    # 1,677 answers with both boxes and 102 with one, less the 220 of place-holders.
    assert len(boxes) == 2 * (1677 - 220) + 102
    assert all(0 <= x1 < x2 <= 1306 and 0 <= y1 < y2 <= 1009 for x1, y1, x2, y2 in boxes)


def test_real_place_holder_boxes_are_no_labels(real) -> None:
    for frame in real:
        if frame.video == "232521":
            assert frame.labels.boxes is None and frame.labels.tools is None and frame.tool_count is None
            assert "[0.15, 0.33, 0.37, 0.77]" in frame.questions[0][1]


def test_a_confusing_scene_has_no_boxes_and_one_box_says_nothing_of_the_other_tool(real) -> None:
    counts = Counter((len(f.labels.boxes or ()), f.tool_count) for f in real)
    assert counts == {(2, 2): 1457, (1, None): 102, (0, None): 228}
    assert {f.labels.boxes for f in real if f.labels.action == "adjust camera"} == {None}


@pytest.mark.parametrize("size", [(400, 300), (400, 400)])
def test_both_axes_are_in_widths_padded_or_not(tmp_path, size) -> None:
    root = esd_tree(tmp_path, [item(1, 1)])
    path = tmp_path / "pad_images/000001/0001.jpg"
    path.parent.mkdir(parents=True)
    Image.new("RGB", size).save(path)
    (frame,) = esd(root, images="check")
    assert frame.labels.boxes[0].xyxy == pytest.approx((200, 80, 320, 160))
    assert (frame.image, frame.size, frame.role) == ("pad_images/000001/0001.jpg", size, "train")


def test_the_convention_is_decided_for_each_video(tmp_path) -> None:
    sides = "Dissect with the Knife[0.60, 0.50, 0.30, 0.20]."
    either = "Dissect with the Knife[0.10, 0.10, 0.30, 0.20]."
    root = esd_tree(tmp_path, [item(1, 1, sides), item(1, 2, either), item(2, 1, either)])
    boxes = {(f.video, f.frame): f.labels.boxes[0].xyxy for f in esd(root)}
    assert boxes["000001", 1] == pytest.approx((0.6 * 1306, 0.5 * 1306, 0.9 * 1306, 0.7 * 1306))
    assert boxes["000001", 2] == pytest.approx((0.1 * 1306, 0.1 * 1306, 0.4 * 1306, 0.3 * 1306))
    assert boxes["000002", 1] == pytest.approx((0.1 * 1306, 0.1 * 1306, 0.3 * 1306, 0.2 * 1306))


def test_a_negative_zero_is_an_edge_and_a_typo_is_rejected(tmp_path) -> None:
    good = "Dissect with the Knife[-0.0, 0.20, 0.80, 0.78]."
    rows = [item(1, 1, good), item(1, 2, "Dissect with the Knife[0.10, 0.20, 9.9, 0.40].")]
    rejects = Rejects(strict=False)
    (frame,) = esd(esd_tree(tmp_path, rows), rejects)
    # 0.78 widths are 10 pixels below the picture: two decimals round.
    assert frame.labels.boxes == (LabelledBox("knife", (0.0, pytest.approx(0.2 * 1306), 0.8 * 1306, 1009.0)),)
    assert ["9.9" in r.reason and "leaves the picture" in r.reason for r in rejects.rows] == [True]


def test_a_constant_box_is_a_place_holder_only_if_it_is_always_there(tmp_path) -> None:
    same = [item(1, n) for n in range(1, 26)]
    assert {f.labels.boxes for f in esd(esd_tree(tmp_path / "a", same))} == {None}
    one_differs = [*same, item(1, 26, "Dissect with the Knife[0.51, 0.20, 0.80, 0.40].")]
    assert all(f.labels.boxes for f in esd(esd_tree(tmp_path / "b", one_differs)))


def test_frames_come_in_order_and_files_give_the_roles(tmp_path) -> None:
    root = esd_tree(tmp_path, [item(7, 3), item(7, 1), item(8, 2)], [item(9, 1)], pictures="CoPESD/CoPESD")
    frames = esd(root, images="check")
    assert [(f.video, f.frame, f.role) for f in frames] == [
        ("000007", 1, "train"),
        ("000007", 3, "train"),
        ("000008", 2, "train"),
        ("000009", 1, "test"),
    ]
    assert all((root / f.image).is_file() for f in frames)
    assert [copesd.frame_to_seconds(f.frame) for f in frames] == [0, 2, 1, 0]
    assert [f.video for f in esd(root, train=("000008",), test=("000007",))] == ["000007", "000007", "000008"]
    assert {f.role for f in esd(root, role="external")} == {"external"}


def test_a_test_video_is_never_trained_on(tmp_path) -> None:
    root = esd_tree(tmp_path, [item(7, 1), item(9, 2)], [item(9, 1)])
    with pytest.raises(LabelError, match="1 items of a video that the test file holds"):
        esd(root)
    frames = esd(root, Rejects(strict=False))
    assert [(f.video, f.frame, f.role) for f in frames] == [("000007", 1, "train"), ("000009", 1, "test")]
    (official,) = esd(esd_tree(tmp_path / "b", [item(23521, 1)]))
    assert official.role == "test"


def test_windows_paths_are_read_by_their_last_two_parts(tmp_path) -> None:
    entry = item(7, 12) | {"image": "D:\\ESD\\CoPESD\\000007\\0012.jpg"}
    (frame,) = esd(esd_tree(tmp_path, [entry]))
    assert (frame.video, frame.frame) == ("000007", 12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "000001/../0001.jpg"}, "does not end in"),
        ({"image": 5}, "does not end in"),
        ({"image": "000001/0000.jpg"}, "counted from 1"),
        ({"conversations": []}, "one turn of human and one of gpt"),
        ({"conversations": [{"from": "human", "value": DISSECT}, {"from": "gpt"}]}, "one turn of human"),
    ],
)
def test_a_broken_item_costs_itself_only(tmp_path, change, message) -> None:
    root = esd_tree(tmp_path, [item(1, 1) | change, item(1, 2), "x", item(1, 3)])
    rejects = Rejects(strict=False)
    assert [f.frame for f in esd(root, rejects)] == [2, 3]
    assert message in rejects.rows[0].reason and "expected an object" in rejects.rows[1].reason
    with pytest.raises(LabelError, match=f"smllm_train.json: item 0: .*{message}"):
        esd(root)


@pytest.mark.parametrize(
    ("answer", "ask", "message"),
    [
        ("Dissect with the Knife[NaN, 0.2, 0.8, 0.4].", DISSECT, "expected four numbers"),
        ("Dissect with the Knife[1e999, 0.2, 0.8, 0.4].", DISSECT, "expected four numbers"),
        ("Dissect with the Knife[0.1, 0.2, 0.8", DISSECT, "expected four numbers"),
        ("Dissect, Knife[0.1, 0.2, 0.8, 0.4] and Knife[0.1, 0.2, 0.8, 0.5].", DISSECT, "two boxes"),
        ("Lift it with the Forceps[0.1, 0.2, 0.8, 0.4].", DISSECT, "does not belong"),
        ("Dissect with the Knife[0.1, 0.2, 0.8, 0.4].", LIFT, "does not belong"),
        ("Sing.", "Sing to the Knife.", "none of the five motions"),
    ],
)
def test_answers_that_cannot_be_right_are_rejected(tmp_path, answer, ask, message) -> None:
    rejects = Rejects(strict=False)
    assert len(esd(esd_tree(tmp_path, [item(1, 1), item(1, 2, answer, ask)]), rejects)) == 1
    assert [message in r.reason for r in rejects.rows] == [True]


def test_copesd_trees_that_are_none_or_ambiguous_are_refused(tmp_path) -> None:
    with pytest.raises(LayoutError, match=r"smllm_train.json or smllm_test.json"):
        esd(tmp_path)
    root = esd_tree(tmp_path, [item(1, 1)], pictures="pad_images")
    esd_tree(root, [item(1, 1)], pictures="high_light_images")
    with pytest.raises(LayoutError, match="one video in two places"):
        esd(root, images="check")
    esd_tree(root / "copy", [item(1, 1)])
    with pytest.raises(LayoutError, match="keep one of them"):
        esd(root)
    with pytest.raises(LayoutError, match="no folder of pictures"):
        esd(esd_tree(tmp_path / "bare" / "a", [item(1, 1)]), images="check")


# --- Both -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "procedure", "scenario"),
    [
        ("pitvqa", pitvqa.PROCEDURE, "pituitary"),
        ("copesd", copesd.PROCEDURE, "endoscopic submucosal dissection"),
    ],
)
def test_procedure_vocabulary_and_scenario_name_the_same_things(layout, procedure, scenario) -> None:
    known, world = load_procedure(procedure), load_scenario(scenario)
    assert world.procedure == procedure
    tools = {t.name for t in known.tools}
    assert tools == set(vocabulary(layout, "tool").names) == set(world.tools)
    assert {t.name for t in known.tissues} >= set(world.organs)
    for kind, described, shown in (
        ("phase", known.phases, world.phases),
        ("step", known.steps, world.steps),
        ("action", known.actions, world.actions),
    ):
        names = {a.name for a in described}
        assert names == set(shown)
        if names:
            assert names == set(vocabulary(layout, kind).names)
    assert all(a.next for a in (*known.phases, *known.steps, *known.actions))


def test_samples_of_both_carry_role_licence_and_canonical_video(tmp_path) -> None:
    pit_tree(tmp_path / "pit", ONE_TOOL)
    esd_tree(tmp_path / "esd", [item(937, 1)])
    for layout, folder, video in (("pitvqa", "pit", "pitvis/1"), ("copesd", "esd", "copesd/937")):
        samples = list(read_source(Source(dataset=layout, root=tmp_path / folder, images="skip")))
        assert {(s.canonical_video, s.role, s.policy) for s in samples} == {
            (video, "train", "licence_restricted")
        }
        assert len({s.sample_id for s in samples}) == len(samples)
