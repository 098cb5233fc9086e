"""Verdicts on single statements against the labels of a frame, kind by kind, written down by hand: what the
labels hold, what they exclude, and what a dataset does not label and nobody may guess.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgr1.corpora.schema import LabelledBox, Labels
from surgr1.ontology.procedures import load_procedure
from surgr1.reasoning.statements import KINDS, Statement, read_text
from surgr1.reasoning.support import Seen, judge, same_thing

PROCEDURES = {
    "cholect50": "laparoscopic cholecystectomy",
    "cholec80": "laparoscopic cholecystectomy",
    "sim-cholect50": "laparoscopic cholecystectomy",
    "endoscapes": "laparoscopic cholecystectomy",
    "sar-rarp50": "robot-assisted radical prostatectomy",
    "grasp": "robot-assisted radical prostatectomy",
    "multibypass140": "laparoscopic roux-en-y gastric bypass",
}
WIDTH, HEIGHT = 800, 400
VERDICTS = {"+": "supported", "-": "refuted", "?": "unlabelled"}


def seen(dataset: str, labels: dict[str, Any], instruments: int | None = None) -> Seen:
    procedure = load_procedure(PROCEDURES[dataset])
    return Seen(Labels(**labels), dataset, procedure, WIDTH, HEIGHT, instruments)


def said(line: str) -> Statement:
    """ "!tool hook", "deed hook | cut | liver", "place hook | left-top": "!" is negated, "-" is unnamed."""
    kind, _, rest = line.lstrip("!").partition(" ")
    parts = ["" if p.strip() == "-" else p.strip() for p in rest.split("|")]
    assert kind in (*KINDS, "other")
    subject, predicate, object_ = parts[0], "", ""
    if kind == "deed":
        predicate, object_ = parts[1], parts[2]
    elif kind in ("place", "count"):
        object_ = parts[1]
    return Statement(kind, 1, subject, predicate, object_, line.startswith("!"), line)  # type: ignore[arg-type]


BOTH: dict[str, Any] = {"tools": ("grasper", "hook")}
DEEDS: dict[str, Any] = {
    "tools": ("bipolar", "grasper", "hook", "irrigator"),
    "triplets": (
        ("grasper", "retract", "gallbladder"),
        ("hook", "dissect", "cystic duct"),
        ("hook", "dissect", "cystic artery"),
        ("irrigator", "null verb", "null target"),
    ),
}
PACKING: dict[str, Any] = {"tools": ("grasper",), "triplets": (("grasper", "grasp", "specimen bag"),)}
ROBOT: dict[str, Any] = {"tools": ("large needle driver", "prograsp forceps", "suction instrument")}
VIEW: dict[str, Any] = {"tissues": ("gallbladder", "cystic duct"), "cvs": (True, False, None)}

TABLES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "tools of a dataset that labels all of its own": (
        "cholect50",
        BOTH,
        {
            "tool grasper": "+",
            "!tool grasper": "-",
            "tool clipper": "-",
            "!tool clipper": "+",
            "tool scissors": "-",
            # CholecT50 labels no bag and no snare, but both may be in a cholecystectomy.
            "tool specimen bag": "?",
            "!tool specimen bag": "?",
            "tool snare": "?",
            # No such tool belongs to this operation.
            "tool needle driver": "-",
            "!tool needle driver": "+",
            "tool stapler": "-",
            "tool any": "+",
            "!tool any": "-",
        },
    ),
    "the same of a simulated twin": ("sim-cholect50", BOTH, {"tool grasper": "+", "tool clipper": "-"}),
    "a dataset that has the bag": (
        "cholec80",
        BOTH,
        {"tool specimen bag": "-", "!tool specimen bag": "+", "tool irrigator": "-", "tool hook": "+"},
    ),
    "a bag that is acted on": ("cholect50", PACKING, {"tool specimen bag": "+", "!tool specimen bag": "-"}),
    "no tool in the frame": (
        "cholect50",
        {"tools": ()},
        {"tool any": "-", "!tool any": "+", "tool hook": "-", "!tool hook": "+", "tool specimen bag": "?"},
    ),
    "tools that nobody labelled": (
        "endoscapes",
        VIEW,
        {"tool grasper": "?", "!tool grasper": "?", "tool any": "?", "!tool any": "?", "tool stapler": "?"},
    ),
    "general names of tools": (
        "grasp",
        ROBOT,
        {
            "tool large needle driver": "+",
            "tool needle driver": "+",
            "!tool needle driver": "-",
            "tool suction": "+",
            "tool prograsp": "+",
            "tool bipolar forceps": "-",
            "tool monopolar curved scissors": "-",
            "tool scissors": "-",
            "tool clip applier": "-",
            "!tool clip applier": "+",
            "tool hook": "-",
        },
    ),
    "masks that tell tools apart only in part": (
        "sar-rarp50",
        {"tools": ("robotic instrument",)},
        {"tool robotic instrument": "+", "tool needle driver": "?", "tool stapler": "-"},
    ),
    "structures that are labelled": (
        "endoscapes",
        VIEW,
        {
            "tissue gallbladder": "+",
            "!tissue gallbladder": "-",
            "tissue cystic artery": "-",
            "!tissue cystic artery": "+",
            "tissue cystic plate": "-",
            # Endoscapes has no class for the liver.
            "tissue liver": "?",
            "!tissue liver": "?",
            "tissue any": "+",
            "!tissue any": "-",
        },
    ),
    "structures that are not": (
        "cholec80",
        BOTH,
        {"tissue gallbladder": "?", "!tissue gallbladder": "?", "tissue any": "?", "tissue omentum": "?"},
    ),
    "structures that are acted on": (
        "cholect50",
        DEEDS,
        {
            "tissue gallbladder": "+",
            "!tissue gallbladder": "-",
            "tissue cystic artery": "+",
            "tissue liver": "?",
            "!tissue liver": "?",
        },
    ),
    "a vessel that is not named": (
        "endoscapes",
        {"tissues": ("cystic artery",)},
        {"tissue blood vessel": "+", "!tissue blood vessel": "?", "tissue cystic duct": "-"},
    ),
    "deeds": (
        "cholect50",
        DEEDS,
        {
            "deed grasper | retract | gallbladder": "+",
            "!deed grasper | retract | gallbladder": "-",
            # What is retracted is held; what is held need not be retracted.
            "deed grasper | grasp | gallbladder": "+",
            "deed grasper | retract | liver": "-",
            "deed grasper | dissect | gallbladder": "-",
            "!deed grasper | dissect | gallbladder": "+",
            "deed hook | retract | gallbladder": "-",
            "deed hook | dissect | cystic duct": "+",
            "deed hook | dissect | cystic artery": "+",
            "deed hook | cut | cystic duct": "-",
            # The verb alone: else its object may be one that is not read.
            "deed hook | dissect | -": "+",
            "deed hook | cut | -": "?",
            # Nobody says who does it.
            "deed - | dissect | cystic duct": "+",
            "deed - | dissect | liver": "-",
            "deed - | clip | cystic duct": "-",
            # A tool that is not there does nothing; that it does not is no news of the labels.
            "deed clipper | clip | cystic duct": "-",
            "deed stapler | cut | cystic duct": "-",
            "deed specimen bag | grasp | gallbladder": "?",
            # Present, but without a deed of its own among the labels.
            "deed bipolar | coagulate | liver": "?",
            "!deed bipolar | coagulate | liver": "?",
            "deed irrigator | null verb | -": "+",
            "!deed irrigator | null verb | -": "-",
            "deed hook | null verb | -": "-",
            "!deed hook | null verb | -": "+",
            "deed bipolar | null verb | -": "?",
            "deed any | acts | -": "+",
            "!deed any | acts | -": "-",
            "deed hook | touch | cystic duct": "+",
            "!deed hook | touch | cystic duct": "-",
            # A tool may touch more than it acts on.
            "deed hook | touch | liver": "?",
            "!deed hook | touch | liver": "?",
        },
    ),
    "a hold that is labelled": (
        "cholect50",
        PACKING,
        {
            "deed grasper | grasp | specimen bag": "+",
            "deed grasper | retract | specimen bag": "-",
            "deed grasper | grasp | gallbladder": "-",
        },
    ),
    "a vessel that is acted on": (
        "cholect50",
        {"tools": ("bipolar",), "triplets": (("bipolar", "coagulate", "cystic artery"),)},
        {"deed bipolar | coagulate | blood vessel": "+", "deed bipolar | coagulate | cystic duct": "-"},
    ),
    "nothing is done": (
        "cholect50",
        {"tools": ("hook",), "triplets": (("hook", "null verb", "null target"),)},
        {"deed any | acts | -": "-", "!deed any | acts | -": "+", "deed hook | dissect | liver": "-"},
    ),
    "deeds that nobody labelled": (
        "cholec80",
        BOTH,
        {
            "deed grasper | retract | gallbladder": "?",
            "!deed grasper | retract | gallbladder": "?",
            "deed hook | null verb | -": "?",
            "deed any | acts | -": "?",
            # The tool is refuted all the same, not so what it is said not to do.
            "deed clipper | clip | cystic duct": "-",
            "!deed clipper | clip | cystic duct": "?",
        },
    ),
    "a phase": (
        "cholec80",
        {"phase": "gallbladder dissection"},
        {
            "phase gallbladder dissection": "+",
            "!phase gallbladder dissection": "-",
            "phase preparation": "-",
            "!phase preparation": "+",
            "step gallbladder dissection": "?",
            "action preparation": "?",
        },
    ),
    "a step below its phase": (
        "multibypass140",
        {"phase": "jejunal separation", "step": "jejunal section"},
        {
            "phase jejunal separation": "+",
            "step jejunal section": "+",
            "step jejunal separation": "-",
            "!step adhesiolysis": "+",
            "phase gastric pouch creation": "-",
        },
    ),
    "an action": (
        "sar-rarp50",
        {"action": "tying a knot"},
        {
            "action tying a knot": "+",
            "!action tying a knot": "-",
            "action cutting the suture": "-",
            "!action cutting the suture": "+",
            "phase idle": "?",
        },
    ),
    "criteria, one of them not assessed": (
        "endoscapes",
        VIEW,
        {
            "criterion C1": "+",
            "!criterion C1": "-",
            "criterion C2": "-",
            "!criterion C2": "+",
            "criterion C3": "?",
            "!criterion C3": "?",
            # One that is unmet decides for all, one that is met for any.
            "criterion all": "-",
            "!criterion all": "+",
            "criterion any": "+",
            "!criterion any": "-",
            "count criteria | 1": "?",
        },
    ),
    "criteria that leave the whole open": (
        "endoscapes",
        {"cvs": (True, None, True)},
        {"criterion all": "?", "!criterion all": "?", "criterion any": "+"},
    ),
    "criteria that leave any open": (
        "endoscapes",
        {"cvs": (False, None, False)},
        {"criterion any": "?", "criterion all": "-"},
    ),
    "all criteria met": (
        "endoscapes",
        {"cvs": (True, True, True)},
        {"criterion all": "+", "!criterion all": "-", "count criteria | 3": "+", "count criteria | 2": "-"},
    ),
    "no criterion met": (
        "endoscapes",
        {"cvs": (False, False, False)},
        {"criterion any": "-", "!criterion any": "+", "count criteria | 0": "+", "count criteria | 1": "-"},
    ),
    "criteria that nobody labelled": (
        "cholec80",
        BOTH,
        {"criterion C1": "?", "!criterion all": "?", "count criteria | 2": "?"},
    ),
    "counts without boxes": (
        "cholect50",
        BOTH,
        {
            # Two kinds: at least two tools, at least one of each kind.
            "count instrument | 2": "+",
            "count instrument | 1": "-",
            "count instrument | 3": "?",
            "!count instrument | 1": "+",
            "count grasper | 1": "+",
            "count grasper | 2": "?",
            "count grasper | 0": "-",
            "count clipper | 0": "+",
            "count clipper | 1": "-",
            "count specimen bag | 1": "?",
        },
    ),
    "counts of tools that nobody labelled": ("endoscapes", VIEW, {"count instrument | 2": "?"}),
    "cues of a phase": (
        "cholec80",
        {"phase": "preparation"},
        {
            "cue gallbladder untouched": "+",
            "!cue gallbladder untouched": "-",
            "cue fat at the neck": "+",
            "cue open bag": "-",
            "cue bag pulled out": "-",
            # That another phase's cue is missing proves nothing.
            "!cue open bag": "?",
            # May be seen at any time.
            "cue smoke": "?",
            "cue blood": "?",
            "cue clips set": "?",
            # Of no phase's cues here.
            "cue thread wound into loops": "?",
        },
    ),
    "cues that last": (
        "cholec80",
        {"phase": "gallbladder packaging"},
        {"cue bare bed": "?", "cue open bag": "+"},
    ),
    "cues of an action": (
        "sar-rarp50",
        {"action": "tying a knot"},
        {"cue thread wound into loops": "+", "cue scissors on the thread": "-", "cue needle seen": "?"},
    ),
    "cues of criteria": (
        "endoscapes",
        {"cvs": (True, False, None)},
        {
            "cue tubes apart": "+",
            "!cue tubes apart": "-",
            "cue clear window": "-",
            "!cue clear window": "+",
            # C3 was not assessed.
            "cue bare bed": "?",
            "!cue bare bed": "?",
        },
    ),
    "cues where nothing is labelled": ("cholec80", {}, {"cue open bag": "?", "!cue open bag": "?"}),
    "what was not read": ("cholect50", DEEDS, {"other -": "?", "!other -": "?"}),
}
ROWS = [(name, line, mark) for name, (_, _, verdicts) in TABLES.items() for line, mark in verdicts.items()]


@pytest.mark.parametrize(("table", "line", "mark"), ROWS, ids=[f"{t}: {line}" for t, line, _ in ROWS])
def test_a_statement_is_judged_as_written_down_by_hand(table, line, mark) -> None:
    dataset, labels, _ = TABLES[table]
    (judged,) = judge([said(line)], seen(dataset, labels))
    assert judged.verdict == VERDICTS[mark], judged.reason
    assert judged.statement == said(line) and judged.reason


def test_the_tables_hold_every_kind_with_every_verdict_and_negated() -> None:
    for kind in set(KINDS) - {"place"}:
        rows = {(line.startswith("!"), mark) for _, line, mark in ROWS if line.lstrip("!").startswith(kind)}
        assert {mark for _, mark in rows} == set(VERDICTS), kind
        assert any(negated for negated, _ in rows), kind


def at(*centres: tuple[float, float], name: str = "grasper") -> dict[str, Any]:
    """Boxes of 40 by 40 pixels around these points of the 800 by 400 picture."""
    boxes = tuple(LabelledBox(name, (x - 20, y - 20, x + 20, y + 20)) for x, y in centres)
    return {"tools": (name,), "boxes": boxes}


@pytest.mark.parametrize(
    ("centres", "place", "mark"),
    [
        (((100, 50),), "left-top", "+"),
        (((100, 50),), "left", "+"),
        (((100, 50),), "top", "+"),
        (((100, 50),), "right-top", "-"),
        (((100, 50),), "left-bottom", "-"),
        (((100, 50),), "bottom", "-"),
        (((700, 350),), "right-bottom", "+"),
        (((700, 350),), "left", "-"),
        # Within 5 % of a middle line (40 and 20 pixels) both sides are right, beyond it one.
        (((430, 50),), "left-top", "+"),
        (((430, 50),), "right-top", "+"),
        (((450, 50),), "left-top", "-"),
        (((450, 50),), "right-top", "+"),
        (((370, 185),), "right-bottom", "+"),
        (((100, 215),), "left-top", "+"),
        (((100, 225),), "left-top", "-"),
        # Two of a kind: each place of one of them is right, a mixture of two is not.
        (((100, 50), (700, 350)), "left-top", "+"),
        (((100, 50), (700, 350)), "right-bottom", "+"),
        (((100, 50), (700, 350)), "right-top", "-"),
        # Nobody says how large the centre is.
        (((400, 200),), "centre", "?"),
        (((10, 10),), "centre", "?"),
    ],
)
def test_a_place_is_held_against_the_centre_of_the_boxes(centres, place, mark) -> None:
    opposite = {"+": "-", "-": "+", "?": "?"}
    for sign, expected in (("", mark), ("!", opposite[mark])):
        for subject in ("grasper", "any"):
            (judged,) = judge([said(f"{sign}place {subject} | {place}")], seen("cholect50", at(*centres)))
            assert judged.verdict == VERDICTS[expected], judged.reason


def test_a_place_of_what_has_no_box_is_unlabelled() -> None:
    for labels in (at((100, 50)), BOTH, {"boxes": ()}):
        (judged,) = judge([said("place hook | left-top")], seen("cholect50", labels))
        assert judged.verdict == "unlabelled"


def test_a_place_may_be_said_under_a_general_name() -> None:
    labels = at((100, 50), name="large needle driver")
    verdicts = [
        j.verdict
        for j in judge(
            [said("place needle driver | left"), said("place needle driver | right")], seen("grasp", labels)
        )
    ]
    assert verdicts == ["supported", "refuted"]


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ("count instrument | 3", "+"),
        ("count instrument | 2", "-"),
        ("count grasper | 2", "+"),
        ("count grasper | 1", "-"),
        ("count hook | 1", "+"),
        ("count hook | 2", "-"),
        ("count clipper | 0", "+"),
    ],
)
def test_boxes_of_every_tool_say_how_many_there_are(line, mark) -> None:
    boxes = at((100, 50), (700, 350))["boxes"] + at((300, 300), name="hook")["boxes"]
    tissue = at((400, 200), name="gallbladder")["boxes"]
    (judged,) = judge([said(line)], seen("cholect50", {**BOTH, "boxes": boxes + tissue}))
    assert judged.verdict == VERDICTS[mark], judged.reason


def test_the_number_that_a_question_asked_for_goes_before_the_number_of_kinds() -> None:
    for number, verdict in ((4, "supported"), (2, "refuted"), (3, "refuted")):
        (judged,) = judge([said(f"count instrument | {number}")], seen("cholect50", BOTH, 4))
        assert judged.verdict == verdict
    # It says nothing of one kind.
    (judged,) = judge([said("count grasper | 2")], seen("cholect50", BOTH, 4))
    assert judged.verdict == "unlabelled"


@pytest.mark.parametrize(
    ("sentence", "verdict"),
    [
        # In short, "forceps" may be the bipolar that is labelled; in full, grasping forceps are no bipolar.
        ("The forceps are visible.", "unlabelled"),
        ("The grasping forceps are visible.", "refuted"),
        ("A grasper is visible.", "refuted"),
        ("The bipolar forceps are visible.", "supported"),
    ],
)
def test_a_short_name_of_several_tools_refutes_nothing(sentence, verdict) -> None:
    frame = seen("cholect50", {"tools": ("bipolar",)})
    statements = [s for s in read_text(sentence, 1, frame.procedure) if s.kind == "tool"]
    assert [j.verdict for j in judge(statements, frame)] == [verdict]


@pytest.mark.parametrize(
    ("name", "label", "same"),
    [
        ("hook", "hook", True),
        ("needle driver", "large needle driver", True),
        ("large needle driver", "needle driver", False),
        ("forceps", "bipolar forceps", True),
        ("bipolar", "bipolar forceps", True),
        ("suction", "suction instrument", True),
        ("blood vessel", "cystic artery", True),
        ("blood vessel", "dorsal venous complex", True),
        ("blood vessel", "cystic duct", False),
        ("cystic artery", "blood vessel", False),
        ("cystic", "cystic duct", False),
        ("large", "large needle driver", False),
        ("driver", "screwdriver", False),
        ("scissors", "monopolar curved scissors", True),
    ],
)
def test_a_general_name_means_its_label_and_not_the_reverse(name, label, same) -> None:
    assert same_thing(name, label) is same


NAMES = st.sampled_from(
    ["grasper", "hook", "clipper", "stapler", "specimen bag", "gallbladder", "liver", "any"]
)
VERBS = st.sampled_from(["retract", "dissect", "grasp", "touch", "null verb", "acts"])
STATEMENTS = st.one_of(
    st.builds(Statement, st.sampled_from(["tool", "tissue"]), st.just(1), NAMES),
    st.builds(Statement, st.just("deed"), st.just(1), st.one_of(NAMES, st.just("")), VERBS, NAMES),
    st.builds(
        Statement, st.just("place"), st.just(1), NAMES, st.just("at"), st.sampled_from(["left", "right-top"])
    ),
    st.builds(
        Statement,
        st.just("count"),
        st.just(1),
        st.sampled_from(["instrument", "criteria", "hook"]),
        st.just("number"),
        st.sampled_from("0123"),
    ),
    st.builds(Statement, st.just("criterion"), st.just(1), st.sampled_from(["C1", "C2", "C3", "all", "any"])),
    st.builds(
        Statement, st.just("phase"), st.just(1), st.sampled_from(["preparation", "gallbladder packaging"])
    ),
    st.builds(
        Statement, st.just("cue"), st.just(1), st.sampled_from(["clips set", "bare bed", "tubes apart"])
    ),
)
LABELLED = st.sampled_from(
    [{}, BOTH, DEEDS, PACKING, VIEW, at((100, 50)), {"phase": "preparation"}, {"tools": ()}]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STATEMENTS, max_size=4), LABELLED, st.sampled_from(["cholect50", "cholec80", "endoscapes"]))
def test_each_statement_gets_one_verdict_in_order_and_labels_of_nothing_judge_nothing(
    statements, labels, dataset
) -> None:
    judged = judge(statements, seen(dataset, labels))
    assert [j.statement for j in judged] == statements
    assert {j.verdict for j in judge(statements, seen(dataset, {}))} <= {"unlabelled"}
