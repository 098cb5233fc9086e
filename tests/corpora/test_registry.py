"""Isolation against the published overlaps (reference datasets-a.md 10, datasets-b.md 16)."""

import pytest

from surgr1.corpora.datasets import dataset_names, official_split
from surgr1.corpora.registry import (
    Isolation,
    LeakError,
    Member,
    canonical_video,
    cost,
    find_leaks,
    held_out,
    leak_matrix,
    official_members,
)

PUBLISHED = {"cholec80-cvs": "baseline", "cholectrack20": "official", "cholec-instance-seg": "official"}
"""The splits of the reference's tables, where the default is the one that the paper's count fits."""


def members(*layouts: str) -> list[Member]:
    return [
        Member(d, v, r) for d in layouts for v, r in official_split(d, PUBLISHED.get(d, "default")).items()
    ]


def numbers(operations) -> set[int]:
    return {int(o.split("/")[1]) for o in operations}


def test_shared_videos_between_training_and_test_are_the_published_ones() -> None:
    """datasets-a.md 10.3, validation left aside as there."""
    named = ("cholec80", "cholec80-cvs", "cholect50", "cholectrack20", "cholec-instance-seg", "cholec80-vqa")
    tested = [m for m in members(*named) if m.role != "validation"]
    cells = {(r.evaluation, r.train): numbers(r.videos) for r in leak_matrix(tested)}
    assert cells["cholect50", "cholec80"] == {6, 10, 14, 32}
    assert cells["cholec80", "cholect50"] == {43, 47, 48, 49, 52, 56, 57, 60, 62, 65, 66, 68, 70, 75, 79}
    assert len(cells["cholec80", "cholec80-cvs"]) == 29
    assert len(cells["cholec80", "cholec-instance-seg"]) == 22
    assert cells["cholec80-cvs", "cholec80-vqa"] == {6, 7, 9, 14, 22, 24, 29, 33, 35, 39}
    assert cells["cholect50", "cholec-instance-seg"] == {6, 10, 32, 42, 51, 73, 74, 80, 111}
    assert cells["cholectrack20", "cholec80"] == {1, 6, 7, 12, 25, 39}
    assert cells["cholectrack20", "cholect50"] == {1, 25, 92}
    assert cells["cholec-instance-seg", "cholec80-cvs"] == {15, 20, 21, 38, 41, 45, 58, 64, 69, 72, 77}
    assert ("cholect50", "cholectrack20") not in cells


def test_endoscapes_shares_nine_known_operations() -> None:
    shared = {canonical_video("endoscapes", str(v)) for v in range(1, 202)}
    assert numbers(o for o in shared if o.startswith("cholec/")) == {67, 68, 70, 71, 72, 96, 110, 66, 103}
    assert not {
        o for v in range(162, 202) if (o := canonical_video("endoscapes", str(v))).startswith("cholec")
    }
    assert (
        canonical_video("endoscapes", "3")
        == canonical_video("cholec80", "video70")
        == canonical_video("cholect50", "VID70")
        == canonical_video("endoscapes-cvs", "3")
    )


def test_leak_free_joint_training_of_the_family_keeps_fifteen_operations() -> None:
    """datasets-a.md 10.4: without every held-out set fifteen operations are left, without the other
    validation sets as well six.
    """
    family = (
        "cholec80",
        "cholec80-cvs",
        "cholect50",
        "cholectrack20",
        "cholec-instance-seg",
        "endoscapes",
        "cholec80-vqa",
    )
    everything = [m for m in members(*family) if m.operation.startswith("cholec/")]
    kept_validation = ("endoscapes", "cholec80-vqa")
    tests = [m for m in everything if m.role != "validation" or m.dataset in kept_validation]
    trained = {m.operation for m in everything} - {m.operation for m in tests if m.role != "train"}
    assert numbers(trained) == {2, 3, 4, 8, 13, 18, 23, 28, 30, 34, 36, 37, 40, 96, 110}
    strict = {m.operation for m in everything} - {m.operation for m in everything if m.role != "train"}
    assert numbers(strict) == {4, 13, 18, 36, 40, 96}


def test_grasp_contains_psi_ava_and_endovis_comes_back_in_its_vqa_sets() -> None:
    cells = {(r.train, r.evaluation): set(r.videos) for r in leak_matrix(official_members())}
    psi_ava = {canonical_video("grasp", f"CASE{n:03d}") for n in (2, 3, 7, 21)}
    assert cells["grasp", "psi-ava-vqa"] == psi_ava
    assert {o.split("/")[-1] for o in cells["endovis18", "endovis18-vqa"]} == {"1", "5", "16"}
    assert {o.split("/")[-1] for o in cells["endovis18", "endovis18-vqla"]} == {"1", "5", "16"}
    assert ("endovis17", "endovis17-vqla") in cells


def test_datasets_that_are_not_read_here_are_known_by_their_operations() -> None:
    """datasets-a.md 10.1: SSG-VQA's training videos among CholecT50's test videos, CholecSeg8k's 17."""
    cells = {(r.train, r.evaluation): numbers(r.videos) for r in leak_matrix(official_members())}
    tested = {6, 10, 14, 32, 42, 51, 73, 74, 80, 111}
    assert cells["ssg-vqa", "cholect50"] & tested == {6, 10, 14, 32, 42, 51, 73, 80}
    assert sum(m.dataset == "cholecseg8k" for m in official_members()) == 17
    assert canonical_video("m2cai16-tool", "67") == canonical_video("endoscapes", "1")


def test_halves_of_one_operation_are_one() -> None:
    assert canonical_video("sar-rarp50", "video_11_1") == canonical_video("sar-rarp50", "video_11_2")
    assert canonical_video("sar-rarp50", "video_11") != canonical_video("sar-rarp50", "video_01")


def test_simulated_operations_are_another_world_with_the_same_sharing() -> None:
    one, other = canonical_video("sim-cholec80", "video05"), canonical_video("sim-cholect50", "VID05")
    assert one == other == "sim:cholec/5"
    assert canonical_video("sim-renji", "VID05") != other
    assert canonical_video("sim-endoscapes", "3") == "sim:endoscapes/3"


LEAKY = [
    Member("cholec80", "video06", "train"),
    Member("cholec80", "video07", "train"),
    Member("cholect50", "VID06", "test"),
    Member("autolaparo", "01", "train"),
]


def test_a_leak_is_refused_naming_both_sides() -> None:
    with pytest.raises(LeakError, match=r"cholec80 video06 \(training\) is cholect50 VID06 \(evaluation\)"):
        held_out(LEAKY, Isolation())


def test_leaks_can_be_left_out_or_allowed_with_a_reason() -> None:
    assert held_out(LEAKY, Isolation(leaks="exclude")) == {("cholec80", "video06")}
    assert held_out(LEAKY, Isolation(leaks="allow", reason="the paper does so")) == frozenset()
    with pytest.raises(ValueError, match="needs a reason"):
        Isolation(leaks="allow", reason=" ")


def test_only_selected_evaluation_sets_hold_videos_out() -> None:
    more = [*LEAKY, Member("cholectrack20", "VID07", "test")]
    assert held_out(more, Isolation(evaluation=("cholectrack20",), leaks="exclude")) == {
        ("cholec80", "video07")
    }
    with pytest.raises(LeakError, match="endoscapes, which is not read here"):
        held_out(LEAKY, Isolation(evaluation=("endoscapes",)))


def test_the_cost_of_an_evaluation_set_is_counted_in_training_videos() -> None:
    found = cost(members("cholec80", "cholect50"), ("cholect50",))
    # Of rdv's test videos 6, 10, 14, 32 and of its validation videos 8, 12, 29 are in Cholec80 1-40.
    assert found.lost == {"cholec80": (7, 40)} and found.operations == 7
    assert not cost(members("cholec80", "autolaparo"), ("autolaparo",)).lost


def test_every_layout_has_a_canonical_name_for_every_video() -> None:
    for layout in dataset_names():
        videos = official_members()
        assert all(m.operation.count("/") >= 1 for m in videos if m.dataset == layout)
    assert find_leaks(official_members())
