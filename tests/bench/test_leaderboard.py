"""Only equal stamps are ranked, and only over common tasks (evaluation.md section F, fixture 13)."""

import json

import pytest

from surgr1.bench.arena import PAPER_TASKS
from surgr1.bench.leaderboard import LeaderboardError, leaderboard

TASKS = ("cholect50-triplet", "cholec80-phase", "sar-rarp50-action")


def scores(name, values, *, simulated=False, stamp=None, dataset=None, floor=20.0):
    """scores.json of a model as read back from disk; `stamp` {card: {key: other value}}."""
    cards = []
    for card, value in values.items():
        group = next(g for g, tasks in PAPER_TASKS.items() if card in tasks)
        cards.append(
            {
                "id": card,
                "dataset": (dataset or {}).get(card, card.rpartition("-")[0]),
                "group": group,
                "primary": PAPER_TASKS[group][card],
                "metrics": {
                    PAPER_TASKS[group][card]: {
                        "value": value,
                        "low": None if value is None else value - 2,
                        "high": None if value is None else value + 2,
                    }
                },
                "floor": floor,
                "stamp": {
                    "protocol": "open",
                    "form": "plain",
                    "questions": "q1",
                    "frames": f"f-{card}",
                    "vocabulary": "v1",
                }
                | (stamp or {}).get(card, {}),
            }
        )
    arena = {}
    for group in ("public", "external"):
        own = {c["id"]: values[c["id"]] for c in cards if c["group"] == group}
        if own and None not in own.values():
            mean = sum(own.values()) / len(own)
            arena[group] = {"value": mean, "low": mean - 1, "high": mean + 1, "tasks": sorted(own)}
    body = {"name": name, "model": f"{name}-7B", "simulated": simulated, "cards": cards, "arena": arena}
    return json.loads(json.dumps(body))


def same(*values):
    return dict(zip(TASKS, values, strict=False))


def test_models_with_equal_stamps_are_ranked_over_the_tasks_all_have() -> None:
    a, b, c = (
        scores("A", same(50, 60, 99)),
        scores("B", same(60, 60)),
        scores("C", same(52, 58)),
    )
    (board,) = leaderboard([a, b, c])
    assert board.group == "public" and board.tasks == ("cholec80-phase", "cholect50-triplet")
    assert [(e.name, e.rank, e.score) for e in board.ranked] == [("B", 1, 60), ("A", 2, 55), ("C", 2, 55)]
    assert board.unranked == ()
    a, b = (next(e for e in board.ranked if e.name == n) for n in "AB")
    assert a.left_out == ("sar-rarp50-action",) and a.tasks["sar-rarp50-action"].value == 99
    assert a.interval is None, "its own Arena is over three tasks"
    assert b.interval == (59, 61) and b.left_out == ()
    assert b.missing == ("sar-rarp50-action", "multibypass140-phase")
    assert a.lift == pytest.approx(((50 - 20) / 80 + (60 - 20) / 80) / 2)
    assert board.win_rates["B"] == {"A": 0.75, "C": 1.0} and board.win_rates["A"]["C"] == 0.5


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("frames", "frame list"),
        ("questions", "questions"),
        ("protocol", "protocol"),
        ("form", "form of prompt"),
        ("vocabulary", "vocabulary"),
    ],
)
def test_a_row_with_another_stamp_is_shown_below_unranked_with_the_reason(key, word) -> None:
    odd = scores("best", same(99, 99, 99), stamp={"cholec80-phase": {key: "other"}})
    models = [odd, scores("A", same(50, 60, 70)), scores("B", same(40, 50, 60))]
    (board,) = leaderboard(models)
    assert [e.name for e in board.ranked] == ["A", "B"]
    (below,) = board.unranked
    assert below.name == "best" and below.rank is None and below.score == 99
    assert below.reasons == (
        f"other {word} on cholec80-phase than A",
        f"other {word} on cholec80-phase than B",
    )
    assert set(board.win_rates) == {"A", "B"}


def test_two_models_that_differ_are_both_unranked() -> None:
    (board,) = leaderboard(
        [scores("A", same(1, 2)), scores("B", same(3, 4), stamp={TASKS[0]: {"questions": "q2"}})]
    )
    assert board.ranked == () and board.tasks == () and board.win_rates == {}
    assert [e.reasons for e in board.unranked] == [
        ("other questions on cholect50-triplet than B",),
        ("other questions on cholect50-triplet than A",),
    ]
    (alone,) = leaderboard([scores("A", same(1, 2))])
    assert alone.unranked[0].reasons == ("no other model to compare with",)


def test_simulated_data_is_not_ranked_with_real_data_and_is_named() -> None:
    fake = scores("S", same(99), simulated=True, dataset={"cholect50-triplet": "sim-cholect50"})
    (board,) = leaderboard([fake, scores("A", same(50, 60)), scores("B", same(40, 50))])
    assert [e.name for e in board.ranked] == ["A", "B"]
    assert board.unranked[0].simulated and "other data set on cholect50-triplet than A" in (
        board.unranked[0].reasons
    )
    assert "simulated" in board.notes[0]
    (real,) = leaderboard([scores("A", same(50, 60)), scores("B", same(40, 50))])
    assert not any("simulated" in n for n in real.notes)


def test_models_without_a_common_task_are_not_ranked() -> None:
    a, b = scores("A", {"cholec80-phase": 50}), scores("B", {"sar-rarp50-action": 50})
    (board,) = leaderboard([a, b])
    assert board.ranked == () and board.unranked[0].reasons == ("other tasks than B",)
    # A shares one task with B and another with C; no task is common to all three.
    a = scores("A", {"cholec80-phase": 50, "sar-rarp50-action": 50})
    c = scores("C", {"cholec80-phase": 40})
    (board,) = leaderboard([a, c, b])
    assert [e.name for e in board.ranked] == ["A", "C"] and board.tasks == ("cholec80-phase",)
    assert board.unranked[0].reasons == ("other tasks than C",)
    d = scores("D", {"cholec80-phase": 40, "cholect50-triplet": 1})
    e = scores("E", {"cholect50-triplet": 1, "sar-rarp50-action": 50})
    (board,) = leaderboard([a, d, e])
    assert [x.name for x in board.ranked] == ["A", "D"]
    assert board.unranked[0].reasons == ("no task that all of A, D have",)


def test_each_group_has_its_board_and_undefined_scores_are_no_results() -> None:
    external = {"renji-triplet": 10.0, "nanfang-cvs": None}
    found = leaderboard([scores("A", same(50) | external), scores("B", same(40) | {"renji-triplet": 9.0})])
    assert [b.group for b in found] == ["public", "external"]
    assert found[1].tasks == ("renji-triplet",)
    assert "nanfang-cvs" in found[1].ranked[0].missing


def test_published_rows_stand_beside_with_their_protocols_and_never_in_the_ranking() -> None:
    models = [scores("Surg-R1 (Ours)", same(1, 1)), scores("B", same(2, 2))]
    (board,) = leaderboard(models)
    assert {e.name for e in (*board.ranked, *board.unranked)} == {"Surg-R1 (Ours)", "B"}
    by_model = {(p.model, *sorted(set(p.protocols.values()))): p for p in board.published}
    paper = by_model["surg-r1", "unknown"]
    assert round(paper.score, 1) == 57.7 and paper.missing == ()
    gpt = by_model["gpt-5.1", "unknown"]
    assert round(gpt.score, 2) == 29.03, "all four tasks; the paper's 28.5 leaves one out"
    llava = by_model["llava-1.5-7b", "options", "unknown"]
    assert llava.protocols["cholec80-phase"] == "options"
    assert llava.protocols["multibypass140-phase"] == "unknown"
    assert by_model["surgvlm-72b", "open"].missing == ("multibypass140-phase",)
    assert ("surgvlm-72b", "options") in by_model
    (outside,) = leaderboard([scores("A", {"renji-phase": 1.0})])
    assert len(outside.published) == 11
    assert {p.model: round(p.score, 1) for p in outside.published}["surg-r1"] == 60.0
    assert any("never" in n or "not ranked" in n for n in board.notes)


def test_boards_that_cannot_be_built_say_why() -> None:
    with pytest.raises(LeaderboardError, match="A: named twice"):
        leaderboard([scores("A", same(1)), scores("A", same(2))])
    broken = scores("A", same(1, 2))
    del broken["cards"][1]["stamp"]["frames"]
    with pytest.raises(LeaderboardError, match="A: card cholec80-phase has no stamp for frames"):
        leaderboard([broken])
    assert leaderboard([]) == ()
