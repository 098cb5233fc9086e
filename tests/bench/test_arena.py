"""Arena Score against the paper's numbers and by hand (evaluation.md B7, section F fixture 1)."""

import pytest

from surgr1.bench.arena import (
    PAPER_TASKS,
    ArenaError,
    arena,
    arena_common,
    arena_lift,
    arena_paper,
    lift,
    win_rates,
)
from surgr1.bench.cards import all_cards

# Surg-R1's column of Tables 9-14 and 4-7.
EXTERNAL = {
    "renji-triplet": {"map": 10.05},
    "renji-phase": {"accuracy": 57.66, "jaccard": 41.15},
    "strasbourg-phase": {"accuracy": 79.80},
    "cuhk-action": {"accuracy": 32.92},
    "west-china-cvs": {"pooled": 92.50, "average": 92.20},
    "nanfang-cvs": {"pooled": 87.36},
}
PUBLIC = {
    "cholect50-triplet": {"accuracy": 51.69, "map": 16.17},
    "cholec80-phase": {"accuracy": 80.90},
    "sar-rarp50-action": {"accuracy": 48.10},
    "multibypass140-phase": {"accuracy": 49.94},
}


def test_the_papers_task_sets_are_the_cards_of_the_groups_with_their_primary_metric() -> None:
    for group, wanted in PAPER_TASKS.items():
        assert {c.id: c.primary for c in all_cards() if c.group == group} == wanted


def test_eq_9_gives_the_papers_public_and_external_scores() -> None:
    public, external = arena_paper(PUBLIC, "public"), arena_paper(EXTERNAL, "external")
    assert round(public.value, 1) == 57.7 and public.missing == () and len(public.tasks) == 4
    assert round(external.value, 2) == 60.05 and external.missing == ()
    assert external.tasks == tuple(PAPER_TASKS["external"])


def test_missing_tasks_are_listed_and_not_averaged_over_silently() -> None:
    three = {k: v for k, v in PUBLIC.items() if k != "sar-rarp50-action"} | {
        "endoscapes-cvs": {"pooled": 99.0}
    }
    found = arena_paper(three, "public")
    assert round(found.value, 2) == 60.84 and found.missing == ("sar-rarp50-action",)
    without_its_metric = arena_paper(EXTERNAL | {"renji-triplet": {"accuracy": 5.0}}, "external")
    assert without_its_metric.missing == ("renji-triplet",) and without_its_metric.renji_triplet_acc is None
    assert round(without_its_metric.value, 2) == 70.05
    with pytest.raises(ArenaError, match="none of the external tasks"):
        arena_paper(PUBLIC, "external")


def test_the_texts_definition_of_the_renji_task_stands_beside_the_papers_number() -> None:
    assert arena_paper(EXTERNAL, "external").renji_triplet_acc is None
    found = arena_paper(EXTERNAL | {"renji-triplet": {"map": 10.05, "accuracy": 22.05}}, "external")
    assert found.renji_triplet_acc == pytest.approx(found.value + 12 / 6)
    assert arena_paper(PUBLIC, "public").renji_triplet_acc is None


def test_only_common_tasks_rank() -> None:
    models = {
        "x": {"a": 1.0, "b": 9.0, "c": 4.0},
        "y": {"a": 3.0, "c": 2.0},
        "z": {"c": 6.0, "a": 0.0, "d": 1.0},
    }
    found = arena_common(models)
    assert found.tasks == ("a", "c") and found.scores == {"x": 2.5, "y": 2.5, "z": 3.0}
    assert found.left_out == {"x": ("b",), "y": (), "z": ("d",)}
    assert arena(models["x"]) > arena(models["z"]), "over its own tasks the last would come first"
    with pytest.raises(ArenaError, match="x, y share no task"):
        arena_common({"x": {"a": 1.0}, "y": {"b": 1.0}})
    with pytest.raises(ArenaError, match="at least one"):
        arena_common({})


def test_lift_takes_the_constant_answer_away() -> None:
    assert arena_lift({"a": 90.0}, {"a": 80.0}) == pytest.approx(0.5)
    # Surg-R1's triplet mAP over its floor on CholecT50 and at Renji (evaluation.md B1): 14.2 % and 4.5 %.
    assert round(100 * lift(16.17, 2.35), 1) == 14.2 and round(100 * lift(10.05, 5.79), 1) == 4.5
    assert arena_lift({"a": 40.0, "b": 75.0}, {"a": 50.0, "b": 50.0}) == pytest.approx((-0.2 + 0.5) / 2)
    assert lift(100, 100) == 0
    with pytest.raises(ArenaError, match="no floor for: b"):
        arena_lift({"a": 1.0, "b": 2.0}, {"a": 0.0})
    with pytest.raises(ArenaError):
        arena({})


def test_win_rates_count_ties_half_and_only_shared_tasks() -> None:
    found = win_rates(
        {"x": {"a": 2.0, "b": 1.0, "c": 5.0}, "y": {"a": 1.0, "b": 1.0, "d": 9.0}, "z": {"e": 1.0}}
    )
    assert found == {"x": {"y": 0.75}, "y": {"x": 0.25}, "z": {}}
