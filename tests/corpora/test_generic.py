"""The generic layout: docs/external-data.md's own examples are read, and what is wrong is named by file and
line.
"""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from surgr1.bench.cards import card_of
from surgr1.corpora.build import build, corpus_samples
from surgr1.corpora.doctor import examine, layouts_of
from surgr1.corpora.files import LabelError, LayoutError
from surgr1.corpora.sources import Source, read_source
from surgr1.ontology.tasks import Task
from surgr1.synthesis.offline import aspects

PAGE = (Path(__file__).parents[2] / "docs/external-data.md").read_text()


def example(kind):
    return re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL).group(1)


def tree(root, table="frames.jsonl", text=None, about=None):
    (root / "images").mkdir(parents=True)
    for name in ("p01_000000", "p01_000025", "p02_000000"):
        Image.new("RGB", (120, 100), (90, 30, 30)).save(root / "images" / f"{name}.png")
    (root / "dataset.yaml").write_text(about or example("yaml"))
    (root / table).write_text(text or example("json" if table.endswith("l") else "csv"))
    return root


def read(root, dataset="renji", **settings):
    settings = {"role": "external"} | settings
    return list(read_source(Source(dataset=dataset, root=root, format="generic", **settings)))


def test_the_documents_examples_give_their_samples(tmp_path) -> None:
    found = read(tree(tmp_path / "renji"))
    by_task = {(s.task, s.video, s.frame, s.focus): s.answer for s in found}
    assert by_task[(Task.PHASE_RECOGNITION, "p01", 0, "")] == "preparation"
    assert by_task[(Task.TRIPLET_EXTRACTION, "p01", 0, "")] == "grasper retract gallbladder"
    assert by_task[(Task.TOOL_RECOGNITION, "p01", 25, "")] == "none"
    assert by_task[(Task.CVS_CRITERIA_ASSESSMENT, "p01", 25, "C1")] == "no"
    assert by_task[(Task.CVS_CRITERIA_ASSESSMENT, "p01", 25, "C2")] == "yes"
    assert (Task.CVS_CRITERIA_ASSESSMENT, "p01", 25, "C3") not in by_task, "not assessed, not asked"
    assert not any(t is Task.OVERALL_CVS_ASSESSMENT for t, *_ in by_task), (
        "two of three criteria decide nothing"
    )
    assert by_task[(Task.TOOL_LOCALIZATION, "p02", 0, "hook")] == "(12,30),(80,96)"
    assert by_task[(Task.SURGICAL_VQA, "p02", 0, "")] == "kidney"
    assert {s.policy for s in found} == {"local_only"} and {s.centre for s in found} == {"renji"}
    assert {s.role for s in found} == {"external"}
    cards = {card.id for s in found if (card := card_of(s.dataset, s.task)) is not None}
    assert cards == {"renji-triplet", "renji-phase"}


def test_both_tables_say_the_same(tmp_path) -> None:
    lines, cells = read(tree(tmp_path / "a")), read(tree(tmp_path / "b", "frames.csv"))
    asked = [s for s in lines if s.task is not Task.SURGICAL_VQA]
    assert [(s.sample_id, s.answer, s.labels, s.image) for s in asked] == [
        (s.sample_id, s.answer, s.labels, s.image) for s in cells
    ]


def test_samples_go_through_parquet_and_the_teachers_sentences(tmp_path) -> None:
    source = Source(dataset="renji", root=tree(tmp_path / "renji"), format="generic", role="external")
    build([source], tmp_path / "data")
    back = list(corpus_samples(tmp_path / "data", "renji"))
    assert back == list(read_source(source))
    partial = next(s for s in back if s.labels.cvs is not None)
    assert partial.labels.cvs == (False, True, None)
    assert len(aspects(partial)["critical view"]) == 2


def test_a_mended_table_is_read_anew(tmp_path) -> None:
    root = tree(tmp_path / "renji")
    source = Source(dataset="renji", root=root, format="generic", role="external")
    build([source], tmp_path / "data")
    table = root / "frames.jsonl"
    table.write_text(table.read_text().replace('"preparation"', '"gallbladder dissection"'))
    build([source], tmp_path / "data")
    assert {
        s.answer for s in corpus_samples(tmp_path / "data", "renji") if s.task is Task.PHASE_RECOGNITION
    } == {
        "gallbladder dissection",
        "calot triangle dissection",
    }


def test_a_folder_is_recognised(tmp_path) -> None:
    root = tree(tmp_path / "renji")
    assert layouts_of(root) == ("generic",)
    found = examine(root, "generic")
    assert (found.state, found.videos, found.frames) == ("complete", 2, 3)
    broken = examine(tree(tmp_path / "b", text='{"video": "p01", "frame": 0}\n'), "generic")
    assert broken.state == "broken"
    assert any("frames.jsonl:1" in p and "image" in p for p in broken.problems)


def test_the_policy_is_local_only_unless_the_owner_says_otherwise(tmp_path) -> None:
    about = example("yaml").replace("renji", "sleeve")
    phases, triplets = "[preparation, calot triangle dissection]", "[grasper retract gallbladder]"
    vocabularies = f"vocabularies: {{phase: {phases}, triplet: {triplets}}}\n"
    silent = about.replace("policy: local_only\n", "") + vocabularies
    open_ = about.replace("local_only", "public") + vocabularies
    for text, asked, policy in (
        (silent, "public", "local_only"),
        (open_, "public", "public"),
        (open_, "licence_restricted", "licence_restricted"),
    ):
        root = tree(tmp_path / f"{policy}{asked}", about=text)
        assert {s.policy for s in read(root, "sleeve", policy=asked)} == {policy}
    hospital = tree(tmp_path / "hospital", about=example("yaml").replace("local_only", "public"))
    assert {s.policy for s in read(hospital, policy="public")} == {"local_only"}


def test_own_vocabularies_are_the_options(tmp_path) -> None:
    about = example("yaml").replace("renji", "sleeve") + "vocabularies: {phase: [Opening, Closing]}\n"
    row = {"video": "a", "frame": 1, "image": "images/p01_000000.png", "phase": "closing"}
    root = tree(tmp_path / "sleeve", text=json.dumps(row) + "\n", about=about)
    (one,) = read(root, "sleeve")
    assert (one.answer, one.options) == ("closing", ("opening", "closing"))
    (root / "frames.jsonl").write_text(json.dumps(row | {"phase": "sewing"}))
    with pytest.raises(LabelError, match=r"frames\.jsonl:1: no phase 'sewing'; allowed: opening, closing"):
        read(root, "sleeve")


def test_aliases_and_native_spellings_are_understood(tmp_path) -> None:
    row = {"video": "a", "frame": 1, "image": "images/p01_000000.png", "phase": "carlot-triangle-dissection"}
    found = read(tree(tmp_path / "r", text=json.dumps(row | {"tools": ["Clip Applier"]})))
    assert {s.answer for s in found} == {"calot triangle dissection", "clipper"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "../secret.png"}, r"frames\.jsonl:1: path '\.\./secret\.png' holds '\.\.'"),
        ({"image": "/etc/passwd"}, r"frames\.jsonl:1: path '/etc/passwd' is absolute"),
        ({"tools": ["banana"]}, "no tool 'banana'; allowed: grasper"),
        ({"triplets": [["hook", "pack", "liver"]]}, "hook pack liver: not among the 100"),
        ({"frame": -1}, "frame: .* found -1"),
        ({"frame": "x"}, "frame"),
        ({"colour": "red"}, "colour"),
        ({"boxes": [{"name": "hook", "xyxy": [9, 9, 3, 30]}]}, "box of hook"),
        ({"C1": "perhaps"}, "C1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message) -> None:
    row = {"video": "a", "frame": 1, "image": "images/p01_000000.png"} | change
    with pytest.raises(LabelError, match=message):
        read(tree(tmp_path / "r", text=json.dumps(row)))


def test_a_link_that_leads_out_is_refused(tmp_path) -> None:
    row = {"video": "a", "frame": 1, "image": "images/link.png"}
    root = tree(tmp_path / "r", text=json.dumps(row))
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    (root / "images/link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(LabelError, match="leads out"):
        read(root)


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("frames.jsonl", "{broken\n", r"frames\.jsonl:1: not JSON"),
        ("frames.csv", "video,frame,colour\n", "unknown columns colour; known"),
        ("frames.csv", "video,frame,image\na,1\n", r"frames\.csv:2: not as many cells"),
        ("frames.csv", "video,frame,image\n", "no row"),
        (
            "frames.csv",
            "video,frame,image,tools\na,1,images/p01_000000.png,hook\na,1,images/p01_000000.png,hook\n",
            "frame 1 stands twice",
        ),
    ],
)
def test_a_wrong_table_is_named(tmp_path, table, text, message) -> None:
    with pytest.raises(LabelError, match=message):
        read(tree(tmp_path / "r", table, text))


def test_a_wrong_folder_is_named(tmp_path) -> None:
    with pytest.raises(LayoutError, match="read as 'cuhk'"):
        read(tree(tmp_path / "a"), "cuhk")
    with pytest.raises(LayoutError, match=r"dataset\.yaml: version"):
        read(tree(tmp_path / "b", about=example("yaml").replace("version: 1", "version: 2")))
    both = tree(tmp_path / "c")
    (both / "frames.csv").write_text(example("csv"))
    with pytest.raises(LayoutError, match="found both"):
        read(both)
    (both / "dataset.yaml").unlink()
    with pytest.raises(LayoutError, match=r"no dataset\.yaml; found frames"):
        read(both)
    missing = tree(tmp_path / "d")
    (missing / "images/p02_000000.png").unlink()
    with pytest.raises(LabelError, match=r"frames\.jsonl:3: .*p02_000000\.png: no such picture"):
        read(missing)
