"""Statements against the truth of simulated frames: verdicts by hand, the offline teacher on a simulated
world, one corrupted fact per trace found every time, and additive scores.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from surgr1.bench.statements import METRICS, NAMES, check, score_rows, shown, statistics
from surgr1.bench.truth import CONDITIONS, SeenInstrument, TruthRow, read_truth
from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.questions import GRID, quadrant
from surgr1.corpora.sources import Source, read_source
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.findings import FINDINGS, THINGS
from surgr1.reasoning.statements import read, read_text
from surgr1.reasoning.trace import parse, render
from surgr1.simulator.anatomy import IDS
from surgr1.simulator.world import SimPlan, Tree, simulate
from surgr1.synthesis.offline import _PRESENT, OfflineTeacher

CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
STATE = {
    "fat": 0.0,
    "two_structures": 1.0,
    "window": 1.0,
    "plate": 0.2,
    "duct_clips": 2,
    "artery_clips": 0,
    "clips_seen": 2,
    "duct_cut": False,
    "artery_cut": False,
    "detachment": 0.0,
    "bag": "none",
    "smoke": 0.0,
    "blood": 0.2,
}


def row(**changes) -> TruthRow:
    """A frame of 400 x 200 pixels: hook on the duct at the right-bottom, idle grasper at the left-top."""
    fields = {
        "dataset": "sim-cholect50",
        "centre": "sim-strasbourg-public",
        "procedure": CHOLECYSTECTOMY,
        "video": "VID01",
        "frame": 3,
        "seconds": 3.0,
        "width": 400,
        "height": 200,
        "instruments": (
            SeenInstrument("hook", (300.0, 120.0, 340.0, 160.0), "dissect", "cystic duct"),
            SeenInstrument("grasper", (20.0, 20.0, 60.0, 60.0), "null verb", "null target"),
        ),
        "tissues": (
            ("gallbladder", (100.0, 20.0, 220.0, 90.0)),
            ("cystic duct", (240.0, 110.0, 300.0, 180.0)),
            ("cystic artery", (240.0, 90.0, 320.0, 110.0)),
            ("calot triangle", (230.0, 100.0, 300.0, 150.0)),
            ("liver", (0.0, 0.0, 200.0, 120.0)),
        ),
        "phase": "calot triangle dissection",
        "step": None,
        "action": None,
        "cvs": (True, True, False),
        "state": STATE,
    }
    return TruthRow(**(fields | changes))


def results(text: str, truth: TruthRow) -> str:
    """One letter per statement: s, r, u."""
    found = check(read_text(text, 1, load_procedure(truth.procedure)), truth)
    return "".join(v.result[0] for v in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I see a hook and a grasper.", "ss"),
        ("A clipper is visible. No bipolar is visible. No hook is visible.", "rsr"),
        ("No instrument is in view.", "r"),
        # Seen and placed; a middle line counts for both sides.
        ("A hook is at the right-bottom.", "ss"),
        ("A hook is at the left-bottom.", "sr"),
        ("A hook is on the right side. The grasper is at the bottom.", "sssr"),
        ("The clipper is at the left-top.", "rr"),
        ("A hook is in the middle.", "su"),
        # Deeds.
        ("The hook dissects the cystic duct.", "s"),
        ("The hook dissects the cystic artery. The hook cuts the cystic duct.", "rr"),
        ("The grasper dissects the cystic duct. The grasper is idle. The hook is idle.", "rsr"),
        ("The cystic duct is being dissected. The hook does not cut the cystic duct.", "ss"),
        ("The scissors are idle. Nothing acts on tissue.", "rr"),
        ("The hook touches the cystic duct. The hook never touches the liver.", "su"),
        # Numbers.
        ("Two instruments are visible. Two hooks are visible. That makes 3.", "srsr"),
        # Tissues.
        ("I see the gallbladder. The cystic plate is visible. The peritoneum is visible.", "sru"),
        # Phase and criteria.
        ("This is calot triangle dissection. This is not preparation. This is preparation.", "ssr"),
        ("The criterion two structures is met. The criterion cystic plate is met.", "sr"),
        ("Only 2 of three hold. All three hold. No criterion is met.", "srr"),
        # Findings: what is drawn, what is open.
        ("Two clips sit on the duct. Nothing is clipped.", "sr"),
        ("A dark clear window lies beside the duct. Fat hides the tubes at the neck.", "sr"),
        ("The lower gallbladder lies flat on the liver.", "u"),
        ("An open bag is ready.", "r"),
        ("There is blood but no smoke.", "ss"),
        ("The surgeon is careful.", "u"),
    ],
)
def test_verdicts_by_hand(text, expected) -> None:
    assert results(text, row()) == expected


def test_a_box_on_the_middle_line_is_on_both_sides() -> None:
    middle = row(instruments=(SeenInstrument("hook", (180.0, 20.0, 220.0, 60.0), "cut", "liver"),))
    assert (
        results("A hook is at the left-top.", middle)
        == results("A hook is at the right-top.", middle)
        == "ss"
    )
    assert results("A hook is at the left-bottom.", middle) == "sr"


def test_what_the_simulation_does_not_say_is_not_checked() -> None:
    robot = row(
        procedure="robot-assisted radical prostatectomy",
        instruments=(SeenInstrument("needle driver", (0.0, 0.0, 40.0, 40.0), None, None),),
        phase=None,
        cvs=None,
        action="tying a knot",
        state={"loops": 2},
    )
    assert results("The needle driver grasps the bladder neck.", robot) == "u"
    # What is not there does nothing.
    assert results("The scissors cut the bladder neck.", robot) == "r"
    assert results("The action is tying a knot. This is cutting the suture.", robot) == "sr"
    covered = row(state=STATE | {"clips_seen": 0})
    assert results("Clips are set on the tubes. Nothing is clipped.", covered) == "uu"


def test_every_finding_has_a_condition_on_things_that_can_be_drawn() -> None:
    assert set(CONDITIONS) == {name for name, _ in FINDINGS} | set(THINGS.values())
    tools = {t.name for p in ("laparoscopic cholecystectomy",) for t in load_procedure(p).tools}
    tools |= {"linear stapler", "energy device", "needle driver", "suction"}
    for condition in CONDITIONS.values():
        assert set(condition.needs) <= set(IDS) | tools
        condition.holds(row())


def prediction(text: str, **changes) -> dict:
    return {
        "sample_id": "x",
        "dataset": "sim-cholect50",
        "video": "VID01",
        "frame": 3,
        "task": "triplet_extraction",
        "text": text,
    } | changes


def test_scores_of_one_trace_by_hand() -> None:
    text = (
        "<think>Level 1: I see a hook, a clipper. Something is strange.\n"
        "Level 2: The hook dissects the cystic duct.</think><answer>hook dissect cystic duct</answer>"
    )
    scores = score_rows([prediction(text)], {row().key: row()})
    m = scores["metrics"]
    assert scores["traces"] == 1 and scores["simulated"] is True
    # Hook and deed supported, clipper refuted, one clause unread.
    assert m["precision"] == pytest.approx(2 / 3)
    assert (m["precision_tool"], m["precision_deed"], m["precision_phase"]) == (0.5, 1.0, None)
    assert (m["precision_level_1"], m["precision_level_2"], m["precision_level_3"]) == (0.5, 1.0, None)
    assert (m["read"], m["checkable"]) == (0.75, 1.0)
    assert (m["refuted_per_trace"], m["traces_with_refuted"], m["statements_per_trace"]) == (1.0, 1.0, 3.0)
    printed = shown(m)
    assert (printed["traces_with_refuted"], printed["statements_per_trace"]) == (100.0, 3.0)
    assert not any(v is None for v in printed.values())
    # One of two tools, one of two deeds (the grasper and its idleness are not said).
    assert (m["tool_recall"], m["deed_recall"]) == (0.5, 0.5)
    assert [(r["kind"], r["reason"], r["n"]) for r in scores["refuted"]] == [("tool", "clipper seen", 1)]


def test_rows_without_truth_or_trace_are_counted_and_left_out() -> None:
    rows = [
        prediction("<answer>preparation</answer>"),
        prediction("preparation"),
        prediction("<think>Level 1: I see a hook.</think><answer>x</answer>", video="VID99"),
        prediction("<think>Level 1: I see a hook.</think><answer>x</answer>"),
        prediction("", finish_reason="error"),
    ]
    scores = score_rows(rows, {row().key: row()})
    assert (scores["rows"], scores["without_truth"], scores["without_trace"]) == (5, 1, 3)
    assert scores["traces"] == 1 and list(scores["videos"]) == ["sim-cholect50/VID01"]
    empty = score_rows([], {})
    assert empty["traces"] == 0 and set(empty["metrics"].values()) == {None}


TREES = (
    Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=14, train=(1,)),
    Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=20, train=(1,)),
    Tree(dataset="sim-endoscapes", centre="sim-london-public", seconds=36, train=(11,)),
    Tree(dataset="sim-sar-rarp50", centre="sim-london-public", seconds=30, train=(1,)),
    Tree(dataset="sim-multibypass140", centre="sim-bern-public", seconds=26, train=(1,)),
)
WITHOUT_CUES = frozenset({"tool", "tissue", "place", "deed", "count", "phase", "step", "action", "criterion"})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    simulate(folder, SimPlan(trees=TREES), workers=1)
    return folder


@pytest.fixture(scope="module")
def truth(world):
    return read_truth(world / "truth")


@pytest.fixture(scope="module")
def traces(world):
    """(sample, trace) of the offline teacher on every question of the world."""
    found = []
    for tree in TREES:
        source = Source(
            dataset=tree.dataset, root=world / tree.dataset, centre="x", policy="public", role="train"
        )
        for sample in read_source(source):
            size = (sample.width, sample.height)
            found.append((sample, OfflineTeacher().trace(sample, PreparedImage(Path("x"), *size, *size))))
    return found


def rows_of(traces) -> list[dict]:
    return [
        prediction(
            render(t),
            sample_id=s.sample_id,
            dataset=s.dataset,
            video=s.video,
            frame=s.frame,
            task=str(s.task),
        )
        for s, t in traces
    ]


def test_all_the_offline_teacher_says_from_labels_is_supported_and_read(traces, truth) -> None:
    scores = score_rows(rows_of(traces), truth)
    assert scores["traces"] == len(traces) > 200 and scores["without_truth"] == 0
    assert scores["metrics"]["read"] == 1.0
    for kind in WITHOUT_CUES:
        assert scores["metrics"][f"precision_{kind}"] == 1.0, kind
    # Textbook cues that this frame does not show: the teacher's untruths, known by name.
    untrue = {r["reason"].removeprefix("not ").partition(":")[0] for r in scores["refuted"]}
    assert {r["kind"] for r in scores["refuted"]} == {"cue"}
    assert "tubes exposed" in untrue
    assert scores["metrics"]["precision_cue"] > 0.9


def test_the_teachers_deeds_and_tools_are_read_exactly(traces) -> None:
    checked = 0
    for sample, trace in traces:
        if sample.task is not Task.TRIPLET_EXTRACTION:
            continue
        found = read(parse(render(trace)), load_procedure(sample.procedure))
        deeds = {(s.subject, s.predicate, s.object) for s in found if s.kind == "deed" and s.subject != "any"}
        assert deeds == set(sample.labels.triplets)
        acted_on = {target for _, _, target in sample.labels.triplets}
        tools = {s.subject for s in found if s.kind == "tool" and not s.negated}
        # A bag that is acted on is named among the structures.
        assert tools - acted_on == set(sample.labels.tools)
        places = {(s.subject, s.object) for s in found if s.kind == "place"}
        boxes = sample.labels.boxes or ()
        assert places == {(b.name, quadrant(b.xyxy, sample.width, sample.height)) for b in boxes}
        checked += 1
    assert checked == 20


def held(name: str, truth: TruthRow) -> set[str]:
    """Quadrants in which some box of that name lies, on a middle line both."""
    moves = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)]
    moved = [(b[0] + x, b[1] + y, b[2] + x, b[3] + y) for b in truth.boxes(name) for x, y in moves]
    return {quadrant(b, truth.width, truth.height) for b in moved}


def other(names, *taken) -> str:
    return next(n for n in names if n not in taken)


def corruptions(sample, trace, truth: TruthRow):
    """(kind, corrupted text): one fact of a true trace made false, the wording kept."""
    procedure = load_procedure(sample.procedure)
    text = render(trace)
    head, mark, tail = text.partition("Level 2")
    for tool in sample.labels.tools or ():
        if f" {tool}" in head:
            wrong = other(
                [t.name for t in procedure.tools], *(t.name for t in procedure.tools if truth.shows(t.name))
            )
            yield "tool", head.replace(f" {tool}", f" {wrong}", 1) + mark + tail
            for lead in ("I see a ", "I see an "):
                if f"{lead}{tool}" in head and "," not in head:
                    denied = head.replace(lead, lead.replace("see", "do not see"), 1)
                    yield "tool denied", denied + mark + tail
    parts = head.split(" at the ")
    boxes = [
        b
        for b in sample.labels.boxes or ()
        if b.name in ({sample.focus} if sample.focus else sample.labels.tools or ())
    ]
    for n, box in enumerate(boxes if len(boxes) == len(parts) - 1 else ()):
        where, taken = quadrant(box.xyxy, sample.width, sample.height), held(box.name, truth)
        if parts[n + 1].startswith(where) and len(taken) < len(GRID):
            moved = parts[n + 1].replace(where, other(GRID, *taken), 1)
            yield "place", " at the ".join([*parts[: n + 1], moved, *parts[n + 2 :]]) + mark + tail
    for tool, verb, target in sample.labels.triplets or ():
        said = f"The {tool} {_PRESENT.get(verb, '')} the {target}."
        if said in tail:
            acts = {i.verb for i in truth.instruments if (i.tool, i.target) == (tool, target)}
            aims = {i.target for i in truth.instruments if (i.tool, i.verb) == (tool, verb)}
            wrong = said.replace(_PRESENT[verb], _PRESENT[other(_PRESENT, *acts)])
            yield "verb", head + mark + tail.replace(said, wrong, 1)
            wrong = said.replace(f"the {target}", f"the {other([t.name for t in procedure.tissues], *aims)}")
            yield "target", head + mark + tail.replace(said, wrong, 1)
            yield (
                "deed denied",
                head + mark + tail.replace(said, f"The {tool} does not {verb} the {target}.", 1),
            )
            yield "deed as idle", head + mark + tail.replace(said, f"The {tool} is idle.", 1)
    if sample.task is Task.PHASE_RECOGNITION or sample.task is Task.STEP_RECOGNITION:
        for kind, name, names in (
            ("phase", sample.labels.phase, [a.name for a in procedure.phases]),
            ("step", sample.labels.step, ["cavity exploration", "jejunal section"]),
        ):
            if name and f" {name}" in tail:
                before, _, after = text.rpartition(f" {name}")
                yield kind, f"{before} {other(names, name)}{after}"
    for activity in procedure.actions:
        if sample.labels.action == activity.name and activity.definition in text:
            wrong = other([a.definition for a in procedure.actions], activity.definition)
            yield "action", text.replace(activity.definition, wrong)
    if " is met." in text or " is not met." in text:
        yield (
            "criterion",
            text.replace("is met.", "is not met.")
            if " is met." in text
            else text.replace("is not met.", "is met."),
        )
    if sample.task is Task.TOOL_COUNTING:
        yield "count", text.replace(f"makes {sample.answer}.", f"makes {int(sample.answer) + 1}.")
    if "of three hold" in text:
        met = sum(sample.labels.cvs)
        yield "count", text.replace(f"Only {met} of", f"Only {(met + 1) % 3} of")
    if sample.task is Task.TISSUE_RECOGNITION:
        shown = {n for n, _ in truth.tissues}
        for name in sample.labels.tissues:
            wrong = other([n for n in IDS if n in {t.name for t in procedure.tissues}], *shown)
            yield "tissue", text.replace(f"the {name}", f"the {wrong}", 1)
            if len(sample.labels.tissues) == 1:
                yield "tissue", text.replace("I see", "I do not see", 1)


def refuted(text: str, truth: TruthRow) -> list[str]:
    found = check(read(parse(text), load_procedure(truth.procedure)), truth)
    return [v.statement.kind for v in found if v.result == "refuted"]


KINDS_OF = {
    "verb": {"deed"},
    "target": {"deed"},
    "deed denied": {"deed"},
    "deed as idle": {"deed"},
    # "I do not see a hook at the left-top" denies the hook there.
    "tool denied": {"tool", "place"},
}


def recall_of_corruptions(traces, truth) -> tuple[Counter, Counter, list[str]]:
    """(corruptions, flagged ones) by kind, and the texts that were not flagged."""
    made, flagged, missed = Counter(), Counter(), []
    for sample, trace in traces:
        frame = truth[sample.dataset, sample.video, sample.frame]
        if refuted(render(trace), frame):
            continue
        for kind, text in corruptions(sample, trace, frame):
            assert text != render(trace)
            made[kind] += 1
            if KINDS_OF.get(kind, {kind}) & set(refuted(text, frame)):
                flagged[kind] += 1
            else:
                missed.append(f"{kind}: {text}")
    return made, flagged, missed


def test_one_corrupted_fact_is_flagged_every_time(traces, truth) -> None:
    made, flagged, missed = recall_of_corruptions(traces, truth)
    assert missed == []
    assert made == flagged
    kinds = ["tool", "place", "verb", "target", "phase", "step", "action", "criterion", "count", "tissue"]
    assert {*kinds, "tool denied", "deed denied", "deed as idle"} == set(made)
    assert min(made[k] for k in kinds) >= 8


def free_facts(truth: TruthRow):
    """(kind, wording, the truth of it, what would be false): the scene in other words than the teacher's."""
    procedure = load_procedure(truth.procedure)
    shown = {i.tool for i in truth.instruments}
    spoken = {"left-top": "upper left", "right-top": "upper right", "left-bottom": "lower left"}
    spoken["right-bottom"] = "lower right"
    for tool in shown:
        absent = other([t.name for t in procedure.tools], *shown, "specimen bag")
        yield "tool", "One can make out the {} here", tool, absent
        where = held(tool, truth)
        if len(where) == len(GRID):
            continue
        yield (
            "place",
            f"The {tool} lies in the {{}} of the picture",
            spoken[quadrant(truth.boxes(tool)[0], truth.width, truth.height)],
            spoken[other(GRID, *where)],
        )
    yield "count", "{} instruments are in view", str(len(truth.instruments)), str(len(truth.instruments) + 1)
    for i in truth.instruments:
        if i.verb and i.verb != "null verb":
            aims = {j.target for j in truth.instruments if (j.tool, j.verb) == (i.tool, i.verb)}
            wrong = other([t.name for t in procedure.tissues], *aims)
            agent, verb = i.tool, _PRESENT[i.verb]
            yield "deed", f"Here the {agent} {verb} the {{}}", i.target, wrong
            seen_doing = {j.tool for j in truth.instruments if (j.verb, j.target) == (i.verb, i.target)}
            wrong = other(["bipolar", "scissors", "irrigator", "hook"], *seen_doing)
            yield "deed", f"The {{}} {verb} the {i.target}", agent, wrong
    if truth.phase:
        names = [a.name for a in procedure.phases]
        yield "phase", "All this is consistent with {}", truth.phase, other(names, truth.phase)
    if truth.action and truth.action != "other":
        names = [a.name for a in procedure.actions if a.name != "other"]
        yield "action", "The surgeon is {}", truth.action, other(names, truth.action)
    for name, met in zip(("C1", "C2", "C3"), truth.cvs or (), strict=False):
        said = ("fulfilled", "not yet fulfilled")
        yield "criterion", f"{name} is {{}}", said[not met], said[met]


def test_free_wordings_are_supported_when_true_and_flagged_when_false(truth) -> None:
    made = Counter()
    for frame in truth.values():
        for kind, wording, true, false in free_facts(frame):
            found = read_text(wording.format(true) + ".", 1, load_procedure(frame.procedure))
            verdicts = check(found, frame)
            assert kind in {v.statement.kind for v in verdicts}, wording.format(true)
            assert {v.result for v in verdicts} == {"supported"}, wording.format(true)
            found = read_text(wording.format(false) + ".", 1, load_procedure(frame.procedure))
            wrong = [v.statement.kind for v in check(found, frame) if v.result == "refuted"]
            assert kind in wrong, wording.format(false)
            made[kind] += 1
    assert set(made) == {"tool", "place", "count", "deed", "phase", "action", "criterion"}


def test_scores_of_parts_add_up_to_the_scores_of_the_whole(traces, truth) -> None:
    rows = rows_of(traces)
    whole = score_rows(rows, truth)
    parts = [score_rows(rows[k::3], truth) for k in range(3)]
    for video, sums in whole["statistics"].items():
        assert np.allclose(sums, sum(np.asarray(p["statistics"].get(video, 0)) for p in parts))
    total = np.sum(list(whole["statistics"].values()), axis=0)
    assert float(METRICS["precision"](total)) == whole["metrics"]["precision"]
    # Resampled videos: (draws, D) -> (draws,).
    draws = np.stack([total, total * 2])
    assert METRICS["precision"](draws) == pytest.approx([whole["metrics"]["precision"]] * 2)
    first = traces[0][0]
    frame = truth[first.dataset, first.video, first.frame]
    assert statistics([], frame).shape == (len(NAMES),)
