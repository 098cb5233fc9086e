"""Reasoning metrics: hand-made traces with both verdicts, the paper's own figures, the offline teacher as a
faithful reference, additivity, and a slow resampling.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from surgr1.bench.predictions import Row, judge
from surgr1.bench.reasoning_metrics import (
    RATES,
    SCHEME,
    Cooccurrence,
    CooccurrenceError,
    agree,
    count_cooccurrence,
    is_correct,
    per_cluster,
    read_cooccurrence,
    reasoning_scores,
    statistics,
    trace_features,
)
from surgr1.bench.statistics import bootstrap_weights, interval, jackknife
from surgr1.bench.trace_words import affirmed_names, claims, lexicon
from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Labels, Sample
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import triplet_parts, vocabulary
from surgr1.reasoning.trace import render
from surgr1.synthesis.offline import OfflineTeacher

CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
PROSTATECTOMY = "robot-assisted radical prostatectomy"
TOOLS = lexicon("cholec80", CHOLECYSTECTOMY, "tool")
PHASES = lexicon("cholec80", CHOLECYSTECTOMY, "phase")
TRIPLETS = vocabulary("cholect50", "triplet").names


def row(text, answer, task=Task.TRIPLET_EXTRACTION, dataset="cholect50", labels=None, **facts):
    options = {
        Task.TRIPLET_EXTRACTION: TRIPLETS,
        Task.PHASE_RECOGNITION: tuple(dict.fromkeys(PHASES.values())),
        Task.TOOL_RECOGNITION: vocabulary("cholec80", "tool").names,
        Task.ACTION_RECOGNITION: vocabulary("sar-rarp50", "action").names,
        Task.OVERALL_CVS_ASSESSMENT: ("achieved", "not achieved"),
    }.get(task, ())
    body = {
        "sample_id": "s",
        "dataset": dataset,
        "video": "v",
        "frame": 0,
        "task": task,
        "answer": answer,
        "procedure": CHOLECYSTECTOMY,
        "options": list(options),
        "labels": json.loads(json.dumps(asdict(labels or Labels()))),
        "text": text,
        "reasoning": True,
    }
    return judge(Row.model_validate(body | facts).model_dump(mode="json"))


def trace(*levels, answer, opener=""):
    body = "\n".join(f"Level {k}: {text}" for k, text in enumerate(levels, start=1))
    return f"<think>{opener}{body}</think><answer>{answer}</answer>"


def triplet_features(one, two, answer="grasper retract gallbladder", labels=None):
    return trace_features(row(trace(one, two, answer=answer), "grasper retract gallbladder", labels=labels))


# --- Words ---


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I see a grasper and a hook.", {"grasper", "hook"}),
        ("Two graspers with serrated jaws.", {"grasper"}),
        ("A clip applier enters; the electric hook rests.", {"clipper", "hook"}),
        ("A bipolar grasper is open.", {"bipolar"}),
        ("No clipper.", set()),
        ("There is no clipper in view, the grasper holds.", {"grasper"}),
        ("I do not see a hook.", set()),
        ("No clipper, scissors or hook is present.", set()),
        ("No clipper, the grasper holds.", {"grasper"}),
        ("Neither hook nor scissors. A grasper.", {"grasper"}),
        ("The clipper is not visible.", set()),
        ("The clipper and the hook are not visible.", set()),
        ("The hook is absent, the irrigator present.", {"irrigator"}),
        ("A hook rather than a grasper.", {"hook"}),
        ("Nothing but the hook.", {"hook"}),
        ("No instrument other than the grasper is seen.", {"grasper"}),
        ("Not only a grasper: a hook too.", {"grasper", "hook"}),
        ("The gallbladder is not touched by the hook.", {"hook"}),
        ("The grasper is not retracting.", {"grasper"}),
        ("No hook here. Later in the text a hook.", {"hook"}),
        ("hooked tissue, clips, a grasping hand", set()),
        ("No instrument is in view.", set()),
        ("", set()),
    ],
)
def test_names_are_affirmed_unless_denied(text, names) -> None:
    assert affirmed_names(text, TOOLS) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("This represents the Calot Triangle Dissection phase.", {"calot triangle dissection"}),
        ("So the phase is preparation.", {"preparation"}),
        ("This fits gallbladder packaging.", {"gallbladder packaging"}),
        ("Gallbladder dissection.", {"gallbladder dissection"}),
        ("The phase is most likely clipping & cutting.", {"clipping and cutting"}),
        ("Clipping and cutting is under way.", {"clipping and cutting"}),
        ("Fat is cleared in preparation for the clips.", set()),
        ("The fundus is held, gallbladder retraction helps the view.", set()),
        ("This is the moment before the clipping and cutting phase.", set()),
        ("This is not the preparation phase.", set()),
        ("The phase is gallbladder dissection rather than preparation.", {"gallbladder dissection"}),
    ],
)
def test_labels_are_claimed_and_not_only_mentioned(text, names) -> None:
    assert claims(text, PHASES) == names


def test_lexicons_follow_the_datasets_vocabulary() -> None:
    assert "specimen bag" in set(TOOLS.values())
    assert "specimen bag" not in set(lexicon("sim-cholect50", CHOLECYSTECTOMY, "tool").values())
    assert set(lexicon("sar-rarp50", PROSTATECTOMY, "tool").values()) == {
        t.name for t in load_procedure(PROSTATECTOMY).tools
    }
    assert lexicon("elsewhere", "", "tool") == {}
    verbs = lexicon("cholect50", CHOLECYSTECTOMY, "verb")
    assert {verbs[f] for f in ("clips", "clipped", "clipping")} == {"clip"}
    assert (verbs["retracting"], verbs["dissection"], verbs["cutting"]) == ("retract", "dissect", "cut")
    assert "null verb" not in verbs.values()


# --- Form ---


def test_form_of_a_good_trace() -> None:
    f = triplet_features("A grasper.", "The grasper retracts the gallbladder.")
    assert f.has_think and f.has_answer and f.ordered and f.expected_levels and f.level1
    assert not f.trailing and not f.truncated and f.correct


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("Level 1: a\nLevel 2: b<answer>none</answer>", {"has_think"}),
        ("<think>Level 1: a\nLevel 2: b</think>none", {"has_answer"}),
        ("<think>Level 2: b\nLevel 1: a</think><answer>none</answer>", {"ordered"}),
        ("<think>Level 1: a</think><answer>none</answer>", {"expected_levels"}),
        ("<think>Level 1: a\nLevel 2: b\nLevel 3: c</think><answer>none</answer>", {"expected_levels"}),
        ("<think>Level 1: a\nLevel 2:</think><answer>none</answer>", {"expected_levels"}),
        ("<think>Level 2: b</think><answer>none</answer>", {"expected_levels", "level1"}),
        ("<think>Level 1: a\nLevel 2: b</think><answer>none</answer> So there.", {"trailing"}),
    ],
)
def test_each_fault_of_form_is_named(text, broken) -> None:
    f = trace_features(row(text, "none"))
    good = ("has_think", "has_answer", "ordered", "expected_levels", "level1")
    assert {g for g in good if not getattr(f, g)} | ({"trailing"} if f.trailing else set()) == broken


def test_a_cut_off_completion_is_truncated() -> None:
    f = trace_features(row("<think>Level 1: a grasper", "none", finish_reason="length"))
    assert f.truncated and not f.answered and not f.correct
    assert f.consistent is None, "without an answer there is nothing to be consistent with"
    assert trace_features(row("<think>Level 1: a grasper", "none")).truncated, "never closed, never answered"


def test_the_opener_alone_is_no_level() -> None:
    text = "<think>This is a Level 2 task requiring analysis.</think><answer>none</answer>"
    f = trace_features(row(text, "none"))
    assert not f.level1 and not f.expected_levels and not f.ordered


def test_headless_text_after_the_opener_is_level_one() -> None:
    """The paper's Figure 3: no heading, so no form, but what it names is grounded."""
    text = (
        "<think>This is a Level 1 task requiring identification. I see a grasper, no hook.</think>"
        "<answer>grasper</answer>"
    )
    labels = Labels(tools=("grasper",))
    f = trace_features(row(text, "grasper", Task.TOOL_RECOGNITION, "cholec80", labels))
    assert f.level1 and f.named_tools == {"grasper"} and f.c1a is True and not f.expected_levels


# --- Grounding ---


def rates(features):
    stats = statistics(features)
    return {name: float(metric(stats)) for name, metric in SCHEME.metrics.items()}, {
        name: stats[2 * k + 1] for k, name in enumerate(RATES)
    }


def test_grounding_by_hand() -> None:
    labels = Labels(tools=("grasper", "hook"), triplets=(("grasper", "retract", "gallbladder"),))
    one = triplet_features("A grasper and a clipper near the gallbladder and the liver.", "x", labels=labels)
    two = triplet_features("A grasper and a hook, no clipper.", "x", labels=labels)
    value, n = rates([one, two])
    assert (value["tool_precision"], n["tool_precision"]) == (3 / 4, 4)
    assert (value["tool_recall"], n["tool_recall"]) == (3 / 4, 4)
    assert (value["hallucinated_tool"], n["hallucinated_tool"]) == (1 / 2, 2)
    assert (value["target_precision"], n["target_precision"]) == (1 / 2, 2)
    assert (value["target_recall"], n["target_recall"]) == (1 / 2, 2)


def test_unlabelled_is_left_out_and_labelled_empty_is_not() -> None:
    unlabelled = triplet_features("A grasper.", "x", labels=Labels())
    empty = triplet_features("A grasper.", "x", labels=Labels(tools=(), triplets=()))
    silent = triplet_features("No instrument is in view.", "x", labels=Labels(tools=(), triplets=()))
    _, n = rates([unlabelled])
    assert n["tool_precision"] == n["hallucinated_tool"] == n["tool_recall"] == n["target_recall"] == 0
    value, n = rates([unlabelled, empty, silent])
    assert (value["hallucinated_tool"], n["hallucinated_tool"]) == (1 / 2, 2)
    assert (value["tool_precision"], n["tool_precision"]) == (0, 1)
    assert math.isnan(value["tool_recall"]) and n["tool_recall"] == 0, "nothing was there to be named"


def test_tools_are_known_from_triplets_alone_and_tissues_excuse_targets() -> None:
    labels = Labels(triplets=(("hook", "dissect", "gallbladder"),), tissues=("gallbladder", "liver"))
    f = triplet_features("A hook, the gallbladder and the liver.", "x", labels=labels)
    assert f.true_tools == {"hook"}
    idle = Labels(triplets=(("grasper", "null verb", "null target"),))
    assert triplet_features("A grasper.", "x", labels=idle).true_targets == set()
    value, n = rates([f])
    assert (value["target_precision"], n["target_precision"]) == (1, 2)


def test_a_bag_is_no_hallucination_where_bags_are_not_labelled() -> None:
    text = trace("A specimen bag.", "x", answer="none")
    inside = trace_features(row(text, "none", labels=Labels(tools=())))
    assert inside.named_tools == set()
    outside = trace_features(row(text, "none", dataset="cholec80", labels=Labels(tools=())))
    assert outside.named_tools == {"specimen bag"}


def test_a_question_about_one_thing_owes_no_other_tool() -> None:
    text = trace("The lower gallbladder lies flat.", answer="no")
    labels = Labels(tools=("grasper",))
    f = trace_features(row(text, "no", Task.CVS_CRITERIA_ASSESSMENT, "cholec80", labels))
    _, n = rates([f])
    assert n["tool_recall"] == 0 and f.wrong_reason is None


# --- Chain ---


def test_level_two_uses_what_level_one_saw() -> None:
    assert triplet_features("A grasper.", "The grasper retracts the gallbladder.").c12 is True
    assert triplet_features("The gallbladder.", "The grasper retracts the gallbladder.").c12 is False
    assert triplet_features("A grasper, no hook.", "The hook dissects the gallbladder.").c12 is False
    assert triplet_features("A grasper.", "The gallbladder is retracted.").c12 is None


def test_the_answers_tools_stand_in_level_one() -> None:
    assert triplet_features("A grasper.", "x").c1a is True
    assert triplet_features("No grasper.", "x").c1a is False
    assert triplet_features("A grasper.", "x", answer="none").c1a is None
    tools = [
        trace_features(row(trace("A hook.", answer=a), "hook", Task.TOOL_RECOGNITION, "cholec80"))
        for a in ("hook", "hook, grasper", "none")
    ]
    assert [f.c1a for f in tools] == [True, False, None]


@pytest.mark.parametrize(
    ("two", "named"),
    [
        ("The grasper retracts the gallbladder.", True),
        ("The gallbladder is being retracted by the grasper.", True),
        ("The grasper provides retraction of the gallbladder.", True),
        ("The grasper is in place. It retracts the gallbladder.", True),
        ("The grasper and the hook retract the gallbladder.", True),
        ("The hook dissects the liver, and the grasper retracts the gallbladder.", True),
        ("The grasper, at the fundus, is retracting the gallbladder.", True),
        ("The grasper retracts the liver.", False),
        ("The grasper grasps the gallbladder.", False),
        ("The hook retracts the gallbladder.", False),
        ("The grasper does not retract the gallbladder.", False),
        ("The grasper is near. The hook retracts the gallbladder.", False),
        ("The grasper retracts the liver and the hook dissects the gallbladder.", False),
        ("The grasper belongs to the gallbladder retraction phase.", False),
    ],
)
def test_the_answers_triplet_is_named_together_in_level_two(two, named) -> None:
    assert triplet_features("A grasper and a hook.", two).c2a is named


def test_an_idle_tool_needs_only_its_name() -> None:
    answer = "grasper null verb null target"
    assert triplet_features("A grasper.", "The grasper is idle.", answer=answer).c2a is True
    assert triplet_features("A grasper.", "Nothing acts on tissue.", answer=answer).c2a is False


@pytest.mark.parametrize(
    ("two", "against"),
    [
        ("The grasper retracts the gallbladder.", False),
        ("The grasper grasps and retracts the gallbladder.", False),
        ("The hook dissects the cystic duct.", True),
        ("The grasper retracts the gallbladder and the hook dissects the liver bed.", True),
        ("The grasper retracts the gallbladder near the cystic duct.", False),
        ("The grasper holds it for further dissection of the gallbladder.", False),
        ("The hook does not dissect the cystic duct.", False),
    ],
)
def test_another_triplet_in_level_two_contradicts(two, against) -> None:
    assert triplet_features("A grasper and a hook.", two).contradiction is against


def test_a_triplet_answer_of_none_is_contradicted_by_a_deed() -> None:
    assert triplet_features("x", "The hook dissects the cystic duct.", answer="none").contradiction is True
    assert triplet_features("x", "Nothing acts on tissue.", answer="none").contradiction is False


def phase_features(*levels, answer="gallbladder dissection", labels=None):
    text = trace(*levels, answer=answer)
    return trace_features(row(text, "gallbladder dissection", Task.PHASE_RECOGNITION, "cholec80", labels))


def test_a_phase_in_the_reasoning_that_is_not_the_answer_contradicts() -> None:
    right = phase_features("x", "y", "This represents the Gallbladder Dissection phase.")
    assert right.stated is True and right.contradiction is False and right.consistent is True
    wrong = phase_features("x", "y", "This represents the preparation phase.")
    assert wrong.stated is False and wrong.contradiction is True and wrong.consistent is False
    early = phase_features("x", "Typical of the preparation phase.", "The phase is gallbladder dissection.")
    assert early.contradiction is True, "Level 2 concludes otherwise than the answer"
    mute = phase_features("x", "y", "z")
    assert mute.stated is False and mute.contradiction is False
    assert phase_features("This is the preparation phase.").contradiction is None, "no Level 2 or 3"


def test_counts_and_the_critical_view_contradict_too() -> None:
    def count(three, answer):
        text = trace("x", "y", three, answer=answer)
        return trace_features(row(text, "3", Task.TOOL_COUNTING, "cholec80")).contradiction

    assert [count("That makes 3.", a) for a in ("3", "2")] == [False, True]
    assert count("Two graspers and one hook make three.", "3") is None, "more than one number: undecided"

    def view(three, answer):
        text = trace("x", "y", three, answer=answer)
        facts = row(text, "achieved", Task.OVERALL_CVS_ASSESSMENT, "endoscapes")
        return trace_features(facts).contradiction

    assert [view("All three hold.", a) for a in ("achieved", "not achieved")] == [False, True]
    assert [view("Only 2 of three hold.", a) for a in ("achieved", "not achieved")] == [True, False]
    assert view("The critical view of safety is not yet achieved.", "achieved") is True


def test_the_papers_figure_4_names_a_phase_aside() -> None:
    """Sentences in the form of Figure 4's trace: a phase named in a triplet question."""
    one = "I identify the grasper with its silver jaws. The gallbladder is present, the liver is visible."
    two = "The grasper is actively retracting the gallbladder. This is consistent with the Preparation phase."

    def figure(phase):
        return triplet_features(
            one,
            two,
            labels=Labels(tools=("grasper",), triplets=(("grasper", "retract", "gallbladder"),), phase=phase),
        )

    f = figure("preparation")
    assert f.aside is True and f.aside_wrong is False
    assert f.contradiction is False and f.c2a is True and f.consistent is True
    assert figure("gallbladder dissection").aside_wrong is True
    assert figure(None).aside_wrong is None
    assert triplet_features(one, "The grasper retracts the gallbladder.").aside is False


def test_the_papers_figure_5_concludes_its_action() -> None:
    two = (
        "The grasper is engaged in grasping the needle, a maneuver of the withdrawal phase of a suture pass."
        "\n\nBased on the grasper's action, the surgical action being performed is pulling the needle out of"
        " the tissue."
    )
    labels = Labels(action="pulling the needle out of the tissue")
    f = trace_features(
        row(
            trace("I can identify a robotic grasper.", two, answer="pulling the needle out of the tissue"),
            "pulling the needle out of the tissue",
            Task.ACTION_RECOGNITION,
            "sar-rarp50",
            labels,
            procedure=PROSTATECTOMY,
        )
    )
    assert f.stated is True and f.contradiction is False and f.named_tools == {"grasper"} and f.c12 is True


# --- Reasons ---


def test_right_for_the_wrong_reason() -> None:
    labels = Labels(tools=("grasper",), triplets=(("grasper", "retract", "gallbladder"),))
    deed = "The grasper retracts the gallbladder."
    sound = triplet_features("A grasper.", deed, labels=labels)
    blind = triplet_features("A clipper.", deed, labels=labels)
    against = triplet_features("A grasper.", "The hook dissects the cystic duct.", labels=labels)
    wrong = triplet_features("A clipper.", deed, "hook dissect gallbladder", labels)
    assert [f.wrong_reason for f in (sound, blind, against, wrong)] == [False, True, True, True]
    value, n = rates([sound, blind, against, wrong])
    assert (value["right_for_wrong_reason"], n["right_for_wrong_reason"]) == (pytest.approx(2 / 3), 3)
    assert (value["accuracy_consistent"], n["accuracy_consistent"]) == (1, 1)
    assert (value["accuracy_inconsistent"], n["accuracy_inconsistent"]) == (pytest.approx(2 / 3), 3)
    assert value["consistent"] == 1 / 4 and value["accuracy"] == 3 / 4


@pytest.mark.parametrize(
    ("a", "b", "task", "same"),
    [
        ("hook, grasper", "grasper, hook", Task.TOOL_RECOGNITION, True),
        ("hook", "grasper, hook", Task.TOOL_RECOGNITION, False),
        ("a b c; d e f", "d e f; a b c", Task.TRIPLET_EXTRACTION, True),
        ("(0,0),(10,10)", "(0,0),(10,20)", Task.TOOL_LOCALIZATION, True),
        ("(0,0),(10,10)", "(0,0),(10,21)", Task.TOOL_LOCALIZATION, False),
        ("preparation", "preparation", Task.PHASE_RECOGNITION, True),
        (None, "preparation", Task.PHASE_RECOGNITION, False),
    ],
)
def test_answers_agree_by_the_rule_of_the_cards(a, b, task, same) -> None:
    assert agree(a, b, task) is same


def test_an_unread_answer_is_wrong_even_if_a_prediction_stands() -> None:
    good = row(trace("x", "y", answer="none"), "none")
    assert is_correct(good) and not is_correct(good | {"outcome": "truncated"})


# --- Plausibility ---


def sample(k, labels, role="train", task=Task.PHASE_RECOGNITION, dataset="sim-cholec80", answer="x"):
    options = TRIPLETS if task is Task.TRIPLET_EXTRACTION else ()
    return Sample(
        dataset, "c", CHOLECYSTECTOMY, "v", f"v{k % 8}", k, 0.0, "x.png", 100, 100, task, "q", options,
        "open", "", answer, labels, role, role, "public", "",
    )  # fmt: skip


def test_log_odds_by_hand_from_training_frames_only() -> None:
    hooks = Labels(tools=("hook",), phase="preparation")
    bare = Labels(tools=(), phase="preparation")
    table = count_cooccurrence(
        [
            *(sample(k, hooks) for k in range(3)),
            sample(3, bare),
            sample(3, bare, task=Task.TOOL_RECOGNITION),
            sample(4, hooks, role="test"),
            sample(5, Labels(phase="preparation")),
            sample(6, Labels(tools=("hook",))),
        ]
    )
    seen = table.counts[CHOLECYSTECTOMY]["preparation"]
    assert seen["hook"] == (3, 4) and seen["clipper"] == (0, 4)

    def odds(*tools, phase="preparation"):
        return table.log_odds(CHOLECYSTECTOMY, phase, tools)

    assert odds("hook") == pytest.approx(math.log((4 / 6) / (2 / 6)))
    assert odds("clipper") == pytest.approx(math.log((1 / 6) / (5 / 6)))
    assert odds("hook", "clipper") == pytest.approx((odds("hook") + odds("clipper")) / 2)
    assert odds() is None and odds("laser") is None and odds("hook", phase="gallbladder packaging") is None


def test_a_tool_outside_a_datasets_vocabulary_was_not_labelled_there() -> None:
    labels = Labels(tools=(), phase="preparation")
    table = count_cooccurrence([sample(0, labels), sample(1, labels, dataset="sim-cholect50")])
    seen = table.counts[CHOLECYSTECTOMY]["preparation"]
    assert seen["grasper"] == (0, 2) and seen["specimen bag"] == (0, 1)


def test_plausibility_reads_the_predicted_phase() -> None:
    counts = {
        CHOLECYSTECTOMY: {
            "preparation": {"hook": (0, 8), "grasper": (8, 8)},
            "gallbladder dissection": {"hook": (8, 8), "grasper": (8, 8)},
        }
    }
    labels = Labels(tools=("hook",), phase="gallbladder dissection")
    text = trace("A hook.", "x", "y", answer="preparation")
    wrong = row(text, "gallbladder dissection", Task.PHASE_RECOGNITION, "cholec80", labels)
    f = trace_features(wrong, Cooccurrence(counts))
    assert f.log_odds == pytest.approx(-math.log(9)) and f.label_log_odds == pytest.approx(math.log(9))
    assert trace_features(wrong).log_odds is None


def test_the_table_is_kept_as_json(tmp_path) -> None:
    table = count_cooccurrence([sample(0, Labels(tools=("hook",), phase="preparation"))])
    table.write(tmp_path / "table.json")
    assert read_cooccurrence(tmp_path / "table.json") == table
    for body in ("[]", "{", '{"p": {"q": {"hook": 3}}}'):
        (tmp_path / "bad.json").write_text(body)
        with pytest.raises(CooccurrenceError, match=r"bad\.json"):
            read_cooccurrence(tmp_path / "bad.json")


# --- Scores ---


def teacher_rows(count=160, seed=0):
    """Frames with random labels, traced by the offline teacher, whose every sentence the labels support."""
    rng = np.random.default_rng(seed)
    phases, names = vocabulary("cholect50", "phase").names, vocabulary("cholect50", "tool").names
    image = PreparedImage(Path("x.png"), 112, 112, 100, 100)
    found = []
    for k in range(count):
        deeds = tuple(
            triplet_parts(TRIPLETS[i]) for i in rng.choice(len(TRIPLETS), rng.integers(1, 4), False)
        )
        tools = tuple(t for t in names if t in {d[0] for d in deeds})
        phase = str(rng.choice(phases))
        task = (Task.TRIPLET_EXTRACTION, Task.PHASE_RECOGNITION)[k % 2]
        answer = phase if k % 2 else "; ".join(" ".join(d) for d in deeds)
        labels = Labels(tools=tools, triplets=deeds, phase=phase)
        s = sample(k, labels, task=task, dataset="sim-cholect50", answer=answer)
        text = render(OfflineTeacher().trace(s, image))
        facts = {"sample_id": s.sample_id, "video": s.video, "frame": k, "centre": "ab"[k % 8 > 3]}
        found.append(row(text, answer, task, "sim-cholect50", labels, **facts))
    return found


def test_the_offline_teacher_is_faithful_and_consistent() -> None:
    body = reasoning_scores(teacher_rows(), draws=50)
    assert [(g["task"], g["n"], g["videos"]) for g in body["groups"]] == [
        ("phase_recognition", 80, 4),
        ("triplet_extraction", 80, 4),
    ]
    assert all("unreliable" in g["warnings"][0] for g in body["groups"])
    for group in body["groups"]:
        found = {name: m["value"] for name, m in group["metrics"].items()}
        assert found["tool_precision"] == found["tool_recall"] == found["c12"] == found["consistent"] == 100
        assert found["hallucinated_tool"] == found["contradiction"] == found["aside"] == 0
        assert found["right_for_wrong_reason"] == 0 and found["expected_levels"] == 100
        assert found["accuracy_inconsistent"] is None and group["metrics"]["accuracy_inconsistent"]["n"] == 0
    assert body["groups"][1]["metrics"]["c2A"] == {"value": 100, "low": 100, "high": 100, "n": 80}
    assert body["groups"][0]["metrics"]["answer_stated"]["n"] == 80


def test_traces_with_another_frames_answer_are_found_out() -> None:
    rows = [r for r in teacher_rows() if r["task"] == "phase_recognition"]
    mixed = []
    for r, other in zip(rows, rows[1:] + rows[:1], strict=True):
        reasoning = r["text"].partition("<answer>")[0]
        mixed.append(judge(r | {"text": f"{reasoning}<answer>{other['answer']}</answer>"}))
    (group,) = reasoning_scores(mixed, draws=50)["groups"]
    expected = 100 * sum(r["answer"] != m["prediction"] for r, m in zip(rows, mixed, strict=True)) / len(rows)
    assert group["metrics"]["contradiction"]["value"] == pytest.approx(expected) and expected > 50
    assert group["metrics"]["accuracy_inconsistent"]["value"] == 0


def test_direct_answers_and_further_completions_are_left_out() -> None:
    rows = teacher_rows(8)
    direct = [r | {"reasoning": False, "sample_id": r["sample_id"] + "-"} for r in rows]
    again = [r | {"sample_index": 1} for r in rows]
    assert reasoning_scores([*rows, *direct, *again], draws=20) == reasoning_scores(rows, draws=20)


def noisy_rows():
    """The teacher's rows, half of them with a tool of Level 1 swapped for another."""
    return [
        r | {"text": r["text"].replace("grasper", "clipper", 1)} if k % 2 else r
        for k, r in enumerate(r for r in teacher_rows() if r["task"] == "triplet_extraction")
    ]


def test_statistics_add_up_over_shards() -> None:
    features = [trace_features(r) for r in noisy_rows()]
    whole = statistics(features)
    assert np.array_equal(whole, statistics(features[:7]) + statistics(features[7:]))
    videos, strata, stamp = per_cluster(noisy_rows(), [statistics([f]) for f in features])
    assert np.array_equal(videos.sum(0), whole) and videos.shape == (4, SCHEME.width)
    assert strata == [("sim-cholect50", "a")] * 2 + [("sim-cholect50", "b")] * 2 and stamp == "videos"


def test_the_interval_equals_a_slow_resampling_of_rows() -> None:
    rows = noisy_rows()
    (group,) = reasoning_scores(rows, draws=60, seed=5)["groups"]
    names = sorted({r["video"] for r in rows})
    centre = {r["video"]: r["centre"] for r in rows}
    values = []
    for weights in bootstrap_weights(len(names), 60, 5, [centre[v] for v in names]):
        picked = [
            trace_features(r)
            for v, k in zip(names, weights, strict=True)
            for _ in range(int(k))
            for r in rows
            if r["video"] == v
        ]
        named = sum(len(f.named_tools) for f in picked)
        values.append(100 * sum(len(f.named_tools & f.true_tools) for f in picked) / named)
    found = group["metrics"]["tool_precision"]
    assert [found["low"], found["high"]] == pytest.approx(list(np.quantile(values, [0.025, 0.975])))
    assert found["low"] < found["value"] < found["high"]


def test_many_videos_get_the_bias_corrected_interval() -> None:
    rows = [r | {"video": f"v{k % 25:02}", "centre": ""} for k, r in enumerate(noisy_rows())]
    (group,) = reasoning_scores(rows, draws=400, seed=1)["groups"]
    videos, strata, _ = per_cluster(rows, [statistics([trace_features(r)]) for r in rows])
    metric = SCHEME.metrics["tool_precision"]
    drawn = metric(bootstrap_weights(25, 400, 1, strata) @ videos)
    expected = interval(drawn, float(metric(videos.sum(0))), jackknife(videos, metric), strata)
    found = group["metrics"]["tool_precision"]
    assert expected.method == "bca"
    assert [found["low"], found["high"]] == pytest.approx([100 * expected.low, 100 * expected.high])
